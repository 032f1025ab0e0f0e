"""Persona vectors around a fine-tune, on a tiny model: the push is exact, and nothing of it stays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import script

from bench.backends.hf.backend import HFBackend
from bench.backends.hf.modules import blocks, read_blocks
from bench.core.content import Array, Message
from bench.core.errors import BenchError
from bench.core.interfaces import Context
from bench.core.naming import build_method
from bench.core.protocol import Budget
from bench.core.steering import Steering
from bench.core.values import Example, Request, Sampling
from bench.run.contract import example_train
from benchmarks.persona_tools import prevented, projection_difference, pushed, shift

LAYER = 1
TRAIN = example_train()
CHATS: list[tuple[Message, ...]] = [(("user", f"What of {word}?"),) for word in ("ships", "a long road", "bread", "x")]


def context(lm: HFBackend, epochs: int = 4) -> Context:
    return Context(lm, Budget(8, 0, epochs, 1))


def direction(seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(32).astype(np.float32)


def test_the_push_is_added_after_its_block_and_not_to_the_sink(any_lm: HFBackend) -> None:
    ids = torch.tensor([any_lm.encode(CHATS[1])])
    v = direction()
    model = any_lm.module
    seen: list[torch.Tensor] = []

    def watch(_: object, args: tuple[torch.Tensor, ...]) -> None:
        seen.append(args[0].detach().clone())

    handle = blocks(model)[LAYER + 1].register_forward_pre_hook(watch)
    with torch.inference_mode():
        bare = read_blocks(model, [LAYER, 3], input_ids=ids)
        plain = seen.pop()
        handle.remove()
        with pushed(any_lm, LAYER, v):
            handle = blocks(model)[LAYER + 1].register_forward_pre_hook(watch)  # runs after the push
            moved = read_blocks(model, [LAYER, 3], input_ids=ids)
        handle.remove()
        again = read_blocks(model, [3], input_ids=ids)
    assert torch.allclose(seen[0][:, 1:] - plain[:, 1:], torch.as_tensor(v).expand_as(plain[:, 1:]), atol=1e-4)
    assert torch.equal(seen[0][:, 0], plain[:, 0])
    assert torch.equal(moved[LAYER], bare[LAYER])
    assert not torch.allclose(moved[3], bare[3])
    assert torch.equal(again[3], bare[3])


def test_the_push_is_gone_after_a_failure_and_cannot_be_after_the_last_block(lm: HFBackend) -> None:
    before = lm.activations([CHATS[0]], [3])[0].values[3]
    with pytest.raises(ZeroDivisionError), pushed(lm, LAYER, direction()):
        _ = 1 / 0
    assert np.array_equal(lm.activations([CHATS[0]], [3])[0].values[3], before)
    with pytest.raises(BenchError, match="acts on no block"), pushed(lm, 3, direction()):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("layers", ["1", "2", "3"])
def test_a_fit_under_no_push_is_the_plain_fit_wherever_it_starts_from(lm: HFBackend, layers: str) -> None:
    """Blocks below the first changed one are frozen: the push lies below, at and above that place."""
    made = build_method("lora", {"lora": {"layers": layers}})
    ((plain,),) = made.fit_all(context(lm), [TRAIN])
    none = prevented(context(lm), made, TRAIN, LAYER, np.zeros(32))
    some = prevented(context(lm), made, TRAIN, LAYER, 3 * direction())
    assert isinstance(plain.steering, Steering)
    assert isinstance(none.steering, Steering)
    assert isinstance(some.steering, Steering)
    for one, two in zip(plain.steering.deltas, none.steering.deltas, strict=True):
        for name, tensor in one.tensors().items():
            assert np.allclose(tensor, two.tensors()[name], atol=1e-6)
    assert some.steering.digest != plain.steering.digest


def test_a_loss_under_a_push_is_the_one_a_plain_pass_gives(lm: HFBackend) -> None:
    """The first loss of a fit (its change is still 0) is the language-model loss of the pushed model."""
    v = 3 * direction()
    one = replace(TRAIN, positives=TRAIN.positives[:1])
    for layers in ("1", "2", "3"):
        made = build_method("lora", {"lora": {"layers": layers}})
        found = prevented(replace(context(lm, 1), budget=Budget(2, 0, 1, 1)), made, one, LAYER, v)
        example = one.positives[0]
        request = Request((("user", example.instruction),), target=example.response)
        with pushed(lm, LAYER, v):
            (_, score) = next(iter(lm.logprobs([request])))
        assert found.note["loss_first"] == pytest.approx(-score.mean, rel=0.02), layers


@pytest.mark.slow
def test_a_push_along_what_training_does_leaves_less_of_it_to_do(lm: HFBackend) -> None:
    ctx = context(lm, 12)
    made = build_method("lora", {"lora": {"layers": "1", "rate": 0.01}})
    ((plain,),) = made.fit_all(ctx, [TRAIN])
    assert isinstance(plain.steering, Steering)
    basis = np.eye(32, dtype=np.float32)
    moved = np.array([shift(lm, plain.steering, CHATS, LAYER, axis).mean() for axis in basis])
    assert np.linalg.norm(moved) > 0.1
    pushed_fit = prevented(ctx, made, TRAIN, LAYER, moved.astype(np.float32))
    assert isinstance(pushed_fit.steering, Steering)
    before = shift(lm, plain.steering, CHATS, LAYER, moved).mean()
    after = shift(lm, pushed_fit.steering, CHATS, LAYER, moved).mean()
    assert before == pytest.approx(np.linalg.norm(moved), rel=1e-4)
    assert after < before


def test_the_shift_of_nothing_is_nothing(lm: HFBackend) -> None:
    assert np.allclose(shift(lm, Steering(), CHATS, LAYER, direction()), 0)


def test_data_the_model_wrote_itself_differs_in_nothing(lm: HFBackend) -> None:
    ctx, sampling = context(lm), Sampling(12)
    asked = [example.instruction for example in TRAIN.positives[:4]]
    requests = [
        Request((("user", text),), None, sampling, int(ctx.rng("screen", i).integers(2**31)))
        for i, text in enumerate(asked)
    ]
    answers = dict(lm.generate(requests))
    own = [Example(text, answers[i].text.strip() or ".") for i, text in enumerate(asked)]
    assert np.allclose(projection_difference(ctx, own, LAYER, direction(), sampling), 0, atol=1e-4)

    other = list(TRAIN.positives[:4])
    reads = [ctx.read([e.messages for e in rows], LAYER) for rows in (other, own)]
    means = [np.stack([r.values[LAYER][r.response :].mean(0) for r in side]) for side in reads]
    v = direction()
    expected = (means[0] - means[1]) @ v / np.linalg.norm(v)
    assert np.allclose(projection_difference(ctx, other, LAYER, v, sampling), expected, atol=1e-4)
    with pytest.raises(BenchError, match="length 0"):
        projection_difference(ctx, other, LAYER, np.zeros(32), sampling)


@pytest.mark.slow
def test_the_benchmark_measures_each_data_set(lm: HFBackend) -> None:
    made = script("benchmarks/persona_training.py")
    train = replace(TRAIN, pairs=TRAIN.pairs[:4])
    mixed = made.mixed(train, 0.5)
    assert mixed.positives == (*TRAIN.positives[:2], *TRAIN.negatives[2:4])
    rows = made.measure(context(lm), build_method("lora", {}), train, CHATS, LAYER, direction(), (0.0, 1.0))
    assert [row["share"] for row in rows] == [0.0, 1.0]
    assert all(set(row) == {"share", "foretold", "shift", "prevented"} for row in rows)
