"""A report that is made only where its results, or what makes it, are others than when it was made last.

Invariant: what is known of the last report is its inputs and its files as they lie on the disk, each by size and time;
where anything of that differs, or nothing is known, it is made anew.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import TypedDict

from bench.core.content import digest
from bench.core.definitions import OWN
from bench.core.documents import read_json
from bench.core.errors import BenchError
from bench.core.paths import cache_root, default_results
from bench.core.registry import plugin_files
from bench.core.shipped import state
from bench.core.store import write_json
from bench.report.build import build
from bench.report.page.build import FOLDER

DRAWN_WITH = ("matplotlib", "numpy", "pillow", "scipy")


class Made(TypedDict):
    """What is known of a report: the state of what it was made of, its files, and the state of those."""

    inputs: str
    files: list[str]
    outputs: str


def renewed(results: Path, out: Path) -> list[Path]:
    """`build` where its files would be others than those that are there; returns the report's files."""
    note = cache_root() / "checksums" / f"report-{digest(str(results.resolve()), str(out.resolve()))}.json"
    inputs = digest(
        state(OWN),
        [version(name) for name in DRAWN_WITH],
        [_state(_within(root)) for root in (results, default_results())],
        _state(map(Path, plugin_files())),
    )
    try:
        made = read_json(note, Made, "a note of a report")
        files = [Path(file) for file in made["files"]]
        if made["inputs"] == inputs and made["outputs"] == _outputs(files, out):
            return files
    except BenchError:
        pass  # none was made, or it is not known how
    files = build(results, out)
    write_json(note, Made(inputs=inputs, files=list(map(str, files)), outputs=_outputs(files, out)))
    return files


def _outputs(files: Iterable[Path], out: Path) -> str:
    return digest(_state(files), _state(_within(out / FOLDER)))


def _within(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _state(files: Iterable[Path]) -> list[str]:
    """Each file with its size and time; one that is not there, by name alone."""
    return [f"{file} {at.st_size} {at.st_mtime_ns}" if (at := _stat(file)) else str(file) for file in files]


def _stat(file: Path) -> os.stat_result | None:
    try:
        return file.stat()
    except OSError:
        return None
