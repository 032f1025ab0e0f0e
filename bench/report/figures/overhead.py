"""Figures of cost: score against overhead, and overhead against context length, each with its data as CSV.

Invariant: the same records give the same bytes; what colour shows, shape or dashes show too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.core.errors import UsageError
from bench.core.store import write_over
from bench.overhead import summary
from bench.overhead.config import known
from bench.overhead.exact import Architecture, Extra, kinds
from bench.overhead.record import Overhead
from bench.report.figures import drawing, labels
from bench.report.figures.drawing import Figure, titled
from bench.report.text.costs import records
from bench.results.tables import Row, Table

SIZES, RANK = (50, 100, 400), 8
NAMED = 32
"""So many points are named; of more, only the best at their cost, the controls and the reference."""


def pareto(table: Table) -> Figure | None:
    """Score against exact overhead, where at least two methods of a table have a record of their cost."""
    found = records(table)
    if table.kind == "detector" or len(found) < 2:
        return None
    points = _points(table, found)
    return Figure("pareto", "Score against exact overhead", points, partial(_pareto, table, points))


def architecture(table: Table) -> Architecture | None:
    """The dimensions of a table's model, from a record beside its runs or from those that ship."""
    return next((one.arch for one in records(table).values()), None) or known(str(table.spec["model"]))


def _points(table: Table, found: Mapping[str, Overhead]) -> list[dict[str, Any]]:
    """One row per method: its score, its exact costs, and whether none is both cheaper and better."""

    def values(row: Row) -> dict[str, Any]:
        one, e = found[row.name], row.estimates["overall"]
        own, reply = round(one.data["exact"]["own_tokens"]), table.spec["protocol"]["sampling"]["max_new_tokens"]
        low, high = (v if math.isfinite(v) else e.mean for v in (e.low, e.high))
        return {
            "method": row.name, "surface": row.run.surface, "overall": e.mean, "low": low, "high": high,
            "prompt_tokens": one.extra.prompt_tokens, "context": summary.CONTEXT,
            "token_flops_percent": one.flops(summary.CONTEXT), "token_bytes_percent": one.bytes(summary.CONTEXT),
            "own_tokens": own, "reply_tokens": reply, "request_flops_percent": one.request(own, reply),
        }  # fmt: skip

    points = [values(row) for row in table.rows if row.name in found]
    for axis in ("token", "request"):
        for point in points:
            cost, score = point[f"{axis}_flops_percent"], point["overall"]
            beaten = any(
                other["overall"] >= score
                and other[f"{axis}_flops_percent"] <= cost
                and (other["overall"], -other[f"{axis}_flops_percent"]) != (score, -cost)
                for other in points
            )
            point[f"best_by_{axis}"] = "no" if beaten else "yes"
    return points


def _pareto(table: Table, points: Sequence[Mapping[str, Any]]) -> Any:
    """Score against exact overhead; full marks are beaten by no cheaper method, and have their interval."""
    own, reply = points[0]["own_tokens"], points[0]["reply_tokens"]
    panels = {
        "token": f"a decoded token at {summary.CONTEXT:,} tokens of context, prompt cached",
        "request": f"a request of {own} tokens answered with {reply}, nothing cached",
    }
    figure = drawing.canvas(10.5, 9.4)
    shown = list(zip(figure.subplots(2, 1), panels.items(), strict=True))
    for panel, (axis, what) in shown:
        ordered = sorted(points, key=lambda p: (p[f"{axis}_flops_percent"], -p["overall"]))
        paid = [p[f"{axis}_flops_percent"] for p in ordered if p[f"{axis}_flops_percent"] > 0] or [1e-5]
        least, most = math.floor(math.log10(min(paid))), math.ceil(math.log10(max(paid)) + 0.3)
        # Logarithmic from the least that anything costs; what costs nothing stands a decade to the left.
        panel.set_xscale("symlog", linthresh=10.0**least)
        best = [(p[f"{axis}_flops_percent"], p["overall"]) for p in ordered if p[f"best_by_{axis}"] == "yes"]
        steps = [*best, (10.0**most, best[-1][1])]
        panel.step(*zip(*steps, strict=True), where="post", color="#999999", lw=1, ls="--")
        for p in ordered:
            x, (colour, shape) = p[f"{axis}_flops_percent"], drawing.surface(p["surface"])
            full = p[f"best_by_{axis}"] == "yes"
            if full:
                panel.plot([x, x], [p["low"], p["high"]], color=colour, lw=1)
            panel.plot([x], [p["overall"]], shape, color=colour, ms=5.5, mfc=colour if full else "white", mew=1.3)
        panel.set_xlim(-0.4 * 10.0**least, 10.0**most)
        panel.set_xticks([0, *(10.0**k for k in range(least, most + 1))])
        panel.set_xticklabels(["0", *(f"{10.0**k:g}" for k in range(least, most + 1))])
        panel.minorticks_off()
        panel.set_ylim(-0.05 * table.scale, min(table.scale, max(p["high"] for p in points)) + 0.06 * table.scale)
        panel.set_xlabel(f"FLOPs above the bare model, %: {what}")
        panel.set_ylabel("overall")
        panel.grid(color=drawing.GRID, lw=0.6)
    marks = drawing.surfaces([p["surface"] for p in points])
    told = "full: none is cheaper and better, with its 95 % interval"
    marks.append(drawing.handle(marker="o", ls="--", color="#555555", label=told))
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False, fontsize=8)
    methods = len({point["method"] for point in points})
    of = f" (of {len(table.rows)} methods the {methods} with a cost record)" if methods < len(table.rows) else ""
    titled(figure, f"{table.title}\nscore against exact overhead{of}")
    figure.draw_without_rendering()  # names are placed where the points came to lie
    figure.set_layout_engine("none")
    for panel, (axis, _) in shown:
        _name(panel, points, axis, table.reference)
    return figure


def _name(panel: Any, points: Sequence[Mapping[str, Any]], axis: str, reference: str | None) -> None:
    """Write the points' names, of those on one spot together; they choose first that a reader looks for."""

    def order(i: int) -> tuple[int, float]:
        p = points[i]
        first = p[f"best_by_{axis}"] == "yes" or p["method"] == reference
        return 0 if first else 1 if p["surface"] == "control" else 2, -p["overall"]

    named = sorted(range(len(points)), key=order)
    if len(points) > NAMED:
        named = [i for i in named if order(i)[0] < 2]
    places = [(p[f"{axis}_flops_percent"], p["overall"]) for p in points]
    words: dict[tuple[float, float], tuple[int, str, str]] = {}
    for i in named:
        first, said, colour = words.get(places[i], (i, "", drawing.surface(points[i]["surface"])[0]))
        words[places[i]] = first, f"{said}, {points[i]['method']}" if said else points[i]["method"], colour
    drawn = [end for line in panel.lines for end in pairwise(line.get_path().vertices)]  # the steps and the intervals
    labels.label(panel, places, list(words.values()), 7, drawn)


def context(arch: Architecture, sizes: Sequence[int] = SIZES, rank: int = RANK) -> Figure:
    """Overhead against context length for each kind of steering: cache, FLOPs, bytes moved."""
    longest = arch.longest or 131_072
    lengths = [2**k for k in range(9, 21) if max(sizes) < 2**k <= longest] or [2 * max(sizes), 4 * max(sizes)]
    rows = summary.costs(arch, sizes, lengths, rank)
    shown = {name: e for name, e in kinds(arch, tuple(sizes), rank).items() if "merged" not in name}
    short = arch.name.rstrip("/").split("/")[-1]
    caption = f"Overhead of each kind of steering on {short}"
    return Figure("overhead", caption, rows, partial(_context, short, rows, lengths, shown))


def _context(short: str, rows: Sequence[Mapping[str, Any]], lengths: Sequence[int], shown: Mapping[str, Extra]) -> Any:
    from matplotlib.ticker import FuncFormatter

    panels = {
        "kv_percent": "memory, % of the KV cache",
        "flops_percent": "FLOPs of a decoded token, % above",
        "bytes_percent": "bytes moved a decoding step, % above",
    }
    figure = drawing.canvas(10.5, 3.8)
    axes = figure.subplots(1, len(panels), sharey=True)
    for panel, (key, what) in zip(axes, panels.items(), strict=True):
        for i, name in enumerate(shown):
            colour, dashes, marker = drawing.LINES[i % len(drawing.LINES)]
            values = [row[key] for row in rows if row["method"] == name]
            panel.plot(lengths, values, color=colour, ls=dashes, marker=marker, ms=4, lw=1.4, label=name)
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(lengths, [f"{n // 1024}k" if n >= 1024 else str(n) for n in lengths])
        panel.minorticks_off()
        panel.set_title(what, fontsize=9)
        panel.set_xlabel("context, tokens, prompt included")
        panel.grid(color=drawing.GRID, lw=0.6)
    axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)), frameon=False, fontsize=8)
    figure.suptitle(f"{short}: exact overhead for batch 1 in bf16, prompt cached; a merged adapter adds nothing")
    return figure


def write_context(arch: Architecture, sizes: Sequence[int], rank: int, path: Path, force: bool = False) -> None:
    """The figure of one model as `path` with .png, .svg and .csv, over an earlier one: its CSV has the same columns."""
    if not path.name:
        raise UsageError(f"{path} names no file: say how the figure is called")
    files = drawing.drawn(context(arch, sizes, rank), path.with_name(path.name.removesuffix(".png")))
    table = next(file for file in files if file.suffix == ".csv")
    columns = files[table].split(b"\n")[0]
    earlier = table.is_file() and table.read_bytes().startswith(columns)
    write_over(files, force or earlier)
