"""The contract every task is held to: `bench check task NAME`, the tests, and the start of every run.

Invariant: a check returns what is wrong, or nothing; it never passes for lack of anything to look at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bench.core.blame import defined, foreign
from bench.core.errors import THEIRS, BenchError, UsageError, cause, traced
from bench.core.interfaces import Examiner, Rate, Task
from bench.core.protocol import protocol
from bench.core.registry import build
from bench.core.spoken import UNFINISHED
from bench.core.values import Completion, Concept, Item, Sample, Train, Verdict
from bench.data.layout import fold

ROUNDING = 1e-6


def leak(task: Task, concept: Concept, train: Train) -> str:
    """Why a concept's data are not fit to be run: it has no words, one side says nothing or what the other says, a
    split is empty, or two share an instruction; "" where they are.
    """
    if not concept.text.strip():
        return f"concept {concept.id}: it has no text"
    for side, rows in (("positive", train.positives), ("negative", train.negatives)):
        if rows and not any(row.response.strip() for row in rows):
            return f"concept {concept.id}: none of its {side} texts has a word"
    sides = [{e.response.strip() for e in rows} for rows in (train.positives, train.negatives)]
    if train.positives and sides[0] == sides[1]:
        return f"concept {concept.id}: its positive texts are its negative ones"
    asked = {"select": task.select(concept), "test": task.test(concept)}
    for split, samples in asked.items():
        if not samples and (split == "test" or task.kind == "steering"):
            return f"concept {concept.id}: task {task.name} has no {split} sample for it"
        if shared := _trained(train) & _plain(samples):
            return _shared(concept, f"train and {split}", shared)
    select, test = ({fold(s.instruction): s.instruction for s in samples} for samples in asked.values())
    return (
        _shared(concept, "select and test", shared) if (shared := {test[text] for text in select.keys() & test}) else ""
    )


def _trained(train: Train) -> set[str]:
    return {e.instruction for e in (*train.positives, *train.negatives)} - {""}


def _plain(samples: Sequence[Sample]) -> set[str]:
    """The instructions of samples; a task that works a question into a longer one keeps the plain one as the label."""
    return {text for s in samples for text in (s.instruction, s.label, s.label.split("\n", 1)[-1])}


def _shared(concept: Concept, splits: str, shared: set[str]) -> str:
    return f"concept {concept.id}: {splits} share an instruction, take it out of one: {min(shared)[:100]!r}"


def examined(task: Task, judge: str, rate: Rate) -> None:
    """Refuses a judge that cannot rate the examples that the task tries it on, where it has any."""
    if isinstance(task, Examiner) and (wrong := task.misjudges(rate)):
        raise UsageError(f"judge {judge} {wrong}: name one that can read this task (--judge llm)")


def untyped(task: Task) -> str:
    """What a task gives that is no concept, training data or sample; "" where all are."""
    concepts = task.concepts()
    if not isinstance(concepts, Sequence) or not all(isinstance(one, Concept) for one in concepts):
        return f"its concepts are {_kinds(concepts)}, where a list of Concept is due"
    for concept in concepts:
        if not isinstance(train := task.train(concept), Train):
            return f"its training data of {concept.id} is {_kinds(train)}, where a Train is due"
        for split, samples in (("select", task.select(concept)), ("test", task.test(concept))):
            if not isinstance(samples, Sequence) or not all(isinstance(one, Sample) for one in samples):
                return f"its {split} samples of {concept.id} are {_kinds(samples)}, where a list of Sample is due"
    return ""


def _kinds(given: Any) -> str:
    """What something is, in words: of a list, what is in it."""
    if not isinstance(given, list | tuple):
        return f"a {type(given).__name__}"
    return f"a {type(given).__name__} of {', '.join(sorted({type(one).__name__ for one in given})) or 'nothing'}"


def twice(task: Task) -> str:
    """Which concept or sample has the id of another, whose place in results it would take; "" where none has."""
    concepts = task.concepts()
    samples = [s.id for c in concepts for s in (*task.select(c), *task.test(c))]
    for what, ids in (("concept", [c.id for c in concepts]), ("sample", samples)):
        if again := sorted(name for name, n in Counter(ids).items() if n > 1):
            return f"{what} {again[0]} is there {ids.count(again[0])} times"
    return ""


def check(name: str, params: Mapping[str, Any] | None = None) -> dict[str, str]:
    """label -> what is wrong ("" when nothing is), for the registered task `name` under preset quick."""
    steps: dict[str, Callable[[Task], str]] = {
        "it has concepts with texts of both sides": _concepts,
        "its samples are named once and belong to their split": _samples,
        "train, select and test share no instruction": _splits,
        "its data has one digest, and fewer concepts another": lambda task: _digest(name, params, task),
        "an answer gets every axis, on the scale": _scores,
        "a rating that is missing stays missing": _missing,
    }
    task: Task = _built(name, params)
    found: dict[str, str] = {}
    for label, step in steps.items():
        try:
            found[label] = step(task)
        except THEIRS as error:  # the task is third-party code: its failure is the finding
            found[label] = cause(error, foreign(type(task)))
            traced(error)
        if found[label] and label == next(iter(steps)):
            break
    return found


def _built(name: str, params: Mapping[str, Any] | None, concepts: int = 0) -> Task:
    made: Task = build("task", name, dict(params or {}), protocol=protocol("quick", limit=concepts))
    return made


def _concepts(task: Task) -> str:
    concepts = task.concepts()
    ids = [concept.id for concept in concepts]
    if not ids or len(set(ids)) < len(ids):
        return f"it has {len(ids)} concepts with {len(set(ids))} ids"
    if bare := [c.id for c in concepts if not task.train(c).views]:
        return f"concept {bare[0]} has no training view that a method could read"
    return ""


def _samples(task: Task) -> str:
    for concept in task.concepts():
        for split, samples in (("select", task.select(concept)), ("test", task.test(concept))):
            if wrong := [s.id for s in samples if s.split != split or s.concept != concept]:
                return f"sample {wrong[0]} is given for {split} of {concept.id}, and says otherwise"
    return twice(task)


def _splits(task: Task) -> str:
    return next((problem for c in task.concepts() if (problem := leak(task, c, task.train(c)))), "")


def _digest(name: str, params: Mapping[str, Any] | None, task: Task) -> str:
    if _built(name, params).digest != task.digest:
        return "two instances over the same data have different digests"
    fewer = _built(name, params, 1)
    if len(task.concepts()) > 1 and len(fewer.concepts()) != 1:
        return f"a limit of one concept leaves {len(fewer.concepts())}"
    return ""


def _answers(task: Task) -> tuple[list[Sample], list[Completion]]:
    samples = [s for c in task.concepts()[:2] for s in task.test(c)]
    scores = [tuple(-1.0 - i for i in range(len(sample.options))) for sample in samples]
    return samples, [Completion("It is so.", 4, 10, options=options) for options in scores]


def _scored(task: Task, rating: float | None) -> Sequence[Mapping[str, Verdict]]:
    def rate(items: Sequence[Item]) -> list[Verdict]:
        return [Verdict(rating, reason="" if rating is not None else "unread") for _ in items]

    return task.score(*_answers(task), rate)


def _scores(task: Task) -> str:
    count = len(_answers(task)[0])
    for rating in (0.0, 1.0, 2.0):
        rows = _scored(task, rating)
        if len(rows) != count:
            return f"it scores {len(rows)} of {count} answers"
        for row in rows:
            if problem := _misscored(task, row):
                return problem
    return ""


def _missing(task: Task) -> str:
    if not task.rated:
        return ""
    scored = [v.value for row in _scored(task, None) if (v := row.get("overall")) and v.value is not None]
    return f"an answer that no judge could rate has overall {scored[0]}" if scored else ""


def checked(
    task: Task, samples: Sequence[Sample], outputs: Sequence[Completion], rate: Rate
) -> list[dict[str, Verdict]]:
    """What a task makes of answers, held to its shape: an answer's verdicts by axis, each on the scale or missing.

    Raises BenchError, for the run: a task is the same for every method.
    """
    files = foreign(type(task))
    place = f" ({defined(type(task).score)})" if files else ""
    try:
        rows = list(task.score(samples, outputs, rate))
    except (BenchError, OSError):
        raise
    except THEIRS as error:  # a task may be third-party code
        raise BenchError(f"task {task.name} cannot score: {cause(error, files, place.strip(' ()'))}") from error
    if len(rows) != len(samples):
        raise BenchError(f"task {task.name} scores {len(rows)} of {len(samples)} answers{place}")
    if problem := next((why for row in rows if (why := _misscored(task, row))), ""):
        raise BenchError(f"task {task.name}: {problem}{place}")
    return rows


def scored(
    task: Task, samples: Sequence[Sample], outputs: Sequence[Completion], rate: Rate
) -> list[dict[str, Verdict]]:
    """What `task` makes of what the outputs say. One that says nothing but its thoughts is missing on every axis, and
    no judge is asked about it."""
    missing = Verdict(None, reason=UNFINISHED)

    def unrated(items: Sequence[Item]) -> list[Verdict]:
        return [missing] * len(items)

    said = [replace(output, text=output.spoken) if output.spoken is not None else None for output in outputs]
    both = list(zip(samples, said, strict=True))
    found = iter(checked(task, [s for s, output in both if output], [output for output in said if output], rate))
    mute = [s for s, output in both if output is None]
    # What it is called on each axis only the task knows.
    axes = iter(checked(task, mute, [Completion("", 0, 0)] * len(mute), unrated) if mute else ())
    return [next(found) if output else dict.fromkeys(next(axes), missing) for output in said]


def _misscored(task: Task, row: Any) -> str:
    """What is wrong with the verdicts of one answer."""
    if not isinstance(row, Mapping) or not all(isinstance(verdict, Verdict) for verdict in row.values()):
        return f"an answer's score is a {type(row).__name__}, where a verdict for each axis is due"
    if "overall" not in row and task.kind == "steering":  # of texts some may count for one axis alone
        return "an answer has no overall"
    if strange := sorted(row.keys() - {*task.axes, "overall"}):
        return f"an answer has {strange[0]}, which is none of its axes"
    for axis, verdict in row.items():
        value = 0.0 if verdict.value is None else verdict.value
        if not (isinstance(value, int | float | np.number) and -ROUNDING <= value <= task.scale + ROUNDING):
            return f"{axis} is {value}, and the scale goes from 0 to {task.scale:g}"
    return ""


def refuse(task: Task, trains: Mapping[str, Train]) -> list[str]:
    """Raise BenchError where the splits of a task may not be run; else what a reader should know of them, by line."""
    if problem := twice(task):
        raise BenchError(f"task {task.name}: {problem}")
    for concept in task.concepts():
        if problem := leak(task, concept, trains[concept.id]):
            raise BenchError(problem)
    near = []
    for concept in task.concepts():
        seen = {fold(text) for text in _trained(trains[concept.id])}
        if again := sorted(text for text in _plain(task.test(concept)) if text and fold(text) in seen):
            near.append(
                f"concept {concept.id}: but for case and spaces a test question is a training one: {again[0]!r}"
            )
    return near
