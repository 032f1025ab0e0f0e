"""The cost table of a leaderboard, from the records beside its runs.

Invariant: a run without a record has no row; a break-even is measured time against the table's own prompt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from bench.overhead import summary
from bench.overhead.record import Overhead
from bench.report.section import Grid, Section
from bench.results import sidecars
from bench.results.tables import Table


def records(table: Table) -> dict[str, Overhead]:
    """Name of each row -> what its method costs, where that is measured."""
    found = {row.name: sidecars.load(row.run) for row in table.rows}
    return {name: one for name, one in found.items() if one is not None}


def sections(table: Table) -> list[Section]:
    """The cost table with its notes, where anything is measured."""
    found = records(table)
    if not found:
        return []
    against = table.reference if table.reference in found else None
    drift = summary.floor(found.values())
    rows = []
    for name, one in found.items():
        last = [repaid(found, name, against, drift.get("time", 0))] if against else []
        rows.append((name, *summary.cells(one, drift=drift)[1:], *last))
    notes = summary.notes(list(found.values()))
    if against:
        notes.append(
            f"Repaid: bare requests' worth of fitting over the time saved on each request against {against}, "
            "on this engine, where nothing of a prompt is cached between requests."
        )
    columns = (*summary.HEADINGS, *([f"repaid against {against}"] if against else []))
    return [Section("What each method costs:", (Grid(columns, tuple(rows)), tuple(notes)))]


def repaid(found: Mapping[str, Overhead], name: str, against: str, floor: float = 0.0) -> str:
    """Requests after which a fit is repaid by faster answers than the prompt's; or why there is no number.

    `floor` is the machine's drift in the ratio of times.
    """
    own, other = found[name], found[against]
    spent, free = (one.data["fit"].get("in_requests") for one in (own, other))
    mine, theirs = own.ratio("time"), other.ratio("time")
    if name == against:
        return "reference"
    if mine is None or theirs is None or spent is None or free is None:
        return "–"
    won = theirs.median - mine.median
    if abs(won) <= max(mine.spread, theirs.spread, floor):
        return "not distinguishable"
    if won < 0:
        return "never"
    return f"{max(0, math.ceil(round((spent - free) / won, 6))):,} requests"
