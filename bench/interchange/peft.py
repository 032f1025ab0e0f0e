"""Low-rank weight changes as a peft adapter folder, which peft, vLLM and others load as a plain LoRA.

Invariant: the adapter at its own scale is the steering at the strength it was given, and what is no low-rank
change is refused before a byte is written.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np

from bench.core.content import Array
from bench.core.deltas import LowRankDelta
from bench.core.errors import BenchError
from bench.core.steering import Prompt, Steering


def encode(steering: Steering, base: str) -> dict[str, bytes]:
    """File name -> content of the folder; `base` is the model's name.

    Several changes of one module become one of their ranks' sum. Raises BenchError, naming the part, for
    what a LoRA cannot hold, and where peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise BenchError("--format peft needs the package peft: pip install 'steerbench[peft]'") from error
    from safetensors.numpy import save

    factors = _factors(steering)
    ranks = {module: down.shape[0] for module, (down, _) in factors.items()}
    rank = max(ranks.values())
    config = LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        inference_mode=True,
        r=rank,
        lora_alpha=rank,  # a scale of 1: the factors hold the strength
        target_modules=sorted(factors),
        rank_pattern={module: r for module, r in ranks.items() if r != rank},
        alpha_pattern={module: r for module, r in ranks.items() if r != rank},
    )
    tensors: dict[str, Array] = {}
    for module, (down, up) in factors.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = down
        tensors[f"base_model.model.{module}.lora_B.weight"] = up
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        written = json.loads((Path(folder) / "adapter_config.json").read_text("utf-8"))
    written["target_modules"] = sorted(factors)  # peft keeps a set, whose order is not fixed
    text = json.dumps(written, indent=2, sort_keys=True) + "\n"
    return {"adapter_config.json": text.encode(), "adapter_model.safetensors": save(tensors, {"format": "pt"})}


def _factors(steering: Steering) -> dict[str, tuple[Array, Array]]:
    """module -> (A `[r, in]`, B `[out, r]`) with ΔW = B A."""
    found: dict[str, list[LowRankDelta]] = defaultdict(list)
    parts = {"a prompt edit": steering.prompt != Prompt()}
    parts |= {f"a {type(edit).__name__} edit at layer {edit.layer}": True for edit in steering.edits}
    for delta in steering.deltas:
        if isinstance(delta, LowRankDelta):
            found[delta.module].append(delta)
        else:
            parts[f"a {type(delta).__name__} of {delta.module}"] = True
    if refused := next((part for part, present in parts.items() if present), ""):
        raise BenchError(f"peft cannot hold {refused}; --format safetensors can")
    if not found:
        raise BenchError("peft holds low-rank weight changes, and this steering has none")
    return {
        module: (
            np.ascontiguousarray(np.concatenate([delta.down for delta in own]), np.float32),
            np.ascontiguousarray(np.concatenate([delta.strength * delta.up for delta in own], 1), np.float32),
        )
        for module, own in found.items()
    }
