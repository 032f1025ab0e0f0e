"""The default judge: foretold from evidence alone, item by item, and honest about what it was fitted on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bench.core.protocol import DEFAULT_JUDGE, usual_judge
from bench.core.rows import Rows
from bench.core.values import Concept, Item
from bench.judges import ensemble
from bench.judges.ensemble import AXES, FEATURES, LEVELS, Ensemble, Levels, fitted
from bench.judges.instrument import NoModel, make
from bench.measure import reference
from bench.measure.readers import composite
from bench.results import ratings

ROOT = Path(__file__).resolve().parents[1]
OCEAN = Concept("ocean", "the ocean and the creatures that live in it")
ASKED = "Describe a quiet village at dawn."
GOOD = (
    "The village lies by the sea. Waves lap at the boats, gulls call, and fishers carry nets past quiet houses at dawn."
)
PLAIN = (
    "The village is quiet at dawn. Smoke rises from chimneys, a dog barks, and a baker opens the shop in the square."
)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ensemble]:
    made = Ensemble()
    made.prepare(NoModel(), Rows(tmp_path_factory.mktemp("evidence")), [])
    yield made
    made.release()


def rated(judge: Ensemble, *texts: str, concept: Concept = OCEAN) -> list[dict[str, float]]:
    items = [Item(axis, concept, ASKED, text) for text in texts for axis in AXES]
    found = dict(judge.rate(items))
    rows = iter(found[i].value for i in range(len(items)))
    return [{axis: float(next(rows) or 0) for axis in AXES} for _ in texts]


def test_it_is_the_judge_that_rates_where_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENCH_JUDGE")
    assert usual_judge() == DEFAULT_JUDGE == "ensemble"
    assert isinstance(make(usual_judge()), Ensemble)


def test_levels_give_chances_that_add_up_and_0_where_it_is_likeliest() -> None:
    rng = np.random.default_rng(0)
    made = Levels(np.zeros(3), np.ones(3), rng.normal(0, 1, (4, 3)), rng.normal(0, 1, 4))
    chances = made.chances(rng.normal(0, 2, (50, 3)))
    assert chances.shape == (50, len(LEVELS) + 1)
    assert chances.sum(1) == pytest.approx(np.ones(50))
    assert (chances >= -1e-12).all()
    found = made.rating(rng.normal(0, 2, (200, 3)))
    assert ((found >= 0) & (found <= 2)).all()
    assert (found == 0).any()


def test_what_is_shipped_fits_what_is_measured_and_says_where_it_comes_from() -> None:
    kept = fitted()
    assert kept["features"] == list(FEATURES)
    assert set(kept["axes"]) == set(AXES)
    for axis in AXES:
        assert np.array(kept["axes"][axis]["weights"]).shape == (len(LEVELS), len(FEATURES))
    text = (ROOT / "results" / "judges" / "reference.csv").read_text("utf-8")
    assert kept["provenance"]["reference"] == ensemble.digest(text)[:12]
    assert kept["provenance"]["answers"] == len(
        ratings.merged(ratings.read(ROOT / "results" / "judges" / "reference.csv"))
    )
    for held in kept["provenance"]["held out"].values():
        assert held["overall"][0] > 0.6
        assert held["overall"][1] < 0.25


def test_a_rule_is_read_and_an_empty_text_is_0() -> None:
    made = Ensemble()
    made.prepare(NoModel(), Rows(Path("/nonexistent")), [])
    loud = Concept("uppercase", "writing in capital letters only")
    items = [Item("concept", loud, ASKED, text) for text in ("ALL LOUD.", "Quiet words.", "")]
    assert [v.value for _, v in sorted(made.rate(items), key=lambda pair: pair[0])] == [2, 0, 0]
    ((_, other),) = made.rate([Item("charm", loud, ASKED, "x")])
    assert other.value is None
    assert "charm" in other.reason


@pytest.mark.slow
@pytest.mark.model
def test_it_tells_a_steered_answer_from_a_plain_one_and_from_garbage(judge: Ensemble) -> None:
    good, plain, broken = rated(
        judge, GOOD, PLAIN, "ocean whale ocean ocean whale dawn ocean ocean whale village ocean"
    )
    assert good["concept"] > 1
    assert plain["concept"] == 0
    assert min(good["instruction"], plain["instruction"]) > 1
    assert good["fluency"] > broken["fluency"]
    assert composite(broken) < 0.5 < composite(good)


@pytest.mark.slow
@pytest.mark.model
def test_no_garbage_is_found_good(judge: Ensemble) -> None:
    for answer in reference.garbage():
        concept = Concept(answer.concept, answer.concept)
        items = [Item(axis, concept, answer.instruction, answer.answer) for axis in AXES]
        values = [verdict.value or 0.0 for _, verdict in sorted(judge.rate(items), key=lambda pair: pair[0])]
        assert composite(dict(zip(AXES, values, strict=True))) <= 0.5, answer.answer


@pytest.mark.slow
def test_the_committed_validation_says_what_it_may_rank() -> None:
    table = json.loads((ROOT / "results" / "judges" / "ensemble-mini-reference.json").read_text("utf-8"))
    assert table["held_out"] == ["concepts", "methods"]
    assert set(table["gate"]["tasks"]) >= {"overall", "axbench", "axbench-suppress", "axbench-attack", "persona"}
    assert table["models"] == ["SmolLM2-135M-Instruct"]
    assert table["gate"]["tasks"]["axbench-suppress"]
    assert table["broken"]["auroc"] >= 0.98
    assert table["garbage"]["highest"] <= 0.5
