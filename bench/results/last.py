"""The run that was made last: what the next command means where it names no folder.

Invariant: a pointer and no result; without it, or where its folder is gone, everything is found as before.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from bench.core import paths
from bench.core.documents import read_json
from bench.core.errors import BenchError, UsageError
from bench.core.store import write_json
from bench.results.runs import Run, lookup, meant, survey


class Pointer(TypedDict):
    """`last.json`."""

    results: str
    groups: list[str]


@dataclass(frozen=True)
class Last:
    """A results folder, and the groups (`RunSpec.group`) of the runs that one command made in it."""

    root: Path
    groups: tuple[str, ...]

    def runs(self) -> list[Run]:
        """Its runs that can be read."""
        return [run for run in survey(self.root)[0] if run.data["group"] in self.groups]


def remember(root: Path, groups: Iterable[str]) -> None:
    """Note what a run made; one that cannot be noted is as good as any."""
    with suppress(OSError):
        write_json(paths.cache_root() / paths.LAST, {"results": str(root.absolute()), "groups": sorted(set(groups))})


def last() -> Last | None:
    """What was noted last, if it is still there."""
    try:
        found = read_json(paths.cache_root() / paths.LAST, Pointer, "a note of the last run")
    except BenchError:
        return None
    root = Path(found["results"])
    if root.parent.name == paths.BEFORE[0]:  # results in an older cache move, and this is when
        here = paths.scratch()
        root = root if root.is_dir() else here
    return Last(root, tuple(found["groups"])) if root.is_dir() else None


def roots(folder: Path | None, made: Last | None = None) -> list[Path]:
    """Where runs are looked up: the given folder, else the checked results, scratch, and where the last run (`made`, or
    the one that was noted) went."""
    if folder:
        return [folder]
    made = made or last()
    return list(dict.fromkeys([paths.default_results(), paths.scratch(), *([made.root] if made else [])]))


def find(name: str, folder: Path | None) -> tuple[Run, str]:
    """The run that a name means, and a line that says which: of the last command's, where it made such a one and no
    other folder is named; else as `bench.results.lookup`."""
    made = last()
    if made and (folder is None or folder.absolute() == made.root):
        found = meant(name, made.runs())
        if len(found) == 1:
            return found[0], f"{found[0].path.parent.name} is of the last run: {told(found[0])}"
    run = lookup(name, roots(folder, made))
    return run, f"{run.path.parent.name}: {told(run)}"


def latest(folder: Path | None) -> tuple[list[Run], str]:
    """The runs that the last command made, and a line that says which. Raises UsageError where none is
    known, or none of the folder that is named."""
    made = last()
    found = made.runs() if made and (folder is None or folder.absolute() == made.root) else []
    if not made or not found:
        raise UsageError(f"no run was made last{f' in {folder}' if folder else ''}: name one (bench list runs)")
    names = ", ".join(run.path.parent.name for run in found)
    return found, f"of the last run, in {made.root}: {names}"


def told(run: Run) -> str:
    """Where a run lies and how it was made."""
    root = run.path.absolute().parents[min(3, len(run.path.absolute().parents) - 1)]
    return f"preset {run.data['spec']['protocol']['preset']}, in {root}"
