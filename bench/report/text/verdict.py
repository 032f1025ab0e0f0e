"""Steer or prompt, task by task: the best prompt against the best steering, both picked before the test split.

Invariant: which two are compared is decided on the select split alone; "steer" is said only where the difference is
beyond chance after Holm over the tasks, a second judge (where there is a judge) sees the same sign, and the steering is
beyond its controls, its own shuffled twin among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.core.escape import cell, head, row as line_of
from bench.report.text import leaderboard
from bench.report.text.opinions import LEVEL
from bench.report.text.sections import gap, is_twin
from bench.results.second_judge import second
from bench.results.tables import Row, Table, baselines, select_score
from bench.stats.intervals import Difference, holm

STEERING = ("direction", "trained")
"""Families that change the model; a combination has a prompt in it."""


@dataclass(frozen=True)
class Answer:
    """One task's comparison, on `overall`."""

    table: Table
    prompt: Row
    steering: Row
    difference: Difference
    """Steering minus prompt, paired."""
    p: float
    """Of the difference, after Holm over the tasks that are answered together."""
    control: tuple[str, Difference] | None
    """Steering minus the control that it is least surely above, its own shuffled twin among them."""
    twin: bool
    """Whether that twin ran."""
    second: Difference | None
    """Steering minus prompt by an independent judge."""
    judges: str
    """`agreed`, `disputed`, `no second opinion`, or "" where the task asks no judge."""

    @property
    def said(self) -> str:
        """What a reader may take from it."""
        if self.p >= LEVEL or self.difference.low <= 0 <= self.difference.high:
            return "no difference seen"
        if self.judges == "disputed":
            return "the judges differ"
        if self.judges == "no second opinion":
            return "one judge's word"
        if self.difference.mean < 0:
            return "prompt"
        if self.control is None:
            return "steering leads, no control beside it"
        if self.control[1].low <= 0:
            return f"steering leads, and {self.control[0]} with it"
        return "steer" if self.twin else "steering leads, no twin beside it"

    @property
    def chosen(self) -> tuple[int, int]:
        """How many prompts and how many steering methods the two were picked from."""
        return len(baselines({row.name: row.run for row in self.table.rows})), len(_steered(self.table))


def answers(tables: Sequence[Table]) -> list[Answer]:
    """One for each task (with its settings and model) that ran prompts and steering: its largest table."""
    largest: dict[str, Table] = {}
    for table in tables:
        place = leaderboard.title(table)
        if table.kind == "steering" and len(table.rows) > len(largest[place].rows if place in largest else ()):
            largest[place] = table
    found = [one for table in largest.values() if (one := _answer(table))]
    return [replace(one, p=p) for one, p in zip(found, holm([one.p for one in found]), strict=True)]


def _steered(table: Table) -> list[Row]:
    """Steering that may be the best; not of more settings than a prompt gets wordings, which leads by luck alone."""
    known = [row for row in table.rows if row.run.family in STEERING and row.run.data["validated"]]
    return [row for row in known if not row.run.over_budget]


def _answer(table: Table) -> Answer | None:
    prompt = next((row for row in table.rows if row.name == table.reference), None)
    steered = _steered(table)
    if prompt is None or not steered or len(table.concepts) < 2:
        return None
    best = max(sorted(steered, key=lambda row: row.name), key=lambda row: select_score(row.run))
    assert best.against is not None  # every row but the reference has it
    # A twin of another method is no control of this one.
    own = [row for row in table.rows if row.run.family == "control" and "(" not in row.run.method]
    twins = [row for row in table.rows if is_twin(row.run, best.run)]
    gaps = {row.name: gap(best.run, row.run, table.concepts) for row in (*own, *twins)}
    nearest = min(gaps, key=lambda name: gaps[name].low) if gaps else ""
    opinion = second(table) if table.spec["judge"] else None
    said = next((c for c in opinion.comparisons if c.name == best.name), None) if opinion else None
    judges = (said.state if said else "no second opinion") if table.spec["judge"] else ""
    control = (nearest, gaps[nearest]) if gaps else None
    other = said.second if said else None
    return Answer(table, prompt, best, best.against, best.against.p, control, bool(twins), other, judges)


def lines(tables: Sequence[Table]) -> list[str]:
    """The answers as a Markdown table; none where nothing can be compared."""
    found = answers(tables)
    if not found:
        return []
    columns = ("best prompt", "best steering", "steering − prompt", "p (Holm)", "second judge", "− nearest control")
    made = head("task", *columns, "verdict")
    for one in found:
        difference, control = one.difference, "–"
        if one.control:
            control = f"{leaderboard.interval(one.control[1])} ({cell(one.control[0])})"
        scores = [
            f"{cell(row.name)} {row.estimates['overall'].mean:.2f} (of {tried})"
            for row, tried in zip((one.prompt, one.steering), one.chosen, strict=True)
        ]
        other = leaderboard.interval(one.second) if one.second else "–"
        cells = [*scores, leaderboard.interval(difference), leaderboard.pvalue(one.p), other, control]
        said = f"**{one.said}**" if one.said in ("prompt", "steer") else cell(one.said)
        made.append(line_of([cell(leaderboard.title(one.table)), *cells, said]))
    return made


def section(tables: Sequence[Table]) -> list[str]:
    """The first section of the leaderboard page."""
    found = lines(tables)
    return ["## Steer or prompt?", "", *found, "", NOTE, ""] if found else []


NOTE = (
    "Of each kind (of how many, in brackets) the method that did best on the select prompts, scored on the test "
    "prompts: overall, paired, 95 % intervals. A prompt that keeps the best of several answers is left out, for "
    "steering writes one, and so is steering picked from more settings than prompts get. That is one comparison a "
    "task, and p is corrected over the tasks; the leaderboards compare every method, and correct over all of those. "
    "The second judge rates the same answers, where judges rate at all. The nearest control is the one that steering "
    "is least surely above. *Steer* needs an interval above 0, a second judge that sees the same sign, and a lead over "
    "every control: none, random, shuffled, and its own twin, which is the same method fitted on examples of which "
    "half have their labels exchanged."
)
