"""LoRA: low-rank weight changes trained on the concept's texts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from bench import LayerSpec, Positive, Size, method
from bench.training.parametrisations import SPREAD, WRITERS
from methods._trained import Trained


@method(
    "lora",
    surface="weights",
    paper="arXiv:2106.09685",
    needs=["delta", "train"],
    provides=["steering"],
)
@dataclass(frozen=True)
class LoRAMethod(Trained):
    """Low-rank adapters on the modules that write to the residual stream.

    Equation: W = W0 + cΔW, ΔW = s·B A, A `[r, in]`, B `[out, r]` from 0, s = α/√r (α/r without `rslora`), for
    `modules` of the blocks `layers`, trained at c = 1 with the language-model loss on texts with the concept.
    Deviations from AxBench: `mlp-out` beside `attn-out` (not under `--compat axbench`); no dropout (.05
    there); all concepts train in one batch, each row through its own factors. `bench export
    --format peft` writes peft's format.
    Reproduction: AxBench reports .641 (Gemma-2-2B, layer 20), without a coefficient.
    """

    axbench: ClassVar[Mapping[str, Any]] = {
        "rate": 9e-4,
        "batch": 18,
        "batches": 2,
        "clip": math.inf,
        "modules": ("attn-out",),
    }

    parametrisation: str = "lora"
    rate: Positive = 5e-3
    layers: tuple[LayerSpec, ...] = SPREAD
    modules: tuple[str, ...] = WRITERS
    rank: Size = 4
    alpha: Positive = 32.0
    rslora: bool = True
