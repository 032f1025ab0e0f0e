"""What methods do where nobody asked for it, beside the score, below a table.

Invariant: every number is of the picked setting, each with its interval where there are enough units; nothing here
changes a rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from bench.report.section import Grid, Section
from bench.report.text.leaderboard import interval
from bench.results import damage, effects
from bench.results.runs import Run, by_question
from bench.results.tables import Table, banded, with_band, within
from bench.stats.intervals import estimate

UNTOUCHED = "untouched by construction"
"""Of what a steering could not have changed: its edits begin behind what is asked, say."""


@dataclass(frozen=True)
class Column:
    """One thing that is looked at: its name, what a reader must know of it, and the cell of each run."""

    name: str
    note: str
    cell: Callable[[Run], str]


def sections(table: Table) -> list[Section]:
    """A table with a column for each thing that was looked at; none where nothing was."""
    return [Section(HEADING, found)] if (found := grid(table)) else []


HEADING = "Beside the score: what each method's picked setting does where nobody asked for it:"


def grid(table: Table) -> tuple[Grid, tuple[str, ...]] | None:
    """The table and its notes."""
    runs = [row.run for row in table.rows]
    shown = [*_plain(runs, banded(table)), *_related(runs), *_adverse(runs), *_asked(runs)]
    if not shown:
        return None
    rows = [
        (row.name, interval(row.estimates["overall"]), *(column.cell(row.run) for column in shown))
        for row in table.rows
    ]
    names = ("method", "overall", *(column.name for column in shown))
    return Grid(names, tuple(rows)), tuple(dict.fromkeys(column.note for column in shown))


def lines(run: Run) -> list[str]:
    """The same of one run, for a terminal."""
    found = [*_plain([run], not by_question(run.data)), *_related([run]), *_adverse([run]), *_asked([run])]
    notes = dict.fromkeys(column.note for column in found)
    return [*(f"{column.name}: {column.cell(run)}" for column in found), *(f"({note})" for note in notes)]


def _plain(runs: list[Run], banded: bool) -> list[Column]:
    """KL and surprise of plain answers, where they were read."""
    read = damage.same(runs)
    if not any(damage.picked(run, "kl") for run in read):
        return []
    of = {id(run) for run in read}
    texts = read[0].data["neutral"]["texts"]
    note = (
        f"KL, words less likely: what the setting (of the first fit) does to {texts} plain answers to plain questions: "
        "KL(steered || bare), and how much less likely the answers' own words became; nats a token, mean over concepts."
    )

    def cell(name: str, least: float | None) -> Callable[[Run], str]:
        def shown(run: Run) -> str:
            values = list(damage.picked(run, name).values()) if id(run) in of else []
            if not values:
                return "–"
            size = estimate(values)
            return interval(with_band(size if least is None else replace(size, low=max(size.low, least)), banded))

        return shown

    return [Column("KL", note, cell("kl", 0.0)), Column("words less likely", note, cell("surprise", None))]


def _related(runs: list[Run]) -> list[Column]:
    """How much of another concept the answers show."""
    if not any(effects.related(run) for run in runs):
        return []
    bare = next((own for run in runs if run.method == "none" and (own := effects.related(run))), None)
    note = (
        "related: the same answers, rated for another concept (the next one of the genre)"
        f"{', less the bare model on the same questions' if bare else ''}: what raises everything raises this too."
    )

    def cell(run: Run) -> str:
        own = effects.related(run)
        if not own:
            return "–"
        if bare is None or run.method == "none":
            return interval(within(estimate(list(own.values())), run.data.get("scale", 2.0)))
        both = [unit for unit in own if unit in bare]
        return _less(run, [own[unit] - bare[unit] for unit in both])

    return [Column("related", note, cell)]


def _adverse(runs: list[Run]) -> list[Column]:
    """What an order against the concept takes away."""
    if not any(effects.adverse(run) for run in runs):
        return []
    axis = next(run.data["specificity"]["adverse"]["axis"] for run in runs if effects.adverse(run))
    note = (
        f"adverse: {axis} where the question ends with an order to keep off the concept, less {axis} on the same "
        "questions without; near 0, the steering holds against a user who does not want it."
    )

    def cell(run: Run) -> str:
        own = effects.adverse(run)
        return _less(run, list(own.values())) if own else "–"

    return [Column("adverse", note, cell)]


def _less(run: Run, differences: list[float]) -> str:
    """The mean of differences of ratings, its interval cut to what they can be."""
    found, most = estimate(differences), run.data.get("scale", 2.0)
    return interval(replace(found, low=max(found.low, -most), high=min(found.high, most)), signed=True)


def _asked(runs: list[Run]) -> list[Column]:
    """lm-eval's tasks."""
    found = []
    for what in effects.asked(runs):
        changes = {id(run): effects.change(run, what) for run in runs}
        one = next((known for known in changes.values() if known), None)
        if one is None:
            continue
        note = (
            f"{what.task}: {what.metric} less the bare model's ({one.bare:.2f}) on the same {one.n} documents of "
            "lm-eval's task, asked in the chat, prompts before them; mean over concepts, intervals over documents."
        )

        def cell(run: Run, changes: dict[int, effects.Change | None] = changes) -> str:
            return _changed(changes[id(run)], run.method == "none")

        found.append(Column(what.task, note, cell))
    return found


def _changed(found: effects.Change | None, bare: bool) -> str:
    if found is None or bare:
        return "–"
    if not found.touched:
        return UNTOUCHED
    if found.items is None:
        return f"{found.difference:+.2f}"
    return interval(estimate(found.items), signed=True)
