"""RepE contrast vector: made anew for each prompt, from the prompt itself under two personas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench import (
    Add,
    Backend,
    BenchError,
    Context,
    Fitted,
    LayerSpec,
    Message,
    Method,
    Size,
    Span,
    Steering,
    Train,
    check_layer,
    method,
    stored,
)
from methods._personas import chat


@stored
@dataclass(frozen=True)
class Contrast:
    """Binds a prompt: reads it under both personas, and adds the difference to its last tokens."""

    personas: tuple[str, str]
    layers: tuple[int, ...]
    last: int

    def bind(self, lm: Backend, messages: tuple[Message, ...]) -> Steering:
        asked = messages[-1][1]
        plus, minus = lm.activations([chat(persona, asked) for persona in self.personas], self.layers)
        edits = []
        for layer in self.layers:
            one, two = plus.values[layer][-self.last :], minus.values[layer][-self.last :]
            rows = min(len(one), len(two))
            value = (one[-rows:] - two[-rows:]).astype(np.float32)
            if not np.any(value):
                raise BenchError(f"both personas give the same states at layer {layer}: nothing to add")
            edits.append(Add(layer=layer, value=value, span=Span("prompt", last=rows)))
        return Steering(edits=tuple(edits))


@method(
    "repe-contrast",
    surface="activations",
    paper="arXiv:2310.01405",
    views=("personas",),
    needs=["add"],
    antisymmetric=True,
)
@dataclass(frozen=True)
class RepEContrast(Method):
    """Difference of the prompt's own states under a positive and a negative persona.

    Equation: for each prompt v_t = h_l(x under p⁺)_t - h_l(x under p⁻)_t for its last `last` tokens t,
    an `[n, H]` matrix per layer, h_t ← h_t + c·v_t; every prompt costs two more prefills.
    Deviations: RepE recomputes the difference inside one forward of three streams, so that a layer
    sees the edits below it; here all layers are read on unedited streams. The span of layers is
    0.35:0.65 in place of all even ones.
    Reproduction: TruthfulQA MC1 of LLaMA-2-13B from 35.9 to 54.0 (paper, α = 0.25); no AxBench row.
    """

    layer: LayerSpec = "0.35:0.65"
    last: Size = 8

    def __post_init__(self) -> None:
        check_layer(self.layer)
        if self.last < 1:
            raise ValueError(f"last = {self.last}: it edits at least the last prompt token")

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        return [Fitted(Contrast(train.personas[0], layers, self.last)) for layers in ctx.depths(self.layer)]
