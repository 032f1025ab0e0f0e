"""Cache steering: what attention keeps of one prompt token is moved once, before the answer is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bench import (
    Amount,
    Array,
    BenchError,
    Cache,
    Context,
    Fitted,
    LayerSpec,
    Method,
    Positive,
    Steering,
    Train,
    check_layer,
    method,
)


@method(
    "cache-steering",
    surface="activations",
    paper="arXiv:2507.08799",
    needs=["cache", "site:keys", "site:values"],
    antisymmetric=True,
    recovers=True,
)
@dataclass(frozen=True)
class CacheSteering(Method):
    """The cached values of the last prompt token are moved along a mean difference, once, and attended to ever after.

    Equation: S_l = mean_i v̄_l(x_i⁺, y_i⁺) - mean_i v̄_l(x_i⁻, y_i⁻) `[G·d]`, v̄_l the mean of what block l's attention
    keeps as values of an answer's tokens, G key-value heads of d numbers; once the prompt is read, v_l ← v_l + c·s·S_l
    at one of its tokens (`entry`) in each of the blocks `layers`. s is `strength`, with which the coefficients go over
    most of the paper's 1 to 10. Keys take part at `keys` times the strength of values, which is 0: they are
    kept with their positions turned in, so that those of two texts differ by more than the concept.
    Deviations: the paper reads the last tokens of five-shot prompts with and without reasoning, which say what is to
    come; a training text ends with a full stop, and S of that (`read = last`) makes answers less fluent and no more of
    the concept than the mean does. The paper moves the entry before the last prompt token (`entry = before`), or the
    last where it puts a token behind the prompt (`append_special_token`). Nothing is put behind prompts here, and of
    ChatML's "assistant" and newline the answer looks at the second ten times as much: the last token is moved, and the
    first new token, which is predicted when that is read, stays as it was.
    Reproduction: the paper steers small models to reason (GSM8K, ARC, CommonsenseQA, PIQA); it has no AxBench row.
    """

    layers: tuple[LayerSpec, ...] = ("1:-1",)
    read: Literal["answer", "last"] = "answer"
    entry: Literal["last", "before"] = "last"
    strength: Positive = 6.0
    keys: Amount = 0.0

    def __post_init__(self) -> None:
        for layer in self.layers:
            check_layer(layer)
            if layer == "select":
                raise ValueError("layers = select: all layers are moved together")

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        layers = sorted({layer for spec in self.layers for together in ctx.depths(spec) for layer in together})
        edits = self._edits(ctx, train, layers, "values", self.strength)
        if self.keys:
            edits += self._edits(ctx, train, layers, "keys", self.strength * self.keys)
        lengths = [float(np.linalg.norm(edit.value)) for edit in edits]
        if not all(np.isfinite(lengths)) or not all(lengths):
            raise BenchError(
                "what attention keeps of texts with and without the concept is the same: nothing separates"
            )
        return [Fitted(Steering(edits=tuple(edits)), note={"layers": layers, "raw_norm": float(np.mean(lengths))})]

    def _edits(
        self, ctx: Context, train: Train, layers: Sequence[int], site: Literal["keys", "values"], strength: float
    ) -> list[Cache]:
        read = ctx.last if self.read == "last" else ctx.means
        kept = [read([e.messages for e in side], layers, site) for side in (train.positives, train.negatives)]
        found = []
        for layer in layers:
            moved: Array = (kept[0][layer].mean(0) - kept[1][layer].mean(0)).astype(np.float32)
            found.append(Cache(layer=layer, site=site, value=moved, strength=strength, entry=self.entry))
        return found
