"""What stands below a leaderboard: methods head to head, and how far selection flattered them.

Invariant: a table says in its heading what is compared with what; nothing here changes a rank.
"""

from __future__ import annotations

import numpy as np

from bench.pairwise import PER, bradley_terry, length_controlled, win_rate
from bench.report import leaderboard
from bench.results import Table, matched
from bench.stats import paired


def sections(table: Table) -> list[tuple[str, list[str]]]:
    """Headings and Markdown rows; none for a table without generations."""
    if not table.spec["judge"] or not table.concepts:
        return []
    return [*head_to_head(table), *optimism(table)]


def head_to_head(table: Table) -> list[tuple[str, list[str]]]:
    """Win rates and length-controlled differences against the reference; Bradley–Terry abilities over all pairs."""
    if table.reference is None or len(table.rows) < 2:
        return []
    runs = [row.run for row in table.rows]
    names = [row.name for row in table.rows]
    scores = dict(zip(names, matched(runs, "overall", table.concepts), strict=True))
    lengths = dict(zip(names, matched(runs, "tokens", table.concepts), strict=True))
    abilities = bradley_terry(scores).abilities
    other, length = scores[table.reference], lengths[table.reference]
    lines = _head("method", "generations won", "concepts won", "Δ at equal length", "tokens more", "Bradley–Terry")
    for name in names:
        ability = leaderboard.interval(abilities[name], signed=True)
        if name == table.reference:
            lines.append(f"| {name} | reference | – | – | – | {ability} |")
            continue
        won = [leaderboard.percent(win_rate(scores[name], other, per)) for per in PER]
        equal = length_controlled(scores[name], other, lengths[name], length)
        change = leaderboard.interval(equal.equal, signed=True)
        lines.append(f"| {name} | {won[0]} | {won[1]} | {change} | {equal.longer:+.1f} | {ability} |")
    heading = (
        f"Head to head with {table.reference} by overall score (a tie is half a win), and Bradley–Terry abilities "
        "over all pairs of the table (log odds around 0; without interval where a method won or lost everything):"
    )
    return [(heading, lines)]


def optimism(table: Table) -> list[tuple[str, list[str]]]:
    """Select minus test score at the picked setting; selection can only flatter where settings were tried."""
    lines = _head("method", "settings tried", "select minus test")
    chosen = []
    concepts = tuple(table.rows[0].run.data["concepts"])  # settings are picked per concept, whatever is resampled
    for row in table.rows:
        found = row.run.optimism("overall", concepts)
        tried = sorted(len(c["select"]) for c in row.run.data["concepts"].values())
        settings = str(tried[0]) if tried[0] == tried[-1] else f"{tried[0]} to {tried[-1]}"
        values = [found.get(name, np.nan) for name in concepts]
        if tried[-1] > 1:
            chosen.append(values)
        known = [v for v in values if not np.isnan(v)]
        lines.append(f"| {row.name} | {settings} | {_against_zero(known)} |")
    complete = np.array(chosen).reshape(len(chosen), len(concepts))
    complete = complete[:, ~np.isnan(complete).any(0)]
    if complete.size:
        lines.append(f"| mean of the {len(chosen)} with a choice | | {_against_zero(list(complete.mean(0)))} |")
    heading = (
        "Optimism of selection: overall score at the picked setting on the select prompts minus that on the test "
        "prompts, paired by concept. The leaderboard uses test scores alone; a method with one setting shows how far "
        "the two sets of prompts differ by themselves."
    )
    return [(heading, lines)]


def _against_zero(values: list[float]) -> str:
    return leaderboard.interval(paired(values, np.zeros(len(values)))) if values else "–"


def _head(*names: str) -> list[str]:
    return [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
