"""Log-probabilities of texts that follow prompts: each prompt is read once for all that may follow it.

Invariant: a target's score depends on its own request alone; the order and company of a pass only change speed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bench.backends._hooks import Applied
from bench.schema import Request, TargetScore

if TYPE_CHECKING:
    from bench.backends.hf import HFBackend

ROWS = 16
"""Targets that a pass takes before much shorter ones get one of their own: each pass reads all weights."""


@dataclass(frozen=True)
class Scored(TargetScore):
    """A score that knows whether each target token was the likeliest."""

    greedy: bool = False


def score(
    lm: HFBackend, requests: Sequence[Request], prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
) -> Iterator[tuple[int, Scored]]:
    """The score of each request's target, prompts and targets given as ids; in no particular order.

    Requests with one prompt and steering stand together, so that they share its pass.
    """
    shared: dict[Any, list[int]] = {}
    for i, request in enumerate(requests):
        changed = request.steering is not None and request.steering.scalable
        key = request.steering.internal_digest if request.steering and changed else ""
        shared.setdefault((tuple(prompts[i]), key), []).append(i)
    groups = [sorted(group, key=lambda i: -len(targets[i])) for group in shared.values()]
    groups.sort(key=lambda group: -len(prompts[group[0]]) - len(targets[group[0]]))
    batch: list[list[int]] = []
    for part in (group[k : k + lm.batch] for group in groups for k in range(0, len(group), lm.batch)):
        rows = sum(map(len, batch)) + len(part)
        long = max(len(prompts[i]) + len(targets[i]) for own in (*batch, part) for i in own[:1])
        if batch and (rows > lm.batch or rows * long > lm.tokens):
            yield from _score(lm, batch, requests, prompts, targets)
            batch = []
        batch.append(part)
    if batch:
        yield from _score(lm, batch, requests, prompts, targets)


def _score(
    lm: HFBackend,
    groups: Sequence[Sequence[int]],
    requests: Sequence[Request],
    prompts: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
) -> Iterator[tuple[int, Scored]]:
    """Each group's prompt runs once under its steering; its keys and values serve every target of the group."""
    own = [requests[group[0]].steering for group in groups]
    lengths = [len(prompts[group[0]]) for group in groups]
    inputs, pads = lm._pad([prompts[group[0]] for group in groups])
    applied = Applied(lm.model, own, lengths, pads, lm.header)
    with applied:
        output = lm.model(**inputs, use_cache=True, logits_to_keep=1)
    row_of = {i: row for row, group in enumerate(groups) for i in group}
    for part in _alike({i: len(targets[i]) for i in row_of}):
        rows = [row_of[i] for i in part]
        found = _go_on(lm.model, output, inputs["attention_mask"], applied, rows, [targets[i] for i in part])
        yield from zip(part, found, strict=True)


def _go_on(
    model: Any,
    output: Any,
    mask: Tensor,
    applied: Applied,
    rows: Sequence[int],
    targets: Sequence[Sequence[int]],
) -> Iterator[Scored]:
    """Each target after row `rows[k]` of a pass that gave `output` under `mask` and `applied`."""
    index = torch.tensor(rows, device=mask.device)
    width = max(map(len, targets))
    padded = torch.tensor([[*t, *[0] * (width - len(t))] for t in targets], device=mask.device)
    ends = output.logits[index, -1].float()
    scores = torch.log_softmax(ends, -1).gather(1, padded[:, :1])
    greedy = ends.argmax(-1, keepdim=True) == padded[:, :1]
    applied = applied.spread(rows, [len(target) - 1 for target in targets])
    if width > 1:
        cache = copy.deepcopy(output.past_key_values)  # a pass adds to it, and others go on from the same
        cache.batch_select_indices(index)
        mask = mask[index]
        position = mask.sum(1, keepdim=True) + torch.arange(width - 1, device=mask.device)[None]
        with applied:
            logits = model(
                input_ids=padded[:, :-1],
                attention_mask=torch.cat([mask, torch.ones_like(position)], 1),
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
            ).logits
        more, likeliest = _picked(logits, padded[:, 1:])
        scores, greedy = torch.cat([scores, more], 1), torch.cat([greedy, likeliest], 1)
    for row, target in enumerate(targets):
        touched = applied.touched(row, min(len(target), 2))
        part = slice(len(target))
        yield Scored(tuple(scores[row, part].tolist()), touched, bool(greedy[row, part].all()))


def _alike(lengths: Mapping[int, int]) -> Iterator[list[int]]:
    """The keys in groups of similar length, longest first: padding costs a pass as much as what is read."""
    part: list[int] = []
    for i in sorted(lengths, key=lambda i: -lengths[i]):
        if len(part) >= ROWS and lengths[i] < 0.8 * lengths[part[0]]:
            yield part
            part = []
        part.append(i)
    if part:
        yield part


def _picked(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability `[B, T]` of `labels` `[B, T]` under `logits` `[B, T, V]`, and whether each is the likeliest."""
    flat, wanted = logits.flatten(0, 1), labels.flatten()[:, None]
    # In pieces: one fp32 copy of [B·T, V] would cost more than the model's own pass.
    parts = [
        (piece.gather(1, wanted[k : k + 16])[:, 0] - piece.logsumexp(1), piece.argmax(1) == wanted[k : k + 16, 0])
        for k in range(0, len(flat), 16)
        for piece in (flat[k : k + 16].float(),)
    ]
    scores, greedy = (torch.cat(column).view(labels.shape) for column in zip(*parts, strict=True))
    return scores, greedy
