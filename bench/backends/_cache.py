"""Keys and values of an answer being written, in memory that is there from the start.

transformers' own cache makes a longer copy of all keys and values at each token.

Invariant: what attention sees is the same numbers in the same order; layers with a window or a state of their own
keep transformers' cache.
"""

from __future__ import annotations

from typing import Any

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


def cache(model: Any, room: int) -> dict[str, Any]:
    """What to hand to `generate` of a model for texts of at most `room` tokens; nothing where it has its own way."""
    if not model._supports_default_dynamic_cache():
        return {}
    found = DynamicCache(config=model.config)
    plain = [type(layer) is DynamicLayer for layer in found.layers]
    found.layers = [Roomy(room) if own else layer for own, layer in zip(plain, found.layers, strict=True)]
    return {"past_key_values": found} if any(plain) else {}
