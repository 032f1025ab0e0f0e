"""Training views that a data set does not bring: what they are made of, for whom, and how that is written down."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import SHARED

from bench import BenchError, Concept, Context, Example, Pair, Train
from bench.backends.fake.backend import FakeBackend
from bench.cli import main
from bench.core.naming import build_method
from bench.core.protocol import protocol
from bench.core.registry import build
from bench.core.rows import Rows
from bench.data import layout, views
from bench.run.views import Unmade, Views, lacking, offered, unanswered

EVERY = {"texts", "pairs", "choices", "personas", "conditions"}
LEARNERS = "reps,bipo,dpo,caa,repe,repeng,repe-contrast,persona,lorra,antipasto,prompt-persona,cast"


class Writer(FakeBackend):
    """A model that answers each question by repeating it, and counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def generate(self, requests):  # type: ignore[no-untyped-def]
        for i, answer in super().generate(requests):
            self.asked.append(requests[i].prompt[-1][1])
            assert requests[i].steering is None
            assert requests[i].sampling.temperature == 0
            yield i, dataclasses.replace(answer, text=f" You ask: {requests[i].prompt[-1][1]} ")


def corpus(folder: Path, genres: tuple[str, ...] = ("text", "text"), same: bool = False) -> Path:
    """A folder in AxBench's layout with a concept for each genre; `same`: negatives answer the positives' questions."""
    rows, tests = [], []
    for c, genre in enumerate(genres):
        for i in range(6):
            one = {"output_concept": f"terms related to thing {c}", "concept_genre": genre}
            plus = one | {"input": f"Say {c} {i}?", "output": f"Thing {c}, {i} times.", "category": "positive"}
            minus = one | {
                "input": f"Say {c if same else 'no'} {i}?",
                "output": f"Nothing {i}.",
                "category": "negative",
            }
            rows += [plus | {"concept_id": c}, minus | {"concept_id": -1}]
            tests += [plus | {"input": f"Test {c} {i}?", "concept_id": c}]
    for file, some in ((layout.TRAIN, rows), (layout.EVALUATION, tests)):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        unique = pd.DataFrame(some).drop_duplicates(["input", "output", "concept_genre"])
        unique.to_parquet(folder / file)
    return folder


def made(folder: Path, lm: FakeBackend, asks: bool = True, keep: Rows | None = None) -> Views:
    task = build("task", "axbench", {"data": str(folder)}, protocol=protocol("quick"))
    return Views(Context(lm, task.protocol.budget), task.protocol, task, Rows(None) if keep is None else keep, asks)


def test_a_concept_is_named_without_how_descriptions_begin() -> None:
    named = {
        "references to Mediterranean meals.": "Mediterranean meals",
        "terms and phrases related to legal contexts": "legal contexts",
        "the presence of French words": "French words",
        "proper nouns, particularly names": "proper nouns, particularly names",
        "phrases indicating conditions": "conditions",
    }
    assert {text: views.core(text) for text in named} == named


@pytest.mark.parametrize("genre", ["text", "code", "math", "recipes"])
def test_templates_show_the_concept_on_one_side_alone(genre: str) -> None:
    concept = Concept("7", "terms related to sailing", genre)
    for plus, minus in views.personas(concept):
        assert "sailing" in plus
        assert "sailing" not in minus
    found = views.choices(concept)
    assert len({(c.question, c.not_matching) for c in found}) == len(found) == 24
    assert {c.matching for c in found} == {"Something about sailing."}
    assert not any("ailing" in c.not_matching or "ailing" in c.question for c in found)
    used = {text for c in found for text in (c.question, c.not_matching)}
    mini = build("task", "axbench", {}, protocol=protocol("quick"))
    assert not used & {s.instruction for c in mini.concepts() for s in (*mini.select(c), *mini.test(c))}


def test_the_model_answers_what_has_no_plain_answer_once(tmp_path: Path) -> None:
    lm, keep = Writer(), Rows(None)
    found = made(corpus(tmp_path), lm, keep=keep)
    reps, caa = build_method("reps", {}), build_method("caa", {})
    assert offered(found.task, found.trains.values()) == EVERY
    assert len(unanswered(found.task, found.trains.values(), [caa])) == 0
    assert len(unanswered(found.task, found.trains.values(), [reps, caa])) == 12
    assert found.of(caa)["0"].choices
    assert not lm.asked
    for train in found.of(reps).values():
        assert [pair.instruction for pair in train.pairs] == [e.instruction for e in train.positives]
        assert all(pair.negative == f"You ask: {pair.instruction}" for pair in train.pairs)
    assert len(lm.asked) == 12
    assert made(tmp_path, lm, keep=keep).of(build_method("dpo", {}))["1"].pairs
    assert len(lm.asked) == 12  # kept, for every method
    assert found.made(reps) == {"pairs": "answers of the target model"}
    assert found.made(build_method("diffmean", {})) == {}


def test_what_may_not_be_asked_is_an_error_and_never_an_empty_view(tmp_path: Path) -> None:
    found = made(corpus(tmp_path), Writer(), asks=False)
    with pytest.raises(Unmade, match="run the method first"):
        found.of(build_method("reps", {}))
    assert found.of(build_method("caa", {}))["0"].choices


def test_plain_answers_to_the_same_instructions_are_the_pairs(tmp_path: Path) -> None:
    lm = Writer()
    found = made(corpus(tmp_path, same=True), lm)
    assert all(len(train.pairs) == 6 for train in found.trains.values())
    assert found.of(build_method("reps", {}))["0"].pairs[2] == Pair("Say 0 2?", "Thing 0, 2 times.", "Nothing 2.")
    assert not lm.asked
    assert found.made(build_method("reps", {})) == {}


def test_an_answer_that_is_empty_or_the_positive_itself_makes_no_pair() -> None:
    rows = [Example("a", "x"), Example("b", "y"), Example("c", "z")]
    assert views.joined(rows, {"a": " ", "b": "y", "c": "w"}) == (Pair("c", "z", "w"),)


def test_a_preference_table_is_read_by_name(tmp_path: Path) -> None:
    folder = corpus(tmp_path, ("text", "code"))
    rows = [
        {
            "losing_output": f"Lost {i}.",
            "concept_id": i % 2,
            "winning_output": f"Won {i}.",
            "input": f"Say {i % 2} {i}?",
        }
        for i in range(6)
    ]
    pd.DataFrame(rows[:4]).to_parquet(folder / "generate" / "dpo_train_data.parquet")
    pd.DataFrame(rows[4:]).to_parquet(folder / "generate" / "dpo_train_data_1.parquet")
    found = made(folder, Writer())
    assert found.trains["1"].pairs[-1] == Pair("Say 1 5?", "Won 5.", "Lost 5.")
    assert [len(found.trains[name].pairs) for name in "01"] == [3, 3]
    assert found.task.sources["pairs"] == "preference table"


def test_a_real_preference_file_is_read() -> None:
    path = SHARED / "axbench-preference-layout" / "dpo_train_data.parquet"
    if not path.is_file():
        pytest.skip("the development data is not here")
    found = layout.Folder("axbench")
    layout.preferences(path, path.name, found)
    assert [len(pairs) for pairs in found.pairs.values()] == [100]
    assert not found.findings
    assert all(pair.instruction and pair.positive != pair.negative for pair in found.pairs["0"])


def test_a_single_genre_gets_the_conditions_of_the_shipped_set(tmp_path: Path) -> None:
    found = made(corpus(tmp_path), Writer())
    train = found.trains["0"]
    assert "conditions" in train.views
    assert not set(train.others) & set(train.triggers)
    assert found.task.sources == {"conditions": "instructions of the shipped set"}
    assert not made(corpus(tmp_path / "two", ("text", "code")), Writer()).task.sources


def test_a_prompter_writes_in_place_of_the_template_what_can_be_read(tmp_path: Path) -> None:
    class Prompter(FakeBackend):
        reply = "- a sailor | a miner\n* one who rows | one who walks\nnot a line"

        def generate(self, requests):  # type: ignore[no-untyped-def]
            for i, answer in super().generate(requests):
                yield i, dataclasses.replace(answer, text=self.reply)

    found = made(corpus(tmp_path), Writer())
    found.context.prompter = Prompter()
    assert found.of(build_method("repeng", {}))["0"].personas == (
        ("a sailor", "a miner"),
        ("one who rows", "one who walks"),
    )
    assert found.made(build_method("repeng", {})) == {"personas": "written by fake"}
    assert len(found.of(build_method("caa", {}))["0"].choices) == 12  # nothing could be read: the template


def test_a_task_that_does_not_let_views_be_made_has_none() -> None:
    task = build("task", "axbench", {}, protocol=protocol("quick"))
    bare = Train(Concept("0", "x"), positives=(Example("a", "b"),), negatives=(Example("c", "d"),))
    assert lacking(bare, task) == {"pairs", "choices", "personas"}
    rules = build("task", "axbench-attack", {}, protocol=protocol("quick"))
    assert rules.derives == frozenset() or "pairs" in rules.train(rules.concepts()[0]).views


@pytest.mark.parametrize("name", ["concept10-2b-l10", "concept10-2b-l20", "conceptFD-2b-l20"])
def test_every_method_runs_on_axbenchs_own_data(name: str, tmp_path: Path) -> None:
    folder = SHARED / "axbench" / name
    if not folder.is_dir():
        pytest.skip("the development data is not here")
    env = {"BENCH_CACHE": str(tmp_path / "cache"), "BENCH_RESULTS": str(tmp_path / "results")}
    words = ["run", "-t", "axbench", "--data", str(folder), "--backend", "fake", "-n", "2", "-m", LEARNERS, "--json"]
    found = CliRunner().invoke(main, words, env=env)
    runs = json.loads(found.stdout)["runs"]
    lacking = {run["method"]: run["reason"] for run in runs if run["status"] == "unsupported"}
    assert not [reason for reason in lacking.values() if "the data has no" in reason]
    shown = {r["method"]: json.loads(Path(r["path"]).read_text("utf-8")) for r in runs if r["status"] == "complete"}
    assert shown["caa"]["views"] == {"choices": "template"}
    assert shown["repeng"]["views"] == {"personas": "template"}


def test_a_damaged_preference_table_is_named(tmp_path: Path) -> None:
    folder = corpus(tmp_path, ("text", "code"))
    shutil.copy(folder / layout.TRAIN, folder / "generate" / "dpo_train_data.parquet")
    with pytest.raises(BenchError, match=r"dpo_train_data.parquet: it lacks the columns winning_output, losing_output"):
        made(folder, Writer())
