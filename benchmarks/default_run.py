"""What `bench run --methods all --task axbench` takes from nothing: minutes by stage, and of the fits by method.

Runs it (preset quick, no kept fit, answer or rating) in a folder of its own and writes `default_run.json`.
`python benchmarks/default_run.py` wants a quiet machine and most of an hour. `--methods A,B` runs those alone, to be
set against a figure of so many; `--results FOLDER` takes the results of such a run instead. `--first` stops at the
first provisional table, and puts the minutes to it beside what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench.core.paths import cache_root
from bench.core.store import write_json
from bench.results import provenance
from bench.results.runs import load

SAVED = Path(__file__).with_suffix(".json")
SHAPE = (512, 576, 1536)
"""Rows of a batch, width and feed-forward width of the default model."""


def made(root: Path, methods: str) -> Path:
    """The results folder of a run that found nothing but the model."""
    subprocess.run(**prepared(root, methods), check=True)
    return root / "results"


def prepared(root: Path, methods: str) -> dict[str, Any]:
    """The command, and the environment in which it finds nothing but the model."""
    if (models := cache_root() / "models").is_dir():
        shutil.copytree(models, root / "cache" / "models")
    places = {"BENCH_CACHE": str(root / "cache"), "BENCH_RESULTS": str(root / "results")}
    command = [sys.executable, "-m", "bench", "run", "--methods", methods, "--task", "axbench"]
    return {"args": command, "env": {**os.environ, **places}}


def first(root: Path, methods: str) -> float:
    """Minutes from the command to its first provisional table, at which it is ended."""
    command = prepared(root, methods)
    begun = time.monotonic()
    with subprocess.Popen(**command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            print(line, end="", file=sys.stderr)
            if line.startswith("provisional:"):
                process.terminate()
                return round((time.monotonic() - begun) / 60, 2)
    raise SystemExit("the run ended without a provisional table")


def speed(dtype: torch.dtype) -> float:
    """GFlop/s of one core on the model's largest product, as the model has it laid out: what minutes elsewhere
    can be set against."""
    from torch.utils.benchmark import Timer

    rows, width, wide = SHAPE
    names = {"x": torch.randn(rows, width, dtype=dtype), "weight": torch.randn(wide, width, dtype=dtype)}
    setup = "from torch.nn.functional import linear"
    seconds = Timer("linear(x, weight)", setup, globals=names, num_threads=1).blocked_autorange(min_run_time=2).median
    return round(2 * rows * width * wide / seconds / 1e9, 1)


def measured(folder: Path) -> dict[str, Any]:
    """Of one command's results: each record has its own fits' timings, and the command's until it was written."""
    runs = load(folder)
    stages = max((run.data["timings"] for run in runs), key=lambda found: sum(found.values()))
    if any(run.data["timings"].get(name, 0) > stages.get(name, 0) for run in runs for name in run.data["timings"]):
        raise SystemExit(f"{folder}: the runs there were not made by one command")
    fits = {run.method: sum(c["fit_seconds"] for c in run.data["concepts"].values()) for run in runs}
    return {
        "preset": runs[0].data["spec"]["protocol"]["preset"],
        "methods": len(runs),
        "minutes": {stage: round(seconds / 60, 2) for stage, seconds in stages.items()},
        "total_minutes": round(sum(stages.values()) / 60, 2),
        "fit_seconds": {name: round(found, 1) for name, found in sorted(fits.items(), key=lambda kv: -kv[1])},
        "gflops_a_core": {"float32": speed(torch.float32), "bfloat16": speed(torch.bfloat16)},
        "provenance": runs[0].data["provenance"],
    }


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--methods", default="all")
    asked.add_argument("--results", type=Path)
    asked.add_argument("--first", action="store_true")
    options = asked.parse_args()
    if options.first:
        with tempfile.TemporaryDirectory() as place:
            minutes = first(Path(place), options.methods)
        known = json.loads(SAVED.read_text("utf-8"))
        write_json(SAVED, known | {"first_table": {"minutes": minutes, "provenance": provenance.provenance()}})
        print(f"first table after {minutes} min")
        return
    with tempfile.TemporaryDirectory() as place:
        found = measured(options.results or made(Path(place), options.methods))
    kept = json.loads(SAVED.read_text("utf-8")) if SAVED.is_file() else {}
    write_json(SAVED, found | {name: kept[name] for name in ("first_table",) if name in kept})
    print(json.dumps({name: found[name] for name in ("minutes", "total_minutes", "gflops_a_core")}, indent=1))


if __name__ == "__main__":
    main()
