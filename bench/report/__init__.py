"""From results to reports: a leaderboard in Markdown and CSV, and its figures.

Invariant: a pure function of the results folder (and of the checked validity tables of judges, where the
folder has none); run twice, it gives identical bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bench.opinions import validity
from bench.plan import default_results
from bench.report import cost_figures, costs, details, efficiency, figures, leaderboard, monitors, opinions, page
from bench.results import Table, load, tables
from bench.schema import UsageError
from bench.store import write_whole


def build(results: Path, out: Path) -> list[Path]:
    """Write `leaderboard.md`, `leaderboard.csv` and the figures of each table; returns the files."""
    found = tables(load(results))
    if not found:
        raise UsageError(f"no runs in {results}: run bench run first")
    out.mkdir(parents=True, exist_ok=True)
    written = [_write(out / "leaderboard.csv", leaderboard.csv_text(found).encode())]
    names: dict[str, list[str]] = {}
    for table in found:
        spec = table.spec
        stem = f"{spec['task']}-{spec['model']}-{spec['protocol']['preset']}-{table.group[:6]}"
        for kind, draw in _figures(table):
            name = f"{stem}-{kind}.png"
            names.setdefault(table.group, []).append(name)
            written.append(_write(out / name, draw(table)))
        for kind, image, data in cost_figures.draw(table):
            name = f"{stem}-{kind}.png"
            names.setdefault(table.group, []).append(name)
            written += [_write(out / name, image), _write((out / name).with_suffix(".csv"), data.encode())]
    for group, name, image, data in efficiency.draw(found):
        names[group].append(f"{name}.png")
        written += [_write(out / f"{name}.png", image), _write(out / f"{name}.csv", data.encode())]
    curves = efficiency.sections(found)
    below = {t.group: [*_below(t, (results, default_results())), *curves.get(t.group, [])] for t in found}
    written.insert(0, _write(out / "leaderboard.md", leaderboard.markdown(found, names, below).encode()))
    written += page.write(found, out, names, below)
    return written


def _below(table: Table, roots: Sequence[Path]) -> list[tuple[str, list[str]]]:
    """What stands below a table: what may be claimed, how methods compare in detail, what they cost."""
    known = validity(roots, table.spec["judge"], table.spec["judge_params"])
    return [
        *opinions.sections(table, known),
        *details.sections(table),
        *monitors.sections(table),
        *costs.sections(table),
    ]


def _figures(table: Table) -> list[tuple[str, Callable[[Table], bytes]]]:
    """The figures a table has something to show in."""
    found: list[tuple[str, Callable[[Table], bytes]]] = [("forest", figures.forest)]
    if table.spec["judge"]:
        found.append(("coefficients", figures.coefficients))
    if any(row.run.depths("overall") for row in table.rows):
        found.append(("depths", figures.depths))
    return found


def _write(path: Path, content: bytes) -> Path:
    write_whole(path, content)
    return path
