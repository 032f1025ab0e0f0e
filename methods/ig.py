"""Integrated gradients: what a classifier's answer gains on the way from a plain state to the text's."""

from __future__ import annotations

from dataclasses import dataclass

from bench import Array, Context, Size, Train, method
from methods._attribution import AttributionMethod


@method("ig", surface="detector", paper="arXiv:2501.17148", provides=["detector"])
@dataclass(frozen=True)
class IntegratedGradients(AttributionMethod):
    """Integrated gradients of a last-token classifier from the negatives' mean activation.

    Equation: f = w·h `[H]`, h the last block's output at the last token; for the outputs x `[T, H]`
    of block `layer` and x₀ `[H]` the mean over tokens of the negatives, s_i = Σ_d |(x - x₀)_id · g_id|
    with g the mean of ∂f/∂x at x₀ + p(x - x₀), p = (k + ½)/`steps`; a text scores max_i s_i.
    Deviations from AxBench: a standardised L2 logistic regression, whose logit is attributed, in
    place of a two-layer network trained through two softmaxes; the baseline (there a mean embedding
    or a space token) is a state of the layer itself; 8 midpoints, not 50 steps (5 on the 9B model); what every chat
    begins with keeps its states, and the readout is before the final norm.
    The absolute value is the paper's and drops the classifier's sign, so nothing keeps AUROC above .5;
    `signed = true` sums the attributions themselves.
    Reproduction: AxBench reports AUROC .375 (Gemma-2-2B, layer 20).
    """

    steps: Size = 8

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps = {self.steps}, must be at least 1")

    @property
    def points(self) -> tuple[float, ...]:
        return tuple((k + 0.5) / self.steps for k in range(self.steps))

    def baseline(self, ctx: Context, train: Train, layer: int) -> Array | None:
        mean: Array = ctx.tokens(train.negatives, layer).mean(0)
        return mean
