"""What the page shows of a table at once: what may be claimed, the leaderboard, what stands below it.

Invariant: a claim here rests on the same comparisons as the one in `leaderboard.md`; every number comes with
its interval, and what is not claimed is listed as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from bench.backends.models import DEFAULT
from bench.overhead.record import Overhead
from bench.overhead.summary import HEADINGS, Floor, cells as costs_of, floor, summary
from bench.report.page import methods
from bench.report.page.encoding import key
from bench.report.section import Section, as_json
from bench.report.text import costs, leaderboard, models
from bench.report.text.opinions import asking
from bench.report.text.verdict import against, headline
from bench.results.models import SideBySide
from bench.results.runs import finite
from bench.results.second_judge import second
from bench.results.tables import Row, Table, data_name
from bench.results.verdict import Answer
from bench.stats.intervals import Estimate
from bench.stats.significance import Difference

MEASURES = (
    None, "prompt_tokens", "flops_percent", "bytes_percent", "kv_percent", "request_flops_percent", "artefact_bytes",
    "time", "first_token_cold", "first_token_warm", "memory", "fit_in_requests", "judge_tokens",
)  # fmt: skip
"""What each column of `overhead.summary.HEADINGS` is sorted by."""


def table(
    one: Table, answered: Sequence[Answer], figures: Sequence[tuple[str, str]], below: Sequence[Section]
) -> dict[str, Any]:
    """One table, without its generations; `figures` are files with their captions."""
    spec = one.spec
    described = one.rows[0].run.data["concepts"]
    recorded = costs.records(one)
    drift = floor(recorded.values())
    return {
        "key": key(one.group),
        "kind": one.kind,
        "title": one.title,
        "task": spec["task"],
        "data": data_name(spec) or "its own",
        "model": spec["model"],
        "preset": spec["protocol"]["preset"],
        "engine": f"{spec['backend']}, {spec['dtype']}",
        "judge": spec["judge"],
        "axes": ["overall", *one.axes[:-1]],
        "scale": one.scale,
        "reference": one.reference,
        "units": len(one.concepts),
        "concepts": [[name, str(c["text"])] for name, c in described.items()],
        "answers": any("text" in s for row in one.rows for s in row.run.data["samples"][:1]),
        "verdict": verdict(one, answered),
        "notes": [*leaderboard.notes(one), *leaderboard.depths(one)],
        "sections": as_json([*below, *leaderboard.contrasts(one)]),
        "figures": [[name, told] for name, told in figures if re.fullmatch(r"[^/\\:]+\.(png|svg)", name)],
        "costs": list(HEADINGS[1:]) if recorded else [],
        "rows": [_row(one, row, recorded.get(row.name), drift) for row in one.rows],
    }


def _row(one: Table, row: Row, cost: Overhead | None, drift: Floor) -> dict[str, Any]:
    counts = row.run.data["counts"]
    return {
        "name": row.name,
        "method": row.run.method,
        "surface": row.run.surface,
        "remarks": leaderboard.remarks(row),
        "rank": list(row.rank) if row.rank else None,
        "file": methods.file_of(row.run),
        "scores": [span(row.estimates[axis]) for axis in ("overall", *one.axes[:-1])],
        "delta": span(row.against) if row.against else None,
        "p": None if row.p is None else finite(row.p),
        "coefficient": row.coefficient,
        "missing": row.missing,
        "generations": counts["generations"],
        "tokens": counts["tokens"],
        "cost": _cost(cost, drift) if cost else None,
    }


def across(one: SideBySide) -> dict[str, Any]:
    """Methods on several models: of each model the scores of its own table, None where a method did not run."""
    return {
        "title": f"{models.HEADING}: {one.title}",
        "note": models.NOTE,
        "models": [[name, key(table.group)] for name, table in one.columns.items()],
        "scale": max(table.scale for table in one.columns.values()),
        "rows": [
            {
                "name": method,
                "method": next(iter(own.values())).run.method,
                "surface": next(iter(own.values())).run.surface,
                "cells": [_across(table, own.get(name)) for name, table in one.columns.items()],
            }
            for method, own in one.rows.items()
        ],
    }


def _across(table: Table, row: Row | None) -> dict[str, Any] | None:
    if row is None:
        return None
    delta = span(row.against) if row.against else None
    return {"score": span(row.estimates["overall"]), "delta": delta, "reference": row.name == table.reference}


def span(e: Estimate | Difference) -> list[float | None]:
    """Mean, low and high; None where one is not known."""
    return [finite(e.mean), finite(e.low), finite(e.high)]


def _cost(found: Overhead, drift: Floor) -> list[Any]:
    """Text and sort value of each cost column."""
    numbers = summary(found, drift=drift)
    values = [numbers[name] if name else None for name in MEASURES]
    values = [v["median"] if isinstance(v, Mapping) else v for v in values]
    return [list(pair) for pair in zip(costs_of(found, drift=drift)[1:], values[1:], strict=True)]


def verdict(one: Table, answered: Sequence[Answer]) -> dict[str, Any]:
    """The answer in a word and a sentence; then, method by method, what is claimed and what is not."""
    caveats = []
    if one.spec["model"] == DEFAULT:
        caveats.append("This model has 135 M parameters: a demonstration, no evidence about larger models.")
    if one.detectable is not None and one.detectable >= one.scale:
        caveats.append(f"{len(one.concepts)} {one.unit}s are too few to tell any method from {one.reference}.")
    elif one.detectable:
        caveats.append(
            f"Differences to {one.reference} below {one.detectable:.2f} may go unseen: the widest row would find that "
            "much in 4 of 5 repetitions."
        )
    if unvalidated := [row.name for row in one.rows if not row.run.data["validated"]]:
        caveats.append(f"Without a positive control yet, and not ranked: {', '.join(unvalidated)}.")
    lists: Lists = ([], [])
    if one.reference is not None and not one.silent:
        claimed, left = _judged(one) if one.spec["judge"] else _labelled(one)
        lists = [f"{said} Known of {one.scope}." for said in claimed] if one.scope else claimed, left
    return headline(one, answered)._asdict() | {"claimed": lists[0], "open": lists[1], "caveats": caveats}


Lists = tuple[list[str], list[str]]
"""What is claimed, and what is not."""


def _judged(one: Table) -> Lists:
    """Every steering method against the tuned prompt, where an independent judge has a say."""
    opinion = second(one)
    if opinion is None:
        why = f"Only {one.spec['judge']} has rated these answers"
        return [], [f"Any difference between prompting and steering. {why}: `{asking(one)}` asks another judge."]
    surface = {row.name: row.run.surface for row in one.rows}
    steering = [c for c in opinion.comparisons if surface[c.name] != "control"]
    clear = [c for c in steering if c.claimed]
    above = [c.name for c in clear if c.first.mean > 0]
    beaten = [c.name for c in clear if c.first.mean < 0]
    reference = one.reference
    controls = [c for c in opinion.comparisons if surface[c.name] == "control"]
    lost = [c.name for c in controls if c.claimed and c.first.mean < 0]
    agreed = f"{one.spec['judge']}: p < .05 after Holm over the table; {opinion.judge}: the same sign, p < .05"
    claimed = [
        *([f"Better than {reference}: {', '.join(above)} ({agreed})."] if above else []),
        *([f"{reference} is better than {', '.join(beaten)} ({agreed})."] if beaten else []),
        *([f"{reference} is better than the controls {', '.join(lost)}."] if lost else []),
    ]
    unclear = [c.name for c in steering if c.state == "agreed" and not c.claimed]
    disputed = [c.name for c in steering if c.state == "disputed"]
    alone = [c.name for c in steering if c.state == "no second opinion"]
    left = [
        *([f"Not told apart from {reference}: {', '.join(unclear)}."] if unclear else []),
        *([f"The judges differ in sign: {', '.join(disputed)}."] if disputed else []),
        *([f"No second opinion: {', '.join(alone)}."] if alone else []),
    ]
    return claimed, left


def _labelled(one: Table) -> Lists:
    """Every method against the prompt, where labels decide and no judge."""
    above, beaten, rest = against(one)
    chance = "p < .05 after Holm over the table"
    claimed = [
        *([f"Better than {one.reference}: {', '.join(above)} ({chance})."] if above else []),
        *([f"{one.reference} is better than {', '.join(beaten)} ({chance})."] if beaten else []),
    ]
    return claimed, [f"Not told apart from {one.reference}: {', '.join(rest)}."] if rest else []
