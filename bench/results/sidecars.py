"""What is measured of a finished run and stands beside its `run.json`: `overhead.json` and `capability.json`.

Invariant: a file belongs to one run (by id); a damaged or foreign one is an error, not a gap.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.core.errors import BenchError, UsageError
from bench.core.store import write_json
from bench.overhead.record import Overhead
from bench.results.runs import Run

VERSION = 1
NAME = "overhead.json"
CAPABILITY = "capability.json"


def load(run: Run) -> Overhead | None:
    """The record beside a run, if there is one; a damaged or foreign one is an error."""
    path = run.path.parent / NAME
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text("utf-8"))
        if data["version"] != VERSION or data["run"] != run.data["id"]:
            raise ValueError(f"version {data['version']} of run {data['run']}")
        found = Overhead(data)
        _ = found.arch, found.extra, found.ratio("time"), found.samples_per_prompt
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).split("\n")[0]
        raise BenchError(
            f"{path.parent.name}/{NAME} is not a record of this run: {reason}; make it again: "
            f"bench overhead {path.parent.name} --measure"
        ) from error
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


def capability(path: Path) -> dict[str, dict[str, Any]]:
    """The entries of a `capability.json`; none where there is no file."""
    if not path.is_file():
        return {}
    try:
        found: dict[str, dict[str, Any]] = json.loads(path.read_text("utf-8"))["entries"]
    except (ValueError, KeyError, TypeError) as error:
        raise BenchError(f"{path.parent.name}/{path.name} is damaged ({error}): delete it") from error
    return found
