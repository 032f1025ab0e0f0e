"""The trainer: batching over concepts, the frozen prefix, early stops, errors and restarts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import script
from training_cases import BUDGET, goal, group, letters, numbers, small

from bench.backends import tiny
from bench.backends.hf.backend import HFBackend
from bench.backends.hf.modules import blocks
from bench.cli.main import main
from bench.core.errors import BenchError, UsageError
from bench.core.interfaces import Context, Fitted
from bench.core.naming import build_method
from bench.core.protocol import Budget, protocol
from bench.core.registry import table
from bench.core.rows import Rows as Store
from bench.run.strength import Strength
from bench.training import texts, trainer
from bench.training.changes.base import RowPlan
from bench.training.objectives.all import REFUSED, objectives, refusal
from bench.training.objectives.log_probabilities import LM
from bench.training.parametrisations import forms
from methods._trained import Trained

THREE = (letters(), letters("high", "mnop", "efgh", seed=1), letters("odd", "qrst", "ijkl", seed=2))


def clean(lm: HFBackend) -> bool:
    """Whether a model has no hook of ours and runs its own blocks."""
    hooks = [h for m in lm.model.modules() for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    ours = sum(hook.__module__.startswith("bench.") for hook in hooks)  # transformers leaves some of its own
    own = 3  # the output matrix's, and the two that let queries attend together
    return ours == own and not any("forward" in vars(block) for block in blocks(lm.model))


@pytest.mark.slow
@pytest.mark.parametrize("form", [name for name in forms() if name not in ("hyper", "flow", "full")])
def test_a_batch_of_concepts_trains_each_as_alone(lm: HFBackend, form: str) -> None:
    made, objective = small(form), goal("antipasto" if form == "rotation" else "reps")
    together = group(lm, made, objective, THREE).fit()
    for c, train in enumerate(THREE):
        (alone,) = group(lm, made, objective, [train]).fit()
        pairs = zip(numbers(together[c].change.steering(c)), numbers(alone.change.steering(0)), strict=True)
        assert max(float(np.abs(a - b).max()) for a, b in pairs) < 1e-4
        assert together[c].losses == pytest.approx(alone.losses, abs=1e-4)


def test_batched_training_gives_the_vectors_of_a_plain_loop(lm: HFBackend) -> None:
    loops, ctx = script("benchmarks/training.py"), Context(lm, BUDGET)
    batched = [one.change.steering(one.number) for one in loops.batched(ctx, THREE)]
    for train, steering in zip(THREE, batched, strict=True):
        assert np.abs(loops.plain_loop(ctx, train) - numbers(steering)[0]).max() < 1e-4


def test_many_passes_make_the_same_step_as_one(lm: HFBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    one = group(lm, small("lora"), goal("dpo"), THREE).fit()
    monkeypatch.setattr(trainer, "PASS", 1)
    several = group(lm, small("lora"), goal("dpo"), THREE).fit()
    for c in range(3):
        pairs = zip(numbers(one[c].change.steering(c)), numbers(several[c].change.steering(c)), strict=True)
        assert max(float(np.abs(a - b).max()) for a, b in pairs) < 1e-4


def test_a_step_that_memory_does_not_take_is_made_in_smaller_passes(
    lm: HFBackend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    one = group(lm, small("lora"), goal("bipo"), THREE).fit()  # draws signs
    short, sizes = HFBackend(lm.source, "float32"), list[int]()
    made = group(short, small("lora"), goal("bipo"), THREE)
    run = made.texts.run

    def lacking(numbers: Sequence[int], change: Any, *args: Any, **given: Any) -> Any:
        passed = run(numbers, change, *args, **given)
        if change is not None:
            sizes.append(len(numbers))
            if len(numbers) > max(sizes) // 2 and len(sizes) < 4:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return passed

    monkeypatch.setattr(made.texts, "run", lacking)
    several = made.fit()
    assert max(sizes[4:]) < sizes[0]
    for c in range(3):
        pairs = zip(numbers(one[c].change.steering(c)), numbers(several[c].change.steering(c)), strict=True)
        assert max(float(np.abs(a - b).max()) for a, b in pairs) < 1e-4
    assert HFBackend(lm.source, "float32").training_memory.tokens == short.training_memory.tokens
    monkeypatch.setattr(made.texts, "run", lambda *_, **__: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(BenchError, match="no memory for one concept's step of"):
        made.fit()


def test_the_frozen_prefix_changes_nothing_but_the_work(any_lm: HFBackend) -> None:
    made = group(any_lm, small("vector", init=0.2))
    rows = RowPlan(torch.tensor([0, 0, 0]), torch.tensor([1.0, -2.0, 0.0]), torch.tensor([False, False, False]))
    made.texts.run([0], None)  # whether the model can begin there is tried once
    runs: list[int] = []
    below = blocks(any_lm.model)[1].self_attn.register_forward_hook(lambda *_: runs.append(1))
    try:
        with torch.no_grad():
            short = made.texts.run([0, 1, 2], made.change, rows).total
            assert not runs
            made.texts.kept.clear()
            whole = made.texts.run([0, 1, 2], made.change, rows).total
            assert runs
    finally:
        below.remove()
    assert torch.allclose(short, whole, atol=1e-4)


def test_attention_of_half_precision_is_in_fp32_while_gradients_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = HFBackend(tiny.build(tmp_path), dtype="bfloat16")
    seen: list[torch.dtype] = []
    attend = texts.sdpa_attention_forward

    def spy(module, query, *rest, **more):  # type: ignore[no-untyped-def]
        seen.append(query.dtype)
        return attend(module, query, *rest, **more)

    monkeypatch.setattr(texts, "sdpa_attention_forward", spy)
    exact = group(half, small("vector")).fit()[0]
    assert set(seen) == {torch.float32}
    assert half.model.config._attn_implementation == "sdpa"
    monkeypatch.setattr(texts, "_exact_attention", lambda *_: nullcontext())
    plain = group(half, small("vector")).fit()[0]
    one, two = (numbers(found.change.steering(0))[0].ravel() for found in (exact, plain))
    assert one @ two / np.linalg.norm(one) / np.linalg.norm(two) > 0.99
    assert exact.losses == pytest.approx(plain.losses, rel=0.02)


def test_a_fit_leaves_the_model_as_it_was(lm: HFBackend) -> None:
    before = {name: p.clone() for name, p in lm.model.named_parameters()}
    for form in ("vector", "lora", "full"):
        group(lm, small(form)).fit()
    assert all(p.grad is None and torch.equal(p, before[name]) for name, p in lm.model.named_parameters())
    assert clean(lm)


def test_a_loss_that_is_not_finite_names_method_concept_and_step(lm: HFBackend) -> None:
    class Breaks(LM):
        def loss(self, batch):  # type: ignore[no-untyped-def]
            late = (batch.concept == 1) & (batch.done >= 0.5)
            return torch.where(late, torch.nan, super().loss(batch))

    with pytest.raises(BenchError, match="case: the loss of concept high is nan at step 4 of 6"):
        group(lm, small("vector"), Breaks(), THREE).fit()
    assert clean(lm)


@pytest.mark.slow
def test_a_plateau_ends_training_of_that_concept_alone(lm: HFBackend) -> None:
    long = Budget(sequences=16, tokens=64, epochs=12, trials=2)
    flat = group(lm, small("vector"), rate=1e-12, budget=long, patience=2).fit()[0]
    assert flat.steps == 3 * 3
    assert flat.note["stopped_early"] is True
    # The first concept learns on while the second, which has nothing to learn, has stopped.
    same = letters("same", "abcd", "abcd", seed=3)
    learning, stopped = group(lm, small("vector"), goal("lm"), [letters(), same], budget=long, patience=1).fit()
    alone = group(lm, small("vector"), goal("lm"), [letters()], budget=long, patience=1).fit()[0]
    assert learning.steps == alone.steps
    assert np.allclose(numbers(learning.change.steering(0))[0], numbers(alone.change.steering(0))[0], atol=1e-4)
    assert stopped.steps <= 12 * 3


def test_long_work_says_how_far_it_is_and_starts_again_cleanly(lm: HFBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "EVERY", 0.0)
    made, train = build_method("ssv", {}), letters()
    said: list[str] = []

    def tell(line: str) -> None:
        said.append(line)
        if len(said) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.fit(Context(lm, BUDGET, log=tell), train)
    assert said[1].startswith("ssv: one concept, step 2/6, loss ")
    assert said[1].endswith(" s left")
    assert clean(lm)
    digests = {made.fit(Context(lm, BUDGET), train)[0].steering.digest for _ in range(2)}  # type: ignore[union-attr]
    assert len(digests) == 1


def test_a_finished_group_is_handed_over_before_the_next_is_trained(
    lm: HFBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a killed fit keeps it, and what is left trains to the same bytes."""
    made, said = build_method("ssv", {}), list[str]()
    monkeypatch.setattr(trainer, "TOGETHER", 1)
    monkeypatch.setattr(trainer, "EVERY", 0.0)
    found = made.fit_all(Context(lm, BUDGET, log=said.append), THREE)
    digests = [next(iter(found))[0].steering.digest]  # type: ignore[union-attr]
    assert said[-1].startswith("ssv: one concept, step 6/6")
    assert len(said) == 6
    digests += [fitted[0].steering.digest for fitted in made.fit_all(Context(lm, BUDGET), THREE[1:])]  # type: ignore[union-attr]
    assert digests == [made.fit(Context(lm, BUDGET), one)[0].steering.digest for one in THREE]  # type: ignore[union-attr]


def test_texts_without_a_response_token_are_left_out_and_none_is_an_error(lm: HFBackend) -> None:
    short = Budget(sequences=16, tokens=8, epochs=1, trials=2)
    with pytest.raises(BenchError, match="concept low: no training text of lm keeps a token"):
        group(lm, small("vector"), budget=short)


@pytest.mark.parametrize("objective", objectives())
@pytest.mark.parametrize("form", forms())
def test_every_pair_runs_or_says_why(lm: HFBackend, form: str, objective: str) -> None:
    if why := refusal(form, objective):
        with pytest.raises(UsageError, match=why[:40]):
            build_method("ssv", {"ssv": {"parametrisation": form, "objective": objective}})
        return
    # From the identity AntiPaSTO's first step has no gradient: its terms are products of two zeros.
    epochs = 2 if objective == "antipasto" else 1
    brief = Budget(sequences=4, tokens=64, epochs=epochs, trials=1)
    (one,) = group(lm, small(form), goal(objective), [letters(count=2)], budget=brief, rate=0.01).fit()
    assert len(one.losses) == epochs
    assert any(np.any(tensor) for tensor in numbers(one.change.steering(0)))


def test_refusals_name_what_exists() -> None:
    assert {form for form, _ in REFUSED} <= set(forms())
    assert {name for _, name in REFUSED} <= set(objectives())
    assert "not undone" in refusal("ssvd", "antipasto", strict=False)
    with pytest.raises(UsageError, match="not undone"):
        build_method("ssvd", {"ssvd": {"objective": "antipasto", "strict": False}})


def test_a_crossed_method_asks_for_what_its_pair_needs() -> None:
    crossed = build_method("lora", {"lora": {"objective": "reps"}})
    assert crossed.views == {"pairs"}
    assert crossed.needs == {"delta", "train"}
    vector = build_method("lora", {"lora": {"parametrisation": "vector"}})
    assert vector.needs == {"add", "train"}
    assert "detector" in vector.provides
    for params in ({"objective": "rep"}, {"rate": 0.0}, {"factors": (0.0,)}, {"rank": -1}):
        with pytest.raises(UsageError):
            build_method("lora", {"lora": params})


def test_an_objective_that_reads_no_changed_state_is_an_error(lm: HFBackend) -> None:
    with pytest.raises(BenchError, match="all below the first that is changed"):
        group(lm, small("lora", layers=(0.75,)), goal("reroute", targets=(0.25,)))


@pytest.mark.slow
def test_a_backend_without_a_model_makes_trained_methods_unsupported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BENCH_RESULTS", str(tmp_path / "results"))
    ran = CliRunner().invoke(main, ["run", "-m", "ssv,diffmean", "-n", "2", "--backend", "fake", "--json"])
    assert ran.exit_code == 0, ran.output
    states = {run["method"]: (run["status"], run.get("reason")) for run in json.loads(ran.stdout)["runs"]}
    assert states["ssv"] == ("unsupported", "backend fake cannot train")
    assert states["diffmean"][0] == "complete"


@pytest.mark.slow
def test_a_dry_run_prints_rows_and_tokens_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    trained = {n for n, cls in table("method").items() if "train" in cls.needs and not cls.named}
    model = tiny.build(tmp_path / "tiny").path
    words = f"run -m {','.join(trained)},diffmean -p reps.batch=4 -n 2 --model {model} --dry-run --json"
    ran = CliRunner().invoke(main, words.split())
    assert ran.exit_code == 0, ran.output
    found = {run["method"]: (run["train_rows"], run["train_tokens"]) for run in json.loads(ran.stdout)["runs"]}
    # 2 concepts × 12 items × 2 epochs, and what an item is: a text, a pair, a text each way under both signs
    rows = dict.fromkeys(table("method"), 48) | {
        "reps": 192,
        "antipasto": 192,
        "hypersteer": 96,
        "flas": 96,
        "diffmean": 0,
    }
    rows |= dict.fromkeys(("bipo", "dpo", "circuit-breaker", "hypersteer", "flas", "weight-steering"), 96)
    assert found == {name: (rows[name], 64 * rows[name]) for name in found}
    assert set(found) == trained | {"diffmean"}
    both = build_method("reft-r1", {"reft-r1": {"both": True}}).training(protocol("quick").budget)
    assert both == (48, 48 * 64)


def test_the_coefficients_of_a_trained_change_lie_around_its_own_strength(lm: HFBackend, tmp_path: Path) -> None:
    train = letters()
    for form in ("lora", "loreft"):
        trained = group(lm, small(form)).fit()[0].change.steering(0)
        for mode, natural in (("norm", 0.3), ("max-act", 1.0)):
            rules = protocol("quick", mode)
            strength = Strength(Context(lm, BUDGET), rules, {"low": train}, Store(tmp_path / mode))
            assert min(rules.coefficients) < natural < max(rules.coefficients)
            at = strength.at(trained, Fitted(trained), train.concept, natural)
            strengths = [part.strength for part in (*at.edits, *at.deltas)]  # type: ignore[attr-defined]
            assert strengths == pytest.approx([1.0] * len(strengths))
            assert not strength.at(trained, Fitted(trained), train.concept, 0.0).scalable


def test_the_references_mode_takes_its_settings_where_none_was_named() -> None:
    made = build_method("reps", {"reps": {"batch": 3}})
    assert isinstance(made, Trained)
    reference = made.under("axbench")
    assert (reference.rate, reference.batch, reference.factors[0]) == (0.04, 3, 2.0)
    assert made.under("") is made
