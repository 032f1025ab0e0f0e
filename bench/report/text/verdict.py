"""The verdicts as a table of Markdown: one line a task."""

from __future__ import annotations

from collections.abc import Sequence

from bench.core.escape import cell, head, row as line_of
from bench.report.text import leaderboard
from bench.results.tables import Table
from bench.results.verdict import answers


def lines(tables: Sequence[Table]) -> list[str]:
    """The answers as a Markdown table; none where nothing can be compared."""
    found = answers(tables)
    if not found:
        return []
    columns = ("best prompt", "best steering", "steering − prompt", "p (Holm)", "second judge", "− nearest control")
    made = head("task", *columns, "verdict")
    for one in found:
        difference, control = one.difference, "–"
        if one.control:
            control = f"{leaderboard.interval(one.control[1])} ({cell(one.control[0])})"
        scores = [
            f"{cell(row.name)} {row.estimates['overall'].mean:.2f} (of {tried})"
            for row, tried in zip((one.prompt, one.steering), one.chosen, strict=True)
        ]
        other = leaderboard.interval(one.second) if one.second else "–"
        cells = [*scores, leaderboard.interval(difference), leaderboard.pvalue(one.p), other, control]
        said = f"**{one.said}**" if one.said in ("prompt", "steer") else cell(one.said)
        made.append(line_of([cell(one.table.title), *cells, said]))
    return made


def section(tables: Sequence[Table]) -> list[str]:
    """The first section of the leaderboard page."""
    found = lines(tables)
    return ["## Steer or prompt?", "", *found, "", NOTE, ""] if found else []


NOTE = (
    "Of each kind (of how many, in brackets) the method that did best on the select prompts, scored on the test "
    "prompts: overall, paired, 95 % intervals. A prompt that keeps the best of several answers is left out, for "
    "steering writes one, and so is steering picked from more settings than prompts get. That is one comparison a "
    "task, and p is corrected over the tasks; the leaderboards compare every method, and correct over all of those. "
    "The second judge rates the same answers, where judges rate at all. The nearest control is the one that steering "
    "is least surely above. *Steer* needs an interval above 0, a second judge that sees the same sign, and a lead over "
    "every control: none, random, shuffled, and its own twin, which is the same method fitted on examples of which "
    "half have their labels exchanged."
)
