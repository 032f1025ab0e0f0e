"""Activation capping: a floor under how far states lie along the concept, at several late layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench import Array, Budget, Context, Fitted, LayerSpec, Scaled, Steering, Train, method
from methods._directions import depths_read, responses, unit
from methods.diffmean import DiffMean


@method(
    "capping",
    surface="activations",
    paper="arXiv:2601.10387",
    needs=["scaled"],
    provides=["steering"],
    antisymmetric=False,
    recovers=False,
    sweeps=False,
    one_way=True,
)
@dataclass(frozen=True)
class Capping(DiffMean):
    """Lifts each token's projection on the concept's direction to a floor, at each of the blocks `layer`.

    Equation: v = DiffMean of that block, unit `[H]`; τ = a percentile of h·v over response tokens with the concept;
    h ← h + max(0, τ - h·v)·v, so that no token lies below τ. Its dial is the percentile: as many as a vector gets
    coefficients are tried, evenly from `percentile` to 95; at another coefficient it goes that share of the way.
    Deviations: the paper's axis is the default assistant against 275 roles, from judged rollouts, and its question
    whether a persona stays; here the concept's texts. Its code caps from above, the same for -v and -τ. It holds the
    25th percentile alone, which in a concept's direction most tokens pass already.
    Reproduction: the paper reports about 60 % fewer harmful answers under persona attacks (Qwen3-32B, blocks 46 to 53,
    25th percentile); no AxBench row, not compared.
    """

    layer: LayerSpec = "0.7:0.85"
    percentile: float = 25.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer == "select":
            raise ValueError("layer = select: its trials are percentiles; name a span a:b")
        if not 0 <= self.percentile <= MOST:
            raise ValueError(f"percentile = {self.percentile}, must lie from 0 to {MOST:g}")

    def candidates(self, budget: Budget) -> int:
        return budget.trials

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        [layers] = depths_read(ctx, self.layer, (*train.positives, *train.negatives))
        axes = [unit(self.vector(ctx, train, layer), layer) for layer in layers]
        along = [responses(ctx, train.positives, k) @ v for k, v in zip(layers, axes, strict=True)]
        found = []
        for percentile in np.linspace(self.percentile, MOST, ctx.budget.trials):
            floors = [float(np.percentile(one, percentile)) for one in along]
            edits = tuple(map(_floor, layers, axes, floors))
            note = {"layers": list(layers), "percentile": float(percentile), "floors": [round(x, 3) for x in floors]}
            found.append(Fitted(Steering(edits=edits), note=note, coefficients=(1.0,)))
        return found


MOST = 95.0
"""The highest percentile that is tried."""


def _floor(layer: int, v: Array, floor: float) -> Scaled:
    bias, read = np.array([floor], np.float32), -v[None]
    return Scaled(layer=layer, read=read, write=v[None], bias=bias, activation="relu", unit="fraction")
