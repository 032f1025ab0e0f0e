"""Score against damage: how well each method does, by how far its strengths move plain answers.

Invariant: every point is a mean over concepts of one strength that was tried, on the select split, which picked among
candidates: a method with many of them is flattered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from bench.report.figures import drawing
from bench.report.figures.drawing import Figure, titled
from bench.report.figures.sweeps import grid, legend
from bench.results import damage
from bench.results.tables import Table

LEAST = 1e-2
"""KL a token below which points stand at the edge: the axis is logarithmic."""


def curves(table: Table) -> Figure | None:
    """One panel a method; none where fewer than two runs read plain answers."""
    read = {id(run) for run in damage.same([row.run for row in table.rows])}
    rows = [
        {"method": row.name, "surface": row.run.surface, "kl": kl, "overall": score}
        for row in table.rows
        if id(row.run) in read and row.run.method != "none"
        for kl, score in damage.curve(row.run)
    ]
    if len({row["method"] for row in rows}) < 2:
        return None
    return Figure(
        "damage",
        "Score by damage to plain answers, on the select split, with the picked candidate",
        rows,
        partial(_curves, table, rows),
    )


def _curves(table: Table, rows: Sequence[Mapping[str, Any]]) -> Any:
    names = list(dict.fromkeys(row["method"] for row in rows))
    most = max(*(row["kl"] for row in rows), 10 * LEAST)
    figure, panels = grid(len(names), 1.85, 1.55, 1.25)
    for panel, name in zip(panels, names, strict=True):
        if table.reference and name != table.reference and table.reference in names:
            _line(panel, rows, table.reference, "#9a9a9a", "x")
        colour, marker = drawing.surface(next(row["surface"] for row in rows if row["method"] == name))
        _line(panel, rows, name, colour, marker)
        panel.set_title(name, fontsize=8)
        panel.set_xscale("log")
        panel.set_xticks([0.01, 0.1, 1, 10], ["0.01", "0.1", "1", "10"])
        panel.set_xticks([], minor=True)
        panel.set_xlim(0.7 * LEAST, 2 * most)
        panel.set_ylim(-0.04 * table.scale, 1.04 * table.scale)
    marks = drawing.surfaces([row["surface"] for row in rows])
    if table.reference in names:
        marks.append(drawing.handle(color="#9a9a9a", marker="x", ls="", label=f"{table.reference}, in each panel"))
    legend(figure, marks, "KL(steered || bare), nats a token of plain answers")
    titled(figure, f"{table.title}: overall on the select split, by damage")
    return figure


def _line(panel: Any, rows: Sequence[Mapping[str, Any]], method: str, colour: str, marker: str) -> None:
    own = [row for row in rows if row["method"] == method]
    across = [max(LEAST, row["kl"]) for row in own]
    panel.plot(across, [row["overall"] for row in own], color=colour, lw=1.2, marker=marker, ms=4)
