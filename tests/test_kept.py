"""What the bare model gives for training texts: read once, in bounded room, to the bit what a whole pass gives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from training_cases import BUDGET, goal, letters, numbers, small

from bench.backends.hf.backend import HFBackend
from bench.backends.hf.modules import blocks
from bench.core.interfaces import Context
from bench.training.kept import Kept
from bench.training.texts import _LogProbability
from bench.training.trainer import Group, Recipe

TRIED = 3 * 6 + 1
"""Tokens that finding out whether a model goes on from one block's output takes, and how its blocks return it."""
TWO = (letters(), letters("high", "mnop", "efgh", seed=1))


def made(ctx: Context, form: str, aim: str) -> Group:
    return Group(ctx, "case", TWO, small(form), goal(aim), Recipe(0.05))


def words(group: Group) -> int:
    """Tokens of a group's texts, each once."""
    return sum(group.texts.tokens(i) for i in {i for items in group.items for item in items for i in item})


@contextmanager
def counted(lm: HFBackend) -> Iterator[list[int]]:
    """Tokens that each block gets without a gradient; one that a pass leaves out calls none of its parts."""
    found = [0] * lm.layers
    handles = []
    for k, block in enumerate(blocks(lm.model)):

        def count(_: Any, args: Any, __: Any, k: int = k) -> None:
            found[k] += 0 if torch.is_grad_enabled() else args[0].shape[0] * args[0].shape[1]

        handles.append(block.mlp.register_forward_hook(count))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize(("form", "aim"), [("vector", "dpo"), ("lora", "reroute"), ("rotation", "antipasto")])
def test_the_bare_model_reads_a_text_once_for_all_steps_and_epochs(lm: HFBackend, form: str, aim: str) -> None:
    ctx = Context(lm, BUDGET, trains=TWO)
    group = made(ctx, form, aim)
    with counted(lm) as tokens:
        group.fit()
    assert max(tokens) <= TRIED * len(group.texts.kept.resumes)
    with counted(lm) as tokens:
        again = made(ctx, form, aim)
        again.texts.bare(list(again.texts._known.values()))  # type: ignore[arg-type]
    assert max(tokens) <= words(again)  # what chooses a rotation's directions reads other texts


def test_methods_of_a_session_share_what_the_bare_model_gave(lm: HFBackend) -> None:
    ctx = Context(lm, BUDGET, trains=TWO)
    made(ctx, "vector", "dpo").fit()
    with counted(lm) as tokens:
        second = made(ctx, "vector", "reps")
        second.fit()
    assert tokens == [0] * lm.layers
    alone = made(Context(lm, BUDGET, trains=TWO), "vector", "reps").fit()
    for c, one in enumerate(alone):
        pairs = zip(numbers(one.change.steering(c)), numbers(second.change.steering(c)), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(("form", "aim"), [("vector", "bipo"), ("lora", "lorra"), ("rotation", "antipasto")])
def test_without_room_a_fit_is_the_same_to_the_bit(any_lm: HFBackend, form: str, aim: str) -> None:
    found = []
    for room in (None, 0, 20_000):
        ctx = Context(any_lm, BUDGET, trains=TWO)
        ctx.shared["training"] = kept = Kept(room)
        group = made(ctx, form, aim)
        found.append([(one.losses, numbers(one.change.steering(c))) for c, one in enumerate(group.fit())])
        assert kept.bytes <= kept.room
        assert bool(kept.bytes) == (room != 0)
    for other in found[1:]:
        for (losses, arrays), (others, theirs) in zip(found[0], other, strict=True):
            assert losses == others
            assert all(np.array_equal(a, b) for a, b in zip(arrays, theirs, strict=True))


def test_what_the_present_fit_does_not_ask_for_makes_room_first() -> None:
    kept, states = Kept(3 * 4 * 8), torch.ones(2, 4)
    for name in (b"a", b"b", b"c"):
        kept.keep(name, 1, states)
    kept.keep(b"d", 1, states)  # all are the present fit's: nothing goes, and it is not kept
    assert [bool(kept.layers(name)) for name in (b"a", b"b", b"c", b"d")] == [True, True, True, False]
    kept.begin()
    kept.states(b"a", 1)
    kept.keep(b"d", 1, states)
    assert [bool(kept.layers(name)) for name in (b"a", b"b", b"c", b"d")] == [True, False, True, True]
    kept.keep(b"d", 1, states)
    assert kept.bytes == 3 * 4 * 8
    whole = torch.ones(8, 4)
    kept.begin()
    kept.keep(b"e", 0, whole[:3])  # a view's own numbers alone
    assert kept.bytes <= kept.room
    assert kept.states(b"e", 0).untyped_storage().nbytes() == 3 * 4 * 4


def test_a_model_whose_blocks_hand_on_more_than_states_runs_whole(lm: HFBackend) -> None:
    """As families do that use an earlier block's keys or input again."""
    low, high = blocks(lm.model)[0].self_attn, blocks(lm.model)[3].self_attn
    seen: list[torch.Tensor] = []

    def hear(_: Any, __: Any, output: Any) -> None:
        seen[:] = [output[0]]

    def add(_: Any, __: Any, output: Any) -> Any:
        return (output[0] + seen[0], *output[1:])

    handles = [low.register_forward_hook(hear), high.register_forward_hook(add)]
    try:
        losses = []
        for room in (None, 0):
            ctx = Context(lm, BUDGET, trains=TWO)
            ctx.shared["training"] = kept = Kept(room)
            group = made(ctx, "vector", "dpo")
            losses.append([one.losses for one in group.fit()])
            assert not any(kept.resumes.values())
        assert losses[0] == losses[1]
    finally:
        for handle in handles:
            handle.remove()
    ctx = Context(lm, BUDGET, trains=TWO)
    made(ctx, "vector", "dpo").fit()
    assert ctx.shared["training"].resumes == {2: True}


def test_a_token_s_log_probability_and_its_gradient_are_autograd_s_to_the_bit() -> None:
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        logits, token = (3 * torch.randn(7, 50)).to(dtype), torch.randint(50, (7,))
        weight = torch.randn(7)
        found = []
        for way in (_LogProbability.apply, lambda x, t: x.gather(1, t[:, None])[:, 0] - x.logsumexp(1)):
            leaf = logits.clone().requires_grad_(True)
            values = way(leaf.float(), token)  # type: ignore[no-untyped-call]
            (values * weight).sum().backward()
            found.append((values.detach(), leaf.grad))
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
