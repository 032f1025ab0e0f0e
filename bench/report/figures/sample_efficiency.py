"""Score against the number of training questions: what methods make of few examples, on one axis.

Invariant: runs on one curve differ in the task's `examples` and in the training budget that follows from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.core.content import digest
from bench.core.escape import name
from bench.report.figures import drawing
from bench.report.figures.drawing import Figure, titled
from bench.report.section import Grid, Section
from bench.report.text.leaderboard import interval
from bench.results.tables import Row, Table

SIZE = "examples"


@dataclass(frozen=True)
class Curve:
    """Tables of one task that differ in the number of examples, by that number."""

    tables: Mapping[int, Table]

    @property
    def last(self) -> Table:
        """The table with most examples: what is drawn stands below it."""
        return self.tables[max(self.tables)]

    @property
    def rows(self) -> dict[str, dict[int, Row]]:
        """method -> examples -> its row; the best methods at the largest number first."""
        found: dict[str, dict[int, Row]] = {}
        for size in sorted(self.tables, reverse=True):
            for one in self.tables[size].rows:
                found.setdefault(one.name, {})[size] = one
        return found


def curves(tables: Sequence[Table]) -> list[Curve]:
    """What can be put on one axis: at least two numbers of examples under otherwise equal conditions."""
    groups: dict[str, dict[int, Table]] = {}
    for table in tables:
        if size := table.spec["task_params"].get(SIZE):
            groups.setdefault(_otherwise(table.spec), {})[int(size)] = table
    return [Curve(dict(sorted(found.items()))) for found in groups.values() if len(found) > 1]


def _otherwise(spec: Mapping[str, Any]) -> str:
    """Names all of a spec that runs on one curve share."""
    task = {k: v for k, v in spec["task_params"].items() if k != SIZE}
    rules = {k: v for k, v in spec["protocol"].items() if k != "budget"}
    free = ("method", "method_params", "prompter", "task_params", "protocol")
    return digest({k: v for k, v in spec.items() if k not in free}, task, rules)


def sections(tables: Sequence[Table]) -> dict[str, list[Section]]:
    """Group of a table -> the curve that stands below it."""
    return {curve.last.group: [Section(_heading(curve), (_grid(curve),))] for curve in curves(tables)}


def _heading(curve: Curve) -> str:
    return (
        "Sample efficiency: overall score by the number of training questions each fit (or prompt) may see, small "
        f"draws being part of larger ones ({len(curve.last.concepts)} tested units, 95 % intervals over them):"
    )


def _grid(curve: Curve) -> Grid:
    digits = 2 if curve.last.scale > 1 else 3
    rows = []
    for method, found in curve.rows.items():
        each = [interval(found[n].estimates["overall"], digits) if n in found else "–" for n in curve.tables]
        rows.append((method, *each))
    return Grid(("method", *map(str, curve.tables)), tuple(rows))


def draw(tables: Sequence[Table]) -> list[tuple[Table, Figure]]:
    """Each curve with the table it stands below."""
    caption = "Overall score against the number of training questions"
    return [
        (curve.last, Figure("efficiency", caption, _points(curve), partial(_picture, curve)))
        for curve in curves(tables)
    ]


def stem(table: Table) -> str:
    """What a curve's file names begin with: it stays as sizes are added."""
    spec = table.spec
    return name(f"{spec['task']}-{spec['model']}-{spec['protocol']['preset']}-{_otherwise(spec)[:6]}")


def _points(curve: Curve) -> list[dict[str, Any]]:
    return [
        {"method": method, SIZE: size, "axis": axis, "mean": e.mean, "low": e.low, "high": e.high, "units": e.n}
        for method, rows in sorted(curve.rows.items())
        for size in sorted(rows)
        for axis, e in rows[size].estimates.items()
    ]


def _picture(curve: Curve) -> Any:
    figure = drawing.canvas(6.4, 4.2)
    panel = figure.subplots()
    sizes = list(curve.tables)
    for i, (method, rows) in enumerate(sorted(curve.rows.items())):
        at = [n * 2 ** (0.06 * (i - len(curve.rows) / 2)) for n in sorted(rows)]
        found = [rows[n].estimates["overall"] for n in sorted(rows)]
        colour, dashes, marker = drawing.LINES[i % len(drawing.LINES)]
        bars = [
            [e.mean - e.low if math.isfinite(e.low) else 0 for e in found],
            [e.high - e.mean if math.isfinite(e.high) else 0 for e in found],
        ]
        means = [e.mean for e in found]
        panel.plot(at, means, ms=5, lw=1.4, label=method, color=colour, ls=dashes, marker=marker)
        panel.errorbar(at, means, bars, fmt="none", ecolor=colour, alpha=0.35)
    panel.set_xscale("log", base=2)
    panel.set_xticks(sizes, [str(n) for n in sizes])
    panel.minorticks_off()
    panel.set_xlabel("training questions")
    panel.set_ylabel("overall, test questions")
    panel.grid(color=drawing.GRID, lw=0.6)
    figure.legend(loc="outside lower center", ncols=min(5, len(curve.rows)), frameon=False)
    titled(figure, f"{curve.last.title}: score by training questions")
    return figure
