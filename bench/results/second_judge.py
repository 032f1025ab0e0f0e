"""What other judges said of a run: the files beside its `run.json`, and the validity tables of judges.

Invariant: an opinion belongs to one run, judge and calibration; reading one needs no model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.content import digest
from bench.core.errors import BenchError
from bench.results.runs import Run, code_key, pooled
from bench.results.tables import Row, Table
from bench.stats.intervals import Difference, paired

VERSION = 1
NEEDED = ("run", "id", "judge", "judge_params", "independent", "calibration", "samples", "concepts", "code")


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


def identity(judge: str, params: Mapping[str, Any]) -> str:
    """Names a judge's opinion: its name and what decides its ratings."""
    return digest(judge, params)[:8]


def place(run: Run, judge: str, params: Mapping[str, Any]) -> Path:
    safe = "".join(c if c.isalnum() or c in "-._" else "-" for c in judge)
    return run.path.parent / f"judged-{safe}-{identity(judge, params)}.json"


def read(path: Path) -> JudgeRatings:
    """One judged file; a damaged one is an error, not a gap."""
    try:
        data = json.loads(path.read_text("utf-8"))
        if data["version"] != VERSION:
            raise ValueError(f"version {data['version']}, this program reads {VERSION}")
        if missing := [name for name in NEEDED if name not in data]:
            raise ValueError(f"it lacks {', '.join(missing)}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).split("\n")[0]
        raise BenchError(f"{path.parent.name}/{path.name} is not a judge's opinion: {reason}") from error
    return JudgeRatings(path, data)


def of(run: Run) -> list[JudgeRatings]:
    """Every opinion beside a run, in a fixed order."""
    found = [read(path) for path in sorted(run.path.parent.glob("judged-*.json"))]
    if strange := [o for o in found if o.data["run"] != run.data["id"]]:
        raise BenchError(f"{strange[0].path.name} in {run.path.parent.name}/ belongs to run {strange[0].data['run']}")
    return found


def scores(run: Run, opinion: JudgeRatings, axis: str) -> dict[str, float | None]:
    """What an opinion of `run` gives each unit that the run's intervals resample."""
    units = {s["id"]: s["unit"] for s in run.data["samples"] if "unit" in s}
    named = pooled((units[s["id"]], s["ratings"].get(axis)) for s in opinion.data["samples"] if s["id"] in units)
    return named or opinion.scores(axis)


@dataclass(frozen=True)
class Comparison:
    """Prompt reference against one method: does the second judge see the same sign?"""

    name: str
    first: Difference
    """Method minus reference, by the table's own judge; `p` is the one Holm corrected over the table."""
    p: float
    second: Difference | None
    state: str
    """`agreed`, `disputed`, or `no second opinion`."""


@dataclass(frozen=True)
class Second:
    """A table's independent second opinion."""

    judge: str
    comparisons: tuple[Comparison, ...]


def second(table: Table) -> Second | None:
    """The independent judge that rated most of the table's methods, and what it says of each comparison.

    Every method is compared with the table's prompt reference on `overall`, except other prompts:
    no claim about steering rests on those.
    """
    if table.reference is None or not table.concepts:
        return None
    own = table.spec["judge"]  # asked again, it is no second one
    opinions = {row.name: [o for o in of(row.run) if o.independent and o.judge != own] for row in table.rows}
    judges: dict[tuple[str, str], int] = {}
    for found in opinions.values():
        for o in found:
            key = (o.judge, identity(o.judge, o.data["judge_params"]))
            judges[key] = judges.get(key, 0) + 1
    if not judges:
        return None
    chosen = max(sorted(judges), key=lambda key: judges[key])
    other = {
        name: o
        for name, found in opinions.items()
        for o in found
        if (o.judge, identity(o.judge, o.data["judge_params"])) == chosen
    }
    rows = [row for row in table.rows if row.against and row.run.family != "prompting"]
    return Second(chosen[0], tuple(_compare(table, row, other) for row in rows))


def _compare(table: Table, row: Row, other: Mapping[str, JudgeRatings]) -> Comparison:
    first, p, found = row.against, row.p, None
    assert first is not None and p is not None and table.reference is not None  # noqa: PT018
    if row.name in other and table.reference in other:
        runs = {one.name: one.run for one in table.rows}
        one, two = (scores(runs[name], other[name], "overall") for name in (row.name, table.reference))
        pairs = [(a, b) for c in table.concepts if (a := one.get(c)) is not None and (b := two.get(c)) is not None]
        found = paired(*zip(*pairs, strict=True)) if pairs else None
    return Comparison(row.name, first, p, found, _state(first, found))


def _state(first: Difference, found: Difference | None) -> str:
    if found is None:
        return "no second opinion"
    return "agreed" if first.mean * found.mean > 0 else "disputed"


def validity(roots: Iterable[Path], judge: str, params: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The validation tables of one judge with these parameters, from `ROOT/judges/`; the first root that has any."""
    for root in roots:
        own = [
            t for t in validations(root) if t["judge"] == judge and digest(t["judge_params"]) == digest(dict(params))
        ]
        if own:
            return own
    return []


def validations(root: Path) -> list[Mapping[str, Any]]:
    """Every validation table of a results folder, in a fixed order."""
    return [_table(path) for path in sorted((root / "judges").glob("*.json"))]


def _table(path: Path) -> Mapping[str, Any]:
    try:
        data: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if missing := [name for name in ("judge", "axes", "data", "judge_params") if name not in data]:
            raise ValueError(f"it lacks {', '.join(missing)}")
    except (OSError, ValueError, TypeError) as error:
        raise BenchError(f"judges/{path.name} is not a judge's validation: {str(error).splitlines()[0]}") from error
    return data
