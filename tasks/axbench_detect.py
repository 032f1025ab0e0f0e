"""AxBench concept detection: does a detector rank texts with the concept above texts without it?

Invariant: a concept's score is the AUROC of its evaluation texts, which no fit has seen; hard negatives
have their own axes, and a regime changes training data alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np

from bench import Completion, Concept, Count, Example, Item, Rate, Sample, Train, UsageError, Verdict, digest, task
from bench.stats.detection import AGAINST, placements, thresholds
from tasks._axbench_data import Corpus, load
from tasks.axbench import AxBench

REGIMES = {"scarce": (8.0, 2.0, 1e6), "imbalanced": (0.05, 1e-3, 0.5), "noisy": (0.25, 1e-3, 0.5)}
"""regime -> its usual amount, and the smallest and largest; the others have none."""


@task("axbench-detect")
@dataclass(frozen=True)
class AxBenchDetect(AxBench):
    """Concept detection over labelled texts (arXiv 2501.17148, Axis C), with the regimes of sparse probing.

    `auroc` (and `overall`): positives against negatives, as the paper; `hard_auroc`: against hard negatives
    alone; each text's value is its placement among the other class, whose mean is the AUROC. `f1`, `f1_hard`
    (hard negatives among the texts), `f1_rare` (the concept in 1 % of texts) and `hard_accuracy`:
    `bench.stats.detection.thresholds`.
    `data`: concept10 | concept500 | conceptFD | a folder in AxBench's layout. `pool` negatives of other
    concepts count in `f1_rare`; the paper draws 3600.

    `regime` changes what is fitted on (arXiv 2502.16681), `amount` by how much: `scarce` leaves so many
    texts (8), half of them positive; `imbalanced` so large a share of positives (0.05); `noisy` exchanges so
    large a share of the labels (0.25); `shifted` takes the negatives of the other genres, so that genre gives
    the label away in training and not in the test.

    One item: "The waiter set down bread, oil and a carafe." (positive for Mediterranean meals) should score
    above "The waiter set down the bill." (negative) and "Oil the hinge of the door." (hard negative).
    """

    axes: ClassVar[tuple[str, ...]] = ("auroc", "hard_auroc", "f1", "f1_hard", "f1_rare", "hard_accuracy")
    kind: ClassVar[Literal["steering", "detector"]] = "detector"
    scale: ClassVar[float] = 1.0
    rated: ClassVar[bool] = False
    data: str = "concept10"
    regime: Literal["full", "scarce", "imbalanced", "noisy", "shifted"] = "full"
    amount: float = 0.0
    pool: Count = 36

    def __post_init__(self) -> None:
        _, low, high = REGIMES.get(self.regime, (0.0, 0.0, 0.0))
        if self.amount and not low <= self.amount <= high:
            takes = f"{low:g} to {high:g}" if high else "none"
            raise ValueError(f"amount = {self.amount:g}: regime {self.regime} takes {takes}")
        if self.pool < 0:
            raise ValueError(f"pool = {self.pool}: a number of texts, or 0 for none")

    @cached_property
    def whole(self) -> Corpus:
        return load(self.data, self.setting, self.revision)

    @cached_property
    def corpus(self) -> Corpus:
        return self.whole.limited(self.protocol.concepts, self.concept)

    def concepts(self) -> Sequence[Concept]:
        for name, texts in self.corpus.evaluation.items():
            if not texts:
                raise UsageError(f"data {self.data} has no labelled evaluation texts (concept {name}): try concept10")
            if lacking := {"positive", "negative"} - {kind for _, kind in texts}:
                raise UsageError(
                    f"data {self.data}, concept {name}: no {' and no '.join(sorted(lacking))} text to test"
                )
        return super().concepts()

    @property
    def digest(self) -> str:
        return digest(self.corpus.digest, self.corpus.evaluation)

    def train(self, concept: Concept) -> Train:
        plain = super().train(concept)
        amount = self.amount or REGIMES.get(self.regime, (0.0,))[0]
        half = self.protocol.budget.sequences // 2
        if self.regime == "scarce":
            return plain.limited(int(amount))
        if self.regime == "imbalanced":
            count = min(half, len(plain.negatives)) * amount / (1 - amount)
            return replace(plain, positives=plain.positives[: max(1, round(count))])
        if self.regime == "noisy":
            return self._noisy(plain, amount, half)
        return self._shifted(plain) if self.regime == "shifted" else plain

    def _noisy(self, plain: Train, amount: float, half: int) -> Train:
        """As many positives as negatives stand on the other side, among those that the budget leaves."""
        sides = list(plain.positives), list(plain.negatives)
        n = min(half, *map(len, sides))
        one, two = (self._rng(plain.concept, side).permutation(n)[: round(amount * n)] for side in ("+", "-"))
        for i, j in zip(one, two, strict=True):
            sides[0][i], sides[1][j] = sides[1][j], sides[0][i]
        return replace(plain, positives=tuple(sides[0]), negatives=tuple(sides[1]))

    def _shifted(self, plain: Train) -> Train:
        own = plain.concept.genre
        found = [e for t in self.whole.trains.values() if t.concept.genre != own for e in t.negatives]
        away = list(dict.fromkeys(found))
        if not away:
            raise UsageError(f"regime shifted: data {self.data} has no training texts of a genre other than {own}")
        order = self._rng(plain.concept, "shifted").permutation(len(away))
        return replace(plain, negatives=tuple(away[i] for i in order))

    def _rng(self, concept: Concept, salt: str) -> np.random.Generator:
        return np.random.default_rng(int(digest(self.protocol.seed, salt, concept.id), 16))

    def select(self, concept: Concept) -> Sequence[Sample]:
        return []

    def test(self, concept: Concept) -> Sequence[Sample]:
        labelled = [*self.evaluation(concept), *((text, "other") for text in self._others(concept))]
        return [
            Sample(f"{concept.id}/test/{i}", concept, "test", "text", text.messages, label=label)
            for i, (text, label) in enumerate(labelled)
        ]

    def _others(self, concept: Concept) -> list[Example]:
        """Negatives of other concepts on instructions that no concept is trained on: the same in all regimes."""
        own = {text for text, _ in self.evaluation(concept)}
        held = (e for name, rows in self.whole.evaluation.items() for e, kind in rows
                if kind == "negative" and name != concept.id and e.instruction not in self._trained)  # fmt: skip
        texts = [text for text in dict.fromkeys(held) if text not in own]
        return [texts[i] for i in self._rng(concept, "pool").permutation(len(texts))[: self.pool]]

    @cached_property
    def _trained(self) -> frozenset[str]:
        trains = self.whole.trains.values()
        return frozenset(e.instruction for t in trains for e in (*t.positives, *t.negatives))

    def score(
        self, samples: Sequence[Sample], outputs: Sequence[Completion], rate: Rate
    ) -> Sequence[dict[str, Verdict]]:
        """Placements of one concept's texts; `rate` gives the detector's raw scores.

        What belongs to the texts together stands on the first of them.
        """
        items = [Item("detector", s.concept, s.instruction, o.text) for s, o in zip(samples, outputs, strict=True)]
        scores = np.array([verdict.value for verdict in rate(items)], dtype=float)
        labels = np.array([sample.label for sample in samples])
        rows: list[dict[str, Verdict]] = [{} for _ in samples]
        for axis, other in AGAINST.items():
            own = np.flatnonzero(np.isin(labels, ("positive", other)))
            if not (labels == other).any():
                continue
            for i, value in zip(own, placements(scores[own], labels[own] == "positive"), strict=True):
                rows[i][axis] = Verdict(float(value), repr(float(scores[i])))
        for row in rows:
            if "auroc" in row:
                row["overall"] = row["auroc"]
        rows[0] |= {axis: Verdict(value) for axis, value in thresholds(scores, labels).items()}
        return rows
