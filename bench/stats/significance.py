"""Is a difference beyond chance? Paired tests, families of them, and ranks.

Invariant: a p that is missing or not a number is never significant, and no test sees anything but the paired
differences of concepts.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy  # its parts load when they are asked for

from bench.core.content import Array
from bench.stats.intervals import RESAMPLES, estimate, resamples

LEVEL = 0.05
NEAR = 0.05
"""Share of the scale within which a concept's difference tells nothing."""
TELLING = 30
"""So many concepts that do differ make up for any number that do not."""


def significant(p: float | None, level: float = LEVEL) -> bool:
    """Whether `p` is below `level`; one that is missing or NaN is not."""
    return p is not None and p < level


@dataclass(frozen=True)
class Difference:
    """A paired mean difference with its interval (95 %, where no other level was asked for) and two-sided p-value."""

    mean: float
    low: float
    high: float
    p: float
    """NaN where nothing can be tested: one concept, or `piled`; 1 where nothing differs at all."""
    n: int
    detectable: float
    """Smallest true difference found with 80 % power at the 5 % level, given the observed spread."""
    error: float = float("nan")
    """Standard error of the mean."""
    piled: bool = False
    """Most concepts hardly differ and few do: no test keeps its level here (docs/statistics.md)."""


@lru_cache(maxsize=4)
def _signs(n: int, number: int) -> Array:
    """Sign flips `[flips, n]`: all of them up to 13 concepts (mirror images left out), else `number` drawn ones."""
    if n <= 13:
        return np.array(list(itertools.product((1.0,), *[(1.0, -1.0)] * (n - 1))))
    signs = np.random.default_rng(0).choice([1.0, -1.0], (number, n))
    signs[0] = 1.0  # the data itself is one of the flips
    return signs


def sign_flip(differences: Array) -> Array:
    """Two-sided p `[k]` of paired differences `[k, n]`: the share of sign flips whose mean lies as far from 0.

    Exact up to 13 concepts for methods with exchangeable scores; above, from 10,000 flips.
    """
    signs = _signs(differences.shape[1], RESAMPLES + 1)
    step = max(1, 20_000_000 // len(signs))
    found = [
        (np.abs(block @ signs.T) >= np.abs(block.sum(1, keepdims=True)) * (1 - 1e-9)).mean(1)
        for block in (differences[i : i + step] for i in range(0, len(differences), step))
    ]
    return np.concatenate(found)


def _resampled(values: Array) -> tuple[Array, float]:
    """t of each bootstrap resample about the mean `[resamples]`, floored as in `studentised`, and the error."""
    n = len(values)
    error = float(values.std(ddof=1) / np.sqrt(n))
    drawn, centred = resamples(n).T / n, values - values.mean()
    means = centred @ drawn
    errors = np.sqrt(np.maximum(centred**2 @ drawn - means**2, 0) / (n - 1))
    return means / np.maximum(errors, error / 2), error


def paired(
    one: Sequence[float] | Array,
    two: Sequence[float] | Array,
    scale: float = 2.0,
    error: float = 0.0,
    level: float = 0.95,
) -> Difference:
    """`one` minus `two`, concept by concept: bootstrap-t interval of that level, and p as the larger of two tests.

    Sign flips are exact for exchangeable methods, the symmetric bootstrap-t knows skewed differences; either alone
    rejects too often where scores pile up. `scale` is the largest score there is. `error` is the least standard
    error that is believed (`crossed_error`); interval and p are widened to it.
    """
    difference = np.asarray(one, dtype=float) - np.asarray(two, dtype=float)
    e = estimate(difference, level)
    if e.n < 2:
        return Difference(e.mean, e.low, e.high, float("nan"), e.n, float("nan"))
    if not difference.any():
        half = float(scipy.stats.t.ppf((1 + level) / 2, e.n - 1)) * error
        return Difference(0.0, -half, half, 1.0, e.n, 0.0, error, piled=True)
    ratios, own = _resampled(difference) if np.ptp(difference) > 1e-12 else (np.zeros(0), 0.0)
    error = max(error, own)
    p = float(sign_flip(difference[None])[0])
    low, high = e.low, e.high
    if own:
        wider = error / own
        low, high = e.mean - (e.mean - e.low) * wider, e.mean + (e.high - e.mean) * wider
        p = max(p, (1 + int((np.abs(ratios) >= abs(e.mean) / error).sum())) / (1 + len(ratios)))
    elif error:
        half = float(scipy.stats.t.ppf((1 + level) / 2, e.n - 1)) * error
        low, high = e.mean - half, e.mean + half
        p = max(p, float(2 * scipy.stats.t.sf(abs(e.mean) / error, e.n - 1)))
    away = int((np.abs(difference) >= NEAR * scale).sum())
    piled = away < e.n / 2 and away < TELLING
    power = scipy.stats.t.ppf(0.975, e.n - 1) + scipy.stats.t.ppf(0.8, e.n - 1)
    return Difference(e.mean, low, high, float("nan") if piled else p, e.n, float(power * error), error, piled)


def equivalent(one: Sequence[float] | Array, two: Sequence[float] | Array, margin: float, error: float = 0.0) -> float:
    """p of two one-sided tests (Schuirmann 1987): that the mean difference lies outside ± `margin`.

    By the bootstrap-t; NaN with fewer than two concepts. `error` as in `paired`.
    """
    difference = np.asarray(one, dtype=float) - np.asarray(two, dtype=float)
    if len(difference) < 2:
        return float("nan")
    mean = float(difference.mean())
    if np.ptp(difference) <= 1e-12:  # all differ by the same: nothing is known of the spread but what is given
        if not error:
            return float("nan")
        return max(float(scipy.stats.t.sf((margin + s * mean) / error, len(difference) - 1)) for s in (1, -1))
    ratios, own = _resampled(difference)
    error = max(error, own)
    above = (1 + int((ratios >= (mean + margin) / error).sum())) / (1 + len(ratios))
    below = (1 + int((ratios <= (mean - margin) / error).sum())) / (1 + len(ratios))
    return max(above, below)


def crossed_error(differences: Array, columns: Array) -> float:
    """Standard error of the mean of concept means of `differences` `[concepts, samples]`, NaN where there is none.

    The largest of three: between concepts; within concepts, which no error between them can be below; and
    two-way clustered by concept and by `columns` `[concepts, samples]`, a number for the question each sample
    asked (Cameron, Gelbach and Miller 2011), for concepts that ask the same questions share their luck.
    """
    known = ~np.isnan(differences)
    kept = known.any(1)
    d, known, columns = np.where(known, differences, 0.0)[kept], known[kept], columns[kept]
    n, counts = len(d), known.sum(1)
    if n < 2:
        return float("nan")
    means = d.sum(1) / counts
    between = means.var(ddof=1) / n
    spread = np.where(known, (d - means[:, None]) ** 2, 0).sum(1) / np.maximum(1, counts - 1)
    within = float((spread / counts).sum() / n**2)
    weighted = np.where(known, d - means.mean(), 0) / counts[:, None] / n
    _, asked = np.unique(columns[known], return_inverse=True)
    shares = np.bincount(asked, weighted[known])
    groups = len(shares)
    shared = float((shares**2).sum() - (weighted**2).sum()) * groups / max(1, groups - 1)
    crossed = between + shared
    return float(np.sqrt(max(between, within, crossed)))


def holm(pvalues: Sequence[float]) -> list[float]:
    """Holm's step-down correction; NaN stays NaN and counts for nothing."""
    adjusted = [float("nan")] * len(pvalues)
    known = sorted((p, i) for i, p in enumerate(pvalues) if not np.isnan(p))
    highest = 0.0
    for step, (p, i) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - step)))
        adjusted[i] = highest
    return adjusted


def union(differences: Sequence[Difference]) -> float:
    """One p for "all of these are above 0" (intersection–union, Berger 1982): the largest of them.

    1 where a mean is not above 0; NaN where one cannot be tested, or there is none.
    """
    if not differences or any(np.isnan(d.mean) for d in differences):
        return float("nan")
    if any(d.mean <= 0 for d in differences):
        return 1.0
    return float(max(d.p for d in differences)) if not any(np.isnan(d.p) for d in differences) else float("nan")


def simultaneous(differences: Array) -> Array:
    """Family-wise p of each comparison `[m]` from paired differences `[n, m]` (Westfall and Young's max-t).

    A concept's sign flips in all comparisons at once, and each statistic is held against the largest of
    the family: their dependence is kept, and the smallest p does not grow with their number, as
    Holm's does (12 concepts cannot reach .05 over 210 pairs). Exact up to 13 concepts.
    """
    n, signs = len(differences), _signs(len(differences), RESAMPLES + 1)
    squares = (differences**2).sum(0)
    known = squares > 0
    found = np.ones(differences.shape[1])
    if not known.any():
        return found
    # mean² · n / Σd² lies in [0, 1] and rises with |t|.
    ratio = (signs @ differences[:, known]) ** 2 / (n * squares[known])
    largest = ratio.max(1)
    observed = differences[:, known].sum(0) ** 2 / (n * squares[known])
    found[known] = (largest[:, None] >= observed - 1e-9).mean(0)
    return found


def rank_intervals(scores: Mapping[str, Sequence[float] | Array], level: float = LEVEL) -> dict[str, tuple[int, int]]:
    """method -> the best and the worst rank that simultaneous comparisons leave it.

    1 + the methods surely better, and all less those surely worse (Mogstad et al. 2024). Widened where needed so
    that neither end falls where the mean rises. `scores` are per-concept values in the same order of concepts.
    """
    names = sorted(scores, key=lambda name: (-float(np.mean(scores[name])), name))
    better, worse = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    pairs = list(itertools.combinations(names, 2))
    if pairs:
        values = {name: np.asarray(row, dtype=float) for name, row in scores.items()}
        differences = np.stack([values[a] - values[b] for a, b in pairs], axis=1)
        for (a, b), p in zip(pairs, simultaneous(differences), strict=True):
            if significant(p, level):
                worse[a] += 1
                better[b] += 1
    low = np.array([1 + better[name] for name in names])
    high = np.array([len(names) - worse[name] for name in names])
    low, high = np.minimum.accumulate(low[::-1])[::-1], np.maximum.accumulate(high)
    return {name: (int(a), int(b)) for name, a, b in zip(names, low, high, strict=True)}
