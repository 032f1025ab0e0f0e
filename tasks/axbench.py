"""AxBench concept steering: does the answer show the concept, answer the instruction, and read well?

Invariant: selection and test instructions never meet, and a rating that is missing stays missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

from bench import Completion, Concept, Example, Item, Protocol, Rate, Sample, Task, Train, Verdict, task
from tasks._axbench_data import Corpus, load


@task("axbench")
@dataclass(frozen=True)
class AxBench(Task):
    """Concept steering, rated 0 to 2 on three axes, harmonic mean (arXiv 2501.17148).

    `data`: mini | concept10 | concept500 | conceptFD | concept16k | a folder in AxBench's layout or of one file
    a concept; `setting` names the hub release's model and layer, and `revision` its commit. Views that the data
    does not bring are made of those it has (docs/data.md).

    One item: "Describe a quiet village at dawn." for Mediterranean meals: steered text should speak of oil
    and olives (concept), still describe the village (instruction), and be sound English (fluency).
    """

    axes: ClassVar[tuple[str, ...]] = ("concept", "instruction", "fluency")
    derives: ClassVar[frozenset[str]] = frozenset({"pairs", "choices", "personas"})
    protocol: Protocol
    data: str = "mini"
    setting: str = "2b/l20"
    revision: str = ""
    concept: str = ""
    """The only concept to ask about; all of them without one."""

    @cached_property
    def corpus(self) -> Corpus:
        return load(self.data, self.setting, self.revision).limited(self.protocol.concepts, self.concept)

    @property
    def digest(self) -> str:
        return self.corpus.digest

    @property
    def sources(self) -> Mapping[str, str]:
        return self.corpus.sources

    def concepts(self) -> Sequence[Concept]:
        return [train.concept for train in self.corpus.trains.values()]

    def train(self, concept: Concept) -> Train:
        return self.corpus.trains[concept.id]

    def evaluation(self, concept: Concept) -> Sequence[tuple[Example, str]]:
        """Labelled texts for detection: (example, positive | negative | hard negative)."""
        return self.corpus.evaluation[concept.id]

    def asked(self, concept: Concept) -> Sequence[str]:
        """Instructions of both splits."""
        return self.corpus.instructions[concept.id]

    def select(self, concept: Concept) -> Sequence[Sample]:
        asked = self.asked(concept)
        return self._samples(concept, "select", asked[: len(asked) // 2][: self.protocol.select])

    def test(self, concept: Concept) -> Sequence[Sample]:
        asked = self.asked(concept)
        return self._samples(concept, "test", asked[len(asked) // 2 :][: self.protocol.test])

    def _samples(self, concept: Concept, split: Literal["select", "test"], asked: Sequence[str]) -> list[Sample]:
        return [
            Sample(f"{concept.id}/{split}/{i}", concept, split, "generate", (("user", text),))
            for i, text in enumerate(asked)
        ]

    def score(
        self, samples: Sequence[Sample], outputs: Sequence[Completion], rate: Rate
    ) -> Sequence[dict[str, Verdict]]:
        return rated(samples, outputs, rate)


def rated(samples: Sequence[Sample], outputs: Sequence[Completion], rate: Rate) -> list[dict[str, Verdict]]:
    """A judge's ratings of each answer on AxBench's axes, and their harmonic mean."""
    items = [
        Item(axis, sample.concept, sample.instruction, output.text)
        for sample, output in zip(samples, outputs, strict=True)
        for axis in AxBench.axes
    ]
    verdicts = iter(rate(items))
    rows = [{axis: next(verdicts) for axis in AxBench.axes} for _ in samples]
    return [row | {"overall": overall(row.values())} for row in rows]


def overall(ratings: Iterable[Verdict]) -> Verdict:
    """Harmonic mean of the ratings; 0 where one is 0; None where one is missing."""
    values = []
    for verdict in ratings:
        if verdict.value is None:
            return Verdict(None, reason=verdict.reason)
        values.append(verdict.value)
    return Verdict(0.0 if min(values) <= 0 else len(values) / sum(1 / v for v in values))
