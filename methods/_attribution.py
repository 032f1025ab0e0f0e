"""What attribution detectors share: a classifier on the last token's final state, and its token attributions.

Invariant: the classifier reads what the gradients are taken of, the output of the last block.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench import Array, BenchError, Context, Example, Fitted, Method, Positive, Train, stored


@stored
@dataclass(frozen=True, eq=False)
class AttributionDetector:
    """Score of a text: max over tokens of Σ_d |a_d|, a = (x - x₀) ⊙ mean over `points` of ∂f/∂x `[T, H]`.

    x is the output of block `layer`, f = `readout` · h `[H]`; x₀ is `baseline` `[H]`, or 0. The
    gradient at point p is taken at x₀ + p(x - x₀). `signed` sums a itself.
    """

    layer: int
    readout: Array
    points: tuple[float, ...]
    baseline: Array | None
    signed: bool

    def score(self, ctx: Context, texts: Sequence[Example]) -> Array:
        chats = [text.messages for text in texts]
        reads = ctx.read(chats, self.layer)
        origin = 0.0 if self.baseline is None else self.baseline
        found = ctx.lm.gradients(chats, self.layer, self.readout, self.points, self.baseline, ctx.budget.tokens)
        parts = [(read.values[self.layer] - origin) * g for read, g in zip(reads, found, strict=True)]
        return np.array([float((part if self.signed else np.abs(part)).sum(1).max()) for part in parts])


@dataclass(frozen=True)
class AttributionMethod(Method):
    """A classifier's attribution to tokens after block `layer`; subclasses say along which path.

    `C` is the inverse L2 penalty of the classifier.
    """

    layer: int | float = 0.5
    C: Positive = 0.01
    signed: bool = False

    @property
    def points(self) -> tuple[float, ...]:
        """Where on the way from the baseline (0) to the text's own states (1) gradients are taken."""
        return (1.0,)

    @abstractmethod
    def baseline(self, ctx: Context, train: Train, layer: int) -> Array | None:
        """The state `[H]` attributions count from; None for 0."""

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        layer = ctx.layer(self.layer)
        readout = classifier(ctx, train, self.C)
        baseline = self.baseline(ctx, train, layer)
        detector = AttributionDetector(layer, readout, self.points, baseline, self.signed)
        return [Fitted(detector=detector, note={"layer": layer})]


def classifier(ctx: Context, train: Train, C: float) -> Array:
    """Raw-space weight `[H]` of an L2 logistic regression on each text's last state after the last block;
    texts are cut at the budget's tokens."""
    from sklearn.linear_model import LogisticRegression

    top = ctx.lm.layers - 1
    reads = ctx.read([example.messages for example in (*train.positives, *train.negatives)], top)
    x = np.stack([read.values[top][-1] for read in reads])  # of texts cut as those whose gradient is taken
    y = np.repeat([1, 0], [len(train.positives), len(train.negatives)])
    scale = x.std(0) + 1e-6
    model = LogisticRegression(C=C, max_iter=500).fit((x - x.mean(0)) / scale, y)
    readout: Array = (model.coef_[0] / scale).astype(np.float32)
    if not np.isfinite(readout).all() or not readout.any():
        raise BenchError("the classifier on the last tokens is empty: nothing separates the texts")
    return readout
