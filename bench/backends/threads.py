"""How many threads this process computes with: one for each core that other programs leave free.

The threads of a product wait for the last of them, so that one whose core a neighbour has taken holds up all.

Invariant: threads change speed alone, so that they are part of no key.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench.core.machine import cores

STAT = Path("/proc/stat")
"""Where Linux says what each core has done since the machine began."""
LEAST = 0.5
"""Seconds over which neighbours can be told from a moment's work."""


@dataclass(frozen=True)
class Clock:
    """Seconds, since some beginning, of: the wall, this process on any core, all programs on the cores it may use."""

    wall: float
    own: float
    all: float | None

    @classmethod
    def now(cls, stat: Path = STAT) -> Clock:
        spent = os.times()
        own = spent.user + spent.system + spent.children_user + spent.children_system
        return cls(time.monotonic(), own, busy(stat, cores()))

    def neighbours(self, later: Clock) -> float:
        """Cores that other programs kept busy between the two; 0 where the machine does not say, or in too short a
        time."""
        passed = later.wall - self.wall
        if self.all is None or later.all is None or passed < LEAST:
            return 0.0
        return max(0.0, (later.all - self.all - (later.own - self.own)) / passed)


def busy(stat: Path, which: Sequence[int]) -> float | None:
    """Seconds that the cores `which` have worked, by Linux's table; None where there is none."""
    try:
        lines = stat.read_text().splitlines()
        ticks = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None
    names = {f"cpu{core}" for core in which}
    found = [line.split() for line in lines if line.partition(" ")[0] in names]
    # user, nice, system, idle, iowait, irq, softirq, steal; guests are in user and nice already
    return sum(int(n) for row in found for k, n in enumerate(row[1:9]) if k not in (3, 4)) / ticks if found else None


BEGUN = Clock.now()
"""When this module was loaded: the first thing that `bench` does."""


def free(most: int, count: int, others: float) -> int:
    """Threads, `most` at most, of a process that has `count` cores, of which others keep `others` busy."""
    return max(1, min(most, round(count - others)))


@cache
def chosen() -> tuple[int, str]:
    """How many threads, and why, in words; decided once. `$OMP_NUM_THREADS` overrules it."""
    import torch

    most, count = torch.get_num_threads(), len(cores())
    if os.environ.get("OMP_NUM_THREADS"):
        return most, f"threads: {most}, as OMP_NUM_THREADS says"
    others = BEGUN.neighbours(Clock.now())
    number = free(most, count, others)
    kept = f"; other programs keep {others:.1f} busy" if number < most else ""
    return number, f"threads: {number} on {count} cores{kept}"


def use() -> None:
    """Compute with so many from here on."""
    import torch

    if torch.get_num_threads() != chosen()[0]:
        torch.set_num_threads(chosen()[0])
