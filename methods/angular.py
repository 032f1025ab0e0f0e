"""Angular steering: turn states in one plane towards the concept, at many layers, their length kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bench import Array, Context, Fitted, LayerSpec, Rotate, Steering, Train, check_layer, method
from methods._directions import first_component, orthogonal, unit
from methods.diffmean import DiffMean


@method(
    "angular",
    surface="activations",
    paper="arXiv:2510.26243",
    needs=["rotate"],
    provides=["steering"],
    antisymmetric=False,
    recovers=False,
)
@dataclass(frozen=True)
class Angular(DiffMean):
    """Rotates states towards an angle from the concept's direction, in the plane it spans with how directions drift.

    Equation: b₁ = DiffMean at block `layer`, unit `[H]`; b₂ = first principal component of the DiffMeans of all
    blocks `[L, H]`, made orthogonal to b₁; after each of the blocks `layers`, with φ the angle of h in the plane,
    φ ← φ + c·wrap(`angle` - φ): at c = 1 the paper's operator, h's length and what lies outside the plane kept.
    `adaptive` turns only tokens with h·b₁ > 0. `plane` = random draws b₂, the twin that says what the plane adds.
    Deviations: the paper's dial is the angle itself, here the share of the way to it (0°: along the concept); it
    turns the outputs of the layer norms, here those of the blocks; the sinks keep their states.
    Reproduction: the repository's files have attacks succeed on .05 of HarmBench at 0° and .84 at 160°
    (Llama-3.1-8B, b₁ = refusal); it reports no AxBench row.
    """

    layers: tuple[LayerSpec, ...] = ("0.1:0.9",)
    angle: float = 0.0
    """In degrees, from b₁ to b₂."""
    adaptive: bool = False
    plane: Literal["depth", "random"] = "depth"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.layer, str) and self.layer != "select":
            raise ValueError(f"layer = {self.layer}: one direction spans the plane; `layers` are what it turns")
        for spec in self.layers:
            check_layer(spec)
            if spec == "select":
                raise ValueError("layers = select: the plane is turned at all its layers together")

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        every = list(range(ctx.lm.layers))
        self.prefetch(ctx, train, every)
        means = np.stack([self.vector(ctx, train, layer) for layer in every])
        edited = sorted({layer for spec in self.layers for layers in ctx.depths(spec) for layer in layers})
        found = []
        for (layer,) in ctx.depths(self.layer):
            first = unit(means[layer], layer)
            second = deeper(means) if self.plane == "depth" else ctx.rng("plane").standard_normal(len(first))
            basis = np.stack([first, orthogonal(second, first)])
            edits = tuple(
                Rotate(
                    layer=k, basis=basis, angle=math.radians(self.angle), when="aligned" if self.adaptive else "always"
                )
                for k in edited
            )
            states = ctx.tokens(train.negatives, layer)
            share = np.linalg.norm(states @ basis.T, axis=1) / np.linalg.norm(states, axis=1)
            # What lies in the plane is all that can turn: where it is little, no angle does much.
            note = {"layer": layer, "layers": edited, "in_plane": round(float(np.median(share)), 4)}
            found.append(Fitted(Steering(edits=edits), note=note))
        return found


def deeper(means: Array) -> Array:
    """First principal component `[H]` of directions `[L, H]` by depth, signed so that it grows with depth."""
    found = first_component(means)
    along = (means - means.mean(0)) @ found
    return found if along @ (np.arange(len(means)) - (len(means) - 1) / 2) >= 0 else -found
