"""Dialogues: the concept and the fluency by turn, a panel a method.

Invariant: every point is a mean over concepts of test answers at the setting picked on single questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from bench.report.figures import drawing
from bench.report.figures.drawing import Figure, titled
from bench.report.figures.sweeps import bound, grid, legend
from bench.results import dialogues as kept
from bench.results.tables import Table
from bench.stats.intervals import estimate

FLUENCY = "fluency"


def dialogues(table: Table) -> Figure | None:
    """One panel a method; none for a table without dialogues."""
    rows = []
    for row in table.rows:
        found = kept.of(row.run)
        for axis in (table.axes[0], FLUENCY) if found else ():
            for turn, values in kept.by_turn(found, axis).items():
                e = estimate(list(values.values()))
                own = {"method": row.name, "surface": row.run.surface, "axis": axis, "turn": turn}
                rows.append(own | {"mean": e.mean, "low": e.low, "high": e.high})
    if not rows:
        return None
    caption = "How much of a concept is left, and how the text reads, from turn to turn of a dialogue"
    return Figure("dialogues", caption, rows, partial(_dialogues, table, rows))


def _dialogues(table: Table, rows: Sequence[Mapping[str, Any]]) -> Any:
    names = list(dict.fromkeys(row["method"] for row in rows))
    figure, panels = grid(len(names), 1.85, 1.55, 1.25)
    for panel, name in zip(panels, names, strict=True):
        if table.reference and name != table.reference:
            _line(panel, rows, table.reference, table.axes[0], "#9a9a9a", "--", "")
        colour, marker = drawing.surface(next(row["surface"] for row in rows if row["method"] == name))
        _line(panel, rows, name, FLUENCY, "#111111", ":", "")
        _line(panel, rows, name, table.axes[0], colour, "-", marker)
        panel.set_title(name, fontsize=8)
        panel.set_ylim(-0.04 * table.scale, 1.04 * table.scale)
        panel.set_xticks(sorted({row["turn"] for row in rows})[::3])
    marks = drawing.surfaces([row["surface"] for row in rows])
    marks.append(drawing.handle(color="#111111", ls=":", label="fluency"))
    if table.reference:
        marks.append(drawing.handle(color="#9a9a9a", ls="--", label=f"{table.reference}, in each panel"))
    legend(figure, marks, "turns of a dialogue")
    titled(figure, f"{table.title}: {table.axes[0]} by turn, 95 % intervals")
    return figure


def _line(
    panel: Any, rows: Sequence[Mapping[str, Any]], method: str, axis: str, colour: str, dashes: str, marker: str
) -> None:
    own = [row for row in rows if row["method"] == method and row["axis"] == axis]
    turns = [row["turn"] for row in own]
    panel.plot(turns, [row["mean"] for row in own], color=colour, ls=dashes, lw=1.3, marker=marker or None, ms=3)
    for row in own if marker else ():
        panel.plot([row["turn"]] * 2, [bound(row, "low"), bound(row, "high")], color=colour, lw=0.8)
