"""What a method changes: the words, the choice of tokens, the states or the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SURFACES = {
    "prompt": "words before or around the question",
    "decoding": "how the next token, or one of several answers, is chosen",
    "activations": "the states that the model computes, embeddings included",
    "weights": "the model's parameters",
    "combination": "two at once",
    "control": "what any of them must beat",
    "detector": "tells texts apart, does not steer",
}
"""What a method changes, which is what it asks of whoever serves the model."""
PROMPTED = frozenset({"prompt", "decoding"})
"""Surfaces of the side that prompts: the model itself is as it was."""
STEERED = frozenset({"activations", "weights"})
"""Surfaces of the side that steers: it reaches into the model. A combination has something of both."""

_ONCE = {"prompting": "prompt", "direction": "activations", "trained": "activations"}
_ELSEWHERE = dict.fromkeys(
    ("antipasto", "circuit-breaker", "dora", "lora", "lorra", "pissa", "sft", "ssvd", "svft"), "weights"
) | {"prompt-best-of-n": "decoding"}


def surface_of(record: Mapping[str, Any], method: str) -> str:
    """The surface of a run. Records of 0.1.0 have a `family`, which said how a method was found besides what it
    changes: the two do not map one to one."""
    if "surface" in record:
        return str(record["surface"])
    once = str(record["family"])
    return _ELSEWHERE.get(method, _ONCE.get(once, once)) if once in _ONCE else once
