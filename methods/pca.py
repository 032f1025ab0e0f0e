"""PCA: the main axis of variation of the positive texts."""

from __future__ import annotations

from dataclasses import dataclass

from bench import Array, Context, Train, method
from methods._directions import DirectionMethod, first_component, oriented


@method(
    "pca",
    surface="activations",
    paper="arXiv:2501.17148",
    needs=["add"],
    provides=["steering", "detector"],
    recovers=True,
)
@dataclass(frozen=True)
class Pca(DirectionMethod):
    """First principal component of the activations of texts with the concept.

    Equation: w = PC1(T⁺ - mean T⁺) `[H]`, T⁺ the token activations `[N, H]` after block `layer`.
    Deviations from AxBench: the arbitrary sign of a component is set so that positives project
    above negatives (`orient = false` leaves it as the decomposition gives it); texts end with their answer,
    as in `diffmean`.
    Reproduction: AxBench reports AUROC .712 (Gemma-2-2B, layer 20), far below DiffMean; so do we.
    """

    orient: bool = True

    def vector(self, ctx: Context, train: Train, layer: int) -> Array:
        positive = ctx.tokens(train.positives, layer)
        w = first_component(positive)
        return oriented(w, positive, ctx.tokens(train.negatives, layer)) if self.orient else w
