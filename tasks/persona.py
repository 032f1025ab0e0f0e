"""Personas: does the answer show a trait and hold together, and does the prompt give it away beforehand?

Invariant: questions that are asked were never answered in training, and the chats a vector watches are
answered by the bare model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar, NotRequired, TypedDict

from bench import Completion, Concept, Example, Item, Pair, Rate, Sample, Train, UsageError, Verdict, task
from bench.core.documents import read_json
from bench.core.paths import expanded
from bench.core.shapes import Misfit, Text
from tasks._axbench_data import Corpus, checked, load
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
    rating of what follows (`bench.run.monitor`). `data`: mini, or a folder with one JSON file per trait:

        {"trait": "flattering the user",
         "personas": {"positive": ["a courtier who …"], "negative": ["a critic who …"]},
         "answers": [{"question": "…", "positive": "…", "negative": "…"}],
         "questions": ["…"]}

    `answers` are for training, `questions` for selection (first half) and the test. Deviation: the run's
    judge in place of a hosted one, personas as noun phrases in place of instructions.

    One item: "Describe a quiet village at dawn." is scored high for the ocean where the answer speaks of
    nets and tides in whole sentences; under "You are a marine biologist …" the monitor should read high.
    """

    axes: ClassVar[tuple[str, ...]] = ("trait", "coherence")
    derives: ClassVar[frozenset[str]] = frozenset()  # a trait is no topic that a template could name

    @cached_property
    def corpus(self) -> Corpus:
        folder = expanded(self.data)
        corpus = (
            _folder(folder)
            if folder.is_dir() and list(folder.glob("*.json"))
            else load(self.data, self.setting, self.revision)
        )
        for name, train in corpus.trains.items():
            if not train.personas:
                raise UsageError(f"data {self.data}: {name} has no personas; mini has, or a folder of JSON files")
        return corpus.limited(self.protocol.concepts)

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


def _folder(folder: Path) -> Corpus:
    trains: dict[str, Train] = {}
    instructions = {}
    for path in sorted(folder.glob("*.json")):
        row = read_json(path, TRAIT, "a trait", "docs/tasks.md shows what such a file holds")
        trains[path.stem], instructions[path.stem] = _trait(path.stem, row)
    return checked(Corpus(trains, instructions, dict.fromkeys(trains, ())), folder.name)


class Answer(TypedDict):
    question: Text
    positive: Text
    negative: Text


class Sides(TypedDict):
    positive: list[Text]
    negative: list[Text]


class Trait(TypedDict):
    """A file of a folder of traits."""

    trait: Text
    personas: Sides
    answers: list[Answer]
    questions: list[Text]
    genre: NotRequired[Text]


def _agrees(row: Trait) -> None:
    """Raise ValueError for personas without a counterpart, and a question that stands there twice."""
    sides = {side: len(row["personas"][side]) for side in ("positive", "negative")}
    if len(set(sides.values())) > 1:
        raise Misfit(f"has {sides['positive']} positive and {sides['negative']} negative ones", "personas")
    if twice := [text for text, n in Counter(row["questions"]).items() if n > 1]:
        raise Misfit(f"asks {twice[0]!r} twice", "questions")


TRAIT = Annotated[Trait, _agrees]


def _trait(name: str, row: Trait) -> tuple[Train, tuple[str, ...]]:
    """A trait's training views and the questions it is asked."""
    sides = row["personas"]
    answers = [Pair(a["question"], a["positive"], a["negative"]) for a in row["answers"]]
    train = Train(
        Concept(name, row["trait"], row.get("genre", "text")),
        positives=tuple(Example(a.instruction, a.positive) for a in answers),
        negatives=tuple(Example(a.instruction, a.negative) for a in answers),
        pairs=tuple(answers),
        personas=tuple(zip(sides["positive"], sides["negative"], strict=True)),
    )
    return train, tuple(row["questions"])
