"""What a hosted model's tokens cost, a purse that is never overdrawn, and the record of what went.

Invariant: a request is set aside for at the most it can cost before it is sent, so what was paid, what may
have been billed and what is under way never exceed the limit together, and a process that is killed has put all
three down.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Condition, Lock
from typing import Any, Protocol


@dataclass(frozen=True)
class Taken:
    """Tokens that a request took: `read`, of which `cached` from the server's prompt cache, and `written`."""

    read: int
    written: int
    cached: int = 0


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
        if len(given) != 2 or not all(math.isfinite(amount) and amount >= 0 for amount in given):
            raise ValueError("price takes two amounts, dollars per million tokens read and written, as in 0.15,0.6")
        return Price(given[0], given[1], given[0])
    return PRICES.get(re.sub(r"-\d{4}-\d\d-\d\d$", "", model))


@dataclass
class SpendingLimit:
    """Dollars that several models may spend together; `limit` 0 is no limit. Safe between threads.

    Raises ValueError for a limit that is none: below 0, infinite, not a number.
    """

    limit: float = 0.0
    gone: float = 0.0
    """Paid, or perhaps billed: a request whose answer never came may have been."""
    held: float = 0.0
    _under_way: int = field(default=0, init=False, repr=False)
    _settled: Condition = field(default_factory=Condition, init=False, repr=False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.limit) and self.limit >= 0):
            raise ValueError(f"a limit of ${self.limit:g} is none: give dollars, 0 or more")

    def hold(self, most: float, waits: Callable[[], bool] = lambda: False) -> bool:
        """Set `most` aside for one request; False where the limit could be exceeded by it.

        Where it would fit beside what is gone, and only what is under way stands against it, this waits as long as
        `waits` says so: most requests cost less than they could.
        """
        with self._settled:
            while self.limit and self.gone + self.held + most > self.limit:
                if self.gone + most > self.limit or not self._under_way or not waits():
                    return False
                self._settled.wait(0.1)
            self.held += most
            self._under_way += 1
            return True

    def settle(self, most: float, paid: float) -> None:
        """Pay for a request that `most` was held for."""
        with self._settled:
            self._under_way -= 1
            self.held = self.held - most if self._under_way else 0.0  # sums of floats leave crumbs
            self.gone += paid
            self._settled.notify_all()

    def pay(self, paid: float) -> None:
        """Pay for what nothing was held for: a request that an earlier process sent."""
        with self._settled:
            self.gone += paid


COUNTS = ("answers", "failed_tries", "prompt_tokens", "cached_tokens", "tokens", "seconds", "dollars", "dollars_unsure")


@dataclass
class Usage:
    """What asking one model has taken. Safe between threads."""

    counts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    served: set[str] = field(default_factory=set)
    """Model names the server answered with."""
    left_out: set[str] = field(default_factory=set)
    """Fields that the server refuses, so that it was asked without them."""
    note: Callable[[Usage], None] | None = None
    """Is told of every change that concerns money, so that it is on the disk before more is asked."""
    _under_way: list[float] = field(default_factory=list, init=False, repr=False)
    """What each request that was sent and not settled may cost."""
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    def add(self, **more: float) -> None:
        with self._lock:
            for name, value in more.items():
                self.counts[name] += value

    def begin(self, most: float) -> None:
        """A request is about to be sent that may cost `most`: until it is settled it may have been billed."""
        with self._lock:
            self._under_way.append(most)
            if self.note and most:
                self.note(self)

    def end(self, most: float, **more: float) -> None:
        """A request that had begun is settled, and took `more`."""
        with self._lock:
            self._under_way.remove(most)
            for name, value in more.items():
                self.counts[name] += value
            if self.note and (most or more):
                self.note(self)

    def plain(self, price: Price | None) -> dict[str, Any]:
        """As JSON; money is None where no price is known, nothing at all where nothing was asked."""
        if not any(self.counts.values()) and not any(self._under_way):
            return {}
        found: dict[str, Any] = {name: round(value, 6) for name, value in self.counts.items()}
        found["dollars_unsure"] = round(self.counts["dollars_unsure"] + math.fsum(self._under_way), 6)
        if self.left_out:
            found["left_out"] = sorted(self.left_out)
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
    if left_out := {name for row in rows for name in row.get("left_out", ())}:
        found["left_out"] = sorted(left_out)
    return found | {"served": sorted({name for row in rows for name in row["served"]})}


class Ledger:
    """What this process and those before it have spent on one model, in `rows`: a row a process, its last word."""

    def __init__(self, rows: Book) -> None:
        self.rows, self.own = rows, f"{time.time_ns()}-{os.getpid()}"

    def put(self, spent: Mapping[str, Any]) -> None:
        if spent:
            self.rows.put(self.own, dict(spent))

    def ever(self) -> dict[str, Any]:
        """The sum over all processes."""
        return total(self.rows.values())


class Book(Protocol):
    """Where a ledger is kept (`bench.core.rows.Rows`)."""

    def put(self, key: str, row: Any) -> None: ...
    def values(self) -> list[Any]: ...
