"""LAT: the main axis of random activation differences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench import Array, Context, Train, method
from methods._directions import DirectionMethod, first_component, oriented


@method(
    "lat",
    surface="activations",
    paper="arXiv:2310.01405",
    needs=["add"],
    provides=["steering", "detector"],
    recovers=True,
)
@dataclass(frozen=True)
class Lat(DirectionMethod):
    """First principal component of normalised differences between random pairs of tokens.

    Equation: permute T⁺ `[N, H]`, δ_j = x_j - x_{j+N/2}, δ̂_j = δ_j/‖δ_j‖ (0 where δ_j = 0),
    w = PC1(δ̂), as AxBench's variant, which reads the positive texts alone.
    Deviations: sign set so that positives project above negatives (`orient = false` leaves it); texts end
    with their answer, as in `diffmean`.
    Reproduction: AxBench reports AUROC .809 (Gemma-2-2B, layer 20).
    """

    orient: bool = True

    def vector(self, ctx: Context, train: Train, layer: int) -> Array:
        positive = ctx.tokens(train.positives, layer)
        rows = ctx.rng("lat", train.concept.id).permutation(positive)
        half = len(rows) // 2
        delta = rows[:half] - rows[half : 2 * half]
        norm = np.linalg.norm(delta, axis=1, keepdims=True)
        w = first_component(np.divide(delta, norm, out=np.zeros_like(delta), where=norm > 0))
        return oriented(w, positive, ctx.tokens(train.negatives, layer)) if self.orient else w
