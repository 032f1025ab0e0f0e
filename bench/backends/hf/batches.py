"""Rows of token ids as the batches of a pass.

Invariant: which rows share a batch changes speed alone: padding stands before a row's own tokens and is masked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batches:
    """At most `rows` rows and about `tokens` tokens at a time, padded with the id `fill`."""

    rows: int
    tokens: int
    fill: int
    device: torch.device

    def split(
        self, lengths: Sequence[int], rows: int | None = None, weights: Sequence[int] | None = None
    ) -> Iterator[list[int]]:
        """Indices in groups of similar length, each row counting its weight."""
        batch: list[int] = []
        spent = 0
        for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
            weight = weights[i] if weights else 1
            if batch and (spent + weight > (rows or self.rows) or (len(batch) + 1) * lengths[batch[0]] > self.tokens):
                yield batch
                batch, spent = [], 0
            batch.append(i)
            spent += weight
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
