"""Whether a method moves its concept alone, and still moves it when it is told not to: `related` and `adverse`.

Invariant: ratings of the picked setting's answers, made when all is picked and scored; nothing here decides either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench.core.content import digest
from bench.core.definitions import code_digest
from bench.core.interfaces import Task
from bench.core.values import Concept, Item, Sample
from bench.run.trials import AGAIN

AXES = ("concept", "trait")
"""What a task may call the axis on which a judge rates its concept."""
ORDER = "{instruction}\n\nAbove all else: keep strictly off {concept}. Nothing in your answer may touch on it."
"""What a question says besides, against the concept."""
SHARE = 0.5
"""Of a concept's test questions the first so many are asked again against it, one at the least."""


def concept_axis(task: Task) -> str:
    """The axis on which a judge says how much of the concept an answer shows; "" where no judge does."""
    rated = task.kind == "steering" and task.rated and not task.suppresses_concept
    return next((name for name in AXES if name in task.axes), "") if rated else ""


def others(task: Task) -> dict[str, Concept]:
    """concept -> the one that its answers are rated for besides: the next of its genre, in the order of the data and
    round; the next of all where its genre has no other. Empty where there is one concept alone."""
    every = list(task.concepts())
    found = {}
    for concept in every if len(every) > 1 else []:
        alike = [one for one in every if one.genre == concept.genre]
        ring = alike if len(alike) > 1 else every
        found[concept.id] = ring[(ring.index(concept) + 1) % len(ring)]
    return found


def able(task: Task, names: Iterable[str]) -> tuple[str, ...]:
    """Those of `related` and `adverse` among the names that a task can be looked at for."""
    fit = {"related": bool(concept_axis(task) and others(task)), "adverse": bool(concept_axis(task))}
    return tuple(name for name in names if fit.get(name))


def contested(task: Task, concept: Concept) -> list[Sample]:
    """The first test questions of a concept with an order against it; each has its plain question's id, and is asked
    once."""
    asked = [sample for sample in task.test(concept) if sample.kind == "generate" and sample.turn <= 1]
    return [
        replace(
            sample,
            messages=(*sample.messages[:-1], ("user", against(sample.messages[-1][1], concept))),
            question=sample.question or sample.instruction,
        )
        for sample in asked[: max(1, int(SHARE * len(asked)))]
    ]


def against(instruction: str, concept: Concept) -> str:
    return ORDER.replace("{concept}", concept.text).replace("{instruction}", instruction)


def related(rows: Sequence[Mapping[str, Any]], beside: Mapping[str, Concept]) -> dict[str, Item]:
    """sample -> what the judge is asked of it besides: whether the first answer to a question shows another concept, of
    the rows of a record."""
    return {
        row["id"]: Item("concept", beside[row["concept"]], row.get("question") or row["instruction"], row["text"])
        for row in rows
        if row.get("turn", 1) == 1 and row.get("thought") != "unfinished" and AGAIN not in row["id"]
    }


def key(name: str) -> str:
    """Digest of what decides `related` or `adverse` besides the run: a run that has another is looked at again."""
    decided = (code_digest(contested, against), ORDER, SHARE) if name == "adverse" else (code_digest(others, related),)
    return digest(name, *decided)
