"""Suppression under attack: the score by kind of attack, and by the number of shots before the question.

Invariant: no shots is the plain question; every point is a test score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from bench.report.figures import drawing
from bench.report.figures.drawing import Figure, titled
from bench.report.figures.sweeps import bound, grid, legend
from bench.results.tables import Table

SHOTS = "shots-"


def attacks(table: Table) -> Figure | None:
    """One panel a method; none for a table without attacks."""
    axes = table.axes[:-1]
    if not any(axis.startswith(SHOTS) for axis in axes):
        return None
    rows = []
    for row in table.rows:
        for axis in axes:
            e = row.estimates[axis]
            shots = int(axis.removeprefix(SHOTS)) if axis.startswith(SHOTS) else 0 if axis == "plain" else None
            own = {"method": row.name, "surface": row.run.surface, "attack": axis, "shots": shots}
            rows.append(own | {"mean": e.mean, "low": e.low, "high": e.high})
    caption = "How well each method still keeps a rule out when the user insists on it"
    return Figure("attacks", caption, rows, partial(_attacks, table, rows))


def _attacks(table: Table, rows: Sequence[Mapping[str, Any]]) -> Any:
    names = list(dict.fromkeys(row["method"] for row in rows))
    kinds = list(dict.fromkeys(row["attack"] for row in rows))
    shots = [kind for kind in kinds if kind == "plain" or kind.startswith(SHOTS)]
    others = [kind for kind in kinds if kind not in shots]
    places = {kind: at for at, kind in enumerate(shots)} | {k: len(shots) + 0.6 + i for i, k in enumerate(others)}
    figure, panels = grid(len(names), 1.85, 1.55, 1.25)
    for panel, name in zip(panels, names, strict=True):
        if table.reference and name != table.reference:
            _line(panel, [row for row in rows if row["method"] == table.reference], places, shots, "#9a9a9a", "--", "")
        own = [row for row in rows if row["method"] == name]
        colour, marker = drawing.surface(own[0]["surface"])
        _line(panel, own, places, shots, colour, "-", marker)
        panel.set_title(name, fontsize=8)
        panel.set_ylim(-0.04 * table.scale, 1.04 * table.scale)
        panel.set_xlim(-0.4, max(places.values()) + 0.5)
        labels = [kind.replace(SHOTS, "").replace("plain", "0") if kind in shots else kind for kind in places]
        panel.set_xticks(list(places.values()), labels)
        panel.tick_params(axis="x", labelrotation=50)
    marks = drawing.surfaces([row["surface"] for row in rows])
    if table.reference:
        marks.append(drawing.handle(color="#9a9a9a", ls="--", label=f"{table.reference}, in each panel"))
    legend(figure, marks, "answered questions that keep the rule, shown before the plain one; or insisting around it")
    titled(figure, f"{table.title}: score under attack, 95 % intervals")
    return figure


def _line(
    panel: Any,
    rows: Sequence[Mapping[str, Any]],
    places: Mapping[str, float],
    shots: Sequence[str],
    colour: str,
    dashes: str,
    marker: str,
) -> None:
    known = {row["attack"]: row for row in rows}
    panel.plot([places[k] for k in shots], [known[k]["mean"] for k in shots], color=colour, ls=dashes, lw=1.3)
    if not marker:
        panel.plot([places[k] for k in places if k not in shots], [known[k]["mean"] for k in places if k not in shots],
                   ls="", marker="_", color=colour, ms=9)  # fmt: skip
        return
    for kind, at in places.items():
        row = known[kind]
        panel.plot([at, at], [bound(row, "low"), bound(row, "high")], color=colour, lw=1)
        panel.plot([at], [row["mean"]], marker, color=colour, ms=3.4)
