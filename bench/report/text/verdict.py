"""The verdicts in words, and as a table of Markdown: one line a comparison, then the two sides at equal numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from bench.core.escape import cell, head, row as line_of
from bench.report.text import leaderboard
from bench.results.sides import sides
from bench.results.tables import Table
from bench.results.verdict import Answer, answers, listed, steered
from bench.stats.significance import significant


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


LEADS = {
    "steer": "steering works better than prompting",
    "prompt": "prompting works better than steering",
    "combine": "prompting and steering together work better than either",
    "equivalent": "steering and prompting work equally well",
    "neither beats doing nothing": "neither steering nor prompting does more than the bare model",
    "undecided": "it is not settled whether steering or prompting works better",
}
"""What each verdict says, in words."""
ONE_JUDGE = " (one judge)"
NOTHING = "No table of this report compares steering with a prompt."


def lead(found: Sequence[Answer]) -> str:
    """The answer of a whole report in one sentence; a steering is named where another's answer differs."""
    if not found:
        return NOTHING
    several = len({one.table.spec["model"] for one in found}) > 1
    where: dict[str, list[str]] = {}
    for own in by_table(found).values():
        spec = own[0].table.spec
        name = f"{spec['task']} on {spec['model']}" if several else str(spec["task"])
        said = _grouped(own, _lead)
        for words, those in said.items():
            where.setdefault(words, []).append(f"{name} ({_steerings(those)})" if len(said) > 1 else name)
    parts = [f"on {listed(list(dict.fromkeys(names)))} {words}" for words, names in where.items()]
    return f"{_begun('; '.join(parts))}."


def by_table(found: Sequence[Answer]) -> dict[str, list[Answer]]:
    """Answers by the group of their table."""
    return _grouped(found, lambda one: one.table.group)


def _grouped(found: Sequence[Answer], kind: Callable[[Answer], str]) -> dict[str, list[Answer]]:
    own: dict[str, list[Answer]] = {}
    for one in found:
        own.setdefault(kind(one), []).append(one)
    return own


def _lead(one: Answer) -> str:
    """A verdict in words; what a single judge gave says so."""
    words = LEADS[one.said.removesuffix(ONE_JUDGE)]
    return f"{words}, by one judge alone" if one.said.endswith(ONE_JUDGE) else words


class Headline(NamedTuple):
    """The answer of a table: in a word, in a sentence that needs no other to be read, and with its numbers."""

    word: str
    text: str
    numbers: str = ""


CHOSEN = "Multiple choice is no evidence by itself: a change of form alone moves it."


def headline(one: Table, answered: Sequence[Answer]) -> Headline:
    """What a table answers; `answered` are its answers to "steer or prompt?", one for each registered steering."""
    if one.silent:
        return Headline("No claim", f"{one.silent[0].upper()}{one.silent[1:]}.")
    if one.reference is None:
        return Headline("No claim", "There is no prompt in this table to compare with.")
    if one.kind == "detector":
        return _detecting(one)
    if not one.decides:
        written = any(sample.get("tokens") for sample in one.rows[0].run.data["samples"])
        why = "This task shows what a setting costs, and is no target." if written else CHOSEN
        return Headline("No claim", why)
    if not answered and not steered(one):
        return Headline("No claim", "No steering method ran here that a prompt could be compared with.")
    if not answered:
        return Headline("No claim", "A larger table of the same task and model has the answer.")
    said = _grouped(answered, _lead)
    parts = list(said) if len(said) == 1 else [f"with {_steerings(own)} {words}" for words, own in said.items()]
    word = _begun(answered[0].said) if len(said) == 1 else "It depends"
    return Headline(word, f"{_begun('; '.join(parts))}.", " ".join(map(_numbers, answered)))


def _steerings(own: Sequence[Answer]) -> str:
    return listed([each.steering.name for each in own])


def _numbers(one: Answer) -> str:
    """The scores of both sides, their difference and what decided."""
    means = [f"{row.estimates['overall'].mean:.2f}" for row in (one.steering, one.prompt)]
    gap = f"{leaderboard.interval(one.difference)}, p {leaderboard.pvalue(one.p)}"
    named = "both registered before the runs" if one.registered else "each the best of its kind on select prompts"
    return (
        f"On the test prompts {one.steering.name} (steering) scores {means[0]} of {one.table.scale:g} and "
        f"{one.prompt.name} (prompt) {means[1]}, {named}: a difference of {gap}. Why: {one.reason}."
    )


def _begun(text: str) -> str:
    return text[0].upper() + text[1:]


def headlines(tables: Sequence[Table]) -> dict[str, Headline]:
    """The headline of each table, by group."""
    found = by_table(answers(tables))
    return {table.group: headline(table, found.get(table.group, [])) for table in tables}


def _detecting(one: Table) -> Headline:
    above, beaten, rest = (len(names) for names in against(one))
    count = above + beaten + rest
    asked = f"asking the model ({one.reference})"
    if above and beaten:
        found = "It depends", f"{above} of {count} methods detect better than {asked}, and {beaten} worse"
    elif above:
        found = "Not the prompt", f"{above} of {count} methods detect better than {asked}, and none worse"
    elif beaten:
        found = "Prompt", f"No method detects better than {asked}, and {beaten} of {count} detect worse"
    else:
        found = "Undecided", f"None of {count} methods is told apart from {asked}"
    return Headline(found[0], f"{found[1]}.", "Labels decide, and no judge.")


def against(one: Table) -> tuple[list[str], list[str], list[str]]:
    """Methods above the reference, below it and not told apart; other prompts and controls are no answer to it."""
    above: list[str] = []
    beaten: list[str] = []
    rest: list[str] = []
    for row in one.rows:
        if row.against is None or row.p is None or row.run.surface == "control" or row.run.prompted:
            continue
        side = rest if not significant(row.p) else above if row.against.mean > 0 else beaten
        side.append(row.name)
    return above, beaten, rest


def section(tables: Sequence[Table]) -> list[str]:
    """The first section of the leaderboard page."""
    found = answers(tables)
    if not found:
        return []
    unregistered = [] if all(one.registered for one in found) else [UNREGISTERED, ""]
    more = equal_numbers(found)
    below = ["### The best of as many", "", *more, "", EQUAL, ""] if more else []
    said = f"**{cell(lead(found))}**"
    return ["## Steer or prompt?", "", said, "", *lines(found), "", *unregistered, NOTE, "", *below]


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
