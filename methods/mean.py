"""Mean: the average activation, a direction without a contrast."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench import Array, Context, Train, method
from methods._directions import DirectionMethod


@method("mean", surface="activations", paper="arXiv:2501.17148", needs=["add"], provides=["steering", "detector"])
@dataclass(frozen=True)
class Mean(DirectionMethod):
    """Mean activation of the positive and negative texts together.

    Equation: w = mean(T⁺ ∪ T⁻), w / ‖w‖ `[H]`, over all tokens after block `layer`. It shows what a push
    along the common direction of all text does; it should neither steer nor detect a concept.
    Deviations from AxBench: `layer` is a relative depth by default; texts end with their answer, where
    AxBench trains on the cut header of a next turn too.
    Reproduction: AxBench reports no row for it.
    """

    def vector(self, ctx: Context, train: Train, layer: int) -> Array:
        both = [ctx.tokens(rows, layer) for rows in (train.positives, train.negatives)]
        mean: Array = np.concatenate(both).mean(0)
        return mean
