"""Persistence: does what was asked for last over the turns of a dialogue, and does the text hold together?

Invariant: the user's turns are the same for every method, so that dialogues are paired; a setting is picked on single
questions, as for AxBench, and kept through all turns.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from bench import Concept, Sample, Size, UsageError, digest, task
from bench.core.shapes import Range
from tasks.axbench import AxBench

SCRIPTS = Path(__file__).parent / "data" / "dialogues.json"
"""What users say after a first answer: nine turns that fit any, with a new subject every third turn. This project's
own."""


@cache
def scripts() -> tuple[tuple[str, ...], ...]:
    """The later turns of each dialogue."""
    return tuple(map(tuple, json.loads(SCRIPTS.read_text("utf-8"))))


@task("persistence")
@dataclass(frozen=True)
class Persistence(AxBench):
    """Dialogues of `turns` turns on AxBench's concepts; every turn is rated as a single answer is, 0 to 2.

    A dialogue begins with a test instruction; then the user goes on by a script that fits any answer and turns to a new
    subject every third turn. The model reads its own earlier answers. The overall score is the mean over all turns, so
    that a method that is strong once and gone later does not win; the report has the scores by turn, their slopes and
    the share of a text that repeats earlier turns.

    Each instruction begins `answers` dialogues: one, whatever the preset, for each has `turns` answers.

    `prompt = once` puts a prompt's text around the user's first turn (and a system message before the chat), `each`
    around every turn. `history = steered`: earlier turns are read anew at each turn under the same edits; `plain`:
    edits begin behind them. `data`, `setting`, `revision`: as for `axbench`.

    One item: after "Describe a quiet village at dawn." and its answer the user asks "How would you put that to a
    ten-year-old?"; for Mediterranean meals the second answer, too, should speak of oil and olives, still be for a
    child, and be sound English.
    """

    axes: ClassVar[tuple[str, ...]] = ("concept", "instruction", "fluency")
    turns: Annotated[int, Range(2, 10)] = 10
    prompt: Literal["once", "each"] = "once"
    history: Literal["steered", "plain"] = "steered"
    answers: Size = 1
    """Dialogues that begin with the same instruction: `turns` answers each, in place of the preset's answers to it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "protocol", replace(self.protocol, answers=self.answers))
        if clash := {line for script in scripts() for line in script} & self.taught():
            raise UsageError(f"data {self.data}: {min(clash)!r} is a turn of a dialogue and in the training texts")

    def taught(self) -> set[str]:
        """Questions that a method may have learnt from or been picked on."""
        found = {text for asked in self.corpus.instructions.values() for text in asked[: len(asked) // 2]}
        for train in self.corpus.trains.values():
            found |= {example.instruction for example in (*train.positives, *train.negatives)}
        return found

    @property
    def digest(self) -> str:
        return digest(self.corpus.digest, scripts())

    def test(self, concept: Concept) -> Sequence[Sample]:
        asked = self.corpus.instructions[concept.id]
        asked = asked[len(asked) // 2 :][: self.protocol.test]
        wraps: Literal["first", "all"] = "first" if self.prompt == "once" else "all"
        found = []
        for turn in range(1, self.turns + 1):
            for i, text in enumerate(asked):
                said = text if turn == 1 else scripts()[i % len(scripts())][turn - 2]
                name = f"{concept.id}/test/{i}"
                found.append(
                    Sample(
                        f"{name}.{turn}",
                        concept,
                        "test",
                        "generate",
                        (("user", said),),
                        follows=f"{name}.{turn - 1}" if turn > 1 else "",
                        turn=turn,
                        prompted=wraps,
                        settled=self.history == "plain",
                    )
                )
        return found
