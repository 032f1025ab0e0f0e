"""RepE reading vector: the main axis of shuffled persona differences, over a span of layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from bench import Add, Array, Context, Edit, Fitted, LayerSpec, Project, Steering, Train, method
from methods._directions import DirectionMethod, agreeing, first_component
from methods._personas import stimuli


@method(
    "repe",
    surface="activations",
    paper="arXiv:2310.01405",
    views=("texts", "personas"),
    needs=["add", "project"],
    provides=["steering", "detector"],
    antisymmetric=True,
    recovers=True,
)
@dataclass(frozen=True)
class RepE(DirectionMethod):
    """First component of persona differences in shuffled order, read mid-sentence, at several layers.

    Equation: per layer d_i = ±(h(x_i⁺) - h(x_i⁻)) with a random sign for each pair (half of them -1), D ← D - mean(D),
    w = PC1(D) `[H]`, h the state at the last token of a truncated answer under either persona; the sign
    is the one under which most positives project above their pair. `operator`: linear h + cw,
    piecewise h + c·sign(h·w)w, projection h - c·(h·w)w.
    Deviations: the span 0.35:0.65 in place of a list per model; the coefficient is the push of all
    layers together; answers are the training texts', not the facts of the paper; where the pairs
    are split evenly, the sign is that of their mean difference, not the decomposition's.
    Reproduction: the paper raises TruthfulQA MC1 of LLaMA-2-13B from 35.9 to 54.0 with its contrast
    vector; it reports no AxBench row.
    """

    layer: LayerSpec = "0.35:0.65"
    operator: Literal["linear", "piecewise", "projection"] = "linear"

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        return [replace(fitted, steering=self._operated(fitted.steering)) for fitted in super().fit(ctx, train)]

    def prefetch(self, ctx: Context, train: Train, layers: list[int]) -> None:
        plus, minus = stimuli(ctx, train)
        ctx.last([*plus, *minus], layers)

    def vector(self, ctx: Context, train: Train, layer: int) -> Array:
        plus, minus = (ctx.last(chats, layer)[layer] for chats in stimuli(ctx, train))
        # As many pairs in one order as in the other: by chance alone, few pairs may leave the mean in D.
        signs = ctx.rng("order", train.concept.id).permutation(np.resize([1.0, -1.0], len(plus)))[:, None]
        return agreeing(first_component(signs * (plus - minus)), plus, minus)

    def _operated(self, steering: object) -> Steering:
        assert isinstance(steering, Steering)
        edits: list[Edit] = []
        for edit in steering.edits:
            assert isinstance(edit, Add)
            if self.operator == "projection":
                edits.append(Project(layer=edit.layer, basis=edit.value[np.newaxis]))
            else:
                edits.append(replace(edit, signed=self.operator == "piecewise"))
        return Steering(edits=tuple(edits))
