"""Requests that are to be declined beside requests that only look like them: the shipped set, XSTest, StrongREJECT.

Invariant: whatever is tested, what is learnt and chosen by is the shipped set, so that no harmful completion is needed;
and no request stands twice.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

from bench import BenchError, UsageError
from bench.core.documents import read_csv
from bench.core.paths import expanded, is_folder
from bench.data.layout import fold

SHIPPED = Path(__file__).parent / "data" / "refusal"
CONTRAST = "contrast_"
"""How XSTest's types of unsafe requests begin."""
MOST = 2
"""Look-alikes of a request, so that what is to be answered weighs no more than what is to be declined."""
T = TypeVar("T")


@dataclass(frozen=True)
class Taught:
    """A request to decline, its look-alike, and answers to both; either the refusal of the one is there, or a needless
    one of the other."""

    harmful: str
    harmless: str
    compliance: str
    answer: str
    refusal: str = ""
    needless: str = ""


@dataclass(frozen=True)
class Group:
    """A request to decline with one or two that are to be answered."""

    kind: str
    turn: int
    """Its place among those of its kind."""
    harmful: str
    harmless: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.turn}"


def taught() -> list[Taught]:
    """The shipped training rows: one of each kind of request, then the next of each; one in three has no refusal."""
    kinds = [found["train"] for found in _shipped().values()]
    turns = [rows[(turn + k) % len(rows)] for turn in range(len(kinds[0])) for k, rows in enumerate(kinds)]
    return [
        Taught(
            row["improper"],
            row["proper"],
            row["compliance"],
            row["answer"],
            row.get("refusal", ""),
            row.get("needless", ""),
        )
        for row in turns
    ]


def shipped(split: str) -> list[Group]:
    """The shipped groups of a split, dealt as in `taught`."""
    kinds = [
        [Group(kind, i, row["improper"], (row["proper"],)) for i, row in enumerate(found[split])]
        for kind, found in _shipped().items()
    ]
    return _dealt(kinds)


def tested(data: str) -> list[Group]:
    """The groups that `data` asks in the test: mini, or the files of a folder.

    Raises UsageError where there is no such file, BenchError where one is not what its name says.
    """
    if data == "mini":
        return shipped("test")
    if not is_folder(data):
        raise UsageError(f"unknown data {data!r}: mini, or a folder with {NAMED}")
    folder = expanded(data)
    files = [(read, path) for name, read in READERS.items() for path in sorted(folder.glob(f"{name}*.csv"))]
    if not files:
        raise UsageError(f"data {folder.name}: no {NAMED} in it")
    found = [group for read, path in files for group in read(path)]
    return _once(found, [group.harmful for group in found], folder)


def _shipped() -> dict[str, Any]:
    return {path.stem: _read(path) for path in sorted(SHIPPED.glob("*.json"))}


@cache
def _read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def _dealt(kinds: Sequence[Sequence[Group]]) -> list[Group]:
    """The first of each kind, the second of each, and so on."""
    return [group for row in zip_longest(*kinds) for group in row if group]


def _xstest(path: Path) -> list[Group]:
    """Each unsafe request with the safe ones that stand at its place in the types it contrasts with."""
    types: dict[str, list[str]] = {}
    for row in _rows(path, ("prompt", "type"), "XSTest's table"):
        types.setdefault(row["type"].strip(), []).append(row["prompt"].strip())
    safe = {name: rows for name, rows in types.items() if not name.startswith(CONTRAST)}
    kinds, used = [], 0
    for about in (name.removeprefix(CONTRAST) for name in types if name not in safe):
        own = [rows for name, rows in safe.items() if name == about or about in name.split("_")]
        beside = [tuple(rows[i] for rows in own if i < len(rows))[:MOST] for i in range(len(types[CONTRAST + about]))]
        both = enumerate(zip(types[CONTRAST + about], beside, strict=True))
        kinds.append([Group(f"xstest-{about}", i, text, found) for i, (text, found) in both if found])
        used += sum(1 + len(group.harmless) for group in kinds[-1])
    if not used:
        raise BenchError(f"{path.parent.name}/{path.name}: no type {CONTRAST}… beside the type that it contrasts with")
    if left := sum(map(len, types.values())) - used:
        said = f"{left} request{'s' * (left > 1)} without a counterpart, left out here"
        print(f"bench: {path.parent.name}/{path.name} has {said}", file=sys.stderr)
    return _dealt(kinds)


def _strongreject(path: Path) -> list[Group]:
    """Each forbidden request with a harmless one of the shipped test, in turn: the file has none."""
    categories: dict[str, list[str]] = {}
    for row in _rows(path, ("forbidden_prompt", "category"), "StrongREJECT's table"):
        name = re.sub(r"\W+", "-", row["category"].strip().lower())
        categories.setdefault(name, []).append(row["forbidden_prompt"].strip())
    kinds = [
        [Group(f"strongreject-{name}", i, text, ()) for i, text in enumerate(texts)]
        for name, texts in categories.items()
    ]
    beside = shipped("test")
    return [replace(g, harmless=beside[i % len(beside)].harmless) for i, g in enumerate(_dealt(kinds))]


READERS: dict[str, Callable[[Path], list[Group]]] = {"xstest": _xstest, "strongreject": _strongreject}
"""How the files that it reads begin to be called."""
NAMED = " or ".join(f"{name}*.csv" for name in READERS)


def _rows(path: Path, columns: tuple[str, str], what: str) -> list[dict[str, str]]:
    """The rows of a file; a cell of these columns says something, and the first column nothing twice."""
    rows = read_csv(path, columns, what)
    for number, row in enumerate(rows, 1):
        if blank := [name for name in columns if not row[name].strip()]:
            raise BenchError(f"{path.parent.name}/{path.name}, request {number}: no {blank[0]}; take the row out")
    if not rows:
        raise BenchError(f"{path.parent.name}/{path.name}: no request in it")
    return _once(rows, [row[columns[0]] for row in rows], path)


def _once(rows: list[T], texts: Sequence[str], place: Path) -> list[T]:
    """The rows, of which none says what another says."""
    told = Counter(map(fold, texts))
    if again := next((text for text in texts if told[fold(text)] > 1), ""):
        raise BenchError(f"{place.name}: a request stands there twice, take one out: {again[:100]!r}")
    return rows
