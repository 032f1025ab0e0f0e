"""Detection: the scores of each detector with every concept's own behind them.

Invariant: where chance is 0.5, it is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from bench.report.figures import drawing
from bench.report.figures.drawing import Figure, titled
from bench.results.tables import Table


def detection(table: Table) -> Figure | None:
    """Detectors on each axis; none for a table of another kind."""
    if table.kind != "detector":
        return None
    rows = []
    for row in table.rows:
        for axis in table.axes[:-1]:
            e, own = row.estimates[axis], row.run.scores(axis)
            mean = {"method": row.name, "surface": row.run.surface, "axis": axis, "concept": "mean", "score": e.mean}
            rows.append(mean | {"low": e.low, "high": e.high})
            rows += [
                {"method": row.name, "surface": row.run.surface, "axis": axis, "concept": name, "score": own[name]}
                for name in table.concepts
            ]
    caption = "How well each detector tells texts with a concept from texts without"
    return Figure("detection", caption, rows, partial(_detection, table, rows))


def _detection(table: Table, rows: Sequence[Mapping[str, Any]]) -> Any:
    names = list(dict.fromkeys(row["method"] for row in rows))
    axes = list(table.axes[:-1])
    small = len(names) > 25
    figure = drawing.canvas(2.2 + 3.2 * len(axes), (0.22 if small else 0.3) * len(names) + 1.35)
    panels = figure.subplots(1, len(axes), sharey=True, squeeze=False)[0]
    for panel, axis in zip(panels, axes, strict=True):
        if not axis.startswith("f1"):  # naming every text gives F1 by the share of positives
            panel.axvline(0.5, color="#222222", lw=0.9)
        for y, name in enumerate(names):
            own = [row for row in rows if row["method"] == name and row["axis"] == axis]
            colour, marker = drawing.surface(own[0]["surface"])
            points = [row["score"] for row in own[1:]]
            panel.plot(points, [y] * len(points), "|", color="#8a8a8a", ms=6, mew=0.9)
            low, high = own[0]["low"], own[0]["high"]
            if math.isfinite(low):
                panel.plot([low, high], [y, y], color=colour, lw=1.6, solid_capstyle="butt")
            panel.plot([own[0]["score"]], [y], marker, color=colour, ms=5)
        panel.set_ylim(len(names) - 0.4, -0.6)
        panel.set_yticks(range(len(names)), names, fontsize=7.5 if small else 8.5)
        panel.set_xlim(-0.02, 1.02)
        panel.set_title(axis, fontsize=9)
        panel.grid(color=drawing.GRID, lw=0.6)
    marks = drawing.surfaces([row["surface"] for row in rows])
    marks.append(drawing.handle(marker="|", color="#8a8a8a", ms=7, label="one concept"))
    figure.legend(handles=marks, loc="outside lower center", ncols=min(6, len(marks)), frameon=False, fontsize=8)
    titled(figure, f"{table.title}: mean and 95 % interval over {len(table.concepts)} concepts")
    return figure
