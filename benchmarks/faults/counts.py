"""What one kind of fault came to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Count:
    """One line of docs/reliability.md."""

    what: str
    """What was done, to what: "`kill -9` of `bench run` while it trains"."""
    tried: int
    wrong: int
    """Trials after which something was lost, made twice, invented or believed, or that ended in a traceback."""
    note: str = ""
    """What counts as wrong here, and what was seen besides: in one line."""
