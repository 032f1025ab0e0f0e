"""PiSSA: LoRA that starts from the weights' principal factors."""

from __future__ import annotations

from dataclasses import dataclass

from bench import LayerSpec, Positive, Size, method
from bench.training.parametrisations import SPREAD, WRITERS
from methods._trained import Trained


@method(
    "pissa",
    surface="weights",
    paper="arXiv:2404.02948",
    needs=["delta", "train"],
    provides=["steering"],
)
@dataclass(frozen=True)
class PiSSAMethod(Trained):
    """Principal singular values and vectors adaptation.

    Equation: ΔW = s·(B A - B0 A0), A0 = √S_r V_rᵀ `[r, in]`, B0 = U_r √S_r `[out, r]` of W0 / s, A and B from A0
    and B0; s = α/r; steering W0 + cΔW, of rank 2r at most.
    Deviations: the base weight stays whole, so that c = 0 is the bare model bit for bit, where peft puts
    W0 - s·B0 A0 in its place; exact singular vectors; no warm-up.
    Reproduction: no AxBench row; the paper is above LoRA on GSM8K (Gemma-7B 77.7, 74.5).
    """

    parametrisation: str = "pissa"
    rate: Positive = 1e-2
    layers: tuple[LayerSpec, ...] = SPREAD
    modules: tuple[str, ...] = WRITERS
    rank: Size = 4
    alpha: Positive = 4.0
    rslora: bool = False
