"""Where things are kept on this machine: the cache, the checked results, and the scratch folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_root() -> Path:
    """`$BENCH_CACHE`, else the user's cache folder; one under the project's old name is moved there, once."""
    if named := os.environ.get("BENCH_CACHE"):
        return Path(named).expanduser()
    caches = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
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


def default_results() -> Path:
    """`results/` of the checkout bench runs from, else of the working folder."""
    root = Path(__file__).resolve().parents[2]
    return (root if (root / "pyproject.toml").is_file() else Path.cwd()) / "results"


def scratch() -> Path:
    """Where runs go that the checked results do not accept."""
    return cache_root() / "scratch" / "results"
