"""Methods on several models as text: a row a method, two columns a model."""

from __future__ import annotations

from collections.abc import Sequence

from bench.core.escape import cell
from bench.report.section import Grid, grid
from bench.report.text import leaderboard
from bench.results.models import SideBySide
from bench.results.tables import Row, Table

HEADING = "Methods across models"
NOTE = (
    "Overall with its 95 % interval, and Δ, the paired difference to that model's best prompt, as in the model's own "
    "table; empty where a method did not run. Every model answers for itself: along a row compare Δ, not scores."
)


def section(found: Sequence[SideBySide]) -> list[str]:
    """The section of the leaderboard page; empty where every task ran on one model."""
    lines = []
    for one in found:
        columns = [text for name in one.columns for text in (name, f"{name}: Δ to its prompt")]
        rows = [
            (method, *(text for name, table in one.columns.items() for text in _cells(table, own.get(name))))
            for method, own in one.rows.items()
        ]
        lines += [f"### {cell(one.title)}", "", *grid(Grid(("method", *columns), tuple(rows))), ""]
    return [f"## {HEADING}", "", *lines, NOTE, ""] if lines else []


def _cells(table: Table, row: Row | None) -> tuple[str, str]:
    if row is None:
        return "", ""
    digits = 2 if table.scale > 1 else 3
    gap = leaderboard.interval(row.against, digits) if row.against else ""
    return leaderboard.interval(row.estimates["overall"], digits), gap or (
        "reference" if row.name == table.reference else "–"
    )
