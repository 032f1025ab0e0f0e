"""SVFT: a sparse change in the basis of the weights' singular vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bench import Count, LayerSpec, Positive, Size, method
from bench.training.parametrisations import SPREAD, WRITERS
from methods._trained import Trained


@method(
    "svft",
    surface="weights",
    paper="arXiv:2405.19597",
    needs=["delta", "train"],
    provides=["steering"],
)
@dataclass(frozen=True)
class SVFTMethod(Trained):
    """Singular vectors guided fine-tuning.

    Equation: ΔW = U M Vᵀ with M `[k, k]` free on a pattern: `plain` its diagonal, `banded` |i - j| <= `band`,
    `random` the diagonal and as many others as the band has, `top-k` as many where |u_i·v_j| is largest;
    steering W0 + cΔW.
    Deviations: M starts at 0, the identity (the code does not); the top `rank` directions rather than all
    (`rank = 0`), and W0 is not cut; M is in units of the mean kept singular value; `top-k` compares u_i
    with v_j, and needs square modules; no gate for each module.
    Reproduction: no AxBench row; the paper recovers up to 96 % of full fine-tuning.
    """

    parametrisation: str = "svft"
    rate: Positive = 0.02
    layers: tuple[LayerSpec, ...] = SPREAD
    modules: tuple[str, ...] = WRITERS
    rank: Count = 128
    variant: Literal["plain", "banded", "random", "top-k"] = "banded"
    band: Size = 4
