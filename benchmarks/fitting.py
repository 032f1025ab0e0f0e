"""What fits share, in one command: directions on the same texts, and trained methods before and after a change.

`python benchmarks/fitting.py` prints, and writes to `fitting.json`, seconds with the default model on the mini set's
first concepts (preset standard): DiffMean alone, then all methods that read the same texts with the shared activation
cache, and the same methods each with a cache of its own.

`python benchmarks/fitting.py --against FOLDER` writes `fitting-costs.json`: what every trained method takes here, and
at another commit that is checked out in FOLDER, in turns (preset quick, one thread, bf16 where the processor has it).
All methods of a turn fit one after the other in one session, by name, as a run has them. CPU seconds of the thread, so
that neighbours on the machine count little; tokens are whole passes' worth of the blocks' products, half the depth
being half a token.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

METHODS = ("diffmean", "mean", "pca", "lat", "probe", "ablate", "random", "shuffled", "sae")
CONCEPTS = 3
HERE = Path(__file__).resolve()


def known(*places: str) -> Any:
    """The first of `module:name` that is there: another commit may have it elsewhere."""
    for place in places:
        module, _, name = place.partition(":")
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            continue
    raise SystemExit(f"{os.getcwd()}: nothing of {', '.join(places)}")


def work(names: list[str], concepts: int) -> None:
    """Fit methods in one session with the package that this process finds, and print what each took, as JSON."""
    import torch

    torch.set_num_threads(1)
    protocol = known("bench.core.protocol:protocol", "bench.plan:protocol")
    presets = known("bench.core.protocol:PRESETS", "bench.plan:PRESETS")
    make = known("bench.core.naming:build_method", "bench.plan:method")
    engine = known("bench.backends.hf.backend:HFBackend", "bench.backends.hf:HFBackend")
    models = [known(f"bench.backends.models:{name}", f"bench.models:{name}") for name in ("resolve", "DEFAULT")]
    backend = engine(models[0](models[1]))
    task = known("bench.core.registry:build", "bench.registry:build")("task", "axbench", {}, protocol=protocol("quick"))
    budget = presets["quick"].budget
    trains = [task.train(concept).limited(budget.sequences) for concept in list(task.concepts())[:concepts]]
    context = known("bench.core.interfaces:Context", "bench.api:Context")(backend, budget, trains=tuple(trains))
    spent = {True: 0, False: 0}

    def count(module: Any, args: Any, output: Any) -> None:
        spent[output.requires_grad] += args[0].numel() * module.out_features

    linears = [m for name, m in backend.module.named_modules() if isinstance(m, torch.nn.Linear) and "layers" in name]
    for module in linears:
        module.register_forward_hook(count)
    whole = sum(module.in_features * module.out_features for module in linears)
    for name in names:
        spent.update({True: 0, False: 0})
        begun = time.thread_time()
        list(make(name, {}).fit_all(context, trains))
        taken = {"seconds": time.thread_time() - begun, "with": spent[True] / whole, "without": spent[False] / whole}
        print(json.dumps({name: {what: round(value / concepts, 2) for what, value in taken.items()}}), flush=True)


def turn(folder: Path, names: list[str], concepts: int) -> dict[str, dict[str, float]]:
    """What `work` prints under the package in `folder`."""
    command = [sys.executable, str(HERE), "--work", "--concepts", str(concepts), *names]
    places = {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env={**os.environ, **places}, stdout=subprocess.PIPE, check=True)
    found: dict[str, dict[str, float]] = {}
    for line in done.stdout.decode().splitlines():
        print(folder.name, line, flush=True)
        found |= json.loads(line)
    return found


def commit(folder: Path) -> str:
    asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, stdout=subprocess.PIPE, check=True)
    return asked.stdout.decode().strip()


def costs(other: Path, names: list[str], concepts: int, turns: int) -> None:
    """Both sides in turns; the median of each method's seconds, and their ratio."""
    from bench.core.registry import table
    from bench.core.store import write_json
    from bench.results import provenance

    names = names or sorted(n for n, cls in table("method").items() if "train" in cls.needs and not cls.named)
    sides = {"before": other.resolve(), "after": HERE.parents[1]}
    seen: dict[str, list[dict[str, dict[str, float]]]] = {side: [] for side in sides}
    for _ in range(turns):
        for side, folder in sides.items():
            seen[side].append(turn(folder, names, concepts))
    rows: dict[str, Any] = {}
    for name in names:
        row: dict[str, Any] = {}
        for side, own in seen.items():
            last = own[-1][name]
            row[side] = {"seconds": [one[name]["seconds"] for one in own]}
            row[side] |= {f"tokens_{what}_gradient": last[what] for what in ("with", "without")}
        row["ratio"] = ratio(*(row[side]["seconds"] for side in ("after", "before")))
        rows[name] = row
    totals = {side: [round(sum(one[n]["seconds"] for n in names), 2) for one in own] for side, own in seen.items()}
    found = {
        "preset": "quick",
        "concepts": concepts,
        "seconds_of": "one thread, a concept",
        "commits": {side: commit(folder) for side, folder in sides.items()},
        "methods": rows,
        "total": totals | {"ratio": ratio(totals["after"], totals["before"])},
        "provenance": provenance.provenance(),
    }
    write_json(HERE.with_name("fitting-costs.json"), found)
    print({name: row["ratio"] for name, row in rows.items()} | {"total": found["total"]})


def ratio(after: list[float], before: list[float]) -> float:
    return round(statistics.median(after) / statistics.median(before), 3)


def directions() -> None:
    """One pass for all methods that read the same texts."""
    from bench.backends.hf.backend import HFBackend
    from bench.backends.models import DEFAULT, resolve
    from bench.core.interfaces import Context
    from bench.core.naming import build_method
    from bench.core.protocol import PRESETS, protocol
    from bench.core.registry import build
    from bench.core.store import write_json
    from bench.results import provenance

    backend = HFBackend(resolve(DEFAULT))
    task = build("task", "axbench", {}, protocol=protocol("standard"))
    budget = PRESETS["standard"].budget
    trains = [task.train(concept).limited(budget.sequences) for concept in list(task.concepts())[:CONCEPTS]]
    made = {name: build_method(name, {}) for name in METHODS}
    dictionaries: dict[str, Any] = {}

    def keep(key: Any, make: Callable[[], Any]) -> Any:
        """The dictionary is trained once for all concepts, before: here its latent is picked."""
        if str(key) not in dictionaries:
            dictionaries[str(key)] = make()
        return dictionaries[str(key)]

    def context() -> Context:
        return Context(backend, budget, trains=tuple(trains), cache=keep)

    list(made["sae"].fit_all(context(), trains))
    backend.activations([trains[0].positives[0].messages], [15])  # warm

    def seconds(names: tuple[str, ...], shared: bool) -> float:
        begun = time.perf_counter()
        for train in trains:
            ctx = context()
            for name in names:
                made[name].fit(ctx if shared else context(), train)
        return time.perf_counter() - begun

    rounds = [{"one": seconds(METHODS[:1], True), "all": seconds(METHODS, True)} for _ in range(3)]
    apart = seconds(METHODS, False)
    one, everything = (statistics.median(r[k] for r in rounds) for k in ("one", "all"))
    found = {
        "methods": list(METHODS),
        "concepts": CONCEPTS,
        "one_seconds": round(one, 3),
        "all_seconds": round(everything, 3),
        "apart_seconds": round(apart, 3),
        "all_to_one": round(everything / one, 3),
        "apart_to_one": round(apart / one, 3),
        "provenance": provenance.provenance(),
    }
    write_json(Path(__file__).with_suffix(".json"), found)
    print(
        f"one {one:.2f} s, all {everything:.2f} s ({everything / one:.2f} x), apart {apart:.2f} s ({apart / one:.2f} x)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", help="of --against; all trained ones unless named")
    parser.add_argument("--against", type=Path, metavar="FOLDER")
    parser.add_argument("--concepts", type=int, default=1)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        work(asked.methods, asked.concepts)
    elif asked.against:
        costs(asked.against, asked.methods, asked.concepts, asked.turns)
    else:
        directions()


if __name__ == "__main__":
    main()
