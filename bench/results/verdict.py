"""Steer or prompt, task by task: the best prompt against the best steering, both picked before the test split.

Invariant: which two are compared is decided on the select split alone; "steer" is said only where the difference is
beyond chance after Holm over the tasks, a second judge (where there is a judge) sees the same sign, and the steering is
beyond its controls, its own shuffled twin among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.core.content import digest
from bench.core.naming import names_in
from bench.results.runs import Run
from bench.results.second_judge import second
from bench.results.tables import Row, Table, baselines, select_score
from bench.stats.intervals import Difference, holm, paired

STEERING = ("direction", "trained")
"""Families that change the model; a combination has a prompt in it."""
LEVEL = 0.05
QUESTION = ("task", "task_params", "data", "model", "weights")
"""Fields of a spec that make a question of its own."""


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
    """One for each task (with its settings and data) on a model and preset that ran prompts and steering: its
    largest table, whoever judged it."""
    largest: dict[str, Table] = {}
    for table in tables:
        spec = table.spec
        place = digest([spec[k] for k in QUESTION], spec["protocol"]["preset"])
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


def is_twin(one: Run, other: Run) -> bool:
    """Whether run `one` is of the shuffled twin of what `other` ran, settings included."""
    name, given = other.method, dict(other.data["spec"]["method_params"])
    if one.method == "shuffled":
        return name == "diffmean" and one.data["spec"]["method_params"] == given
    if one.method != f"shuffled({name})":
        return False
    whole = given if len(names_in(name)) > 1 else {name: given}
    return bool(one.data["spec"]["method_params"] == {"shuffled": {}} | whole)


def gap(one: Run, other: Run, names: Sequence[str]) -> Difference:
    """Run `one` minus `other`, overall, paired over those of the units `names` that both have."""
    scores, others = one.scores("overall"), other.scores("overall")
    known = [(a, b) for name in names if (a := scores[name]) is not None and (b := others[name]) is not None]
    return paired([a for a, _ in known], [b for _, b in known])
