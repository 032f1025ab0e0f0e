"""What third parties bring, held where it comes in: a method that is wrong fails alone, in one line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench.backends import tiny
from bench.cli.main import main
from bench.core.errors import BenchError
from bench.core.protocol import protocol
from bench.core.registry import get, load_plugin
from bench.core.values import Concept
from bench.run.task_contract import refuse, untyped

PLUGIN = '''
import dataclasses
from dataclasses import dataclass

import numpy as np

from bench import Add, Clamp, Fitted, Method, Project, Span, Steering, method, stored
from bench.core.deltas import LowRankDelta
from bench.core.edits import Gate
from bench.core.kinds import LowRank

def unit(ctx, size=0):
    return np.eye(size or ctx.lm.width, dtype=np.float32)[0]

def made(name, needs=()):
    return method(name, surface="activations", needs=needs)

class Plain(Method):
    def fit(self, ctx, train):
        return [Fitted(self.steering(ctx), note=self.note())]

    def note(self):
        return {}

def adding(ctx, **fields):
    return Steering(edits=(Add(**{"layer": 1, "value": unit(ctx)} | fields),))

@made("bad-layer", ["add"])
@dataclass(frozen=True)
class BadLayer(Plain):
    def steering(self, ctx):
        return adding(ctx, layer=99)

@made("bad-negative-layer", ["add"])
@dataclass(frozen=True)
class BadNegative(Plain):
    def steering(self, ctx):
        return adding(ctx, layer=-1)

@made("bad-width", ["add"])
@dataclass(frozen=True)
class BadWidth(Plain):
    def steering(self, ctx):
        return adding(ctx, value=unit(ctx, 5))

@made("bad-rows", ["project"])
@dataclass(frozen=True)
class BadRows(Plain):
    def steering(self, ctx):
        return Steering(edits=(Project(layer=1, basis=np.eye(3, dtype=np.float32)),))

@made("bad-rank", ["lowrank"])
@dataclass(frozen=True)
class BadRank(Plain):
    def steering(self, ctx):
        two = np.eye(ctx.lm.width, dtype=np.float32)[:2]
        return Steering(edits=(LowRank(layer=1, rotation=two, weight=two[[0, 0, 1]], bias=np.ones(2, np.float32)),))

@made("bad-gate", ["add", "gate"])
@dataclass(frozen=True)
class BadGate(Plain):
    def steering(self, ctx):
        return adding(ctx, gate=Gate(0, np.ones(3, np.float32), 0.1))

@made("bad-module", ["delta"])
@dataclass(frozen=True)
class BadModule(Plain):
    def steering(self, ctx):
        down, up = np.ones((1, 4), np.float32), np.ones((4, 1), np.float32)
        return Steering(deltas=(LowRankDelta(module="model.layers.0.nowhere", down=down, up=up),))

@made("bad-shape", ["delta"])
@dataclass(frozen=True)
class BadShape(Plain):
    def steering(self, ctx):
        down, up = np.ones((1, 4), np.float32), np.ones((4, 1), np.float32)
        return Steering(deltas=(LowRankDelta(module="model.layers.0.mlp.up_proj", down=down, up=up),))

@made("bad-kind")
@dataclass(frozen=True)
class BadKind(Plain):
    def steering(self, ctx):
        return {"add": 3}

@made("bad-part")
@dataclass(frozen=True)
class BadPart(Plain):
    def steering(self, ctx):
        return Steering(edits=("add",))

@made("bad-text", ["prompt"])
@dataclass(frozen=True)
class BadText(Plain):
    def steering(self, ctx):
        return dataclasses.replace(Steering(), prompt=dataclasses.replace(Steering().prompt, system=3))

@made("bad-note", ["add"])
@dataclass(frozen=True)
class BadNote(Plain):
    def steering(self, ctx):
        return adding(ctx)

    def note(self):
        return {"loss": float("nan")}

@made("bad-note-array", ["add"])
@dataclass(frozen=True)
class BadNoteArray(BadNote):
    def note(self):
        return {"loss": np.ones(3)}

@made("bad-place", ["add"])
@dataclass(frozen=True)
class BadPlace(Plain):
    """Asks for positions that no prompt has."""

    def steering(self, ctx):
        return adding(ctx, span=Span("prompt", offset=4000))

@stored
@dataclass(frozen=True)
class Binds:
    how: str

    def bind(self, lm, messages):
        if self.how == "raises":
            raise RuntimeError("no binding today\\nof several lines")
        return adding(type("Ctx", (), {"lm": lm}), layer=99) if self.how == "layer" else "a text"

@made("bad-bind", ["add"])
@dataclass(frozen=True)
class BadBind(Plain):
    how: str = "raises"

    def steering(self, ctx):
        return Binds(self.how)

@made("bad-bound-layer", ["add"])
@dataclass(frozen=True)
class BadBoundLayer(BadBind):
    how: str = "layer"

@made("bad-bound-type", ["add"])
@dataclass(frozen=True)
class BadBoundType(BadBind):
    how: str = "type"

@stored
@dataclass(frozen=True)
class Picks:
    n: int = 2

    def pick(self, ctx, sample, answers):
        return 9

@made("bad-pick")
@dataclass(frozen=True)
class BadPick(Method):
    def fit(self, ctx, train):
        return [Fitted(Steering(), chooser=Picks())]

class Answered(Method):
    def fit(self, ctx, train):
        return self.answer(ctx)

@made("bad-none", ["add"])
@dataclass(frozen=True)
class BadNone(Answered):
    def answer(self, ctx):
        return None

@made("bad-answer", ["add"])
@dataclass(frozen=True)
class BadAnswer(Answered):
    def answer(self, ctx):
        return "hello"

@made("bad-empty", ["add"])
@dataclass(frozen=True)
class BadEmpty(Answered):
    def answer(self, ctx):
        return []

@made("bad-exit", ["add"])
@dataclass(frozen=True)
class BadExit(Answered):
    def answer(self, ctx):
        raise SystemExit(3)

@made("bad-vector-rank", ["add"])
@dataclass(frozen=True)
class BadVectorRank(Plain):
    def steering(self, ctx):
        return adding(ctx, value=unit(ctx)[None, None])

@made("bad-tensor", ["add"])
@dataclass(frozen=True)
class BadTensor(Plain):
    def steering(self, ctx):
        import torch

        return adding(ctx, value=torch.ones(ctx.lm.width))

@made("bad-words", ["add"])
@dataclass(frozen=True)
class BadWords(Plain):
    def steering(self, ctx):
        return adding(ctx, value=unit(ctx).astype(str))

@made("bad-complex", ["add"])
@dataclass(frozen=True)
class BadComplex(Plain):
    def steering(self, ctx):
        return adding(ctx, value=unit(ctx).astype(complex))

@made("bad-nan", ["add"])
@dataclass(frozen=True)
class BadNan(Plain):
    def steering(self, ctx):
        return adding(ctx, value=unit(ctx) * np.nan)

@made("bad-training", ["add"])
@dataclass(frozen=True)
class BadTraining(Plain):
    def training(self, budget):
        return budget["rows"]

    def steering(self, ctx):
        return adding(ctx)

@made("bad-all", ["add"])
@dataclass(frozen=True)
class BadAll(Plain):
    def fit_all(self, ctx, trains):
        return None

@made("bad-fit")
@dataclass(frozen=True)
class BadFit(Method):
    def fit(self, ctx, train):
        return [Steering()]
'''
SAID = {
    "bad-layer": "fit: its Add at layer 99: the model has layers 0 to 3",
    "bad-negative-layer": "fit: its Add at layer -1: the model has layers 0 to 3",
    "bad-width": "fit: its Add at layer 1 has 5 values, the model 32 (bad_methods.py:19)",
    "bad-rows": "its Project at layer 1 cannot change a state of 32 values: basis is (3, 3): ",
    "bad-rank": "its LowRank at layer 1 cannot change a state of 32 values: rotation is (2, 32), weight is (3, 32)",
    "bad-gate": "Add at layer 1: its gate has shape (3,), and the model's states have 32",
    "bad-module": "LowRankDelta on 'model.layers.0.nowhere': the model has no such linear module",
    "bad-shape": "LowRankDelta on model.layers.0.mlp.up_proj: (4, 4), where it is (64, 32)",
    "bad-kind": "its steering is a dict: a Steering, or what binds to one, is due",
    "bad-part": "Steering.edits takes Edits, not a str",
    "bad-text": "its prompt has a part that is no text",
    "bad-note": "its note holds a number that is not finite",
    "bad-note-array": "its note holds a ndarray, which JSON has no place for",
    "bad-place": "generate: Add at layer 1 touched no position of a request",
    "bad-bind": "steering: RuntimeError: no binding today",
    "bad-bound-layer": "bound to a prompt, its Add at layer 99: the model has layers 0 to 3",
    "bad-bound-type": "bound to a prompt, its steering is a str",
    "bad-pick": "choose: its chooser picked 9 of 2 answers, which are numbered from 0",
    "bad-none": "fit: its fit gave None, where a list of Fitted is due",
    "bad-answer": "fit: its fit gave a str, where a list of Fitted is due",
    "bad-empty": "fit: its fit gave no candidate",
    "bad-exit": "fit: SystemExit: 3",
    "bad-vector-rank": "its Add at layer 1 makes (1, 1, 1, 1, 32) of a state (1, 1, 32): value is (1, 1, 32)",
    "bad-tensor": "its Add at layer 1: value is a Tensor, where a NumPy array is due",
    "bad-words": "Add.value holds <U",
    "bad-complex": "its Add at layer 1: value holds complex128, where real numbers are due",
    "bad-nan": "Add.value holds values that are not finite",
    "bad-training": "TypeError: 'Budget' object is not subscriptable",
    "bad-all": "fit: its fit_all gave None: the fits of each concept are due",
    "bad-fit": "its fit gave a Steering, where a Fitted is due",
}
"""What each method of the plugin is told."""


def bench(*words: str) -> Any:
    return CliRunner().invoke(main, list(words))


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "bad_methods.py"
    path.write_text(PLUGIN, "utf-8")
    return path


def test_each_method_that_is_wrong_fails_alone_and_in_one_line(plugin: Path, tmp_path: Path) -> None:
    """All in one run, with two that are right, on a real model: so each is kept from the batches of the others."""
    model = tiny.build(tmp_path / "model")
    wanted = ",".join([*SAID, "none", "prompt"])
    words = ("run", "-m", wanted, "-n", "2", "--model", str(model.path), "--dtype", "float32", "--judge", "rules")
    done = bench(*words, "--plugin", str(plugin), "--results", str(tmp_path / "results"), "--json")
    assert done.exit_code == 1, done.stderr
    assert done.exception is None or isinstance(done.exception, SystemExit)
    rows = {row["method"]: row for row in json.loads(done.stdout)["runs"]}
    assert {name for name, row in rows.items() if row["status"] == "complete"} == {"none", "prompt"}
    for name, said in SAID.items():
        assert rows[name]["status"] == "failed"
        assert said in rows[name]["reason"], rows[name]["reason"]
        assert "\n" not in rows[name]["reason"]
        assert re.search(r"\(bad_methods\.py:\d+\)$", rows[name]["reason"])
    assert all(len(json.loads(Path(rows[n]["path"]).read_text())["samples"]) == 6 for n in ("none", "prompt"))


TASKS = """
import sys
from dataclasses import dataclass

from bench import Verdict, task
from tasks.axbench import AxBench

BAD = {"short": lambda rows: rows[:-1], "plain": lambda rows: [1.0 for _ in rows],
       "high": lambda rows: [row | {"overall": Verdict(9.0)} for row in rows],
       "nan": lambda rows: [row | {"overall": Verdict(float("nan"))} for row in rows],
       "axis": lambda rows: [row | {"mood": Verdict(1.0)} for row in rows],
       "raise": lambda rows: 1 // 0, "exit": lambda rows: sys.exit(3)}

@task("bad-task")
@dataclass(frozen=True)
class Bad(AxBench):
    how: str = "short"

    def score(self, samples, outputs, rate):
        return BAD[self.how](super().score(samples, outputs, rate))
"""


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("short", "task bad-task scores"),
        ("plain", "task bad-task: an answer's score is a float, where a verdict for each axis is due"),
        ("high", "task bad-task: overall is 9.0, and the scale goes from 0 to 2"),
        ("nan", "task bad-task: overall is nan, and the scale goes from 0 to 2"),
        ("axis", "task bad-task: an answer has mood, which is none of its axes"),
        ("raise", "task bad-task cannot score: ZeroDivisionError"),
        ("exit", "task bad-task cannot score: SystemExit: 3"),
    ],
)
def test_a_task_that_scores_wrongly_is_named_in_one_line(
    how: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "bad_task.py").write_text(TASKS, "utf-8")
    load_plugin(tmp_path / "bad_task.py")
    words = ("run", "-t", "bad-task", "-p", f"bad-task.how={how}", "-m", "none", "-n", "1", "--backend", "fake")
    done = bench(*words, "--judge", "rules", "--results", str(tmp_path / "results"))
    assert done.exit_code == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"bench: {said}")
    assert re.search(r"\(bad_task\.py:\d+\)$", last)
    assert not list((tmp_path / "results").rglob("run.json"))


def changing(**parts: Any) -> Any:
    """The shipped task with parts of it replaced: functions of what is there."""

    @dataclass(frozen=True)
    class Changed(get("task", "axbench")):  # type: ignore[misc]
        def concepts(self) -> Any:
            return parts.get("concepts", lambda rows: rows)(list(super().concepts()))

        def train(self, concept: Concept) -> Any:
            return parts.get("train", lambda train: train)(super().train(concept))

        def select(self, concept: Concept) -> Any:
            return parts.get("select", lambda rows, test: rows)(super().select(concept), super().test(concept))

        def test(self, concept: Concept) -> Any:
            return parts.get("test", lambda rows, train: rows)(super().test(concept), super().train(concept))

    return Changed(protocol=protocol("quick", limit=2))


def mute(rows: Any) -> Any:
    return tuple(replace(row, response=" ") for row in rows)


def asking(sample: Any, text: str) -> Any:
    return replace(sample, messages=(("user", text),))


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"concepts": lambda rows: [replace(row, text="  ") for row in rows]}, "it has no text"),
        ({"concepts": lambda rows: [rows[0], rows[0]]}, "concept chance is there 2 times"),
        ({"train": lambda t: replace(t, positives=mute(t.positives))}, "none of its positive texts has a word"),
        ({"train": lambda t: replace(t, negatives=mute(t.negatives))}, "none of its negative texts has a word"),
        ({"train": lambda t: replace(t, negatives=t.positives)}, "its positive texts are its negative ones"),
        ({"test": lambda rows, train: []}, "task axbench has no test sample for it"),
        ({"select": lambda rows, test: []}, "task axbench has no select sample for it"),
        ({"test": lambda rows, train: [rows[0], rows[0]]}, "is there 2 times"),
        (
            {"test": lambda rows, train: [asking(rows[0], train.positives[0].instruction)]},
            "train and test share an instruction",
        ),
        (
            {"select": lambda rows, test: [asking(rows[0], f" {test[0].instruction.upper()}  ")]},
            "select and test share an instruction",
        ),
    ],
)
def test_data_that_cannot_be_meant_are_refused(parts: dict[str, Any], said: str) -> None:
    task = changing(**parts)
    with pytest.raises(BenchError, match=said):
        refuse(task, {concept.id: task.train(concept) for concept in task.concepts()})


def test_a_test_question_that_is_nearly_a_training_one_is_told() -> None:
    """Not refused: released data sets have some."""
    task = changing(test=lambda rows, train: [asking(rows[0], f"{train.positives[0].instruction.upper()} ")])
    told = refuse(task, {concept.id: task.train(concept) for concept in task.concepts()})
    assert len(told) == 2
    assert all("but for case and spaces a test question is a training one" in line for line in told)


JUDGE = """
import sys
from dataclasses import dataclass

from bench import Judge, Verdict, judge

def raises():
    raise ValueError("no rating today")

@judge("bad-judge")
@dataclass
class Bad(Judge):
    where: str = ""

    def fingerprint(self):
        return raises() if self.where == "fingerprint" else {"where": self.where}

    def prepare(self, *given):
        return raises() if self.where == "prepare" else None

    def key(self, item):
        return raises() if self.where == "key" else item

    def report(self):
        return raises() if self.where == "report" else {}

    def rate(self, items):
        if self.where == "exit":
            sys.exit(3)
        return raises() if self.where == "rate" else ((i, Verdict(1.0)) for i, _ in enumerate(items))
"""


@pytest.mark.parametrize("where", ["fingerprint", "prepare", "key", "report", "rate", "exit"])
def test_a_judge_that_fails_is_named_with_file_and_line(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "bad_judge.py").write_text(JUDGE, "utf-8")
    load_plugin(tmp_path / "bad_judge.py")
    words = ("run", "--judge", "bad-judge", "-p", f"bad-judge.where={where}", "-m", "none", "-n", "1")
    done = bench(*words, "--backend", "fake", "--results", str(tmp_path / "results"))
    assert done.exit_code == 1
    last = done.stderr.splitlines()[-1]
    said = "SystemExit: 3 (bad_judge.py:29)" if where == "exit" else "ValueError: no rating today (bad_judge.py:8)"
    assert "judge bad-judge" in last
    assert said in last


@pytest.mark.parametrize(("part", "given"), [("concepts", ["x"]), ("train", None), ("select", None), ("test", ["x"])])
def test_a_task_that_gives_something_else_is_told_what_is_due(part: str, given: Any) -> None:
    made = changing(**{part: lambda *given_to: given})
    assert "is due" in untyped(made)
    assert not untyped(changing())


def test_a_plugin_may_end_in_an_exit_and_its_traceback_is_shown_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BENCH_DEBUG", raising=False)
    (tmp_path / "leaves.py").write_text("import sys\n\nsys.exit(2)\n", "utf-8")
    words = ("run", "-m", "none", "--backend", "fake", "--plugin", str(tmp_path / "leaves.py"))
    plain, debug, early = (bench(*more) for more in (words, (*words, "--debug"), ("--debug", *words)))
    for done in (plain, debug, early):
        assert done.exit_code == 2
        assert done.stderr.splitlines()[-1] == "bench: plugin leaves.py:3 cannot be imported: SystemExit: 2"
        assert ("Traceback" in done.stderr) is (done is not plain)
    assert "BENCH_DEBUG" not in os.environ


@pytest.mark.parametrize("first", ["plugin", "shipped"])
def test_a_shipped_name_is_the_plugin_s_to_give_up_whichever_is_loaded_first(tmp_path: Path, first: str) -> None:
    """In a process of its own: which comes first is a matter of what was imported before."""
    (tmp_path / "mine.py").write_text(PLUGIN.split("@made")[0] + '\n@made("diffmean")\nclass Mine(Plain):\n    pass\n')
    loads = ["registry.load_plugin(pathlib.Path('mine.py'))", "registry.table('method')"]
    code = "; ".join(["import pathlib", "from bench.core import registry", *loads[:: 1 if first == "plugin" else -1]])
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert re.search(r"'diffmean' is a shipped method: mine\.py:\d+ needs another name$", done.stderr.strip())


def test_a_run_names_the_plugin_that_it_was_made_with_and_its_replay_and_export_ask_for_it(tmp_path: Path) -> None:
    """Each command in a process of its own, as a user's are."""
    path = tmp_path / "my_method.py"
    ones = "[Fitted(adding(ctx, value=np.ones(ctx.lm.width, np.float32)))]"
    path.write_text(
        PLUGIN.split("@made")[0] + '\n@made("mine", ["add"])\n@dataclass(frozen=True)\nclass Mine(Method):\n'
    )
    with path.open("a") as file:
        file.write(f"    def fit(self, ctx, train):\n        return {ones}\n")
    env = os.environ | {"BENCH_CACHE": str(tmp_path / "cache"), "BENCH_RESULTS": str(tmp_path / "results")}
    env |= {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}

    def said(*words: str) -> str:
        command = [sys.executable, "-m", "bench", *words]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr
        return " ".join(done.stderr.split())

    said("run", "-m", "mine,none", "-n", "1", "--backend", "fake", "--judge", "likelihood", "--plugin", str(path))
    records = {p.parent.name.split("-")[0]: p for p in (tmp_path / "results").rglob("run.json")}
    plugins = {name: json.loads(p.read_text("utf-8")).get("plugins", []) for name, p in records.items()}
    assert [one["name"] for one in plugins["mine"]] == ["my_method.py"]
    assert plugins["none"] == []
    asked = "bench: no method 'mine' here: --plugin FILE (the run was made with my_method.py)"
    assert said("run", "--config", str(records["mine"]), "--yes").endswith(asked)
    assert said("export", "mine").endswith(asked)
    path.write_text(path.read_text().replace("np.ones", "-np.ones"))
    again = said("run", "--config", str(records["mine"]), "--plugin", "my_method.py", "--results", "again")
    assert f"my_method.py is not as it was when {records['mine'].parent.name} was made" in again
