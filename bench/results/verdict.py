"""Steer or prompt, task by task: a prompt, a steering and a combination, all named before the test split.

Invariant: a claim has one p, the largest of everything it needs at once: its lead over each rival and over every
control, by the run's judge and by a second one. Prompts and steering are held to the same rule, and p is corrected
(Holm) over all that is asked together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bench.core.content import digest
from bench.core.naming import names_in
from bench.results import second_judge
from bench.results.differences import difference
from bench.results.hypotheses import MARGIN, Registration, of as registered_by
from bench.results.runs import Run
from bench.results.second_judge import JudgeRatings, chosen
from bench.results.tables import Row, Table, baselines, select_score
from bench.stats.significance import Difference, equivalent, holm, significant, union

QUESTION = ("task", "task_params", "data", "model", "weights")
"""Fields of a spec that make a question of its own."""
VERDICTS = ("steer", "prompt", "combine", "equivalent", "neither beats doing nothing", "undecided")


@dataclass(frozen=True)
class Claim:
    """That one method is above all others named, each a paired difference on `overall`."""

    word: str
    """The verdict it would be: `steer`, `prompt` or `combine`."""
    method: str
    parts: Mapping[str, Difference]
    """rival or control -> the method minus it, by the run's judge."""
    others: Mapping[str, Difference]
    """The same by a second judge, of those that it has rated."""
    missing: str = ""
    """A control without which nothing is claimed."""
    p: float = math.nan
    """Of all parts at once by both judges, after Holm over all that is asked together."""

    @property
    def alone(self) -> float:
        """p of this claim by itself."""
        if self.missing:
            return math.nan
        found = [union(list(self.parts.values()))]
        if self.others:  # what it has rated must hold, even if that is not all
            found.append(union(list(self.others.values())))
        return math.nan if any(map(math.isnan, found)) else max(found)

    @property
    def seconded(self) -> bool:
        """Whether a second judge has rated all of it."""
        return set(self.others) == set(self.parts)


@dataclass(frozen=True)
class Answer:
    """What one table says to "steer or prompt?"."""

    table: Table
    prompt: Row
    steering: Row
    registered: bool
    """Whether these two were named before the runs were made, else they were best on the select split."""
    difference: Difference
    """Steering minus prompt, paired."""
    second: Difference | None
    """The same by a second judge."""
    claims: tuple[Claim, ...]
    idle: Mapping[str, Difference]
    """`prompt` and `steering`, each minus the bare model; empty where that did not run."""
    margin: float
    """Differences within it are as good as none, in units of the score."""
    p_equivalent: float
    """Of two one-sided tests at the margin, by every judge at once, after Holm."""
    judged: bool
    """Whether a judge rates this task."""

    @property
    def said(self) -> str:
        """The verdict: one of `VERDICTS`, with a mark where a single judge gave it."""
        if won := self._won:
            return f"{won.word} (one judge)" if self.judged and not won.seconded else won.word
        if self.idle and all(d.high <= self.margin and not d.piled for d in self.idle.values()):
            return "neither beats doing nothing"
        if not significant(self.p_equivalent):
            return "undecided"
        return "equivalent (one judge)" if self.judged and self.second is None else "equivalent"

    @property
    def _won(self) -> Claim | None:
        claims = sorted(self.claims, key=lambda c: c.word != "combine")
        return next((claim for claim in claims if significant(claim.p)), None)

    @property
    def decided(self) -> bool:
        return self.said != "undecided"

    @property
    def p(self) -> float:
        """Of the claim that came nearest, corrected."""
        return min((claim.p for claim in self.claims if not math.isnan(claim.p)), default=math.nan)

    @property
    def reason(self) -> str:
        """Why, in words: what decided, or what stood in the way; and of what alone that is known."""
        return f"{self._reason}; known of {self.table.scope}" if self.table.scope else self._reason

    @property
    def _reason(self) -> str:
        if won := self._won:
            return f"{won.method} is above {listed(list(won.parts))}"
        if self.said == "neither beats doing nothing":
            return f"{self.prompt.name} and {self.steering.name} are above none by less than {self.margin:g}, if at all"
        if self.said.startswith("equivalent"):
            return f"the difference lies within ±{self.margin:g}"
        d = self.difference
        if d.piled:
            return f"most {self.table.unit}s do not tell the two apart, and too few do for a test"
        if math.isnan(d.p) or not significant(d.p):
            return "the difference is not beyond chance"
        claim = next(c for c in self.claims if c.word == ("steer" if d.mean > 0 else "prompt"))
        if claim.missing:
            return f"{claim.method} leads, and {claim.missing} did not run"
        if weak := [n for n, part in claim.parts.items() if not (part.mean > 0 and significant(part.p))]:
            return f"{claim.method} leads, and is not shown to be above {listed(weak)}"
        if claim.others:
            unseen = [n for n, part in claim.others.items() if not (part.mean > 0 and significant(part.p))]
            if unseen:
                return f"{claim.method} leads by one judge; the second does not see it above {listed(unseen)}"
        return f"{claim.method} leads, and not after correction for all that is asked together"

    @property
    def chosen(self) -> tuple[int, int]:
        """How many prompts and how many steering methods the two were picked from."""
        return len(baselines({row.name: row.run for row in self.table.rows})), len(steered(self.table))


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def answers(tables: Sequence[Table]) -> list[Answer]:
    """For each task (with its settings and data) on a model and preset that ran prompts and steering, from its largest
    table that tells methods apart: one for each steering method that was registered, or one of the two that were best
    on the select split.

    A task whose score is no evidence by itself (`Task.decides`) has none.
    """
    largest: dict[str, Table] = {}
    for table in tables:
        spec = table.spec
        if table.kind != "steering" or table.silent:
            continue
        place = digest([spec[k] for k in QUESTION], spec["protocol"]["preset"])
        if place not in largest or weight(table) > weight(largest[place]):
            largest[place] = table
    found = [one for table in largest.values() for one in _answers(table)]
    asked = [p for one in found for p in _asked(one)]
    corrected = iter(holm(asked))
    found = [replace(one, claims=_corrected(one, [next(corrected) for _ in _asked(one)])) for one in found]
    same = holm([one.p_equivalent for one in found])
    return [replace(one, p_equivalent=p) for one, p in zip(found, same, strict=True)]


def weight(table: Table) -> tuple[bool, bool, int]:
    """Which of several tables of one question answers it: a registered one, one whose judge may rank, the largest."""
    registered = registered_by([row.run.data for row in table.rows]) is not None
    return registered, table.may_rank is True, len(table.rows)


def _asked(one: Answer) -> list[float]:
    """p of each question: which of the two leads (two-sided, so one question), and whether both together do."""
    either = [c.alone for c in one.claims if c.word != "combine"]
    known = [p for p in either if not math.isnan(p)]
    # A claim that lacks a control is none, and its rival's p of 1 must not stand for it.
    return [min(known, default=math.nan), *(c.alone for c in one.claims if c.word == "combine")]


def _corrected(one: Answer, found: Sequence[float]) -> tuple[Claim, ...]:
    either, *both = found
    lowest = _asked(one)[0]
    made = []
    for claim in one.claims:
        if claim.word == "combine":
            made.append(replace(claim, p=both[0]))
        else:
            made.append(replace(claim, p=either if claim.alone == lowest else claim.alone))
    return tuple(made)


def steered(table: Table) -> list[Row]:
    """Steering that may be the best: it changed something, and did not lead by luck alone, with more settings than a
    prompt gets wordings."""
    known = [row for row in table.rows if row.run.steered and row.run.data["validated"]]
    return [row for row in known if not row.run.over_budget and not row.idle]


def _answers(table: Table) -> list[Answer]:
    if not table.decides:
        return []
    registration = registered_by([row.run.data for row in table.rows])
    if registration:
        rows = {row.name: row for row in table.rows}
        prompt = rows.get(registration.prompt)
        pairs = [(prompt, rows[name]) for name in registration.steering if prompt and name in rows]
        if pairs:
            both = rows.get(registration.combination)
            return [_answer(table, one, other, both, registration) for one, other in pairs if one]
    best = next((row for row in table.rows if row.name == table.reference), None)
    known = sorted(steered(table), key=lambda row: row.name)
    if best is None or not known:
        return []
    mixed = sorted((r for r in table.rows if r.run.surface == "combination"), key=lambda row: row.name)
    mixed = [row for row in mixed if not row.run.over_budget and not row.idle and row.run.data["validated"]]
    both = max(mixed, key=lambda row: select_score(row.run)) if mixed else None
    return [_answer(table, best, max(known, key=lambda row: select_score(row.run)), both, None)]


def _answer(table: Table, prompt: Row, steering: Row, both: Row | None, registration: Registration | None) -> Answer:
    second = chosen(table)
    opinions = second[1] if second else {}
    margin = (registration.margin if registration else MARGIN) * table.scale
    claims = [
        _claim(table, "steer", steering, [prompt], opinions),
        _claim(table, "prompt", prompt, [steering], opinions),
    ]
    if both:
        claims.append(_claim(table, "combine", both, [prompt, steering], opinions))
    bare = next((row for row in table.rows if row.run.method == "none"), None)
    idle = {name: _gap(table, row, bare) for name, row in (("prompt", prompt), ("steering", steering)) if bare}
    gap = claims[0].parts[prompt.name]
    other = claims[0].others.get(prompt.name)
    same = [_equivalent([row.run.scores("overall") for row in (steering, prompt)], table, margin, gap)]
    if other:
        said = [(row.run, opinions[row.name]) for row in (steering, prompt)]
        same.append(_equivalent([opinion.units(run, "overall") for run, opinion in said], table, margin, other))
    p = math.nan if any(map(math.isnan, same)) else max(same)
    judged = bool(table.spec["judge"])
    return Answer(table, prompt, steering, registration is not None, gap, other, tuple(claims), idle, margin, p, judged)


def _equivalent(scores: Sequence[Mapping[str, float | None]], table: Table, margin: float, gap: Difference) -> float:
    pairs = [
        (a, b) for c in table.concepts if (a := scores[0].get(c)) is not None and (b := scores[1].get(c)) is not None
    ]
    if gap.piled:
        return math.nan
    return equivalent([a for a, _ in pairs], [b for _, b in pairs], margin, gap.error)


def _claim(table: Table, word: str, row: Row, rivals: Sequence[Row], opinions: Mapping[str, JudgeRatings]) -> Claim:
    """`row` above its rivals and above every control; a twin of another method is no control of this one."""
    own = [r for r in table.rows if r.run.surface == "control" and "(" not in r.run.method]
    twins = [r for r in table.rows if is_twin(r.run, row.run)]
    below = {r.name: r for r in (*rivals, *own, *twins) if r.name != row.name}
    missing = "" if own else "a control"
    if word == "steer" and not twins:
        missing = missing or "its twin"
    parts = {name: _gap(table, row, other) for name, other in below.items()}
    rated = {name: other for name, other in below.items() if name in opinions} if row.name in opinions else {}
    others = {name: second_judge.gap(table, row, other, opinions) for name, other in rated.items()}
    return Claim(word, row.name, parts, others, missing)


def _gap(table: Table, one: Row, other: Row) -> Difference:
    return difference(one.run, other.run, units=table.concepts)


def is_twin(one: Run, other: Run) -> bool:
    """Whether run `one` is of the shuffled twin of what `other` ran, settings included."""
    name, given = other.method, dict(other.data["spec"]["method_params"])
    if one.method == "shuffled":
        return name == "diffmean" and one.data["spec"]["method_params"] == given
    if one.method != f"shuffled({name})":
        return False
    whole = given if len(names_in(name)) > 1 else {name: given}
    return bool(one.data["spec"]["method_params"] == {"shuffled": {}} | whole)
