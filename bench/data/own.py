"""Somebody's examples in one file, as a folder of one JSON file a concept (`bench.data.layout.Own`).

Invariant: no text is changed, and every row is taken or refused by its number; which examples are trained on and
which are asked is drawn by a seed, the same on every machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.core.content import digest
from bench.core.documents import Blame, first_line, read_csv, read_json, read_lines
from bench.core.errors import UsageError
from bench.core.hub import snapshot
from bench.core.paths import expanded, is_folder
from bench.core.store import json_bytes, write_over
from bench.data.layout import fold

NAMES = {
    "prompt": ("prompt", "question", "instruction"),
    "good": ("good", "positive", "matching", "chosen"),
    "bad": ("bad", "negative", "not_matching", "rejected"),
    "concept": ("concept",),
}
"""Columns by what they hold; the first of these that a row has is read."""
READABLE = (".jsonl", ".csv", ".json", ".parquet", ".arrow")
WANTED = "give a row a prompt with good and bad, with A, B and answer, or alone"


@dataclass(frozen=True)
class Imported:
    """What a file of the folder holds."""

    name: str
    concept: str
    answers: int
    tests: int
    questions: int
    row: Mapping[str, Any]

    @property
    def line(self) -> str:
        return (
            f"{self.name}.json: {self.concept!r}: {self.answers} examples to learn from, {self.tests} to be tested on, "
            f"{self.questions} questions without answers"
        )


def rows(source: str) -> list[tuple[str, dict[str, Any]]]:
    """(where it stands, row) of a file, of all files of a folder that can be read, or of a data set of the hub."""
    place = expanded(source)
    if (
        not place.exists()
        and re.fullmatch(r"(hf://datasets/)?[\w.-]+/[\w.-]+", source)
        and place.suffix not in READABLE
    ):
        place = snapshot(source.removeprefix("hf://datasets/"), [f"*{end}" for end in READABLE], kind="dataset")
    if not is_folder(place):
        return list(_read(place))
    # What is computed of a data set that `save_to_disk` wrote is kept beside it.
    files = sorted(p for p in place.rglob("*") if p.suffix in READABLE and p.is_file() and not p.match("cache-*.arrow"))
    tables = [p for p in files if p.suffix != ".json"] or files  # beside a data set's tables JSON describes them
    if not tables:
        raise UsageError(f"{place.name} holds no {', '.join(READABLE)} file: export the data set as one of these")
    return [row for path in tables for row in _read(path)]


def _read(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    what = "a list of examples"
    found: Sequence[dict[str, Any]]
    if path.suffix == ".csv":
        found = read_csv(path, (), what, error=UsageError)
    elif path.suffix == ".jsonl":
        found = read_lines(path, dict[str, Any], what, "write one JSON object a line")
    elif path.suffix == ".json":
        found = read_json(path, list[dict[str, Any]], what, "write a list of objects", UsageError)
    elif path.suffix in (".parquet", ".arrow"):
        with Blame(path, what, error=UsageError):
            found = _table(path)
    else:
        raise UsageError(f"{path.name}: examples are read from {', '.join(READABLE)}, or from a folder of these")
    for number, row in enumerate(found, 1):
        yield f"{path.name} example {number}", row


def _table(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    from pyarrow import ipc, parquet

    try:
        if path.suffix == ".parquet":
            found: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
        else:  # what `save_to_disk` of a data set writes
            with pa.memory_map(str(path)) as file:
                found = ipc.open_stream(file).read_all().to_pylist()
    except (pa.ArrowException, OSError) as fault:
        raise ValueError(f"it cannot be read as a table: {first_line(str(fault))}") from fault
    return found


def concepts(
    given: Sequence[tuple[str, Mapping[str, Any]]], concept: str = "", name: str = "", share: float = 0.5, seed: int = 0
) -> list[Imported]:
    """The concepts of rows; `share` of a concept's examples with both answers is asked, the rest is for training.

    Raises UsageError for a row that cannot be one, or that repeats or contradicts another.
    """
    answered: dict[str, list[dict[str, str]]] = {}
    asked: dict[str, list[str]] = {}
    seen: dict[tuple[str, str], str] = {}
    for where, row in given:
        about = concept or _text(row, "concept", where)
        if not about:
            raise UsageError(f"{where} says no concept: give --concept, or a column concept")
        ask, good, bad = _text(row, "prompt", where), *_answers(row, where)
        if not ask:
            raise UsageError(f"{where} has no prompt: {WANTED}")
        if bool(good) != bool(bad):
            raise UsageError(f"{where} has a {'good' if good else 'bad'} answer alone: {WANTED}")
        if good and fold(good) == fold(bad):
            raise UsageError(f"{where}: its good and its bad answer are the same")
        if first := seen.get((about, fold(ask))):
            raise UsageError(f"{where} asks what {first} asks: a prompt stands once, so that none is tested and learnt")
        seen[about, fold(ask)] = where
        answered.setdefault(about, [])
        asked.setdefault(about, [])
        if good:
            answered[about].append({"question": ask, "positive": good, "negative": bad})
        else:
            asked[about].append(ask)
    if not answered:
        raise UsageError("the file holds no example")
    if name and len(answered) > 1:
        raise UsageError(f"--name is for one concept, and the file has {len(answered)}")
    found: dict[str, Imported] = {}
    for about, examples in answered.items():
        order = np.random.default_rng(int(digest("own", seed, about), 16)).permutation(len(examples))
        cut = len(examples) - round(share * len(examples))
        if cut < 1:
            raise UsageError(f"{about!r} has no example with a good and a bad answer: nothing can be learnt from it")
        train, tests = ([examples[i] for i in sorted(part)] for part in (order[:cut], order[cut:]))
        row = {"concept": about, "answers": train, "tests": tests, "questions": asked[about]}
        short = name or _name(about)
        while short in found:
            short += "-"
        found[short] = Imported(short, about, len(train), len(tests), len(asked[about]), row)
    return list(found.values())


def _text(row: Mapping[str, Any], what: str, where: str) -> str:
    held = next((row[name] for name in NAMES[what] if row.get(name) not in (None, "")), "")
    if not isinstance(held, str):
        raise UsageError(f"{where}: its {what} is {type(held).__name__}, not a text")
    return held if held.strip() else ""


def _answers(row: Mapping[str, Any], where: str) -> tuple[str, str]:
    """The good and the bad answer of a row, "" where it has none."""
    if row.get("A") and row.get("B"):
        letter = str(row.get("answer", "")).strip().strip("()").upper()
        if letter not in ("A", "B"):
            raise UsageError(f"{where} has A and B: its column answer must say which is good, A or B")
        good, bad = row[letter], row["B" if letter == "A" else "A"]
        if not isinstance(good, str) or not isinstance(bad, str):
            raise UsageError(f"{where}: A and B must be texts")
        return good, bad
    return _text(row, "good", where), _text(row, "bad", where)


def _name(text: str) -> str:
    """A file's name of a concept's text."""
    return "-".join(re.findall(r"\w+", text.casefold()))[:40].strip("-") or "concept"


def write(found: Sequence[Imported], out: Path, force: bool = False) -> list[Imported]:
    """Write one file a concept, all or none; a file of other content is left alone unless `force`."""
    if (out / "generate").is_dir() or (out / "genres").is_dir():
        raise UsageError(f"{out} is a data folder of another layout: name another --out")
    write_over({out / f"{one.name}.json": json_bytes(one.row) for one in found}, force)
    return list(found)


def advice(found: Sequence[Imported], out: Path) -> Iterator[str]:
    """The commands that take all of it, after one that tells whether the default judge sees such a concept."""
    asked = min(one.tests + one.questions for one in found)
    yield f"next: bench judge validate --data {out}    (AUROC of concept near .5: take another judge below)"
    yield (
        f"      bench run --data {out} -m prompt,diffmean,none,random,shuffled "
        f"-p protocol.select={asked // 2} -p protocol.test={asked - asked // 2}"
    )
    if all(one.tests >= 2 for one in found):
        yield f"      bench run -t behaviour --data {out} -m prompt,caa,diffmean,none,random,shuffled"
