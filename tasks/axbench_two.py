"""Two of AxBench's concepts at once: are both there, and is the text still an answer?

Invariant: each concept is rated on its own, by what it is rated by alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from bench import BenchError, Completion, Concept, Item, Rate, Sample, Train, Verdict, task
from bench.results.composition import JOINED
from tasks._axbench_data import Corpus, load
from tasks.axbench import AxBench, overall

VIEWS = ("positives", "negatives", "hard_negatives", "pairs", "choices", "triggers", "others")


@task("axbench-two")
@dataclass(frozen=True)
class AxBenchTwo(AxBench):
    """Two concepts of one genre at once, each rated 0 to 2; harmonic mean of both, instruction and fluency.

    What a method learns from is every other text of either concept, as many as of one alone: no text shows both, so
    that a steering has to put together what it learnt of each. Prompts name both. `first` and `second`: the rating of
    each concept; `both`: their harmonic mean. A concept stands in two pairs, in a genre of two in one. A report with a
    table of `axbench` says how much of a concept, shown alone, is left. `data`, `setting`, `revision`: as for
    `axbench`.

    One item: "Describe a quiet village at dawn." for the ocean and Mediterranean meals: text about a harbour where oil
    and olives are sold has both; about the harbour alone it has `first` and no `second`, and is 0.
    """

    axes: ClassVar[tuple[str, ...]] = ("both", "first", "second", "instruction", "fluency")
    ratings: ClassVar[int] = 4
    composes: ClassVar[str] = "axbench"

    @cached_property
    def corpus(self) -> Corpus:
        return load(self.data, self.setting, self.revision)

    @cached_property
    def pairs(self) -> dict[str, tuple[Train, Train]]:
        """Each concept with the next one of its genre, the last with the first."""
        genres: dict[str, list[Train]] = {}
        for train in self.corpus.trains.values():
            genres.setdefault(train.concept.genre, []).append(train)
        found = {}
        for own in genres.values():
            for one, other in zip(own, own[1:] + (own[:1] if len(own) > 2 else []), strict=False):
                if JOINED in one.concept.id:
                    raise BenchError(
                        f"{self.data}: the name {one.concept.id!r} has a {JOINED}, which stands between two"
                    )
                found[f"{one.concept.id}{JOINED}{other.concept.id}"] = (one, other)
        if not found:
            raise BenchError(f"{self.data}: no two concepts of one genre")
        return found

    def concepts(self) -> Sequence[Concept]:
        made = [
            Concept(name, f"{one.concept.text}, and {other.concept.text}", one.concept.genre)
            for name, (one, other) in self.pairs.items()
        ]
        if self.concept and not (made := [concept for concept in made if concept.id == self.concept]):
            raise BenchError(f"no pair {self.concept!r} in the data: {', '.join(self.pairs)}")
        return made[: self.protocol.concepts or None]

    def train(self, concept: Concept) -> Train:
        texts, (one, other) = concept.text, self.pairs[concept.id]
        merged: dict[str, Any] = {
            view: tuple(
                pair[i % 2] for i, pair in enumerate(zip(getattr(one, view), getattr(other, view), strict=False))
            )
            for view in VIEWS
        }
        personas = (
            (f"someone who brings up {texts} again and again", f"someone who never speaks of {texts}"),
            (f"a writer fond of {texts}", f"a writer with no interest in {texts}"),
        )
        return Train(concept, **merged, personas=personas)

    def calibration(self) -> Sequence[Train]:
        return list({train.concept.id: train for pair in self.pairs.values() for train in pair}.values())

    def asked(self, concept: Concept) -> Sequence[str]:
        own = self.pairs[concept.id]
        taught = {row.instruction for train in own for row in (*train.positives, *train.negatives)}
        taught |= {pair.instruction for train in own for pair in train.pairs}
        return [text for text in self.corpus.instructions[own[0].concept.id] if text not in taught]

    def score(
        self, samples: Sequence[Sample], outputs: Sequence[Completion], rate: Rate
    ) -> Sequence[dict[str, Verdict]]:
        items = []
        for sample, output in zip(samples, outputs, strict=True):
            one, other = (train.concept for train in self.pairs[sample.concept.id])
            of = (("concept", one), ("concept", other), ("instruction", sample.concept), ("fluency", sample.concept))
            items += [Item(axis, concept, sample.instruction, output.text) for axis, concept in of]
        verdicts = iter(rate(items))
        rows = []
        for _ in samples:
            rated = {axis: next(verdicts) for axis in ("first", "second", "instruction", "fluency")}
            both = overall([rated["first"], rated["second"]])
            rows.append({"both": both, **rated, "overall": overall(rated.values())})
        return rows
