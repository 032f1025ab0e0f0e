"""Input times gradient: which tokens a classifier of the whole text rests on."""

from __future__ import annotations

from dataclasses import dataclass

from bench import Array, Context, Train, method
from methods._attribution import AttributionMethod


@method("ixg", surface="detector", paper="arXiv:2501.17148", provides=["detector"])
@dataclass(frozen=True)
class InputXGradient(AttributionMethod):
    """Input times gradient of a last-token classifier, summed over dimensions in absolute value.

    Equation: f = w·h `[H]`, h the last block's output at the last token; for the outputs x `[T, H]`
    of block `layer`, s_i = Σ_d |x_id ∂f/∂x_id|; a text scores max_i s_i.
    Deviations from AxBench: a standardised L2 logistic regression, whose logit is attributed, in
    place of a two-layer network trained through two softmaxes.
    The absolute value is the paper's and drops the classifier's sign: s_i says how much f depends on
    a token, not in which direction, so nothing keeps AUROC above .5. `signed = true` sums x ⊙ ∂f/∂x.
    Reproduction: AxBench reports AUROC .217 (Gemma-2-2B, layer 20).
    """

    def baseline(self, ctx: Context, train: Train, layer: int) -> Array | None:
        return None
