"""Hand ratings: draw texts for a person to rate blind, and read what the person wrote.

Invariant: a drawn file shows no method, coefficient or rating; an id leads back to its run and sample
through the results alone.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.core.content import digest
from bench.core.errors import BenchError, UsageError
from bench.core.escape import guarded, unguarded
from bench.core.store import write_whole
from bench.results.runs import Run

AXES = ("concept", "instruction", "fluency")
COLUMNS = ("id", "concept", "instruction", "text", *(f"{axis}_rating" for axis in AXES))


@dataclass(frozen=True)
class Rated:
    """One text with what a person rated; an axis left empty is absent."""

    id: str
    concept: str
    """The concept's text or id."""
    instruction: str
    text: str
    ratings: dict[str, float] = field(default_factory=dict)


def name(run: Run, sample: str) -> str:
    """The blind id of a run's sample."""
    return digest(run.data["id"], sample)[:12]


def draw(runs: Sequence[Run], n: int, seed: int = 0) -> list[Rated]:
    """`n` test answers, spread evenly over methods, concepts and coefficients, in random order.

    Each next text is the one whose method, concept and coefficient were drawn least; a text that two
    runs share is drawn once.
    """
    rng = np.random.default_rng(seed)
    pool: list[tuple[tuple[str, ...], Rated]] = []
    seen: set[str] = set()
    for run in runs:
        for sample in run.data["samples"]:
            where = run.data["concepts"][sample["concept"]]
            if "text" not in sample:
                raise UsageError(f"{run.path.parent.name} keeps no generations to rate")
            row = Rated(name(run, sample["id"]), where["text"], sample["instruction"], sample["text"])
            same = digest(row.concept, row.instruction, row.text)
            if row.text.strip() and same not in seen:
                seen.add(same)
                pool.append(((run.data["id"], sample["concept"], f"{where['picked']['coefficient']:g}"), row))
    if len(pool) < n:
        raise UsageError(f"{n} texts were asked for; these runs hold {len(pool)} different ones")
    pool = [pool[i] for i in rng.permutation(len(pool))]
    levels = [len({strata[k] for strata, _ in pool}) for k in range(3)]
    drawn: list[Rated] = []
    counts: Counter[tuple[int, str]] = Counter()
    while len(drawn) < n:
        weights = [sum(counts[k, s] * levels[k] for k, s in enumerate(strata)) for strata, _ in pool]
        strata, row = pool.pop(int(np.argmin(weights)))
        counts.update(enumerate(strata))
        drawn.append(row)
    return [drawn[i] for i in rng.permutation(n)]


def write(path: Path, rows: Sequence[Rated]) -> None:
    """Write `rows` as CSV; where a person has not rated, the rating's cell is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")  # so that a lone carriage return is quoted
    writer.writerow(COLUMNS)
    for row in rows:
        texts = map(guarded, (row.id, row.concept, row.instruction, row.text))
        writer.writerow([*texts, *(row.ratings.get(a, "") for a in AXES)])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, out.getvalue().encode("utf-8", "surrogatepass"))


def read(path: Path) -> list[Rated]:
    """The rows of a CSV of human ratings; each rating 0 to 2, or empty where a person gave none."""
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogatepass") as file:
            reader = csv.DictReader(file)
            if missing := [c for c in COLUMNS if c not in (reader.fieldnames or ())]:
                raise BenchError(f"{path.name} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}")
            rows = [_row(path, line, cells) for line, cells in enumerate(reader, 2)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BenchError(f"{path.name} cannot be read as CSV: {str(error).splitlines()[0]}") from error
    if not any(row.ratings for row in rows):
        raise BenchError(f"{path.name} holds no ratings: fill its columns {', '.join(COLUMNS[4:])}")
    return rows


def _row(path: Path, line: int, cells: dict[str, str]) -> Rated:
    ratings = {}
    for axis in AXES:
        if text := (cells[f"{axis}_rating"] or "").strip():
            try:
                ratings[axis] = float(text)
            except ValueError:
                ratings[axis] = -1.0
            if not 0 <= ratings[axis] <= 2:
                raise BenchError(f"{path.name}, row {line}: {axis}_rating {text!r} is not a number from 0 to 2")
    blind, concept, instruction, text = (unguarded(cells[column]) for column in COLUMNS[:4])
    return Rated(blind, concept, instruction, text, ratings)
