"""Steer or prompt, task by task: the best prompt against the best steering, both picked before the test split.

Invariant: which two are compared is decided on the select split alone; "steer" is said only where an interval excludes
0, a second judge (where there is a judge) sees the same sign, and the steering is beyond its controls too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.escape import cell, head
from bench.escape import row as line_of
from bench.opinions import second
from bench.report import leaderboard
from bench.report.details import gap, is_twin
from bench.stats import Difference
from bench.tables import Row, Table, merit

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
    control: tuple[str, Difference] | None
    """Steering minus the control that it is least surely above, its own shuffled twin among them."""
    judges: str
    """`agreed`, `disputed`, `no second opinion`, or "" where the task asks no judge."""

    @property
    def said(self) -> str:
        """What a reader may take from it."""
        if self.difference.low <= 0 <= self.difference.high:
            return "no difference seen"
        if self.judges == "disputed":
            return "the judges differ"
        if self.judges == "no second opinion":
            return "one judge's word"
        if self.difference.mean < 0:
            return "**prompt**"
        if self.control is None:
            return "steering leads, no control beside it"
        if self.control[1].low <= 0:
            return f"steering leads, and {cell(self.control[0])} with it"
        return "**steer**"


def answers(tables: Sequence[Table]) -> list[Answer]:
    """One for each task (with its settings and model) that ran prompts and steering: its largest table."""
    largest: dict[str, Table] = {}
    for table in tables:
        place = leaderboard.title(table)
        if table.uses == "steering" and len(table.rows) > len(largest[place].rows if place in largest else ()):
            largest[place] = table
    return [found for table in largest.values() if (found := _answer(table))]


def _answer(table: Table) -> Answer | None:
    prompt = next((row for row in table.rows if row.name == table.reference), None)
    known = [row for row in table.rows if row.run.family in STEERING and row.run.data["validated"]]
    # The best of more settings than a prompt gets wordings is better on the select split by luck alone.
    steered = [row for row in known if not row.run.excess]
    if prompt is None or not steered or len(table.concepts) < 2:
        return None
    best = max(sorted(steered, key=lambda row: row.name), key=lambda row: merit(row.run))
    assert best.against is not None  # every row but the reference has it
    # A twin of another method is no control of this one.
    own = [row for row in table.rows if row.run.family == "control" and "(" not in row.run.method]
    own += [row for row in table.rows if "(" in row.run.method and is_twin(row.run, best.run)]
    gaps = {row.name: gap(best.run, row.run, table.concepts) for row in own}
    nearest = min(gaps, key=lambda name: gaps[name].low) if gaps else ""
    opinion = second(table) if table.spec["judge"] else None
    states = {c.name: c.state for c in opinion.comparisons} if opinion else {}
    judges = states.get(best.name, "no second opinion") if table.spec["judge"] else ""
    return Answer(table, prompt, best, best.against, (nearest, gaps[nearest]) if gaps else None, judges)


def lines(tables: Sequence[Table]) -> list[str]:
    """The answers as a Markdown table; none where nothing can be compared."""
    found = answers(tables)
    if not found:
        return []
    made = head("task", "best prompt", "best steering", "steering − prompt", "p", "− nearest control", "so")
    for one in found:
        difference, control = one.difference, "–"
        if one.control:
            control = f"{leaderboard.interval(one.control[1])} ({cell(one.control[0])})"
        scores = [f"{cell(row.name)} {row.estimates['overall'].mean:.2f}" for row in (one.prompt, one.steering)]
        cells = [*scores, leaderboard.interval(difference), leaderboard.pvalue(difference.p), control]
        made.append(line_of([cell(leaderboard.title(one.table)), *cells, one.said]))
    return made


def section(tables: Sequence[Table]) -> list[str]:
    """The first section of the leaderboard page."""
    found = lines(tables)
    return ["## Steer or prompt?", "", *found, "", NOTE, ""] if found else []


NOTE = (
    "Of each kind the method that did best on the select prompts, scored on the test prompts (overall, paired, 95 % "
    "intervals); a prompt that keeps the best of several answers is left out, for steering writes one, and so is "
    "steering picked from more settings than prompts get. That is one comparison a task, so p is not corrected; the "
    "leaderboards compare every method, and correct for it. *Steer* needs an interval above 0, a second judge that "
    "sees the same sign (where judges rate at all), and a lead over every control: none, random, shuffled, and its "
    "own twin where that ran."
)
