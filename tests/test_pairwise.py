"""Win rates, Bradley–Terry and length-controlled differences: by hand, by theory, and by simulation.

Simulations use fixed seeds; each says how many replications it draws and what its standard error is.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize

from bench import stats
from bench.core.content import Array
from bench.stats import pairwise
from bench.stats.pairwise import bradley_terry, length_controlled, win_rate


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer resamples, where a test draws many intervals."""
    monkeypatch.setattr(stats, "RESAMPLES", 499)
    monkeypatch.setattr(pairwise, "REFITS", 199)


# win rate


def test_a_win_rate_counts_ties_half_and_skips_what_has_no_rating() -> None:
    one = np.array([[1.0, 0.5, 2.0], [0.0, np.nan, 1.0]])
    two = np.array([[0.5, 0.5 + 1e-8, 2.5], [0.0, 1.0, 0.0]])
    assert win_rate(one, two).mean == pytest.approx((1.5 / 3 + 1.5 / 2) / 2)
    assert win_rate(one, two, "concept").mean == pytest.approx((0.5 + 1.0) / 2)  # 3.5 to 3.5: a tie
    assert win_rate(two, one).mean == pytest.approx(1 - win_rate(one, two).mean)
    assert win_rate(one, two).n == 2


def test_winning_everything_still_leaves_doubt_and_no_concept_no_answer() -> None:
    """At 12 concepts a method that loses each with chance .265 wins all of them 1 time in 40."""
    e = win_rate(np.ones((12, 6)), np.zeros((12, 6)))
    assert (e.mean, e.high) == (1, 1)
    assert e.low == pytest.approx(0.025 ** (1 / 12))
    back = win_rate(np.zeros((12, 6)), np.ones((12, 6)))
    assert (back.low, back.high) == pytest.approx((0, 1 - e.low))
    ties = win_rate(np.ones((12, 6)), np.ones((12, 6)))
    assert ties.low < ties.mean == 0.5 < ties.high
    assert math.isnan(win_rate(np.ones((1, 6)), np.zeros((1, 6))).low)
    assert win_rate(np.full((2, 3), np.nan), np.ones((2, 3))).n == 0


@pytest.mark.slow
@pytest.mark.parametrize("concepts", [12, 30])
@pytest.mark.parametrize(("chance", "spread"), [(0.5, 0.0), (0.7, 0.15), (0.95, 0.05)])
def test_the_interval_of_a_win_rate_covers_at_least_95_percent(concepts: int, chance: float, spread: float) -> None:
    """700 experiments of 6 generations a concept whose own chance is chance ± spread; standard error .0082."""
    rng = np.random.default_rng([1, concepts])
    own = chance + spread * rng.choice([-1.0, 1.0], (700, concepts, 1))
    outcomes = (rng.random((700, concepts, 6)) < own).astype(float)
    found = [win_rate(x, 1 - x) for x in outcomes]
    assert np.mean([e.low <= chance <= e.high for e in found]) > 0.95 - 3 * 0.0082


# length


def lengths_and_scores(
    rng: np.random.Generator, concepts: int, effect: float, slope: float
) -> tuple[Array, Array, Array, Array]:
    """One method writes 12 tokens more, each token is worth `slope`; concepts differ in level and in effect."""
    length_one, length_two = rng.normal(42, 10, (concepts, 6)), rng.normal(30, 10, (concepts, 6))
    level = rng.normal(1, 0.5, (concepts, 1)) + rng.normal(0, 0.3, (concepts, 6))
    own = effect + rng.normal(0, 0.2, (concepts, 1))
    one = level + own + slope * length_one + rng.normal(0, 0.3, (concepts, 6))
    two = level + slope * length_two + rng.normal(0, 0.3, (concepts, 6))
    return one, two, length_one, length_two


def test_a_difference_that_is_all_length_vanishes_at_equal_length() -> None:
    found = length_controlled(*lengths_and_scores(np.random.default_rng(2), 60, 0.0, 0.03))
    assert found.plain == pytest.approx(0.36, abs=0.1)
    assert found.equal.low < 0 < found.equal.high
    assert found.slope == pytest.approx(0.03, abs=0.005)
    assert found.longer == pytest.approx(12, abs=2)


@pytest.mark.slow
@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("concepts", [12, 30])
def test_the_interval_at_equal_length_covers_95_percent(concepts: int) -> None:
    """1,500 experiments of 6 generations a concept, normal; standard error .0056."""
    rng = np.random.default_rng([3, concepts])
    covered = [
        e.low <= 0.1 <= e.high
        for e in (length_controlled(*lengths_and_scores(rng, concepts, 0.1, 0.02)).equal for _ in range(1500))
    ]
    assert 0.935 <= np.mean(covered) <= 0.965 if concepts == 30 else np.mean(covered) > 0.92


def test_without_lengths_to_tell_apart_the_difference_is_the_plain_one_and_its_interval_the_estimate_s() -> None:
    rng = np.random.default_rng(4)
    one, two = rng.normal(0.4, 1, (12, 6)), rng.normal(0, 1, (12, 6))
    found = length_controlled(one, two, np.full((12, 6), 48.0), np.full((12, 6), 40.0))
    e = stats.estimate((one - two).mean(1))
    assert math.isnan(found.slope)
    assert found.longer == 8
    assert (found.equal.mean, found.equal.low, found.equal.high) == pytest.approx((e.mean, e.low, e.high))
    assert found.plain == pytest.approx(e.mean)


def test_the_slope_and_difference_are_least_squares_and_gaps_are_left_out() -> None:
    rng = np.random.default_rng(5)
    one, two, long, short = lengths_and_scores(rng, 8, 0.3, 0.02)
    d, g = (one - two).ravel(), (long - short).ravel()
    expected = np.linalg.lstsq(np.stack([np.ones_like(g), g], 1), d, rcond=None)[0]
    found = length_controlled(one, two, long, short)
    assert (found.equal.mean, found.slope) == pytest.approx(expected)
    wide = [np.hstack([x, np.full((8, 1), np.nan)]) for x in (one, two, long, short)]
    again = length_controlled(*wide)
    assert vars(again.equal) == pytest.approx(vars(found.equal))
    assert again.slope == pytest.approx(found.slope)


# Bradley–Terry


def contests(rng: np.random.Generator, abilities: Array, ties: float, shape: tuple[int, int]) -> dict[str, Array]:
    """Scores of two methods whose wins, losses and ties follow Davidson's model exactly."""
    a, b = abilities
    chances = np.array([math.exp((a - b) / 2), math.exp((b - a) / 2), ties])
    outcome = rng.choice(3, size=shape, p=chances / chances.sum())
    return {"a": (outcome == 0) * 1.0, "b": (outcome == 1) * 1.0}


def test_two_methods_have_the_closed_form() -> None:
    """Of 50 wins, 20 losses and 30 ties: ability gap log(50 / 20), ν = 30 / √(50 · 20)."""
    outcome = np.repeat([1.0, -1.0, 0.0], [50, 20, 30]).reshape(10, 10)
    found = bradley_terry({"a": outcome, "b": np.zeros((10, 10))}, prior=1e-6)
    gap = found.abilities["a"].mean - found.abilities["b"].mean
    assert gap == pytest.approx(math.log(50 / 20), abs=1e-4)
    assert found.ties == pytest.approx(30 / math.sqrt(50 * 20), abs=1e-4)
    assert found.abilities["a"].mean == pytest.approx(-found.abilities["b"].mean)


def test_the_maximum_is_the_one_a_plain_optimiser_finds() -> None:
    """Another way to the same quantity: the log-likelihood written out pair by pair, without derivatives."""
    rng = np.random.default_rng(6)
    scores = {f"m{i}": np.round(rng.normal(0.3 * i, 1, (8, 5)), 0) for i in range(4)}
    rows = [x.ravel() for x in scores.values()]

    def loss(theta: Array) -> float:
        ability, tie, total = theta[:4], theta[4], 0.0
        for i in range(4):
            for j in range(i):
                half = (ability[i] - ability[j]) / 2
                norm = math.log(math.exp(half) + math.exp(-half) + math.exp(tie))
                won, lost = (rows[i] > rows[j]).sum(), (rows[i] < rows[j]).sum()
                total += won * half - lost * half + (rows[i] == rows[j]).sum() * tie - len(rows[i]) * norm
        return float(-total + 1e-3 * ability.sum() ** 2)

    plain = optimize.minimize(loss, np.zeros(5), method="BFGS", options={"gtol": 1e-8}).x
    found = bradley_terry(scores, prior=1e-6)
    assert [e.mean for e in found.abilities.values()] == pytest.approx(plain[:4] - plain[:4].mean(), abs=1e-3)
    assert found.ties == pytest.approx(math.exp(plain[4]), abs=1e-3)


def test_a_method_that_always_wins_has_a_finite_ability_and_no_interval() -> None:
    rng = np.random.default_rng(7)
    scores = {f"m{i}": rng.normal(0.3 * i, 1, (12, 6)) for i in range(4)}
    alone = bradley_terry(scores, prior=1e-3).abilities
    found = bradley_terry(scores | {"best": scores["m3"] + 50, "worst": scores["m3"] - 50}, prior=1e-3).abilities
    assert found["best"].mean > max(e.mean for e in alone.values()) + 2
    assert found["worst"].mean < min(e.mean for e in alone.values()) - 2
    assert math.isfinite(found["best"].mean)
    assert math.isnan(found["best"].low)
    assert math.isnan(found["worst"].high)
    for name, e in alone.items():  # the others are compared as if neither were there
        assert found[name].mean == pytest.approx(e.mean, abs=0.05)
        assert found[name].low < found[name].mean < found[name].high


def test_methods_that_always_tie_stand_together_and_unrated_generations_count_for_nothing() -> None:
    same = bradley_terry({"a": np.ones((6, 4)), "b": np.ones((6, 4))}).abilities
    assert (same["a"].mean, same["b"].mean) == pytest.approx((0, 0), abs=1e-9)
    rng = np.random.default_rng(8)
    scores = {f"m{i}": rng.normal(0.5 * i, 1, (8, 4)) for i in range(3)}
    gaps = {name: np.hstack([x, np.full((8, 2), np.nan)]) for name, x in scores.items()}
    one, other = (bradley_terry(x).abilities for x in (scores, gaps))
    assert [vars(e) for e in one.values()] == [pytest.approx(vars(e)) for e in other.values()]


def test_bradley_terry_does_not_depend_on_the_order_of_methods() -> None:
    rng = np.random.default_rng(9)
    scores = {f"m{i}": rng.normal(0.3 * i, 1, (10, 5)) for i in range(5)}
    there, back = (bradley_terry(x).abilities for x in (scores, dict(reversed(scores.items()))))
    for name in scores:
        assert vars(there[name]) == pytest.approx(vars(back[name]), abs=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("concepts", [12, 30])
def test_the_interval_of_an_ability_covers_95_percent(concepts: int) -> None:
    """300 experiments of 6 generations a concept under Davidson's model: a gap of 1, ν = 0.5; standard error .013."""
    rng = np.random.default_rng([10, concepts])
    ability = np.array([0.5, -0.5])
    found = [bradley_terry(contests(rng, ability, 0.5, (concepts, 6))) for _ in range(300)]
    covered = np.mean([f.abilities["a"].low <= 0.5 <= f.abilities["a"].high for f in found])
    assert 0.92 <= covered <= 0.98
    assert np.mean([f.abilities["a"].mean for f in found]) == pytest.approx(0.5, abs=0.05)
    assert np.mean([f.ties for f in found]) == pytest.approx(0.5, abs=0.05)
