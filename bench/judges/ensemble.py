"""The default judge: readers' ratings, predicted from evidence that costs no key.

Invariant: what it knows of readers is the data file beside it, fitted on ratings of other answers
(`tools/fit_judge.py`); it reads with one small model whatever is tested, and a rating depends on its item alone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import resources
from typing import Any, ClassVar

import numpy as np

from bench.backends.models import DEFAULT, resolve
from bench.core.content import Array, digest
from bench.core.errors import BenchError
from bench.core.interfaces import Backend, Judge
from bench.core.registry import get, judge
from bench.core.rows import Rows
from bench.core.values import Item, Request, Train, Verdict
from bench.judges.embedding import CONTEXT, WEIGHTS, Encoder, sentences
from bench.judges.rules import rule_of
from bench.stats.surface import repeated

FILE = "ensemble.json"
"""Coefficients, neutral texts and where both came from."""
LEVELS = (0.5, 1.0, 1.5, 2.0)
"""A reader's ratings above 0; each has a logistic regression of its own."""
FEATURES = (
    "sentence_z", "whole_z", "words", "beside", "named", "named_all", "asked",
    "whole", "sentence", "overlap", "covered", "expected", "expected_low",
    "repeated", "repeated_pairs", "repeated_words", "known", "letters", "word_length",
)  # fmt: skip
"""What every axis is foretold from, in the order of the data file."""
AXES = ("concept", "instruction", "fluency")
STOP = frozenset(["the", "and", "of", "a", "in", "to", "that", "it", "for", "with", "from", "one", "by"])
WORD = re.compile(r"\w+|[^\w\s]")


@cache
def fitted() -> Mapping[str, Any]:
    """The data file: `features`, `axes` (means, scales, weights, intercepts), `neutral` texts, `provenance`."""
    found: dict[str, Any] = json.loads((resources.files("bench.judges") / FILE).read_text("utf-8"))
    return found


@dataclass(frozen=True)
class Levels:
    """Chances of a rating of at least each of `LEVELS`, by logistic regressions on standardised features."""

    mean: Array
    scale: Array
    weights: Array
    """`[levels, features]`."""
    intercepts: Array

    def chances(self, x: Array) -> Array:
        """`[n, levels + 1]`: of each rating, 0 first, from features `[n, features]`."""
        above = 1 / (1 + np.exp(-((x - self.mean) / self.scale @ self.weights.T + self.intercepts)))
        above = np.minimum.accumulate(above, 1)  # four fits need not be in order
        padded = np.hstack([np.ones((len(x), 1)), above, np.zeros((len(x), 1))])
        return padded[:, :-1] - padded[:, 1:]

    def rating(self, x: Array) -> Array:
        """Expected rating `[n]`; 0 where 0 is likelier than all others together.

        A reader's 0 ends a composite. An expectation that never reaches it would give every answer without the
        concept a little of one.
        """
        chances = self.chances(x)
        expected = chances @ np.array([0.0, *LEVELS])
        return np.where(chances[:, 0] > 0.5, 0.0, expected)


@judge("ensemble")
@dataclass
class Ensemble(Judge):
    """Readers' ratings predicted from encoder cosines, a small model's likelihood and the surface of the text.

    Of concept and answer: cosine of the nearest sentence and of the whole, each in standard deviations over neutral
    texts; of the three nearest words; of both with the instruction taken out; how often and how many of the concept's
    words occur; how near the instruction is to it. Of instruction and answer: cosine of the whole and of the nearest
    sentence, shared words, mean and 20th percentile of log p(token | instruction). Of the answer: repetition, share of
    words the encoder knows, share of letters, length of words. Each axis has a logistic regression on all of these for
    each level of the readers' scale. A concept that is a rule is read by the rule.
    """

    independent: ClassVar[bool] = True
    model: ClassVar[str] = DEFAULT
    """What it reads with: coefficients hold for it alone. Where it is the model under test, its word is no second
    opinion."""
    _keep: Rows | None = field(default=None, init=False, repr=False)
    _vectors: dict[str, Array] = field(default_factory=dict, init=False, repr=False)

    def fingerprint(self) -> Mapping[str, Any]:
        return {"fit": digest(fitted()["axes"], fitted()["neutral"]), "encoder": digest(WEIGHTS, CONTEXT)}

    def prepare(self, backend: Backend, keep: Rows, trains: Sequence[Train]) -> None:
        """Nothing is calibrated, and `backend`, the model under test, is left alone."""
        self._keep = keep

    def report(self) -> Mapping[str, Any]:
        return {"fitted on": self.fitted_on, "answers": fitted()["provenance"]["answers"]}

    @property
    def fitted_on(self) -> str:
        """Digest of the ratings that it was fitted on."""
        return str(fitted()["provenance"]["reference"])

    @property
    def held_out(self) -> Mapping[str, Any]:
        """What it made of those ratings where it had not seen them: by held-out concepts, and by held-out methods."""
        found: Mapping[str, Any] = fitted()["provenance"]["held out"]
        return found

    def release(self) -> None:
        self._vectors = {}
        for name in ("reading", "encoder"):
            self.__dict__.pop(name, None)

    @cached_property
    def encoder(self) -> Encoder:
        return Encoder()

    @cached_property
    def reading(self) -> Backend:
        """The small model, in fp32: what the target runs in may not move a rating."""
        found: Backend = get("backend", "hf")(resolve(self.model), "float32")
        return found

    def rate(self, items: Sequence[Item]) -> Iterator[tuple[int, Verdict]]:
        step = 256
        for begin in range(0, len(items), step):
            part = list(enumerate(items[begin : begin + step], begin))
            measured: list[tuple[int, Item]] = []
            for i, item in part:
                if item.axis not in AXES:
                    yield i, Verdict(None, reason=f"this judge has no axis {item.axis}")
                elif not item.text.strip():
                    yield i, Verdict(0.0, reason="empty text")
                elif item.axis == "concept" and (rule := rule_of(item.concept)):
                    yield i, rule(item.text)
                else:
                    measured.append((i, item))
            x = self.features([item for _, item in measured])
            for axis in AXES:
                own = [n for n, (_, item) in enumerate(measured) if item.axis == axis]
                for n, value in zip(own, _levels(axis).rating(x[own]), strict=True):
                    yield measured[n][0], Verdict(float(value))

    def features(self, items: Sequence[Item]) -> Array:
        """What ratings rest on, `[n, features]` in the order of `FEATURES`; kept once measured."""
        if self._keep is None:
            raise BenchError("the ensemble judge must be set up (prepare) before it rates")
        keys = [digest(FEATURES, i.concept.text, i.instruction, i.text) for i in items]
        todo = {key: item for key, item in zip(keys, items, strict=True) if key not in self._keep}
        for mine in self._keep.portions(todo):
            for key, row in zip(mine, self._measure([todo[key] for key in mine]), strict=True):
                self._keep.put(key, [round(v, 5) for v in row])
        return np.array([self._keep.get(key) for key in keys], dtype=float).reshape(len(items), len(FEATURES))

    def _embed(self, texts: Sequence[str]) -> None:
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        self._vectors.update(zip(new, self.encoder.embed(new), strict=True))

    def _measure(self, items: Sequence[Item]) -> list[list[float]]:
        neutral = fitted()["neutral"]
        texts = [t for item in items for t in (item.text, item.instruction, item.concept.text, *sentences(item.text))]
        self._embed([*texts, *neutral, *(part for text in neutral for part in sentences(text))])
        self._embed([word for item in items for word in _words(item.text)])
        usual = {text: self._usual(text, neutral) for text in dict.fromkeys(item.concept.text for item in items)}
        return [
            [*self._topic(item, usual[item.concept.text]), *self._answer(item), *expected, *self._surface(item.text)]
            for item, expected in zip(items, self._expected(items), strict=True)
        ]

    def _usual(self, concept: str, neutral: Sequence[str]) -> tuple[float, float, float, float]:
        """Mean and deviation over neutral texts of the nearest sentence's cosine with a concept, and of the whole's."""
        v = self._vectors
        near = np.array([max(float(v[part] @ v[concept]) for part in sentences(text)) for text in neutral])
        whole = np.array([float(v[text] @ v[concept]) for text in neutral])
        return float(near.mean()), float(near.std()), float(whole.mean()), float(whole.std())

    def _topic(self, item: Item, usual: tuple[float, float, float, float]) -> list[float]:
        v = self._vectors
        concept, answer, asked = v[item.concept.text], v[item.text], v[item.instruction]
        near_mean, near_deviation, whole_mean, whole_deviation = usual
        words = sorted((float(v[word] @ concept) for word in _words(item.text)), reverse=True)[:3]
        apart = [one - (one @ asked) * asked for one in (answer, concept)]
        length = float(np.linalg.norm(apart[0]) * np.linalg.norm(apart[1]))
        return [
            (max(float(v[part] @ concept) for part in sentences(item.text)) - near_mean) / near_deviation,
            (float(answer @ concept) - whole_mean) / whole_deviation,
            math.fsum(words) / len(words) if words else 0.0,
            float(apart[0] @ apart[1]) / length if length > 1e-6 else 0.0,
            *_overlap(item.concept.text, item.text),
            float(concept @ asked),
        ]

    def _answer(self, item: Item) -> list[float]:
        v, asked = self._vectors, self._vectors[item.instruction]
        nearest = max(float(v[part] @ asked) for part in sentences(item.text))
        return [float(v[item.text] @ asked), nearest, *_overlap(item.instruction, item.text)]

    def _surface(self, text: str) -> list[float]:
        tokens = WORD.findall(text.lower())
        words, known = [token for token in tokens if token[0].isalpha()], self.encoder.words
        return [
            repeated(tokens, 3),
            repeated(tokens, 2),
            repeated(words, 1),
            sum(word in known for word in words) / max(1, len(words)),
            sum(c.isalpha() or c == " " for c in text) / len(text),
            sum(map(len, words)) / max(1, len(words)),
        ]

    def _expected(self, items: Sequence[Item]) -> list[tuple[float, float]]:
        """Mean and 20th percentile of log p(token | instruction) of each text, nats; kept once measured."""
        assert self._keep is not None
        keys = [digest("expected", item.instruction, item.text) for item in items]
        todo = {key: item for key, item in zip(keys, items, strict=True) if key not in self._keep}
        for mine in self._keep.portions(todo):
            requests = [Request((("user", todo[key].instruction),), target=todo[key].text) for key in mine]
            for i, score in self.reading.logprobs(requests):
                values = np.array(score.logprobs)
                self._keep.put(mine[i], [round(float(values.mean()), 4), round(float(np.quantile(values, 0.2)), 4)])
        return [tuple(self._keep.get(key)) for key in keys]


@cache
def _levels(axis: str) -> Levels:
    kept = fitted()["axes"][axis]
    return Levels(*(np.array(kept[name], dtype=float) for name in ("mean", "scale", "weights", "intercepts")))


def _words(text: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Za-z]{3,}", text)]


def _overlap(one: str, text: str) -> tuple[float, float]:
    """How many of `text`'s words are among the content words of `one`, and how many of those occur; by five letters."""
    wanted = {word[:5] for word in re.findall(r"\w+", one.lower()) if word not in STOP and len(word) > 2}
    words = [word[:5] for word in re.findall(r"\w+", text.lower())]
    return sum(w in wanted for w in words) / max(1, len(words)), len(wanted & set(words)) / max(1, len(wanted))
