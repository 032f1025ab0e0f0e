"""The embedding judge on the real encoder: an opinion that needs no model under test."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.core.errors import BenchError
from bench.core.protocol import protocol
from bench.core.registry import build
from bench.core.rows import Rows
from bench.core.values import Item, Train
from bench.judges.corruptions import CORRUPTIONS
from bench.judges.embedding import Embedding, Surface
from bench.judges.instrument import NoModel

CONCEPTS = ("medieval", "music")

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def trains() -> list[Train]:
    task = build("task", "axbench", {}, protocol=protocol("standard"))
    return [task.train(c) for c in task.concepts() if c.id in CONCEPTS]


@pytest.fixture(scope="module")
def judge(trains: list[Train], tmp_path_factory: pytest.TempPathFactory) -> Embedding:
    made = Embedding(texts=8)
    # Calibrated on the first texts of each concept; the tests below rate the last ones. NoModel refuses
    # every question: no model under test is asked.
    first = [replace(t, positives=t.positives[:16], negatives=t.negatives[:16]) for t in trains]
    made.prepare(NoModel(), Rows(tmp_path_factory.mktemp("evidence")), first)
    return made


def rate(judge: Embedding, items: list[Item]) -> list[float]:
    found = dict(judge.rate(items))
    values = [found[i].value for i in range(len(items))]
    assert all(value is not None and 0 <= value <= 2 for value in values)
    return [value for value in values if value is not None]


def held(train: Train, side: str) -> list[tuple[str, str]]:
    return [(e.instruction, " ".join(e.response.split()[:32])) for e in getattr(train, side)[16:]]


def test_concept_ratings_separate_held_out_texts(judge: Embedding, trains: list[Train]) -> None:
    for train in trains:
        sides = [
            rate(judge, [Item("concept", train.concept, i, text) for i, text in held(train, side)])
            for side in ("positives", "negatives")
        ]
        assert np.mean(sides[0]) > 1
        assert np.mean(sides[1]) < 0.4


def test_instruction_ratings_fall_when_the_instruction_is_another(judge: Embedding, trains: list[Train]) -> None:
    rows = held(trains[0], "negatives")
    matched = [Item("instruction", trains[0].concept, i, text) for i, text in rows]
    moved = [Item("instruction", trains[0].concept, rows[k - 3][0], text) for k, (_, text) in enumerate(rows)]
    assert np.mean(rate(judge, matched)) > np.mean(rate(judge, moved)) + 0.8


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_broken_text_loses_fluency_and_gains_no_concept(judge: Embedding, trains: list[Train], kind: str) -> None:
    train = trains[0]
    rows = held(train, "negatives")
    broken = [(i, CORRUPTIONS[kind](text)) for i, text in rows]
    whole, torn = (rate(judge, [Item("fluency", train.concept, *row) for row in side]) for side in (rows, broken))
    assert np.mean(whole) > np.mean(torn) + 0.5
    intact, gained = (rate(judge, [Item("concept", train.concept, *row) for row in side]) for side in (rows, broken))
    assert np.mean(gained) < np.mean(intact) + 0.15


def test_a_rating_does_not_depend_on_its_batch(judge: Embedding, trains: list[Train], tmp_path: Path) -> None:
    texts = [text for _, text in held(trains[0], "positives")]
    texts += ["A much longer text stands beside it, and makes padding. " * 8, "Short.", "No"]
    together = judge.encoder.embed(texts)
    bound = 0.0 if platform.machine() in ("x86_64", "AMD64") else 1e-5
    for size in (1, 2, 5):
        parts = np.concatenate([judge.encoder.embed(texts[i : i + size]) for i in range(0, len(texts), size)])
        assert np.abs(parts - together).max() <= bound


def test_an_empty_text_rates_zero_with_a_reason(judge: Embedding, trains: list[Train]) -> None:
    for axis in ("concept", "instruction", "fluency"):
        verdict = dict(judge.rate([Item(axis, trains[0].concept, "q", " \n")]))[0]
        assert (verdict.value, verdict.reason) == (0.0, "empty text")


@pytest.mark.parametrize("text", ["...", "12", "/ / /", "\u00e9\u00e0 \u4f60\u597d", "a" * 3000])
def test_odd_text_is_rated(judge: Embedding, trains: list[Train], text: str) -> None:
    rate(judge, [Item(axis, trains[0].concept, "Say it.", text) for axis in ("concept", "instruction", "fluency")])


def test_it_must_be_calibrated_first(trains: list[Train]) -> None:
    with pytest.raises(BenchError, match="calibrated"):
        list(Embedding().rate([Item("concept", trains[0].concept, "q", "text")]))


def test_the_surface_knows_order_repetition_and_words() -> None:
    natural = [
        f"The {noun} was on the table. It is a {adjective} day, and we will go to the {place} in the evening."
        for noun in ("book", "cup", "lamp", "plate")
        for adjective in ("warm", "cold", "quiet")
        for place in ("park", "market", "river")
    ]
    known = frozenset(word.strip(".,").lower() for text in natural for word in text.split())
    surface = Surface.fit(natural, known)
    for text in natural[:6]:
        assert surface.score(text) > 0 > max(surface.score(kind(text)) for kind in CORRUPTIONS.values())
