"""Below a table of pairs: what is left of a wish beside another.

Invariant: a method is held against itself alone, in a table of the same protocol.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.report.section import Grid, Section
from bench.report.text.leaderboard import interval
from bench.results.composition import LEAST, PARTS, retention, single
from bench.results.tables import Table
from bench.stats.intervals import estimate


def sections(table: Table, tables: Sequence[Table]) -> list[Section]:
    """One table; none where the task asks for one thing at a time, or the single wishes were not run."""
    other = single(table, tables)
    if other is None:
        return []
    alone = {row.name: row.run for row in other.rows}
    rows = []
    for row in table.rows:
        if row.name not in alone:
            continue
        shares = retention(row.run, alone[row.name])
        whole = [
            min(known) for pair in shares.values() if len(known := [s for s in pair if s is not None]) == len(PARTS)
        ]
        each = [sum(known) / len(known) for pair in shares.values() if (known := [s for s in pair if s is not None])]
        cells = [interval(estimate(values)) if values else "–" for values in (each, whole)]
        rows.append((row.name, *cells, f"{len(whole)} of {len(shares)}"))
    heading = (
        "Two wishes at once: the share that is left of each beside the other, of what the same method had of it alone "
        f"({other.title}), and of the one that lost more. Mean over pairs in which both were there to lose (at least "
        f"{LEAST:.0%} of the scale; in the first column, one of them). A concept stands in several pairs, so that the "
        "intervals are too narrow:"
    )
    columns = ("method", "left of each", "left of the worse", "pairs")
    return [Section(heading, (Grid(columns, tuple(rows)),))] if rows else []
