"""Who makes what: claims on names, by which several processes on one folder share work and none repeats another's.

Invariant: a claim ends with its process, however that dies, and decides only who works: a row or a folder is kept right
without it. Where a disk knows no locks every claim is granted, and work may be done twice.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":
    import fcntl

NAME = ".claims"
"""The file of a folder's claims; it stays empty."""
LEAST, MOST = 128, 4096
"""Names claimed at once: few enough to leave others some, enough to fill an engine's batches."""


class Claims:
    """Locks on the bytes of `folder`'s file `.claims`, one byte for each name.

    They are the process's (POSIX record locks): two objects of one process do not exclude each other, a forked child
    has none, and other hosts see them where a network file system carries locks.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: BinaryIO | None = None
        self._held: set[str] = set()

    def take(self, name: str, wait: bool = False) -> bool:
        """Whether `name` is this process's now; with `wait`, after whoever has it has let go."""
        if sys.platform == "win32" or name in self._held:
            return True
        try:
            if self._file is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._file = (self.folder / NAME).open("ab", buffering=0)
        except OSError:
            return True  # a folder that takes no file says so when something is put
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, _place(name))
        except (BlockingIOError, PermissionError):
            return False
        except OSError:
            return True
        self._held.add(name)
        return True

    def holds(self, name: str) -> bool:
        """Whether a lock stands behind the claim: where a disk has none, another process may have it too."""
        return name in self._held

    def drop(self, names: Iterable[str]) -> None:
        for name in self._held.intersection(names):
            if sys.platform != "win32" and self._file is not None:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _place(name))
            self._held.discard(name)

    def close(self) -> None:
        """Drop all of them."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._held.clear()


def _place(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "big")


def share(
    claims: Claims,
    names: Iterable[str],
    missing: Callable[[Sequence[str]], list[str]],
    others: Callable[[int], None] = lambda made: None,
    least: int = LEAST,
) -> Iterator[list[str]]:
    """The `names` that are this process's to make, some at a time; they stay claimed until the next are asked for.

    `missing` says which of some names nobody has made by now, and `others` is told how many other processes made; a
    name is asked about when its turn comes, not in every round. Ends when each name is there or was handed out. A
    quarter of what is left is handed out at once, `least` names or more, so that a process that comes later finds work.
    What others have claimed is waited for last, and handed out where they died.
    """
    left, waited = list(dict.fromkeys(names)), False
    while left:
        most = max(least, min(MOST, len(left) // 4))
        taken: list[str] = []
        claimed: list[str] = []
        try:
            while left and len(taken) < most:
                part, left = left[: most - len(taken)], left[most - len(taken) :]
                open_ = missing(part)
                if made := len(part) - len(open_):
                    others(made)
                for name in open_:
                    (taken if claims.take(name) else claimed).append(name)
            mine = missing(taken)  # again: one may have been made and let go since
            if made := len(taken) - len(mine):
                others(made)
            if mine:
                yield mine
        finally:
            claims.drop(taken)
        left += claimed  # last, and handed out where those who have them died
        if left and not taken:
            if not waited:
                print("bench: another process makes what is left here; waiting for it", file=sys.stderr)
                waited = True
            claims.take(left[0], wait=True)
            claims.drop(left[:1])
