"""Dialogues below a table: what is left of a method's effect after so many turns, and what it does to the text."""

from __future__ import annotations

from bench.report.section import Grid, Section
from bench.report.text.leaderboard import interval, percent
from bench.results import dialogues
from bench.results.tables import Row, Table, within
from bench.stats.intervals import estimate
from bench.stats.significance import paired

COLUMNS = (
    "method",
    "turn 1",
    "turn {last}",
    "below half from",
    "a turn",
    "to {reference}",
    "fluency a turn",
    "repeats",
)


def sections(table: Table) -> list[Section]:
    """The table by turn under its heading; none where the task has no dialogues."""
    kept = {row.name: found for row in table.rows if (found := dialogues.of(row.run))}
    if not kept:
        return []
    axis = table.axes[0]
    last = max(turn for found in kept.values() for turn in dialogues.by_turn(found, axis))
    other = dialogues.slopes(kept[table.reference], axis) if table.reference in kept else {}
    rows = [
        _row(row, kept[row.name], table, last, {} if row.name == table.reference else other)
        for row in table.rows
        if row.name in kept
    ]
    columns = tuple(c.format(last=last, reference=table.reference or "the prompt") for c in COLUMNS)
    heading = (
        f"By turn: {axis} at the first and the last turn, the first turn at which its mean is below half of the first, "
        "and its change a turn (least squares in each dialogue), also less the reference's on the same dialogues; "
        f"repeats: share of the {dialogues.GRAM}-word pieces of a turn that stood in an earlier one:"
    )
    return [Section(heading, (Grid(columns, tuple(rows)),))]


def _row(row: Row, found: dialogues.Dialogues, table: Table, last: int, other: dict[str, float]) -> tuple[str, ...]:
    """`other`: concept -> the reference's slope, where this is another method."""
    axis = table.axes[0]
    turns = dialogues.by_turn(found, axis)
    means = [within(estimate(list(own.values())), table.scale) for own in turns.values()]
    half = dialogues.half_life([e.mean for e in means])
    own = dialogues.slopes(found, axis)
    both = [concept for concept in own if concept in other]
    against = paired([own[c] for c in both], [other[c] for c in both]) if both else None
    pieces = dialogues.repeats(found)
    return (
        row.name,
        interval(means[0]),
        interval(means[-1]) if last in turns else "–",
        f"turn {half}" if half else "–",
        interval(estimate(list(own.values())), 3, signed=True),
        interval(against, 3) if against else "–",
        interval(estimate(list(dialogues.slopes(found, "fluency").values())), 3, signed=True),
        percent(within(estimate(list(pieces.values())), 1)) if pieces else "–",
    )
