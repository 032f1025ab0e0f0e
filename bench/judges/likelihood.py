"""A judge without an API: how much the concept, or the instruction, helps the bare model to expect a text.

Invariant: it is calibrated on training texts alone, asks in words no prompt baseline uses, and text
that merely breaks down does not gain: corrupted texts stand on the zero side of every calibration.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import numpy as np

from bench.core.content import Array, digest
from bench.core.errors import BenchError
from bench.core.interfaces import Backend, Judge, Prompted
from bench.core.registry import judge
from bench.core.rows import Rows
from bench.core.values import Example, Item, Request, Train, Verdict
from bench.judges.corruptions import CORRUPTIONS
from bench.stats.intervals import auroc

NOTE = "{instruction}\n(Work the following subject into the reply: {concept}.)"
FILLER = "something of your own choice"
"""Stands where the concept would: what a note as such does to a text cancels out."""
OPENING = "Some text:"
FALL = 0.5
"""Weight of tokens the concept makes less likely. At 1 (the plain mean) genre-matched negatives score
too close to positives, at 0 any broken text rises; see docs/why/decisions-judges.md for the measurement."""


T = TypeVar("T")
Query = tuple[Prompted, str]
Evidence = Mapping[Query, Array]
"""(context, text) -> log-probability (nats) of each of the text's tokens."""


FAINT, TRACE = 0.25, 0.05
"""Quantile of the texts without a concept from which a trace is rated, and the rating at `Scale.zero`. Were
all below `zero` rated 0, positives that lie there would tie with most negatives, which costs more AUROC than the
evidence loses; a trace keeps their order and is worth next to nothing."""


@dataclass(frozen=True)
class Scale:
    """Maps evidence to a rating: 2 at `two` and above, linear down to `zero`, which rates 0.

    With `faint` < `zero`, evidence between them is a trace: `zero` rates `TRACE` and `faint` 0.
    """

    zero: float
    two: float
    auroc: float
    """Of the training texts with against those without: how far the evidence can be trusted here."""
    faint: float | None = None

    def rating(self, value: float) -> float:
        if self.faint is None:
            return 2 * min(1.0, max(0.0, (value - self.zero) / (self.two - self.zero)))
        return float(np.interp(value, (self.faint, self.zero, self.two), (0.0, TRACE, 2.0)))

    def tracing(self, without: Sequence[float]) -> Scale:
        """This scale with its trace between the `FAINT` quantile of the texts without and `zero`."""
        return replace(self, faint=min(float(np.quantile(without, FAINT)), self.zero - 1e-6))

    @classmethod
    def pooled(cls, scales: Sequence[Scale]) -> Scale:
        """What several scales of an axis have in common: for a concept or genre that nothing was calibrated on."""
        if not scales:
            raise BenchError("a judge must be calibrated (prepare) before it rates")
        zero, two, apart = (float(np.mean([getattr(one, name) for one in scales])) for name in ("zero", "two", "auroc"))
        known = [one.faint for one in scales if one.faint is not None]
        return cls(zero, two, apart, float(np.mean(known)) if known else None)

    @classmethod
    def fit(cls, without: Sequence[float], shown: Sequence[float], where: str) -> Scale:
        """`zero` is exceeded by a tenth of the texts without, `two` is the median of those with."""
        zero, two = float(np.quantile(without, 0.9)), float(np.median(shown))
        if not math.isfinite(zero) or not math.isfinite(two):
            raise BenchError(f"likelihood judge: no finite evidence to calibrate {where}")
        separation = auroc(np.array([*shown, *without]), np.repeat([1, 0], [len(shown), len(without)]))
        return cls(zero, max(two, zero + 0.05), separation)


@judge("likelihood")
@dataclass
class Likelihood(Judge):
    """Ratings from the bare model's likelihood of a text y on instruction x and concept c.

    With d_t = log p(y_t|x, c) - log p(y_t|x, filler) per token: concept = mean max(d, 0) + 0.5 mean
    min(d, 0); instruction = mean_t [log p(y_t|x, filler) - log p(y_t)]; each mapped to 0..2 by anchors
    on training texts (`Scale`). fluency = 2σ(·) of a logistic regression on mean and 5th percentile
    of log p(y_t) and on the share of repeated trigrams, natural against corrupted texts. `texts`
    training texts of each class calibrate a concept, cut to `words` words.
    """

    reads_target: ClassVar[bool] = True
    texts: int = 12
    words: int = 32
    _backend: Backend | None = field(default=None, init=False, repr=False)
    _keep: Rows | None = field(default=None, init=False, repr=False)
    _scales: dict[tuple[str, str], Scale] = field(default_factory=dict, init=False, repr=False)
    _fluency: tuple[float, ...] = field(default=(), init=False, repr=False)

    def fingerprint(self) -> Mapping[str, Any]:
        return {"texts": self.texts, "words": self.words, "template": digest(NOTE, FILLER, OPENING, FALL, FAINT, TRACE)}

    def prepare(self, backend: Backend, keep: Rows, trains: Sequence[Train]) -> None:
        self._backend, self._keep = backend, keep
        cut = {train.concept.id: self._cut(train) for train in trains}
        genres: dict[str, list[Example]] = {}
        for train in trains:
            genres.setdefault(train.concept.genre, []).extend(cut[train.concept.id][1])
        plain = {genre: list(dict.fromkeys(rows)) for genre, rows in genres.items()}
        pairs = [e for rows in plain.values() for e in (*rows, *_mismatched(rows))]
        broken = [c(e.response) for rows in plain.values() for e in rows for c in CORRUPTIONS.values()]
        wanted = [q for e in pairs for q in (_noted(e), _alone(e.response))] + [_alone(t) for t in broken]
        for train in trains:
            wanted += [q for e in _all(cut[train.concept.id]) for q in (_noted(e, train.concept.text), _noted(e))]
        found = self._measure(wanted)
        for train in trains:
            text = train.concept.text
            shown, *without = ([_gain(e, text, found) for e in rows] for rows in cut[train.concept.id])
            where = f"concept {train.concept.id}"
            apart = _all(without)
            self._scales["concept", train.concept.id] = Scale.fit(apart, shown, where).tracing(apart)
        for genre, rows in plain.items():
            apart, matched = ([_pull(e, found) for e in side] for side in (_mismatched(rows), rows))
            self._scales["instruction", genre] = Scale.fit(apart, matched, f"genre {genre}")
        self._fit_fluency(plain, broken, found)

    def _cut(self, train: Train) -> tuple[list[Example], list[Example], list[Example]]:
        """Positives; negatives with hard negatives; corrupted negatives: first words only."""

        def short(rows: Sequence[Example]) -> list[Example]:
            return [Example(e.instruction, " ".join(e.response.split(" ")[: self.words])) for e in rows]

        plain = short(train.negatives[: self.texts])
        kinds = list(CORRUPTIONS.values())
        broken = [Example(e.instruction, kinds[i % len(kinds)](e.response)) for i, e in enumerate(plain)]
        return short(train.positives[: self.texts]), plain + short(train.hard_negatives), broken

    def _fit_fluency(self, plain: dict[str, list[Example]], broken: list[str], found: Evidence) -> None:
        from sklearn.linear_model import LogisticRegression

        natural = [e.response for rows in plain.values() for e in rows]
        x = np.array([_features(text, found[_alone(text)]) for text in (*natural, *broken)])
        y = np.repeat([1, 0], [len(natural), len(broken)])
        mean, scale = x.mean(0), x.std(0) + 1e-9
        fitted = LogisticRegression(class_weight="balanced").fit((x - mean) / scale, y)
        weight = fitted.coef_[0] / scale
        self._fluency = (*weight, float(fitted.intercept_[0] - mean @ weight))

    def report(self) -> Mapping[str, Any]:
        return {f"{axis}/{where}": vars(scale) for (axis, where), scale in self._scales.items()}

    def key(self, item: Item) -> Any:
        return item, self._fluency if item.axis == "fluency" else self._scale(item)

    def _scale(self, item: Item) -> Scale:
        """Of the item's concept or genre; where that was not calibrated, what the others have in common."""
        own = self._scales.get((item.axis, item.concept.id if item.axis == "concept" else item.concept.genre))
        return own or Scale.pooled([one for (axis, _), one in self._scales.items() if axis == item.axis])

    def rate(self, items: Sequence[Item]) -> Iterator[tuple[int, Verdict]]:
        step = 128
        for begin in range(0, len(items), step):
            part = items[begin : begin + step]
            found = self._measure([q for item in part if item.text.strip() for q in self._queries(item)])
            for i, item in enumerate(part, begin):
                yield i, self._verdict(item, found)

    def _queries(self, item: Item) -> list[Query]:
        example = Example(item.instruction, item.text)
        alone, plain = _alone(item.text), _noted(example)
        queries = {"concept": [_noted(example, item.concept.text), plain], "instruction": [plain, alone]}
        return queries.get(item.axis, [alone])

    def _verdict(self, item: Item, found: Evidence) -> Verdict:
        if not item.text.strip():
            return Verdict(0.0, reason="empty text")
        example = Example(item.instruction, item.text)
        if item.axis == "fluency":
            features = _features(item.text, found[_alone(item.text)])
            x = float(np.dot(self._fluency[:-1], features)) + self._fluency[-1]
            return Verdict(2 / (1 + math.exp(-max(-50.0, min(50.0, x)))), raw=f"{x:.3f}")
        value = _gain(example, item.concept.text, found) if item.axis == "concept" else _pull(example, found)
        return Verdict(self._scale(item).rating(value), raw=f"{value:.4f}")

    def _measure(self, queries: Sequence[Query]) -> dict[Query, Array]:
        """Evidence of each (context, text), kept, so that axes and methods share forward passes."""
        if self._backend is None or self._keep is None:
            raise BenchError("the likelihood judge must be calibrated (prepare) before it rates")
        keys = {query: digest(query) for query in dict.fromkeys(queries)}
        todo = {key: query for query, key in keys.items() if key not in self._keep}
        for mine in self._keep.portions(todo):
            requests = [Request(todo[key][0], target=todo[key][1]) for key in mine]
            for i, score in self._backend.logprobs(requests):
                self._keep.put(mine[i], [round(v, 4) for v in score.logprobs])
        return {query: np.array(self._keep.get(key)) for query, key in keys.items()}


def _noted(example: Example, concept: str = FILLER) -> Query:
    note = NOTE.format(instruction=example.instruction, concept=concept)
    return (("user", note),), example.response


def _alone(text: str) -> Query:
    return OPENING, " " + text


def _gain(example: Example, concept: str, found: Evidence) -> float:
    """How much the concept helps to expect the response."""
    d = found[_noted(example, concept)] - found[_noted(example)]
    return float(np.maximum(d, 0).mean() + FALL * np.minimum(d, 0).mean())


def _pull(example: Example, found: Evidence) -> float:
    """How much the instruction helps to expect the response."""
    return float(found[_noted(example)].mean() - found[_alone(example.response)].mean())


def _all(parts: Sequence[Sequence[T]]) -> list[T]:
    return [row for part in parts for row in part]


def _mismatched(rows: Sequence[Example]) -> list[Example]:
    """Each response under the next row's instruction."""
    following = [*rows[1:], *rows[:1]]
    return [Example(other.instruction, e.response) for e, other in zip(rows, following, strict=True)]


def _features(text: str, logprobs: Array) -> list[float]:
    words = re.findall(r"\w+|[^\w\s]", text.lower())
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    repeated = 1 - len(set(trigrams)) / len(trigrams) if trigrams else 0.0
    return [float(logprobs.mean()), float(np.quantile(logprobs, 0.05)), repeated]
