"""Bag of words: a logistic regression on word counts, no model involved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench import Array, BenchError, Context, Example, Fitted, Method, Positive, Train, method, stored


@stored
@dataclass(frozen=True, eq=False)
class WordDetector:
    """Log-odds `weights` · counts + `bias`, with one weight per word of `vocabulary`."""

    vocabulary: tuple[str, ...]
    weights: Array
    bias: float

    def score(self, ctx: Context, texts: Sequence[Example]) -> Array:
        from sklearn.feature_extraction.text import CountVectorizer

        counts = CountVectorizer(vocabulary=self.vocabulary).transform(_texts(texts))
        odds: Array = counts @ self.weights + self.bias
        return odds


@method("bow", surface="detector", paper="arXiv:2501.17148", provides=["detector"])
@dataclass(frozen=True)
class BagOfWords(Method):
    """Logistic regression on the word counts of a text.

    Equation: s = w·c + b, c `[V]` the counts of the training texts' words in instruction and
    response; w, b minimise log-loss + ‖w‖²/2C.
    Deviations from AxBench: the log-odds in place of P(positive) = σ(s), the same order without the
    ties of a saturated σ; no chat template around the words. The budget's tokens do not cut the texts.
    Reproduction: AxBench reports AUROC .931 (texts of Gemma-2-2B, layer 20).
    """

    C: Positive = 100.0

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        from sklearn.feature_extraction.text import CountVectorizer
        from sklearn.linear_model import LogisticRegression

        texts = _texts([*train.positives, *train.negatives])
        y = np.repeat([1, 0], [len(train.positives), len(train.negatives)])
        words = CountVectorizer()
        try:
            counts = words.fit_transform(texts)
        except ValueError as error:
            raise BenchError(f"bow found no word in the texts of concept {train.concept.id}") from error
        model = LogisticRegression(C=self.C, max_iter=1000).fit(counts, y)
        vocabulary = tuple(str(word) for word in words.get_feature_names_out())
        return [Fitted(detector=WordDetector(vocabulary, model.coef_[0], float(model.intercept_[0])))]


def _texts(examples: Sequence[Example]) -> list[str]:
    return [f"{example.instruction}\n{example.response}" for example in examples]
