"""Readers' ratings as files: what they rated, and where each answer came from.

Invariant: what a reader gets shows no method, coefficient or rating; an id is the digest of a run and its sample, so
that a key can be checked for ever, whatever became of the run.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.core.content import digest
from bench.core.errors import BenchError, said
from bench.core.escape import guarded, unguarded
from bench.core.store import write_whole

AXES = ("concept", "instruction", "fluency")
TEXTS = ("concept", "instruction", "answer")
RATINGS = tuple(f"{axis}_rating" for axis in AXES)
ORIGIN = ("id", "run", "sample", "task", "model", "method", "surface", "coefficient")
"""Columns of a key."""


@dataclass(frozen=True)
class Answer:
    """One answer as a reader sees it."""

    id: str
    concept: str
    """What is looked for, in words."""
    instruction: str
    """What the answer is rated against: the question without any wish for the concept."""
    answer: str


@dataclass(frozen=True)
class Origin:
    """Where an answer came from; all text, as a CSV has it."""

    id: str
    run: str
    sample: str
    task: str
    model: str
    method: str
    surface: str
    coefficient: str


@dataclass(frozen=True)
class Rated:
    """One answer with what one reader rated; an axis left empty is absent."""

    answer: Answer
    reader: str
    ratings: Mapping[str, float] = field(default_factory=dict)


def blind(run: str, sample: str) -> str:
    """The id by which a reader knows a run's sample."""
    return digest(run, sample)[:12]


def write(path: Path, rows: Sequence[Rated]) -> None:
    """Write `rows` as CSV; where a reader has not rated, the rating's cell is empty."""
    known = ("id", *TEXTS, *RATINGS, "reader")
    cells = [
        [
            *(guarded(getattr(row.answer, name)) for name in ("id", *TEXTS)),
            *(row.ratings.get(a, "") for a in AXES),
            guarded(row.reader),
        ]
        for row in rows
    ]
    _write(path, known, cells)


def write_key(path: Path, rows: Sequence[Origin]) -> None:
    """Write where answers came from, beside what readers get."""
    _write(path, ORIGIN, [[guarded(getattr(row, name)) for name in ORIGIN] for row in rows])


def _write(path: Path, columns: Sequence[str], cells: Sequence[Sequence[object]]) -> None:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")  # so that a lone carriage return is quoted
    writer.writerow(columns)
    writer.writerows(cells)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, out.getvalue().encode("utf-8", "surrogatepass"))


def read(path: Path) -> list[Rated]:
    """What readers rated: `concept, instruction, answer` and a rating of at least one axis, 0 to 2 or empty.

    `id` and `reader` are read where they are there, further columns are not. Several rows of one answer are
    several readers'.
    """
    rows = _read(path, TEXTS)
    if not set(RATINGS) & set(rows[0] if rows else ()):
        raise BenchError(f"{path.name} lacks the columns {', '.join(RATINGS)}")
    found = [_rated(path, line, cells) for line, cells in enumerate(rows, 2)]
    if not any(row.ratings for row in found):
        raise BenchError(f"{path.name} holds no ratings: fill its columns {', '.join(RATINGS)}")
    return found


def read_key(path: Path) -> dict[str, Origin]:
    """id -> where the answer came from."""
    return {row["id"]: Origin(*(unguarded(row[name]) for name in ORIGIN)) for row in _read(path, ORIGIN)}


def read_answers(path: Path) -> list[Answer]:
    """Answers alone: `concept, instruction, answer`."""
    return [Answer(_name(row), *(unguarded(row[name]) for name in TEXTS)) for row in _read(path, TEXTS)]


def _name(cells: Mapping[str, str]) -> str:
    return unguarded(cells.get("id", "")) or digest(*(unguarded(cells[name]) for name in TEXTS))[:12]


def key_of(path: Path) -> Path:
    """Where the key of a file of ratings lies: beside it."""
    return path.parent / f"{path.stem}.key.csv"


def merged(rows: Sequence[Rated]) -> list[tuple[Answer, dict[str, float]]]:
    """Each answer once, with the mean of what its readers gave on each axis that one of them rated."""
    found: dict[Answer, list[Mapping[str, float]]] = {}
    for row in rows:
        found.setdefault(row.answer, []).append(row.ratings)
    return [
        (answer, {a: float(np.mean(own)) for a in AXES if (own := [r[a] for r in ratings if a in r])})
        for answer, ratings in found.items()
    ]


def _read(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogatepass") as file:
            reader = csv.DictReader(file)
            if missing := [c for c in needed if c not in (reader.fieldnames or ())]:
                raise BenchError(f"{path.name} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}")
            return [{k: v or "" for k, v in row.items() if isinstance(k, str)} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BenchError(f"{path.name} cannot be read as CSV: {said(error)}") from error


def _rated(path: Path, line: int, cells: Mapping[str, str]) -> Rated:
    ratings = {}
    for axis, column in zip(AXES, RATINGS, strict=True):
        if text := cells.get(column, "").strip():
            try:
                ratings[axis] = float(text)
            except ValueError:
                ratings[axis] = -1.0
            if not 0 <= ratings[axis] <= 2:
                raise BenchError(f"{path.name}, row {line}: {column} {text!r} is not a number from 0 to 2")
    answer = Answer(_name(cells), *(unguarded(cells[column]) for column in TEXTS))
    return Rated(answer, unguarded(cells.get("reader", "")), ratings)
