"""What a leaderboard may claim of prompting against steering, and how far its judge can be trusted.

Invariant: no claim is printed that an independent judge does not see beyond chance too; what the judges dispute
is listed by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.report.section import Grid, Section
from bench.report.text.leaderboard import interval, pvalue
from bench.results.second_judge import Comparison, Second, second as find
from bench.results.tables import Table


def sections(table: Table, tables: Sequence[Mapping[str, Any]]) -> list[Section]:
    """What stands below a leaderboard about its judge; `tables` are the judge's validations."""
    if not table.spec["judge"]:
        return []
    return [*validity(tables, table.spec["judge"]), *second(table, find(table))]


def second(table: Table, opinion: Second | None) -> list[Section]:
    """The section on prompting against steering."""
    if table.reference is None:
        return []
    if opinion is None:
        line = (
            f"Nothing is claimed on the word of {table.spec['judge']} alone: no independent judge has "
            f"rated these answers (`{asking(table)}`)."
        )
        return [Section("Prompting against steering: no second opinion.", (line,))]
    columns = ("method", table.spec["judge"], "p (Holm)", opinion.judge, "sign")
    rows = tuple((c.name, interval(c.first), pvalue(c.p), _other(c), c.state) for c in opinion.comparisons)
    heading = f"Prompting against steering, method minus {table.reference} (overall), by two judges:"
    return [Section(heading, (Grid(columns, rows), tuple(claims(table, opinion))))]


def asking(table: Table) -> str:
    """The command that asks another judge about every answer of a table."""
    other = "openai:MODEL" if table.spec["judge"] == "embedding" else "embedding"
    return f"bench judge {table.group} --judge {other}"


def _other(c: Comparison) -> str:
    return interval(c.second) if c.second else "–"


def claims(table: Table, opinion: Second) -> list[str]:
    """What may be said: differences beyond chance on which both judges agree in sign; then the rest."""
    assert table.reference is not None
    found: dict[str, list[str]] = {"above": [], "below": [], "disputed": [], "no second opinion": []}
    for c in opinion.comparisons:
        if c.state != "agreed":
            found[c.state].append(c.name)
        elif c.claimed:
            found["above" if c.first.mean > 0 else "below"].append(c.name)
    lines = []
    if found["below"]:
        lines.append(f"{table.reference} is better than {_names(found['below'])}: both judges agree.")
    if found["above"]:
        lines.append(f"{_names(found['above'])}: better than {table.reference}, both judges agree.")
    if not found["above"] and not found["below"]:
        lines.append(f"No difference to {table.reference} is beyond chance by both judges.")
    if table.scope:
        lines.append(f"All of this is known of {table.scope}.")
    if found["disputed"]:
        lines.append(f"Disputed, the judges differ in sign, nothing is claimed: {_names(found['disputed'])}.")
    if found["no second opinion"]:
        lines.append(f"No second opinion, nothing is claimed: {_names(found['no second opinion'])}.")
    return lines


def _names(names: Sequence[str]) -> str:
    return ", ".join(names)


def validity(tables: Sequence[Mapping[str, Any]], judge: str) -> list[Section]:
    """How well the judge tells labelled texts apart; says so where nobody measured it."""
    if not tables:
        line = f"`bench judge validate --judge {judge} --data FOLDER --save` measures it."
        return [Section(f"Validity of judge {judge}: not measured with these settings.", (line,))]
    pairs = list(dict.fromkeys((axis, other) for t in tables for axis, found in t["axes"].items() for other in found))
    columns = ("data", *(f"{axis}: {other.replace('_', ' ')}" for axis, other in pairs), "missing")
    rows: list[tuple[str, ...]] = []
    by_hand: list[str] = []
    for t in tables:
        cells = [_auroc(t["axes"].get(axis, {}).get(other)) for axis, other in pairs]
        gone = sum(axis["missing"] for axis in t.get("missing", {}).values())
        if t["axes"]:
            rows.append((t["data"], *cells, str(gone)))
        by_hand += _by_readers(t)
    heading = f"Validity of judge {judge}: AUROC on labelled texts it was not calibrated on, mean over concepts:"
    grids = [Grid(columns, tuple(dict.fromkeys(rows)))] if rows else []  # several samples of readers, the same texts
    return [Section(heading if rows else f"Validity of judge {judge}:", (*grids, *by_hand))]


def _by_readers(t: Mapping[str, Any]) -> list[str]:
    """How a judge compares with readers, and they among themselves, whom it favours, and what it may rank."""
    if "gate" not in t:  # nobody read, or a table of before there were readers
        return []
    human = t["human"]
    unseen = ", on answers it was not fitted on" if t.get("held_out") else ""
    each = ", ".join(f"{axis} {_spearman(e)} (error {e['mae']:.2f})" for axis, e in human.items())
    lines = [f"Against {max(e['n'] for e in human.values())} answers that readers rated{unseen}, Spearman's ρ: {each}."]
    if names := t["readers"].get("names"):
        own = [f"{axis} κ {e['kappa']:.2f}, α {e['alpha']:.2f}" for axis, e in t["readers"].items() if axis != "names"]
        lines.append(f"The readers among themselves ({' and '.join(names)}): {'; '.join(own)}.")
    for task, surfaces in t.get("surfaces", {}).items():
        own = [f"{surface} {_bias(e)}" for surface, e in surfaces.items()]
        lines.append(f"Judge minus readers on {task}: {', '.join(own)}.")
    missed = [f"{line['asked']} ({line['value']})" for line in t["gate"]["lines"] if not line["passed"]]
    return [*lines, f"Its gate: {'missed: ' + '; '.join(missed) if missed else 'passed'}."]


def _bias(e: Mapping[str, Any]) -> str:
    return f"{e['bias']:+.2f}" + (f" [{e['low']:+.2f}, {e['high']:+.2f}]" if e["low"] is not None else "")


def _auroc(e: Mapping[str, Any] | None) -> str:
    if e is None or e["auroc"] is None:
        return "–"
    if e["low"] is None or e["high"] is None:
        return f"{e['auroc']:.3f}"
    return f"{e['auroc']:.3f} [{e['low']:.3f}, {e['high']:.3f}]"


def _spearman(e: Mapping[str, Any]) -> str:
    if e["spearman"] is None:
        return "not defined"
    if e["low"] is None:
        return f"{e['spearman']:.2f}"
    return f"{e['spearman']:.2f} [{e['low']:.2f}, {e['high']:.2f}]"
