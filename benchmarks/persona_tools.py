"""Persona vectors around a fine-tune: foresee what data would do, measure what training did, and prevent it.

Equations and names follow arXiv 2507.21509 (§ 4 and 5), v̂ a unit direction `[H]` read after block `layer`.
Invariant: a push is there while weights are learnt and gone afterwards; no state read under it is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.backends.hf.hooks import Applied
from bench.backends.hf.modules import blocks, read_blocks
from bench.core.content import Array, Message
from bench.core.errors import BenchError
from bench.core.interfaces import Backend, Context, Fitted, Method
from bench.core.steering import Steering
from bench.core.values import Example, Request, Sampling, Train

if TYPE_CHECKING:
    from bench.backends.hf.backend import HFBackend

WRITTEN = Sampling()
"""How the bare model answers where data is screened."""


@contextmanager
def pushed(lm: Backend, layer: int, vector: Array) -> Iterator[None]:
    """Inside, h ← h + v after block `layer` at every token but the first (the attention sink).

    It is added on the way into the next block: the trainer keeps states after a block and starts from
    them again, and what is added to a kept state would be added twice.
    """
    found = blocks(lm.module)
    if not 0 <= layer < len(found) - 1:
        raise BenchError(f"a push after block {layer} acts on no block: the model's are 0 to {len(found) - 1}")
    weight = next(found[layer + 1].parameters())
    v = torch.as_tensor(np.asarray(vector, np.float32)).to(weight.device, weight.dtype)

    def add(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
        if args:
            return (_raised(args[0], v), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": _raised(kwargs["hidden_states"], v)}

    handle = found[layer + 1].register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _raised(states: Tensor, v: Tensor) -> Tensor:
    return torch.cat([states[:, :1], states[:, 1:] + v], dim=1)


def prevented(ctx: Context, made: Method, train: Train, layer: int, vector: Array) -> Fitted:
    """A fit made while `vector`, towards the trait that is not wanted, is added; what comes back has no push.

    The push supplies the trait, so that the loss asks less of it from the weights (preventative steering).
    """
    own = replace(ctx, cache=None, _cache={})
    with pushed(ctx.lm, layer, vector):
        (fitted,) = made.fit_all(own, [train])
    return fitted[0]


def shift(lm: HFBackend, steering: Steering, chats: Sequence[tuple[Message, ...]], layer: int, vector: Array) -> Array:
    """(h under the change - h of the bare model) · v̂ at the last token of each prompt, `[len(chats)]`."""
    changed, bare = (_last(lm, one, chats, layer) for one in (steering, Steering()))
    found: Array = (changed - bare) @ _unit(vector)
    return found


@torch.inference_mode()
def _last(lm: HFBackend, steering: Steering, chats: Sequence[tuple[Message, ...]], layer: int) -> Array:
    """States after block `layer` at the last token of each prompt, under a steering `[len(chats), H]`."""
    rows = [lm.encode(steering.prompt.apply(chat)) for chat in chats]
    found = []
    for begin in range(0, len(rows), lm.batch):
        part = rows[begin : begin + lm.batch]
        inputs, pads = lm.batches.pad(part)
        with Applied(lm.model, [steering] * len(part), list(map(len, part)), pads, lm.template_prefix):
            found.append(read_blocks(lm.model, [layer], "resid", **inputs)[layer][:, -1].float().cpu().numpy())
    return np.concatenate(found)


def projection_difference(
    ctx: Context, data: Sequence[Example], layer: int, vector: Array, sampling: Sampling = WRITTEN
) -> Array:
    """How far each training answer lies along v̂ beyond the model's own answer, `[len(data)]`.

    ΔP_i = (h̄(x_i, y_i) - h̄(x_i, y'_i)) · v̂, h̄ the mean over the answer's tokens and y' what the bare model
    writes. Its mean foretells the shift of training on the data, before training.
    """
    requests = [
        Request((("user", example.instruction),), None, sampling, int(ctx.rng("screen", i).integers(2**31)))
        for i, example in enumerate(data)
    ]
    answers = dict(ctx.lm.generate(requests))
    own = [Example(e.instruction, answers[i].text.strip() or ".") for i, e in enumerate(data)]
    given, written = (_responses(ctx, rows, layer) for rows in (data, own))
    found: Array = (given - written) @ _unit(vector)
    return found


def _responses(ctx: Context, rows: Sequence[Example], layer: int) -> Array:
    """Mean state over each answer's tokens `[n, H]`; where the budget's cut leaves none, the last token read."""
    reads = ctx.read([example.messages for example in rows], layer)
    return np.stack([r.values[layer][min(r.response, len(r.values[layer]) - 1) :].mean(0) for r in reads])


def _unit(vector: Array) -> Array:
    norm = float(np.linalg.norm(vector))
    if not norm:
        raise BenchError("the persona vector has length 0: it points nowhere")
    found: Array = np.asarray(vector, np.float64) / norm
    return found
