"""Several requests at once to a server that may fail: waiting, trying again, and knowing when to stop.

Invariant: every request ends as an answer, as a `Failure` with its reason, or unasked because all asking
ended; nothing is sent after that, and what was under way by then is taken in.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Generic, TypeVar

from bench.core.errors import StopRun

T = TypeVar("T")
FIRST, LONGEST = 0.5, 8.0
"""Seconds of the first wait and of the longest; each wait doubles, less up to half of it at random."""
PATIENCE = 120.0
"""Seconds of waiting that a server may ask for."""
STREAK = 8
"""Requests given up one after the other, with no answer between, after which the server counts as down."""


class TransientError(Exception):
    """A fault that may be gone at the next try; `wait` is what the server asks for, in seconds."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class Ended(Exception):
    """All asking ended while this request waited to be sent."""


class PermanentError(Exception):
    """The server will never answer this one request, and may well answer others."""


@dataclass(frozen=True)
class Failure:
    """A request without an answer. `transient`: to ask again later may give one."""

    reason: str
    transient: bool = True


class RequestPool(Generic[T]):
    """`workers` requests to one server under way at once, each tried `retries` + 1 times at most.

    Own retries in place of the client's: these also mend an answer that came torn, end at once when all
    asking ends, and share one count of failures.
    """

    def __init__(self, workers: int, retries: int) -> None:
        self.workers, self.retries = workers, retries
        self.halted: BaseException | None = None
        self.over = Event()
        """Set where nothing more is to be sent: what waits for money looks at it."""
        self.streak = 0

    def all(self, call: Callable[[int], T], total: int) -> Iterator[tuple[int, T | Failure]]:
        """`call(i)` for each i below `total`, as (i, answer or failure), each as soon as it is there.

        `call` raises `TransientError`, `PermanentError`, `Ended` where asking ended before it was sent, or any other
        error, which ends all asking: now, after what is under way, and in every later call. Raises it then, or StopRun
        where the server is down.
        """
        done: SimpleQueue[tuple[int, T | Failure] | BaseException | None] = SimpleQueue()
        waiting, lock = iter(range(total)), Lock()
        stop = self.over = Event()

        def work() -> None:
            try:
                while not stop.is_set():
                    with lock:
                        i = next(waiting, None)
                    if i is None:
                        break
                    found = self._one(call, i, stop)
                    if found is not None:
                        done.put((i, found))
            except BaseException as error:
                stop.set()
                done.put(error)
            finally:
                done.put(None)

        live = 0
        try:
            if self.halted is None:
                live = min(self.workers, total)
                # Daemons: Ctrl-C must not wait for a socket that hangs.
                for _ in range(live):
                    Thread(target=work, daemon=True).start()
            while live:
                got = done.get()
                if got is None:
                    live -= 1
                elif isinstance(got, BaseException):
                    self.halted = self.halted or got
                else:
                    self._heed(got[1])
                    if self.halted is not None:
                        stop.set()
                    yield got
        finally:  # also where the reader stops: what waits is neither asked nor paid for
            stop.set()
        if self.halted is not None:
            raise self.halted

    def _one(self, call: Callable[[int], T], i: int, stop: Event) -> T | Failure | None:
        """One request with its retries; None where all asking ended while it waited for another try."""
        for tries in count(1):
            try:
                return call(i)
            except Ended:
                return None
            except PermanentError as error:
                return Failure(str(error), transient=False)
            except TransientError as error:
                if tries > self.retries:
                    return Failure(f"{error} (tried {tries} times)" if tries > 1 else str(error))
                if error.wait is not None and error.wait > PATIENCE:
                    return Failure(f"{error} (it asks to wait {error.wait:.0f} s)")
                if stop.wait(pause(tries, error.wait)):
                    return None
        raise AssertionError("unreachable")

    def _heed(self, found: T | Failure) -> None:
        """Count failures that follow each other: a server that is down is not asked ten thousand times."""
        failed = isinstance(found, Failure) and found.transient
        self.streak = self.streak + 1 if failed else 0
        if isinstance(found, Failure) and self.streak >= max(STREAK, self.workers) and self.halted is None:
            self.halted = StopRun(f"{self.streak} requests failed one after the other, the last: {found.reason}")


def pause(tries: int, asked: float | None) -> float:
    """Seconds before the next try: what the server asks for and up to a quarter more, else doubling."""
    if asked is not None and asked > 0:
        return asked * random.uniform(1.0, 1.25)
    return min(FIRST * 2.0 ** (tries - 1), LONGEST) * random.uniform(0.5, 1.0)
