"""Rows that a model reads as the embeddings of tokens: a prompt that no words say.

Invariant: they are tokens of the prompt as any other is, which positions, spans and costs count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.core.content import Array, stored
from bench.core.edits import Work, finite, tensors_of

if TYPE_CHECKING:
    from torch import Tensor


@stored
@dataclass(frozen=True, eq=False)
class Embeds:
    """`values` `[n, H]`, each in the place of a token's embedding as the model's own embedding module gives it.

    They stand after what every chat begins with (`Backend.header`) and before a row's own words. They have no strength:
    at any coefficient but 0 they are there.
    """

    values: Array

    def __post_init__(self) -> None:
        if self.values.ndim != 2:
            raise ValueError(f"Embeds.values {self.values.shape} must be [n, H]")
        finite("Embeds.values", self.values)

    @staticmethod
    def put(embedded: Tensor, values: Tensor, place: Tensor) -> Tensor:
        """Embeddings `[B, T, H]` with row i of a row's `values` `[B, n, H]` where `place` `[B, T]` is i."""
        import torch

        there = (place >= 0) & (place < values.shape[1])
        at = place.clamp(0, values.shape[1] - 1)[..., None].expand(-1, -1, values.shape[2])
        return torch.where(there[..., None], values.gather(1, at).to(embedded.dtype), embedded)

    def tensors(self) -> dict[str, Array]:
        return tensors_of(self)

    def work(self) -> Work:
        """Nothing beside what a prompt of as many tokens costs, and the rows that are kept."""
        return Work(0, self.values.size, 0)
