"""Variance components recovered, power predicted as simulated, and `bench power` on committed runs.

Simulations use fixed seeds; each says how many replications it draws and what its standard error is.
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import ARCHIVE, RESULTS, committed

from bench.cli.main import main
from bench.core.errors import UsageError
from bench.stats import power
from bench.stats.power import Components, Pilot, attained, components, detectable, needed, pilot
from bench.stats.significance import sign_flip

RUNS = tuple(committed(method).name for method in ("diffmean", "prompt"))

# components


def crossed(rng: np.random.Generator, shape: tuple[int, ...], sds: dict[str, float]) -> np.ndarray:  # type: ignore[type-arg]
    """A table of concept, instruction (nested), seed (nested) and judge with one normal effect a source."""
    c, i, s, j = shape
    sizes = {
        "concept": (c, 1, 1, 1),
        "instruction": (c, i, 1, 1),
        "seed": (c, i, s, 1),
        "judge": (1, 1, 1, j),
        "concept × judge": (c, 1, 1, j),
        "instruction × judge": (c, i, 1, j),
        "residual": (c, i, s, j),
    }
    return sum((rng.normal(0, sds.get(name, 0.0), size) for name, size in sizes.items()), np.zeros(shape))


FACTORS = ("concept", "instruction", "seed", "judge")
NESTED = {"instruction": "concept", "seed": "instruction"}
SDS = {"concept": 0.5, "instruction": 0.4, "seed": 0.3, "judge": 0.6, "concept × judge": 0.2, "residual": 0.35}


@pytest.mark.slow
@pytest.mark.parametrize("missing", [0.0, 0.25])
def test_components_of_a_crossed_table_are_unbiased_balanced_or_not(missing: float) -> None:
    """400 tables of 12 concepts × 5 instructions × 3 seeds × 4 judges, normal, a quarter of cells missing or none."""
    rng, found = np.random.default_rng(0), []
    for _ in range(400):
        table = crossed(rng, (12, 5, 3, 4), SDS)
        table[rng.random(table.shape) < missing] = np.nan
        found.append(components(table, FACTORS, NESTED).parts)
    assert set(found[0]) == {*SDS, "instruction × judge"}
    for name in found[0]:
        values = np.array([parts[name] for parts in found])
        error = values.std(ddof=1) / math.sqrt(len(values))
        assert abs(values.mean() - SDS.get(name, 0.0) ** 2) < 4 * error, name


def test_two_way_components_equal_the_anova_by_hand() -> None:
    table = np.random.default_rng(1).normal(size=(6, 4)) + np.arange(6)[:, None]
    a, b = table.shape
    grand = table.mean()
    rows = b * ((table.mean(1) - grand) ** 2).sum() / (a - 1)
    columns = a * ((table.mean(0) - grand) ** 2).sum() / (b - 1)
    rest = table - table.mean(1, keepdims=True) - table.mean(0) + grand
    residual = (rest**2).sum() / ((a - 1) * (b - 1))
    found = components(table, ("concept", "judge")).parts
    expected = {"concept": (rows - residual) / b, "judge": (columns - residual) / a, "residual": residual}
    assert found == pytest.approx(expected)


def test_nested_components_equal_the_anova_by_hand() -> None:
    table = np.random.default_rng(2).normal(size=(7, 5)) + np.arange(7)[:, None]
    within = table.var(1, ddof=1).mean()
    between = 5 * table.mean(1).var(ddof=1)
    found = components(table, ("concept", "instruction"), {"instruction": "concept"}).parts
    assert found == pytest.approx({"concept": (between - within) / 5, "residual": within})


def test_components_follow_scale_and_do_not_depend_on_shift_or_order() -> None:
    rng = np.random.default_rng(3)
    table = crossed(rng, (5, 4, 2, 3), SDS)
    base = components(table, FACTORS, NESTED).parts
    moved = components(1000 + 3 * table[::-1, :, ::-1], FACTORS, NESTED).parts
    assert moved == pytest.approx({name: 9 * value for name, value in base.items()})


def test_shares_add_up_and_take_what_is_below_zero_as_none() -> None:
    shares = Components({"concept": 3.0, "judge": -0.5, "residual": 1.0}).shares
    assert shares == pytest.approx({"concept": 0.75, "judge": 0.0, "residual": 0.25})
    assert Components({"concept": 0.0, "residual": 0.0}).shares == {"concept": 0.0, "residual": 0.0}


def test_tables_that_cannot_be_split_are_refused() -> None:
    with pytest.raises(UsageError, match="one axis of ≥ 2 levels"):
        components(np.zeros((4, 1)), ("concept", "seed"))
    lone = np.full((4, 4), np.nan)
    np.fill_diagonal(lone, 1.0)  # each judge saw one concept: nothing tells them apart
    with pytest.raises(UsageError, match="too sparse"):
        components(lone, ("concept", "judge"))


# pilot


def test_a_pilot_recovers_its_three_levels() -> None:
    """300 concepts × 6 instructions × 3 repeats, normal; a tenth of the generations unrated."""
    rng = np.random.default_rng(4)
    d = 0.3 + rng.normal(0, 0.5, (300, 1, 1)) + rng.normal(0, 0.7, (300, 6, 1)) + rng.normal(0, 0.6, (300, 6, 3))
    d[rng.random(d.shape) < 0.1] = np.nan
    found = pilot(d)
    assert (found.concept, found.instruction, found.residual) == pytest.approx((0.25, 0.49, 0.36), abs=0.05)
    assert found.difference == pytest.approx(0.3, abs=0.1)
    empty = np.full((1, 6, 3), np.nan)
    assert pilot(np.concatenate([d, empty])) == found  # a concept without ratings says nothing
    one = pilot(d[:, :, :1])
    assert one.residual == 0
    assert one.instruction == pytest.approx(0.49 + 0.36, abs=0.1)
    assert one.variance(6) == pytest.approx(np.nanmean(d[:, :, 0], 1).var(ddof=1), rel=0.1)


def test_too_small_a_pilot_is_refused() -> None:
    for shape in ((1, 6, 1), (6, 1, 1)):
        with pytest.raises(UsageError, match="two of each"):
            pilot(np.zeros(shape))


def test_the_spread_s_own_interval_holds_the_true_variance() -> None:
    """4,000 pilots of 12 normal concept means: 95 % ± a standard error of .0034."""
    means = np.random.default_rng(5).normal(0, 2.0, (4000, 12))
    low, high = Pilot(12, 1, 0, 1, 0, 0).spread()
    found = means.var(1, ddof=1)
    assert np.mean((low * found <= 4) & (found * high >= 4)) == pytest.approx(0.95, abs=0.012)


# power

SPREAD = Pilot(12, 6, 0.0, concept=0.04, instruction=0.16, residual=0.0)
DESIGNS = [
    (6, 6, 0.3, 1),
    (8, 6, 0.3, 1),
    (10, 2, 0.35, 1),
    (12, 6, 0.2, 1),
    (12, 6, 0.3, 5),
    (12, 6, 0.35, 20),
    (14, 6, 0.3, 20),
    (20, 3, 0.25, 10),
    (24, 6, 0.25, 20),
    (30, 6, 0.13, 1),
    (30, 2, 0.15, 1),
    (30, 6, 0.2, 10),
]


@pytest.mark.slow
@pytest.mark.parametrize(("concepts", "instructions", "difference", "family"), DESIGNS)
def test_predicted_power_is_the_simulated_power(
    concepts: int, instructions: int, difference: float, family: int
) -> None:
    """Within 3 points of 4,000 normal experiments (standard error ≤ .8 points), with the test `paired` uses."""
    rng = np.random.default_rng([6, concepts])
    d = difference + rng.normal(0, 0.2, (4000, concepts))
    d += rng.normal(0, 0.4, (4000, concepts, instructions)).mean(2)
    seen = (sign_flip(d) < 0.05 / family).mean()
    assert 0.3 < seen < 0.97  # where a wrong prediction would show
    predicted = power.power(SPREAD, difference, concepts, instructions, family=family)
    assert predicted == pytest.approx(seen, abs=0.03)


def test_power_without_a_difference_is_the_level_the_test_attains() -> None:
    for concepts in (6, 10, 12, 30, 200):
        found = power.power(SPREAD, 0.0, concepts, 6)
        assert found == pytest.approx(attained(0.05, concepts), abs=0.012)  # 4,000 draws: .0034
    assert attained(0.05, 6) == 1 / 32
    assert attained(0.05, 5) == 0  # the smallest p of five concepts is 1/16
    assert attained(0.05 / 26, 10) == 0  # DESIGN §5: ten concepts reach nothing over 26 methods
    assert attained(0.05 / 26, 12) > 0


def test_the_attained_level_is_what_null_experiments_give() -> None:
    """All p-values of 2^(n-1) equally likely orders: counted, at 4,000 normal experiments of 8 concepts."""
    p = sign_flip(np.random.default_rng(7).normal(size=(4000, 8)))
    assert (p < 0.05).mean() == pytest.approx(attained(0.05, 8), abs=0.011)  # .0469 ± 3.3 standard errors
    assert (p < 0.01).mean() == pytest.approx(attained(0.01, 8), abs=0.005)


@pytest.mark.slow
def test_needed_concepts_are_just_enough_and_detectable_differences_just_seen() -> None:
    for difference, family in ((0.3, 1), (0.15, 1), (0.15, 10), (0.05, 1)):
        n = needed(SPREAD, difference, 6, family=family)
        assert n is not None
        assert power.power(SPREAD, difference, n, 6, family=family) >= 0.8
        assert power.power(SPREAD, difference, n - 1, 6, family=family) < 0.8
    for concepts, family in ((12, 1), (12, 20), (40, 5)):
        seen = detectable(SPREAD, concepts, 6, family=family)
        assert seen is not None
        assert power.power(SPREAD, seen, concepts, 6, family=family) == pytest.approx(0.8, abs=0.01)
    assert needed(SPREAD, 1e-4, 6) is None
    assert detectable(SPREAD, 5, 6) is None
    assert detectable(SPREAD, 12, 6, target=0.04) == 0  # the level alone gives that much
    most = needed(SPREAD, 0.0075, 6)
    assert most is not None
    assert 8192 < most <= power.MOST
    assert needed(Pilot(12, 6, 0, 0, 0, 0), 0.1, 6) == 6  # no spread: as few as can reach p < .05


def test_more_of_anything_never_sees_less() -> None:
    grid = {(m, k): power.power(SPREAD, 0.15, m, k) for m in (12, 25, 50, 100) for k in (1, 3, 10)}
    for (m, k), (n, i) in itertools.product(grid, grid):
        if m <= n and k <= i:
            assert grid[m, k] <= grid[n, i] + 0.01
    assert power.power(SPREAD, 0.15, 30, 6, family=20) < power.power(SPREAD, 0.15, 30, 6)


# bench power


def bench(*words: str, expect: int = 0, root: Path = ARCHIVE) -> Any:
    done = CliRunner().invoke(main, ["power", *words, "--results", str(root)])
    assert done.exit_code == expect, done.output
    return done


@pytest.mark.slow
def test_bench_power_plans_from_two_committed_runs() -> None:
    found = json.loads(bench(*RUNS, "-d", "0.3", "--after-holm", "2", "--json").stdout)
    from bench import results

    one, two = (results.lookup(name, [ARCHIVE]) for name in RUNS)
    scores = results.matched([one, two], "overall")
    by_concept = np.array(list(one.scores("overall").values())) - np.array(list(two.scores("overall").values()))
    assert (scores[0] - scores[1]).mean(1) == pytest.approx(by_concept, abs=1e-3)
    made = pilot((scores[0] - scores[1])[..., None])
    assert found["pilot"] == pytest.approx(vars(made))
    assert found["pilot"]["concepts"] == len(by_concept) == 12
    assert found["at"]["power"] == pytest.approx(power.power(made, 0.3, 12, 6, family=2))
    assert found["at"]["detectable"] == pytest.approx(detectable(made, 12, 6, family=2))
    enough = {row["instructions"]: row["concepts"] for row in found["needed"]}
    assert enough[1] > enough[6] > enough[20]
    assert found["needed_range"]["low"] < enough[6] < found["needed_range"]["high"]
    assert {(row["concepts"], row["instructions"]) for row in found["table"]} >= {(12, 1), (100, 20)}


@pytest.mark.slow
def test_bench_power_prints_its_table_and_defaults_to_a_tenth_of_the_scale() -> None:
    shown = bench(*RUNS, "--axis", "concept").stdout
    assert "difference of 0.2 in concept" in shown
    assert "needed for 80%" in shown
    assert "12 concepts × 6 instructions: power" in shown


@pytest.mark.slow
def test_bench_power_refuses_what_it_cannot_pair() -> None:
    assert "no axis 'style'" in bench(*RUNS, "--axis", "style", expect=2).stderr
    steering, detecting = (next(RESULTS.glob(f"{task}/*/diffmean-*")).name for task in ("axbench", "axbench-detect"))
    assert "cannot be compared" in bench(steering, detecting, expect=2, root=RESULTS).stderr
