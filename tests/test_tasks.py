"""What every registered task is held to: no leak between splits, one worked item for a reader."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.core import registry
from bench.core.errors import BenchError
from bench.core.interfaces import Task
from bench.core.protocol import protocol
from bench.core.values import Concept, Example, Sample, Train, Verdict
from bench.run.plan import Options, Plan, make
from bench.run.session import Session, execute, silent
from bench.run.trials import Trial, best

NAMES = sorted(name for name, cls in registry.table("task").items() if cls.__module__.startswith("tasks."))
DATA = {
    "axbench": "",
    "axbench-suppress": "",
    "axbench-attack": "",
    "axbench-two": "",
    "constraints": "",
    "constraints-two": "",
    "persona": "",
    "persistence": "",
    "ifeval": "instructions",
    "refusal": "",
    "refusal-judged": "",
    "axbench-detect": "axbench_folder",
    "truthfulqa": "questions",
    "truthfulqa-gen": "questions",
    "behaviour": "behaviours",
    "behaviour-open": "behaviours",
    "steereval": "levels",
}
"""task -> the fixture of a folder it reads; none where its data ships."""
Plant = Callable[[Task, Concept], str]


def test_every_task_has_data_here() -> None:
    assert set(DATA) == set(NAMES)


def planted(cls: type[Task], split: str, plant: Plant) -> type[Task]:
    """The task with one more instruction in training (or, for `select`, with a test question among those)."""

    def train(self: Any, concept: Concept) -> Train:
        found: Train = cls.train(self, concept)
        one = Example(plant(self, concept), "An answer.")
        return dataclasses.replace(found, negatives=(one, *found.negatives))

    def select(self: Any, concept: Concept) -> list[Sample]:
        last = cls.test(self, concept)[-1]
        return [*cls.select(self, concept), dataclasses.replace(last, id=f"{last.id}-again", split="select")]

    return type("Leaky", (cls,), {"select": select} if split == "select" else {"train": train})


def plan(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **asked: Any
) -> Plan:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    data = str(request.getfixturevalue(DATA[name])) if DATA[name] else ""
    return make(
        Options(**{"methods": ("random",), "task": name, "backend": "fake", "data": data, "preset": "standard"} | asked)
    )


def begun(plan: Plan, cls: type[Task], tmp_path: Path) -> None:
    """Begin a run of the plan with another class in the task's place."""
    fields = {f.name: getattr(plan.task, f.name) for f in dataclasses.fields(plan.task) if f.init}  # type: ignore[arg-type]
    Session(dataclasses.replace(plan, task=cls(**fields)), tmp_path / "results", silent)


def asked(task: Task, concept: Concept) -> str:
    """The question a test sample asks, as it stood before a task worked it into a longer one."""
    sample = task.test(concept)[-1]
    plain = sample.label.split("\n", 1)[-1]
    return plain if len(plain.split()) > 2 and plain in sample.instruction else sample.instruction


def selected(task: Task, concept: Concept) -> str:
    sample = next(iter(task.select(concept)))
    plain = sample.label.split("\n", 1)[-1]
    return plain if len(plain.split()) > 2 and plain in sample.instruction else sample.instruction


@pytest.mark.parametrize("name", NAMES)
def test_a_leak_between_splits_is_refused(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan(name, request, tmp_path, monkeypatch)
    cls = type(made.task)
    begun(made, cls, tmp_path)  # as it is, it passes
    leaks = {"train and test": planted(cls, "test", asked)}
    if made.task.kind == "steering":
        leaks |= {
            "train and select": planted(cls, "train", selected),
            "select and test": planted(cls, "select", asked),
        }
    for said, leaky in leaks.items():
        with pytest.raises(BenchError, match=f"{said} share an instruction"):
            begun(made, leaky, tmp_path)


@pytest.mark.parametrize("split", ["select", "test"])
def test_a_split_without_samples_is_refused(
    split: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan("axbench", request, tmp_path, monkeypatch)
    silenced = type("Silent", (type(made.task),), {split: lambda self, concept: []})
    with pytest.raises(BenchError, match=f"task axbench has no {split} sample"):
        begun(made, silenced, tmp_path)


@pytest.mark.parametrize("name", ["axbench-attack", "axbench-suppress", "truthfulqa", "behaviour"])
def test_every_bar_ends_where_it_was_to_end(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan(name, request, tmp_path, monkeypatch, methods=("none", "prompt", "prompt-best-of-n"), limit=1)
    stages: list[list[Any]] = []

    @contextmanager
    def progress(stage: str, total: int) -> Iterator[Callable[[int], None]]:
        stages.append([stage, total, 0])

        def advance(steps: int) -> None:
            stages[-1][2] += steps

        yield advance

    jobs = execute(made, tmp_path / "results", progress)
    assert [job.status for job in jobs] == ["complete", "complete", "unsupported"]
    assert f"which task {name} does not ask for" in jobs[-1].reason
    judged = [stage for stage, *_ in stages if stage.startswith("judge (")]
    assert judged == (["judge (select)", "judge (test)"] if made.task.rated else [])
    assert all(done == total for stage, total, done in stages if stage != "fit")


def test_the_best_setting_does_not_hang_on_the_order_of_axes() -> None:
    def rated(overall: float | None, own: float) -> list[dict[str, Verdict]]:
        return [{"overall": Verdict(overall), "own": Verdict(own)}]

    low, high, lost = Trial(0, 0.1), Trial(0, 0.2), Trial(0, 0.3)
    rules = protocol("quick")
    assert best({low: rated(0.5, 2.0), high: rated(1.0, 0.0), lost: rated(None, 2.0)}, rules) == high
    assert (
        best(
            {
                low: [{"own": Verdict(1.0), "overall": Verdict(1.0)}],
                high: [{"own": Verdict(2.0), "overall": Verdict(1.0)}],
            },
            rules,
        )
        == high
    )


@pytest.mark.parametrize("name", NAMES)
def test_its_docstring_shows_one_item(name: str) -> None:
    text = inspect.getdoc(registry.get("task", name)) or ""
    assert "One item: " in text
    assert '"' in text.split("One item: ")[1]
