"""What stands below a leaderboard: methods head to head, and how far selection flattered them.

Invariant: a table says in its heading what is compared with what; nothing here changes a rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bench.report.section import Grid, Section
from bench.report.text import leaderboard
from bench.results.differences import difference, nested
from bench.results.runs import matched
from bench.results.tables import Table
from bench.results.verdict import is_twin
from bench.stats.pairwise import PER, bradley_terry, length_controlled, win_rate
from bench.stats.power import pilot
from bench.stats.significance import Difference, paired


def sections(table: Table) -> list[Section]:
    """None for a table without generations."""
    if table.kind == "detector" or not table.concepts:
        return []
    judged = [*head_to_head(table), *noise(table)] if table.spec["judge"] else []
    return [*twins(table), *judged, *optimism(table)]


def twins(table: Table) -> list[Section]:
    """What labels taught: each method with a shuffled twin in the table against it, and against the bare model."""
    bare = next((row.run for row in table.rows if row.run.method == "none"), None)
    rows = []
    for row in table.rows:
        twin = next((other.run for other in table.rows if is_twin(other.run, row.run)), None)
        if twin is None:
            continue
        cells = [row.name]
        for other in (twin, bare):
            found = difference(row.run, other, units=table.concepts) if other else None
            cells += [leaderboard.interval(found), leaderboard.pvalue(found.p)] if found else ["–", "–"]
        rows.append(tuple(cells))
    heading = (
        "Against the same method fitted on data whose sides were exchanged for half of the examples, and against the "
        "bare model (overall, paired, p uncorrected):"
    )
    columns = ("method", "Δ to its shuffled twin", "p", "Δ to none", "p")
    return [Section(heading, (Grid(columns, tuple(rows)),))] if rows else []


def head_to_head(table: Table) -> list[Section]:
    """Win rates and length-controlled differences against the reference; Bradley–Terry abilities over all pairs."""
    if table.reference is None or len(table.rows) < 2:
        return []
    runs = [row.run for row in table.rows]
    names = [row.name for row in table.rows]
    scores = dict(zip(names, matched(runs, "overall", table.concepts), strict=True))
    lengths = dict(zip(names, matched(runs, "tokens", table.concepts), strict=True))
    abilities = bradley_terry(scores).abilities
    other, length = scores[table.reference], lengths[table.reference]
    rows: list[tuple[str, ...]] = []
    for name in names:
        ability = leaderboard.interval(abilities[name], signed=True)
        if name == table.reference:
            rows.append((name, "reference", "–", "–", "–", ability))
            continue
        won = [leaderboard.percent(win_rate(scores[name], other, per)) for per in PER]
        equal = length_controlled(scores[name], other, lengths[name], length)
        change = leaderboard.interval(equal.equal, signed=True)
        rows.append((name, *won, change, f"{equal.longer:+.1f}", ability))
    heading = (
        f"Head to head with {table.reference} by overall score (a tie is half a win), and Bradley–Terry "
        "abilities over all pairs of the table (log odds around 0; without interval where a method won or lost "
        "everything):"
    )
    columns = ("method", "generations won", "concepts won", "Δ at equal length", "tokens more", "Bradley–Terry")
    return [Section(heading, (Grid(columns, tuple(rows)),))]


def noise(table: Table) -> list[Section]:
    """Where the uncertainty of a difference to the reference comes from: concepts, questions, answers to a question."""
    bare = next((row.run for row in table.rows if row.name == table.reference), None)
    rows: list[tuple[str, ...]] = []
    for row in leaderboard.best(table):
        if bare is None or row.name == table.reference:
            continue
        differences = nested(row.run, bare)
        if min(differences.shape) < 1 or differences.shape[0] < 2 or differences.shape[1] < 2:
            return []
        found = pilot(differences)
        parts = [
            found.concept,
            found.instruction / found.instructions,
            found.residual / found.instructions / differences.shape[2],
        ]
        total = sum(parts)
        shares = [f"{part / total:.0%}" if total else "–" for part in parts]
        rows.append((row.name, *shares[:2], shares[2] if differences.shape[2] > 1 else "in the questions"))
    heading = f"Where the variance of the mean difference to {table.reference} lies:"
    return [Section(heading, (Grid(("method", "concepts", "questions", "answers"), tuple(rows)),))] if rows else []


def optimisms(table: Table) -> list[tuple[str, str, str, Difference | None]]:
    """(name, surface, settings tried, select minus test at the picked setting) of each row; settings are picked
    per concept, whatever is resampled. None for detectors: nothing of theirs is picked."""
    found: list[tuple[str, str, str, Difference | None]] = []
    if table.kind == "detector":
        return found
    for row in table.rows:
        gaps = row.run.optimism("overall", row.run.data["concepts"])
        tried = leaderboard.extent(row.run.settings)
        found.append((row.name, row.run.surface, tried, _against_zero(list(gaps.values()))))
    return found


def optimism(table: Table) -> list[Section]:
    """Select minus test score at the picked setting; selection can only flatter where settings were tried."""
    found = optimisms(table)
    rows = [(name, settings, _shown(gap)) for name, _, settings, gap in found]
    concepts = tuple(table.rows[0].run.data["concepts"])
    chosen = [
        [own.get(name, np.nan) for name in concepts]
        for row, (_, _, settings, _) in zip(table.rows, found, strict=True)
        if settings != "1"
        for own in [row.run.optimism("overall", concepts)]
    ]
    complete = np.array(chosen).reshape(len(chosen), len(concepts))
    complete = complete[:, ~np.isnan(complete).any(0)]
    if complete.size:
        mean = _shown(_against_zero(list(complete.mean(0))))
        rows.append((f"mean of the {len(chosen)} with a choice", "", mean))
    heading = (
        "Optimism of selection: overall score at the picked setting on the select prompts minus that on the test "
        "prompts, paired. The leaderboard uses test scores alone; a method with one setting shows how far "
        "the two sets of prompts differ by themselves."
    )
    return [Section(heading, (Grid(("method", "settings tried", "select minus test"), tuple(rows)),))]


def _against_zero(values: Sequence[float]) -> Difference | None:
    if not values:
        return None
    found = paired(values, np.zeros(len(values)))
    # Two folds, say, have a mean and no interval worth the name.
    return found if len(values) > 2 else replace(found, low=np.nan, high=np.nan, p=np.nan)


def _shown(d: Difference | None) -> str:
    return leaderboard.interval(d) if d else "–"
