"""How fast this machine has shown itself: what a plan's estimate of time rests on."""

from __future__ import annotations

from collections.abc import Sequence

from bench.core.documents import read_json
from bench.core.errors import BenchError
from bench.core.paths import cache_root
from bench.core.shapes import Positive
from bench.core.store import write_json
from bench.results.runs import Run
from bench.run.jobs import Job

RATES = {"generate": 200.0, "rate": 8.0, "fit": 1.5, "train": 700.0, "read": 1000.0}
"""Tokens, ratings, fits, tokens trained on and tokens read a second of the default model on two cores; replaced by what
is measured."""


def rates() -> dict[str, float]:
    """Units a second."""
    return RATES | measured()


def measured() -> dict[str, float]:
    """What this machine's runs have shown so far; nothing where the file is damaged, for it only makes estimates."""
    try:
        return dict(read_json(cache_root() / "rates.json", dict[str, Positive], "a table of speeds"))
    except BenchError:
        return {}


def learn(jobs: Sequence[Job], runs: Sequence[Run]) -> None:
    """Remember this machine's speeds, for the next plan's estimate."""
    made = [
        run.data
        for job, run in zip([j for j in jobs if j.path], runs, strict=True)
        if job.status == "complete" and job.fresh
    ]
    if not made or made[0]["spec"]["backend"] == "fake" or "executor" in made[0]:  # a cluster is not this machine
        return
    timings = max((data["timings"] for data in made), key=lambda each: sum(each.values()))  # of the last: they add up
    share = sum(d["counts"]["generated_now"] for d in made) / max(1, sum(d["counts"]["generations"] for d in made))
    if share < 0.9 or not any(d["counts"]["tokens"] for d in made):  # multiple choice writes nothing
        return
    spent = {k: sum(v for name, v in timings.items() if name.startswith(k)) for k in ("generate", "judge", "fit")}
    units = {"generate": sum(d["counts"]["tokens"] for d in made) / max(spent["generate"], 1)}
    if made[0]["spec"]["judge"]:  # a task that needs no judge says nothing of one's speed
        units["rate"] = 3 * sum(d["counts"]["generations"] for d in made) / max(spent["judge"], 1)
    write_json(cache_root() / "rates.json", measured() | {k: round(v, 2) for k, v in units.items()})
