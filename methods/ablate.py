"""Directional ablation: take one direction out of the residual stream, everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench import Context, Fitted, Project, Steering, Train, method
from methods._directions import DirectionDetector
from methods.diffmean import DiffMean


@method(
    "ablate",
    surface="activations",
    paper="arXiv:2406.11717",
    needs=["project"],
    provides=["steering"],
    antisymmetric=False,
    recovers=True,
)
@dataclass(frozen=True)
class Ablate(DiffMean):
    """Projects the DiffMean direction out of the output of every block.

    Equation: r = DiffMean at block `layer`, unit `[H]`; h ← h - c·(h·r)r after all blocks; c = 1 removes r.
    A tool to suppress: on a task that asks for a concept it should do nothing or harm.
    Deviations: the paper projects what every attention and feed-forward part writes, and the embedding; here each
    block's output, so that the first block reads the embedding whole, and every feed-forward part what attention has
    just written. Coefficients are fractions removed.
    As a detector it would be `diffmean` itself, so it is none.
    Reproduction: the paper removes refusal from chat models up to 72 B; it reports no AxBench row.
    """

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        found = []
        for fitted in super().fit(ctx, train):
            assert isinstance(fitted.detector, DirectionDetector)
            basis = fitted.detector.weight[np.newaxis]
            edits = tuple(Project(layer=layer, basis=basis) for layer in range(ctx.lm.layers))
            found.append(replace(fitted, steering=Steering(edits=edits), detector=None))
        return found
