"""What was looked at beside the score of a run, as a reader of its record sees it: lm-eval's tasks, from the file that
stands beside it.

Invariant: of a run the picked settings alone count, and numbers stand beside each other only where they are of the same
questions, asked in the same way.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.core.content import Array
from bench.results import sidecars
from bench.results.runs import Run, pooled, unit_names

METRICS = ("acc", "exact_match")
"""Of a task that has several, the first of these that it has is shown, or else its first."""


@dataclass(frozen=True)
class Asked:
    """A task of lm-eval, one metric of it, and how it was asked."""

    task: str
    metric: str
    settings: str
    """As JSON, without the names of the tasks that were asked together."""


@dataclass(frozen=True)
class Change:
    """What a run's steering does to a metric, mean over concepts."""

    bare: float
    difference: float
    items: Array | None
    """The change of each document `[n]`, mean over concepts; None where the metric is no mean over documents."""
    n: int
    touched: bool
    """Whether anything of what was asked could change at all."""


def complete(run: Run, settings: Mapping[str, Any]) -> bool:
    """Whether lm-eval was asked under every concept's picked setting, with these settings."""
    return all(any(one["settings"] == settings for one in own) for own in _picked(run).values())


def _picked(run: Run) -> dict[str, list[dict[str, Any]]]:
    """concept -> entries of lm-eval at its picked coefficient, the oldest first."""
    picked = {concept: one["picked"]["coefficient"] for concept, one in run.data["concepts"].items()}
    found: dict[str, list[dict[str, Any]]] = {concept: [] for concept in picked}
    for one in sidecars.capability(run.path.with_name(sidecars.CAPABILITY))["entries"].values():
        if one["kind"] == "lm-eval" and "settings" in one and picked.get(one["concept"]) == one["coefficient"]:
            found[one["concept"]].append(one)
    return found


def _how(entry: Mapping[str, Any]) -> str:
    return json.dumps({k: v for k, v in entry["settings"].items() if k != "tasks"}, sort_keys=True)


def asked(runs: Sequence[Run]) -> list[Asked]:
    """What these runs were asked, each task as most of them were, in the order in which it stands in their files."""
    ways: dict[str, Counter[tuple[str, str]]] = {}
    for run in runs:
        own = {
            (task, _shown(metrics), _how(one))
            for entries in _picked(run).values()
            for one in entries
            for task, metrics in one["numbers"].items()
            if metrics
        }
        for task, metric, how in sorted(own):
            ways.setdefault(task, Counter())[metric, how] += 1
    return [Asked(task, *max(sorted(count), key=count.__getitem__)) for task, count in ways.items()]


def _shown(metrics: Mapping[str, Any]) -> str:
    return next((name for name in METRICS if name in metrics), next(iter(metrics)))


def change(run: Run, what: Asked) -> Change | None:
    """None where a concept's picked setting was not asked."""
    found = []
    for entries in _picked(run).values():
        own = [one for one in entries if what.task in one["numbers"] and _how(one) == what.settings]
        if not own or what.metric not in own[-1]["numbers"][what.task]:
            return None
        found.append(own[-1]["numbers"][what.task][what.metric])
    n, items = found[0]["n"], None
    if all("changed" in row and row["n"] == n for row in found):
        names = sorted({name for row in found for name in row["changed"]})
        items = np.zeros(n)  # of most documents nothing changes
        items[: len(names)] = [sum(row["changed"].get(name, 0.0) for row in found) / len(found) for name in names]
    mean = sum(row["difference"] for row in found) / len(found)
    return Change(found[0]["bare"], mean, items, n, any(row.get("touched", True) for row in found))


# Whether a method moves its concept alone


def related(run: Run) -> dict[str, float]:
    """unit -> how much of another concept its answers show; empty where that was not rated."""
    found = run.data.get("specificity", {}).get("related")
    return _by_unit(run, found["ratings"]) if found else {}


def adverse(run: Run) -> dict[str, float]:
    """unit -> the concept's rating under an order against it, less that of the same questions without; empty where they
    were not asked."""
    found = run.data.get("specificity", {}).get("adverse")
    if not found:
        return {}
    axis = found["axis"]
    plain = {sample["id"]: sample["ratings"].get(axis) for sample in run.data["samples"]}
    both = {sample["id"]: (sample["ratings"].get(axis), plain.get(sample["id"])) for sample in found["samples"]}
    return _by_unit(run, {name: one - two for name, (one, two) in both.items() if one is not None and two is not None})


def _by_unit(run: Run, ratings: Mapping[str, float | None]) -> dict[str, float]:
    """What intervals resample -> the mean of its samples, where any is rated."""
    names = unit_names(run.data) or {sample["id"]: sample["concept"] for sample in run.data["samples"]}
    found = pooled((names[name], value) for name, value in ratings.items() if name in names)
    return {unit: value for unit, value in found.items() if value is not None}
