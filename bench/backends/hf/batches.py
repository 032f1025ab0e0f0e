"""Rows of token ids as the batches of a pass, no larger than memory takes.

Invariant: which rows share a batch changes speed alone: padding stands before a row's own tokens and is masked.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from bench.backends.hf.memory import Memory, exhausted
from bench.core.errors import BenchError

T = TypeVar("T")


@dataclass(frozen=True)
class Batches:
    """At most `rows` rows and about `tokens` tokens at a time, padded with the id `fill`."""

    rows: int
    tokens: int
    fill: int
    device: torch.device
    memory: Memory = field(default_factory=Memory)
    seen: float = math.inf
    """Pairs of tokens of which attention is told who sees whom, at a time: rows times their length squared."""

    def each(
        self,
        lengths: Sequence[int],
        work: Callable[[list[int]], Iterable[T]],
        rows: int | None = None,
        weights: Sequence[int] | None = None,
        padded: float = math.inf,
        streams: Sequence[int] | None = None,
    ) -> Iterator[T]:
        """What `work` gives for each batch of `split`. One that memory does not take is done in halves, as are all
        later ones of its size; raises BenchError where a single row is too much."""
        for batch in self.split(lengths, rows, weights, padded, streams):
            parts = [batch]
            while parts:
                part = parts.pop()
                size = (sum(streams[i] for i in part) if streams else len(part)) * lengths[part[0]]
                if len(part) > 1 and self.memory.lacks(size):
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
                    continue
                found: list[T] | None = None
                try:
                    found = list(work(part))
                except Exception as error:
                    if not exhausted(error):
                        raise
                    if len(part) == 1:
                        raise BenchError(f"{self.device.type}: no memory for one row of {size:,} tokens") from error
                if found is None:  # outside the handler: its traceback holds the pass's tensors
                    gc.collect()
                    self.memory.failed(size)
                    parts.append(part)
                else:
                    yield from found

    def split(
        self,
        lengths: Sequence[int],
        rows: int | None = None,
        weights: Sequence[int] | None = None,
        padded: float = math.inf,
        streams: Sequence[int] | None = None,
    ) -> Iterator[list[int]]:
        """Indices in groups of similar length, each counting its weight (1) and, in tokens, its `streams` (1): rows as
        long as that one that stay together. Padding makes a group at most `padded` as long as its rows are."""
        batch: list[int] = []
        spent = held = real = 0
        for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
            each = streams[i] if streams else 1
            weight = weights[i] if weights else each
            if batch:
                size = (held + each) * lengths[batch[0]]
                many = spent + weight > (rows or self.rows) or size * lengths[batch[0]] > self.seen
                if many or size > self.tokens or size > padded * (real + each * lengths[i]):
                    yield batch
                    batch, spent, held, real = [], 0, 0, 0
            batch.append(i)
            spent += weight
            held += each
            real += each * lengths[i]
        if batch:
            yield batch

    def pad(self, rows: Sequence[Sequence[int]], prefix: int = 0) -> tuple[dict[str, Tensor], list[int]]:
        """`input_ids`, `attention_mask`, `position_ids`, padded on the left of all but the first `front` tokens, and
        the padding of each row."""
        width = max(map(len, rows))
        pads = [width - len(row) for row in rows]
        ids = [[*row[:prefix], *[self.fill] * pad, *row[prefix:]] for pad, row in zip(pads, rows, strict=True)]
        index = torch.arange(width)[None] - torch.tensor(pads)[:, None]
        index = torch.where(torch.arange(width) < prefix, torch.arange(width), index.masked_fill(index < prefix, -1))
        inputs = {
            "input_ids": torch.tensor(ids),
            "attention_mask": (index >= 0).long(),
            "position_ids": index.clamp(min=0),
        }
        return {name: value.to(self.device) for name, value in inputs.items()}, pads

    def pad_right(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, list[int]]:
        """Ids padded on the right, where a causal model cannot see it and needs no mask, and the rows' lengths."""
        lengths = list(map(len, rows))
        width = max(lengths)
        ids = [[*row, *[self.fill] * (width - n)] for row, n in zip(rows, lengths, strict=True)]
        return torch.tensor(ids, device=self.device), lengths
