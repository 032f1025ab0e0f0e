"""SSVD: the weights' top input directions, turned and rescaled."""

from __future__ import annotations

from dataclasses import dataclass

from bench import LayerSpec, Positive, Share, method
from bench.training.parametrisations import SPREAD, WRITERS
from methods._trained import Trained


@method(
    "ssvd",
    surface="weights",
    paper="arXiv:2509.02830",
    needs=["delta", "train"],
    provides=["steering"],
)
@dataclass(frozen=True)
class SSVDMethod(Trained):
    """Structured singular value decomposition: rotation and rescaling of the top right singular directions.

    Equation: ΔW = U_k[(Σ_k + δ)G - Σ_k]V_kᵀ, G = (I - K)(I + K)⁻¹ for skew K `[k, k]` (`strict`) or I - 2K, k the top
    `share` of directions, K = δ = 0 at first; c scales K and δ, so that G(-c) is the inverse of G(c) if strict.
    Deviations: `strict` by default, since I - 2K is a rotation only for small K (the paper's default);
    δ from 0 in units of each singular value; a tenth of the directions; no gate for each module.
    Reproduction: the paper adapts speech models; no AxBench row.
    """

    parametrisation: str = "ssvd"
    rate: Positive = 0.01
    layers: tuple[LayerSpec, ...] = SPREAD
    modules: tuple[str, ...] = WRITERS
    share: Share = 0.1
    strict: bool = True
