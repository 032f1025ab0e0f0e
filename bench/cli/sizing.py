"""What `bench power` prints: the size of the next comparison, from two finished runs as its pilot.

Invariant: every number comes from the pure functions of `bench.stats.power` and the per-sample scores of `run.json`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table as Grid

from bench import results
from bench.core.content import UsageError
from bench.core.paths import default_results, scratch
from bench.results.comparison import bare
from bench.stats import power


def advise(one: str, two: str, folder: Path | None, as_json: bool, axis: str, aim: Mapping[str, Any]) -> None:
    """Print what two runs as a pilot say about the size of the next comparison."""
    roots = [folder] if folder else [default_results(), scratch()]
    first, second = (results.lookup(name, roots) for name in (one, two))
    results.same_group(first, second)
    if axis not in first.data["axes"]:
        raise UsageError(f"no axis {axis!r} in these runs: {', '.join(first.data['axes'])}")
    scores = results.matched([first, second], axis)
    pilot = power.pilot((scores[0] - scores[1])[..., None])
    difference = aim["difference"] or first.data.get("scale", 2.0) / 10
    n, k = aim["concepts"] or pilot.concepts, aim["instructions"] or round(pilot.instructions)
    rule = {"alpha": aim["alpha"], "family": aim["after_holm"]}
    columns = sorted({1, 2, 5, 10, 20, k})
    grid = {m: {i: power.power(pilot, difference, m, i, **rule) for i in columns} for m in (12, 25, 50, 100, 200)}
    enough = {i: power.needed(pilot, difference, i, aim["power"], **rule) for i in columns}
    ends = [power.needed(pilot.scaled(f), difference, k, aim["power"], **rule) for f in pilot.spread()]
    at = {
        "power": power.power(pilot, difference, n, k, **rule),
        "detectable": power.detectable(pilot, n, k, aim["power"], **rule),
    }
    if as_json:
        found = {
            "one": first.method,
            "two": second.method,
            "axis": axis,
            "pilot": vars(pilot),
            "aim": dict(aim) | {"difference": difference, "concepts": n, "instructions": k},
            "at": at,
            "needed": [{"instructions": i, "concepts": m} for i, m in enough.items()],
            "needed_range": {"instructions": k, "low": ends[0], "high": ends[1]},
            "table": [
                {"concepts": m, "instructions": i, "power": p} for m, row in grid.items() for i, p in row.items()
            ],
        }
        click.echo(json.dumps(bare(found), indent=1))
        return
    total = pilot.concept + pilot.instruction
    family = f", after Holm over {aim['after_holm']}" if aim["after_holm"] > 1 else ""
    most = f"over {power.MOST:,}"
    table = Grid(
        "concepts",
        *(f"{i} instruction{'s' * (i > 1)}" for i in columns),
        title=f"power to see a difference of {difference:g} in {axis} ({aim['alpha']:.0%} level{family})",
    )
    for m, row in grid.items():
        table.add_row(str(m), *(f"{p:.0%}" for p in row.values()))
    table.add_section()
    table.add_row(f"needed for {aim['power']:.0%}", *(f"{m:,}" if m else most for m in enough.values()))
    console = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 160)
    console.print(table)
    low, high = (f"{m:,}" if m else most for m in ends)
    detectable = "none" if at["detectable"] is None else f"{at['detectable']:.2f}"
    for line in (
        f"pilot: {first.method} minus {second.method}, {pilot.concepts} concepts of {pilot.instructions:g} "
        f"instructions, difference {pilot.difference:+.2f}; variance {total:.3f}, of which "
        f"{pilot.concept / total if total else 0:.0%} between concepts, the rest between generations of a concept",
        f"{n} concepts × {k} instructions: power {at['power']:.0%}; smallest difference seen with {aim['power']:.0%} "
        f"power: {detectable}",
        f"so small a pilot knows its own spread only roughly: at {k} instructions the concepts needed lie "
        f"between {low} and {high} (95 %)",
    ):
        console.print(f"- {line}", soft_wrap=True)
