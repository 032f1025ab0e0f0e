"""The two sides at equal numbers: the best of k prompts against the best of k steering methods.

Invariant: "best" is best on the select split, the score is of the test split, and each side gets the same k: a side
of thirty has the luck of thirty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from bench.core.content import Array
from bench.results.tables import Row, Table, baselines, select_score, within
from bench.stats.intervals import Estimate, estimate
from bench.stats.significance import Difference, paired

RELABELLED = 9999
"""Random exchanges of which methods are called prompts."""


@dataclass(frozen=True)
class Sides:
    """The prompts and the steering methods of one table."""

    prompts: int
    steering: int
    curves: tuple[tuple[Estimate, ...], tuple[Estimate, ...]]
    """Expected test score of the best of k = 1, 2, …, of prompts and of steering."""
    difference: Difference
    """Best of k steering methods minus best of k prompts, k the smaller number there is; paired over concepts."""
    p_labels: float
    """Share of random relabellings whose lead is as large, either way: is it the kind, or any set of that size?"""

    @property
    def k(self) -> int:
        return min(self.prompts, self.steering)


def weights(n: int, k: int) -> Array:
    """Chance `[n]` that the method at each place in order of select score is the best of k drawn from n."""
    return np.array([comb(n - 1 - place, k - 1) / comb(n, k) for place in range(n)])


def sides(table: Table, steered: Sequence[Row]) -> Sides | None:
    """None where either side has fewer than two methods: there is no choice to make even."""
    names = baselines({row.name: row.run for row in table.rows})
    prompts = [row for row in table.rows if row.name in names]
    if min(len(prompts), len(steered)) < 2 or len(table.concepts) < 2:
        return None
    both = [_ordered(table, side) for side in (prompts, list(steered))]
    curves = tuple(
        tuple(within(estimate(weights(len(test), k) @ test), table.scale) for k in range(1, len(test) + 1))
        for _, test in both
    )
    k = min(len(test) for _, test in both)
    best = [weights(len(test), k) @ test for _, test in both]
    found = paired(best[1], best[0], table.scale)
    return Sides(len(prompts), len(steered), (curves[0], curves[1]), found, _labels(both, k))


def _ordered(table: Table, rows: Sequence[Row]) -> tuple[Array, Array]:
    """Select scores `[n]` and test scores `[n, concepts]`, the best on select first."""
    chosen = sorted(rows, key=lambda row: (-select_score(row.run), row.name))
    scores = [row.run.scores("overall") for row in chosen]
    test = np.array([[own[c] for c in table.concepts] for own in scores], dtype=float)
    return np.array([select_score(row.run) for row in chosen]), test


def _labels(both: Sequence[tuple[Array, Array]], k: int) -> float:
    """Two-sided p of the lead under random labels; methods of equal select score keep their order."""
    select = np.concatenate([chosen for chosen, _ in both])
    means = np.concatenate([test.mean(1) for _, test in both])
    count, total = len(both[0][0]), len(select)
    order = np.argsort(-select, kind="stable")
    rng = np.random.default_rng(0)

    def lead(prompts: Array) -> float:
        ours, theirs = means[order[prompts[order]]], means[order[~prompts[order]]]
        return float(weights(len(theirs), k) @ theirs - weights(len(ours), k) @ ours)

    seen = lead(np.arange(total) < count)
    drawn = [lead(rng.permutation(total) < count) for _ in range(RELABELLED)]
    return (1 + int((np.abs(drawn) >= abs(seen) - 1e-12).sum())) / (1 + RELABELLED)
