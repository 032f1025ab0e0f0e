"""What stands below texts: given token ids scored and continued, and two distributions side by side.

Invariant: as in the backend's own calls, a row's result depends on the row alone, and a steering that
changes nothing inside the model goes the same way as none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bench.backends.hf import scoring
from bench.backends.hf.hooks import Applied
from bench.backends.hf.scoring import PIECE, Scored
from bench.core.steering import Steering
from bench.core.values import Completion, Request

if TYPE_CHECKING:
    from bench.backends.hf.backend import HFBackend


@dataclass(frozen=True)
class Divergence:
    """Sums over the `tokens` of one target: KL(steered || bare) and its log-probabilities, in nats."""

    tokens: int
    kl: float
    steered: float
    bare: float


@torch.inference_mode()
def score(
    lm: HFBackend, prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], steering: Steering
) -> Iterator[tuple[int, Scored]]:
    """`HFBackend.logprobs` of prompts and targets given as ids; equal prompts share rows."""
    yield from scoring.score(lm, [Request("", steering)] * len(prompts), prompts, targets)


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
    yield from lm._write(requests, [list(prompt) for prompt in prompts], stop)


def halt(tokenizer: Any, stop: Sequence[str], width: int) -> Callable[..., Tensor]:
    """A stopping criterion: a row is done once what it wrote holds one of the texts `stop`."""

    def done(ids: Tensor, _: Tensor, **__: Any) -> Tensor:
        texts = tokenizer.batch_decode(ids[:, width:], skip_special_tokens=True)
        return torch.tensor([any(end in text for end in stop) for text in texts], device=ids.device)

    return done


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
