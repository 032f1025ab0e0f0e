"""Where scores vary, and how many concepts and instructions a comparison needs.

Invariant: pure functions; a variance estimate may be negative (it is unbiased), a share or a prediction never is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy  # its parts load when they are asked for

from bench import stats
from bench.core.content import Array
from bench.core.errors import UsageError

MOST = 10_000
"""Designs above this many concepts are not proposed."""
FEW, SMALL, STRICT = 10, 20, 0.02
"""Below `FEW` concepts, or up to `SMALL` at levels below `STRICT`, sign flips find less than a t-test."""
DRAWS = 4000
"""Experiments simulated where that is so: the power's standard error is below .008."""


@dataclass(frozen=True)
class Components:
    """Variance by source, unbiased (so a source without variance may come out below 0)."""

    parts: Mapping[str, float]

    @property
    def shares(self) -> dict[str, float]:
        """Each source's share of the whole; what is below 0 counts as 0."""
        kept = {name: max(0.0, value) for name, value in self.parts.items()}
        whole = math.fsum(kept.values())
        return {name: value / whole if whole else 0.0 for name, value in kept.items()}


def components(scores: Array, factors: Sequence[str], nested: Mapping[str, str] | None = None) -> Components:
    """Random-effects variance of `scores`, an array with one axis per factor, NaN where nothing was measured.

    `nested={"instruction": "concept"}` says that instruction 0 of one concept is not that of another. Sources
    are all combinations of factors that the nesting leaves, e.g. concept, judge, concept × judge; the last one
    holds the noise of a single measurement and is called residual (a factor with one level: leave it out).

    Two measurements that agree in some factors and differ in others differ, in half their mean square, by
    exactly the variances of the sources in which they differ. Averaged over all pairs of each kind that gives
    as many equations as sources (Koch 1968): the ANOVA estimates in a balanced table, unbiased in any other.
    """
    nested = nested or {}
    axes = range(len(factors))
    if scores.ndim != len(factors) or 1 in scores.shape:
        raise UsageError(
            f"scores of shape {scores.shape} for {', '.join(factors)}: one axis of ≥ 2 levels for each factor"
        )
    above = {factors.index(inner): factors.index(outer) for inner, outer in nested.items()}

    def whole(agreed: frozenset[int]) -> frozenset[int]:
        """Without the factors whose levels mean nothing apart from an outer factor that differs."""
        kept = frozenset(k for k in agreed if k not in above or above[k] in agreed)
        return kept if kept == agreed else whole(kept)

    subsets = [frozenset(s) for k in range(len(factors) + 1) for s in itertools.combinations(axes, k)]
    known = ~np.isnan(scores)
    values = np.where(known, scores - np.nanmean(scores), 0.0)
    # Ordered pairs that agree at least in a subset, and the sum of their half squared differences ...
    pairs: dict[frozenset[int], Array] = {}
    for agreed in subsets:
        rest = tuple(k for k in axes if k not in agreed)
        n, total, squares = (x.sum(rest) for x in (known.astype(float), values, values**2))
        pairs[agreed] = np.array([(n**2).sum(), (n * squares - total**2).sum()])
    # ... and in that subset only.
    for agreed in reversed(subsets):
        pairs[agreed] = pairs[agreed] - sum((pairs[s] for s in subsets if s > agreed), np.zeros(2))
    kinds = [s for s in subsets if whole(s) == s]
    sums = {kind: sum((pairs[s] for s in subsets if whole(s) == kind), np.zeros(2)) for kind in kinds}
    sources, agreeing = kinds[1:], kinds[:-1]  # nothing is no source; pairs that agree in everything are one
    if empty := [kind for kind in agreeing if not sums[kind][0]]:
        what = ", ".join(factors[k] for k in sorted(empty[0])) or "nothing"
        raise UsageError(f"no two measurements agree in {what} alone: too sparse to tell {', '.join(factors)} apart")
    differs = np.array([[not source <= kind for source in sources] for kind in agreeing], float)
    found = np.linalg.solve(differs, [sums[kind][1] / sums[kind][0] for kind in agreeing])
    names = [_named(source, factors, above) for source in sources[:-1]] + ["residual"]
    return Components(dict(zip(names, map(float, found), strict=True)))


def _named(source: frozenset[int], factors: Sequence[str], above: Mapping[int, int]) -> str:
    return " × ".join(factors[k] for k in sorted(source) if k not in {above.get(j) for j in source})


@dataclass(frozen=True)
class Pilot:
    """What a paired pilot says about the spread of differences: variances of its three nested levels."""

    concepts: int
    instructions: float
    """Mean number per concept."""
    difference: float
    concept: float
    instruction: float
    """Within a concept; with one generation each, it holds the residual as well."""
    residual: float
    """Between generations of one instruction; 0 where there is one of each."""

    def variance(self, instructions: float, repeats: int = 1) -> float:
        """Of a concept's mean difference."""
        return self.concept + (self.instruction + self.residual / repeats) / instructions

    def scaled(self, factor: float) -> Pilot:
        """The same pilot with all variances times `factor`."""
        parts = {name: factor * getattr(self, name) for name in ("concept", "instruction", "residual")}
        return replace(self, **parts)

    def spread(self, level: float = 0.95) -> tuple[float, float]:
        """Factors between which the variance of concept means lies, by what so many concepts can tell (χ²)."""
        df = self.concepts - 1
        low, high = scipy.stats.chi2.ppf([(1 - level) / 2, (1 + level) / 2], df)
        return float(df / high), float(df / low)


def pilot(differences: Array) -> Pilot:
    """Nested variance split of paired differences `[concepts, instructions, repeats]`, NaN where not measured.

    Negative estimates count as 0; a concept without any measurement is left out.
    """
    differences = differences[~np.isnan(differences).all((1, 2))]
    if differences.shape[0] < 2 or differences.shape[1] < 2:
        raise UsageError(f"a pilot of {differences.shape[:2]} concepts and instructions: two of each are needed")
    known = ~np.isnan(differences)
    means = np.array([np.nanmean(row) for row in differences])
    sizes = known.any(2).sum(1)
    if differences.shape[2] > 1:
        order = {"instruction": "concept", "repeat": "instruction"}
        parts = components(differences, ("concept", "instruction", "repeat"), order).parts
    else:
        found = components(differences[..., 0], ("concept", "instruction"), {"instruction": "concept"}).parts
        parts = {"concept": found["concept"], "instruction": found["residual"], "residual": 0.0}
    kept = (max(0.0, parts[name]) for name in ("concept", "instruction", "residual"))
    return Pilot(len(means), float(sizes.mean()), float(means.mean()), *kept)


def attained(alpha: float, concepts: int) -> float:
    """Share of null experiments in which the sign-flip test of `stats.paired` gives p < `alpha`.

    Its p-values are multiples of 2 / 2^n, or of 1 / 10,000 where flips are sampled (above 13 concepts).
    """
    steps = 2 ** (concepts - 1) if concepts <= 13 else stats.RESAMPLES + 1
    return max(0, math.ceil(alpha * steps) - 1) / steps


def power(
    found: Pilot, difference: float, concepts: int, instructions: float, alpha: float = 0.05, family: int = 1
) -> float:
    """Chance that a true `difference` is seen (two-sided p < `alpha`) with so many concepts and instructions each.

    By the noncentral t with `concepts` - 1 degrees of freedom; where sign flips find less than a t-test
    (`FEW`, `SMALL`, `STRICT`), by that very test on `DRAWS` normal experiments. With a `family` of comparisons,
    the chance at `alpha / family`: Holm's first and hardest step.
    """
    level = attained(alpha / family, concepts)
    if concepts < 2 or level == 0:
        return 0.0
    error = math.sqrt(found.variance(instructions) / concepts)
    if error == 0:
        return float(difference != 0)
    shift = abs(difference) / error
    if concepts < FEW or (concepts <= SMALL and alpha / family < STRICT):
        noise = np.random.default_rng(concepts).standard_normal((DRAWS, concepts))
        return float((stats.sign_flip(noise + shift / math.sqrt(concepts)) < alpha / family).mean())
    bound = scipy.stats.t.isf(level / 2, concepts - 1)
    other_side = scipy.stats.nct.cdf(-bound, concepts - 1, shift)  # scipy gives NaN where it vanishes
    return float(scipy.stats.nct.sf(bound, concepts - 1, shift) + np.nan_to_num(other_side))


def needed(
    found: Pilot, difference: float, instructions: float, target: float = 0.8, alpha: float = 0.05, family: int = 1
) -> int | None:
    """Fewest concepts that see `difference` with power `target`; None above `MOST`."""
    low, high = 1, 2
    while power(found, difference, high, instructions, alpha, family) < target:
        if high == MOST:
            return None
        low, high = high, min(2 * high, MOST)
    while high - low > 1:
        middle = (low + high) // 2
        fits = power(found, difference, middle, instructions, alpha, family) >= target
        low, high = (low, middle) if fits else (middle, high)
    return high


def detectable(
    found: Pilot, concepts: int, instructions: float, target: float = 0.8, alpha: float = 0.05, family: int = 1
) -> float | None:
    """Smallest difference seen with power `target`; None where the test cannot reach the level at all."""
    if concepts < 2 or not attained(alpha / family, concepts):
        return None
    error = math.sqrt(found.variance(instructions) / concepts)
    if error == 0 or attained(alpha / family, concepts) >= target:
        return 0.0

    def missing(shift: float) -> float:
        return power(found, shift * error, concepts, instructions, alpha, family) - target

    top = 4.0
    while missing(top) < 0:  # a test that attains its level finds whatever is large enough
        top *= 2
    return float(error * scipy.optimize.brentq(missing, 0.0, top, xtol=1e-3))
