"""What hosted models were paid for a run, beside its judge: the one under test, and the one that writes prompts.

Invariant: what went is on the disk before more is asked (`bench.core.money`), so that no process forgets it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.backends.hosted.backend import OpenAIBackend
from bench.core.content import digest
from bench.core.money import Ledger
from bench.core.rows import Rows


class Account:
    """What one hosted model took, in this process and before, kept below `root`."""

    def __init__(self, engine: OpenAIBackend, root: Path, *name: str) -> None:
        self.engine, self.rows = engine, Rows(root / "rows" / "spending" / digest(*name))
        self.ledger = Ledger(self.rows)
        engine.usage.note = lambda usage: self.ledger.put(usage.plain(engine.price))

    def spent(self) -> dict[str, Any]:
        """`now`, and `ever` over all processes; empty where nothing was ever asked."""
        now = self.engine.usage.plain(self.engine.price)
        self.ledger.put(now)
        ever = self.ledger.ever()
        return {"now": now, "ever": ever} if ever else {}
