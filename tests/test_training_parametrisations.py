"""What each parametrisation promises: the identity at first, its rank, its pattern, its inverse; and peft's numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_cases import goal, group, letters, numbers, small

from bench.backends.hf.backend import HFBackend
from bench.core.deltas import DenseDelta, LowRankDelta, RotationDelta
from bench.core.errors import BenchError
from bench.core.kinds import LowRank
from bench.core.values import Request
from bench.training.changes.base import RowPlan
from bench.training.parametrisations import forms
from bench.training.trainer import Group

TWO = (letters(), letters("high", "mnop", "efgh", seed=1))
ADAPTERS = ("lora", "dora", "pissa", "svft", "ssvd", "rotation", "full")


def rows(count: int, factor: float, concept: int = 0) -> RowPlan:
    return RowPlan(torch.full((count,), concept), torch.full((count,), factor), torch.zeros(count, dtype=torch.bool))


def scored(made: Group, factor: float, concept: int = 0) -> list[float]:
    """Summed log-probabilities of a concept's texts under its change, as the trainer sees them."""
    chosen = [item[0] for item in made.items[concept]]
    with torch.no_grad():
        found: list[float] = made.texts.run(chosen, made.change, rows(len(chosen), factor, concept)).total.tolist()
    return found


def weight(lm: HFBackend, name: str) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = dict(lm.model.named_modules())[name].weight.detach().numpy().astype(np.float64)
    return found


def product(delta: Any) -> np.ndarray[Any, Any]:
    """ΔW at c = 1."""
    if isinstance(delta, LowRankDelta):
        return np.asarray(delta.up @ delta.down, np.float64) * delta.strength
    if isinstance(delta, RotationDelta):
        return np.asarray(delta.u @ delta.core() @ delta.v.T, np.float64)
    assert isinstance(delta, DenseDelta)
    return np.asarray(delta.change, np.float64) * delta.strength


@pytest.mark.parametrize("form", [name for name in forms() if name not in ("gated", "flow", "soft")])
def test_at_first_the_model_is_as_it_was(any_lm: HFBackend, form: str) -> None:
    still = {"init": 0.0} if form in ("vector", "hyper", "rotation") else {}
    made = group(any_lm, small(form, **still | ({"shift": 0.0} if form == "rotation" else {})))
    bare = made.texts.bare([item[0] for item in made.items[0]]).tolist()
    assert scored(made, 1.0) == pytest.approx(bare, abs=1e-4)
    assert scored(made, 0.0) == pytest.approx(bare, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("form", forms())
def test_what_is_exported_acts_as_it_did_in_training(any_lm: HFBackend, form: str) -> None:
    made = group(any_lm, small(form), trains=TWO, rate=0.1)
    trained = made.fit()
    for one, train in zip(trained, TWO, strict=True):
        steering = one.change.steering(one.number)
        # A gated push is measured by the text in training and is a plain direction in use; a soft prompt is whole.
        factors = {"gated": (), "flow": (1.0, 0.5), "soft": (1.0,)}.get(form, (1.0, -0.5))
        bare = made.texts.bare([item[0] for item in made.items[one.number]]).tolist()
        for factor in factors:
            asks = [Request(e.messages[:1], steering.scaled(factor), target=e.response) for e in train.positives]
            found = dict(any_lm.logprobs(asks))
            own = scored(made, factor, one.number)
            assert [found[i].total for i in range(len(asks))] == pytest.approx(own, abs=2e-3)
            assert own != pytest.approx(bare, abs=1e-4)


def test_a_gated_vector_is_a_unit_vector_and_detects(lm: HFBackend) -> None:
    made = group(lm, small("gated", k=3), goal("lm", both=True), TWO)
    for one in made.fit():
        (value,) = numbers(one.change.steering(one.number))
        assert np.linalg.norm(value) == pytest.approx(1, abs=1e-5)
        found = one.change.direction(one.number)
        assert found is not None
        assert np.array_equal(found[1], value)


def test_the_gate_adds_the_mean_of_the_largest_activations(lm: HFBackend) -> None:
    made = group(lm, small("gated", k=3))
    chosen = [item[0] for item in made.items[0]][:2]
    v = made.change.vectors()[0].detach()  # type: ignore[operator]
    made.texts.kept.clear()
    with torch.no_grad():
        bare = made.texts.run(chosen, None, states=[2], logits=False)
        moved = made.texts.run(chosen, made.change, rows(2, 2.0), states=[2], logits=False)
    for k, number in enumerate(chosen):
        begin, end = lm.template_prefix, made.texts.tokens(number)
        h = bare.states[2][k, begin:end]
        mean = torch.relu(h @ v).topk(3).values.mean()
        assert torch.allclose(moved.states[2][k, begin:end], h + 2 * mean * v, atol=1e-5)
        assert torch.equal(moved.states[2][k, :begin], bare.states[2][k, :begin])


def test_a_vector_taken_out_leaves_nothing_along_it(lm: HFBackend) -> None:
    made = group(lm, small("vector", init=0.3))
    made.texts.kept.clear()
    null = RowPlan(torch.zeros(1, dtype=torch.long), torch.ones(1), torch.ones(1, dtype=torch.bool))
    with torch.no_grad():
        bare = made.texts.run([0], None, states=[2], logits=False).states[2][0]
        without = made.texts.run([0], made.change, null, states=[2], logits=False).states[2][0]
        w = made.change.vectors()[0]  # type: ignore[operator]
    begin = lm.template_prefix
    bare, without = bare[begin:], without[begin:]
    before, after = bare @ w, without @ w
    assert (before > 0).any()
    assert after[before > 0].abs().max() < 1e-4
    assert torch.equal(without[before <= 0], bare[before <= 0])


def test_loreft_edits_the_row_space_of_an_orthonormal_rotation(lm: HFBackend) -> None:
    (one,) = group(lm, small("loreft")).fit()
    for edit in one.change.steering(0).edits:
        assert isinstance(edit, LowRank)
        assert np.allclose(edit.rotation @ edit.rotation.T, np.eye(2), atol=1e-5)
        assert edit.span.part == "prompt"
        assert (edit.span.first, edit.span.last, edit.span.sink) == (2, 3, False)
        h = np.random.default_rng(0).standard_normal((5, 32)).astype(np.float32)
        change = ((h @ (edit.weight - edit.rotation).T) + edit.bias) @ edit.rotation
        outside = change - change @ edit.rotation.T @ edit.rotation
        assert np.abs(outside).max() < 1e-5


@pytest.mark.parametrize(("form", "rank"), [("lora", 2), ("pissa", 4)])
def test_low_rank_changes_have_that_rank(lm: HFBackend, form: str, rank: int) -> None:
    (one,) = group(lm, small(form)).fit()
    for delta in one.change.steering(0).deltas:
        spectrum = np.linalg.svd(product(delta), compute_uv=False)
        assert spectrum[rank - 1] > 1e-7
        assert spectrum[rank:].max() < 1e-5 * spectrum[0]


def test_dora_keeps_its_magnitudes_as_row_norms(lm: HFBackend) -> None:
    (one,) = group(lm, small("dora")).fit()
    for k, delta in enumerate(one.change.steering(0).deltas):
        merged = weight(lm, delta.module) + product(delta)
        learnt = one.change.magnitude[k][0].detach().numpy()  # type: ignore[index, union-attr]
        assert np.allclose(np.linalg.norm(merged, axis=1), learnt, atol=1e-5)
        assert not np.allclose(learnt, np.linalg.norm(weight(lm, delta.module), axis=1), atol=1e-4)


@pytest.mark.parametrize("variant", ["plain", "banded", "random"])
def test_svft_moves_only_the_entries_of_its_pattern(lm: HFBackend, variant: str) -> None:
    form = small("svft", rank=0, variant=variant, band=2)
    made = group(lm, form)
    (one,) = made.fit()
    change: Any = one.change
    for k, delta in enumerate(one.change.steering(0).deltas):
        u, s, v = (part.numpy().astype(np.float64) for part in change.bases[k])
        core = u.T @ product(delta) @ v
        n, (i, j) = len(s), (index.numpy() for index in change.pattern[k])
        assert len(i) == (n if variant == "plain" else n * 5 - 2 * 3)
        outside = np.ones((n, n), dtype=bool)
        outside[i, j] = False
        assert np.abs(core[outside]).max() < 1e-5
        assert np.abs(core[i, j]).max() > 1e-4
        if variant == "plain":
            merged = np.linalg.svd(weight(lm, delta.module) + product(delta), compute_uv=False)
            assert np.allclose(np.sort(merged), np.sort(np.abs(s + np.diag(core))), atol=1e-5)


def test_svft_top_k_takes_the_best_aligned_directions_of_square_modules_alone(lm: HFBackend) -> None:
    made = group(lm, small("svft", variant="top-k", rank=0, band=1, modules=("o_proj",)))
    change: Any = made.change
    u, _, v = change.bases[0]
    scores = (u.T @ v).abs()
    chosen = scores[change.pattern[0]]
    assert len(chosen) == 32 * 3 - 2
    assert float(chosen.min()) >= float(scores.flatten().sort(descending=True).values[len(chosen)])
    with pytest.raises(BenchError, match="not square"):
        group(lm, small("svft", variant="top-k", modules=("down_proj",)))


def test_strict_rotation_keeps_the_spectrum_it_says_and_undoes_itself(lm: HFBackend) -> None:
    (one,) = group(lm, small("ssvd", share=0.3)).fit()
    for delta in one.change.steering(0).deltas:
        assert isinstance(delta, RotationDelta)
        base = weight(lm, delta.module)
        spectrum = np.linalg.svd(base + product(delta), compute_uv=False)
        rest = np.linalg.svd(base, compute_uv=False)[len(delta.s) :]
        expected = np.sort(np.concatenate([np.abs(delta.s + delta.shift), rest]))
        assert np.allclose(np.sort(spectrum), expected, atol=1e-5)
        left = product(delta)
        assert np.abs(left - delta.u @ (delta.u.T @ left)).max() < 1e-5
        eye, k = np.eye(len(delta.s)), delta.skew.astype(np.float64)
        turn, back = ((eye - sign * k) @ np.linalg.inv(eye + sign * k) for sign in (1, -1))
        assert np.abs(turn @ back - eye).max() < 1e-12
        assert np.abs(k).max() > 1e-3


def test_the_first_order_rotation_is_exported_as_one(lm: HFBackend) -> None:
    (one,) = group(lm, small("ssvd", strict=False)).fit()
    delta = one.change.steering(0).deltas[0]
    assert isinstance(delta, RotationDelta)
    k = delta.skew.astype(np.float64)
    turn = np.eye(len(k)) - 2 * k
    assert np.allclose(delta.core(), np.diag(delta.s + delta.shift) @ turn - np.diag(delta.s), atol=1e-5)
    error = np.linalg.norm(turn.T @ turn - np.eye(len(k)), 2)
    assert error == pytest.approx(4 * np.linalg.norm(k, 2) ** 2, rel=1e-6)


@pytest.mark.slow
def test_the_bounded_rotation_stays_within_its_angle(lm: HFBackend) -> None:
    made = group(lm, small("rotation", init=50.0), goal("antipasto"), rate=1e-6)
    (one,) = made.fit()
    for delta in one.change.steering(0).deltas:
        assert isinstance(delta, RotationDelta)
        turn = np.linalg.inv(np.eye(len(delta.s)) + delta.skew) @ (np.eye(len(delta.s)) - delta.skew)
        angles = np.abs(np.angle(np.linalg.eigvals(turn)))
        assert angles.max() <= math.pi / 4 + 1e-4
        assert angles.max() > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("form", ["lora", "dora", "pissa"])
def test_the_forward_pass_is_pefts(any_lm: HFBackend, form: str) -> None:
    import copy

    peft = pytest.importorskip("peft")
    kind = small(form)
    made = group(any_lm, kind, trains=TWO, rate=0.1)
    made.fit()
    change: Any = made.change
    names = [name for name, _, _ in change.places]
    for c in range(2):
        config = peft.LoraConfig(
            r=kind.rank,  # type: ignore[attr-defined]
            lora_alpha=kind.alpha,  # type: ignore[attr-defined]
            use_rslora=kind.rslora,  # type: ignore[attr-defined]
            target_modules=names,
            use_dora=form == "dora",
            init_lora_weights="pissa" if form == "pissa" else True,
        )
        adapted = peft.get_peft_model(copy.deepcopy(any_lm.model), config)
        with torch.no_grad():
            for k, name in enumerate(names):
                layer = adapted.base_model.model.get_submodule(name)
                layer.lora_A["default"].weight.copy_(change.down[k][c])
                layer.lora_B["default"].weight.copy_(change.up[k][c])
                if form == "dora":
                    layer.lora_magnitude_vector["default"].weight.copy_(change.magnitude[k][c])
            item = made.items[c][0][0]
            ours = made.texts.run([item], made.change, rows(1, 1.0, c))
            ids, _ = made.texts.batches.pad_right([made.texts._ids[item]])
            logits = adapted(input_ids=ids, use_cache=False).logits[0].float()
        places = ours.response[0].nonzero()[:, 0] - 1
        theirs = logits[places].log_softmax(-1)
        mine = ours.logits.log_softmax(-1)
        assert float((theirs - mine).abs().max()) < 1e-5 * max(1.0, float(mine.abs().max()))


@pytest.mark.parametrize("form", ["lora", "pissa"])
def test_an_adapter_folder_loads_into_peft_as_the_same_model(lm: HFBackend, form: str, tmp_path: Path) -> None:
    import copy

    peft = pytest.importorskip("peft")
    from bench.interchange.files import adapter as encode

    (one,) = group(lm, small(form), rate=0.1).fit()
    steering = one.change.steering(0).scaled(1.7)
    files = encode(steering, "tiny")
    assert files == encode(steering, "tiny")
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    adapted = peft.PeftModel.from_pretrained(copy.deepcopy(lm.model), tmp_path)
    ids = torch.tensor([lm.encode((("user", "Why?"),), "abcd")])
    with torch.no_grad():
        theirs = adapted(ids).logits[0].log_softmax(-1)
    prompt = len(lm.encode((("user", "Why?"),)))
    expected = theirs[prompt - 1 : -1].gather(1, ids[0, prompt:, None])[:, 0].tolist()
    found = dict(lm.logprobs([Request((("user", "Why?"),), steering, target="abcd")]))[0].logprobs
    assert list(found) == pytest.approx(expected, abs=1e-4)


def test_what_is_no_low_rank_change_is_refused_by_name(lm: HFBackend) -> None:
    from bench.interchange.files import adapter as encode

    for form, part in (("dora", "DenseDelta"), ("ssvd", "RotationDelta"), ("vector", "Add edit at layer 2")):
        with pytest.raises(BenchError, match=part):
            encode(group(lm, small(form), rate=0.1).fit()[0].change.steering(0), "tiny")
