"""What vectors foretell: the correlation of each one's reading of a prompt with the rating of the answer.

Invariant: a concept whose answers are all rated alike has no correlation and is counted, not scored 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.report.section import Grid, Section
from bench.report.text.leaderboard import interval
from bench.results.runs import Run
from bench.results.tables import Table
from bench.stats.intervals import estimate


def correlations(run: Run, name: str) -> dict[str, float]:
    """concept -> `r` or `within`, where it is known."""
    found: dict[str, Mapping[str, Any]] = {k: c["monitor"] for k, c in run.data["concepts"].items() if "monitor" in c}
    return {concept: monitor[name] for concept, monitor in found.items() if monitor[name] is not None}


def sections(table: Table) -> list[Section]:
    """The monitor table under its heading, where a run watched anything."""
    rows = []
    for row in table.rows:
        if not any("monitor" in c for c in row.run.data["concepts"].values()):
            continue
        each = [list(correlations(row.run, name).values()) for name in ("r", "within")]
        texts = [interval(estimate(values)) if values else "–" for values in each]
        rows.append((row.name, *texts, str(len(each[0]))))
    if not rows:
        return []
    heading = (
        "As a monitor: Pearson's r between a vector's projection of the last prompt token and the rating of the bare "
        "model's answer, over chats under personas of either side and under none; within: after each persona's mean "
        "is taken off. Mean over concepts where it is defined:"
    )
    return [Section(heading, (Grid(("method", "r", "within a persona", "concepts"), tuple(rows)),))]


def lines(run: Run) -> list[str]:
    """The same of one run, for a terminal."""
    found = correlations(run, "r")
    if not found:
        return []
    each = "  ".join(f"{concept} {r:+.2f}" for concept, r in found.items())
    return [f"monitor r {interval(estimate(list(found.values())))}: {each}"]
