"""Linear-AcT: carry each dimension's values from texts without the concept to those with it, by optimal transport."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench import (
    Array,
    Context,
    Count,
    Diagonal,
    Example,
    Fitted,
    LayerSpec,
    Method,
    Steering,
    Train,
    check_layer,
    method,
)
from methods._directions import depths_read


@method("linear-act", surface="activations", paper="arXiv:2410.23054", needs=["diagonal"], one_way=True)
@dataclass(frozen=True)
class LinearAcT(Method):
    """An affine map of each dimension that takes states without the concept to states with it.

    Equation: a, b `[n]` are the mean states of n texts without and with the concept in one dimension, sorted;
    ω = Σ ã b̃ / Σ ã² (ã, b̃ less their means), β = mean b - ω·mean a; h ← h + c·m⊙((ω - 1)⊙h + β), m = 1 where h lies
    between the least and the largest a (`mask`). ω counts n/(n + `trust`), the identity the rest: of few texts a slope
    is mostly noise.
    Deviations: the paper maps the outputs of all layer norms or feed-forward matrices, one after the other with the
    earlier maps on; here the outputs of the blocks `layer`, each by itself, on bare states; the shrinkage is ours.
    Maps are fitted on means and act on tokens, which are spread wider: `inside` in a fit's note is the share of token
    entries that the mask leaves.
    Reproduction: the paper reports RealToxicityPrompts and TruthfulQA, no AxBench row; not compared.
    """

    layer: LayerSpec = "0.2:0.8"
    trust: Count = 32
    mask: bool = True

    def __post_init__(self) -> None:
        check_layer(self.layer)

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        found = []
        for layers in depths_read(ctx, self.layer, (*train.positives, *train.negatives)):
            edits, inside = [], []
            for layer in layers:
                edits.append(self.map(ctx, train, layer))
                if self.mask:
                    tokens = ctx.tokens(train.negatives, layer)
                    inside.append(float(((tokens > edits[-1].low) & (tokens < edits[-1].high)).mean()))
            note = {"layers": list(layers)} | ({"inside": round(float(np.mean(inside)), 3)} if inside else {})
            found.append(Fitted(Steering(edits=tuple(edits)), note=note))
        return found

    def map(self, ctx: Context, train: Train, layer: int) -> Diagonal:
        """The map after block `layer`, from as many texts of either side."""
        count = min(len(train.positives), len(train.negatives))
        rng = ctx.rng("transport", train.concept.id)
        source, target = (self._means(ctx, texts, layer, rng, count) for texts in (train.negatives, train.positives))
        gain = self.gain(np.sort(source, 0), np.sort(target, 0))
        shift = target.mean(0) - gain * source.mean(0)
        low, high = (source.min(0), source.max(0)) if self.mask else (None, None)
        return Diagonal(layer=layer, gain=gain, shift=shift, low=low, high=high)

    def gain(self, source: Array, target: Array) -> Array:
        """ω `[H]` of sorted means `[n, H]`."""
        a, b = source - source.mean(0), target - target.mean(0)
        slope = (a * b).sum(0) / np.maximum((a * a).sum(0), 1e-8)
        trusted = len(source) / (len(source) + self.trust)
        found: Array = (1 + trusted * (slope - 1)).astype(np.float32)
        return found

    @staticmethod
    def _means(ctx: Context, texts: Sequence[Example], layer: int, rng: np.random.Generator, count: int) -> Array:
        """The mean state `[count, H]` of so many of the texts."""
        chosen = [texts[i] for i in rng.permutation(len(texts))[:count]]
        reads = ctx.read([text.messages for text in chosen], layer)
        return np.stack([read.values[layer].mean(0) for read in reads]).astype(np.float32)
