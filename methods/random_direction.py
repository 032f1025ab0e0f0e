"""The control every vector must beat: a direction that knows nothing."""

from __future__ import annotations

from dataclasses import dataclass

from bench import Array, Context, Train, method
from methods._directions import DirectionMethod


@method("random", surface="control", needs=["add"], provides=["steering", "detector"])
@dataclass(frozen=True)
class RandomDirection(DirectionMethod):
    """A random unit direction at the same layer and norm as the fitted ones.

    Equation: w ~ N(0, I_H), w / ‖w‖; one draw per concept and seed.
    """

    def vector(self, ctx: Context, train: Train, layer: int) -> Array:
        width = ctx.tokens(train.negatives, layer).shape[1]
        drawn: Array = ctx.rng("random", train.concept.id, layer).standard_normal(width)
        return drawn
