"""Two concepts at once: texts of either, ratings of each on its own, what is left of each beside the other."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench.core.errors import BenchError
from bench.core.protocol import protocol
from bench.core.registry import build
from bench.core.values import Completion, Item, Verdict
from bench.report.build import build as build_report
from bench.run.plan import Options, make
from bench.run.session import execute


def made(**given: Any) -> Any:
    return build("task", "axbench-two", given, protocol=protocol("standard"))


def test_a_concept_stands_in_two_pairs_of_its_genre() -> None:
    task = made()
    genres = {c.id: c.genre for c in build("task", "axbench", {}, protocol=protocol("standard")).concepts()}
    pairs = [concept.id.split("+") for concept in task.concepts()]
    assert all(genres[one] == genres[other] for one, other in pairs)
    assert set(Counter(name for pair in pairs for name in pair).values()) == {2}
    assert len(pairs) == len(genres) == 12


def test_every_other_text_is_of_either_concept_and_the_budget_is_one_concepts() -> None:
    task = made()
    for concept in task.concepts():
        one, other = task.pairs[concept.id]
        train = task.train(concept)
        assert len(train.positives) == len(one.positives)
        assert set(train.positives[::2]) <= set(one.positives)
        assert set(train.positives[1::2]) <= set(other.positives)
        assert train.limited(4).positives == (*train.positives[:2],)
        assert not {text for s in (*task.select(concept), *task.test(concept)) for text in [s.instruction]} & {
            row.instruction for row in (*train.positives, *train.negatives)
        }


def test_each_concept_is_rated_on_its_own_and_none_carries_the_other() -> None:
    task = made()
    concept = task.concepts()[0]
    one, other = (train.concept for train in task.pairs[concept.id])
    sample = task.select(concept)[0]
    asked: list[Item] = []

    def rate(items: list[Item]) -> list[Verdict]:
        asked.extend(items)
        return [Verdict({one: 2.0, other: 1.0}.get(item.concept, 2.0)) for item in items]

    (found,) = task.score([sample], [Completion("Text.", 1, 1)], rate)
    assert [(item.axis, item.concept.id) for item in asked] == [
        ("concept", one.id), ("concept", other.id), ("instruction", concept.id), ("fluency", concept.id),
    ]  # fmt: skip
    assert found["both"].value == pytest.approx(4 / 3)
    assert found["overall"].value == pytest.approx(4 / (0.5 + 1 + 0.5 + 0.5))
    (none,) = task.score([sample], [Completion("Text.", 1, 1)], lambda items: [
        Verdict(0.0 if item.concept == other else 2.0) for item in items
    ])  # fmt: skip
    assert (none["both"].value, none["overall"].value, none["first"].value) == (0.0, 0.0, 2.0)


def test_what_is_no_pair_is_refused() -> None:
    with pytest.raises(BenchError, match="no pair 'ocean' in the data"):
        made(concept="ocean").concepts()
    assert [c.id for c in made(concept="ocean+space").concepts()] == ["ocean+space"]


@pytest.mark.slow
def test_a_run_says_what_is_left_of_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    for name in ("axbench", "axbench-two"):
        options = Options(
            ("none", "diffmean", "prompt", "prompt-persona"), task=name, backend="fake", judge="likelihood"
        )
        assert {job.reason for job in execute(make(options), tmp_path / "results")} == {""}
    build_report(tmp_path / "results", tmp_path / "out")
    assert "Two wishes at once" in (tmp_path / "out" / "leaderboard.md").read_text("utf-8")
