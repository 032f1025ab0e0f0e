"""What an engine must hold on a model it has not seen: a few seconds' parity with transformers' own passes.

The other side has no batch, no padding, no cache and no hook of ours: one row at a time through the model, with a
vector added at one block's output.

Invariant: each check says what it measured, and fails by a margin for the type of numbers, not by an exact figure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bench.backends import devices
from bench.backends.hf.backend import HFBackend
from bench.backends.hf.modules import blocks, first, with_first
from bench.core.content import Array
from bench.core.errors import BenchError
from bench.core.kinds import Add
from bench.core.steering import Steering
from bench.core.values import Request, Sampling

ASKED = ("Name a city.", "How do I boil an egg so that its yolk stays soft? Answer in two steps.", "Why?")
"""Prompts of unlike length, so that a batch of them is padded."""
ANSWER = " Paris is a city of many lights, and of bread."
TOKENS = 8
"""Of each greedy answer."""
STRENGTH = 0.3
"""Of the median norm of a state: enough to change answers, not to break them."""
NEAR = {torch.float32: 1e-3}
ROUNDED = 0.15
"""Nats a token by which two ways to the same log-probability may differ: in fp32, and in types of sixteen bits."""


@dataclass(frozen=True)
class Check:
    """One thing that an engine must hold: what was seen, and whether it held."""

    name: str
    seen: str
    held: bool


def checks(lm: HFBackend) -> Iterator[Check]:
    """The checks, one after the other. A refusal of the engine is a check that did not hold."""
    try:
        yield from _checks(lm)
    except BenchError as error:
        yield Check("engine", str(error), False)


def _checks(lm: HFBackend) -> Iterator[Check]:
    near = NEAR.get(lm.model.dtype, ROUNDED)
    layer = lm.layers // 2
    vector = _vector(lm, layer)
    steering = Steering(edits=(Add(layer=layer, value=vector),))
    bare, steered, off = (_requests(one) for one in (None, steering, steering.scaled(0)))
    together = [dict(lm.logprobs(requests)) for requests in (bare, steered, off)]
    plain, changed, unchanged = ([found[i].total for i in range(len(ASKED))] for found in together)
    yield Check("c = 0", "is the bare model bit for bit", unchanged == plain)
    length = len(lm.chat.continued(ANSWER))
    alone = [next(iter(lm.logprobs([one])))[1].total for one in (*bare, *steered)]
    yield _close("a batch and its rows", [*plain, *changed], alone, length, near)
    for name, found, value in (("bare", plain, None), ("steered", changed, vector)):
        other = [_scored(lm, request, layer, value) for request in bare]
        yield _close(f"transformers' own passes, {name}", found, other, length, near)
    moved = max(abs(a - b) for a, b in zip(plain, changed, strict=True))
    touched = together[1][1].positions_edited
    fired = moved > 0 and all(count > 0 for count in touched)
    yield Check("an edit fires", f"at {sum(touched):,} positions, {moved / length:.3g} nats a token", fired)
    for name, requests, value in (("bare", bare, None), ("steered", steered, vector)):
        texts = [answer.text for _, answer in sorted(lm.generate(requests))]
        same = sum(a == b for a, b in zip(texts, [_written(lm, r, layer, value) for r in bare], strict=True))
        held = same == len(texts) or lm.model.dtype != torch.float32
        yield Check(f"greedy answers, {name}", f"{same} of {len(texts)} are those of transformers' own passes", held)


def _close(name: str, ours: Sequence[float], other: Sequence[float], length: int, near: float) -> Check:
    worst = max(abs(a - b) for a, b in zip(ours, other, strict=True)) / length
    return Check(name, f"differ by {worst:.2g} nats a token at most (may by {near:g})", worst <= near)


def _requests(steering: Steering | None) -> list[Request]:
    sampling = Sampling(TOKENS, 0.0)
    return [Request((("user", text),), steering=steering, sampling=sampling, target=ANSWER) for text in ASKED]


def states(lm: HFBackend, layer: int) -> Array:
    """States `[T, D]` of all tokens of the prompts at a block's output."""
    reads = lm.activations([(("user", text),) for text in ASKED], [layer])
    return np.concatenate([read.values[layer] for read in reads])


def _vector(lm: HFBackend, layer: int) -> Array:
    read = states(lm, layer)
    value = np.random.default_rng(0).standard_normal(read.shape[1])
    length = STRENGTH * np.median(np.linalg.norm(read, axis=1))
    found: Array = (value / np.linalg.norm(value) * length).astype(np.float32)
    return found


def _logits(lm: HFBackend, ids: Sequence[int], layer: int, value: Array | None, begin: int) -> torch.Tensor:
    """Logits `[T, V]` of one row, with `value` added to a block's output from position `begin` on."""

    def add(_: Any, __: Any, output: Any) -> Any:
        states = first(output).clone()
        states[:, begin:] += torch.from_numpy(value).to(states)
        return with_first(output, states)

    handle = None if value is None else blocks(lm.model)[layer].register_forward_hook(add)
    try:
        with torch.no_grad():
            row = torch.tensor([list(ids)], device=devices.of(lm.model))
            found: torch.Tensor = lm.model(row, use_cache=False).logits[0].float()
            return found
    finally:
        if handle is not None:
            handle.remove()


def _scored(lm: HFBackend, request: Request, layer: int, value: Array | None) -> float:
    prompt, target = lm.encode(request.prompt), lm.chat.continued(ANSWER)
    logits = _logits(lm, [*prompt, *target], layer, value, lm.header(prompt))
    scores = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return float(scores.gather(1, torch.tensor(target, device=scores.device)[:, None]).sum())


def _written(lm: HFBackend, request: Request, layer: int, value: Array | None) -> str:
    prompt, ids = lm.encode(request.prompt), list[int]()
    begin = lm.header(prompt)
    while len(ids) < TOKENS:
        token = int(_logits(lm, [*prompt, *ids], layer, value, begin)[-1].argmax())
        if token in lm.chat.ends:
            break
        ids.append(token)
    return lm.chat.text(ids)
