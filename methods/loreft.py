"""LoReFT: a low-rank edit of the prompt's first and last positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from bench import Count, LayerSpec, Positive, Size, method
from bench.training.parametrisations import SPREAD
from methods._trained import Trained


@method(
    "loreft",
    surface="activations",
    paper="arXiv:2404.03592",
    needs=["lowrank", "train"],
    provides=["steering"],
)
@dataclass(frozen=True)
class LoReFTMethod(Trained):
    """Low-rank linear-subspace finetuning of hidden states at prompt positions.

    Equation: h ← h + Rᵀ(W h + b - R h) at the first `first` and last `last` prompt tokens after each of the
    blocks `layers`, R `[r, H]` with orthonormal rows, W `[r, H]`, b `[r]` in median norms, trained with the
    language-model loss on texts with the concept; steering scales the edit.
    Deviations: it starts at W = R, b = 0, the identity (pyreft does not); the rate is in units of W's entries,
    1 / √H, so that a step moves the edit as far through W as through b; the first positions count from
    the user's own words, in training and in use alike. `--compat axbench` starts as pyreft does, counts
    from token 0 and adds up the gradients of two batches; R alone moves otherwise, in another chart of the rotations.
    Reproduction: AxBench reports .722 (Gemma-2-2B, layer 20), without a coefficient.
    """

    axbench: ClassVar[Mapping[str, Any]] = {"rate": 9e-4, "batch": 18, "batches": 2, "summed": True}

    parametrisation: str = "loreft"
    rate: Positive = 0.2
    layers: tuple[LayerSpec, ...] = SPREAD
    rank: Size = 4
    first: Count = 5
    last: Size = 5
