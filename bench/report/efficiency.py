"""Score against the number of training questions: what methods make of few examples, on one axis.

Invariant: runs on one curve differ in the task's `examples` and in the training budget that follows from it.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.report.figures import COLOURS, MARKERS, _png, _pyplot
from bench.report.leaderboard import interval, title
from bench.results import Row, Table
from bench.schema import digest

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
            for row in self.tables[size].rows:
                found.setdefault(row.name, {})[size] = row
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


def sections(tables: Sequence[Table]) -> dict[str, list[tuple[str, list[str]]]]:
    """Group of a table -> the curve that stands below it, as heading and Markdown rows."""
    return {curve.last.group: [(_heading(curve), _lines(curve))] for curve in curves(tables)}


def _heading(curve: Curve) -> str:
    return (
        "Sample efficiency: overall score by the number of training questions each fit (or prompt) may see, small "
        f"draws being part of larger ones ({len(curve.last.concepts)} tested units, 95 % intervals over them):"
    )


def _lines(curve: Curve) -> list[str]:
    digits = 2 if curve.last.scale > 1 else 3
    lines = [f"| method | {' | '.join(map(str, curve.tables))} |", "|" + "---|" * (len(curve.tables) + 1)]
    for name, rows in curve.rows.items():
        each = [interval(rows[n].estimates["overall"], digits) if n in rows else "–" for n in curve.tables]
        lines.append(f"| {name} | {' | '.join(each)} |")
    return lines


def draw(tables: Sequence[Table]) -> list[tuple[str, str, bytes, str]]:
    """(group of the table it stands below, name, PNG, CSV) of each curve; the name stays as sizes are added."""
    found = []
    for curve in curves(tables):
        spec = curve.last.spec
        name = f"{spec['task']}-{spec['model']}-{spec['protocol']['preset']}-{_otherwise(spec)[:6]}-efficiency"
        found.append((curve.last.group, name, _figure(curve), _text(curve)))
    return found


def _figure(curve: Curve) -> bytes:
    plt = _pyplot()
    figure, panel = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    sizes = list(curve.tables)
    for i, (name, rows) in enumerate(sorted(curve.rows.items())):
        at = [n * 2 ** (0.06 * (i - len(curve.rows) / 2)) for n in sorted(rows)]
        found = [rows[n].estimates["overall"] for n in sorted(rows)]
        colour = COLOURS.get(next(iter(rows.values())).run.family, "#2a7f62")
        bars = [
            [e.mean - e.low if math.isfinite(e.low) else 0 for e in found],
            [e.high - e.mean if math.isfinite(e.high) else 0 for e in found],
        ]
        style = {"color": colour, "marker": MARKERS[i % len(MARKERS)], "ls": ("-", "--", ":", "-.")[i % 4]}
        panel.plot(at, [e.mean for e in found], ms=5, lw=1.4, label=name, **style)
        panel.errorbar(at, [e.mean for e in found], bars, fmt="none", ecolor=colour, alpha=0.35)
    panel.set_xscale("log", base=2)
    panel.set_xticks(sizes, [str(n) for n in sizes])
    panel.minorticks_off()
    panel.set_xlabel("training questions")
    panel.set_ylabel("overall, test questions")
    panel.grid(color="#e4e4e4", lw=0.6)
    figure.legend(loc="outside lower center", ncols=min(5, len(curve.rows)), frameon=False)
    figure.suptitle(f"{title(curve.last)}: score by training questions", fontsize=9)
    return _png(figure)


def _text(curve: Curve) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["method", SIZE, "axis", "mean", "low", "high", "units"])
    for name, rows in sorted(curve.rows.items()):
        for size in sorted(rows):
            for axis, e in rows[size].estimates.items():
                writer.writerow([name, size, axis, *(f"{x:.4f}" for x in (e.mean, e.low, e.high)), e.n])
    return out.getvalue()
