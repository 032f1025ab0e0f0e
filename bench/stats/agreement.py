"""How far raters agree: weighted kappa, Spearman, Krippendorff's alpha, and who favours which surface.

Invariant: pure functions; every interval resamples whole concepts, the sampling unit of the benchmark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # its parts load when they are asked for

from bench.core.content import Array
from bench.core.surfaces import PROMPTED, STEERED
from bench.stats.intervals import Estimate, estimate

RESAMPLES = 999


@dataclass(frozen=True)
class Agreement:
    """Two judges on one axis over the samples both rated; each figure with its interval."""

    kappa: Estimate
    spearman: Estimate
    alpha: Estimate
    n: int


def kappa(ratings: Array) -> float:
    """Cohen's kappa with quadratic weights of two raters `[2, n]` on ratings rounded to 0, 1, 2.

    1 - mean (a_i - b_i)^2 / mean over all i, j of (a_i - b_j)^2; the closed form, because the bootstrap
    asks thousands of times. NaN where nothing varies: there is no agreement by chance to exceed.
    """
    one, two = np.floor(ratings + 0.5)
    expected = (one**2).mean() + (two**2).mean() - 2 * one.mean() * two.mean()
    return float(1 - ((one - two) ** 2).mean() / expected) if expected > 0 else float("nan")


def spearman(ratings: Array) -> float:
    """Rank correlation of two raters `[2, n]`; NaN where one of them gives a single value."""
    one, two = ratings
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(two) == 0:
        return float("nan")
    return float(np.corrcoef(scipy.stats.rankdata(one), scipy.stats.rankdata(two))[0, 1])


def alpha(ratings: Array) -> float:
    """Krippendorff's alpha, interval metric, of `[raters, units]`; NaN marks a missing rating.

    1 - observed / expected disagreement, both mean squared differences: within units (each unit's
    pairs weighted by 1 / (raters - 1)) and over all pairable ratings.
    """
    counts = (~np.isnan(ratings)).sum(0)
    kept, sizes = ratings[:, counts > 1], counts[counts > 1]
    values = kept[~np.isnan(kept)]
    n = len(values)
    # Sum over ordered pairs of (a - b)^2 = 2 m sum of squares about the mean.
    within = 2 * sizes * np.nansum((kept - np.nanmean(kept, axis=0)) ** 2, axis=0) if n else np.zeros(0)
    total = 2 * n * float(((values - values.mean()) ** 2).sum()) if n else 0.0
    if total == 0:
        return float("nan")
    return 1 - float((within / (sizes - 1)).sum()) * (n - 1) / total


def clustered(statistic: Callable[[Array], float], ratings: Array, clusters: Sequence[str]) -> Estimate:
    """`statistic` of `[raters, n]` with the 95 % percentile interval of a bootstrap over clusters.

    `Estimate.n` is the number of clusters. Resamples where the statistic is not defined are left out;
    with one cluster, or too many such resamples, the bounds are NaN.
    """
    names = sorted(set(clusters))
    members = [np.flatnonzero([c == name for c in clusters]) for name in names]
    value = statistic(ratings)
    if len(names) < 2 or math.isnan(value):
        return Estimate(value, float("nan"), float("nan"), len(names))
    draws = np.random.default_rng(0).integers(len(names), size=(RESAMPLES, len(names)))
    found = np.array([statistic(ratings[:, np.concatenate([members[i] for i in draw])]) for draw in draws])
    found = found[~np.isnan(found)]
    if len(found) < RESAMPLES / 2:
        return Estimate(value, float("nan"), float("nan"), len(names))
    low, high = np.quantile(found, [0.025, 0.975])
    return Estimate(value, float(low), float(high), len(names))


def agree(one: Sequence[float], two: Sequence[float], clusters: Sequence[str]) -> Agreement:
    """All three figures for two judges' ratings of the same samples."""
    ratings = np.array([one, two], dtype=float)
    found = [clustered(statistic, ratings, clusters) for statistic in (kappa, spearman, alpha)]
    return Agreement(found[0], found[1], found[2], ratings.shape[1])


def interaction(
    one: Mapping[str, Mapping[str, float]], two: Mapping[str, Mapping[str, float]], surfaces: Mapping[str, str]
) -> Estimate:
    """How much more judge `one` favours prompted text than judge `two`: an estimate over concepts.

    `one` and `two` give method -> concept -> mean rating. Per concept: (mean of the prompted - mean of
    steering methods) by the one, minus the same by the other. Controls and combinations stand on
    neither side.
    """
    sides = [
        [m for m in one if m in two and surfaces[m] in PROMPTED],
        [m for m in one if m in two and surfaces[m] in STEERED],
    ]
    methods = [m for side in sides for m in side]
    if not all(sides):
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    concepts = [c for c in one[methods[0]] if all(c in judge[m] for judge in (one, two) for m in methods)]

    def gap(judge: Mapping[str, Mapping[str, float]], concept: str) -> float:
        prompted, steered = ([judge[m][concept] for m in side] for side in sides)
        return math.fsum(prompted) / len(prompted) - math.fsum(steered) / len(steered)

    return estimate([gap(one, c) - gap(two, c) for c in concepts])
