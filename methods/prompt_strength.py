"""A prompt with a dial: its effect on the next token, weakened or amplified."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bench import BenchError, Context, Fitted, Method, Mix, Prompt, Share, Steering, Train, method
from methods.prompt import filled, wordings

AVOID = "Answer without {concept}, and without anything that belongs to it."


@method("prompt-strength", surface="decoding", paper="arXiv:2306.17806", views=(), needs=["prompt", "mix"])
@dataclass(frozen=True)
class PromptStrength(Method):
    """The wordings of `prompt`, each at several strengths; the select split picks both.

    Equation: ℓ = log softmax `[V]` of the next token; ℓ* = ℓ_against + α(ℓ_prompted - ℓ_against), renormalised; what is
    drawn from ℓ* goes on both streams. The second has the question alone (`against = bare`), or a wording that asks to
    avoid the concept, in the first one's place (`negative`). `floor = ε` keeps tokens with p_prompted ≥ ε max
    p_prompted. α is the coefficient: 1 is `prompt`, without a floor; 0 what it is mixed against, so `none` for `bare`.
    As many settings as a vector gets coefficients, n: ⌊√n⌋ wordings, dealt so that each meets α = 1 first, then
    1.5, 2.5, .5, 2, 1.25, 3. A step costs two passes in place of one, and both prompts are read.
    Deviations: arXiv 2601.06403 contrasts a target and a default system prompt; which of the two it adds to could not
    be read, here it is what is mixed against. PromptCD (arXiv 2602.20696) contrasts with a negative prompt and masks
    implausible tokens: `against = negative`, `floor = .1`. Log-probabilities are mixed, not logits, so that the floor
    means a share. A given text (a multiple choice) is scored without the floor.
    Reproduction: the papers report +8.5 strict IFEval, +45 points of refusal on OffTopicEval and +13 % on a steering
    benchmark, for models and settings that are not here; not compared.
    """

    against: Literal["bare", "negative"] = "bare"
    floor: Share = 0.0

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        lines, trials = wordings(train), ctx.budget.trials
        count = min(len(lines), max(math.isqrt(trials), math.ceil(trials / len(Mix.tried))))
        dealt = [(k % count, Mix.tried[k // count]) for k in range(min(trials, count * len(Mix.tried)))]
        note = {"against": self.against} | ({"floor": self.floor} if self.floor else {})
        return [
            Fitted(
                Steering(line, mix=Mix(self._other(line, train), floor=self.floor)),
                note=note,
                coefficients=tuple(alpha for wording, alpha in dealt if wording == k),
            )
            for k, line in enumerate(lines[:count])
        ]

    def _other(self, line: Prompt, train: Train) -> Prompt:
        """What a wording is mixed against."""
        if self.against == "bare":
            return Prompt()
        if train.prompts:
            raise BenchError(
                "against = negative: the task has wordings of its own, whose opposite is not known; take bare"
            )
        asked = Prompt(AVOID) if line.system else Prompt(prefix=f"{AVOID}\n\n")
        return filled(Prompt(suffix=f"\n\n{AVOID}") if line.suffix else asked, train.concept.text)
