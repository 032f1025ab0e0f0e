"""How much a device takes in one pass, learnt from the passes that it did not take.

Invariant: a smaller pass changes speed alone, so that what is remembered here is part of no key.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.backends import devices
from bench.core import machine
from bench.core.store import write_json

SHARE = 8
"""One in so many bytes of a device's memory may hold the answers that are being written, and one their masks."""
PAIR = 8
"""Bytes that a pair of tokens takes where a mask is made, as truth and as numbers."""
MOST = 2**16, 2**26
"""Tokens and pairs of a pass from which more of them make no product faster, and memory slower."""


def room(model: Any) -> tuple[int, int]:
    """Tokens of answers that the device of a model surely has memory for: their keys and values in every layer, and in
    one layer what a pass makes of them; and pairs of tokens in the masks of its attention."""
    config = model.config.get_text_config()

    def most(name: str) -> int:
        found = getattr(config, name, None) or 0  # some families give one number for each layer
        return max(found, default=0) if isinstance(found, list | tuple) else int(found)

    width, heads = most("hidden_size"), most("num_attention_heads")
    groups, inner = most("num_key_value_heads") or heads, most("intermediate_size") or 4 * width
    each = most("head_dim") or (width // heads if heads else 0)
    kept = 2 * most("num_hidden_layers") * groups * each * model.dtype.itemsize
    passing = 4 * (8 * width + 3 * inner)  # in fp32 at the most
    if (device := devices.of(model)).type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    else:
        memory = machine.memory()
    part = memory // SHARE
    told = PAIR * (heads if config._attn_implementation == "eager" else 1)  # eager code weighs all pairs in every head
    return min(int(part // (kept + passing)), MOST[0]), min(int(part // told), MOST[1])


def exhausted(error: BaseException) -> bool:
    """Whether an error says that memory, on a processor or a GPU, did not suffice."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        words in said for words in ("out of memory", "can't allocate memory", "cannot allocate memory", "alloc_failed")
    )


@dataclass
class Memory:
    """Tokens, padding among them, that fit in one pass of a model; kept in `file`, where there is one."""

    file: Path | None = None
    tokens: int | None = None
    """Below what once failed; None: nothing did."""

    @classmethod
    def of(cls, file: Path) -> Memory:
        """What is remembered in `file`."""
        try:
            found: Any = json.loads(file.read_text("utf-8"))["tokens"]
        except (OSError, ValueError, KeyError, TypeError):
            found = None
        return cls(file, found if isinstance(found, int) and found > 0 else None)

    def lacks(self, tokens: int) -> bool:
        """Whether a pass of so many tokens is known to be too much."""
        return self.tokens is not None and tokens > self.tokens

    def failed(self, tokens: int) -> None:
        """Remember that a pass of so many tokens was too much."""
        self.tokens = max(1, tokens // 2)
        devices.emptied()
        if self.file is not None:
            write_json(self.file, {"tokens": self.tokens})
