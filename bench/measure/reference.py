"""A reference set of ratings: answers drawn blind for readers, and what a task makes of what they rated.

Invariant: what a reader gets is what a judge is asked: the concept, the question it rates against and the answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from bench.core.errors import UsageError
from bench.core.interfaces import Task
from bench.core.protocol import protocol
from bench.core.registry import build
from bench.core.spoken import spoken
from bench.core.values import Completion, Concept, Item, Sample, Verdict
from bench.judges.rules import unworded
from bench.measure.rejudge import asked_of, has_texts, task_of
from bench.results.ratings import Answer, Origin, blind, read_answers
from bench.results.runs import Run, finite
from bench.stats.intervals import Estimate


def described(e: Estimate, name: str) -> dict[str, Any]:
    """An estimate as JSON, its mean under `name`."""
    return {name: finite(e.mean), "low": finite(e.low), "high": finite(e.high), "n": e.n}


def load(data: str, limit: int = 0) -> Task:
    """The AxBench task over `data`: concepts, training texts, and labelled evaluation texts."""
    task: Task = build("task", "axbench", {"data": data}, protocol=protocol("paper", limit=limit))
    return task


def answers_of(run: Run) -> list[tuple[Answer, Origin]]:
    """The kept test answers of a run, each as its task would show it to a judge."""
    task, spec = task_of(run), run.data["spec"]
    if not has_texts(run):
        raise UsageError(f"{run.path.parent.name} keeps no generations to rate")
    found = []
    for kept, sample in zip(run.data["samples"], asked_of(run, task), strict=True):
        shown: list[Item] = []

        def note(items: Sequence[Item], shown: list[Item] = shown) -> list[Verdict]:
            shown += items
            return [Verdict(None, reason="shown to a reader") for _ in items]

        task.score([sample], [Completion(kept["text"], kept["tokens"], 0)], note)
        question = next((i.instruction for i in shown if i.axis == "instruction"), sample.instruction)
        name, picked = blind(run.data["id"], kept["id"]), run.data["concepts"][kept["concept"]]["picked"]
        origin = Origin(
            name,
            run.data["id"],
            kept["id"],
            spec["task"],
            spec["model"],
            run.method,
            run.surface,
            f"{picked['coefficient']:g}",
        )
        found.append((Answer(name, sample.concept.text, question, kept["text"]), origin))
    return found


def draw(runs: Sequence[Run], n: int, seed: int = 0) -> list[tuple[Answer, Origin]]:
    """`n` test answers, spread evenly, in random order.

    Each next answer is the one whose surface, task, concept, coefficient and method were drawn least; a text
    that two runs share is drawn once, an empty one never, nor one that is an unfinished thought.
    """
    rng = np.random.default_rng(seed)
    pool: list[tuple[Answer, Origin]] = []
    seen: set[tuple[str, ...]] = set()
    for run in runs:
        for answer, origin in answers_of(run):
            same = (answer.concept, answer.instruction, answer.answer)
            if (spoken(answer.answer) or "").strip() and same not in seen:
                seen.add(same)
                pool.append((answer, origin))
    if len(pool) < n:
        raise UsageError(f"{n} texts were asked for; these runs hold {len(pool)} different ones")
    pool = [pool[i] for i in rng.permutation(len(pool))]
    strata = [(o.surface, o.task, a.concept, o.coefficient, o.method) for a, o in pool]
    levels = [len(set(kinds)) for kinds in zip(*strata, strict=True)]
    drawn: list[tuple[Answer, Origin]] = []
    counts: Counter[tuple[int, str]] = Counter()
    while len(drawn) < n:
        weights = [sum(counts[at] * levels[at[0]] for at in enumerate(own)) for own in strata]
        chosen = int(np.argmin(weights))
        counts.update(enumerate(strata.pop(chosen)))
        drawn.append(pool.pop(chosen))
    return [drawn[i] for i in rng.permutation(n)]


def garbage() -> list[Answer]:
    """Answers that no judge may find good: loops, name salad, invented words, symbols, the concept listed."""
    with resources.as_file(resources.files("bench.measure") / "garbage.csv") as path:
        return read_answers(path)


@cache
def scorer(name: str) -> Callable[[Answer, Mapping[str, float | None]], float | None]:
    """What a task makes of ratings by axis: (answer, axis -> rating) -> `overall` as the task ranks it."""
    made: Task = build("task", name, {}, protocol=protocol("standard"))

    def score(answer: Answer, ratings: Mapping[str, float | None]) -> float | None:
        concept = Concept(unworded(answer.concept), answer.concept)
        messages = (("user", answer.instruction),)
        label = made.axes[0]
        sample = Sample("0", concept, "test", "generate", messages, label=label, question=answer.instruction)

        def rate(items: Sequence[Item]) -> list[Verdict]:
            return [Verdict(ratings.get(item.axis), reason="not rated") for item in items]

        ((*_, overall),) = [row.values() for row in made.score([sample], [Completion(answer.answer, 1, 0)], rate)]
        return overall.value

    return score
