"""What other judges said of a run: the files beside its `run.json`.

Invariant: an opinion belongs to one run, judge and calibration; reading one needs no model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.content import digest
from bench.core.documents import read_json
from bench.core.errors import BenchError
from bench.core.escape import name as file_name
from bench.core.shapes import Misfit
from bench.results.differences import between
from bench.results.record import OpinionRecord, opined
from bench.results.runs import Run, code_key, pooled, unit_names
from bench.results.tables import Row, Table
from bench.stats.significance import Difference, significant

REMEDY = "delete it and ask the judge again"


@dataclass(frozen=True)
class JudgeRatings:
    """One judge's ratings of one run's test answers."""

    path: Path
    data: Mapping[str, Any]

    @property
    def judge(self) -> str:
        return str(self.data["judge"])

    @property
    def code(self) -> str:
        """The key of the judge's code."""
        return code_key(self.path, self.data)

    @property
    def independent(self) -> bool:
        return bool(self.data["independent"])

    def scores(self, axis: str) -> dict[str, float | None]:
        """Mean of each concept."""
        return {name: means[axis] for name, means in self.data["concepts"].items()}

    def ratings(self, axis: str) -> dict[str, float | None]:
        """generation -> its rating."""
        return {s["id"]: s["ratings"].get(axis) for s in self.data["samples"]}

    def units(self, run: Run, axis: str) -> dict[str, float | None]:
        """What it gives each unit that the intervals of `run`, which it rated, resample."""
        units = unit_names(run.data)
        named = pooled((units[name], value) for name, value in self.ratings(axis).items() if name in units)
        return named or self.scores(axis)


def identity(judge: str, params: Mapping[str, Any]) -> str:
    """Names a judge's opinion: its name and what decides its ratings."""
    return digest(judge, params)[:8]


def place(run: Run, judge: str, params: Mapping[str, Any]) -> Path:
    return run.path.parent / f"judged-{file_name(judge)}-{identity(judge, params)}.json"


def read(path: Path) -> JudgeRatings:
    """One judged file; a damaged one is an error, not a gap."""
    return JudgeRatings(path, read_json(path, OpinionRecord, "a judge's opinion", REMEDY, halves=True))


def of(run: Run) -> list[JudgeRatings]:
    """Every opinion beside a run, in a fixed order."""
    return [beside(run, path) for path in sorted(run.path.parent.glob("judged-*.json"))]


def beside(run: Run, path: Path) -> JudgeRatings:
    """The opinion of a run that stands in `path`; one of another run, or of a part of it, is an error."""
    opinion, place = read(path), f"{path.name} in {run.path.parent.name}/"
    if opinion.data["run"] != run.data["id"]:
        raise BenchError(f"{place} belongs to run {opinion.data['run']}")
    try:
        opined(opinion.data, run.data)
    except Misfit as error:
        raise BenchError(f"{place} is not of this run: {error}; {REMEDY}") from error
    return opinion


@dataclass(frozen=True)
class Comparison:
    """Prompt reference against one method: does the second judge see it too?"""

    name: str
    first: Difference
    """Method minus reference, by the table's own judge."""
    p: float
    """Of `first`, which Holm corrected over the table."""
    second: Difference | None
    state: str
    """`agreed` where the second judge sees the same sign, `disputed`, or `no second opinion`."""

    @property
    def claimed(self) -> bool:
        """Whether both judges see it: the first after correction, the second by itself."""
        both = self.state == "agreed" and self.second is not None and significant(self.second.p)
        return both and significant(self.p)


@dataclass(frozen=True)
class Second:
    """A table's independent second opinion."""

    judge: str
    comparisons: tuple[Comparison, ...]


def chosen(table: Table) -> tuple[str, dict[str, JudgeRatings]] | None:
    """The independent judge that rated most of the table's methods, and its opinion of each (by row's name)."""
    own = table.spec["judge"]  # asked again, it is no second one
    opinions = {row.name: [o for o in of(row.run) if o.independent and o.judge != own] for row in table.rows}
    judges = Counter((o.judge, identity(o.judge, o.data["judge_params"])) for found in opinions.values() for o in found)
    if not judges:
        return None
    best = max(sorted(judges), key=lambda key: judges[key])
    return best[0], {
        name: o
        for name, found in opinions.items()
        for o in found
        if (o.judge, identity(o.judge, o.data["judge_params"])) == best
    }


def second(table: Table) -> Second | None:
    """What an independent judge says of each method against the table's prompt reference, on `overall`.

    Other prompts are left out: no claim about steering rests on those.
    """
    found = chosen(table) if table.reference is not None and table.concepts else None
    if found is None:
        return None
    judge, other = found
    rows = [row for row in table.rows if row.against and not row.run.prompted]
    return Second(judge, tuple(_compare(table, row, other) for row in rows))


def gap(table: Table, one: Row, two: Row, opinions: Mapping[str, JudgeRatings]) -> Difference:
    """Row `one` minus `two` on `overall`, by the opinions of both (by row's name)."""
    said = [(row.run, opinions[row.name]) for row in (one, two)]
    a, b = ((opinion.units(run, "overall"), opinion.ratings("overall")) for run, opinion in said)
    return between(one.run, a, b, table.concepts)


def _compare(table: Table, row: Row, other: Mapping[str, JudgeRatings]) -> Comparison:
    first, p, found = row.against, row.p, None
    assert first is not None and p is not None and table.reference is not None  # noqa: PT018
    if row.name in other and table.reference in other:
        reference = next(one for one in table.rows if one.name == table.reference)
        found = gap(table, row, reference, other)
    return Comparison(row.name, first, p, found, _state(first, found))


def _state(first: Difference, found: Difference | None) -> str:
    if found is None:
        return "no second opinion"
    return "agreed" if first.mean * found.mean > 0 else "disputed"
