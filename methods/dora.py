"""DoRA: LoRA of each weight row's direction, with its magnitude apart."""

from __future__ import annotations

from dataclasses import dataclass

from bench import LayerSpec, Positive, Size, method
from bench.training.parametrisations import SPREAD, WRITERS
from methods._trained import Trained


@method(
    "dora",
    surface="weights",
    paper="arXiv:2402.09353",
    needs=["delta", "train"],
    provides=["steering"],
)
@dataclass(frozen=True)
class DoRAMethod(Trained):
    """Weight-decomposed low-rank adaptation.

    Equation: W' = m ⊙ (W0 + s·B A) / ‖W0 + s·B A‖ by output row, m `[out]` from ‖W0‖, s = α/√r (α/r without
    `rslora`); ΔW = W' - W0, steering W0 + cΔW. The norm is a constant to the gradient.
    Deviations: α as `lora`'s, not 2r, so that the two differ by the magnitudes alone; no dropout;
    the norm comes from the factors, so no `[out, in]` product is made per concept. Exported dense, since a
    row's rescaling has full rank.
    Reproduction: no AxBench row; the paper is above LoRA on commonsense reasoning (Llama-7B 78.4, 74.7).
    """

    parametrisation: str = "dora"
    rate: Positive = 5e-3
    layers: tuple[LayerSpec, ...] = SPREAD
    modules: tuple[str, ...] = WRITERS
    rank: Size = 4
    alpha: Positive = 32.0
    rslora: bool = True
