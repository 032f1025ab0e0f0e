"""AxBench concept detection: does a detector rank texts with the concept above texts without it?

Invariant: a concept's score is the AUROC of its evaluation texts, which no fit has seen; hard negatives
have their own axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from bench.api import Rate
from bench.detection import placements
from bench.registry import task
from bench.schema import Completion, Concept, Item, Sample, UsageError, Verdict, digest
from tasks.axbench import AxBench


@task("axbench-detect")
@dataclass(frozen=True)
class AxBenchDetect(AxBench):
    """Concept detection, AUROC over labelled texts (arXiv 2501.17148, Axis C).

    `auroc` (and `overall`): positives against negatives, as the paper; `auroc_hard`: against negatives
    and hard negatives together. Each text's value is its placement among the other class, whose mean is
    the AUROC. `data`: concept10 | concept500 | a folder in AxBench's layout.
    """

    axes: ClassVar[tuple[str, ...]] = ("auroc", "auroc_hard")
    uses: ClassVar[Literal["steering", "detector"]] = "detector"
    scale: ClassVar[float] = 1.0
    rated: ClassVar[bool] = False
    data: str = "concept10"

    def concepts(self) -> Sequence[Concept]:
        if empty := [name for name, texts in self.corpus.evaluation.items() if not texts]:
            raise UsageError(f"data {self.data} has no labelled evaluation texts (concept {empty[0]}): try concept10")
        return super().concepts()

    @property
    def digest(self) -> str:
        return digest(self.corpus.digest, self.corpus.evaluation)

    def select(self, concept: Concept) -> Sequence[Sample]:
        return []

    def test(self, concept: Concept) -> Sequence[Sample]:
        return [
            Sample(f"{concept.id}/test/{i}", concept, "test", "text", text.messages, label=label)
            for i, (text, label) in enumerate(self.evaluation(concept))
        ]

    def score(
        self, samples: Sequence[Sample], outputs: Sequence[Completion], rate: Rate
    ) -> Sequence[dict[str, Verdict]]:
        """Placements of one concept's texts; `rate` gives the detector's raw scores."""
        items = [Item("detector", s.concept, s.instruction, o.text) for s, o in zip(samples, outputs, strict=True)]
        scores = np.array([verdict.value for verdict in rate(items)], dtype=float)
        labels = np.array([sample.label for sample in samples])
        easy = labels != "hard negative"
        hard = placements(scores, labels == "positive")
        plain = np.full(len(scores), np.nan)
        plain[easy] = placements(scores[easy], labels[easy] == "positive")
        rows = []
        for i, raw in enumerate(scores):
            row = {"auroc_hard": Verdict(float(hard[i]), repr(float(raw)))}
            if easy[i]:
                row |= {"auroc": Verdict(float(plain[i])), "overall": Verdict(float(plain[i]))}
            rows.append(row)
        return rows
