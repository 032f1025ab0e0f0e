"""What stands below texts: given token ids scored and continued, and two distributions side by side.

Invariant: as in the backend's own calls, a row's result depends on the row alone, and a steering that
changes nothing inside the model goes the same way as none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench.backends._hooks import Applied
from bench.schema import Completion, Request
from bench.steering import Steering

if TYPE_CHECKING:
    from bench.backends.hf import HFBackend

PIECE = 16
"""Positions whose `[V]` distributions are in memory in fp32 at once."""


@dataclass(frozen=True)
class Scored:
    """Log-probability (nats) of a target, and whether each of its tokens was the likeliest."""

    total: float
    greedy: bool


@dataclass(frozen=True)
class Divergence:
    """Sums over the `tokens` of one target: KL(steered || bare) and its log-probabilities, in nats."""

    tokens: int
    kl: float
    steered: float
    bare: float


@torch.inference_mode()
def score(
    lm: HFBackend, prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], steering: Steering | None
) -> Iterator[tuple[int, Scored]]:
    """Each target after its prompt, as (index, score) in any order.

    Targets of one prompt that differ in their last token alone share a row: the options of a question
    that are one token long cost one pass.
    """
    rows: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
    for i, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
        rows.setdefault((tuple(prompt), tuple(target[:-1])), []).append(i)
    keys = list(rows)
    for batch in lm._batches([len(prompt) + len(most) for prompt, most in keys], lm.batch):
        chosen = [keys[k] for k in batch]
        logits = _logits(lm, chosen, [steering] * len(chosen))
        for row, key in enumerate(chosen):
            for i in rows[key]:
                yield i, _scored(logits[row, -len(targets[i]) :], torch.tensor(targets[i], device=logits.device))


def _scored(logits: Tensor, labels: Tensor) -> Scored:
    total, greedy = 0.0, True
    for piece, wanted in zip(torch.split(logits, PIECE), torch.split(labels, PIECE), strict=True):
        values = piece.float()
        total += float((values.gather(1, wanted[:, None])[:, 0] - values.logsumexp(1)).sum())
        greedy = greedy and bool((values.argmax(1) == wanted).all())
    return Scored(total, greedy)


def _logits(
    lm: HFBackend, rows: Sequence[tuple[Sequence[int], Sequence[int]]], steerings: Sequence[Steering | None]
) -> Tensor:
    """`[B, T, V]` for rows of (prompt, what follows): from the last prompt token on, aligned at the end."""
    inputs, pads = lm._pad([[*prompt, *rest] for prompt, rest in rows])
    keep = max(len(rest) for _, rest in rows) + 1
    applied = Applied(lm.model, steerings, [len(prompt) for prompt, _ in rows], pads, lm.header)
    with applied:
        logits: Tensor = lm.model(**inputs, use_cache=False, logits_to_keep=keep).logits
    for row, (_, rest) in enumerate(rows):
        applied.touched(row, 2 if rest else 1)
    return logits


@torch.inference_mode()
def write(
    lm: HFBackend, prompts: Sequence[Sequence[int]], requests: Sequence[Request], stop: Sequence[str]
) -> Iterator[tuple[int, Completion]]:
    """`HFBackend.generate` of prompts given as ids; a row ends where its text holds one of `stop`."""
    for sampling in dict.fromkeys(request.sampling for request in requests):
        own = [i for i, request in enumerate(requests) if request.sampling == sampling]
        for batch in lm._batches([len(prompts[i]) + sampling.max_new_tokens for i in own], lm.batch):
            yield from lm._generate([own[i] for i in batch], requests, [list(p) for p in prompts], sampling, stop)


@torch.inference_mode()
def diverge(lm: HFBackend, requests: Sequence[Request]) -> Iterator[tuple[int, Divergence]]:
    """What each request's steering, its prompt edit included, does to the tokens of its target.

    At every target token (those before it given), KL(steered || bare) over the whole vocabulary. The
    bare model sees the request's own prompt.
    """
    targets = [lm._plain(request.target) for request in requests]
    steered = [lm._steered(request) for request in requests]
    bare = [lm._steered(replace(request, steering=None)) for request in requests]
    lengths = [max(len(a), len(b)) + len(t) for a, b, t in zip(steered, bare, targets, strict=True)]
    for batch in lm._batches(lengths, max(1, lm.batch // 4)):
        rests = [targets[i][:-1] for i in batch]
        changed = _logits(
            lm, [(steered[i], r) for i, r in zip(batch, rests, strict=True)], [requests[i].steering for i in batch]
        )
        plain = _logits(lm, [(bare[i], r) for i, r in zip(batch, rests, strict=True)], [None] * len(batch))
        for row, i in enumerate(batch):
            labels = torch.tensor(targets[i], device=plain.device)
            count = len(labels)
            yield i, _divergence(changed[row, -count:], plain[row, -count:], labels)


def _divergence(changed: Tensor, plain: Tensor, labels: Tensor) -> Divergence:
    kl = steered = bare = 0.0
    for one, two, wanted in zip(*(torch.split(part, PIECE) for part in (changed, plain, labels)), strict=True):
        p, q = one.float().log_softmax(1), two.float().log_softmax(1)
        kl += float((p.exp() * (p - q)).sum())
        steered += float(p.gather(1, wanted[:, None]).sum())
        bare += float(q.gather(1, wanted[:, None]).sum())
    return Divergence(len(labels), kl, steered, bare)
