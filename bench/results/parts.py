"""Data with parts, as levels of one set: how well a method does on each, and from the first to the last.

Invariant: a part's score is the mean over its own concepts; parts have different concepts, so what lies between them is
not paired.
"""

from __future__ import annotations

from collections.abc import Mapping

from bench.core import registry
from bench.results.runs import Run
from bench.results.tables import Table
from bench.stats.intervals import Estimate, estimate, less


def by_part(table: Table) -> dict[str, list[str]]:
    """part -> its concepts that all runs of a table have a score of, in order of the parts' names; empty where the
    task's data has none, or one alone."""
    part_of = getattr(registry.table("task").get(table.spec["task"]), "part_of", lambda concept: "")
    found: dict[str, list[str]] = {}
    for name in table.concepts:
        found.setdefault(part_of(name), []).append(name)
    return dict(sorted(found.items())) if len(found) > 1 else {}


def scores(run: Run, parts: Mapping[str, list[str]], axis: str) -> dict[str, Estimate]:
    """part -> mean of an axis over its concepts that have it; parts without any are left out."""
    own = run.scores(axis)
    known = {part: [v for name in names if (v := own.get(name)) is not None] for part, names in parts.items()}
    return {part: estimate(values) for part, values in known.items() if values}


def change(first: Estimate, last: Estimate) -> Estimate:
    """Last part less the first, which have different concepts."""
    return less(last, first, min(first.n, last.n))
