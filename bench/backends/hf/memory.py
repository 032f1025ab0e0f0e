"""How much a device takes in one pass, learnt from the passes that it did not take.

Invariant: a smaller pass changes speed alone, so that what is remembered here is part of no key.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.core.store import write_json


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
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.file is not None:
            write_json(self.file, {"tokens": self.tokens})
