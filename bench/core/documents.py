"""Files that someone else wrote, or a disk spoiled: read whole and held to a shape, or refused in one line.

Invariant: a reader gives values of the shape it was asked for and raises BenchError for everything else: no file, no
UTF-8, no JSON, NaN, infinity, a number beyond 64 bits, nesting without end, another shape. The error names the file,
the row or the place in it, what is wrong, and what to do where the caller knows that.
"""

from __future__ import annotations

import csv
import io
import json
import math
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.core.errors import BenchError
from bench.core.shapes import held


def read_json(
    path: Path, shape: Any, what: str, remedy: str = "", error: type[BenchError] = BenchError, halves: bool = False
) -> Any:
    """The value of a JSON file, of `shape` (`bench.core.shapes`).

    `what` names for a person what the file should be (`a run of this program`), `remedy` what to do. `halves` as in
    `parsed`.
    """
    with Blame(path, what, remedy, error):
        return held(parsed(read_text(path), halves), shape)


def read_toml(path: Path, shape: Any, what: str, remedy: str = "", error: type[BenchError] = BenchError) -> Any:
    """As `read_json`, of a TOML file."""
    with Blame(path, what, remedy, error):
        found = tomllib.loads(read_text(path))
        _finite(found)
        return held(found, shape)


def read_lines(
    path: Path, shape: Any, what: str, remedy: str = "", test: Callable[[Any], None] = lambda value: None
) -> list[Any]:
    """As `read_json` with `halves`, of each line of a JSONL file that is not blank; rows are counted from 1. `test`
    raises `Misfit` for a value that has the shape and yet cannot be."""
    return [value for _, value in each_line(path, shape, what, remedy, test)]


def each_line(
    path: Path, shape: Any, what: str, remedy: str = "", test: Callable[[Any], None] = lambda value: None
) -> Iterator[tuple[int, Any]]:
    """As `read_lines`, one after the other: (the byte at which its line begins, value)."""
    with Blame(path, what, remedy) as blame:
        _refuse_folder(path)
        begin = 0
        with path.open("rb") as file:
            # Not splitlines(): it also splits at separators that a model may write inside a text.
            for number, line in enumerate(file, 1):
                blame.row = number
                if line.strip():
                    value = held(parsed(_decoded(line, begin), halves=True), shape)
                    test(value)
                    yield begin, value
                begin += len(line)


def read_csv(
    path: Path, columns: Sequence[str], what: str, remedy: str = "", error: type[BenchError] = BenchError
) -> list[dict[str, str]]:
    """The rows of a CSV file that has these columns; other columns of the header are there too.

    A row with fewer cells than the header has or more is refused: its texts stand in the wrong columns.
    """
    with Blame(path, what, remedy, error) as blame:
        return csv_rows(read_text(path), columns, blame)


def csv_rows(content: str, columns: Sequence[str], blame: Blame) -> list[dict[str, str]]:
    """As `read_csv`, of text that is read already."""
    rows = csv.reader(io.StringIO(content.removeprefix("\ufeff"), newline=""), strict=True)
    head = next(rows, [])
    if missing := [name for name in columns if name not in head]:
        raise ValueError(f"it lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}")
    if twice := [name for name in columns if head.count(name) > 1]:
        raise ValueError(f"the column {twice[0]} is there twice")
    found = []
    for cells in rows:
        blame.row = rows.line_num
        if not cells:
            continue  # a blank line
        if len(cells) != len(head):
            raise ValueError(f"{len(cells)} cell{'s' * (len(cells) != 1)} for {len(head)} columns")
        found.append(dict(zip(head, cells, strict=True)))
    return found


def read_table(
    path: Path, columns: Sequence[str], what: str, remedy: str = "", error: type[BenchError] = BenchError
) -> list[dict[str, Any]]:
    """The rows of a parquet file that has these columns, without others; rows count from 0, as the table does."""
    with Blame(path, what, remedy, error):
        return table(path, columns)


def read_text(path: Path) -> str:
    """A file's text; raises ValueError or OSError."""
    _refuse_folder(path)
    return _decoded(path.read_bytes()).replace("\r\n", "\n").replace("\r", "\n")


def _refuse_folder(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise ValueError("it is a folder or a device, not a file")


def _decoded(content: bytes, begin: int = 0) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no UTF-8 text (byte {begin + error.start + 1})") from error


def table(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """As `read_table`; raises one of `FAULTS`."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if missing := [name for name in columns if name not in names]:
                raise ValueError(f"it lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}")
            if twice := [name for name in columns if names.count(name) > 1]:
                raise ValueError(f"the column {twice[0]} is there twice")
            found: list[dict[str, Any]] = file.read(list(columns)).to_pylist()
            return found
    except (pa.ArrowException, OSError, MemoryError, OverflowError) as fault:
        raise ValueError(f"it cannot be read as a table: {fault}") from fault


class Blame:
    """What is raised inside as an error that names a file: a context manager."""

    def __init__(self, path: Path, what: str, remedy: str = "", error: type[BenchError] = BenchError) -> None:
        self.path, self.what, self.remedy, self.error = path, what, remedy, error
        self.row: int | None = None

    def __enter__(self) -> Blame:
        return self

    def __exit__(self, kind: Any, fault: BaseException | None, trace: Any) -> None:
        if not isinstance(fault, FAULTS):
            return
        place = "" if self.row is None else f", row {self.row}"
        not_what = "cannot be read" if isinstance(fault, OSError) else f"is not {self.what}"
        line = f"{shown(self.path)}{place} {not_what}: {told(fault)}"
        raise self.error(f"{line}; {self.remedy}" if self.remedy else line) from fault


FAULTS = (OSError, ValueError, RecursionError, csv.Error)
"""What reading a file raises where the file is at fault."""


def told(fault: BaseException) -> str:
    """One of `FAULTS` as a reason, in one line."""
    if isinstance(fault, RecursionError):
        return "it nests too deep"
    return first_line((fault.strerror if isinstance(fault, OSError) else "") or str(fault))


def shown(path: Path) -> str:
    """A file in a message: with the folder it lies in."""
    return f"{path.parent.name}/{path.name}" if path.parent.name else path.name


def first_line(reason: str) -> str:
    """The first line of a library's reason, and not all of a long one."""
    line = (reason.strip().splitlines() or ["no reason given"])[0]
    return line if len(line) <= 300 else f"{line[:299]}…"


def parsed(content: str, halves: bool = False) -> Any:
    """JSON text as a value; raises ValueError for what is none, RecursionError for what nests too deep.

    More is refused than Python's reader refuses: `NaN` and `Infinity`, which no JSON has; numbers that a float or 64
    bits cannot hold, which would become infinite or raise wherever they are used; and, without `halves`, half of a
    surrogate pair, which no model can be asked: only answers that models gave may hold one.
    """
    try:
        found = json.loads(content, parse_constant=_constant, parse_float=_float, parse_int=_int)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from error
    if not halves and "\\ud" in content.lower():
        try:
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("it holds half of a surrogate pair, which is no text") from error
    return found


def _constant(name: str) -> Any:
    raise ValueError(f"it holds {name}, which is no number")


def _float(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"it holds the number {digits[:20]}, which is too large")
    return value


def _int(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= (value := int(digits)) < 2**64:
        raise ValueError(f"it holds the number {digits[:20]}{'…' * (len(digits) > 20)}, which is too large")
    return value


def _finite(value: Any, where: str = "") -> None:
    """Raise ValueError for a number of a TOML file that is none, or too large."""
    if isinstance(value, dict):
        for name, one in value.items():
            _finite(one, f"{where}.{name}" if where else name)
    elif isinstance(value, list):
        for one in value:
            _finite(one, where)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}, which is no number")
    elif isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise ValueError(f"{where} is too large")
