"""A reference set: drawn blind and evenly, traceable by its key for ever, read back strictly."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from conftest import committed

from bench.core.errors import BenchError, UsageError
from bench.measure.reference import answers_of, draw, garbage, scorer
from bench.results import ratings
from bench.results.ratings import RATINGS, TEXTS, Answer, Origin, Rated, blind, key_of, merged, read, read_key
from bench.results.runs import Run, read as run_of

ROOT = Path(__file__).resolve().parents[1]
METHODS = ("diffmean", "prompt", "random", "loreft", "shuffled", "prompt+diffmean")
Drawn = list[tuple[Answer, Origin]]


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    return [run_of(committed(method) / "run.json") for method in METHODS]


@pytest.fixture(scope="module")
def drawn(runs: list[Run]) -> Drawn:
    return draw(runs, 60, seed=1)


@pytest.mark.slow
def test_a_draw_is_even_over_surfaces_concepts_and_coefficients(runs: list[Run], drawn: Drawn) -> None:
    back = {blind(run.data["id"], s["id"]): (run, s) for run in runs for s in run.data["samples"]}
    for answer, origin in drawn:
        run, sample = back[answer.id]
        assert answer.answer == sample["text"]
        assert (origin.run, origin.sample, origin.method) == (run.data["id"], sample["id"], run.method)
    surfaces, concepts = (Counter(each) for each in zip(*((o.surface, a.concept) for a, o in drawn), strict=True))
    assert set(surfaces) == {"activations", "prompt", "control", "combination"}
    assert max(surfaces.values()) - min(surfaces.values()) <= 6  # two of the six methods are controls
    assert max(concepts.values()) - min(concepts.values()) <= 2
    assert len({answer.id for answer, _ in drawn}) == 60


@pytest.mark.slow
def test_a_draw_depends_on_its_seed_alone(runs: list[Run]) -> None:
    assert draw(runs, 20, seed=1) == draw(runs, 20, seed=1) != draw(runs, 20, seed=2)


@pytest.mark.slow
def test_a_reader_is_asked_what_a_judge_is_asked() -> None:
    """Suppression rates against the question without its wish for the concept: so must a reader."""
    found = answers_of(run_of(committed("diffmean", "axbench-suppress") / "run.json"))
    for answer, _ in found:
        assert answer.concept not in answer.instruction


@pytest.mark.slow
def test_what_a_reader_gets_shows_no_method_and_the_key_shows_all(drawn: Drawn, tmp_path: Path) -> None:
    path = tmp_path / "todo.csv"
    ratings.write(path, [Rated(answer, "") for answer, _ in drawn])
    ratings.write_key(key_of(path), [origin for _, origin in drawn])
    text = path.read_text("utf-8")
    assert text.splitlines()[0] == ",".join(("id", *TEXTS, *RATINGS, "reader"))
    for _, origin in drawn:
        assert origin.run not in text
        assert origin.sample not in text
    assert read_key(key_of(path)) == {origin.id: origin for _, origin in drawn}
    with pytest.raises(BenchError, match="holds no ratings"):
        read(path)


def test_ratings_come_back_as_they_were_written_and_are_merged_over_readers(tmp_path: Path) -> None:
    answers = [Answer("a", "rain", "Say it.", "=It rains"), Answer("b", "rain", "Say it.", "dry, and\nlong")]
    rows = [
        Rated(answers[0], "one", {"concept": 2.0, "fluency": 1.0}),
        Rated(answers[1], "one", {"concept": 0.0}),
        Rated(answers[0], "two", {"concept": 1.0}),
    ]
    ratings.write(tmp_path / "done.csv", rows)
    assert read(tmp_path / "done.csv") == rows
    assert merged(rows) == [(answers[0], {"concept": 1.5, "fluency": 1.0}), (answers[1], {"concept": 0.0})]


def test_a_file_of_any_origin_needs_texts_and_one_rating_alone(tmp_path: Path) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text("note,concept,instruction,answer,fluency_rating\nx,rain,Say it.,It rains.,1.5\n", "utf-8")
    (row,) = read(path)
    assert (row.reader, row.ratings, row.answer.answer) == ("", {"fluency": 1.5}, "It rains.")
    assert len(row.answer.id) == 12


def test_too_few_texts_is_an_error(runs: list[Run]) -> None:
    with pytest.raises(UsageError, match="hold"):
        draw(runs[:1], 1000)


HEAD = ",".join((*TEXTS, *RATINGS))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,concept,text\n", "lacks the columns instruction, answer"),
        (",".join(TEXTS) + "\nc,i,t\n", "lacks the columns concept_rating"),
        (HEAD + "\nc,i,t,,,\n", "holds no ratings"),
        (HEAD + "\nc,i,t,3,,\n", "row 2: concept_rating '3'"),
        (HEAD + "\nc,i,t,,good,\n", "row 2: instruction_rating 'good'"),
        (HEAD + "\nc,i,t,,,nan\n", "row 2: fluency_rating 'nan'"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(content, "utf-8")
    with pytest.raises(BenchError, match=message):
        read(path)


def test_a_task_makes_of_ratings_what_it_ranks() -> None:
    answer = Answer("a", "rain", "Say it.", "It rains.")
    given = {"concept": 2.0, "instruction": 1.0, "fluency": 2.0}
    assert scorer("axbench")(answer, given) == pytest.approx(1.5)
    assert scorer("axbench-suppress")(answer, given) == 0  # the concept is there
    assert scorer("axbench-suppress")(answer, {**given, "concept": 0.0}) == pytest.approx(1.5)
    assert scorer("persona")(answer, given) == pytest.approx(2)  # trait and coherence
    rule = Answer("b", "writing in capital letters only", "Say it.", "IT RAINS.")
    assert scorer("axbench-attack")(rule, {"instruction": 2.0, "fluency": 2.0}) == 0  # read, not rated


def test_the_committed_reference_set_is_what_it_should_be() -> None:
    path = ROOT / "results" / "judges" / "reference.csv"
    rows, key = read(path), read_key(key_of(path))
    rated = merged(rows)
    assert len(rated) >= 600
    assert {o.surface for o in key.values()} == {
        "prompt",
        "decoding",
        "activations",
        "weights",
        "combination",
        "control",
    }
    assert {o.task for o in key.values()} >= {"axbench", "axbench-suppress", "axbench-attack", "persona"}
    by = Counter(row.answer for row in rows)
    assert sum(n > 1 for n in by.values()) >= 200
    assert all(row.reader for row in rows)
    assert sum(given["fluency"] <= 0.25 for _, given in rated) >= 60
    assert {row.answer.id for row in rows} == set(key)
    assert all(blind(o.run, o.sample) == o.id for o in key.values())


def test_garbage_is_of_many_kinds() -> None:
    found = garbage()
    assert len(found) >= 30
    assert len({answer.concept for answer in found}) >= 10
    assert len({answer.answer for answer in found}) == len(found)


def test_a_name_without_a_stem_has_a_key_beside_it() -> None:
    assert key_of(Path(".")) == Path(".key.csv")
