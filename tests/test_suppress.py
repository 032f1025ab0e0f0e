"""Suppression: steering is opposed, prompts forbid, and the score wants the concept absent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from bench import results
from bench.backends.fake.backend import FakeBackend
from bench.core.composition import Composed
from bench.core.errors import UsageError
from bench.core.interfaces import Context
from bench.core.kinds import Add, Project
from bench.core.naming import build_method
from bench.core.protocol import protocol
from bench.core.registry import build
from bench.core.steering import Prompt, Steering
from bench.core.store import Artefacts
from bench.core.values import Completion, Item, Verdict
from bench.run.export import steerings
from bench.run.fits import Fits, given
from bench.run.plan import Options, make
from bench.run.session import execute
from bench.run.spending import spend
from bench.run.support import unsupported
from methods.diffmean import DiffMean
from methods.prompt import said
from tasks.axbench_suppress import FORBIDS, AxBenchSuppress


@pytest.fixture(scope="module")
def suppress() -> AxBenchSuppress:
    made: AxBenchSuppress = build("task", "axbench-suppress", {}, protocol=protocol("quick"))
    return made


def test_a_push_is_opposed_and_a_removal_stays() -> None:
    v = np.eye(4, dtype=np.float32)[0]
    steering = Steering(Prompt(suffix="!"), (Add(layer=1, value=v), Project(layer=1, basis=v[None], strength=0.5)))
    push, removal = steering.negated().edits
    assert isinstance(push, Add)
    assert isinstance(removal, Project)
    assert np.array_equal(push.value, -v)
    assert removal.strength == 0.5
    assert steering.negated().prompt == steering.prompt
    assert steering.negated().negated().digest == steering.digest


def test_every_question_asks_for_its_concept_and_remembers_itself(suppress: AxBenchSuppress) -> None:
    for concept in suppress.concepts():
        for sample in (*suppress.select(concept), *suppress.test(concept)):
            assert concept.text in sample.instruction
            assert sample.question in sample.instruction
            assert concept.text not in sample.question
            assert "{" not in sample.instruction


def test_the_score_wants_the_concept_gone_and_the_plain_question_answered(suppress: AxBenchSuppress) -> None:
    concept = suppress.concepts()[0]
    samples = suppress.select(concept)
    seen: list[Item] = []

    def rate(items: list[Item]) -> list[Verdict]:
        seen.extend(items)
        values = {"concept": 0.5, "instruction": 1.5, "fluency": None}
        return [Verdict(values[item.axis] if item.text == "one" else 2.0) for item in items]

    texts = [Completion("one" if i == 0 else "two", 1, 1) for i in range(len(samples))]
    first, *others = suppress.score(samples, texts, rate)  # type: ignore[arg-type]
    assert first["absence"].value == 1.5
    assert first["overall"].value is None  # a missing part stays missing
    assert all(row["overall"].value == 0 for row in others)
    assert {item.instruction for item in seen} == {sample.question for sample in samples}


def test_what_a_task_says_is_for_prompts_and_examples_show_the_absence(suppress: AxBenchSuppress, tmp_path) -> None:  # type: ignore[no-untyped-def]
    trains = {c.id: suppress.train(c) for c in suppress.concepts()[:2]}
    ctx = Context(FakeBackend(), protocol("quick").budget)
    fits = Fits(ctx, Artefacts(tmp_path), trains, "steering", "", suppress.suppresses_concept)
    name, train = next(iter(trains.items()))
    assert given(build_method("diffmean", {}), train, suppress.suppresses_concept).prompts == ()
    assert given(build_method("diffmean", {}), train, suppress.suppresses_concept).positives == train.positives
    assert given(build_method("prompt-fewshot", {}), train, suppress.suppresses_concept).positives == train.negatives
    assert given(build_method("prompt+diffmean", {}), train, suppress.suppresses_concept) == train
    plain = build("task", "axbench", {}, protocol=protocol("quick"))
    same = Fits(ctx, Artefacts(tmp_path), {name: plain.train(train.concept)}, "steering", "")
    assert same.keys(build_method("diffmean", {}), "")[name] == fits.keys(build_method("diffmean", {}), "")[name]
    wordings = [fit.steering for fit in build_method("prompt", {}).fit(ctx, train)]
    assert [w.prompt for w in wordings] == [said(text) for text in train.prompts[: len(wordings)]]  # type: ignore[union-attr]


def test_what_is_exported_of_a_run_points_away_as_its_answers_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    found = {}
    for task in ("axbench", "axbench-suppress"):
        (job,) = execute(make(Options(("diffmean",), task, backend="fake", limit=1)), tmp_path / "results")
        assert job.path is not None
        made = results.read(job.path)
        ((push,),) = (s.edits for s in steerings(made, [made.data["samples"][0]["concept"]])[0].values())
        assert isinstance(push, Add)
        found[task] = push.value / np.linalg.norm(push.value)
    assert np.allclose(found["axbench"], -found["axbench-suppress"], atol=1e-6)


def test_what_steers_one_way_is_refused_before_anything_is_fitted(suppress: AxBenchSuppress) -> None:
    for name in ("flas", "prompt+flas", "soft-prompt", "shuffled(soft-prompt)"):
        why = unsupported(build_method(name, {}), suppress, protocol("quick"), FakeBackend(), frozenset({"texts"}), 4)
        assert why == "its steering has no opposite, which task axbench-suppress takes"


def test_a_wording_is_prepended_appended_or_a_system_message() -> None:
    assert said("Never.") == Prompt(system="Never.")
    assert said("No.\n\n{instruction}") == Prompt(prefix="No.\n\n")
    assert said("{instruction}\n\nNo.") == Prompt(suffix="\n\nNo.")
    kinds = {bool(said(t).system) * 1 + bool(said(t).prefix) * 2 + bool(said(t).suffix) * 4 for t in FORBIDS[:3]}
    assert kinds == {1, 2, 4}  # the smallest preset tries each kind


def test_a_multiple_choice_costs_options_and_no_tokens() -> None:
    plan = make(Options(methods=("none", "prompt"), task="axbench-suppress", backend="fake"))
    none, prompt = (spend(made, plan.protocol, plan.task) for made in plan.methods)
    assert none.generations == 12 * (2 + 3)
    assert prompt.generations == 12 * (3 * 2 + 3)
    assert none.tokens == none.generations * 32


def test_a_combination_keeps_what_its_parts_say_of_their_direction() -> None:
    assert build_method("circuit-breaker+prompt", {}).suppresses
    assert not build_method("diffmean+prompt", {}).suppresses


@dataclass(frozen=True)
class Backwards(DiffMean):
    """A vector that points away from the concept by itself."""

    points_away = True


def test_parts_that_point_both_ways_are_not_merged() -> None:
    assert Composed((Backwards(), Backwards(layer=3))).points_away
    assert not Composed((DiffMean(), DiffMean(layer=3))).points_away
    with pytest.raises(UsageError, match="points away from the concept and another towards it"):
        Composed((Backwards(), DiffMean()))
