"""Activation capping: a floor under how far states lie along the concept, at several late layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench import Context, Fitted, LayerSpec, Scaled, Steering, Train, method
from methods._directions import direction
from methods.alphasteer import responses
from methods.diffmean import DiffMean


@method(
    "capping",
    family="direction",
    paper="arXiv:2601.10387",
    needs=["scaled"],
    provides=["steering"],
    antisymmetric=False,
    recovers=False,
)
@dataclass(frozen=True)
class Capping(DiffMean):
    """Lifts each token's projection on the concept's direction to a floor, at each of the blocks `layer`.

    Equation: v = DiffMean of that block, unit `[H]`; τ = the `percentile` of h·v over response tokens with the concept;
    h ← h + c·max(0, τ - h·v)·v: at c = 1 no token lies below τ.
    Deviations: the paper's axis is the default assistant against 275 roles, from judged rollouts, and its question
    whether a persona stays; here the concept's texts. Its code caps from above, the same for -v and -τ.
    Reproduction: the paper reports about 60 % fewer harmful answers under persona attacks (Qwen3-32B, blocks 46 to 53,
    25th percentile); no AxBench row, not compared.
    """

    layer: LayerSpec = "0.7:0.85"
    percentile: float = 25.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.percentile <= 100:
            raise ValueError(f"percentile = {self.percentile}, must lie from 0 to 100")

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        found = []
        for layers in ctx.depths(self.layer):
            if len(layers) > 1:
                self.prefetch(ctx, train, list(layers))
            edits = tuple(self._floor(ctx, train, layer) for layer in layers)
            floors = [round(float(edit.bias[0]), 3) for edit in edits]
            found.append(Fitted(Steering(edits=edits), note={"layers": list(layers), "floors": floors}))
        return found

    def _floor(self, ctx: Context, train: Train, layer: int) -> Scaled:
        v = direction(self.vector(ctx, train, layer), layer).detector.weight[None]  # type: ignore[union-attr]
        floor = np.percentile(responses(ctx, train.positives, layer) @ v[0], self.percentile)
        bias = np.array([floor], np.float32)
        return Scaled(layer=layer, read=-v, write=v, bias=bias, activation="relu", unit="fraction")
