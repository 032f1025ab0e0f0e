"""Where the rows of a folder's files stand: a table of places, kept beside the files so that they need not be read.

Invariant: it is derived from the files alone and may be deleted at any time. It says where to look, never what is
there: whoever looks holds what he finds to its checksum and its key.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import sys
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from bench.core.content import Array

NAME = ".index"
"""The file of a folder's index."""
VERSION = 1
COLUMNS = ("u8", "u8", "u8", "u4")
"""Of a row: the halves of its key's digest, its place, and its length in bytes."""
OFFSET = 40
"""Bits of a place that say where in its file a row begins; those above are the file's number."""
Place = tuple[int, int, int]
"""(number of a file, where a row begins in it, its length without the newline)."""


def named(key: str) -> bytes:
    """What stands for a key of any length, 16 bytes."""
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class Index:
    """Places by key, sorted by the digests of the keys: 28 bytes a row, of which a look-up touches a few.

    `files` are (name, bytes read, damaged rows) in the order of their numbers.
    """

    def __init__(self, files: Sequence[tuple[str, int, int]] = (), columns: Sequence[Any] = ()) -> None:
        self.files = list(files)
        views = [memoryview(column) for column in columns or [np.empty(0, kind) for kind in COLUMNS]]
        self._high, self._low, self._places, self._lengths = self._columns = views

    def __len__(self) -> int:
        return len(self._high)

    def find(self, name: bytes) -> Place | None:
        high, low = int.from_bytes(name[:8], "big"), int.from_bytes(name[8:], "big")
        at = bisect_left(self._high, high)
        while at < len(self._high) and self._high[at] == high:
            if self._low[at] == low:
                return self._place(at)
            at += 1
        return None

    def _place(self, at: int) -> Place:
        place = self._places[at]
        return place >> OFFSET, place & (1 << OFFSET) - 1, self._lengths[at]

    def items(self) -> Iterator[tuple[bytes, Place]]:
        for at in range(len(self)):
            yield self._high[at].to_bytes(8, "big") + self._low[at].to_bytes(8, "big"), self._place(at)

    def merged(self, rows: Mapping[bytes, Place], order: Callable[[Place], Any]) -> Index:
        """This index with `rows`; of two rows of a key the one that is last by `order` stands."""
        words = np.frombuffer(b"".join(rows), ">u8").reshape(-1, 2)
        places = np.array([file << OFFSET | begin for file, begin, _ in rows.values()], "u8")
        added = (words[:, 0], words[:, 1], places, np.array([length for *_, length in rows.values()], "u4"))
        sort = np.argsort(added[0], kind="stable")
        both: list[Array] = [
            np.concatenate([np.asarray(old), new[sort].astype(kind)])
            for old, new, kind in zip(self._columns, added, COLUMNS, strict=True)
        ]
        sort = np.argsort(both[0], kind="stable")  # of two sorted runs it takes one pass
        both = [column[sort] for column in both]
        found, dropped = Index(self.files, both), list[int]()
        for at in map(int, np.flatnonzero(both[0][1:] == both[0][:-1])):
            for other in range(at + 1, len(found)):
                if found._high[other] != found._high[at]:
                    break
                if found._low[other] == found._low[at]:
                    dropped.append(min(at, other, key=lambda i: order(found._place(i))))
        return Index(self.files, [np.delete(column, dropped) for column in both]) if dropped else found

    def within(self, ends: Sequence[int]) -> Index:
        """The rows that end before so many bytes of their files."""
        places, lengths = np.asarray(self._places), np.asarray(self._lengths)
        begins, most = places & np.uint64((1 << OFFSET) - 1), np.array([*ends, 0], "u8")
        files = np.minimum((places >> np.uint64(OFFSET)).astype("i8"), len(ends))
        kept = begins + lengths < most[files]
        return Index(self.files, [np.asarray(column)[kept] for column in self._columns])

    def encoded(self) -> bytes:
        content = b"".join(self._columns)
        head = {"version": VERSION, "order": sys.byteorder, "rows": len(self), "sum": zlib.crc32(content)}
        return json.dumps(head | {"files": self.files}).encode() + b"\n" + content

    @classmethod
    def read(cls, folder: Path) -> Index | None:
        """A folder's index; None where it has none, or one that is damaged or of another version or machine."""
        with suppress(OSError, ValueError, TypeError, KeyError, RecursionError), (folder / NAME).open("rb") as file:
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            head = json.loads(file.readline())
            rest, rows = content[file.tell() :], int(head["rows"])
            sizes = [rows * np.dtype(kind).itemsize for kind in COLUMNS]
            same = head["version"] == VERSION and head["order"] == sys.byteorder and len(rest) == sum(sizes)
            if same and zlib.crc32(rest) == head["sum"]:
                starts = [sum(sizes[:n]) for n in range(len(sizes))]
                parts = [rest[start : start + size] for start, size in zip(starts, sizes, strict=True)]
                columns = [part.cast("Q" if kind == "u8" else "I") for part, kind in zip(parts, COLUMNS, strict=True)]
                return cls([(str(name), int(end), int(damaged)) for name, end, damaged in head["files"]], columns)
        return None
