"""Low-rank weight changes as an adapter folder in peft's layout, which peft, vLLM and others load as a plain LoRA.

Invariant: the adapter at its own scale is the change at the strength it was given, and what is no low-rank change is
refused before a byte is written.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from safetensors.numpy import save

from bench.core.content import Array
from bench.core.deltas import Delta, LowRankDelta
from bench.core.errors import BenchError

CONFIG = "adapter_config.json"


def factors(deltas: Sequence[Delta]) -> dict[str, tuple[Array, Array]]:
    """module -> (A `[r, in]`, B `[out, r]`) with ΔW = B A; changes of one module add up to one of their ranks' sum."""
    found: dict[str, list[LowRankDelta]] = {}
    for delta in deltas:
        if not isinstance(delta, LowRankDelta):
            raise BenchError(f"an adapter cannot hold a {type(delta).__name__} of {delta.module}")
        found.setdefault(delta.module, []).append(delta)
    return {
        module: (
            np.ascontiguousarray(np.concatenate([delta.down for delta in own]), np.float32),
            np.ascontiguousarray(np.concatenate([delta.strength * delta.up for delta in own], 1), np.float32),
        )
        for module, own in found.items()
    }


def encode(deltas: Sequence[Delta], base: str = "", even: bool = False) -> dict[str, bytes]:
    """File name -> content of the folder; `base` is the model's name.

    `even` fills every module up to the largest rank with zeros, for engines that take one rank an adapter.
    """
    own = factors(deltas)
    rank = max(len(down) for down, _ in own.values())
    if even:
        room = {module: rank - len(down) for module, (down, _) in own.items()}
        own = {
            module: (np.pad(down, ((0, room[module]), (0, 0))), np.pad(up, ((0, 0), (0, room[module]))))
            for module, (down, up) in own.items()
        }
    ranks = {module: len(down) for module, (down, _) in own.items() if len(down) != rank}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,  # a scale of 1: the factors hold the strength
        "rank_pattern": ranks,
        "alpha_pattern": ranks,
        "target_modules": sorted(own),
        "bias": "none",
        "lora_dropout": 0.0,
    }
    tensors: dict[str, Array] = {}
    for module, (down, up) in own.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = down
        tensors[f"base_model.model.{module}.lora_B.weight"] = up
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    return {CONFIG: text.encode(), "adapter_model.safetensors": save(tensors, {"format": "pt"})}
