"""Statistics, held to what they claim: coverage, exact p-values, Holm's correction, shared ranks, AUROC.

Each number is checked against a simulation, a hand computation or another way to the same quantity.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from conftest import script
from hypothesis import given, settings, strategies as st

from bench import stats
from bench.stats.intervals import auroc, estimate
from bench.stats.significance import (
    Difference,
    crossed_error,
    equivalent,
    holm,
    paired,
    rank_intervals,
    sign_flip,
    significant,
    simultaneous,
    union,
)

NAN = float("nan")
coverage = script("benchmarks/coverage.py")


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer resamples, where a test draws many intervals."""
    monkeypatch.setattr(stats, "RESAMPLES", 499)


# estimate


MEASURED = coverage.measured()
"""The table of docs/statistics.md: 10,000 samples a cell, standard error .0022 at .95."""


@pytest.mark.slow
@pytest.mark.parametrize("shape", coverage.SHAPES)
def test_intervals_cover_95_percent_at_30_concepts(shape: str) -> None:
    """Normal and skewed: 4,000 fresh samples a distribution, standard error .0034."""
    found = coverage.coverage(shape, 30, "t", 4000, seed=1)
    assert 0.935 <= found <= 0.965
    assert 0.935 <= MEASURED[shape, "t", 30] <= 0.965
    assert found == pytest.approx(MEASURED[shape, "t", 30], abs=0.0145)  # 3.5 standard errors of the difference


@pytest.mark.slow
@pytest.mark.parametrize("n", [10, 12])
@pytest.mark.parametrize("shape", coverage.SHAPES)
def test_intervals_cover_above_92_percent_at_10_to_12_concepts(shape: str, n: int) -> None:
    found = coverage.coverage(shape, n, "t", 4000, seed=1)
    assert MEASURED[shape, "t", n] > 0.92
    assert found == pytest.approx(MEASURED[shape, "t", n], abs=0.0145)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "n"), [("normal", 30), ("exponential (skewness 2)", 12)])
def test_bca_intervals_cover_what_the_docs_say(shape: str, n: int) -> None:
    """2,000 samples: the difference to the table has a standard error of .006."""
    assert coverage.coverage(shape, n, "bca", 2000, seed=1) == pytest.approx(MEASURED[shape, "bca", n], abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("shape", coverage.HARD)
def test_the_docs_say_where_coverage_fails(shape: str) -> None:
    found = coverage.coverage(shape, 12, "t", 4000, seed=1)
    assert found == pytest.approx(MEASURED[shape, "t", 12], abs=0.022)  # 3.5 standard errors at .8


@pytest.mark.parametrize("form", ["t", "bca"])
def test_many_intervals_at_once_are_the_intervals_one_by_one(form: stats.Form) -> None:
    x = np.random.default_rng(6).exponential(size=(5, 12))
    x[3] = 0.7
    low, high = stats.intervals(x, form=form)
    for row, bounds in zip(x, zip(low, high, strict=True), strict=True):
        e = estimate(row, form=form)
        assert (e.low, e.high) == pytest.approx(bounds, rel=1e-9 if form == "t" else 5e-3)  # scipy draws in batches
    assert low[3] == high[3] == pytest.approx(0.7)


def test_the_bootstrap_t_equals_its_definition_resample_by_resample() -> None:
    x = np.random.default_rng(5).exponential(size=10)
    draws = x[np.random.default_rng(0).integers(10, size=(stats.RESAMPLES, 10))]
    error = x.std(ddof=1) / math.sqrt(10)
    ratios = (draws.mean(1) - x.mean()) / np.maximum(draws.std(1, ddof=1) / math.sqrt(10), error / 2)
    low, high = np.quantile(ratios, [0.025, 0.975])
    e = estimate(x)
    assert (e.low, e.high) == pytest.approx((x.mean() - high * error, x.mean() - low * error))


def test_bca_is_scipy_s_at_the_level_that_makes_up_for_small_samples() -> None:
    """Hesterberg (2015): z = 1.96 becomes √(n / (n - 1)) t; wider than the plain BCa, by less each concept more."""
    from scipy.stats import bootstrap

    x = np.random.default_rng(5).exponential(size=12)
    e = estimate(x, form="bca")
    plain = bootstrap((x,), np.mean, method="BCa", rng=np.random.default_rng(0)).confidence_interval
    wide = bootstrap((x,), np.mean, method="BCa", confidence_level=0.97846, rng=np.random.default_rng(0))
    assert e.low < plain.low < plain.high < e.high
    found = wide.confidence_interval
    assert (e.low, e.high) == pytest.approx((found.low, found.high), abs=0.01)


@pytest.mark.usefixtures("fast")
def test_a_90_percent_interval_lies_within_the_95_percent_one() -> None:
    x = np.random.default_rng(1).normal(size=12)
    wide, narrow = estimate(x), estimate(x, level=0.9)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


def test_the_interval_leans_towards_the_long_tail() -> None:
    """Bootstrap-t is not symmetric: with one large value the mean may well be larger still."""
    e = estimate([0.0, 0.1, 0.0, 0.2, 0.1, 0.0, 0.1, 0.2, 0.0, 1.8])
    assert e.high - e.mean > 1.3 * (e.mean - e.low)


def test_an_estimate_is_the_same_every_time_and_follows_scale_and_shift() -> None:
    x = np.random.default_rng(2).normal(size=12)
    one, again, moved = estimate(x), estimate(list(x)), estimate(10 + 3 * x)
    assert one == again
    assert (moved.mean, moved.low, moved.high) == pytest.approx([10 + 3 * v for v in (one.mean, one.low, one.high)])
    assert one.n == 12


@pytest.mark.parametrize("value", [0.0, 2.0, 0.7])
def test_constant_data_has_an_interval_of_no_width(value: float) -> None:
    e = estimate([value] * 12)
    assert (e.mean, e.low, e.high) == pytest.approx((value, value, value), abs=1e-9)
    assert e.n == 12


def test_one_concept_has_no_interval_and_none_has_no_mean() -> None:
    one, none = estimate([1.25]), estimate([])
    assert (one.mean, one.n) == (1.25, 1)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    assert none.n == 0
    assert math.isnan(none.mean)
    assert math.isnan(none.low)


def test_two_values_at_the_ends_of_the_scale_give_finite_bounds() -> None:
    """Half of all resamples of two values have no spread: they must not divide by zero."""
    e = estimate([0.0, 2.0])
    assert math.isfinite(e.low)
    assert math.isfinite(e.high)
    assert e.low < 1 < e.high


# paired


def test_ten_differences_of_one_sign_have_the_smallest_p_there_is_for_ten() -> None:
    rng = np.random.default_rng(3)
    base = rng.normal(1, 0.3, 10)
    d = paired(base + rng.uniform(0.1, 0.5, 10), base)
    assert d.p == pytest.approx(2 / 1024, abs=1e-12)
    assert d.n == 10
    assert 0 < d.low < d.mean < d.high


def test_the_sign_flip_p_equals_an_enumeration_by_hand() -> None:
    x = np.array([0.5, -0.2, 0.9, 0.3, -0.4, 0.8, 0.1])
    flips = [abs(np.mean(x * signs)) for signs in itertools.product((1, -1), repeat=len(x))]
    expected = np.mean([m >= abs(x.mean()) - 1e-12 for m in flips])
    assert sign_flip(x[None])[0] == pytest.approx(expected, abs=1e-12)
    assert paired(x, np.zeros(7)).p >= expected - 1e-12


def test_swapping_the_arguments_negates_the_difference_and_keeps_p() -> None:
    rng = np.random.default_rng(4)
    one, two = rng.normal(1, 0.5, 12), rng.normal(0.8, 0.5, 12)
    there, back = paired(one, two), paired(two, one)
    assert back.mean == pytest.approx(-there.mean)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))
    assert back.p == pytest.approx(there.p, abs=1e-12)
    assert back.detectable == pytest.approx(there.detectable)


def test_what_the_pairs_share_drops_out() -> None:
    """Concepts differ far more than methods do: an unpaired test would see nothing here."""
    rng = np.random.default_rng(5)
    concept = rng.normal(0, 100, 12)
    d = paired(concept + rng.normal(0.5, 0.1, 12), concept)
    assert d.p < 0.001
    assert d.high - d.low < 0.3


def test_equal_methods_differ_by_nothing() -> None:
    d = paired([0.5, 1.0, 2.0], [0.5, 1.0, 2.0])
    assert (d.mean, d.low, d.high, d.p, d.detectable) == (0, 0, 0, 1, 0)


def test_a_constant_difference_is_tested_like_any_other() -> None:
    d = paired([1.5] * 12, [1.0] * 12)
    assert d.mean == pytest.approx(0.5)
    assert d.p == pytest.approx(2 / 4096)


def test_one_pair_cannot_be_tested() -> None:
    d = paired([1.0], [0.5])
    assert (d.mean, d.n) == (0.5, 1)
    assert all(math.isnan(v) for v in (d.low, d.high, d.p, d.detectable))


def test_above_13_concepts_p_is_a_sampled_one_and_the_same_every_time() -> None:
    rng = np.random.default_rng(6)
    one, two = rng.normal(0.6, 1, 40), rng.normal(0, 1, 40)
    d = paired(one, two)
    assert d.p == paired(one, two).p
    assert 0 < d.p < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("n", [8, 12, 30])
@pytest.mark.parametrize("shape", ["normal", "heavy tails", "ratings"])
def test_p_under_no_difference_is_uniform(n: int, shape: str) -> None:
    """4,000 experiments: P(p ≤ a) = a at every p-value the test can give, and never more.

    Two methods whose scores are exchangeable within a concept: normal, Student's t with 2 degrees of freedom, and
    ratings of which 60 % are 0 (differences that are 0 make p larger than uniform).
    """
    rng = np.random.default_rng([8, n])
    if shape == "ratings":
        a, b = np.where(rng.random((2, 4000, n)) < 0.6, 0.0, rng.uniform(0.5, 2, (2, 4000, n)))
    else:
        a, b = rng.normal(size=(2, 4000, n)) if shape == "normal" else rng.standard_t(2, (2, 4000, n))
    p = sign_flip(a - b)
    steps = 2 ** min(n - 1, 12)
    grid = np.arange(1, 20) / 20
    reachable = np.floor(grid * steps) / steps
    share = (p[:, None] <= reachable + 1e-9).mean(0)
    assert (share <= reachable + 0.026).all()  # Dvoretzky–Kiefer–Wolfowitz at 4,000: 1 in 200
    if shape != "ratings":
        assert (share >= reachable - 0.026).all()


@pytest.mark.parametrize("n", [7, 13])
def test_sign_flips_are_scipy_s_permutation_test(n: int) -> None:
    from scipy.stats import permutation_test

    x = np.round(np.random.default_rng(9).normal(0.3, 1, (6, n)), 1)  # rounded: ties among flips
    expected = [permutation_test((row,), np.mean, permutation_type="samples").pvalue for row in x]
    assert sign_flip(x) == pytest.approx(expected)


def test_the_detectable_difference_is_found_in_about_four_of_five_repetitions() -> None:
    """By simulation with the t-test it is derived from."""
    from scipy.stats import ttest_1samp

    rng = np.random.default_rng(9)
    unit = paired(np.concatenate([np.ones(6), -np.ones(6)]), np.zeros(12))
    spread = np.concatenate([np.ones(6), -np.ones(6)]).std(ddof=1)
    draws = rng.normal(unit.detectable, spread, (2000, 12))
    assert np.mean(ttest_1samp(draws, 0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.04)


# holm


def test_holm_equals_hand_computed_values() -> None:
    # Sorted .005 .01 .03 .04, times 4 3 2 1: .02 .03 .06 .04, made monotone: .02 .03 .06 .06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])  # capped at 1
    assert holm([0.02]) == pytest.approx([0.02])
    assert holm([]) == []
    assert holm([0.02, 0.02, 0.02]) == pytest.approx([0.06] * 3)


def test_holm_over_26_methods_at_ten_concepts_reaches_nothing() -> None:
    """Why the mini set has at least twelve concepts (DESIGN §5)."""
    assert min(holm([2 / 2**10] * 26)) > 0.05
    assert min(holm([2 / 2**12] * 26)) < 0.05


def test_nan_stays_nan_and_counts_for_nothing() -> None:
    found = holm([0.01, NAN, 0.02, NAN])
    assert found[0] == pytest.approx(0.02)
    assert found[2] == pytest.approx(0.02)
    assert math.isnan(found[1])
    assert math.isnan(found[3])


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["normal", "ratings"])
def test_holm_keeps_the_family_wise_error_at_5_percent(shape: str) -> None:
    """4,000 families of 8 methods against one reference at 12 concepts, 3 of them truly better; a standard error .0034.

    The 8 differences share the reference, so they depend on each other, as on a leaderboard.
    """
    rng = np.random.default_rng(21)
    noise = rng.normal(0, 0.3, (4000, 12, 9))
    if shape == "ratings":
        noise = np.where(rng.random(noise.shape) < 0.6, 0.0, rng.uniform(0.5, 2, noise.shape))
    differences = noise[..., 1:] - noise[..., :1]
    differences[..., :3] += 0.5
    p = sign_flip(differences.swapaxes(1, 2).reshape(-1, 12)).reshape(4000, 8)
    wrong = np.mean([min(holm(row)[3:]) < 0.05 for row in p])
    alone = np.mean((p[:, 3:] < 0.05).any(1))
    assert wrong <= 0.05 + 3 * 0.0034
    assert alone > 0.1  # what there is to correct


@given(st.lists(st.floats(0, 1) | st.just(NAN), max_size=12))
@settings(deadline=None)
def test_holm_is_monotone_and_lies_between_p_and_bonferroni(pvalues: list[float]) -> None:
    found = holm(pvalues)
    known = [(p, q) for p, q in zip(pvalues, found, strict=True) if not math.isnan(p)]
    assert [math.isnan(q) for q in found] == [math.isnan(p) for p in pvalues]
    for p, q in known:
        assert p <= q <= min(1.0, p * len(known)) + 1e-12
    in_order = [q for _, q in sorted(known)]
    assert in_order == sorted(in_order)
    assert [round(q, 9) for q in holm(pvalues[::-1])[::-1] if not math.isnan(q)] == [round(q, 9) for _, q in known]


# rank_intervals


@pytest.fixture
def concepts() -> np.ndarray:  # type: ignore[type-arg]
    """Twelve concepts of very different difficulty."""
    return np.random.default_rng(10).uniform(0.2, 1.2, 12)


@pytest.mark.usefixtures("fast")
def test_clearly_separated_methods_are_ranked_one_by_one(concepts: np.ndarray) -> None:  # type: ignore[type-arg]
    noise = np.random.default_rng(11).normal(0, 0.02, (3, 12))
    scores = {"low": concepts + noise[0], "high": concepts + 0.6 + noise[1], "mid": concepts + 0.3 + noise[2]}
    assert rank_intervals(scores) == {"high": (1, 1), "mid": (2, 2), "low": (3, 3)}


@pytest.mark.usefixtures("fast")
def test_indistinguishable_methods_share_their_ranks(concepts: np.ndarray) -> None:  # type: ignore[type-arg]
    noise = np.random.default_rng(12).normal(0, 0.05, (4, 12))
    scores = {"a": concepts + 0.5 + noise[0], "b": concepts + 0.5 + noise[1], "c": concepts + noise[2]}
    assert rank_intervals(scores) == {"a": (1, 2), "b": (1, 2), "c": (3, 3)}
    assert rank_intervals({"a": concepts, "same": concepts.copy()}) == {"a": (1, 2), "same": (1, 2)}
    assert rank_intervals({"alone": concepts}) == {"alone": (1, 1)}
    assert rank_intervals({}) == {}


@pytest.mark.usefixtures("fast")
def test_a_noisy_method_may_have_any_rank_and_ranks_follow_the_means(concepts: np.ndarray) -> None:  # type: ignore[type-arg]
    """A noisy method between two others is told apart from neither; no end falls where the mean rises."""
    rng = np.random.default_rng(13)
    scores = {
        "best": concepts + 0.2 + rng.normal(0, 0.02, 12),
        "noisy": concepts + 0.1 + rng.normal(0, 0.9, 12),
        "worst": concepts + rng.normal(0, 0.02, 12),
    }
    found = rank_intervals(scores)
    assert found["noisy"] == (1, 3)
    in_order = [found[name] for name in sorted(scores, key=lambda name: -float(np.mean(scores[name])))]
    assert in_order == sorted(in_order)
    assert [high for _, high in in_order] == sorted(high for _, high in in_order)


@pytest.mark.usefixtures("fast")
def test_ranks_do_not_depend_on_the_order_of_the_methods(concepts: np.ndarray) -> None:  # type: ignore[type-arg]
    rng = np.random.default_rng(14)
    scores = {f"m{i}": concepts + 0.15 * i + rng.normal(0, 0.1, 12) for i in range(5)}
    assert rank_intervals(scores) == rank_intervals(dict(reversed(scores.items())))


# significant, union, equivalent


@pytest.mark.parametrize("p", [NAN, None, 0.05, 1.0])
def test_what_is_not_known_is_not_significant(p: float | None) -> None:
    assert not significant(p)


def test_one_concept_all_ties_and_all_missing_claim_nothing() -> None:
    assert not significant(paired([1.0], [0.0]).p)
    assert not significant(paired([0.5] * 12, [0.5] * 12).p)
    assert not significant(paired([], []).p)


def part(mean: float, p: float) -> Difference:
    return Difference(mean, mean - 0.1, mean + 0.1, p, 12, 0.1)


def test_a_claim_of_several_parts_has_the_largest_p() -> None:
    assert union([part(0.3, 0.01), part(0.2, 0.03)]) == 0.03
    assert union([part(0.3, 0.01), part(-0.2, 0.001)]) == 1
    assert math.isnan(union([part(0.3, 0.01), part(0.2, NAN)]))
    assert math.isnan(union([]))


def test_equivalence_needs_both_ends_inside_the_margin() -> None:
    rng = np.random.default_rng(31)
    near, far = rng.normal(0, 0.05, 12), rng.normal(0.4, 0.05, 12)
    none = np.zeros(12)
    assert equivalent(near, none, 0.2) < 0.01
    assert equivalent(far, none, 0.2) > 0.9
    assert equivalent(rng.normal(0, 0.9, 12), none, 0.2) > 0.05  # too noisy to say
    assert equivalent(near, none, 0.2, error=0.3) > 0.05
    assert math.isnan(equivalent([1.0], [1.0], 0.2))
    assert math.isnan(equivalent([1.0, 1.0], [1.0, 1.0], 0.2))  # nothing is known of their spread
    assert equivalent([1.0, 1.0], [1.0, 1.0], 0.2, error=0.5) > 0.05


def test_equivalence_has_its_level_at_the_margin() -> None:
    """2,000 experiments whose true difference is the margin: said to be within it in at most 5 % (error .005)."""
    draws = np.random.default_rng(32).normal(0.2, 0.3, (2000, 12))
    wrong = np.mean([equivalent(row, np.zeros(12), 0.2) < 0.05 for row in draws[:600]])
    assert wrong <= 0.05 + 3 * 0.009


# piled-up scores and noise floors


def test_few_telling_concepts_are_marked_and_not_tested() -> None:
    d = paired([0.9, 0.8, 0.7, *[0.02] * 9], [0.0] * 12)
    assert d.piled
    assert math.isnan(d.p)
    assert not paired([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, *[0.02] * 6], [0.0] * 12).piled
    many = paired([1.0] * 40 + [0.0] * 400, [0.0] * 440, scale=1.0)  # forty tell enough, however many do not
    assert not many.piled
    assert many.p < 0.01


@pytest.mark.slow
def test_pairs_whose_scores_pile_up_at_0_are_not_found_too_often() -> None:
    """3,000 experiments at 12 concepts: two methods of equal mean, one 0 in nine of ten, the other spread.

    The sign flips alone reject in more than a tenth of them: a sample without the rare high score looks sure.
    """
    rng = np.random.default_rng(33)
    rare = np.where(rng.random((3000, 12)) < 0.1, 1.5, 0.0)
    even = np.full((3000, 12), 0.15)
    wrong = np.mean([significant(paired(a, b).p) for a, b in zip(rare, even, strict=True)])
    alone = np.mean(sign_flip(rare - even) < 0.05)
    assert alone > 0.1
    assert wrong <= alone


def test_an_error_that_is_given_widens_interval_and_p() -> None:
    x = np.random.default_rng(34).normal(0.5, 0.2, 12)
    plain = paired(x, np.zeros(12))
    wider = paired(x, np.zeros(12), error=2 * plain.error)
    assert wider.high - wider.low == pytest.approx(2 * (plain.high - plain.low))
    assert wider.p >= plain.p
    assert paired(x, np.zeros(12), error=plain.error / 2) == plain


def test_equal_scores_of_few_concepts_keep_the_error_that_is_given() -> None:
    d = paired([1.0] * 4, [1.0] * 4, error=0.3)
    assert (d.mean, d.p, d.error) == (0, 1, 0.3)
    assert d.low < -0.5 < 0.5 < d.high


def test_the_crossed_error_knows_noise_and_shared_questions() -> None:
    rng = np.random.default_rng(35)
    own = np.arange(72).reshape(12, 6)
    shared = np.tile(np.arange(6), (12, 1))
    concept = rng.normal(0, 0.5, (12, 1)) + np.zeros((12, 6))
    assert crossed_error(concept, own) == pytest.approx(concept[:, 0].std(ddof=1) / np.sqrt(12))
    noise = rng.normal(0, 1, (12, 6))
    level = noise - noise.mean(1, keepdims=True)  # concept means all alike: what is left is noise
    assert crossed_error(level, own) == pytest.approx(np.sqrt((level.var(axis=1, ddof=1) / 6).sum()) / 12)
    luck = np.tile(rng.normal(0, 0.5, 6), (12, 1))  # the questions decide, and all concepts ask the same six
    assert crossed_error(luck, shared) == pytest.approx(luck[0].std(ddof=1) / np.sqrt(6), rel=0.06)
    assert crossed_error(luck, shared) > 2 * crossed_error(luck, own)


@pytest.mark.slow
def test_the_crossed_error_covers_where_concepts_share_questions() -> None:
    """600 tables of 12 concepts by 6 shared questions with both effects: 95 % intervals cover (error .009)."""
    rng = np.random.default_rng(36)
    asked = np.tile(np.arange(6), (12, 1))
    hits = plain = 0
    for _ in range(600):
        d = rng.normal(0, 0.3, (12, 1)) + rng.normal(0, 0.3, (1, 6)) + rng.normal(0, 0.5, (12, 6))
        means = d.mean(1)
        found = paired(means, np.zeros(12), error=crossed_error(d, asked))
        hits += found.low <= 0 <= found.high
        alone = paired(means, np.zeros(12))
        plain += alone.low <= 0 <= alone.high
    assert hits / 600 > 0.88
    assert plain / 600 < hits / 600 - 0.05


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_simultaneous_tests_keep_the_family_wise_error_and_find_what_is_there(shift: float) -> None:
    """400 families of 45 dependent pairs of 10 methods at 12 concepts, normal; one method shifted."""
    rng, hits = np.random.default_rng(20), 0
    for _ in range(400):
        scores = rng.normal(0, 1, (12, 1)) + rng.normal(0, 0.5, (12, 10))
        scores[:, 0] += shift
        pairs = [scores[:, i] - scores[:, j] for i in range(10) for j in range(i)]
        hits += bool((simultaneous(np.stack(pairs, 1)) < 0.05).any())
    # 400 families: the share's standard error at .05 is .011
    assert hits / 400 > 0.9 if shift else hits / 400 < 0.05 + 3 * 0.011


def test_simultaneous_p_of_one_pair_is_the_sign_flip_p(concepts: np.ndarray) -> None:  # type: ignore[type-arg]
    change = concepts + np.random.default_rng(3).normal(0.3, 0.5, 12)
    assert simultaneous(change[:, None])[0] == pytest.approx(sign_flip(change[None])[0], abs=1e-3)
    assert simultaneous(np.zeros((12, 2))).tolist() == [1, 1]
    assert simultaneous(np.ones((12, 210))).max() == pytest.approx(2 / 4096)


# auroc


def test_auroc_is_the_share_of_ordered_pairs_with_ties_half() -> None:
    scores, labels = np.array([0.1, 0.4, 0.4, 0.8, 0.9]), np.array([0, 0, 1, 0, 1])
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[labels == 1] for n in scores[labels == 0]]
    assert auroc(scores, labels) == pytest.approx(np.mean(pairs))
    assert auroc(scores, labels == 1) == pytest.approx(np.mean(pairs))
    assert auroc(-scores, labels) == pytest.approx(1 - np.mean(pairs))
    assert auroc(np.zeros(4), np.array([0, 1, 0, 1])) == 0.5
