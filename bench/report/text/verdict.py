"""The verdicts as a table of Markdown: one line a comparison, then the two sides at equal numbers."""

from __future__ import annotations

from collections.abc import Sequence

from bench.core.escape import cell, head, row as line_of
from bench.report.text import leaderboard
from bench.results.sides import sides
from bench.results.tables import Table
from bench.results.verdict import Answer, answers, steered


def lines(found: Sequence[Answer]) -> list[str]:
    """The answers as a Markdown table."""
    columns = ("prompt", "steering", "steering − prompt", "second judge", "p (all at once, Holm)", "verdict", "why")
    made = head("task", *columns)
    for one in found:
        scores = [
            f"{cell(row.name)} {row.estimates['overall'].mean:.2f}"
            + ("" if one.registered else f" (best of {tried} on select)")
            for row, tried in zip((one.prompt, one.steering), one.chosen, strict=True)
        ]
        other = leaderboard.interval(one.second) if one.second else "–"
        cells = [*scores, leaderboard.interval(one.difference), other, leaderboard.pvalue(one.p)]
        said = f"**{cell(one.said)}**" if one.decided else cell(one.said)
        made.append(line_of([cell(one.table.title), *cells, said, cell(one.reason)]))
    return made


def equal_numbers(found: Sequence[Answer]) -> list[str]:
    """The sides at equal numbers, a line for each table that has a choice on both sides."""
    made = head("task", "prompts", "steering", "best of k each", "steering − prompts", "p", "p of the labels")
    rows = []
    for table in {one.table.group: one.table for one in found}.values():
        if (both := sides(table, steered(table))) is None:
            continue
        means = [curve[both.k - 1].mean for curve in both.curves]
        gap = leaderboard.interval(both.difference)
        shown = f"k = {both.k}: {means[0]:.2f} and {means[1]:.2f}"
        chances = [leaderboard.pvalue(p) for p in (both.difference.p, both.p_labels)]
        rows.append(line_of([cell(table.title), str(both.prompts), str(both.steering), shown, gap, *chances]))
    return [*made, *rows] if rows else []


def section(tables: Sequence[Table]) -> list[str]:
    """The first section of the leaderboard page."""
    found = answers(tables)
    if not found:
        return []
    unregistered = [] if all(one.registered for one in found) else [UNREGISTERED, ""]
    more = equal_numbers(found)
    below = ["### The best of as many", "", *more, "", EQUAL, ""] if more else []
    return ["## Steer or prompt?", "", *lines(found), "", *unregistered, NOTE, "", *below]


UNREGISTERED = (
    "Nothing was registered before these runs (`hypotheses.toml`), so each kind sends the method that did best on the "
    "select prompts. The larger side has the better luck there: read the table of equal numbers beside it."
)
NOTE = (
    "Scores are of the test prompts: overall, paired, 95 % intervals. *Steer* and *prompt* follow one rule. The winner "
    "must lead the other and every control that ran (none, random, shuffled, and for steering its own twin, which is "
    "the same method fitted on examples of which half have their labels exchanged); where a judge rates, a second one "
    "must see all of that too. The p is the largest of all these, corrected over all that is asked here. *Combine*: "
    "the combination leads both and every control. *Neither beats doing nothing*: both are above the bare model by "
    "less than the margin, if at all. *Equivalent*: the difference lies within the margin, by two one-sided tests. "
    "Else *undecided*, with what stood in the way."
)
EQUAL = (
    "What the best of k methods, drawn at random from a side and chosen on the select prompts, scores on the test "
    "prompts; k is the size of the smaller side. p of the labels: how often a random choice of which methods are "
    "called prompts gives as large a lead, either way."
)
