"""Views made of others against those the data brings: what a method that learns from pairs, choices or personas loses.

On the first concepts of the mini set, which has all views, each method runs twice under one protocol: on the data's own
views, and on the same texts with those views taken away, so that a run makes them (`bench.run.views`). `cosine` is of
the two steerings of a concept (vectors, or changes of weights, end to end), `difference` the overall score with made
views minus that with the data's, with 95 % intervals over concepts. An interval below 0 would say that made views cost
something. `python benchmarks/derived_views.py --concepts 6 --out benchmarks/derived_views.json`.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import stats
from bench.core.deltas import Delta
from bench.core.registry import task
from bench.core.steering import Steering
from bench.core.store import write_json
from bench.core.values import Concept, Train
from bench.results import provenance, read
from bench.run.jobs import Job
from bench.run.plan import Options, make
from bench.run.session import execute
from tasks.axbench import AxBench

LEARNERS = "reps,bipo,dpo,caa,repe,repeng,repe-contrast,persona,prompt-persona,lorra,antipasto"


@task("axbench-made-views")
@dataclass(frozen=True)
class MadeViews(AxBench):
    """The mini set without the views that can be made. One item: "Describe a quiet village at dawn."."""

    def train(self, concept: Concept) -> Train:
        """The space keeps a negative from being joined to the positive with its instruction: AxBench's case."""
        whole = super().train(concept)
        apart = tuple(dataclasses.replace(one, instruction=f"{one.instruction} ") for one in whole.negatives)
        return dataclasses.replace(whole, negatives=apart, pairs=(), choices=(), personas=())


def flat(steering: Any) -> np.ndarray[Any, Any] | None:
    """A steering as one vector; None for a prompt, or one bound to each prompt."""
    if not isinstance(steering, Steering) or not steering.scalable:
        return None
    parts = [value.ravel() for edit in steering.edits for value in edit.tensors().values()]
    parts += [_dense(delta).ravel() for delta in steering.deltas]
    return np.concatenate(parts)


def _dense(delta: Delta) -> np.ndarray[Any, Any]:
    left, right = delta.factors()
    return np.asarray(left if right is None else left @ right)


def cosines(one: Job, two: Job) -> list[float]:
    found = []
    for name, fit in one.fits.items():
        a, b = flat(fit.candidates[0].steering), flat(two.fits[name].candidates[0].steering)
        if a is not None and b is not None:
            found.append(float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))))
    return found


def interval(values: Sequence[float]) -> list[float]:
    found = stats.estimate(values)
    return [round(x, 3) for x in (found.mean, found.low, found.high)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--concepts", type=int, default=6)
    parser.add_argument("--methods", default=LEARNERS)
    parser.add_argument("--judge", default="ensemble")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    begun = time.monotonic()
    jobs: dict[str, list[Job]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("axbench", "axbench-made-views"):
            options = Options(
                tuple(asked.methods.split(",")), name, judge=asked.judge, preset=asked.preset, limit=asked.concepts
            )
            jobs[name] = execute(make(options), Path(folder) / name)
        rows = []
        for own, made in zip(*jobs.values(), strict=True):
            if own.status != "complete" or own.status != made.status:
                print(f"{own.spec.method}: {own.reason or made.reason}")
                continue
            records = [read(job.path).data for job in (own, made) if job.path]
            scores = [{n: c["test"]["overall"] for n, c in record["concepts"].items()} for record in records]
            pairs = [(scores[1][n], scores[0][n]) for n in scores[0] if None not in (scores[0][n], scores[1][n])]
            near = cosines(own, made)
            rows.append(
                {
                    "method": own.spec.method,
                    "views": records[1].get("views", {}),
                    "cosine": interval(near) if near else None,
                    "own": round(float(np.mean([b for _, b in pairs])), 3),
                    "made": round(float(np.mean([a for a, _ in pairs])), 3),
                    "difference": interval([a - b for a, b in pairs]),
                }
            )
            print(rows[-1], flush=True)
    found = {"protocol": dataclasses.asdict(own.spec.protocol), "judge": own.spec.judge, "rows": rows}
    found |= {"minutes": round((time.monotonic() - begun) / 60, 1), "provenance": provenance.provenance()}
    if asked.out:
        write_json(asked.out, found)


if __name__ == "__main__":
    main()
