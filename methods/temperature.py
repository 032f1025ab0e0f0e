"""The bare model's options, sharpened or flattened: what a share of probability earns by its temperature alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench import Budget, Context, Fitted, Method, Steering, Train, method, stored

DIVISORS = (1.0, 2.0, 4.0, 8.0, 16.0, 0.5, 0.25, 32.0, 3.0, 6.0, 12.0, 24.0, 1.5, 64.0)
"""As many as the largest preset has judged trials, the most telling first."""


@stored
@dataclass(frozen=True)
class Divided:
    """Log-probabilities over a temperature."""

    by: float

    def rate(self, options: Sequence[str], logprobs: Sequence[float]) -> Sequence[float]:
        return [value / self.by for value in logprobs]


@method("temperature", surface="control", views=(), provides=["options"])
@dataclass(frozen=True)
class Temperature(Method):
    """The bare model at another temperature, picked on the select split.

    Equation: log p(option) / T. Which option is likeliest stays as it is, the share of the true ones does not: towards
    T = ∞ every option has the same. Control for scores that are shares of probability, such as MC2.
    """

    def candidates(self, budget: Budget) -> int:
        return budget.trials

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        return [Fitted(Steering(), note={"temperature": t}, rater=Divided(t)) for t in DIVISORS[: ctx.budget.trials]]
