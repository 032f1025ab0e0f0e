"""Where things are kept on this machine: the cache, the checked results, and the scratch folder."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """`$BENCH_CACHE`, else the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "steerbench"
    return Path(os.environ.get("BENCH_CACHE", default)).expanduser()


def default_results() -> Path:
    """`results/` of the checkout bench runs from, else of the working folder."""
    root = Path(__file__).resolve().parents[2]
    return (root if (root / "pyproject.toml").is_file() else Path.cwd()) / "results"


def scratch() -> Path:
    """Where runs go that the checked results do not accept."""
    return cache_root() / "scratch" / "results"
