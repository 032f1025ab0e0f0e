"""What a hosted model's tokens cost, and a purse that is never overdrawn.

Invariant: a request is set aside for at the most it can cost before it is sent, so what was paid, what may
have been billed and what is under way never exceed the limit together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any


@dataclass(frozen=True)
class Price:
    """Dollars per million tokens: read, written, and read from the server's prompt cache."""

    read: float
    write: float
    cached: float
    as_of: str = ""
    """When a listed price was looked up; empty for one that the user gave."""

    def of(self, read: int, written: int, cached: int = 0) -> float:
        """Dollars for `read` tokens, `cached` of them among these, and `written` ones."""
        return ((read - cached) * self.read + cached * self.cached + written * self.write) / 1e6

    def halved(self) -> Price:
        """The price through the Batch API."""
        return Price(self.read / 2, self.write / 2, self.cached / 2, self.as_of)


PRICES = {
    "gpt-4o": Price(2.5, 10.0, 1.25, "2026-06-20"),
    "gpt-4o-mini": Price(0.15, 0.6, 0.075, "2026-06-20"),
    "gpt-4.1": Price(2.0, 8.0, 0.5, "2026-06-21"),
    "gpt-4.1-mini": Price(0.4, 1.6, 0.1, "2026-06-21"),
    "gpt-4.1-nano": Price(0.1, 0.4, 0.025, "2026-06-21"),
    "gpt-5.4-mini": Price(0.75, 4.5, 0.075, "2026-05-04"),
    "gpt-5.4-nano": Price(0.2, 1.25, 0.02, "2026-05-04"),
}
"""Standard list prices. Prices move: `-p openai.price=IN,OUT` takes their place."""


def price_of(model: str, given: Sequence[float] = ()) -> Price | None:
    """The price `given` as (in, out), else the listed one of `model` or of the model it is a dated version of.

    Raises ValueError where `given` is not two amounts.
    """
    if given:
        if len(given) != 2 or min(given) < 0:
            raise ValueError("price takes two amounts, dollars per million tokens read and written, as in 0.15,0.6")
        return Price(given[0], given[1], given[0])
    return PRICES.get(re.sub(r"-\d{4}-\d\d-\d\d$", "", model))


@dataclass
class SpendingLimit:
    """Dollars that several models may spend together; `limit` 0 is no limit. Safe between threads."""

    limit: float = 0.0
    gone: float = 0.0
    """Paid, or perhaps billed: a request whose answer never came may have been."""
    held: float = 0.0
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    def hold(self, most: float) -> bool:
        """Set `most` aside for one request; False where the limit could be exceeded by it."""
        with self._lock:
            if self.limit and self.gone + self.held + most > self.limit:
                return False
            self.held += most
            return True

    def settle(self, most: float, paid: float) -> None:
        """Pay for a request that `most` was held for."""
        with self._lock:
            self.held -= most
            self.gone += paid


COUNTS = ("answers", "failed_tries", "prompt_tokens", "cached_tokens", "tokens", "seconds", "dollars", "dollars_unsure")


@dataclass
class Usage:
    """What asking one model has taken. Safe between threads."""

    counts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    served: set[str] = field(default_factory=set)
    """Model names the server answered with."""
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    def add(self, **more: float) -> None:
        with self._lock:
            for name, value in more.items():
                self.counts[name] += value

    def plain(self, price: Price | None) -> dict[str, Any]:
        """As JSON; money is None where no price is known, nothing at all where nothing was asked."""
        if not any(self.counts.values()):
            return {}
        found: dict[str, Any] = {name: round(value, 6) for name, value in self.counts.items()}
        if price is None:
            found |= {"dollars": None, "dollars_unsure": None}
        else:
            found["price"] = {"read": price.read, "write": price.write, "cached": price.cached, "as_of": price.as_of}
        return found | {"served": sorted(self.served)}


def total(usages: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The sum of several `Usage.plain`: amounts added (None where one is not known), names united."""
    rows = [row for row in usages if row]
    if not rows:
        return {}
    found: dict[str, Any] = {}
    for name in COUNTS:
        values = [row[name] for row in rows]
        found[name] = None if None in values else round(sum(values), 6)
    return found | {"served": sorted({name for row in rows for name in row["served"]})}
