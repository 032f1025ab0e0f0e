"""RePS: a vector that steers to the concept, and away from it when taken out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from bench import method
from methods._trained import Trained


@method(
    "reps",
    surface="activations",
    paper="arXiv:2505.20809",
    views=["pairs"],
    needs=["add", "train"],
    provides=["steering", "detector"],
)
@dataclass(frozen=True)
class RePSVector(Trained):
    """Reference-free preference steering: one vector, trained to add the concept and, taken out, to remove it.

    Equation: -½[log σ(Δ⁺) + log σ(Δ⁻)] with Δ⁺ = β⁺·log p(y⁺; h + αμw)/|y⁺| - log p(y⁻; h + αμw)/|y⁻| and
    Δ⁻ = β⁻·log p(y⁻; Φ)/|y⁻| - log p(y⁺; Φ)/|y⁺|, Φ: h ← h - ReLU(h·w)/‖w‖² w; β± = max(bare log p of the
    rejected answer - of the chosen, 1); α from `factors`, w `[H]` after block `layer`.
    Deviations: no scalar `bias` by default; factors in units of the trained length. As in the paper, lengths
    count response tokens and both answers share one α; `--compat axbench` counts all tokens, draws α for each,
    learns the bias (and steers without it), and drops Δ⁻ where the parametrisation is no vector, as the
    reference's code does. Its c = 0.2 to 5 is then the reference's factor 2 to 50.
    Reproduction: the RePS paper reports .606 for the vector, .793 for LoRA (Gemma-2-2B, layer 20).
    """

    own_epochs: ClassVar[int] = 18
    factor: ClassVar[float] = 10.0
    axbench: ClassVar[Mapping[str, Any]] = {
        "rate": 0.04,
        "batch": 6,
        "start": "uniform",
        "bias": True,
        "factors": (2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 18.0, 20.0),
    }

    objective: str = "reps"
    factors: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5)
    layer: int | float = 0.5
    init: float = 0.01
    start: Literal["normal", "constant", "uniform"] = "normal"
    bias: bool = False
