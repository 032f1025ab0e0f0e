"""What a person sees of results: one run, one answer, two runs compared, what is wrong, what to submit.

Invariant: results go to stdout, everything else to stderr; every table has its JSON. What a model wrote is
printed without the characters that steer a terminal.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from bench import results
from bench.core.content import UsageError, suggest
from bench.core.paths import default_results, scratch
from bench.core.store import write_whole
from bench.overhead import summary as show_costs
from bench.report.text import leaderboard, monitors
from bench.results import second_judge, sidecars
from bench.results.runs import Run


def roots(folder: Path | None) -> list[Path]:
    """Where runs are looked up: the given folder, else the checked results, then scratch."""
    return [folder] if folder else [default_results(), scratch()]


def printable(text: str) -> str:
    """`text` without control characters, line ends and tabs apart."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", text)


def show(name: str, concept: str | None, limit: int, folder: Path | None, as_json: bool) -> None:
    run = results.lookup(name, roots(folder))
    if concept and concept not in run.data["concepts"]:
        raise UsageError(f"{run.path.parent.name} has no concept {concept!r}: {suggest(concept, run.data['concepts'])}")
    samples = [s for s in run.data["samples"] if concept in (None, s["concept"])][:limit]
    if as_json:
        click.echo(json.dumps(dict(run.data) | {"samples": samples}, indent=1, ensure_ascii=False))
        return
    console = _headed(run)
    console.print("  ".join(f"{axis} {run.data['metrics'][axis]}" for axis in run.data["axes"]))
    for line in monitors.lines(run):
        console.print(line)
    for row in samples:
        if "text" not in row:  # a detection row: the text is the data's own
            console.print(printable(f"{row['id']}  {row['label']}  score {row['score']:g}"), markup=False)
            continue
        _answer(console, row, run.data["concepts"][row["concept"]]["picked"])


def _headed(run: Run) -> Console:
    console, spec = Console(highlight=False, emoji=False), run.data["spec"]
    console.print(
        f"[bold]{escape(printable(run.method))}[/] on {spec['task']}, {spec['model']} ({spec['dtype']}), "
        f"preset {spec['protocol']['preset']}, judge {spec['judge'] or 'none'}"
    )
    return console


def _answer(console: Console, row: Mapping[str, Any], setting: Mapping[str, Any]) -> None:
    ratings = "  ".join(f"{axis} {'none' if v is None else v}" for axis, v in row["ratings"].items())
    console.print(f"\n[bold]{escape(printable(row['concept']))}[/] c={setting['coefficient']:g}  {ratings}")
    console.print(printable(f"> {row['instruction']}"), markup=False)
    console.print(printable(row["text"]), markup=False)


def sample(name: str, wanted: str, folder: Path | None, as_json: bool) -> None:
    """One question of a run: its answer, every judge's word on it; on the select split, under every setting."""
    run = results.lookup(name, roots(folder))
    found = [dict(s) for s in run.data["samples"] if s["id"] == wanted]
    trials = [] if found else [t for t in results.trials(run) if t["id"] == wanted]
    if not found and not trials:
        known = {s["id"] for s in run.data["samples"]} | {t["id"] for t in results.trials(run)}
        raise UsageError(f"{run.path.parent.name} has no sample {wanted!r}: {suggest(wanted, sorted(known))}")
    others = {
        o.judge: next((s for s in o.data["samples"] if s["id"] == wanted), None) for o in second_judge.of(run) if found
    }
    second = {judge: dict(s) for judge, s in others.items() if s}
    if as_json:
        shown = {"run": run.data["id"], "split": "test" if found else "select", "answers": found or trials}
        click.echo(json.dumps(shown | ({"opinions": second} if second else {}), indent=1, ensure_ascii=False))
        return
    console = _headed(run)
    for row in found or trials:
        picked = run.data["concepts"][row["concept"]]["picked"]
        if "text" not in row:
            console.print(printable(f"{row['id']}  {row['label']}  score {row['score']:g}"), markup=False)
            continue
        _answer(console, row, picked if found else row)
        if "tokens" in row:
            console.print(f"{row['tokens']} tokens, positions touched {row['touched']}", markup=False)
        _said(console, run.data["spec"]["judge"] or "scores", row)
    for judge, row in second.items():
        _said(console, judge, row, row["ratings"])


def _said(console: Console, judge: str, row: Mapping[str, Any], ratings: Mapping[str, Any] | None = None) -> None:
    """What a judge said of each axis, and why it gave no rating."""
    if ratings is not None:
        shown = "  ".join(f"{axis} {'none' if v is None else v}" for axis, v in ratings.items())
        console.print(printable(f"{judge}: {shown}"), markup=False)
    for axis, said in (*row["reasons"].items(), *row.get("said", {}).items()):
        console.print(printable(f"  {judge} on {axis}: {said}"), markup=False)


def compare(one: str, two: str, html: Path | None, folder: Path | None, as_json: bool) -> None:
    from bench.results import comparison

    first, second = (results.lookup(name, roots(folder)) for name in (one, two))
    axes = comparison.compare(first, second)
    costs = [cost for run in (first, second) if (cost := sidecars.load(run))]
    if html:
        from bench.report.page.versus import page

        html.parent.mkdir(parents=True, exist_ok=True)
        write_whole(html, page(first, second, axes).encode("utf-8", "replace"))
        click.echo(f"page: {html}", err=True)
    if as_json:
        priced = {"cost": [show_costs.summary(one) for one in costs]} if costs else {}
        click.echo(json.dumps(comparison.as_json(axes) | priced, indent=1))
        return
    columns = "axis", "difference", "p", "concepts", "detectable", "generations won", "concepts won", "at equal length"
    grid = Grid(*columns, title=escape(f"{first.method} minus {second.method}"))
    for axis, found in axes.items():
        d = found.difference
        won = [leaderboard.percent(w) for w in found.wins.values()]
        last = leaderboard.interval(found.length.equal, signed=True) if found.length else "–"
        cells = leaderboard.interval(d), leaderboard.pvalue(d.p), str(d.n), f"{d.detectable:.2f}", *won, last
        grid.add_row(axis, *map(escape, cells))
    Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 160).print(grid)
    if costs:
        show_costs.runs(costs, as_json=False)


def contract(name: str, as_json: bool) -> bool:
    """Print the contract's findings for one method; returns whether any failed."""
    from bench.run.contract import check

    found = check(name)
    if as_json:
        click.echo(json.dumps({"method": name, "checks": found}, indent=1))
    else:
        for label, problem in found.items():
            click.echo(f"{'ok  ' if not problem else 'FAIL'} {label}{': ' + problem if problem else ''}")
    return any(found.values())


def audit(folder: Path | None, as_json: bool) -> bool:
    """Print what breaks the rules of a results folder; returns whether anything does."""
    from bench.results.audit import check

    root = folder or default_results()
    runs = len(list(root.glob("*/*/*/run.json")))
    if not runs:
        raise UsageError(f"no runs in {root}: nothing to check")
    found = check(root)
    if as_json:
        click.echo(json.dumps({"runs": runs, "findings": [vars(one) for one in found]}, indent=1))
    else:
        for one in found:
            click.echo(printable(f"{one.path}: {one.problem}"))
        click.echo(f"{runs} runs, {len(found) or 'no'} finding{'' if len(found) == 1 else 's'}", err=bool(found))
    return bool(found)


def submission(names: Sequence[str], out: Path, folder: Path | None, as_json: bool) -> bool:
    """Check runs for a pull request and prepare its files; returns whether anything stands in the way."""
    from bench.cli.submit import prepare

    where = roots(folder)
    runs = [results.lookup(name, where) for name in names]
    made = prepare(runs, out, folder or default_results())
    if as_json:
        findings = [vars(one) for one in made.findings]
        click.echo(json.dumps({"files": made.files, "findings": findings, "text": made.text}, indent=1))
    else:
        for one in made.findings:
            click.echo(printable(f"{one.path}: {one.problem}"))
        for file in made.files:
            click.echo(f"{out / file}")
    if made.findings:
        click.echo(f"bench: {len(made.findings)} in the way; nothing was written", err=True)
    else:
        click.echo(f"bench: text of the pull request: {out / made.text}", err=True)
    return bool(made.findings)
