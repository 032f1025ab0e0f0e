"""Score against what a method was tuned over: the coefficient, the layer. Select split throughout.

Invariant: c = 0 is the bare model's score on the same prompts (a combination's is its prompt alone, a prompt's that it
is mixed against may be another prompt: these are not drawn).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from bench.core.surfaces import PROMPTED
from bench.report.figures import drawing
from bench.report.figures.drawing import Figure, titled
from bench.results.runs import Run
from bench.results.tables import Table, banded, with_band
from bench.stats.intervals import Estimate, estimate

Rows = list[dict[str, Any]]


def coefficients(table: Table) -> Figure | None:
    """One panel a method: overall with its interval, and its parts, against the coefficient."""
    bare = next((row.run for row in table.rows if row.run.method == "none"), None)
    axes = ("overall", *table.axes[:-1])
    rows: Rows = []
    for row in sorted(table.rows, key=lambda r: (r.run.surface != "control", r.name)):
        if len(row.run.curve("overall")) < 2:
            continue
        for axis in axes:
            curve = row.run.curve(axis)
            if bare and _fades(row.run) and (zero := bare.curve(axis).get(1.0)):
                curve = {0.0: zero} | curve
            rows += _points(table, row.name, row.run.surface, axis, "coefficient", curve)
    if not rows:
        return None
    caption = "Score and its parts against the coefficient, on the select prompts"
    return Figure("coefficients", caption, rows, partial(_panels, table, rows, "coefficient", axes))


def _fades(run: Run) -> bool:
    """Whether c = 0 is the bare model."""
    return run.surface != "combination" and run.data["spec"]["method_params"].get("against", "bare") == "bare"


def depths(table: Table) -> Figure | None:
    """One panel a method whose layer was picked: its score at each layer, at the layer's best coefficient."""
    rows: Rows = []
    for row in sorted(table.rows, key=lambda r: r.name):
        for axis in ("overall", table.axes[0]):
            rows += _points(table, row.name, row.run.surface, axis, "layer", row.run.depths(axis))
    if not rows:
        return None
    caption = "Score against the block that is read and steered, on the select prompts"
    return Figure("depths", caption, rows, partial(_panels, table, rows, "layer", ("overall", table.axes[0])))


def _points(
    table: Table, name: str, surface: str, axis: str, what: str, curve: Mapping[Any, Mapping[str, float]]
) -> Rows:
    found = {at: e for at, values in sorted(curve.items()) if (e := _mean(table, values)) is not None}
    return [
        {"method": name, "surface": surface, "axis": axis, what: at, "mean": e.mean, "low": e.low, "high": e.high}
        for at, e in found.items()
    ]


def _mean(table: Table, values: Mapping[str, float]) -> Estimate | None:
    names = table.concepts if set(table.concepts) & set(values) else tuple(values)
    known = [values[name] for name in names if name in values]
    if not known:
        return None
    return with_band(estimate(known), banded(table))


def level(run: Run, axis: str = "overall") -> float:
    """Mean score of a run's picked settings on the select split."""
    known = [v for v in run.scores(axis, "select").values() if v is not None]
    return sum(known) / len(known) if known else math.nan


def grid(count: int, width: float, height: float, note: float = 0.9) -> tuple[Any, list[Any]]:
    """A figure of `count` small panels, with numbers at the outer ones alone.

    They share no axes: matplotlib would look at all of them for each, which takes minutes at fifty.
    """
    columns = min(6 if count > 20 else 5, count)
    lines = math.ceil(count / columns)
    figure = drawing.canvas(max(6.0, width * columns + 0.4), height * lines + note)
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    for spare in panels[count:]:
        spare.set_axis_off()
    for place, panel in enumerate(panels[:count]):
        panel.tick_params(labelsize=7, labelleft=place % columns == 0, labelbottom=place + columns >= count)
        panel.grid(color=drawing.GRID, lw=0.6)
    return figure, panels[:count]


def _panels(table: Table, rows: Sequence[Mapping[str, Any]], what: str, axes: Sequence[str]) -> Any:
    names = list(dict.fromkeys(row["method"] for row in rows))
    styles = {axis: style for axis, style in zip(axes, drawing.LINES, strict=False) if _own(rows, axis)}
    figure, panels = grid(len(names), 1.85, 1.6, 1.0)
    dials = {row["method"] for row in rows if row["surface"] in PROMPTED}  # whose c is no length
    common = [row[what] for row in rows if row["method"] not in dials]
    reference = next((row.run for row in table.rows if row.name == table.reference), None)
    for panel, name in zip(panels, names, strict=True):
        if reference:
            panel.axhline(level(reference), color="#8a8a8a", lw=1)
        for axis, (colour, dashes, marker) in reversed(styles.items()):
            own = [row for row in rows if row["method"] == name and row["axis"] == axis]
            at, means = [row[what] for row in own], [row["mean"] for row in own]
            main = axis == "overall"
            panel.plot(
                at, means, color=colour, ls=dashes, lw=1.6 if main else 1.1, marker=marker, ms=3.2 if main else 2.2
            )
            if main:
                low, high = ([bound(row, end) for row in own] for end in ("low", "high"))
                panel.fill_between(at, low, high, color=colour, alpha=0.13, lw=0)
        panel.set_title(f"{name}, across: α" if name in dials else name, fontsize=8)
        panel.set_ylim(-0.04 * table.scale, 1.04 * table.scale)
        ends = [row[what] for row in rows if row["method"] == name] if name in dials else common
        margin = 0.04 * (max(ends) - min(ends) or 1)
        panel.set_xlim(min(ends) - margin, max(ends) + margin)
        panel.tick_params(**({"labelbottom": True} if name in dials else {}))
    unit = {"layer": "block"}.get(what) or (
        "c, in median residual norms" if table.spec["protocol"]["strength"] == "norm" else "factor"
    )
    band = ", 95 %" if banded(table) else ""
    marks = [
        drawing.handle(color=colour, ls=dashes, marker=marker, ms=4, label=axis + (band if axis == "overall" else ""))
        for axis, (colour, dashes, marker) in styles.items()
    ]
    if reference:
        marks.append(drawing.handle(color="#8a8a8a", ls="-", label=f"{table.reference}, overall, same prompts"))
    legend(figure, marks, unit, len(marks))
    titled(figure, f"{table.title}: select split")
    return figure


def _own(rows: Sequence[Mapping[str, Any]], axis: str) -> bool:
    """Whether an axis has a line of its own: the select split may lack it, and `overall` may be it."""
    found, whole = ([(r["method"], r["mean"]) for r in rows if r["axis"] == name] for name in (axis, "overall"))
    return bool(found) and (axis == "overall" or found != whole)


def legend(figure: Any, marks: Sequence[Any], across: str, columns: int = 6) -> None:
    """Below the panels: what the marks are, and what runs across."""
    figure.legend(
        handles=marks,
        loc="outside lower center",
        ncols=min(columns, len(marks)),
        frameon=False,
        fontsize=8,
        title=f"across: {across}",
        title_fontsize=8,
    )


def bound(row: Mapping[str, Any], end: str) -> float:
    return float(row[end]) if math.isfinite(row[end]) else float(row["mean"])
