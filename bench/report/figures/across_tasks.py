"""Figures over all tables: method × task, and how far each judge can be trusted.

Invariant: a cell shows a number that a leaderboard shows; an empty one was not run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from bench.report.figures import drawing
from bench.report.figures.drawing import Figure, titled
from bench.report.text import leaderboard
from bench.results.tables import Table


def heat_maps(tables: Sequence[Table]) -> list[tuple[str, Figure]]:
    """(model, figure) for each model that stands in more than one table: a row a method, a column a table."""
    made = []
    for model in dict.fromkeys(table.spec["model"] for table in tables):
        own = [table for table in tables if table.spec["model"] == model and table.concepts]
        if len(own) < 2:
            continue
        rows = [
            {
                "method": row.name,
                "surface": row.run.surface,
                "task": column,
                "overall": row.estimates["overall"].mean,
                "share": row.estimates["overall"].mean / table.scale,
                "rank": leaderboard.rank(row),
            }
            for column, table in zip(_columns(own), own, strict=True)
            for row in table.rows
        ]
        caption = f"Every method of {model} on every task"
        made.append((model, Figure("tasks", caption, rows, partial(_heat_map, model, rows))))
    return made


def _columns(tables: Sequence[Table]) -> list[str]:
    """A short name of each table, with what tells it from the others of its task."""
    found = []
    for table in tables:
        same = [_marks(other) for other in tables if other.spec["task"] == table.spec["task"]]
        parts = [mark for i, mark in enumerate(_marks(table)) if len({other[i] for other in same}) > 1]
        found.append("\n".join([table.spec["task"], *parts]))
    return found


def _marks(table: Table) -> tuple[str, str, str]:
    return table.spec["protocol"]["preset"], table.spec["backend"], table.group[:6]


def _heat_map(model: str, rows: Sequence[Mapping[str, Any]]) -> Any:
    """Methods in the order of their mean share over the tasks they ran on, by surface."""
    columns = list(dict.fromkeys(row["task"] for row in rows))
    surfaces = {row["method"]: row["surface"] for row in rows}
    shares = {(row["method"], row["task"]): row["share"] for row in rows}
    values = {(row["method"], row["task"]): row["overall"] for row in rows}

    def order(name: str) -> tuple[Any, ...]:
        known = [v for (method, _), v in shares.items() if method == name and math.isfinite(v)]
        place = [*drawing.SURFACES, surfaces[name]].index(surfaces[name])
        return place, -sum(known) / len(known) if known else 0.0, name

    names = sorted(surfaces, key=order)
    small = len(names) > 25
    tall = 0.19 if small else 0.27
    figure = drawing.canvas(2.6 + 0.95 * len(columns), tall * len(names) + 1.5)
    panel = figure.subplots()
    shades = _shades()
    for y, name in enumerate(names):
        if y == 0 or surfaces[name] != surfaces[names[y - 1]]:
            panel.axhline(y - 0.5, color="white" if y else "none", lw=4)
            panel.text(len(columns) - 0.45, y, surfaces[name], va="center", fontsize=7, style="italic", color="#444444")
        for x, column in enumerate(columns):
            share = shares.get((name, column), math.nan)
            if not math.isfinite(share):
                panel.text(x, y, "·", ha="center", va="center", fontsize=7, color="#999999")
                continue
            red, green, blue, _ = shades(min(1.0, max(0.0, share)))
            panel.add_patch(_cell(x, y, (red, green, blue)))
            ink = "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.55 else "black"
            panel.text(x, y, f"{values[name, column]:.2f}", ha="center", va="center", fontsize=7, color=ink)
    panel.set_xlim(-0.5, len(columns) + 0.35)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.set_xticks(range(len(columns)), [name.replace("-", "-\n", 1) for name in columns], fontsize=7.5)
    panel.xaxis.tick_top()
    panel.set_yticks(range(len(names)), names, fontsize=7 if small else 8)
    panel.tick_params(length=0)
    for side in ("left", "bottom"):
        panel.spines[side].set_visible(False)
    from matplotlib.cm import ScalarMappable

    bar = figure.colorbar(ScalarMappable(cmap=shades), ax=panel, shrink=0.5 if small else 0.9, aspect=30)
    bar.set_label("share of the task's scale (in detection 0.5 is chance)", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    titled(figure, f"{model}: overall score by task (methods by surface, best first)")
    return figure


def _shades() -> Any:
    from matplotlib import colormaps

    return colormaps["cividis"]


def _cell(x: int, y: int, colour: tuple[float, float, float]) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.49, y - 0.46), 0.98, 0.92, color=colour, lw=0)


def judges(found: Sequence[Mapping[str, Any]]) -> Figure | None:
    """AUROC of every validated judge, by what it had to tell apart."""
    every = [
        {"judge": table["judge"], "data": table["data"], "axis": axis, "against": other}
        | {k: math.nan if e[k] is None else e[k] for k in ("auroc", "low", "high")}
        for table in found
        for axis, others in table["axes"].items()
        for other, e in others.items()
    ]
    # Once, however many samples of readers the judge was held against.
    rows = list({tuple(row[k] for k in ("judge", "data", "axis", "against")): row for row in every}.values())
    if not rows:
        return None
    caption = "How well each judge tells labelled texts apart that it was not calibrated on"
    return Figure("validity", caption, rows, partial(_judges, rows))


def _judges(rows: Sequence[Mapping[str, Any]]) -> Any:
    pairs = list(dict.fromkeys((row["axis"], row["against"]) for row in rows))
    voices = list(dict.fromkeys((row["judge"], row["data"]) for row in rows))
    figure = drawing.canvas(7.4, 0.24 * len(pairs) * max(2, len(voices)) + 1.3)
    panel = figure.subplots()
    panel.axvline(0.5, color="#222222", lw=0.9)
    step = 0.7 / len(voices)
    for i, (voice, (colour, _, marker)) in enumerate(zip(voices, drawing.LINES * len(voices), strict=False)):
        for y, pair in enumerate(pairs):
            own = [r for r in rows if (r["judge"], r["data"]) == voice and (r["axis"], r["against"]) == pair]
            for row in own:
                at = y + (i - (len(voices) - 1) / 2) * step
                panel.plot([row["low"], row["high"]], [at, at], color=colour, lw=1.4)
                panel.plot([row["auroc"]], [at], marker, color=colour, ms=5, mfc="white" if i % 2 else colour)
    panel.set_yticks(range(len(pairs)), [f"{axis}: {other.replace('_', ' ')}" for axis, other in pairs])
    panel.set_ylim(len(pairs) - 0.5, -0.5)
    panel.set_xlim(0.3, 1.01)
    panel.set_xlabel("AUROC, mean and 95 % interval over concepts; 0.5 is chance")
    panel.grid(color=drawing.GRID, lw=0.6)
    marks = [
        drawing.handle(color=colour, marker=marker, mfc="white" if i % 2 else colour, label=f"{judge} on {data}")
        for i, ((judge, data), (colour, _, marker)) in enumerate(zip(voices, drawing.LINES * len(voices), strict=False))
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=min(3, len(marks)), frameon=False, fontsize=8)
    titled(figure, "Validity of the judges")
    return figure
