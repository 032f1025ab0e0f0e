"""CAST: steer only where the prompt meets a condition; wraps any other method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np

from bench import Array, BenchError, Context, Fitted, Gate, Method, Steering, Train, Wrapper, method, similarity
from methods._directions import agreeing, first_component
from methods.diffmean import DiffMean


@method(
    "cast",
    surface="activations",
    paper="arXiv:2409.05907",
    views=("texts", "conditions"),
    needs=["add", "gate", "project", "clamp", "lowrank"],
)
@dataclass(frozen=True)
class Cast(Wrapper):
    """Another method's edits, gated on the similarity of the prompt to a condition direction.

    Equation: h̄ the mean state of the prompt's tokens after block l_c, d the condition direction `[H]`,
    s = cos(h̄, tanh(d dᵀh̄ / dᵀd)); the inner edits act on the whole row if s > θ (or s < θ). d is the first
    component of pair-centred mean states of prompts that should trigger and others; (l_c, θ, side)
    maximise F1 on them, l_c in the lower half.
    Deviations: thresholds are the midpoints between seen similarities, not a grid of 0.01; the template
    prefix is not pooled; `similarity = cosine` compares signed cos(h̄ - mean, d), since the paper's is
    blind to the sign of d. Conditions are the instructions of the concept's genre against others'.
    Reproduction: the paper refuses harmful and keeps harmless prompts; it reports no AxBench row.
    """

    own_views: ClassVar[frozenset[str]] = frozenset({"texts", "conditions"})
    own_needs: ClassVar[frozenset[str]] = frozenset({"gate"})

    inner: Method = field(default_factory=DiffMean)
    similarity: Literal["cast", "cosine"] = "cast"

    @property
    def members(self) -> tuple[Method, ...]:
        return (self.inner,)

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        found = []
        for fitted in self.inner.fit(ctx, train):
            if not isinstance(fitted.steering, Steering) or not fitted.steering.edits or fitted.steering.deltas:
                raise BenchError(f"{self.inner.name} has no activation edits alone: nothing to put under a gate")
            # What a block's attention or feed-forward part writes comes before that block's output.
            below = min(edit.layer - (edit.site != "resid") for edit in fitted.steering.edits)
            if below < 0:
                raise BenchError(f"{self.inner.name} edits inside block 0: no block before it to read a condition at")
            gate, quality = self.condition(ctx, train, below)
            edits = tuple(replace(edit, gate=gate) for edit in fitted.steering.edits)
            note = {**fitted.note, "condition_layer": gate.layer, "condition_f1": round(quality, 3)}
            found.append(replace(fitted, steering=replace(fitted.steering, edits=edits), note=note))
        return found

    def condition(self, ctx: Context, train: Train, below: int) -> tuple[Gate, float]:
        """The gate with the best F1 on the training conditions, at a layer not above `below`."""
        half = ctx.lm.layers // 2
        layers = sorted({min(below, int(depth * half)) for depth in (0.2, 0.4, 0.6, 0.8, 0.99)})
        chats = [(("user", text),) for text in (*train.triggers, *train.others)]
        y = np.repeat([True, False], [len(train.triggers), len(train.others)])
        reads = ctx.read(chats, layers)
        pairs, found = min(len(train.triggers), len(train.others)), []
        for layer in layers:
            means = np.stack([read.values[layer].mean(0) for read in reads]).astype(np.float64)
            half_way = (means[y][:pairs] - means[~y][:pairs]) / 2
            rows = np.concatenate([half_way, -half_way])
            d = agreeing(first_component(rows), means[y][:pairs], means[~y][:pairs]).astype(np.float32)
            centre = means.mean(0).astype(np.float32) if self.similarity == "cosine" else None
            threshold, above, quality = _threshold(_similarity(means, d, centre), y)
            gate = Gate(layer, d, threshold, above, similarity=self.similarity, center=centre)
            found.append((gate, quality))
        return max(found, key=lambda pair: pair[1])


def _similarity(means: Array, direction: Array, centre: Array | None) -> Array:
    """The gate's similarity of mean states `[N, H]`, in double precision."""
    import torch

    states, d, origin = (
        None if value is None else torch.from_numpy(value.astype(np.float64)) for value in (means, direction, centre)
    )
    assert states is not None and d is not None  # noqa: PT018
    found: Array = similarity(states, d, origin).numpy()
    return found


def _threshold(scores: Array, y: Array) -> tuple[float, bool, float]:
    """(θ, fires above, F1) with the best F1 over the midpoints between scores."""
    values = np.unique(scores)
    cuts = (values[:-1] + values[1:]) / 2 if len(values) > 1 else values
    fires = np.stack([scores > cuts[:, None], scores < cuts[:, None]], axis=1)
    quality = 2 * (fires & y).sum(2) / np.maximum(1, fires.sum(2) + y.sum())
    cut, side = np.unravel_index(quality.argmax(), quality.shape)
    return float(cuts[cut]), bool(side == 0), float(quality[cut, side])
