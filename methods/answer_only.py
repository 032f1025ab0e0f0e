"""Answers told apart without their question: what the form of an answer alone earns on a multiple choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bench import Context, Fitted, Method, Steering, Train, method, stored


@stored
@dataclass(frozen=True)
class Form:
    """Log-odds of a logistic regression on words and pairs of words (tf-idf), fitted on answers alone."""

    good: tuple[str, ...]
    bad: tuple[str, ...]

    @cached_property
    def fitted(self) -> Any:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        made = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10))
        return made.fit([*self.good, *self.bad], [1] * len(self.good) + [0] * len(self.bad))

    def rate(self, options: Sequence[str], logprobs: Sequence[float]) -> Sequence[float]:
        return [float(value) for value in self.fitted.decision_function(list(options))]


@method("answer-only", surface="control", provides=["options"])
@dataclass(frozen=True)
class AnswerOnly(Method):
    """A bag of words that never sees the question.

    Equation: the log-odds of a logistic regression on the tf-idf of an answer's words and pairs of words stand for
    its log-probability. Control for multiple choice: what it earns, a change of the answers' form earns too, and says
    nothing of whether the model prefers what is true. Turner and Kurzeja (2024) describe the weakness, and Evans, Chua
    and Lin (2025) recommend the binary setting.
    """

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        sides = (tuple(e.response for e in rows) for rows in (train.positives, train.negatives))
        return [Fitted(Steering(), rater=Form(*sides))]
