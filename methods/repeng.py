"""repeng control vectors: persona pairs, truncated suffixes, one component per layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from bench import Array, Context, LayerSpec, Train, method
from methods._directions import DirectionMethod, agreeing, first_component
from methods._personas import stimuli


@method(
    "repeng",
    surface="activations",
    paper="github.com/vgel/repeng",
    views=("texts", "personas"),
    needs=["add"],
    provides=["steering", "detector"],
    antisymmetric=True,
    recovers=True,
)
@dataclass(frozen=True)
class Repeng(DirectionMethod):
    """Control vector: the component of pair-centred persona states, added at a span of layers.

    Equation: per layer, with h_i^± the last-token states of pair i and m_i their midpoint,
    `pca_center`: w = PC1({h_i⁺ - m_i} ∪ {h_i⁻ - m_i}) `[H]`; `pca_diff`: w = PC1({h_i⁺ - h_i⁻}), centred.
    `pca_diff`, the reference's default, subtracts the mean difference, and so the concept itself: with a
    shift that is equal in all pairs it finds noise. It is here for fidelity. Most pairs decide the sign.
    Deviations: `pca_center` by default; no repetition penalty, which would hide collapse; the span
    0.35:0.65 in place of a list per model; the coefficient is the push of all layers together.
    Reproduction: no published AxBench row; the tests hold |cos| with a planted direction below .2
    (`pca_diff`) and above .99 (`pca_center`). repeng reads the last block after the final norm, which is not here.
    """

    layer: LayerSpec = "0.35:0.65"
    variant: Literal["pca_center", "pca_diff"] = "pca_center"

    def prefetch(self, ctx: Context, train: Train, layers: list[int]) -> None:
        plus, minus = stimuli(ctx, train)
        ctx.last([*plus, *minus], layers)

    def vector(self, ctx: Context, train: Train, layer: int) -> Array:
        plus, minus = (ctx.last(chats, layer)[layer] for chats in stimuli(ctx, train))
        half = (plus - minus) / 2
        rows = np.concatenate([half, -half]) if self.variant == "pca_center" else 2 * half
        return agreeing(first_component(rows), plus, minus)
