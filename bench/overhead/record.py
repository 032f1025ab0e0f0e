"""One measured record of what a steering costs, and the ratios in it.

Invariant: a record holds every measured second, so that its medians can be taken again; a ratio is always to the
unsteered run of the same requests, interleaved with the steered one.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.core.errors import BenchError
from bench.core.settings import known
from bench.overhead.config import architecture
from bench.overhead.exact import Architecture, Extra, bytes_percent, flops_percent, kv_percent, request_percent


@dataclass(frozen=True)
class Spread:
    """Median of repeats, and the distance between their quartiles."""

    median: float
    spread: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if len(values) < 2:
            raise BenchError("a spread needs at least two repeats")
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(round(statistics.median(values), 5), round(high - low, 5), len(values))

    def distinguishable(self, floor: float = 0.0) -> bool:
        """Whether a ratio lies further from 1 than its repeats lie apart, and than `floor`."""
        return abs(self.median - 1) > max(self.spread, floor)

    def text(self, floor: float = 0.0) -> str:
        """As a change in percent, or that it cannot be told from none."""
        percent = f"{100 * (self.median - 1):+.1f} ± {100 * self.spread / 2:.1f} %"
        return percent if self.distinguishable(floor) else f"not distinguishable ({percent})"


@dataclass(frozen=True)
class Overhead:
    """One loaded record."""

    data: Mapping[str, Any]

    @property
    def arch(self) -> Architecture:
        return architecture(self.data["config"], self.data["model"])

    @property
    def extra(self) -> Extra:
        return known(Extra, self.data["exact"]["extra"])

    @property
    def samples_per_prompt(self) -> int:
        """Answers written for each question."""
        return int(self.data["exact"]["draws"])

    def _drawn(self, percent: float) -> float:
        return self.samples_per_prompt * (100 + percent) - 100

    def flops(self, context: int) -> float:
        """FLOPs per decoded token above the bare model's at `context`, in percent."""
        return self._drawn(flops_percent(self.arch, self.extra, context))

    def bytes(self, context: int) -> float:
        return self._drawn(bytes_percent(self.arch, self.extra, context))

    def kv(self, context: int) -> float:
        return kv_percent(self.arch, self.extra, context)

    def request(self, own: int, reply: int, cached: bool = False) -> float:
        """FLOPs of a whole request above the bare model's, in percent."""
        return self._drawn(request_percent(self.arch, self.extra, own, reply, cached))

    def ratio(self, name: str) -> Spread | None:
        """A measured ratio to the unsteered run: `time`, `first_token_cold`, `first_token_warm`, `memory`."""
        found = self.data["measured"].get(name)
        return known(Spread, found) if found else None
