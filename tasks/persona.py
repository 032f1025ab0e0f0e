"""Personas: does the answer show a trait and hold together, and does the prompt give it away beforehand?

Invariant: questions that are asked were never answered in training, and the chats a vector watches are
answered by the bare model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from bench import Completion, Concept, Item, Rate, Sample, Train, UsageError, Verdict, task
from tasks._axbench_data import Corpus, load
from tasks.axbench import AxBench, overall

WORDINGS = (
    "You are {persona}.",
    "Answer as {persona} would.\n\n{instruction}",
    "{instruction}\n\nLet {persona} do the talking.",
    "Think, feel and write like {persona} in all that you say.",
)
"""Of persona prompts; every wording goes with every persona. None is a wording of `prompt-persona`."""
WATCHED = 2
"""Personas of each side under which the bare model is watched."""


@task("persona")
@dataclass(frozen=True)
class Persona(AxBench):
    """Trait expression and coherence, 0 to 2, harmonic mean (persona vectors, arXiv 2507.21509).

    `trait`: how strongly the answer shows the trait; `coherence`: whether it reads as sound text. Prompts
    take on the data's personas. Each vector is also a monitor: the bare model answers under personas of
    either side and under none, and the projection of the last prompt token is correlated with the trait
    rating of what follows (`bench.run.monitor`). `data`: mini, or a folder of one file a concept with personas
    (docs/data.md). Deviation: the run's judge in place of a hosted one, personas as noun phrases in place of
    instructions.

    One item: "Describe a quiet village at dawn." is scored high for the ocean where the answer speaks of
    nets and tides in whole sentences; under "You are a marine biologist …" the monitor should read high.
    """

    axes: ClassVar[tuple[str, ...]] = ("trait", "coherence")
    derives: ClassVar[frozenset[str]] = frozenset()  # a trait is no topic that a template could name

    @cached_property
    def corpus(self) -> Corpus:
        corpus = load(self.data, self.setting, self.revision)
        for name, train in corpus.trains.items():
            if not train.personas:
                raise UsageError(
                    f"data {self.data}: concept {name} has no personas; mini has, or put them into its files"
                )
        return corpus.limited(self.protocol.concepts, self.concept)

    def train(self, concept: Concept) -> Train:
        train = super().train(concept)
        shown = [plus for plus, _ in train.personas]
        asked = [
            WORDINGS[(i + k) % len(WORDINGS)].replace("{persona}", persona)
            for k in range(len(WORDINGS))
            for i, persona in enumerate(shown)
        ]
        return replace(train, prompts=tuple(asked))

    def watched(self, concept: Concept) -> Sequence[Sample]:
        """The test questions under personas of either side, and as they are; the label says which."""
        pairs = super().train(concept).personas[:WATCHED]
        kinds = [(f"positive {i}", plus) for i, (plus, _) in enumerate(pairs)]
        kinds += [(f"negative {i}", minus) for i, (_, minus) in enumerate(pairs)]
        return [
            replace(
                sample,
                id=f"{concept.id}/watch/{kind}/{i}",
                messages=((("system", f"You are {persona}."),) if persona else ()) + sample.messages,
                label=kind,
            )
            for kind, persona in (*kinds, ("none", ""))
            for i, sample in enumerate(self.test(concept))
        ]

    def score(
        self, samples: Sequence[Sample], outputs: Sequence[Completion], rate: Rate
    ) -> Sequence[dict[str, Verdict]]:
        pairs = list(zip(samples, outputs, strict=True))
        items = [Item(axis, s.concept, s.instruction, o.text) for s, o in pairs for axis in ("concept", "fluency")]
        verdicts = iter(rate(items))
        rows = [{axis: next(verdicts) for axis in self.axes} for _ in pairs]
        return [row | {"overall": overall(row.values())} for row in rows]
