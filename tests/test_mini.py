"""The shipped concept set: complete, clean, and disjoint where it must be."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

import tasks
from bench.core.protocol import PRESETS, protocol
from bench.core.registry import build
from bench.core.values import Train, Verdict
from tasks.axbench import AxBench, overall

DATA = Path(tasks.__path__[0]) / "data" / "mini"
CONCEPTS = sorted(path.stem for path in DATA.glob("concepts/*.json"))


def task(preset: str = "standard") -> AxBench:
    made: AxBench = build("task", "axbench", {}, protocol=protocol(preset))
    return made


def train(name: str) -> Train:
    return task().corpus.trains[name]


def test_there_are_twelve_concepts_in_three_genres() -> None:
    genres = Counter(concept.genre for concept in task().concepts())
    assert len(CONCEPTS) >= 12
    assert set(genres) == {"text", "code", "math"}
    assert min(genres.values()) >= 3


@pytest.mark.parametrize("name", CONCEPTS)
def test_a_concept_has_every_view(name: str) -> None:
    found = train(name)
    assert found.views == {"texts", "pairs", "choices", "personas", "conditions"}
    assert len(found.positives) == len(found.negatives) == len(found.pairs) == 24
    assert len(found.hard_negatives) >= 5
    assert len(found.choices) >= 8
    assert len(found.personas) >= 4
    assert len(task().corpus.instructions[name]) == 20
    for pair, positive, negative in zip(found.pairs, found.positives, found.negatives, strict=True):
        assert pair.instruction == positive.instruction == negative.instruction
        assert pair.positive != pair.negative


def test_no_text_occurs_twice() -> None:
    texts: list[str] = []
    for path in DATA.glob("concepts/*.json"):
        row = json.loads(path.read_text("utf-8"))
        texts += [*row["positives"], *(h["response"] for h in row["hard_negatives"])]
        texts += [c["matching"] for c in row["choices"]]
    for path in DATA.glob("genres/*.json"):
        row = json.loads(path.read_text("utf-8"))
        texts += [t for e in row["train"] for t in (e["instruction"], e["response"])] + row["evaluation"]
    assert [text for text, count in Counter(t.strip().lower() for t in texts).items() if count > 1] == []


@pytest.mark.parametrize("name", CONCEPTS)
def test_train_select_and_test_share_no_instruction(name: str) -> None:
    made = task("paper")
    concept = train(name).concept
    trained = {e.instruction for e in train(name).positives}
    select, test = ({s.instruction for s in split} for split in (made.select(concept), made.test(concept)))
    assert not trained & select
    assert not trained & test
    assert not select & test


def test_presets_take_more_of_the_same_instructions() -> None:
    concept = task().concepts()[0]
    rows = [[s.instruction for s in task(preset).select(concept)] for preset in ("quick", "standard", "paper")]
    assert rows[2][:4] == rows[1]
    assert rows[1][:2] == rows[0]
    assert [len(row) for row in rows] == [PRESETS[p].select for p in ("quick", "standard", "paper")]


@pytest.mark.parametrize(
    ("ratings", "expected"),
    [
        ((2, 2, 2), 2.0),
        ((1, 1, 1), 1.0),
        ((0, 2, 2), 0.0),
        ((2, 1, 2), 1.5),
        ((1, 1, 2), 1.2),
        ((None, 2, 2), None),
        ((0, None, 2), None),
    ],
)
def test_overall_is_the_harmonic_mean_with_the_zero_rule(
    ratings: tuple[float | None, ...], expected: float | None
) -> None:
    found = overall(Verdict(r, reason="unreadable" if r is None else "") for r in ratings)
    assert found.value == (None if expected is None else pytest.approx(expected))
    assert bool(found.reason) == (expected is None)


def test_axbench_folders_read_as_the_reference_splits_them(axbench_folder: Path) -> None:
    made: AxBench = build("task", "axbench", {"data": str(axbench_folder)}, protocol=protocol("paper"))
    assert len(made.concepts()) == 10
    for concept in made.concepts():
        found = made.train(concept)
        assert len(found.positives) == len(found.negatives) == 72
        kinds = Counter(kind for _, kind in made.evaluation(concept))
        assert kinds["positive"] == kinds["negative"] == 36
        assert len(made.select(concept)) == len(made.test(concept)) == 5
