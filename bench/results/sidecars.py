"""What is measured of a finished run and stands beside its `run.json`: `overhead.json` and `capability.json`.

Invariant: a file belongs to one run (by id); a damaged or foreign one is an error, not a gap.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.core.documents import read_json
from bench.core.errors import BenchError, UsageError
from bench.core.store import write_json
from bench.overhead.record import Overhead
from bench.results.record import VERSION, CapabilityRecord, OverheadRecord
from bench.results.runs import Run

NAME = "overhead.json"
CAPABILITY = "capability.json"


def load(run: Run) -> Overhead | None:
    """The record beside a run, if there is one; a damaged or foreign one is an error."""
    path = run.path.parent / NAME
    if not path.is_file():
        return None
    remedy = f"make it again: bench overhead {path.parent.name} --measure"
    found = Overhead(read_json(path, OverheadRecord, "a record of what a run costs", remedy))
    try:
        of(path, found.data, run.data["id"])
        _ = found.arch
    except BenchError as error:
        raise BenchError(f"{path.parent.name}/{NAME} is not a record of this run: {error}; {remedy}") from error
    return found


def required(run: Run) -> Overhead:
    """The record beside a run; raises UsageError where there is none."""
    if (found := load(run)) is None:
        raise UsageError(f"no cost of {run.path.parent.name} is measured yet: add --measure")
    return found


def store(run: Run, record: Mapping[str, Any]) -> Path:
    path = run.path.parent / NAME
    write_json(path, {"version": VERSION, "run": run.data["id"], "method": run.method, **record})
    return path


def of(path: Path, data: Mapping[str, Any], run: str) -> None:
    """Raise BenchError where what stands beside a run is of another one."""
    if data["run"] != run:
        raise BenchError(f"it belongs to run {data['run']}")


def capability(path: Path) -> dict[str, Any]:
    """A `capability.json`; without entries where there is no file."""
    if not path.is_file():
        return {"entries": {}}
    found: dict[str, Any] = read_json(path, CapabilityRecord, "a record of side effects", "delete it")
    return found
