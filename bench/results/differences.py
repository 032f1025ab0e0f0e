"""One run minus another: the one place where two runs are compared.

Invariant: paired over the units both have, and no error is smaller than what the answers' own noise, and questions
that concepts share, leave of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from bench.core.content import Array
from bench.results.runs import Run, by_question, question_of, unit_names
from bench.stats.significance import Difference, crossed_error, paired

Scores = Mapping[str, float | None]
"""unit, or generation -> score; None where there is none."""


def difference(
    one: Run, two: Run, axis: str = "overall", units: Iterable[str] | None = None, level: float = 0.95
) -> Difference:
    """Run `one` minus `two` on an axis, over those of `units` (all there are) that both have."""
    return between(one, (one.scores(axis), ratings(one, axis)), (two.scores(axis), ratings(two, axis)), units, level)


def ratings(run: Run, axis: str) -> Scores:
    """generation -> its score on an axis; empty where a unit's score is no mean of its generations' scores."""
    if run.kind == "detector":
        return {}
    return {s["id"]: s["ratings"].get(axis) for s in run.data["samples"]}


def between(
    run: Run,
    one: tuple[Scores, Scores],
    two: tuple[Scores, Scores],
    units: Iterable[str] | None = None,
    level: float = 0.95,
) -> Difference:
    """The difference of two sets of scores, each given by unit and by generation, on the questions of `run`."""
    (a, own), (b, other) = one, two
    pairs = [
        (x, y) for n in (a if units is None else units) if (x := a.get(n)) is not None and (y := b.get(n)) is not None
    ]
    scale, error = float(run.data.get("scale", 2.0)), _error(run, own, other, a if units is None else units)
    return paired([x for x, _ in pairs], [y for _, y in pairs], scale, error, level)


Answers = dict[tuple[str, str], tuple[list[float], list[float]]]
"""(unit, question) -> what the answers to it scored, by each of two."""


def _answers(run: Run, one: Scores, two: Scores, names: Mapping[str, str]) -> Answers:
    """`names` has the unit of each sample, where that is not its concept."""
    found: Answers = {}
    for s in run.data["samples"]:
        place = names.get(s["id"], s["concept"]), question_of(s)
        for given, kept in zip((one, two), found.setdefault(place, ([], [])), strict=True):
            if (value := given.get(s["id"])) is not None:
                kept.append(value)
    return found


def nested(one: Run, two: Run, axis: str = "overall") -> Array:
    """Paired differences `[units, questions, answers]`, run `one` minus `two`; NaN where there is none.

    Concepts are units here however few they are: this is what the number of them is planned by.
    """
    few = by_question(one.data)
    rows: dict[str, list[list[float]]] = {name: [] for name in (one.data["concepts"] if few else one.scores(axis))}
    names = {} if few else unit_names(one.data)
    for (unit, _), (x, y) in _answers(one, ratings(one, axis), ratings(two, axis), names).items():
        if unit in rows and x and y:
            rows[unit].append([a - b for a, b in zip(x, y, strict=False)])
    wide = max((len(row) for row in rows.values()), default=0)
    deep = max((len(answers) for row in rows.values() for answers in row), default=0)
    found = np.full((len(rows), wide, deep), np.nan)
    for i, row in enumerate(rows.values()):
        for k, answers in enumerate(row):
            found[i, k, : len(answers)] = answers
    return found


def _error(run: Run, one: Scores, two: Scores, units: Iterable[str]) -> float:
    rows: dict[str, list[tuple[float, str]]] = {name: [] for name in units}
    for (unit, question), (x, y) in _answers(run, one, two, unit_names(run.data)).items():
        if unit in rows and x and y:  # several answers to a question are one of its luck
            rows[unit].append((math.fsum(x) / len(x) - math.fsum(y) / len(y), question))
    widest = max((len(row) for row in rows.values()), default=0)
    if not widest:
        return 0.0
    values, asked = np.full((len(rows), widest), np.nan), np.zeros((len(rows), widest), dtype=int)
    numbers: dict[str, int] = {}
    for i, row in enumerate(rows.values()):
        for k, (value, question) in enumerate(row):
            values[i, k], asked[i, k] = value, numbers.setdefault(question, len(numbers))
    error = crossed_error(values, asked)
    return error if np.isfinite(error) else 0.0
