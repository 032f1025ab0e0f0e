"""How often a vLLM engine went on: for whoever shows progress.

Invariant: it looks on; backend and engine do what they did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stepping(backend: Any, told: Callable[[], None]) -> Iterator[None]:
    """Call `told` after each step of the engines of the class `backend` (`VLLMBackend`), which start on first use."""
    start = backend._start

    def started(self: Any, rank: int) -> Any:
        engine = start(self, rank)
        if "step" not in vars(engine):
            step = engine.step

            def counted() -> Any:
                found = step()
                told()
                return found

            engine.step = counted
        return engine

    backend._start = started
    try:
        yield
    finally:
        backend._start = start
