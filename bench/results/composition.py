"""Several wishes at once: how much of each is left beside the other.

Invariant: what is left is a share of what the same method did for the wish alone; nothing is divided by what was not
there.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.core import registry
from bench.results.runs import Run
from bench.results.tables import Table

JOINED = "+"
"""Between the names of the concepts in a pair's."""
PARTS = ("first", "second")
"""Axes of a task of pairs: how far each is kept."""
LEAST = 0.05
"""Share of the scale below which a wish alone was not there to lose."""


def single(table: Table, tables: Sequence[Table]) -> Table | None:
    """The table of the single wishes that a table of pairs is of: same model, engine, data and protocol."""
    name = getattr(registry.table("task").get(table.spec["task"]), "composes", "")
    same = ("model", "weights", "backend", "dtype", "protocol", "judge", "judge_params")
    return next(
        (t for t in tables if name and t.spec["task"] == name and all(t.spec[k] == table.spec[k] for k in same)), None
    )


def retention(run: Run, alone: Run) -> dict[str, tuple[float | None, float | None]]:
    """pair -> how much of each of its concepts is left where both are wished for, as a share of what a run of the
    single ones has of it alone. None where that was not there to lose, or was not measured."""
    found = {}
    for pair, own in run.data["concepts"].items():
        shares = []
        for name, axis in zip(pair.split(JOINED), PARTS, strict=True):
            before = alone.data["concepts"].get(name, {"test": {}})["test"].get(alone.data["axes"][0])
            after = own["test"][axis]
            there = before is not None and before >= LEAST * alone.data.get("scale", 2.0)
            shares.append(after / before if there and after is not None else None)
        found[pair] = (shares[0], shares[1])
    return found
