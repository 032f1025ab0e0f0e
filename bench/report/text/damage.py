"""How well methods do where they may do no more than so much to plain answers, below a table.

Invariant: scores at equal damage are of the select split, where every setting was tried; no question chooses the
setting it is scored under.
"""

from __future__ import annotations

from bench.report.section import Grid, Section
from bench.report.text.leaderboard import interval
from bench.results import damage
from bench.results.runs import Run
from bench.results.tables import Table, banded, with_band, within
from bench.stats.intervals import estimate
from bench.stats.significance import paired


def sections(table: Table) -> list[Section]:
    """Scores at equal damage; none where no run read plain answers."""
    read = damage.same([row.run for row in table.rows])
    names = {id(row.run): row.name for row in table.rows}
    return _equal(table, read, names) if any(damage.picked(run, "kl") for run in read) else []


def _equal(table: Table, read: list[Run], names: dict[int, str]) -> list[Section]:
    known, kept = damage.limits(read[0]), banded(table)
    bare = next((run for run in read if run.method == "none"), None)
    reference = next((run for run in read if names[id(run)] == table.reference), None)
    rows = []
    for run in read:
        cells = [names[id(run)]]
        for limit in known:
            own = damage.at_most(run, limit, bare)
            other = damage.at_most(reference, limit, bare) if reference and run is not reference else {}
            both = [concept for concept in own if concept in other] if kept else []
            score = interval(with_band(within(estimate(list(own.values())), table.scale), kept)) if own else "–"
            gap = paired([own[c] for c in both], [other[c] for c in both], table.scale) if both else None
            cells += [score, interval(gap) if gap else "–", f"{damage.mild(run, limit):.0%}"]
        rows.append(tuple(cells))
    columns = [(f"KL ≤ {limit}", f"Δ to {table.reference or 'the prompt'}", "so mild") for limit in known]
    heading = (
        "With no more than so much damage: the overall score on the select questions, each under the setting that is "
        "best on the others among those that move plain answers so little; so mild: share of the concepts in which "
        "some setting is, the bare model standing in for the rest, of the method and of what it is compared with:"
    )
    return [Section(heading, (Grid(("method", *(c for each in columns for c in each)), tuple(rows)),))]
