"""Rows that are kept between runs: append-only JSONL, shared by processes.

Invariant: a reader never sees half a row, nor another than was written. A killed writer loses at most the line it was
writing.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from threading import RLock
from typing import Any, BinaryIO

from bench.core.claims import LEAST, Claims, share
from bench.core.index import NAME as INDEX, Index, Place, named
from bench.core.store import naming, write_all, write_whole


class Rows:
    """Append-only JSONL in one folder: one file per writer process, read as a union.

    The last row of a key wins; a row is on its way to the disk when `put` returns, so a killed process loses nothing it
    had reported. Each line ends with a checksum of what stands before it: a damaged one is left out, said on stderr and
    made anew, and a torn last line is left out. Rows without a checksum are of versions before it and are read as they
    stand, for they cost hours and money. Several processes share the work by `portions`. Without a folder rows stay in
    memory.

    Values stay in the files: kept here is where each stands (`bench.core.index`), and it is read when it is asked for.
    What an index has is not read through again. A row is held to its checksum and its key whenever it is read; where it
    is not as it was, all files are read through anew.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._claims = Claims(folder) if folder else None
        self._lock = RLock()
        self._file: BinaryIO | None = None
        self._files: list[_File] = []
        self._numbers: dict[str, int] = {}
        self._handles: OrderedDict[int, BinaryIO] = OrderedDict()
        """Files that are read from: they can be when they were deleted meanwhile, too."""
        self._memory = bytearray()
        """Lines that stand in no file."""
        self._index = Index()
        self._fresh: dict[bytes, Place] = {}
        """What the index does not have yet. Both know the last row of each key."""
        self._used: dict[bytes, Place] = {}
        """Rows of keys for which another process put one later, while this one had theirs."""
        self._count = self._unsaved = 0
        self._begin()

    def __contains__(self, key: str) -> bool:
        name = named(key)
        # What is fresh was put here, or held to its checksum as it was read through.
        return name in self._fresh or (self._find(name) is not None and self._line(key) is not None)

    def __len__(self) -> int:
        return self._count

    def __del__(self) -> None:
        for file in self._handles.values():
            file.close()

    def get(self, key: str) -> Any:
        line = self._line(key)
        return None if line is None else _opened(line)[1]

    def values(self) -> list[Any]:
        places = dict(self._index.items()) | self._fresh | self._used
        return [_opened(self._read(place))[1] for place in sorted(places.values(), key=self._when)]

    def refresh(self) -> None:
        """Read what was put since by others; a row that is here stays, as it may have been used."""
        with self._lock:
            self._look(self._hear)

    def portions(
        self, keys: Iterable[str], others: Callable[[int], None] = lambda made: None, whole: bool = False
    ) -> Iterator[list[str]]:
        """The `keys` that this process is to make and put, some at a time (`bench.core.claims.share`).

        `whole`: all that are free at once, for an engine that waits hours for each call.
        """
        if self._claims is None:
            yield from filter(None, [self._missing(list(dict.fromkeys(keys)))])
        else:
            yield from share(self._claims, keys, self._missing, others, sys.maxsize if whole else LEAST)

    def _missing(self, keys: Sequence[str]) -> list[str]:
        self.refresh()
        return [key for key in keys if key not in self]

    def put(self, key: str, row: Any) -> None:
        line, name = _sealed(key, row), named(key)
        with self._lock:
            place, last = self._append(line), self._last(name)
            self._used.pop(name, None)
            if last and self._when(place) < self._when(last):
                self._used[name] = place
            else:
                self._know(name, place, last is None)

    def _append(self, line: bytes) -> Place:
        """Where a line stands now."""
        if self.folder is None:
            return self._remember(line)
        with naming(self.folder):
            if self._file is None or not os.fstat(self._file.fileno()).st_nlink:  # or its folder was deleted meanwhile
                self._end()
                self._file = _next(self.folder)
                self._handle(self._numbered(Path(self._file.name)))
            try:
                write_all(self._file, line)
            except OSError:
                self._end()  # what is torn stays the last of its file
                raise
            number = self._numbered(Path(self._file.name))
        begin = self._files[number].end
        self._files[number].end += len(line)
        return number, begin, len(line) - 1

    def _remember(self, line: bytes) -> Place:
        self._memory += line
        return NOWHERE, len(self._memory) - len(line), len(line) - 1

    def _end(self) -> None:
        """The next row begins a file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    # Where rows stand

    def _last(self, name: bytes) -> Place | None:
        return self._fresh.get(name) or self._index.find(name)

    def _find(self, name: bytes) -> Place | None:
        return self._used.get(name) or self._last(name)

    def _when(self, place: Place) -> tuple[tuple[int, str], int]:
        """What orders places as the rows came: what is last stands."""
        number, begin, _ = place
        return (sys.maxsize, "") if number == NOWHERE else self._files[number].order, begin

    def _know(self, name: bytes, place: Place, new: bool) -> None:
        self._count += new
        self._unsaved += 1
        self._fresh[name] = place
        if len(self._fresh) >= FRESH:
            self._merge()

    def _merge(self) -> None:
        if self._fresh:
            self._index, self._fresh = self._index.merged(self._fresh, self._when), {}

    def _gather(self, name: bytes, place: Place) -> None:
        """A row that is found while nothing is used yet."""
        last = self._last(name)
        if last is None or self._when(place) > self._when(last):
            self._know(name, place, last is None)

    def _hear(self, name: bytes, place: Place) -> None:
        """A row that another process put meanwhile."""
        last = self._last(name)
        if last is not None and self._when(place) > self._when(last):
            self._used.setdefault(name, last)
        self._gather(name, place)

    # The files

    def _begin(self) -> None:
        """Take in the index, as far as its files are there, and what the files have beyond it."""
        if self.folder is None:
            return
        sizes = {path.name: size for path, size in _rows_of(self.folder)}
        found = Index.read(self.folder) if sizes else None
        if found and all(end <= sizes.get(name, -1) for name, end, _ in found.files):
            for name, end, damaged in found.files:
                file = self._files[self._numbered(self.folder / name)]
                file.end = file.seen = end
                self._damaged(file, damaged)
            self._index, self._count = found, len(found)
        self._look(self._gather)
        self._save()

    def _save(self) -> None:
        """Keep the index where reading through what it lacks would take a while."""
        if self.folder is None or self._unsaved < UNSAVED + len(self._index) // 8 or not self.folder.is_dir():
            return
        self._merge()
        whole = self._index.within([file.end for file in self._files])
        whole.files = [(file.path.name, file.end, file.damaged) for file in self._files]
        with suppress(OSError):  # it can be done without
            write_whole(self.folder / INDEX, whole.encoded())
            self._unsaved = 0

    def _numbered(self, path: Path) -> int:
        if path.name not in self._numbers:
            self._numbers[path.name] = len(self._files)
            self._files.append(_File(path, _order(path)))
        return self._numbers[path.name]

    def _look(self, take: Callable[[bytes, Place], None], own: bool = False) -> None:
        """Give `take` the rows that files of others (or `own` too) have beyond what was read of them."""
        writing = None if own or self._file is None else Path(self._file.name)
        for path, size in _rows_of(self.folder) if self.folder else ():
            if path == writing:
                continue
            number = self._numbered(path)
            if size < self._files[number].end:
                self._anew()
                return
            if size != self._files[number].seen:
                self._scan(number, take)

    def _anew(self) -> None:
        """A file is not as it was: read through all of them."""
        beside = {name: p for name, p in (dict(self._index.items()) | self._fresh).items() if p[0] == NOWHERE}
        self._index, self._fresh, self._count = Index(), beside, len(beside)
        self._unsaved = UNSAVED
        while self._handles:
            self._handles.popitem()[1].close()
        for file in self._files:
            file.end = file.seen = file.damaged = 0
        self._look(self._gather, own=True)

    def _scan(self, number: int, take: Callable[[bytes, Place], None]) -> None:
        known = self._files[number]
        damaged, place = 0, known.end
        try:
            self._handle(number)
            file = known.path.open("rb")
        except FileNotFoundError:
            return  # deleted meanwhile
        with file:
            file.seek(place)
            for line in file:
                whole = line.endswith(b"\n")
                try:
                    if row := line.removesuffix(b"\n"):
                        take(named(_key(row)), (number, place, len(row)))
                except (ValueError, RecursionError):
                    damaged += whole  # else the torn last line of a killed writer, or all of it
                place += len(line)
                known.end, known.seen = place if whole else known.end, place
                if not whole:  # it may be being written: its rest, read here, would pass for a line of its own
                    break
        self._damaged(known, damaged)

    def _damaged(self, file: _File, damaged: int) -> None:
        file.damaged += damaged
        if damaged and file.path not in TOLD:
            TOLD.add(file.path)
            print(f"bench: {file.path}: damaged rows: {damaged}; they are left out and made anew", file=sys.stderr)

    def _line(self, key: str) -> bytes | None:
        """The line of a key's row, whole; None where there is none."""
        name = named(key)
        with self._lock:
            for anew in (True, False):
                if (place := self._find(name)) is None:
                    return None
                if _holds(line := self._read(place), key):
                    return line
                self._used.pop(name, None)
                if anew:
                    self._anew()
        return None

    def _read(self, place: Place) -> bytes:
        number, begin, length = place
        if number == NOWHERE:
            return bytes(self._memory[begin : begin + length])
        try:
            file = self._handle(number)
        except FileNotFoundError:
            return b""
        if sys.platform != "win32":
            return os.pread(file.fileno(), length, begin)
        file.seek(begin)
        return file.read(length)

    def _handle(self, number: int) -> BinaryIO:
        """An open file; of many those used last stay open."""
        if number not in self._handles:
            self._handles[number] = self._files[number].path.open("rb", buffering=0)
            if len(self._handles) > HANDLES:
                self._handles.popitem(last=False)[1].close()
        self._handles.move_to_end(number)
        return self._handles[number]

    def close(self) -> None:
        self._end()
        self._save()
        while self._handles:
            self._handles.popitem()[1].close()
        if self._claims is not None:
            self._claims.close()


@dataclasses.dataclass
class _File:
    """A writer's file: its place among the others, and how far it was read."""

    path: Path
    order: tuple[int, str]
    end: int = 0
    """Bytes of whole lines."""
    seen: int = 0
    """All bytes that were there."""
    damaged: int = 0


NOWHERE = (1 << 24) - 1
"""Number of the file that is memory."""
FRESH, UNSAVED = 2**17, 2**12
"""Rows that a dictionary holds before they go to the index, and rows that are read through at every start before an
index is written: a twentieth of a second."""
HANDLES = 64
TOLD: set[Path] = set()
"""Files whose damage this command has spoken of."""


def _rows_of(folder: Path) -> list[tuple[Path, int]]:
    """The files of rows in a folder with their sizes, in the order in which they were begun."""
    found = []
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".jsonl"):
                with suppress(FileNotFoundError):  # deleted meanwhile
                    found.append((folder / entry.name, entry.stat().st_size))
    return sorted(found, key=lambda one: _order(one[0]))


def _order(path: Path) -> tuple[int, str]:
    """Files in the order in which they were begun."""
    number = path.name.partition("-")[0]
    return int(number) if number.isdecimal() else 0, path.name


def _next(folder: Path) -> BinaryIO:
    """A new file that is read after those that are there, also where the clock went back."""
    folder.mkdir(parents=True, exist_ok=True)
    number = max(time.time_ns(), *(_order(path)[0] + 1 for path in folder.glob("*.jsonl")), 0)
    while True:
        with suppress(FileExistsError):
            return (folder / f"{number:019d}-{os.getpid()}.jsonl").open("xb", buffering=0)
        number += 1


SEAL = len(', "sum": "01234567"}')


def _sealed(key: str, row: Any) -> bytes:
    """A row as a line; raises ValueError or TypeError for what JSON cannot hold."""
    body = json.dumps({"key": key, "row": row}, allow_nan=False).encode()[:-1]
    return body + _seal(body) + b"\n"


def _seal(body: bytes) -> bytes:
    return b', "sum": "%08x"}' % zlib.crc32(body)


def _head(key: str) -> bytes:
    return b'{"key": %s, "row": ' % json.dumps(key).encode()


def _holds(line: bytes, key: str) -> bool:
    """Whether a line is a whole row of this key."""
    if line[-SEAL:] == _seal(line[:-SEAL]) and line.startswith(_head(key)):
        return True
    with suppress(ValueError, RecursionError):
        return _opened(line)[0] == key
    return False


def _key(line: bytes) -> str:
    """The key of a line; raises ValueError (or RecursionError) where it is damaged."""
    if line[-SEAL:] == _seal(line[:-SEAL]) and line.startswith(BEGIN):
        key, _, rest = line[len(BEGIN) :].partition(b'"')
        if b"\\" not in key and rest.startswith(b', "row": '):  # as it was written, by its checksum
            return key.decode()
    return _opened(line)[0]


BEGIN = b'{"key": "'


def _opened(line: bytes) -> tuple[str, Any]:
    """Key and row of a line; raises ValueError (or RecursionError) where it is damaged."""
    record = json.loads(line.decode())
    sealed = line[-SEAL:] == _seal(line[:-SEAL])
    if not isinstance(record, dict) or record.keys() - ({"sum"} if sealed else set()) != {"key", "row"}:
        raise ValueError("no row, or another than was written")
    if not isinstance(record["key"], str):
        raise ValueError("its key is no text")
    return record["key"], record["row"]
