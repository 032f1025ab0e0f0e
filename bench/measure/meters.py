"""Two meters: tokens that pass through a model in this process, and the most memory a call takes.

Invariant: what cannot be metered is None, never zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def tokens_through(lm: Any) -> Iterator[Callable[[], int | None]]:
    """Counts the tokens that pass through an engine's model, padding left out; None where it has none here."""
    model = getattr(lm, "model", None)
    if model is None or not hasattr(model, "register_forward_pre_hook"):
        yield lambda: None
        return
    total = 0

    def add(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal total
        ids: Any = kwargs.get("input_ids", args[0] if args else kwargs.get("inputs_embeds"))
        mask = kwargs.get("attention_mask")
        if mask is None or mask.ndim != 2:
            total += ids.shape[0] * ids.shape[1]
        else:  # it covers what is cached as well: the last columns are the tokens read now
            total += int(mask[:, -ids.shape[1] :].sum())

    handle = model.register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield lambda: total
    finally:
        handle.remove()


def peak(call: Callable[[], Any]) -> int | None:
    """Largest memory in bytes during `call`: of the accelerator, else of the process (None if it cannot reset).

    A process's high-water mark never falls by itself; Linux resets it on request.
    """
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        call()
        return int(torch.cuda.max_memory_allocated())
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    call()
    # Not getrusage's: that remembers the mark at which a thread ended, and is never reset.
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
