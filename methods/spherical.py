"""Spherical steering: move states along the sphere to the concept, the more the further they point away from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bench import Array, Context, Example, Fitted, Rotate, Span, Steering, Train, method
from methods._directions import (
    DirectionDetector,
    DirectionMethod,
    depths_read,
    direction,
    first_component,
    orthogonal,
    together,
)


@method(
    "spherical",
    surface="activations",
    paper="arXiv:2602.08169",
    needs=["rotate"],
    provides=["steering", "detector"],
)
@dataclass(frozen=True)
class Spherical(DirectionMethod):
    """Interpolates each state on its sphere towards the mean difference, under a confidence gate.

    Equation: μ = mean(h⁺) - mean(h⁻), unit `[H]`, over the tokens of texts with and without the concept after block
    `layer`; with cos θ = h·μ/‖h‖ and t = c·clip((-tanh(κ cos θ) - β)/(1 - β), 0, 1) (`when` = always: t = c), h goes
    tθ along the great circle to μ, its length kept; from the last prompt token on.
    Deviations: the paper takes μ of texts' last states (`states` = last), which here are too few to find a direction;
    one fit in place of two folds; states that were written stay steered in the cache, where the published loop reads
    them anew, unsteered, for every token; straight opposite to μ the way is along the first principal component.
    Reproduction: κ 20, β -.15 are the paper's for TruthfulQA on Llama-3.1-8B (block 14, c = .7); its tables are not
    compared, and it reports no AxBench row.
    """

    when: Literal["always", "confident"] = "confident"
    kappa: float = 20.0
    beta: float = -0.15
    states: Literal["last", "all"] = "all"

    def vector(self, ctx: Context, train: Train, layer: int) -> Array:
        positives, negatives = (self._read(ctx, texts, layer) for texts in (train.positives, train.negatives))
        difference: Array = positives.mean(0) - negatives.mean(0)
        return difference

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        texts = (*train.positives, *train.negatives)
        if self.states == "last":
            depths = ctx.depths(self.layer)
            ctx.last([text.messages for text in texts], [layer for layers in depths for layer in layers])
        else:
            depths = depths_read(ctx, self.layer, texts)
        return [together([self._at(ctx, train, layer) for layer in layers]) for layers in depths]

    def _at(self, ctx: Context, train: Train, layer: int) -> Fitted:
        found = direction(self.vector(ctx, train, layer), layer)
        assert isinstance(found.detector, DirectionDetector)
        along = found.detector.weight
        states = self._read(ctx, (*train.positives, *train.negatives), layer)
        basis = np.stack([along, orthogonal(first_component(states), along)])
        edit = Rotate(
            layer=layer,
            basis=basis,
            mode="towards",
            when=self.when,
            kappa=self.kappa,
            beta=self.beta,
            span=Span("generation"),
        )
        return Fitted(Steering(edits=(edit,)), found.detector, found.note)

    def _read(self, ctx: Context, texts: Sequence[Example], layer: int) -> Array:
        """States `[N, H]` that the prototypes are made of."""
        if self.states == "all":
            return ctx.tokens(texts, layer)
        return ctx.last([text.messages for text in texts], layer)[layer]
