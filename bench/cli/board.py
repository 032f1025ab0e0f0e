"""A leaderboard on a terminal: as many of its columns as stand there whole.

Invariant: no name and no number is cut; what a terminal is too narrow for is named below the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.table import Column, Table as Grid
from rich.text import Text

from bench.cli.console import Console
from bench.report.text import effects, leaderboard
from bench.report.text.verdict import Headline
from bench.results.tables import Table

WRAPS = "surface"
"""The column whose cells are words, and may take several lines."""


def show(table: Table, console: Console, title: str = "") -> None:
    """Print a table of results as wide as `console` is."""
    heads, rows = leaderboard.headings(table), [leaderboard.cells(table, row) for row in table.rows]
    least = [*reversed(table.axes[:-1]), "missing", WRAPS, "corrected", "c", "p (Holm)"]
    kept = fitting(heads, rows, least, console.width)
    grid = Grid(*(Column(heads[i], no_wrap=heads[i] != WRAPS) for i in kept), title=title or table.title)
    for row in rows:
        grid.add_row(*(row[i] for i in kept))
    console.print(grid)
    if left := [head for i, head in enumerate(heads) if i not in kept]:
        console.print(f"- Too narrow here for {', '.join(left)}: the report has them.")


def notes(table: Table, console: Console) -> None:
    """Print what a reader must know of a table, by line."""
    _listed(leaderboard.notes(table), console)


def beside(table: Table, console: Console) -> None:
    """Print what was looked at beside the score, where anything was."""
    if not (found := effects.grid(table)):
        return
    shown, notes = found
    grid = Grid(*shown.columns, title=effects.HEADING)
    for row in shown.rows:
        grid.add_row(*row)
    console.print(grid)
    _listed(notes, console)


def _listed(notes: Iterable[str], console: Console) -> None:
    for note in notes:
        console.print(f"- {note}", soft_wrap=not console.is_terminal)


def answer(said: Headline, console: Console) -> None:
    """Print what a table answers to "steer or prompt?", as its report does."""
    told = [said.text, *([said.numbers] if said.numbers else [])]
    console.print(Text(f"{said.word}.", "bold"), *told, soft_wrap=not console.is_terminal)


def fitting(heads: Sequence[str], rows: Sequence[Sequence[str]], first: Sequence[str], width: int) -> list[int]:
    """The places of the columns that `width` has room for: those named `first` go first, and of the rest none."""
    kept = list(range(len(heads)))

    def taken(at: int) -> int:
        cells = [heads[at], *(row[at] for row in rows)]
        if heads[at] == WRAPS:
            cells = [word for cell in cells for word in cell.split()]
        return max(map(cell_len, cells)) + 3  # a rule and two blanks

    for name in first:
        if sum(map(taken, kept)) + 1 <= width:
            break
        kept = [at for at in kept if heads[at] != name]
    return kept
