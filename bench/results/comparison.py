"""Two runs against each other, axis by axis: what `bench compare` shows on a terminal, as JSON and as a page.

Invariant: everything is paired over the units and generations that both runs have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any

from bench import results
from bench.results.differences import difference
from bench.results.runs import Run
from bench.stats import pairwise
from bench.stats.intervals import Estimate
from bench.stats.pairwise import LengthControlled
from bench.stats.significance import Difference


@dataclass(frozen=True)
class Axis:
    """One axis of a comparison."""

    difference: Difference
    wins: Mapping[str, Estimate]
    """By generations, and by units."""
    length: LengthControlled | None
    """The difference at equal length, where answers have one."""


def compare(one: Run, two: Run) -> dict[str, Axis]:
    """axis -> `one` minus `two`; refused where they were not made alike."""
    results.same_group(one, two)
    found = {}
    for axis in one.data["axes"]:
        scores = results.matched([one, two], axis)
        lengths = results.matched([one, two], "tokens") if one.data["spec"]["judge"] else None
        found[axis] = Axis(
            difference(one, two, axis),
            {per: pairwise.win_rate(scores[0], scores[1], per) for per in pairwise.PER},
            pairwise.length_controlled(*scores, *lengths) if lengths is not None else None,
        )
    return found


def bare(value: Any) -> Any:
    """Frozen statistics as JSON has them: null for what is not known."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if is_dataclass(value):
        value = vars(value)
    return {k: bare(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def as_json(axes: Mapping[str, Axis]) -> dict[str, Any]:
    return {axis: bare(vars(a.difference) | {"wins": a.wins, "length": a.length}) for axis, a in axes.items()}
