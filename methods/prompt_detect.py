"""Prompted detection: the model itself says how much of a concept a text has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench import Array, Context, Example, Fitted, Method, Train, method, stored
from methods._rating import expected

QUESTION = """Compare a passage with a description.

Description: {concept}

Passage:
{passage}

(End of the passage.)

How well does the description fit the passage? Choose a digit: 0 if it does not fit, 1 if it fits some
of it, 2 if it fits very well. Reply with the digit and nothing else."""
DIGITS = ("0", "1", "2")


@stored
@dataclass(frozen=True)
class PromptDetector:
    """Expected digit under the model, for a description of the concept."""

    concept: str

    def score(self, ctx: Context, texts: Sequence[Example]) -> Array:
        return expected(ctx.lm, [self._question(text.response, ctx.budget.tokens) for text in texts], DIGITS)

    def _question(self, response: str, words: int) -> str:
        passage = " ".join(response.split(" ")[:words]) if words else response
        return QUESTION.format(concept=self.concept, passage=passage)


@method("prompt-detect", surface="detector", paper="arXiv:2501.17148", views=(), provides=["detector"])
@dataclass(frozen=True)
class PromptDetect(Method):
    """The model is asked how well the concept's description fits a response, from 0 to 2.

    Equation: s = Σ_k k p_k / Σ_k p_k, p_k = p(k | question) for the replies k = 0, 1, 2.
    Deviations from AxBench: the probability-weighted digit in place of one sampled rating with an
    explanation, so that s is deterministic, continuous and never unreadable; our own question; a
    response is cut to as many words as the budget has tokens.
    Reproduction: AxBench reports AUROC .921 (Gemma-2-2B-it); a 135 M model rates far worse.
    """

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        return [Fitted(detector=PromptDetector(train.concept.text))]
