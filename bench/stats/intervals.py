"""Statistics with the concept as the sampling unit. Pure functions of arrays.

Invariant: every comparison is paired over the same concepts; nothing is pooled over samples.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import scipy  # its parts load when they are asked for

from bench.core.content import Array

RESAMPLES = 9999
Form = Literal["t", "bca"]
"""Of an interval: bootstrap-t, or bias-corrected and accelerated."""


@dataclass(frozen=True)
class Estimate:
    """A mean over concepts with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Difference:
    """A paired mean difference with its 95 % interval and two-sided p-value."""

    mean: float
    low: float
    high: float
    p: float
    n: int
    detectable: float
    """Smallest true difference found with 80 % power at the 5 % level, given the observed spread."""


@lru_cache(maxsize=8)
def _counts(n: int, resamples: int) -> Array:
    draws = np.random.default_rng(0).integers(n, size=(resamples, n))
    flat = (draws + n * np.arange(resamples)[:, None]).ravel()
    return np.bincount(flat, minlength=n * resamples).reshape(resamples, n).astype(float)


def resamples(n: int, number: int | None = None) -> Array:
    """How often each of `n` concepts is drawn in each bootstrap resample, `[number, n]`; always the same."""
    return _counts(n, number or RESAMPLES)


def studentised(mean: Array, error: Array, means: Array, errors: Array, level: float = 0.95) -> tuple[Array, Array]:
    """Bootstrap-t bounds of `mean` `[...]` from resampled `means` and their `errors` `[..., resamples]`.

    A resample's error is floored at half the observed one: ratings pile up at 0 and 2, where a resample
    of equal values would otherwise divide by almost nothing (docs/why/decisions-statistics.md).
    """
    ratio = (means - mean[..., None]) / np.maximum(errors, error[..., None] / 2)
    low, high = np.quantile(ratio, [(1 - level) / 2, (1 + level) / 2], axis=-1)
    return mean - high * error, mean - low * error


def intervals(values: Array, level: float = 0.95, form: Form = "t") -> tuple[Array, Array]:
    """Lower and upper bounds `[...]` of the means of `values` `[..., n]`, n ≥ 2; of no width where values are equal."""
    n, mean = values.shape[-1], values.mean(-1)
    error = values.std(-1, ddof=1) / np.sqrt(n)
    flat = error <= 1e-12 * np.abs(values).max(-1)
    if form == "bca":
        # Percentiles assume a known spread; widening z to t as Hesterberg (2015) does makes up for it.
        z = np.sqrt(n / (n - 1)) * scipy.stats.t.ppf((1 + level) / 2, n - 1)
        # rows of equal values are spread for scipy's sake and put right below
        spread = np.where(flat[..., None], np.arange(n), values)
        found = scipy.stats.bootstrap(
            (spread,),
            np.mean,
            axis=-1,
            n_resamples=RESAMPLES,
            batch=max(1, 10_000_000 // values.size),
            confidence_level=1 - 2 * scipy.stats.norm.sf(z),
            method="BCa",
            rng=np.random.default_rng(0),
        ).confidence_interval
        low, high = found.low, found.high
    else:
        drawn = resamples(n).T / n
        centred = values - mean[..., None]
        means = centred @ drawn
        errors = np.sqrt(np.maximum(centred**2 @ drawn - means**2, 0) / (n - 1))
        low, high = studentised(np.zeros_like(mean), np.where(flat, 1, error), means, errors, level)
        low, high = mean + low, mean + high
    return np.where(flat, mean, low), np.where(flat, mean, high)


def estimate(values: Sequence[float] | Array, level: float = 0.95, form: Form = "t") -> Estimate:
    """Mean of per-concept values `[n]` with its cluster-bootstrap interval, bootstrap-t or BCa.

    Percentile intervals cover too little at ten or so concepts; the bootstrap-t studentises each resample,
    the BCa corrects for bias and skewness (docs/statistics.md has the coverage of both). With one concept
    the interval is not known: NaN bounds.
    """
    x = np.asarray(values, dtype=float)
    n, mean = len(x), float(np.mean(x)) if len(x) else float("nan")
    if n < 2:
        return Estimate(mean, float("nan"), float("nan"), n)
    low, high = intervals(x, level, form)
    return Estimate(mean, float(low), float(high), n)


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

    Exact up to 13 concepts; above, from 10,000 flips.
    """
    signs = _signs(differences.shape[1], RESAMPLES + 1)
    step = max(1, 20_000_000 // len(signs))
    found = [
        (np.abs(block @ signs.T) >= np.abs(block.sum(1, keepdims=True)) * (1 - 1e-9)).mean(1)
        for block in (differences[i : i + step] for i in range(0, len(differences), step))
    ]
    return np.concatenate(found)


def paired(one: Sequence[float] | Array, two: Sequence[float] | Array) -> Difference:
    """`one` minus `two`, concept by concept: bootstrap-t interval, sign-flip permutation p.

    The permutation test is exact up to 13 concepts.
    """
    difference = np.asarray(one, dtype=float) - np.asarray(two, dtype=float)
    e = estimate(difference)
    if e.n < 2:
        return Difference(e.mean, e.low, e.high, float("nan"), e.n, float("nan"))
    if not difference.any():
        return Difference(0.0, 0.0, 0.0, 1.0, e.n, 0.0)
    power = scipy.stats.t.ppf(0.975, e.n - 1) + scipy.stats.t.ppf(0.8, e.n - 1)
    detectable = float(power * difference.std(ddof=1) / np.sqrt(e.n))
    return Difference(e.mean, e.low, e.high, float(sign_flip(difference[None])[0]), e.n, detectable)


def holm(pvalues: Sequence[float]) -> list[float]:
    """Holm's step-down correction; NaN stays NaN and counts for nothing."""
    adjusted = [float("nan")] * len(pvalues)
    known = sorted((p, i) for i, p in enumerate(pvalues) if not np.isnan(p))
    highest = 0.0
    for step, (p, i) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - step)))
        adjusted[i] = highest
    return adjusted


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


def shared_ranks(scores: Mapping[str, Sequence[float] | Array], alpha: float = 0.05) -> dict[str, int]:
    """Rank of each method: 1 + the number of methods better than it in simultaneous comparisons.

    `scores` are per-concept values in the same order of concepts; methods that cannot be told apart
    from the same betters share a rank.
    """
    names = list(scores)
    ranks = dict.fromkeys(names, 1)
    pairs = list(itertools.combinations(names, 2))
    if not pairs:
        return ranks
    values = {name: np.asarray(row, dtype=float) for name, row in scores.items()}
    differences = np.stack([values[a] - values[b] for a, b in pairs], axis=1)
    for (a, b), mean, p in zip(pairs, differences.mean(0), simultaneous(differences), strict=True):
        if p < alpha:
            ranks[b if mean > 0 else a] += 1
    return ranks


def auroc(scores: Array, labels: Array) -> float:
    """Area under the ROC curve; 0.5 is chance."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, scores))
