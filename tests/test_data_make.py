"""`bench data make`: the tables a loader reads, resumed after a kill, with what is wrong left out and counted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from bench.backends import tiny
from bench.backends.fake.backend import FakeBackend
from bench.backends.models import DEFAULT
from bench.cli.main import main
from bench.core.content import digest
from bench.core.errors import BenchError, UsageError
from bench.core.rows import Rows
from bench.core.values import Completion, Request
from bench.data import layout, make, prompts, quality
from bench.data.check import check
from bench.data.layout import Text
from bench.data.make import Recipe
from bench.run import plan as plans
from bench.run.plan import Options
from bench.run.views import unanswered_by

SMALL = ("--per-concept", "6", "--evaluation", "7", "--hard", "2", "--tokens", "12")


class Writer(FakeBackend):
    """A model without weights that follows the instructions of `prompts`, and misbehaves on purpose.

    Its answers are words; where a theme is asked for, the theme's own words are among them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        for i, completion in super().generate(requests):
            asked = requests[i].prompt[0][1]
            assert isinstance(asked, str)
            self.seen.append(asked)
            yield i, Completion(self.reply(asked, requests[i].seed, completion.text), 12, 10, finish="stop")

    def reply(self, asked: str, seed: int, words: str) -> str:
        mark = digest(asked, seed)[:6]
        if "three shelves" in asked:
            return "Code." if "loops" in asked else "I would say Text"
        if asked.startswith("Write 10"):
            return "\n".join(f"{k}. Please explain the number {mark} {k} to me" for k in range(1, 11))
        if "single word" in asked:
            return "1. wave\n2. bank\n- two words\nanchor." if "sea" in asked else "None"
        if "another common meaning" in asked:
            return "a greeting" if "wave" in asked else "None" if "anchor" in asked else "a place for savings"
        if "Verdict" in asked:
            return "They differ.\nVerdict: unrelated" if "wave" in asked else "Hmm, perhaps."
        if "full of this theme" in asked:
            return f'"salt tide harbour {mark} {words}"'
        return f"{mark} {words}"


@pytest.fixture
def concepts(tmp_path: Path) -> Path:
    path = tmp_path / "concepts.csv"
    path.write_text("concept,url\nthe sea,https://example.org/7\nloops in programs,\n", "utf-8")
    return path


@pytest.fixture
def made(tmp_path: Path, concepts: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, Any], Writer]:
    writer = Writer()
    monkeypatch.setattr(make, "engine", lambda name, *money: writer)
    recipe = Recipe(per_concept=6, evaluation=7, hard=2, tokens=12)
    found = make.make(concepts, "openai:x", tmp_path / "out", recipe, None, lambda line: None)
    return tmp_path / "out", found, writer


def bench(*words: str) -> Result:
    result = CliRunner().invoke(main, list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_tables_are_axbench_s_and_clean(made: tuple[Path, dict[str, Any], Writer]) -> None:
    out, found, _ = made
    train, test = (pd.read_parquet(out / file) for file in (layout.TRAIN, layout.EVALUATION))
    assert train.groupby(["concept_id", "category", "concept_genre"]).size().to_dict() == {
        (-1, "negative", "code"): 6,
        (-1, "negative", "math"): 6,
        (-1, "negative", "text"): 6,
        (0, "positive", "text"): 6,
        (1, "positive", "code"): 6,
    }
    assert set(train[train.concept_id == -1].output_concept) == {"EEEEE"}
    assert test[test.concept_id == 0].category.value_counts().to_dict() == {
        "positive": 7,
        "negative": 7,
        "hard negative": 1,
    }
    negatives = test[(test.concept_id == 0) & (test.category == "negative")]
    assert negatives.concept_genre.value_counts().to_dict() == {"text": 5, "math": 1, "code": 1}
    assert test[test.category == "hard negative"].output_concept.tolist() == ["wave//a greeting"]
    assert not set(train.input) & set(test.input)
    own = train[train.concept_id == 0].input.tolist()
    assert own == train[(train.concept_id == -1) & (train.concept_genre == "text")].input.tolist()  # pairs for free
    assert check(out).findings == ()
    assert found["check"] == {"errors": 0, "warnings": 0}
    metadata = [json.loads(line) for line in (out / layout.METADATA).read_text("utf-8").splitlines()]
    assert [(m["concept"], m["ref"]) for m in metadata] == [
        ("the sea", "https://example.org/7"),
        ("loops in programs", ""),
    ]


def test_every_method_can_learn_from_it(made: tuple[Path, dict[str, Any], Writer], tmp_path: Path) -> None:
    """Each positive's instruction has a plain answer too: those are its pairs."""
    model = tiny.build(tmp_path / "tiny").path
    plan = plans.make(
        Options(methods=("all",), task="axbench", data=str(made[0]), model=str(model), judge="likelihood")
    )
    assert not [why for why in plan.lacks if why]
    trains = [plan.task.train(concept) for concept in plan.task.concepts()]
    assert [len(train.pairs) for train in trains] == [6, 6]
    assert {"pairs", "conditions"} <= frozenset.intersection(*(train.views for train in trains))
    assert unanswered_by(plan.task, plan.protocol, plan.methods) == []


def test_the_quality_report_is_written_and_shown(made: tuple[Path, dict[str, Any], Writer]) -> None:
    out, found, writer = made
    assert json.loads((out / "quality.json").read_text("utf-8")) == found
    assert found["requests"] == len(writer.seen) == len(set(writer.seen))
    assert found["concepts"]["0"]["auroc_train"] == 1.0  # the theme's words stand in every positive
    assert found["concepts"]["0"]["auroc_evaluation"] == 1.0
    assert found["concepts"]["1"]["auroc_hard"] is None
    part = found["parts"]["train positive"]
    assert (part["asked"], part["kept"], part["truncated"], part["words"]["median"]) == (12, 12, 0.0, 16)
    shown = "\n".join(quality.lines(found))
    assert "0 the sea: 1.00, 1.00, 1.00" in shown
    assert "the folder has 0 errors, 0 warnings" in shown


def test_the_same_command_asks_nothing_again(
    made: tuple[Path, dict[str, Any], Writer], concepts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, found, writer = made
    before, tables = len(writer.seen), [(out / f).read_bytes() for f in (layout.TRAIN, layout.EVALUATION)]
    recipe = Recipe(per_concept=6, evaluation=7, hard=2, tokens=12)
    again = make.make(concepts, "openai:x", out, recipe, None, lambda line: None)
    assert again == found
    assert len(writer.seen) == before
    assert [(out / f).read_bytes() for f in (layout.TRAIN, layout.EVALUATION)] == tables


def test_empty_and_refused_answers_are_asked_again_then_left_out_and_counted(
    tmp_path: Path, concepts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stubborn(Writer):
        def reply(self, asked: str, seed: int, words: str) -> str:
            if "full of this theme: loops" not in asked:
                return super().reply(asked, seed, words)
            number = int(digest(asked), 16) % 3
            again = self.seen.count(asked) > 1
            return ["  ", "I'm sorry, but I can't do that.", "fine loops" if again else " \n"][number]

    monkeypatch.setattr(make, "engine", lambda name, *money: Stubborn())
    recipe = Recipe(per_concept=12, evaluation=7, hard=0, tokens=12, tries=2)
    found = make.make(concepts, "openai:x", tmp_path / "out", recipe, None, lambda line: None)
    part = found["parts"]["train positive"]
    assert part["asked"] == 24
    assert part["kept"] < 24
    assert part["empty"] > 0
    assert part["refused"] > 0
    assert part["kept"] == round(24 * (1 - part["empty"] - part["refused"]))
    frame = pd.read_parquet(tmp_path / "out" / layout.TRAIN)
    assert set(frame[frame.concept_id == 1].output) == {"fine loops"}
    assert part["duplicate"] > 0
    assert found["check"]["warnings"] > 0  # fewer positives than negatives, and the same answer twice


@pytest.mark.slow
def test_a_killed_command_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """kill -9 in the middle: what was answered is there, and the whole is what an undisturbed command makes."""
    (tmp_path / "c.csv").write_text("concept,genre\nthe sea,text\n")
    asked = [{"instruction": f"Question {k} about {g} things?", "genre": g} for g in layout.GENRES for k in range(30)]
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    code = (
        "import sys; from bench.backends.fake.backend import FakeBackend; from bench.data import make\n"
        "make.engine = lambda name, *money: FakeBackend(delay=float(sys.argv[2]))\n"
        "from pathlib import Path; from bench.data.make import Recipe\n"
        "make.make(Path('c.csv'), 'fake', Path(sys.argv[1]), Recipe(6, 7, 0, 12), Path('asked.json'), print)\n"
    )

    def command(out: str, delay: float) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", code, out, str(delay)]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        return subprocess.Popen(words, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL)

    assert command("whole", 0).wait() == 0
    running = command("killed", 0.1)
    deadline = time.monotonic() + 120
    while len(Rows(tmp_path / "killed" / "replies")) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    there = len(Rows(tmp_path / "killed" / "replies"))
    assert there >= 5
    assert not (tmp_path / "killed" / "generate").exists()
    assert command("killed", 0).wait() == 0
    files = list((tmp_path / "killed" / "replies").glob("*.jsonl"))
    assert sum(len(file.read_text().splitlines()) for file in files) == len(Rows(tmp_path / "whole" / "replies"))
    for file in (layout.TRAIN, layout.EVALUATION, layout.METADATA, "quality.json"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@pytest.mark.slow
def test_a_real_model_s_folder_passes_the_check_and_plans_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tiny random model writes bytes, not prose: the folder must be whole all the same."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    tiny.build(tmp_path / "model")
    (tmp_path / "c.csv").write_text("concept,genre\nthe sea,text\n")
    asked = [{"instruction": f"Question {k} about {g} things?", "genre": g} for g in layout.GENRES for k in range(30)]
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    words = ("--concepts", str(tmp_path / "c.csv"), "--instructions", str(tmp_path / "asked.json"))
    done = bench("data", "make", *words, "--generator", f"hf:{tmp_path}/model", "--out", str(tmp_path / "out"), *SMALL)
    assert done.exit_code == 0, done.output
    assert "positives against negatives by their words alone" in done.stdout
    assert bench("data", "check", str(tmp_path / "out")).exit_code == 0
    plan = bench("run", "-t", "axbench", "--data", str(tmp_path / "out"), "--backend", "fake", "--dry-run", "--json")
    assert plan.exit_code == 0, plan.output
    assert json.loads(plan.stdout)["total"]["fits"] > 0


def test_a_description_alone_becomes_a_folder_that_can_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(make, "engine", lambda name, *money: (asked.append(name), Writer())[1])
    out = str(tmp_path / "sea")
    done = bench("data", "import", "--concept", "the sea", "--out", out, "--json")
    assert done.exit_code == 0, done.output
    assert asked == [f"hf:{DEFAULT}"]
    assert bench("data", "check", out).exit_code == 0
    plan = bench("run", "--data", out, "--backend", "fake", "-m", "diffmean,prompt", "--dry-run", "--json")
    assert [row["status"] for row in json.loads(plan.stdout)["runs"]] == ["todo", "todo"]
    refused = bench("data", "import", "--out", out)
    assert refused.exit_code == 2
    assert "or --concept with a description" in refused.stderr


def test_too_few_instructions_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("concept,genre\nthe sea,text\n")
    words = ("--concepts", str(tmp_path / "c.csv"), "--generator", "fake", "--out", str(tmp_path / "out"))
    done = bench("data", "make", *words, *SMALL)  # its replies are one long line: nothing to ask
    assert done.exit_code == 1
    assert "usable text instructions of 20: give your own with --instructions FILE" in done.stderr
    assert not (tmp_path / "out" / "generate").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("name\nsea\n", "needs a column named concept"),
        ("concept\nsea\nSea \n", "concept 'Sea' is there twice"),
        ("concept,genre\nsea,prose\n", "genre 'prose' is none of text, math, code"),
        ("concept\n", "holds no concept"),
    ],
)
def test_concepts_that_cannot_be_meant_are_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "c.csv").write_text(content)
    with pytest.raises(UsageError, match=words):
        make.read_concepts(tmp_path / "c.csv")


@pytest.mark.parametrize("name", ["gpt-4", "openai:", "hf:", "likelihood:x"])
def test_a_generator_that_does_not_exist_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="unknown generator"):
        make.engine(name)


def test_an_unreadable_genre_is_an_error_and_no_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Vague(Writer):
        def reply(self, asked: str, seed: int, words: str) -> str:
            return "Text or Code, who knows"

    monkeypatch.setattr(make, "engine", lambda name, *money: Vague())
    (tmp_path / "c.txt").write_text("the sea\n")
    with pytest.raises(BenchError, match="names no genre for 'the sea'"):
        make.make(tmp_path / "c.txt", "openai:x", tmp_path / "out", Recipe(4, 4, 0), None, lambda line: None)


def test_what_a_generator_said_amiss_is_asked_again_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After it was mended: what was kept of it is no try of the new command's, for a genre and for instructions."""
    amiss = {"genre": True, "instructions": True}

    class Mended(Writer):
        def reply(self, asked: str, seed: int, words: str) -> str:
            kind = "genre" if "three shelves" in asked else "instructions" if asked.startswith("Write 10") else ""
            return "who knows" if amiss.get(kind) else super().reply(asked, seed, words)

    monkeypatch.setattr(make, "engine", lambda name, *money: Mended())
    (tmp_path / "c.txt").write_text("the sea\n")
    words = (tmp_path / "c.txt", "openai:x", tmp_path / "out", Recipe(4, 4, 0), None, lambda line: None)
    for part, said in (("genre", "names no genre"), ("instructions", "wrote 0 usable text instructions")):
        for _ in range(2):
            with pytest.raises(BenchError, match=said):
                make.make(*words)
        amiss[part] = False
    assert make.make(*words)


@pytest.mark.parametrize(
    ("read", "reply", "expected"),
    [
        (prompts.read_genre, "**Math**", "math"),
        (prompts.read_genre, "None", "text"),
        (prompts.read_genre, "text, or code", None),
        (prompts.read_genre, "a shelf", None),
        (prompts.read_sense, "The edge of a river.", "The edge of a river"),
        (prompts.read_sense, "None, it has no other sense", None),
        (prompts.read_sense, "one\ntwo", None),
        (prompts.read_unrelated, "Related words.\nVerdict: unrelated", True),
        (prompts.read_unrelated, "verdict : Related", False),
        (prompts.read_unrelated, "They are unrelated.", None),
        (prompts.read_related, "1) Wave\n* tide\ntwo words\nwave\nNone", ["wave", "tide"]),
        (prompts.read_instructions, "Here are ten:\n1. Say why birds sing.\n- Hi\nName a tall tree you like", None),
        (prompts.cleaned, ' "Quoted." ', "Quoted."),
        (prompts.cleaned, '"A" and "B"', '"A" and "B"'),
        (prompts.cleaned, "Reply: yes", "yes"),
        (prompts.refused, "I’m sorry, but no.", True),
        (prompts.refused, "I cannot help with that", True),
        (prompts.refused, "I cannot swim in cold water.", False),
        (prompts.refused, "Sorry seems to be the hardest word.", False),
    ],
)
def test_replies_are_read_or_said_to_be_unreadable(read: Any, reply: str, expected: Any) -> None:
    if read is prompts.read_instructions:
        expected = ["Say why birds sing.", "Name a tall tree you like"]
    assert read(reply) == expected


def test_separability_is_chance_without_a_concept_and_one_with_it() -> None:
    rng = np.random.default_rng(0)

    def texts(extra: str, n: int = 40) -> list[Text]:
        words = ["a", "ship", "on", "the", "hill", "saw", "one", "star"]
        rows = [" ".join(rng.choice(words, 12)) + extra for _ in range(n)]
        return [Text("", 0, "train", "0", "", "text", "", row) for row in rows]

    assert quality.separability(texts(" tide"), texts("")) == 1.0
    same = quality.separability(texts(""), texts(""))
    assert same is not None
    assert 0.3 < same < 0.7
    assert quality.separability(texts("", 1), texts("")) is None
