"""Keys and values of an answer being written, in memory that is there from the start.

transformers' own cache makes a longer copy of all keys and values at each token. What the rows of several batches begin
with alike is read once.

Invariant: what attention sees is the same numbers in the same order; layers with a window or a state of their own
keep transformers' cache.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class Roomy(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer's keys and values `[B, groups, T, D]`: views of what is filled of memory for `room` tokens."""

    def __init__(self, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.room = room

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.whole = tuple(
                new.new_empty(*new.shape[:2], self.room, new.shape[3]) for new in (key_states, value_states)
            )
        begin = self.get_seq_length()
        end = begin + key_states.shape[2]
        for whole, new in zip(self.whole, (key_states, value_states), strict=True):
            whole[:, :, begin:end] = new
        self.keys, self.values = (whole[:, :, :end] for whole in self.whole)
        return self.keys, self.values


Prefix = Sequence[tuple[Tensor, Tensor]]
"""Each layer's keys and values `[1, groups, P, D]` of what all rows of a batch begin with."""


def cache(model: Any, room: int, prefix: Prefix = (), rows: int = 1) -> dict[str, Any]:
    """What to hand to `generate` of a model for `rows` texts of at most `room` tokens that begin with `front`;
    nothing where it has its own way."""
    takes = "past_key_values" in inspect.signature(model.forward).parameters  # the first GPT has none
    if not takes or not model._supports_default_dynamic_cache():
        return {}
    found = DynamicCache(config=model.config)
    plain = [type(layer) is DynamicLayer for layer in found.layers]
    found.layers = [Roomy(room) if own else layer for own, layer in zip(plain, found.layers, strict=True)]
    for layer, states in zip(found.layers, prefix, strict=False):
        cast(Roomy, layer).update(*(state.expand(rows, -1, -1, -1) for state in states))
    return {"past_key_values": found} if any(plain) else {}


def read(model: Any, ids: Sequence[int]) -> Prefix:
    """The keys and values of `ids`, for rows that begin with them; nothing where the model keeps something else."""
    found = cache(model, len(ids))
    layers = found["past_key_values"].layers if found else []
    if not layers or any(type(layer) is not Roomy for layer in layers):
        return ()
    model(torch.tensor([list(ids)], device=model.device), use_cache=True, logits_to_keep=1, **found)
    return [(layer.keys, layer.values) for layer in layers]
