"""Hand ratings: drawn blind and evenly, traceable by id alone, read back strictly."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from conftest import committed

from bench.core.errors import BenchError, UsageError
from bench.measure import human_ratings
from bench.measure.human_ratings import COLUMNS, draw, name, read, write
from bench.results.runs import Run, read as run_of

METHODS = ("diffmean", "prompt", "random", "pca", "shuffled", "prompt+diffmean")


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    return [run_of(committed(method) / "run.json") for method in METHODS]


@pytest.mark.slow
def test_a_draw_is_even_over_methods_concepts_and_coefficients(runs: list[Run]) -> None:
    rows = draw(runs, 60, seed=1)
    back = {name(run, s["id"]): (run, s) for run in runs for s in run.data["samples"]}
    found = [back[row.id] for row in rows]
    assert [row.text for row in rows] == [s["text"] for _, s in found]
    methods = Counter(run.method for run, _ in found)
    concepts = Counter(s["concept"] for _, s in found)
    assert set(methods) == set(METHODS)
    assert max(methods.values()) - min(methods.values()) <= 4
    assert max(concepts.values()) - min(concepts.values()) <= 2
    assert len({row.id for row in rows}) == 60


@pytest.mark.slow
def test_a_draw_depends_on_its_seed_alone(runs: list[Run]) -> None:
    assert draw(runs, 20, seed=1) == draw(runs, 20, seed=1) != draw(runs, 20, seed=2)


def test_a_drawn_file_shows_no_method_or_rating(runs: list[Run], tmp_path: Path) -> None:
    rows = draw(runs, 30)
    write(tmp_path / "todo.csv", rows)
    text = (tmp_path / "todo.csv").read_text("utf-8")
    assert text.splitlines()[0] == ",".join(COLUMNS)
    for run in runs:
        assert run.data["id"] not in text
        assert run.method not in ("diffmean", "pca") or run.method not in text
    assert all(not row.ratings for row in rows)


def test_ratings_come_back_as_they_were_written(runs: list[Run], tmp_path: Path) -> None:
    rows = draw(runs, 5)
    given = [human_ratings.Rated(r.id, r.concept, r.instruction, r.text, {"concept": 1.5, "fluency": 0}) for r in rows]
    write(tmp_path / "done.csv", given)
    assert read(tmp_path / "done.csv") == given


def test_too_few_texts_is_an_error(runs: list[Run]) -> None:
    with pytest.raises(UsageError, match="hold"):
        draw(runs[:1], 1000)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,concept,text\n", "lacks the columns instruction, concept_rating"),
        (",".join(COLUMNS) + "\na,c,i,t,,,\n", "holds no ratings"),
        (",".join(COLUMNS) + "\na,c,i,t,3,,\n", "row 2: concept_rating '3'"),
        (",".join(COLUMNS) + "\na,c,i,t,,good,\n", "row 2: instruction_rating 'good'"),
        (",".join(COLUMNS) + "\na,c,i,t,,,nan\n", "row 2: fluency_rating 'nan'"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(content, "utf-8")
    with pytest.raises(BenchError, match=message):
        read(path)
