"""BiPO: a vector whose two signs prefer opposite answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from bench import method
from methods._trained import Trained


@method(
    "bipo",
    surface="activations",
    paper="arXiv:2406.00045",
    views=["pairs"],
    needs=["add", "train"],
    provides=["steering", "detector"],
)
@dataclass(frozen=True)
class BiPOVector(Trained):
    """Bi-directional preference optimisation: DPO of an added vector under both of its signs.

    Equation: -E_d log σ(dβ·[log π(y⁺; h + dμw)/π(y⁺) - log π(y⁻; h + dμw)/π(y⁻)]), d = ±1, w `[H]` from 0
    after block `layer`; sums over response tokens; steering h ← h + αw at all positions.
    Deviations: half of each step's pairs get d = 1 and half d = -1, where the code draws one d a step;
    the rate is in units of median ‖h‖ / √H and falls linearly, without warm-up. `--compat axbench`
    trains what AxBench calls BiPO: DPO, and DPO of the sides exchanged with the vector taken out (`dpo-null`).
    Reproduction: the paper lifts TruthfulQA MC1 of Llama-2-7B by about 15 points; as an AxBench vector
    the RePS paper reports .173 (Gemma-2-2B, layer 20).
    """

    own_epochs: ClassVar[int] = 12
    factor: ClassVar[float] = 1.0
    axbench: ClassVar[Mapping[str, Any]] = {
        "objective": "dpo-null",
        "rate": 0.04,
        "batch": 6,
        "batches": 2,
        "beta": 1.0,
        "start": "uniform",
        "bias": True,
    }

    objective: str = "bipo"
    beta: float = 0.1
    layer: int | float = 0.5
    init: float = 0.0
    start: Literal["normal", "constant", "uniform"] = "normal"
    bias: bool = False
