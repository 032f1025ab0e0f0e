"""Statistics with the concept as the sampling unit. Pure functions of arrays.

Invariant: every comparison is paired over the same concepts; nothing is pooled over samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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


def less(one: Estimate, other: Estimate, n: int) -> Estimate:
    """What lies between two estimates of `n` units that share no luck: the distances to their bounds add as errors
    do."""
    mean = one.mean - other.mean
    low, high = one.mean - one.low, one.high - one.mean
    return Estimate(
        mean,
        mean - math.hypot(low, other.high - other.mean),
        mean + math.hypot(high, other.mean - other.low),
        n,
    )


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


def auroc(scores: Array, labels: Array) -> float:
    """Area under the ROC curve; 0.5 is chance."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, scores))
