"""Every shipped task and judge keeps its contract, and each rule of a contract finds what breaks it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner
from conftest import SHARED

from bench import Completion, Concept, Example, Item, Judge, Protocol, Rate, Sample, Task, Train, UsageError, Verdict
from bench.cli.main import main
from bench.core.blame import theirs
from bench.core.definitions import code_digest
from bench.core.errors import located
from bench.core.registry import VIEWS, get, judge, load_plugin, table, task
from bench.run import contract as method_contract, judge_contract, task_contract

DATA = {
    "axbench-detect": "axbench/concept10-2b-l20",
    "behaviour": "behaviours",
    "behaviour-open": "behaviours",
    "ifeval": "ifeval",
    "truthfulqa": "truthfulqa",
    "truthfulqa-gen": "truthfulqa",
}
"""Tasks without data of their own, and where it lies among the development data."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.model] * (name == "truthfulqa-gen")) for name in sorted(table("task"))],
)
def test_every_shipped_task_keeps_the_contract(name: str, levels: Path) -> None:
    folder = levels if name == "steereval" else SHARED / DATA.get(name, "")
    if not folder.is_dir():
        pytest.skip("the development data is not beside this checkout")
    found = task_contract.check(name, {"data": str(folder)} if name in DATA or folder == levels else {})
    assert len(found) == 6
    assert {label: problem for label, problem in found.items() if problem} == {}


MODELS = [pytest.param(name, marks=pytest.mark.model) for name in ("embedding", "ensemble")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rules", *MODELS, "likelihood"])
def test_every_judge_without_a_server_keeps_the_contract(name: str) -> None:
    found = judge_contract.check(name)
    assert len(found) == 5
    assert {label: problem for label, problem in found.items() if problem} == {}


@dataclass
class Small(Task):
    """Two concepts; subclasses break a rule each."""

    axes: ClassVar[tuple[str, ...]] = ("concept",)
    protocol: Protocol

    def concepts(self) -> Sequence[Concept]:
        return [Concept(name, name) for name in ("sea", "sun")][: self.protocol.concepts or None]

    def train(self, concept: Concept) -> Train:
        texts = tuple(Example(f"Say {i}.", f"{concept.text} {i}") for i in range(3))
        return Train(concept, texts, tuple(Example(e.instruction, "no") for e in texts))

    def select(self, concept: Concept) -> Sequence[Sample]:
        return [self.sample(concept, "select", "Ask me.")]

    def test(self, concept: Concept) -> Sequence[Sample]:
        return [self.sample(concept, "test", "Tell me.")]

    def sample(self, concept: Concept, split: Any, asked: str) -> Sample:
        return Sample(f"{concept.id} {split}", concept, split, "generate", (("user", asked),))

    def score(self, samples: Sequence[Sample], outputs: Sequence[Completion], rate: Rate) -> list[dict[str, Verdict]]:
        items = [Item("concept", s.concept, s.instruction, o.text) for s, o in zip(samples, outputs, strict=True)]
        return [{"concept": verdict, "overall": verdict} for verdict in rate(items)]


class Leaking(Small):
    def test(self, concept: Concept) -> Sequence[Sample]:
        return [self.sample(concept, "test", "Say 1.")]


class SameQuestion(Small):
    def test(self, concept: Concept) -> Sequence[Sample]:
        return [self.sample(concept, "test", "Ask me.")]


class WrongSplit(Small):
    def test(self, concept: Concept) -> Sequence[Sample]:
        return [self.sample(concept, "select", "Tell me.")]


class NoOverall(Small):
    def score(self, samples: Sequence[Sample], outputs: Sequence[Completion], rate: Rate) -> list[dict[str, Verdict]]:
        return [{"concept": row["concept"]} for row in super().score(samples, outputs, rate)]


class OffTheScale(Small):
    def score(self, samples: Sequence[Sample], outputs: Sequence[Completion], rate: Rate) -> list[dict[str, Verdict]]:
        return [dict.fromkeys(row, Verdict(3.0)) for row in super().score(samples, outputs, rate)]


class ZeroForMissing(Small):
    def score(self, samples: Sequence[Sample], outputs: Sequence[Completion], rate: Rate) -> list[dict[str, Verdict]]:
        rows = super().score(samples, outputs, rate)
        return [{axis: Verdict(v.value or 0.0) for axis, v in row.items()} for row in rows]


class Unlimited(Small):
    def concepts(self) -> Sequence[Concept]:
        return [Concept(name, name) for name in ("sea", "sun")]


class NoTexts(Small):
    def train(self, concept: Concept) -> Train:
        return Train(concept, (), ())


BROKEN: list[tuple[type[Small], str]] = [
    (Leaking, "train and test share an instruction"),
    (SameQuestion, "select and test share an instruction"),
    (WrongSplit, "says otherwise"),
    (NoOverall, "an answer has no overall"),
    (OffTheScale, "concept is 3.0, and the scale goes from 0 to 2"),
    (ZeroForMissing, "no judge could rate has overall 0.0"),
    (Unlimited, "a limit of one concept leaves 2"),
    (NoTexts, "has no training view"),
]


def test_a_small_task_needs_five_methods_and_a_field() -> None:
    task("small")(Small)
    assert set(task_contract.check("small").values()) == {""}


@pytest.mark.parametrize(("cls", "problem"), BROKEN, ids=[cls.__name__ for cls, _ in BROKEN])
def test_what_breaks_the_task_contract_is_found(cls: type[Small], problem: str) -> None:
    task("broken")(cls)
    assert problem in " ".join(task_contract.check("broken").values())


def test_a_task_without_its_protocol_is_refused_in_one_line() -> None:
    @dataclass
    class Bare(Small):
        protocol: ClassVar[Protocol]  # type: ignore[misc]

    task("bare")(Bare)
    with pytest.raises(UsageError, match="task 'bare' must have the field 'protocol': Bare has none"):
        task_contract.check("bare")


@dataclass
class Fair(Judge):
    """Rates by length; `rate` is replaced by what a case wants."""

    def fingerprint(self) -> Mapping[str, Any]:
        return {"version": 1}

    def rate(self, items: Sequence[Item]) -> Iterator[tuple[int, Verdict]]:
        for i, item in enumerate(items):
            yield i, Verdict(min(2.0, len(item.text) / 40))


class Above(Fair):
    def rate(self, items: Sequence[Item]) -> Iterator[tuple[int, Verdict]]:
        return ((i, Verdict(3.0)) for i in range(len(items)))


class Silent(Fair):
    def rate(self, items: Sequence[Item]) -> Iterator[tuple[int, Verdict]]:
        return ((i, Verdict(None)) for i in range(len(items)))


class Forgetful(Fair):
    def rate(self, items: Sequence[Item]) -> Iterator[tuple[int, Verdict]]:
        return ((i, Verdict(1.0)) for i in range(len(items) - 1))


class Relative(Fair):
    def rate(self, items: Sequence[Item]) -> Iterator[tuple[int, Verdict]]:
        return ((i, Verdict(2 * i / max(1, len(items) - 1))) for i in range(len(items)))


class OneKey(Fair):
    def key(self, item: Item) -> Any:
        return item.axis[:0]


RAW: list[tuple[type[Fair], str]] = [
    (Above, "is rated 3.0"),
    (Silent, "no rating and no reason"),
    (Forgetful, "got ratings at"),
    (Relative, "among others and"),
    (OneKey, "all items have one key"),
]


def test_a_small_judge_keeps_the_contract() -> None:
    judge("fair")(Fair)
    assert set(judge_contract.check("fair").values()) == {""}


@pytest.mark.parametrize(("cls", "problem"), RAW, ids=[cls.__name__ for cls, _ in RAW])
def test_what_breaks_the_judge_contract_is_found(cls: type[Fair], problem: str) -> None:
    judge("unfair")(cls)
    assert problem in " ".join(judge_contract.check("unfair").values())


@pytest.mark.parametrize(
    ("words", "kind"),
    [(["check", "task", "axbench"], "task"), (["check", "axbench"], "task"), (["check", "rules"], "judge")],
)
def test_one_command_checks_what_a_name_stands_for(words: list[str], kind: str) -> None:
    done = CliRunner().invoke(main, [*words, "--json"])
    assert done.exit_code == 0, done.output
    assert set(json.loads(done.stdout)) == {kind, "checks"}


PLUGIN = """from dataclasses import dataclass
from bench import Context, Fitted, Method, Train, method

@method("mine", surface={surface!r}, needs={needs!r})
@dataclass(frozen=True)
class Mine(Method):
    def fit(self, ctx: Context, train: Train):
        {body}
"""


@pytest.mark.parametrize(
    ("surface", "needs", "said"),
    [
        ("activation", ["add"], "unknown surface 'activation': did you mean 'activations'"),
        ("activations", ["adds"], "no engine is known to 'adds': did you mean 'add'"),
    ],
)
def test_a_plugin_s_unknown_words_are_refused_with_file_and_line(
    surface: str, needs: list[str], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN.format(surface=surface, needs=needs, body="pass"), "utf-8")
    with pytest.raises(UsageError, match=r"plugin mine\.py:4: method 'mine'") as error:
        load_plugin(path)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("typo", "said"),
    [
        ('views=["text"]', "unknown view 'text': did you mean 'texts'"),
        ('provides=["steerin"]', "unknown product 'steerin': did you mean 'steering'"),
        ("antisymetric=True", "unknown flag 'antisymetric': did you mean 'antisymmetric'"),
    ],
)
def test_a_typo_in_a_method_s_declaration_is_refused(typo: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    text = PLUGIN.format(surface="activations", needs=["add"], body="pass").replace("needs=", f"{typo}, needs=")
    path.write_text(text, "utf-8")
    with pytest.raises(UsageError) as error:
        load_plugin(path)
    assert said in str(error.value)


def test_the_views_a_method_may_name_are_those_of_training_data() -> None:
    assert method_contract.example_train().views == VIEWS


def test_two_plugin_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    found = []
    for i in (1, 2):
        (tmp_path / str(i)).mkdir()
        path = tmp_path / str(i) / "mine.py"
        text = PLUGIN.format(surface="activations", needs=["add"], body=f"return [{i}]").replace(
            '"mine"', f'"mine-{i}"'
        )
        path.write_text(text, "utf-8")
        module = load_plugin(path)
        found.append((module.Mine, code_digest(module.Mine)))
    assert found[0][1] == code_digest(found[0][0]) != found[1][1]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return Steering()", "this one has a Steering (mine.py:"),
        ("return Fitted(Steering())", "not one by itself"),
        ("return [Fitted(Steering())]", "no candidate has an edit, a delta or a prompt"),
    ],
)
def test_a_fit_of_nothing_or_of_something_else_breaks_the_contract(body: str, said: str, tmp_path: Path) -> None:
    text = PLUGIN.format(surface="activations", needs=["add"], body=body).replace("Method,", "Method, Steering,")
    (tmp_path / "mine.py").write_text(text, "utf-8")
    load_plugin(tmp_path / "mine.py")
    assert said in " ".join(method_contract.check("mine").values())


@pytest.mark.slow
def test_a_plugin_in_the_checkout_is_not_blamed_for_its_neighbours_there(tmp_path: Path) -> None:
    beside = tmp_path / "beside.py"
    beside.write_text("def fail():\n    raise ValueError('x')\n")
    shipped = Path(__file__).resolve().parents[1] / "methods"
    cases: list[tuple[Path, Callable[[], object], str]] = [
        (shipped / "mine.py", lambda: get("method", "diffmean")().fit(None, None), ""),
        (tmp_path / "mine.py", load_plugin(beside).fail, "beside.py:2"),
    ]
    for file, act, named in cases:
        with pytest.raises((AttributeError, ValueError)) as raised:
            act()
        assert located(raised.value, [str(file)])
        assert theirs(raised.value, [str(file)]) == named


def test_a_plugin_s_failure_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN.format(surface="activations", needs=["add"], body="return [1 / 0]"), "utf-8")
    words = ["--plugin", str(path), "run", "--backend", "fake", "-m", "mine,none", "-n", "1", "--json"]
    done = CliRunner().invoke(
        main, words, env={"BENCH_CACHE": str(tmp_path / "c"), "BENCH_RESULTS": str(tmp_path / "r")}
    )
    assert done.exit_code == 1
    mine, none = json.loads(done.stdout)["runs"]
    assert (mine["status"], none["status"]) == ("failed", "complete")
    assert mine["reason"] == "fit: ZeroDivisionError: division by zero (mine.py:8)"
