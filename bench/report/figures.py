"""Figures of a leaderboard: a forest plot and score against coefficient.

Invariant: the same table gives the same bytes: no date, fixed size, fixed fonts.
"""

from __future__ import annotations

import io
import math
from typing import Any

from bench.report.leaderboard import title
from bench.results import Table
from bench.stats import estimate

COLOURS = {
    "prompting": "#b5541c",
    "direction": "#1f5fa8",
    "control": "#7a7a7a",
    "combination": "#6a3d9a",
    "detector": "#2a7f62",
}
MARKERS = "osD^vP*Xh<>p"
ENDS = ("low", "high")


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {"font.family": "DejaVu Sans", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    )
    return plt


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=140, metadata={"Software": None})
    _pyplot().close(figure)
    return buffer.getvalue()


def forest(table: Table) -> bytes:
    """Overall score and its parts per method, with 95 % intervals over concepts."""
    plt = _pyplot()
    axes = ("overall", *table.axes[:-1])
    rows = list(reversed(table.rows))
    figure, panels = plt.subplots(
        1, len(axes), figsize=(2.6 * len(axes) + 1.2, 0.34 * len(rows) + 1.5), sharey=True, layout="constrained"
    )
    for panel, axis in zip(panels, axes, strict=True):
        for y, row in enumerate(rows):
            e = row.estimates[axis]
            colour = COLOURS.get(row.run.family, "#2a7f62")
            if math.isfinite(e.low):
                panel.plot([e.low, e.high], [y, y], color=colour, lw=1.6, solid_capstyle="butt")
            panel.plot([e.mean], [y], "o", color=colour, ms=4.5)
        panel.set_title(axis, fontsize=10)
        panel.set_xlim(-0.04 * table.scale, 1.04 * table.scale)
        panel.set_xticks([table.scale * k / 4 for k in range(5)])
        panel.grid(axis="x", color="#dddddd", lw=0.6)
        panel.set_axisbelow(True)
    panels[0].set_yticks(range(len(rows)), [row.name for row in rows])
    panels[0].set_ylim(-0.6, len(rows) - 0.4)
    what = "mean rating" if table.spec["judge"] else "mean AUROC" if "auroc" in table.axes else "mean score"
    figure.suptitle(f"{title(table)}: {what} and 95 % interval over {len(table.concepts)} concepts", fontsize=9)
    return _png(figure)


def coefficients(table: Table) -> bytes:
    """One panel per method: its select-split score against the coefficient, with the controls beside it.

    c = 0 is the bare model (a combination's is its prompt alone, and is not drawn).
    """
    plt = _pyplot()
    swept = {row.name: row.run for row in sorted(table.rows, key=lambda r: r.name)}
    swept = {name: run for name, run in swept.items() if len(run.curve("overall")) > 1}
    controls = {name: run for name, run in swept.items() if run.family == "control"}
    shown = [name for name in swept if name not in controls] or list(swept)
    bare = next((row.run for row in table.rows if row.run.method == "none"), None)
    columns = min(5, max(1, len(shown)))
    lines = max(1, math.ceil(len(shown) / columns))
    figure, panels = plt.subplots(
        lines, columns, figsize=(2.3 * columns + 0.4, 2.0 * lines + 0.9), sharex=True, sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip

    def draw(panel: Any, run: Any, axis: str, **style: Any) -> None:
        zero = _mean(bare.curve(axis).get(1.0, {}), table) if bare and run.family != "combination" else None
        curve = {c: e for c, v in sorted(run.curve(axis).items()) if (e := _mean(v, table)) is not None}
        curve = ({0.0: zero} if zero is not None else {}) | curve
        panel.plot(list(curve), [e.mean for e in curve.values()], **style)
        if axis == "overall" and "marker" in style:
            low, high = ([getattr(e, end) if math.isfinite(e.low) else e.mean for e in curve.values()] for end in ENDS)
            panel.fill_between(list(curve), low, high, color=style["color"], alpha=0.15, lw=0)

    reference = next((row.run for row in table.rows if row.name == table.reference), None)
    for place, panel in enumerate(panels.flat):
        if place >= len(shown):
            panel.set_axis_off()
            continue
        for grey, (name, run) in zip(("#8a8a8a", "#bcbcbc"), controls.items(), strict=False):
            draw(panel, run, "overall", color=grey, lw=1.1, label=name)
        run = swept[shown[place]]
        colour = COLOURS.get(run.family, "#2a7f62")
        draw(panel, run, "overall", color=colour, lw=1.6, marker="o", ms=3, label="overall, 95 %")
        draw(panel, run, table.axes[0], color=colour, lw=1, ls=":", label=table.axes[0])
        if reference:
            known = [v for v in reference.scores("overall", "select").values() if v is not None]
            level = sum(known) / len(known) if known else math.nan
            panel.axhline(level, color=COLOURS["prompting"], ls="--", lw=1, label=f"{table.reference}, overall")
        panel.set_title(shown[place], fontsize=9)
        panel.set_ylim(-0.04 * table.scale, 1.04 * table.scale)
        panel.grid(color="#e4e4e4", lw=0.6)
        if place + columns >= len(shown):
            panel.set_xlabel("c, in median norms" if table.spec["protocol"]["strength"] == "norm" else "factor")
            panel.xaxis.set_tick_params(labelbottom=True)
    handles, labels = panels[0][0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)), frameon=False)
    figure.suptitle(f"{title(table)}: select split", fontsize=9)
    return _png(figure)


def depths(table: Table) -> bytes:
    """Score on the select split against the layer steered, each layer at its best coefficient."""
    plt = _pyplot()
    axes = ("overall", table.axes[0])
    figure, panels = plt.subplots(1, len(axes), figsize=(4.2 * len(axes), 3.6), layout="constrained")
    swept = [row for row in sorted(table.rows, key=lambda r: r.name) if row.run.depths("overall")]
    for panel, axis in zip(panels, axes, strict=True):
        for i, row in enumerate(swept):
            curve = {k: e for k, v in sorted(row.run.depths(axis).items()) if (e := _mean(v, table)) is not None}
            at = [layer + 0.12 * (i - len(swept) / 2) for layer in curve]
            style = {"color": plt.get_cmap("tab10")(i % 10), "marker": MARKERS[i % len(MARKERS)]}
            means = [e.mean for e in curve.values()]
            bars = [
                [e.mean - e.low if math.isfinite(e.low) else 0 for e in curve.values()],
                [e.high - e.mean if math.isfinite(e.high) else 0 for e in curve.values()],
            ]
            panel.plot(at, means, ms=4, lw=1.3, label=row.name, **style)
            panel.errorbar(at, means, bars, fmt="none", ecolor=style["color"], alpha=0.35)
        panel.set_title(axis, fontsize=10)
        panel.set_ylim(-0.04 * table.scale, 1.04 * table.scale)
        panel.set_xlabel("block whose output is read and steered")
        panel.grid(color="#e4e4e4", lw=0.6)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)), frameon=False)
    figure.suptitle(f"{title(table)}: select split, best coefficient per layer", fontsize=9)
    return _png(figure)


def _mean(values: dict[str, float], table: Table) -> Any:
    known = [values[name] for name in table.concepts if name in values]
    return estimate(known) if known else None
