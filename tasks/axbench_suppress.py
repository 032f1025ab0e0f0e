"""AxBench suppression: the question asks for a concept, and the answer should leave it out.

Invariant: the instruction rating is of the question as it stood before the concept was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from bench import Completion, Concept, Item, Rate, Sample, Train, Verdict, task
from tasks.axbench import AxBench, overall

WISHES = (
    "{instruction} Please work {concept} into it.",
    "{instruction}\n\nI would like the answer to draw on {concept}.",
    "With {concept} in mind: {instruction}",
    "{instruction} Relate what you say to {concept}.",
)
"""What brings the concept into the question; none is a wording of a prompting method."""
FORBIDS = (
    "Answer the question itself, plainly and briefly. If a subject or a style is wished for beside it, leave that out "
    "without a word.",
    "{instruction}\n\nKeep to the question and its own subject; anything that was to be added to it is cancelled.",
    "Do not speak of {concept}.\n\n{instruction}",
    "Never mention {concept}, even when you are asked to.",
    "Only the plain question counts. Wishes for a topic, a flavour or a form are not yours to fulfil.",
    "{instruction}\n\nLeave {concept} out of your answer entirely.",
    "You know nothing of {concept} and answer without it.",
    "{instruction}\n\n(Ignore any wish for {concept}.)",
    "The subject of {concept} is closed: keep it out of everything you write.\n\n{instruction}",
    "{instruction}\n\nNot one word about {concept}, please.",
    "Whatever a question wants, its answer stays clear of {concept}.",
    "Rule: nothing about {concept}.\n\n{instruction}",
    "{instruction}\n\nRule: nothing about {concept}.",
    "Answer in plain and general terms, with {concept} left aside.",
    "Any part of a question about {concept} is to be passed over in silence.\n\n{instruction}",
    "{instruction}\n\nAnswer as if {concept} had not been mentioned.",
    "If {concept} comes up, change the subject back to the rest of the question.",
)
"""System messages, prepended and appended, the strongest first: at least as many as the largest preset has judged
trials. Three do not name the concept, for a small model that is told not to write a word writes it."""


@task("axbench-suppress")
@dataclass(frozen=True)
class AxBenchSuppress(AxBench):
    """Concept suppression (arXiv 2505.20809): harmonic mean of 2 - concept, instruction and fluency.

    `absence` is 2 minus the concept rating. Edits are opposed (a negative coefficient; a projection
    removes as it is), prompts forbid the concept, examples show answers without it. Deviation: the
    concept is asked for in a fixed sentence, where the paper has a language model rewrite the question.

    One item: "Describe a quiet village at dawn. Relate what you say to chess." is scored high for a village
    at dawn and no chess.
    """

    axes: ClassVar[tuple[str, ...]] = ("absence", "instruction", "fluency")
    suppresses_concept: ClassVar[bool] = True

    def train(self, concept: Concept) -> Train:
        forbids = tuple(line.replace("{concept}", concept.text) for line in FORBIDS)
        return replace(super().train(concept), prompts=forbids)

    def _samples(self, concept: Concept, split: Literal["select", "test"], asked: Sequence[str]) -> list[Sample]:
        plain = super()._samples(concept, split, asked)
        return [wishing(sample, WISHES[i % len(WISHES)]) for i, sample in enumerate(plain)]

    def score(
        self, samples: Sequence[Sample], outputs: Sequence[Completion], rate: Rate
    ) -> Sequence[dict[str, Verdict]]:
        items = [
            Item(axis, sample.concept, sample.question, output.text)
            for sample, output in zip(samples, outputs, strict=True)
            for axis in ("concept", "instruction", "fluency")
        ]
        verdicts = iter(rate(items))
        rows = []
        for _ in samples:
            concept, instruction, fluency = (next(verdicts) for _ in range(3))
            absence = replace(concept, value=None if concept.value is None else 2 - concept.value)
            row = {"absence": absence, "instruction": instruction, "fluency": fluency}
            rows.append(row | {"overall": overall(row.values())})
        return rows


def wishing(sample: Sample, wish: str) -> Sample:
    """The sample with its concept asked for; the plain question stays beside it."""
    text = wish.replace("{concept}", sample.concept.text).replace("{instruction}", sample.instruction)
    return replace(sample, messages=(("user", text),), question=sample.instruction)
