"""Methods against each other, generation by generation: win rates, Bradley–Terry, equal length.

Invariant: scores are `[concepts, samples]` of the same generations in the same order, NaN where there is no
rating; a concept counts as one whatever its number of samples in `win_rate` and `length_controlled`, and
every interval takes the concept as the unit that is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy  # its parts load when they are asked for

from bench.core.content import Array
from bench.stats.intervals import Estimate, resamples, studentised

TIE = 1e-6
"""Scores closer than this are tied, as in AxBench's win rate."""
Per = Literal["generation", "concept"]
PER: tuple[Per, ...] = ("generation", "concept")
"""What a win rate counts."""
REFITS = 999
"""Bootstrap resamples of a Bradley–Terry model."""


def win_rate(one: Array, two: Array, per: Per = "generation") -> Estimate:
    """Share of generations (or of concepts, by their means) that `one` wins; a tie is half a win.

    The interval is Korn and Graubard's (1998): Clopper–Pearson at the effective sample size that the spread
    between concepts implies. It stays within [0, 1] and keeps a width where every concept is won.
    """
    both = ~np.isnan(one) & ~np.isnan(two)
    kept = both.any(1)
    difference = np.where(both, one - two, 0.0)[kept]
    both = both[kept]
    if per == "concept":
        difference = difference.sum(1, keepdims=True) / both.sum(1, keepdims=True)
        both = np.ones_like(difference, dtype=bool)
    won = np.where(np.abs(difference) < TIE, 0.5, difference > 0)
    values = (won * both).sum(1) / both.sum(1)
    n, compared = len(values), int(both.sum())
    mean = float(values.mean()) if n else float("nan")
    if n < 2:
        return Estimate(mean, float("nan"), float("nan"), n)
    squared = values.var(ddof=1) / n
    size = float(n)
    if squared > 0:
        small = scipy.stats.t.ppf(0.975, max(compared - 1, n - 1)) / scipy.stats.t.ppf(0.975, n - 1)
        size = min(compared, mean * (1 - mean) / squared * small**2)
    hits = mean * size
    low = scipy.stats.beta.ppf(0.025, hits, size - hits + 1) if hits > 0 else 0.0
    high = scipy.stats.beta.ppf(0.975, hits + 1, size - hits) if hits < size else 1.0
    return Estimate(mean, float(low), float(high), n)


@dataclass(frozen=True)
class LengthControlled:
    """A paired difference as it is, and as it would be at equal length."""

    plain: float
    equal: Estimate
    slope: float
    """Score per unit of length; NaN where all pairs differ in length by the same amount, or not at all."""
    longer: float
    """Mean extra length of the first method."""


def length_controlled(one: Array, two: Array, length_one: Array, length_two: Array) -> LengthControlled:
    """Difference `one` minus `two` with generation length regressed out.

    Each pair shares its concept and instruction, so their effects cancel in the differences d and, for the
    lengths, g; d = δ + β g + ε by least squares (concepts of equal weight) gives δ, the difference at equal
    length. Its interval is a bootstrap-t over concepts with the cluster-robust (sandwich) error.
    """
    known = ~np.isnan(one + two + length_one + length_two)
    kept = known.any(1)
    known = known[kept]
    d, g = (np.where(known, (a - b)[kept], 0.0) for a, b in ((one, two), (length_one, length_two)))
    n, counts = len(d), known.sum(1)
    plain, longer = (float((x.sum(1) / counts).mean()) if n else float("nan") for x in (d, g))
    spread = float(np.sqrt(np.where(known, (g - longer) ** 2, 0).sum() / max(1, known.sum())))
    identified = spread > 1e-9 * (1 + abs(longer))
    x = np.stack([known.astype(float), g / spread] if identified else [known.astype(float)], -1)
    # per concept: its share of X'X and X'd
    inner = np.einsum("cip,ciq->cpq", x, x) / counts[:, None, None]
    outer = np.einsum("cip,ci->cp", x, d) / counts[:, None]
    if n < 2:
        return LengthControlled(plain, Estimate(float("nan"), float("nan"), float("nan"), n), float("nan"), longer)
    (fitted,), (error,) = _least_squares(inner, outer, np.ones((1, n)))
    delta = fitted[0]
    low, high = (delta, delta)
    if error > 1e-12 * np.abs(d).max():
        parts = [_least_squares(inner, outer, part) for part in _in_parts(resamples(n), outer.shape[1])]
        again, errors = (np.concatenate(each) for each in zip(*parts, strict=True))
        low, high = studentised(delta, error, again[:, 0], errors)
    slope = float(fitted[1] / spread) if identified else float("nan")
    return LengthControlled(plain, Estimate(_settled(delta), _settled(low), _settled(high), n), slope, longer)


def _least_squares(inner: Array, outer: Array, drawn: Array) -> tuple[Array, Array]:
    """Coefficients `[b, p]` and the first one's cluster-robust error `[b]`, concept c drawn `drawn[b, c]` times."""
    n = len(inner)
    bread = np.linalg.pinv(np.einsum("bc,cpq->bpq", drawn, inner), hermitian=True)
    fitted = np.einsum("bpq,bq->bp", bread, drawn @ outer)
    scores = outer - np.einsum("cpq,bq->bcp", inner, fitted)
    influence = np.einsum("bp,bcp->bc", bread[:, 0], scores)
    return fitted, np.sqrt((drawn * influence**2).sum(1) * n / (n - 1))


@dataclass(frozen=True)
class BradleyTerry:
    """Abilities on the log scale around 0: `1 / (1 + exp(b - a))` of the decided generations go to a over b."""

    abilities: Mapping[str, Estimate]
    ties: float
    """Davidson's ν: equal methods tie in ν / (2 + ν) of generations."""


def bradley_terry(scores: Mapping[str, Array], prior: float = 0.5) -> BradleyTerry:
    """Abilities of several methods from all their pairs, with ties (Davidson 1970), by maximum likelihood.

    A wins against b with probability ∝ e^a, loses with e^b, ties with ν e^((a+b)/2). Each method also has
    `prior` wins, losses and ties against a phantom of ability 0, so that one which wins or loses everything
    gets a large ability and not an infinite one; how large is then the prior's doing, and its interval is NaN
    (as it is where concepts do not differ at all).
    Abilities are centred on the methods without that trouble (Ford's condition: each has, over others, scored
    against each). Intervals: bootstrap-t over concepts, every resample fitted anew, studentised by the
    cluster-robust error.
    """
    names = list(scores)
    wins, ties = _outcomes(np.stack([scores[name] for name in names]), prior)
    n, size = len(wins) - 1, len(names)
    # The prior is one more row of counts, drawn once in every resample.
    drawn = np.pad(np.vstack([np.ones(n), resamples(n, REFITS)]), ((0, 0), (0, 1)), constant_values=1)
    found = scipy.optimize.minimize(
        lambda theta: -_likelihood(theta, wins.sum(0), ties.sum(0)),
        np.zeros(size + 1),
        jac=lambda theta: -_slopes(theta[None], wins, ties)[0].sum(0),
        hess=lambda theta: -_hessian(theta[None], _played(drawn[:1], wins, ties))[0],
        method="trust-exact",
    )
    won = wins.sum(0)[:-1, :-1]
    _, group = scipy.sparse.csgraph.connected_components(won + ties.sum(0)[:-1, :-1] > 0, connection="strong")
    finite = group == np.bincount(group).argmax()
    centre = np.eye(size) - np.outer(finite / finite.sum(), np.ones(size))
    parts = [_refitted(found.x, part, wins, ties, centre) for part in _in_parts(drawn, size)]
    theta, errors = (np.concatenate(each) for each in zip(*parts, strict=True))
    abilities = theta[:, :-1] @ centre
    rows = {}
    for i, name in enumerate(names):
        bounds: tuple[Array, ...] = (np.array(np.nan), np.array(np.nan))
        if n > 1 and finite[i] and finite.sum() > 1 and errors[0, i] > 1e-9:
            bounds = studentised(abilities[0, i], errors[0, i], abilities[1:, i], errors[1:, i])
        rows[name] = Estimate(_settled(abilities[0, i]), _settled(bounds[0]), _settled(bounds[1]), n)
    return BradleyTerry(rows, float(np.exp(theta[0, -1])))


def _refitted(start: Array, drawn: Array, wins: Array, ties: Array, centre: Array) -> tuple[Array, Array]:
    """Parameters `[b, p]` where concept c is drawn `drawn[b, c]` times, and the abilities' cluster-robust errors.

    The likelihood is concave and each resample starts near its maximum: Newton's steps, kept below 1, end there.
    """
    n, totals, theta = len(wins) - 1, _played(drawn, wins, ties), np.tile(start, (len(drawn), 1))
    for _ in range(100):
        slope = np.einsum("bc,bcp->bp", drawn, _slopes(theta, wins, ties))
        step = np.linalg.solve(_hessian(theta, totals), -slope[..., None])[..., 0]
        theta = theta + step / np.maximum(1, np.abs(step).max(-1, keepdims=True))
        if np.abs(step).max() < 1e-8:
            break
    scored = _slopes(theta, wins, ties)[:, :-1]
    influence = np.linalg.solve(_hessian(theta, totals), scored.swapaxes(1, 2))[:, :-1].swapaxes(1, 2) @ centre
    return theta, np.sqrt(np.einsum("bc,bcm->bm", drawn[:, :-1], influence**2) * n / max(1, n - 1))


def _played(drawn: Array, wins: Array, ties: Array) -> Array:
    """Games of each pair in each resample `[b, methods + 1, methods + 1]`."""
    return np.asarray(np.tensordot(drawn, wins + wins.swapaxes(1, 2) + ties, 1))


def _in_parts(drawn: Array, width: int) -> list[Array]:
    """Resamples `[b, concepts]` some at a time, of which each makes `width` numbers a concept: all of hundreds of
    concepts make gigabytes."""
    return np.array_split(drawn, 1 + drawn.size * width // 2**21)


def _settled(value: Array) -> float:
    """Without the last bits, which depend on the number of threads, and without a negative zero."""
    return round(float(value), 9) + 0.0


def _outcomes(scores: Array, prior: float) -> tuple[Array, Array]:
    """Wins of row over column, and ties, of each concept from `[methods, concepts, samples]`.

    The phantom is the last row and column, its games with everyone the last block.
    """
    methods, n, _ = scores.shape
    wins = np.zeros((n + 1, methods + 1, methods + 1))
    ties = np.zeros_like(wins)
    for c, block in enumerate(scores.transpose(1, 0, 2)):
        gap = block[:, None] - block[None]  # NaN compares false
        wins[c, :-1, :-1] = (gap >= TIE).sum(-1)
        ties[c, :-1, :-1] = (np.abs(gap) < TIE).sum(-1) * (1 - np.eye(methods))
    for counts in (wins, ties):
        counts[-1, -1, :-1] = counts[-1, :-1, -1] = prior
    return wins, ties


def _chances(theta: Array) -> tuple[Array, Array]:
    """Probability that row beats column and that they tie, `[b, methods + 1, methods + 1]`."""
    ability = np.concatenate([theta[..., :-1], np.zeros_like(theta[..., :1])], -1)
    half = (ability[..., :, None] - ability[..., None, :]) / 2
    logs = np.stack(np.broadcast_arrays(half, -half, theta[..., -1, None, None]))
    shares = np.exp(logs - logs.max(0))
    shares /= shares.sum(0)
    return shares[0], shares[2]


def _likelihood(theta: Array, wins: Array, ties: Array) -> float:
    win, tie = _chances(theta)
    return float((wins * np.log(win)).sum() + (ties * np.log(tie)).sum() / 2)


def _slopes(theta: Array, wins: Array, ties: Array) -> Array:
    """Gradient of each concept's log-likelihood `[b, concepts, p]`: half of net wins and ties above expectation."""
    win, tie = _chances(theta)
    mirrored = wins.swapaxes(1, 2)
    games = wins + mirrored + ties
    net = (wins - mirrored).sum(-1) - np.einsum("cij,bij->bci", games, win - win.swapaxes(1, 2))
    tied = ties.sum((1, 2)) - np.einsum("cij,bij->bc", games, tie)
    return np.concatenate([net[..., :-1], tied[..., None]], -1) / 2


def _hessian(theta: Array, games: Array) -> Array:
    """Hessian `[b, p, p]` of the log-likelihood for the games `[b, ...]` played: minus a covariance."""
    win, tie = _chances(theta)
    margin = win - win.swapaxes(1, 2)
    spread = games * (1 - tie - margin**2) / 4
    found = np.zeros((*theta.shape, theta.shape[-1]))
    found[:, :-1, :-1] = spread[:, :-1, :-1]
    index = np.arange(theta.shape[-1] - 1)
    found[:, index, index] -= spread.sum(-1)[:, :-1]
    found[:, :-1, -1] = found[:, -1, :-1] = (games * margin * tie).sum(-1)[:, :-1] / 2
    found[:, -1, -1] = -(games * tie * (1 - tie)).sum((1, 2)) / 2
    return found
