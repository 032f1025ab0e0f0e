"""DPO on a vector: what BiPO is without its second sign."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bench import method
from methods._trained import Trained


@method(
    "dpo",
    surface="activations",
    paper="arXiv:2305.18290",
    views=["pairs"],
    needs=["add", "train"],
    provides=["steering", "detector"],
)
@dataclass(frozen=True)
class DPOVector(Trained):
    """Direct preference optimisation of one added vector.

    Equation: -log σ(β·[log π(y⁺; h + μw)/π(y⁺) - log π(y⁻; h + μw)/π(y⁻)]), w `[H]` from 0 after block
    `layer`; sums over response tokens; steering h ← h + αw.
    Deviations: DPO trains all weights; here it is the plain baseline beside BiPO on the same vector.
    `-p lora.objective=dpo` is the usual adapter.
    Reproduction: Turner et al. (2025) find plain DPO as good as BiPO on Gemini; no AxBench row.
    """

    own_epochs: ClassVar[int] = 12
    objective: str = "dpo"
    beta: float = 0.1
    layer: int | float = 0.5
    init: float = 0.0
