"""AntiPaSTO: a reversible rotation whose two signs push a persona's states apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bench import LayerSpec, Positive, Size, method
from bench.training.parametrisations import WRITERS
from methods._trained import Trained


@method(
    "antipasto",
    surface="weights",
    paper="arXiv:2601.07473",
    views=["texts", "personas"],
    needs=["delta", "train"],
    provides=["steering"],
)
@dataclass(frozen=True)
class AntiPaSTOMethod(Trained):
    """Anti-parallel steering of a bounded rotation in the weights' singular basis, without preference labels.

    Equation: W(c) = U(S + cδ)R(cA)Vᵀ + W_res, R(A) = (I - A/2)⁻¹(I + A/2), A skew with bounded norm. With
    g_c = Pᵀ(h_c(p⁺) - h_c(p⁻)) under two personas, v± = (g_±1 - g_0)/σ, v0 = g_0/σ, the loss is s + ReLU(s)²,
    s = 30·cos(v+, v0)·cos(v-, v0)·focus, plus a bound on how far each sign's predictions move and a margin for
    the order of the personas' likelihoods.
    Deviations: ‖A‖₂ is bounded, not each entry, which bounds no angle; P is the main axes of the personas'
    difference alone; σ and P are measured once; the sign is the personas' from the start, not flipped
    after evaluation; mean pooling of the coherence term, as in the code, whose warm-up lies inside the
    logarithm, which picks a direction for each batch, and which counts the prompt's tokens too.
    Reproduction: the paper reports steering F1 on daily dilemmas (Gemma-3-1B 31.2); no AxBench row.
    """

    own_epochs: ClassVar[int] = 30
    parametrisation: str = "rotation"
    objective: str = "antipasto"
    rate: Positive = 5e-3
    layers: tuple[LayerSpec, ...] = (0.1, 0.2, 0.3, 0.4)
    modules: tuple[str, ...] = WRITERS
    rank: Size = 48
    target: float = 0.5
