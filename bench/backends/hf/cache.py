"""Keys and values of an answer being written, in memory that is there from the start.

transformers' own cache makes a longer copy of all keys and values at each token. What the rows of several batches begin
with alike is read once.

Invariant: what attention sees is the same numbers in the same order; layers with a window or a state of their own
keep transformers' cache; an entry is changed after the pass that made it, so that its own token never saw the change.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from bench.backends import devices
from bench.backends.hf.hooks import Applied
from bench.backends.hf.modules import Enough, blocks
from bench.core.edits import KEPT
from bench.core.errors import BenchError


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


def cache(model: Any, room: int, prefix: Prefix = (), rows: int = 1, shown: bool = False) -> dict[str, Any]:
    """What to hand to `generate` of a model for `rows` texts of at most `room` tokens that begin with `front`;
    nothing where it has its own way, or would make the same itself and is not asked to show it (`shown`)."""
    takes = "past_key_values" in inspect.signature(model.forward).parameters  # the first GPT has none
    if not takes or not model._supports_default_dynamic_cache():
        return {}
    found = DynamicCache(config=model.config)
    plain = [type(layer) is DynamicLayer for layer in found.layers]
    found.layers = [Roomy(room) if own else layer for own, layer in zip(plain, found.layers, strict=True)]
    for layer, states in zip(found.layers, prefix, strict=False):
        cast(Roomy, layer).update(*(state.expand(rows, -1, -1, -1) for state in states))
    return {"past_key_values": found} if shown or any(plain) else {}


def read(model: Any, ids: Sequence[int]) -> Prefix:
    """The keys and values of `ids`, for rows that begin with them; nothing where the model keeps something else."""
    found = cache(model, len(ids))
    layers = found["past_key_values"].layers if found else []
    if not layers or any(type(layer) is not Roomy for layer in layers):
        return ()
    model(torch.tensor([list(ids)], device=devices.of(model)), use_cache=True, logits_to_keep=1, **found)
    return [(layer.keys, layer.values) for layer in layers]


def kept_layers(model: Any, applied: Applied, keep: Mapping[str, Any]) -> Sequence[Any]:
    """The layers of the cache `keep`, those that `applied` changes among them.

    Raises BenchError where a model, or a block that is to be changed, keeps no keys and values.
    """
    layers: Sequence[Any] = keep["past_key_values"].layers if keep else []
    _check(model, layers, {edit.layer for s in applied.steerings for edit in s.edits if edit.site in KEPT})
    return layers


def begin(model: Any, applied: Applied, inputs: Mapping[str, Tensor], keep: Mapping[str, Any]) -> None:
    """Read a batch of prompts without their last tokens into the cache `keep`, and change there what `applied` says."""
    layers = kept_layers(model, applied, keep)
    model(**inputs, use_cache=True, logits_to_keep=1, **keep)
    applied.change_kept(layers)
    applied.before = 1


def changing(model: Any, applied: Applied, keep: Mapping[str, Any], width: int) -> Callable[[Tensor, Tensor], Tensor]:
    """A logits processor that changes what is kept of prompts of `width` tokens once they are read."""
    layers = kept_layers(model, applied, keep)

    def change(ids: Tensor, logits: Tensor) -> Tensor:
        if ids.shape[1] == width:
            applied.change_kept(layers)
        return logits

    return change


def kept(model: Any, layers: Sequence[int], site: str, **inputs: Tensor) -> dict[int, Tensor]:
    """What attention keeps of each token in the blocks `layers`: its `keys` or `values` of all groups in turn, `[B, T,
    G * d]`; nothing above the deepest is computed."""
    made = cache(model, inputs["input_ids"].shape[1], shown=True)
    _check(model, made["past_key_values"].layers if made else [], layers)
    found = made["past_key_values"]
    if any(layer.is_sliding for layer in found.layers):
        found = DynamicCache()  # one without windows, which would keep the last tokens alone

    def enough(*_: Any) -> None:
        raise Enough

    handle = blocks(model)[max(layers)].register_forward_hook(enough)
    try:
        with suppress(Enough):
            model(**inputs, use_cache=True, logits_to_keep=1, past_key_values=found)
    finally:
        handle.remove()
    return {layer: getattr(found.layers[layer], site).transpose(1, 2).flatten(2) for layer in layers}


def _check(model: Any, layers: Sequence[Any], wanted: Collection[int]) -> None:
    """Raise where one of the blocks `wanted` has no layer of keys and values of its own."""
    for layer in sorted(wanted):
        if not (layer < len(layers) and isinstance(layers[layer], DynamicLayer)):
            raise BenchError(f"{type(model).__name__}: block {layer} keeps no keys and values of its own")
