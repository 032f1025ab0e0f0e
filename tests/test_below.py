"""Equal prompts are read once below the first change, and nothing that is written changes by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batch_cases import watch_reads

from bench.backends import tiny
from bench.backends.hf.backend import HFBackend
from bench.backends.hf.below import Below
from bench.core.content import Message
from bench.core.deltas import LowRankDelta
from bench.core.edits import Gate, Span
from bench.core.kinds import Add
from bench.core.steering import Prompt, Steering
from bench.core.values import Completion, Request, Sampling

H = 32
RNG = np.random.default_rng(0)
DRAWN = Sampling(12, 1.0)
ASKS = ("Tell me of it, please.", "What is it?", "Name another one, and say why.")


def ask(text: str) -> tuple[Message, ...]:
    return (("user", text),)


def drawn(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


def vector(layer: int, strength: float = 1.0, **more: Any) -> Steering:
    return Steering(edits=(Add(layer=layer, value=strength * drawn(H), **more),))


def delta(module: str) -> Steering:
    return Steering(deltas=(LowRankDelta(module=module, down=drawn(2, H), up=drawn(H, 2)),))


STEERINGS = [
    None,
    vector(2),
    vector(2, 3.0),
    vector(1, span=Span("response")),
    vector(3, gate=Gate(layer=2, direction=drawn(H), threshold=0.0)),
    Steering(prompt=Prompt(system="Be brief."), edits=vector(2).edits),
]


def requests() -> list[Request]:
    return [
        Request(ask(text), steering, sampling=DRAWN, seed=i)
        for text in ASKS
        for i, steering in enumerate([*STEERINGS, *STEERINGS])
    ]


def written(lm: HFBackend, asked: list[Request]) -> list[Completion]:
    found = dict(lm.generate(asked))
    return [found[i] for i in range(len(asked))]


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma2"])
def test_answers_are_the_same_whether_prompts_are_read_once_or_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    lm = tiny.engine(tmp_path, kind)
    read: list[int] = []
    lm.model.get_decoder().layers[0].self_attn.register_forward_pre_hook(
        lambda _, args, kwargs: read.append((kwargs.get("hidden_states") if not args else args[0]).shape[0]),
        with_kwargs=True,
    )
    together = written(lm, requests())
    shared, read[:] = list(read), []
    monkeypatch.setattr(Below, "shared", lambda *_: None)
    assert written(lm, requests()) == together
    if kind == "gemma2":  # half of its layers have a window, and a cache of their own
        assert shared == read
    else:
        assert max(shared[:1]) <= 2 * len(ASKS), "each prompt, with and without a system message"
        assert read[0] == len(requests())
    assert all(answer.positions_edited for answer, one in zip(together, requests(), strict=True) if one.steering)


def test_the_bare_model_s_answers_are_those_of_one_that_shares_nothing(lm: HFBackend) -> None:
    asked = [Request(ask(text), None, sampling=DRAWN, seed=i) for text in ASKS for i in range(4)]
    alone = [written(lm, [one])[0] for one in asked]
    assert written(lm, asked) == alone


def test_a_low_change_leaves_the_others_their_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny.engine(tmp_path)
    low = [Request(ask(t), delta("model.layers.0.self_attn.o_proj"), sampling=DRAWN, seed=9) for t in ASKS]
    asked = [*requests(), *low, *low]
    assert lm.below.holds(1)
    batches = watch_reads(monkeypatch)
    found = written(lm, asked)
    assert batches == [(1, 2 * len(ASKS)), (-1, 0)]
    assert found[-1] == written(lm, asked[-1:])[0]


@pytest.mark.parametrize(
    ("steering", "until"),
    [
        (None, 3),
        (Steering(prompt=Prompt(system="Be brief.")), 3),
        (vector(2), 2),
        (vector(2, site="mlp"), 1),
        (vector(0), 0),
        (vector(0, site="attn"), -1),
        (vector(3, gate=Gate(layer=1, direction=drawn(H), threshold=0.0)), 1),
        (delta("model.layers.2.mlp.up_proj"), 1),
        (delta("model.layers.0.mlp.up_proj"), -1),
        (delta("lm_head"), -1),
    ],
)
def test_what_a_steering_leaves_as_it_is(lm: HFBackend, steering: Steering | None, until: int) -> None:
    assert lm.below.until(steering) == until


def test_a_model_that_hands_on_more_than_states_is_read_whole(tmp_path: Path) -> None:
    lm = tiny.engine(tmp_path)
    assert lm.below.holds(1)
    kept: list[torch.Tensor] = []
    layers = lm.model.get_decoder().layers
    layers[0].register_forward_hook(lambda _, __, output: kept.append(output))
    layers[2].register_forward_hook(lambda _, __, output: output + kept[-1])
    other = Below(lm.model)
    assert not other.holds(1)
    assert other.shared([[5, 6]] * 4, 1) is None


def test_few_equal_prompts_are_not_worth_a_pass(lm: HFBackend) -> None:
    assert lm.below.shared([[5, 6], [5, 6], [7, 8]], 1) is None
    assert lm.below.shared([[5, 6], [5, 6], [7, 8], [7, 8]], 1) == [0, 0, 1, 1]


def test_a_pass_that_is_broken_off_leaves_no_block_changed(lm: HFBackend) -> None:
    rows = torch.tensor([[5, 6, 7]] * 2)
    with (
        pytest.raises(KeyboardInterrupt),
        lm.below.read_once({"input_ids": rows, "attention_mask": torch.ones_like(rows)}, [0, 0], 1, {}),
    ):
        raise KeyboardInterrupt
    assert not any("forward" in vars(block) for block in lm.below.stack)
