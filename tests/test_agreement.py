"""Agreement between raters against published worked examples and planted biases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from bench.stats.agreement import agree, alpha, clustered, interaction, kappa, spearman


def table(*rows: str) -> np.ndarray:
    return np.array([[math.nan if c in ".*" else float(c) for c in row.split()] for row in rows])


def test_alpha_of_krippendorff_s_four_observers() -> None:
    """Krippendorff 2011, Computing Krippendorff's Alpha-Reliability, example D: interval metric 0.849."""
    found = alpha(
        table(
            "1 2 3 3 2 1 4 1 2 . . .",
            "1 2 3 3 2 2 4 1 2 5 . 3",
            ". 3 3 3 2 3 4 2 2 5 1 .",
            "1 2 3 3 2 4 4 1 2 5 1 .",
        )
    )
    assert found == pytest.approx(0.849, abs=5e-4)


def test_alpha_of_three_coders_with_gaps() -> None:
    """The three-coder example of Wikipedia's article on the coefficient: interval metric 0.811."""
    found = alpha(
        table(
            "* * * * * 3 4 1 2 1 1 3 3 * 3",
            "1 * 2 1 3 3 4 3 * * * * * * *",
            "* * 2 1 3 4 4 * 2 1 1 3 3 * 4",
        )
    )
    assert found == pytest.approx(0.811, abs=5e-4)


def test_alpha_at_its_ends() -> None:
    x = np.linspace(0, 2, 9)
    assert alpha(np.array([x, x])) == 1
    assert alpha(np.array([x, x[::-1]])) < 0
    assert math.isnan(alpha(np.ones((2, 5))))
    assert math.isnan(alpha(np.array([[1.0, math.nan], [math.nan, 2.0]])))  # no unit has two ratings


def test_kappa_is_scikit_learn_s() -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        one, two = rng.uniform(0, 2, (2, 30))
        wanted = cohen_kappa_score(*np.floor(np.array([one, two]) + 0.5).astype(int), weights="quadratic")
        assert kappa(np.array([one, two])) == pytest.approx(wanted)
    assert math.isnan(kappa(np.ones((2, 4))))


def test_a_single_value_has_no_rank_correlation() -> None:
    assert math.isnan(spearman(np.array([[1, 1, 1.0], [0, 1, 2]])))
    assert spearman(np.array([[0, 1, 2.0], [0, 10, 11]])) == 1


@pytest.mark.slow
def test_intervals_resample_whole_clusters() -> None:
    """Copies of a cluster's one row add no information: the interval stays as wide."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=20)
    y = x + rng.normal(size=20)
    once = clustered(spearman, np.array([x, y]), [str(i) for i in range(20)])
    copied = clustered(spearman, np.repeat(np.array([x, y]), 8, axis=1), [str(i // 8) for i in range(160)])
    alone = clustered(spearman, np.repeat(np.array([x, y]), 8, axis=1), [str(i) for i in range(160)])
    assert once.low < once.mean < once.high
    assert copied.high - copied.low > 0.8 * (once.high - once.low)
    assert alone.high - alone.low < 0.6 * (once.high - once.low)
    assert (once.n, copied.n) == (20, 20)
    assert math.isnan(clustered(spearman, np.array([x, y]), ["a"] * 20).low)


def test_agree_counts_samples_and_clusters() -> None:
    values = [0.0, 1.0, 2.0, 2.0, 0.0, 1.0]
    found = agree(values, values, list("aabbcc"))
    assert (found.kappa.mean, found.spearman.mean, found.alpha.mean) == (1, 1, 1)
    assert (found.n, found.kappa.n) == (6, 3)


SURFACES = {"prompt": "prompt", "p2": "prompt", "add": "activations", "lora": "weights", "none": "control"}


def ratings(bonus: float, seed: int) -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(seed)
    return {
        m: {c: (bonus if f == "prompt" else 0.0) + 0.05 * rng.normal() for c in "abcdefghijkl"}
        for m, f in SURFACES.items()
    }


def test_a_judge_that_favours_prompts_is_found() -> None:
    found = interaction(ratings(0.5, 1), ratings(0.0, 2), SURFACES)
    assert found.low > 0
    assert found.mean == pytest.approx(0.5, abs=0.05)
    mirrored = interaction(ratings(0.0, 2), ratings(0.5, 1), SURFACES)
    assert mirrored.mean == pytest.approx(-found.mean)
    fair = interaction(ratings(0.5, 1), ratings(0.5, 2), SURFACES)
    assert fair.low < 0 < fair.high


def test_no_interaction_without_both_sides() -> None:
    only = {"prompt": "prompt", "none": "control"}
    assert math.isnan(
        interaction(
            ratings(0, 1), ratings(0, 2), only | {"p2": "prompt"} | dict.fromkeys(("add", "lora"), "control")
        ).mean
    )
