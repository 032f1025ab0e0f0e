"""Forest plots: paired differences to the reference, and each score with its interval; optimism of selection.

Invariant: a filled marker is a difference beyond chance after Holm's correction, a hollow one is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from bench.report.figures import drawing
from bench.report.figures.drawing import Figure, titled
from bench.report.text import leaderboard
from bench.report.text.leaderboard import interval, pvalue
from bench.report.text.sections import optimisms
from bench.results.tables import Row, Table
from bench.stats.significance import LEVEL, Difference, significant

MANY = 25
"""Of more methods, lines stand closer."""


def forest(table: Table) -> Figure:
    """Difference to the reference with its interval and number, then the score and its parts, a line a method."""
    what = f"minus {table.reference}" if table.reference else "scores"
    rows = _rows(table, table.rows)
    return Figure("forest", f"Each method {what}, paired, and its scores", rows, partial(_forest, table, rows))


def best(table: Table) -> Figure | None:
    """The same of a long table's best rows with the reference and the controls: what fits a front page."""
    if len(table.rows) <= MANY:
        return None
    rows = _rows(table, leaderboard.best(table))
    caption = f"The best {leaderboard.TOP} of {len(table.rows)} methods, and the controls"
    return Figure("best", caption, rows, partial(_forest, table, rows))


def _rows(table: Table, shown: Sequence[Row]) -> list[dict[str, Any]]:
    axes = ("overall", *table.axes[:-1])
    rows = []
    for row in shown:
        d = row.against
        found: dict[str, Any] = {"method": row.name, "surface": row.run.surface, "rank": leaderboard.rank(row)}
        found |= {"delta": d.mean, "delta_low": d.low, "delta_high": d.high, "p": d.p, "p_holm": row.p} if d else {}
        for axis in axes:
            e = row.estimates[axis]
            found |= {axis: e.mean, f"{axis}_low": e.low, f"{axis}_high": e.high}
        rows.append(found)
    columns = ("delta", "delta_low", "delta_high", "p", "p_holm")
    return [{**dict.fromkeys(("method", "surface", "rank", *columns)), **row} for row in rows]


def _height(lines: int) -> float:
    """Inches of a line: less where there are many, so that 50 still fit a page."""
    return 0.3 if lines <= MANY else 0.215


def _lines(panel: Any, rows: Sequence[Mapping[str, Any]], small: bool) -> None:
    """One method a line, best on top, with bands that lead the eye across panels."""
    panel.set_ylim(len(rows) - 0.4, -0.6)
    for y in range(0, len(rows), 2):
        panel.axhspan(y - 0.5, y + 0.5, color="#f3f3f3", lw=0, zorder=0)
    panel.set_yticks(range(len(rows)), [row["method"] for row in rows], fontsize=7.5 if small else 8.5)
    panel.tick_params(axis="y", length=0)
    panel.spines["left"].set_visible(False)
    panel.grid(axis="x", color=drawing.GRID, lw=0.6)


def _mark(panel: Any, y: int, row: Mapping[str, Any], values: Sequence[Any], full: bool) -> None:
    mean, low, high = values
    colour, shape = drawing.surface(row["surface"])
    if math.isfinite(low):
        panel.plot([low, high], [y, y], color=colour, lw=1.5, solid_capstyle="butt")
    panel.plot([mean], [y], shape, color=colour, ms=4.6, mfc=colour if full else "white", mew=1.1)


def _forest(table: Table, rows: Sequence[Mapping[str, Any]]) -> Any:
    axes = ("overall", *table.axes[:-1])
    known = [row for row in rows if row["delta"] is not None]
    small = len(rows) > MANY
    wide = 3.6 if known else 0
    # Many axes have a figure of their own; one that is the overall score itself needs no second column.
    own = {a for a in axes if any(row[a] != row["overall"] for row in rows)}
    parts = ["overall", *(a for a in axes[1:] if a in own and len(axes) <= 5)]
    figure = drawing.canvas(1.6 + wide + 1.75 * len(parts), _height(len(rows)) * len(rows) + 1.35)
    ratios = ([3.1] if known else []) + [1.6] * len(parts)
    panels = list(figure.subplots(1, len(ratios), sharey=True, squeeze=False, width_ratios=ratios)[0])
    if known:
        panel = panels.pop(0)
        _lines(panel, rows, small)
        ends = [v for row in known for v in (row["delta_low"], row["delta_high"], row["delta"]) if math.isfinite(v)]
        left, right = min(*ends, 0.0), max(*ends, 0.0)
        span = (right - left) or 1.0
        panel.axvline(0, color="#222222", lw=0.9)
        for y, row in enumerate(rows):
            at = right + 0.06 * span
            if row["delta"] is None:
                note = "reference" if row["method"] == table.reference else "–"
                panel.text(at, y, note, va="center", fontsize=6.5, color="#444444")
                continue
            beyond = significant(row["p_holm"])
            _mark(panel, y, row, (row["delta"], row["delta_low"], row["delta_high"]), beyond)
            d = Difference(row["delta"], row["delta_low"], row["delta_high"], row["p"], 0, 0.0)
            text = f"{interval(d, 2 if table.scale > 1 else 3)}  p {pvalue(row['p_holm'])}"
            panel.text(at, y, text, va="center", fontsize=6.5)
        panel.set_xlim(left - 0.05 * span, right + (0.92 if table.scale > 1 else 1.05) * span)
        panel.set_title(f"overall minus {table.reference}", fontsize=9)
        panel.set_xticks([t for t in panel.get_xticks() if left - 0.05 * span <= t <= right + 0.05 * span])
    for panel, axis in zip(panels, parts, strict=True):
        _lines(panel, rows, small)
        for y, row in enumerate(rows):
            _mark(
                panel, y, row, (row[axis], row[f"{axis}_low"], row[f"{axis}_high"]), row["rank"] != leaderboard.UNRANKED
            )
        panel.set_title(axis, fontsize=9)
        panel.set_xlim(-0.04 * table.scale, 1.04 * table.scale)
        panel.set_xticks([0, table.scale / 2, table.scale], ["0", f"{table.scale / 2:g}", f"{table.scale:g}"])
    marks = drawing.surfaces([row["surface"] for row in rows])
    if known:
        marks.append(drawing.handle(marker="o", mfc="white", label=f"hollow: p ≥ {LEVEL:g} after Holm"))
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False, fontsize=8)
    titled(figure, f"{table.title}: means and 95 % intervals over {len(table.concepts)} {table.unit}s")
    return figure


def optimism(table: Table) -> Figure | None:
    """Select minus test score at the picked setting, a line a method."""
    found = optimisms(table)
    rows = [
        {"method": name, "surface": surface, "settings": settings, "optimism": d.mean, "low": d.low, "high": d.high}
        for name, surface, settings, d in found
        if d is not None
    ]
    if not rows:
        return None
    caption = "How much better each method looked on the prompts its setting was picked on"
    return Figure("optimism", caption, rows, partial(_optimism, table, rows))


def _optimism(table: Table, rows: Sequence[Mapping[str, Any]]) -> Any:
    small = len(rows) > MANY
    figure = drawing.canvas(6.4, _height(len(rows)) * len(rows) + 1.35)
    panel = figure.subplots()
    _lines(panel, rows, small)
    panel.axvline(0, color="#222222", lw=0.9)
    for y, row in enumerate(rows):
        _mark(panel, y, row, (row["optimism"], row["low"], row["high"]), row["settings"] != "1")
    panel.set_xlabel("overall on select prompts minus test prompts, at the picked setting, 95 % interval", fontsize=8)
    marks = drawing.surfaces([row["surface"] for row in rows])
    marks.append(drawing.handle(marker="o", mfc="white", label="hollow: nothing to pick"))
    figure.legend(handles=marks, loc="outside lower center", ncols=min(4, len(marks)), frameon=False, fontsize=8)
    titled(figure, f"{table.title}: optimism of selection")
    return figure
