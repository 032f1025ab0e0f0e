"""What a second worker gives: the same run over Ray on this machine with one worker and with two, turn by turn.

Prints, and writes to `cluster.json`, seconds of the stages that workers do (fits, answers) of runs with caches of their
own: on the fake engine, which waits as long for each fit and answer as a device might work, and on a tiny model, which
computes. `wall` is what a run noted; `cpu` is the thread-CPU seconds of the busiest worker, which neighbours on the
machine do not lengthen. `python benchmarks/cluster.py [TURNS]`.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.backends import tiny
from bench.core.registry import load_plugin
from bench.core.store import write_json
from bench.results import provenance
from bench.run.plan import Options, make
from bench.run.session import execute

STAGES = {"fit": "fits", "generate (select)": "answers", "generate (test)": "answers"}
ANSWER, FIT = 0.02, 0.2
"""Seconds that the fake engine waits for an answer, and a fit for its method."""
PLUGIN = f"""
import os, time
from dataclasses import dataclass
from pathlib import Path
import numpy as np
from bench import Add, Fitted, Method, Steering, method
from bench.backends.fake.backend import FakeBackend
from bench.backends.hf.backend import HFBackend
from bench.run.fits import Fits

HERE = Path(__file__).parent
AWAY = os.getpid() != int((HERE / "driver").read_text())


def clocked(call):
    def timed(self, *given):
        begun = time.thread_time()
        yield from call(self, *given)
        with (HERE / "calls").open("a") as file:
            file.write(f"{{os.getpid()}} {{time.thread_time() - begun}}\\n")

    return timed


if AWAY:
    answers = FakeBackend.generate

    def slowly(self, requests):
        time.sleep({ANSWER} * len(requests))
        yield from answers(self, requests)

    Fits.fit, HFBackend.generate, FakeBackend.generate = map(clocked, (Fits.fit, HFBackend.generate, slowly))


@method("waits", surface="activations", needs=["add"])
@dataclass(frozen=True)
class Waits(Method):
    '''A direction that takes its time.'''

    def fit(self, ctx, train):
        time.sleep({FIT})
        return [Fitted(Steering(edits=(Add(layer=1, value=np.ones(ctx.lm.width, np.float32)),)))]
"""


def main(turns: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "driver").write_text(str(os.getpid()))
        (root / "plugin.py").write_text(PLUGIN)
        load_plugin(root / "plugin.py")
        model = tiny.build(root / "model", layers=8, width=128)
        budget = {"protocol.budget.tokens": 400, "protocol.sampling.max_new_tokens": 32}
        runs = {
            "fake": {"backend": "fake", "methods": ("none", "waits", "prompt"), "limit": 12},
            "tiny": {
                "model": str(model.path),
                "dtype": "float32",
                "methods": ("none", "diffmean", "lora", "prompt"),
                "limit": 8,
                "params": budget,
            },
        }
        found = {name: measured(root, name, turns, options) for name, options in runs.items()}
    write_json(Path(__file__).with_suffix(".json"), found | {"provenance": provenance.provenance()})
    for name, stages in found.items():
        for stage, one in stages.items():
            print(name, stage, *(f"{clock} {one[clock]}" for clock in one if "ratio" in clock))


def measured(root: Path, name: str, turns: int, options: dict[str, Any]) -> dict[str, Any]:
    """stage -> seconds with one worker and with two in each turn, and the ratios of the best."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for turn in range(turns):
        both = {workers: once(root, f"{name}-{turn}-{workers}", workers, options) for workers in (1, 2)}
        for stage in both[1]:
            rows[stage].append({"load": round(os.getloadavg()[0], 1)} | {str(w): both[w][stage] for w in both})
    return {stage: summed(own, computes=options.get("backend") != "fake") for stage, own in rows.items()}


def summed(rows: list[dict[str, Any]], computes: bool) -> dict[str, Any]:
    """The best of each side, and their ratio; where the engine only waits, what it computes says nothing."""
    wall, cpu = ([min(row[workers][clock] for row in rows) for workers in ("1", "2")] for clock in ("wall", "cpu"))
    each = [round(row["1"]["wall"] / row["2"]["wall"], 3) for row in rows]
    ratios = {"wall_ratio": round(wall[0] / wall[1], 3), "wall_ratio_median": round(statistics.median(each), 3)}
    return ratios | ({"cpu_ratio": round(cpu[0] / cpu[1], 3)} if computes else {}) | {"turns": rows}


def once(root: Path, name: str, workers: int, options: dict[str, Any]) -> dict[str, dict[str, float]]:
    """stage -> wall seconds of a run, and thread-CPU seconds of its busiest worker."""
    os.environ["BENCH_CACHE"] = str(root / name)
    marks: dict[str, list[str]] = defaultdict(list)

    @contextmanager
    def progress(stage: str, total: int) -> Iterator[Callable[[int], None]]:
        before = len(calls(root))
        yield lambda steps: None
        if kind := STAGES.get(stage.rpartition(", ")[2]):  # which group of methods it is stands before
            marks[kind] += calls(root)[before:]

    params = {"likelihood.texts": 3, "likelihood.words": 8} | options.get("params", {})  # the judge is not timed
    plan = make(Options(**options | {"judge": "likelihood", "executor": "ray", "workers": workers, "params": params}))
    jobs = execute(plan, root / name / "results", progress)
    assert all(job.status == "complete" and job.path for job in jobs), [job.reason for job in jobs]
    noted = [json.loads(Path(str(job.path)).read_text("utf-8"))["timings"] for job in jobs]
    timings = {one: max(row.get(one, 0.0) for row in noted) for one in STAGES}
    found: dict[str, dict[str, float]] = {}
    for stage, own in marks.items():
        spent: dict[str, float] = defaultdict(float)
        for line in own:
            pid, seconds = line.split()
            spent[pid] += float(seconds)
        wall = sum(timings[one] for one, kind in STAGES.items() if kind == stage)
        found[stage] = {"wall": round(wall, 2), "cpu": round(max(spent.values()), 3)}
    return found


def calls(root: Path) -> list[str]:
    file = root / "calls"
    return file.read_text().splitlines() if file.is_file() else []


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
