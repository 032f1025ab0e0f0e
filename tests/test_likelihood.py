"""The likelihood judge on the real default model: it tells concepts, answers and broken text apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.backends.fake.backend import FakeBackend
from bench.backends.hf.backend import HFBackend
from bench.backends.models import Model
from bench.core.errors import BenchError
from bench.core.protocol import protocol
from bench.core.registry import build
from bench.core.rows import Rows
from bench.core.values import Item, Train
from bench.judges.corruptions import CORRUPTIONS
from bench.judges.likelihood import NOTE, OPENING, TRACE, Likelihood, Scale
from methods.prompt import LINES
from methods.prompt_engineered import TASK

CONCEPTS = ("medieval", "music")


@pytest.fixture(scope="module")
def trains() -> list[Train]:
    task = build("task", "axbench", {}, protocol=protocol("standard"))
    return [task.train(c) for c in task.concepts() if c.id in CONCEPTS]


@pytest.fixture(scope="module")
def judge(default_model: Model, trains: list[Train], tmp_path_factory: pytest.TempPathFactory) -> Likelihood:
    made = Likelihood()
    # Calibrated on the first texts of each concept; the tests below rate the last ones.
    made.prepare(HFBackend(default_model), Rows(tmp_path_factory.mktemp("evidence")), trains)
    return made


def rate(judge: Likelihood, items: list[Item]) -> list[float]:
    found = dict(judge.rate(items))
    values = [found[i].value for i in range(len(items))]
    assert all(value is not None and 0 <= value <= 2 for value in values)
    return [value for value in values if value is not None]


def held(train: Train, side: str) -> list[tuple[str, str]]:
    return [(e.instruction, " ".join(e.response.split()[:32])) for e in getattr(train, side)[16:]]


@pytest.mark.slow
def test_concept_ratings_separate_held_out_texts(judge: Likelihood, trains: list[Train]) -> None:
    for train in trains:
        sides = [
            rate(judge, [Item("concept", train.concept, i, text) for i, text in held(train, side)])
            for side in ("positives", "negatives")
        ]
        assert np.mean(sides[0]) > 1
        assert np.mean(sides[1]) < 0.3


@pytest.mark.slow
def test_a_concept_is_not_seen_in_another_concepts_texts(judge: Likelihood, trains: list[Train]) -> None:
    one, two = trains
    items = [Item("concept", one.concept, i, text) for i, text in held(two, "positives")]
    assert np.mean(rate(judge, items)) < 0.5


@pytest.mark.slow
def test_instruction_ratings_fall_when_the_instruction_is_another(judge: Likelihood, trains: list[Train]) -> None:
    rows = held(trains[0], "negatives")
    matched = [Item("instruction", trains[0].concept, i, text) for i, text in rows]
    moved = [Item("instruction", trains[0].concept, rows[k - 3][0], text) for k, (_, text) in enumerate(rows)]
    assert np.mean(rate(judge, matched)) > np.mean(rate(judge, moved)) + 0.4


@pytest.mark.slow
@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_broken_text_loses_fluency_and_gains_no_concept(judge: Likelihood, trains: list[Train], kind: str) -> None:
    for train in trains:
        rows = held(train, "negatives")
        broken = [(i, CORRUPTIONS[kind](text)) for i, text in rows]
        whole, torn = (rate(judge, [Item("fluency", train.concept, *row) for row in side]) for side in (rows, broken))
        assert np.mean(whole) > 1.5
        assert np.mean(torn) < 0.7
        gained = np.mean(rate(judge, [Item("concept", train.concept, *row) for row in broken]))
        assert gained < 0.4  # as intact negatives above, and far below positives


def test_an_empty_text_rates_zero_with_a_reason(judge: Likelihood, trains: list[Train]) -> None:
    verdict = dict(judge.rate([Item("concept", trains[0].concept, "q", "  \n")]))[0]
    assert (verdict.value, verdict.reason) == (0.0, "empty text")


def test_ratings_are_deterministic_and_measured_once(judge: Likelihood, trains: list[Train]) -> None:
    items = [Item("concept", trains[0].concept, i, text) for i, text in held(trains[0], "positives")]
    first = rate(judge, items)
    assert judge._keep is not None
    known = len(judge._keep)
    assert rate(judge, items) == first
    assert len(judge._keep) == known


def test_it_asks_in_words_no_prompt_baseline_uses() -> None:
    """Four words in a row in common would favour the baseline that uses them."""

    def runs(text: str) -> set[tuple[str, ...]]:
        words = [w.strip(".,:()").lower() for w in text.replace("{concept}", "#").replace("{instruction}", "#").split()]
        return {tuple(words[i : i + 4]) for i in range(len(words) - 3)}

    ours = runs(NOTE) | runs(OPENING)
    theirs = runs(TASK).union(*(runs(f"{p.system} {p.prefix} {p.suffix}") for p in LINES))
    assert ours
    assert not ours & theirs


def test_a_scale_is_zero_without_and_two_with() -> None:
    scale = Scale.fit([0.0, 0.1, 0.2], [0.5, 0.6, 0.7], "x")
    assert scale.rating(-5) == 0
    assert scale.rating(0.6) == 2
    assert scale.auroc == 1
    assert Scale.fit([0.5, 0.6], [0.1, 0.2], "x").two > Scale.fit([0.5, 0.6], [0.1, 0.2], "x").zero
    with pytest.raises(BenchError, match="concept x"):
        Scale.fit([float("nan")] * 3, [0.5], "concept x")


def test_a_trace_keeps_the_order_below_the_anchor() -> None:
    without = [k / 10 for k in range(11)]
    scale = Scale.fit(without, [2.0, 3.0, 4.0], "x").tracing(without)
    values = [-1.0, 0.25, 0.5, 0.8, 0.9, 1.5, 2.9, 3.0, 9.0]
    ratings = [scale.rating(v) for v in values]
    assert ratings[:2] == [0, 0]
    assert ratings[-2:] == [2, 2]
    assert ratings[1:8] == sorted(set(ratings[1:8]))
    assert scale.rating(scale.zero) == TRACE
    assert Scale.fit([1.0] * 5, [2.0], "x").tracing([1.0] * 5).rating(1.0) == TRACE  # all texts without alike


def test_it_must_be_calibrated_first(trains: list[Train]) -> None:
    with pytest.raises(BenchError, match="calibrated"):
        list(Likelihood().rate([Item("concept", trains[0].concept, "q", "text")]))


def test_calibration_uses_training_texts_alone(trains: list[Train], tmp_path: Path) -> None:
    asked: set[str] = set()

    class Spy(FakeBackend):
        def logprobs(self, requests):  # type: ignore[no-untyped-def]
            asked.update(str(r.prompt) for r in requests)
            return super().logprobs(requests)

    Likelihood().prepare(Spy(), Rows(tmp_path), trains)
    task = build("task", "axbench", {}, protocol=protocol("paper"))
    held_out = [s.instruction for c in task.concepts() for split in (task.select(c), task.test(c)) for s in split]
    assert asked
    assert not [text for text in held_out for prompt in asked if text in prompt]
