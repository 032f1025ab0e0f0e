"""Where things are kept on this machine: the cache, which can be made anew, and results, which are in none."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from bench.core.errors import UsageError

TAG = "CACHEDIR.TAG"
"""Marks the cache as bench's, in the form that backups know (bford.info/cachedir)."""
SIGNATURE = "Signature: 8a477f597d28d172789f06886806bc55\n# Made by steer-or-prompt; `bench cache` says what is here.\n"
KINDS = (
    *("models", "wheels", "fits", "rows", "capability", "adapters", "vllm", "logs", "probes", "memory"),
    *("checksums", "offload"),
)
"""Folders of the cache that can be made anew."""
BEFORE = ("scratch", "again")
"""Folders in caches of 0.1.0 that hold results."""
LAST = "last.json"
"""In it: which results folder the last `bench run` wrote to, and which groups."""
FILES = (TAG, "rates.json", LAST)


def expanded(path: str | Path) -> Path:
    """A path as its user wrote it, with `~`; raises UsageError where that names nobody."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{path}: there is no such home folder") from error


def is_folder(path: str | Path) -> bool:
    """Whether a user named a folder that is there; a name of another kind is none."""
    try:
        return expanded(path).is_dir()
    except (UsageError, OSError):
        return False


def cache_root() -> Path:
    """`$BENCH_CACHE`, else the user's cache folder; one under the project's old name is moved there, once."""
    if named := os.environ.get("BENCH_CACHE", "").strip():
        return expanded(named)
    caches = Path(os.environ.get("XDG_CACHE_HOME") or expanded("~/.cache"))
    here, before = caches / "steer-or-prompt", caches / "steerbench"
    if before.is_dir() and not here.exists():
        try:
            before.rename(here)
        except FileNotFoundError:
            return here  # another process was first
        except OSError:
            return before
        print(f"bench: the cache is now {here} (was {before})", file=sys.stderr)
    return here


def mark_cache() -> None:
    """Mark the cache as bench's where nothing else is in it."""
    root = cache_root()
    if not (root / TAG).exists() and not list(foreign(root)):
        with suppress(OSError):  # what is to be kept there says why it cannot be
            root.mkdir(parents=True, exist_ok=True)
            (root / TAG).write_text(SIGNATURE)


def foreign(root: Path) -> Iterator[str]:
    """What lies in a cache folder that no program of this name puts there."""
    known = {*KINDS, *BEFORE, *FILES}
    yield from sorted(p.name for p in root.glob("*") if p.name not in known and not _part(p.name))


def _part(name: str) -> bool:
    """Whether it is a file of `FILES` that a killed process was writing."""
    return name.startswith(".") and name.removeprefix(".").startswith(FILES)


def owned(root: Path) -> bool:
    """Whether a folder is a cache of bench: marked, or of a version that did not mark it and holding nothing else."""
    if (root / TAG).is_file():
        return True
    made = ("rows/*/*/*.jsonl", "fits/*/key.json", "models/*/bench-manifest.json")
    return not list(foreign(root)) and any(next(root.glob(each), None) for each in made)


def default_results() -> Path:
    """`results/` of the checkout bench runs from, else of the working folder."""
    root = Path(__file__).resolve().parents[2]
    return (root if (root / "pyproject.toml").is_file() else Path.cwd()) / "results"


def data_root() -> Path:
    """`$BENCH_DATA`, else the user's data folder: what cannot be made anew at no cost, and so is in no cache."""
    if named := os.environ.get("BENCH_DATA", "").strip():
        return expanded(named)
    return Path(os.environ.get("XDG_DATA_HOME") or expanded("~/.local/share")) / "steer-or-prompt"


def scratch() -> Path:
    """Where runs go that the checked results do not accept; those in the cache of 0.1.0 are moved here, once."""
    here, before = data_root(), cache_root() / BEFORE[0]
    if (before / "results").is_dir() and not (here / "results").exists():
        try:
            here.mkdir(parents=True, exist_ok=True)
            for part in ("results", "reports"):
                if (before / part).is_dir() and not (here / part).exists():
                    (before / part).rename(here / part)
        except FileNotFoundError:
            return here / "results"  # another process was first
        except OSError:
            return before / "results"  # on another disk: they stay until their user moves them
        print(f"bench: results are now in {here} (were in {before})", file=sys.stderr)
    return here / "results"
