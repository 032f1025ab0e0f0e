"""Low-rank weight deltas as peft adapter folders, for engines that take LoRA adapters per request.

Invariant: a folder's name is the digest of what it holds, strengths included, and it appears whole or not
at all; the coefficient is folded into B, so one adapter is one coefficient.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from bench.core.adapter_folder import CONFIG, encode, factors
from bench.core.claims import Claims, share
from bench.core.content import digest
from bench.core.deltas import Delta, LowRankDelta
from bench.core.errors import BenchError
from bench.core.paths import cache_root
from bench.core.store import folder_in_place

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks an engine can be started with."""
KEPT = 256
"""Adapter folders that stay in the cache; older ones go."""
_MODULE = re.compile(r"model\.layers\.(\d+)\.(?:self_attn\.[qkvo]|mlp\.(?:gate|up|down))_proj")


def check(deltas: Sequence[Delta], layers: int) -> None:
    """Refuse, by name, what no LoRA adapter can hold."""
    for delta in deltas:
        if not isinstance(delta, LowRankDelta):
            raise BenchError(f"backend vllm cannot apply a {type(delta).__name__} (on {delta.module!r}): use hf")
        found = _MODULE.fullmatch(delta.module)
        if not found or int(found[1]) >= layers:
            raise BenchError(f"backend vllm cannot apply a delta on {delta.module!r}: no linear module of its layers")
    if deltas and rank_of(deltas) > RANKS[-1]:
        raise BenchError(f"backend vllm takes deltas up to rank {RANKS[-1]}, not {rank_of(deltas)}: use hf")


def rank_of(deltas: Sequence[Delta]) -> int:
    """The rank one adapter needs: deltas of one module add up."""
    return max((len(down) for down, _ in factors(deltas).values()), default=0)


def adapter(deltas: Sequence[Delta], root: Path | None = None) -> Path:
    """The folder of an adapter with these deltas, written where it is missing."""
    folder = (root or cache_root() / "adapters") / digest(*deltas)
    if (folder / CONFIG).is_file():
        (folder / CONFIG).touch()
        return folder
    claims = Claims(folder.parent)
    for _ in share(claims, [folder.name], lambda names: [name for name in names if not folder.is_dir()]):
        with folder_in_place(folder, claims, Path.is_dir) as work:
            for name, content in encode(deltas, even=True).items():
                (work / name).write_bytes(content)
    claims.close()
    return folder


def prune(keep: int = KEPT, root: Path | None = None) -> None:
    """Delete all but the `keep` adapters used last."""
    folders = list((root or cache_root() / "adapters").glob(f"*/{CONFIG}"))
    for path in sorted(folders, key=lambda p: p.stat().st_mtime, reverse=True)[keep:]:
        shutil.rmtree(path.parent, ignore_errors=True)
