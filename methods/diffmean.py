"""DiffMean: the difference of mean activations."""

from __future__ import annotations

from dataclasses import dataclass

from bench import Array, Context, Train, method
from methods._directions import DirectionMethod


@method(
    "diffmean",
    surface="activations",
    paper="arXiv:2501.17148",
    needs=["add"],
    provides=["steering", "detector"],
    antisymmetric=True,
    recovers=True,
)
@dataclass(frozen=True)
class DiffMean(DirectionMethod):
    """Difference of the mean activations of texts with and without the concept.

    Equation: w = mean(T⁺) - mean(T⁻), w / ‖w‖ `[H]`, over all tokens of the positive and negative
    texts after block `layer`; steering h ← h + αw, detection max_i h_i·w.
    Deviations from AxBench: `layer` is a relative depth by default; texts end with their answer, where
    AxBench trains on the cut header of a next turn too.
    Reproduction: AxBench reports AUROC .946 (Gemma-2-2B, layer 20); see docs/reproduction.md for
    ours on the same texts with the default model.
    """

    def vector(self, ctx: Context, train: Train, layer: int) -> Array:
        difference: Array = ctx.tokens(train.positives, layer).mean(0) - ctx.tokens(train.negatives, layer).mean(0)
        return difference
