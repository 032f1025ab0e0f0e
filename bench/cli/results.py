"""Commands on results: show, compare, report, check, and the documents made from them."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import click
from rich.table import Table as Grid
from rich.text import Text

from bench.cli.console import Console, echo, out, say
from bench.cli.measure import cost_table
from bench.cli.options import (
    Whole,
    WithDefault,
    force_option,
    json_option,
    named,
    plugin_option,
    plugins,
    quiet,
    results_option,
)
from bench.core.errors import UsageError, suggest
from bench.core.escape import dumped
from bench.core.paths import default_results, scratch
from bench.core.registry import table
from bench.overhead.summary import summary
from bench.report.build import build, publish as publish_report, refuse_foreign, report_of
from bench.report.text import effects, leaderboard, monitors
from bench.results import comparison, second_judge, sidecars
from bench.results.audit import check as audit
from bench.results.last import last
from bench.results.provenance import ROOT
from bench.results.runs import ARCHIVE, Run, by_question, files, trials
from bench.run import contract as run_contract, judge_contract, task_contract


@click.command()
@click.argument("run")
@click.option("--concept", help="Only this concept.")
@click.option("-n", "--limit", default=12, type=Whole(0), help="Generations shown.")
@click.option("--sample", help="One question by its id, with every judge's word; of the select split, every setting.")
@results_option
@json_option
def show(run: str, concept: str | None, limit: int, sample: str | None, results: Path | None, as_json: bool) -> None:
    """Show one RUN: its settings and the generations behind its number."""
    if sample:
        _show_sample(run, sample, results, as_json)
    else:
        _show(run, concept, limit, results, as_json)


def _show(name: str, concept: str | None, limit: int, folder: Path | None, as_json: bool) -> None:
    run = named(name, folder)
    if concept and concept not in run.data["concepts"]:
        raise UsageError(f"{run.path.parent.name} has no concept {concept!r}: {suggest(concept, run.data['concepts'])}")
    samples = [s for s in run.data["samples"] if concept in (None, s["concept"])][:limit]
    if as_json:
        echo(dumped(dict(run.data) | {"samples": samples}))
        return
    console = _headed(run)
    console.print("  ".join(f"{axis} {run.data['metrics'][axis]}" for axis in run.data["axes"]))
    for line in (*effects.lines(run), *monitors.lines(run)):
        console.print(line)
    if spoken := leaderboard.spoken_to(run):
        console.print(spoken)
    for i, row in enumerate(samples):
        if _detected(console, row):
            continue
        if not i or row["concept"] != samples[i - 1]["concept"]:
            console.print()
            _prompted(console, run, row["concept"])
        _answer(console, row, run.data["concepts"][row["concept"]]["picked"])


def _prompted(console: Console, run: Run, concept: str) -> None:
    """What stood around the questions of a concept under the picked setting, where anything did."""
    for name, text in run.prompt(concept).items():
        shown = f"{len(text)} example turns" if name == "shots" else text.strip()
        console.print(f"{name}: {shown}", soft_wrap=True)


def _headed(run: Run) -> Console:
    console, spec = Console(), run.data["spec"]
    console.print(
        Text(run.method, "bold"),
        f"on {spec['task']}, {spec['model']} ({spec['dtype']}), "
        f"preset {spec['protocol']['preset']}, judge {spec['judge'] or 'none'}",
    )
    return console


def _detected(console: Console, row: Mapping[str, Any]) -> bool:
    """Print a detection row, whose text is the data's own; whether it is one."""
    if found := row.keys() >= {"label", "score"}:
        console.print(f"{row['id']}  {row['label']}  score {row['score']:g}")
    return found


def _answer(console: Console, row: Mapping[str, Any], setting: Mapping[str, Any]) -> None:
    ratings = "  ".join(f"{axis} {'none' if v is None else v}" for axis, v in row["ratings"].items())
    console.print()
    console.print(Text(row["concept"], "bold"), f"c={setting['coefficient']:g}  {ratings}")
    if "instruction" in row:
        console.print(f"> {row['instruction']}")
    console.print(row.get("text", row.get("withheld", "")))


def _show_sample(name: str, wanted: str, folder: Path | None, as_json: bool) -> None:
    """One question of a run: its answer, every judge's word on it; on the select split, under every setting."""
    run = named(name, folder)
    found = [dict(s) for s in run.data["samples"] if s["id"] == wanted]
    others_tried = [] if found else [t for t in trials(run) if t["id"] == wanted]
    if not found and not others_tried:
        known = {s["id"] for s in run.data["samples"]} | {t["id"] for t in trials(run)}
        raise UsageError(f"{run.path.parent.name} has no sample {wanted!r}: {suggest(wanted, sorted(known))}")
    others = {
        o.judge: next((s for s in o.data["samples"] if s["id"] == wanted), None) for o in second_judge.of(run) if found
    }
    second = {judge: dict(s) for judge, s in others.items() if s}
    if as_json:
        shown = {"run": run.data["id"], "split": "test" if found else "select", "answers": found or others_tried}
        echo(dumped(shown | ({"opinions": second} if second else {})))
        return
    console = _headed(run)
    for row in found or others_tried:
        picked = run.data["concepts"][row["concept"]]["picked"]
        if _detected(console, row):
            continue
        if found:
            _prompted(console, run, row["concept"])
        _answer(console, row, picked if found else row)
        if row.keys() >= {"tokens", "touched"}:
            console.print(f"{row['tokens']} tokens, positions edited {row['touched']}")
        _said(console, run.data["spec"]["judge"] or "scores", row)
    for judge, row in second.items():
        _said(console, judge, row, row["ratings"])


def _said(console: Console, judge: str, row: Mapping[str, Any], ratings: Mapping[str, Any] | None = None) -> None:
    """What a judge said of each axis, and why it gave no rating."""
    if ratings is not None:
        shown = "  ".join(f"{axis} {'none' if v is None else v}" for axis, v in ratings.items())
        console.print(f"{judge}: {shown}")
    for axis, said in (*row.get("reasons", {}).items(), *row.get("said", {}).items()):
        console.print(f"  {judge} on {axis}: {said}")


@click.command()
@click.argument("one")
@click.argument("two")
@results_option
@json_option
def compare(one: str, two: str, results: Path | None, as_json: bool) -> None:
    """Compare two runs, paired by concept: ONE minus TWO."""
    first, second = (named(name, results) for name in (one, two))
    axes = comparison.compare(first, second)
    costs = [cost for run in (first, second) if (cost := sidecars.load(run))]
    if as_json:
        priced = {"cost": [summary(one) for one in costs]} if costs else {}
        echo(json.dumps(comparison.as_json(axes) | priced, indent=1))
        return
    unit = "question" if set(first.scores("overall")) - set(first.data["concepts"]) else "concept"
    columns = "axis", "difference", "p", f"{unit}s", "detectable", "generations won", f"{unit}s won", "at equal length"
    grid = Grid(*columns, title=f"{first.method} minus {second.method}")
    for axis, found in axes.items():
        d = found.difference
        won = [leaderboard.percent(w) for w in found.wins.values()]
        last = leaderboard.interval(found.length.equal, signed=True) if found.length else "–"
        cells = leaderboard.interval(d), leaderboard.pvalue(d.p), str(d.n), f"{d.detectable:.2f}", *won, last
        grid.add_row(axis, *cells)
    out().print(grid)
    if by_question(first.data):
        few = len(first.data["concepts"])
        echo(
            f"{few} concept{'s' * (few > 1)}: this speaks of further questions of {'these' if few > 1 else 'it'} alone"
        )
    if costs:
        cost_table(costs)


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path), help="Where to write [reports/ beside results/, else NAME-reports/]."
)
@click.option("--scratch", "use_scratch", is_flag=True, help="Report on the scratch folder.")
@click.option("--publish", type=click.Path(path_type=Path), help="Also copy it here, as a static site.")
@force_option
@results_option
@json_option
def report(
    out: Path | None, use_scratch: bool, publish: Path | None, force: bool, results: Path | None, as_json: bool
) -> None:
    """Write leaderboards (Markdown, CSV, JSON) and figures (PNG, SVG, CSV) from results alone."""
    root = results or (scratch() if use_scratch else _newest())
    folder = out or report_of(root)
    for place in filter(None, (folder, publish)):
        if not force:
            refuse_foreign(place)
    if runs := len(files(root)):
        say(f"{runs} runs in {root}: their tables, figures and page")  # hundreds take a minute
    written = build(root, folder)
    if publish:
        written = [*written, publish_report(written, folder, publish)]
    echo(json.dumps([str(p) for p in written]) if as_json else "\n".join(map(str, written)))


def _newest() -> Path:
    """The results folder of the last run, else the checked results."""
    made = last()
    root = made.root if made else default_results()
    say(f"report on {root}" + (", where the last run went (--results FOLDER names another)" if made else ""))
    return root


@click.group(cls=WithDefault)
def check() -> None:
    """Hold a method, task or judge to its contract (check NAME), or the results to their rules (check results)."""


@check.command("named", hidden=True)
@click.argument("name")
@plugin_option
@json_option
def check_named(name: str, late: tuple[Path, ...], as_json: bool) -> None:
    """Hold NAME to the contract of what it is: a method, else a task, else a judge."""
    plugins(late)
    kinds = [kind for kind in ("method", "task", "judge") if name.partition(":")[0] in table(kind)]
    contract("method" if "+" in name or "(" in name else next(iter(kinds), "method"), name, as_json)


@check.command("method")
@click.argument("name")
@plugin_option
@json_option
def check_method(name: str, late: tuple[Path, ...], as_json: bool) -> None:
    """Run the method contract on NAME with a tiny random model."""
    plugins(late)
    contract("method", name, as_json)


@check.command("task")
@click.argument("name")
@click.option("--data", help="Data of the task, where it has none of its own.")
@plugin_option
@json_option
def check_task(name: str, data: str | None, late: tuple[Path, ...], as_json: bool) -> None:
    """Run the task contract on NAME: its splits, its digest, its scores."""
    plugins(late)
    contract("task", name, as_json, {"data": data} if data else {})


@check.command("judge")
@click.argument("name")
@plugin_option
@json_option
def check_judge(name: str, late: tuple[Path, ...], as_json: bool) -> None:
    """Run the judge contract on NAME, with a tiny random model where it reads one."""
    plugins(late)
    contract("judge", name, as_json)


def contract(kind: str, name: str, as_json: bool, params: Mapping[str, Any] | None = None) -> None:
    """Print what a contract finds; exit code 1 where anything is wrong."""
    checks: dict[str, Callable[..., dict[str, str]]] = {
        "method": run_contract.check,
        "task": task_contract.check,
        "judge": judge_contract.check,
    }
    with quiet():
        found = checks[kind](name, params=params)
    if as_json:
        echo(json.dumps({kind: name, "checks": found}, indent=1))
    else:
        for label, problem in found.items():
            echo(f"{'ok  ' if not problem else 'FAIL'} {label}{': ' + problem if problem else ''}")
    if any(found.values()):
        sys.exit(1)


@check.command("results")
@results_option
@plugin_option
@json_option
def check_results(results: Path | None, late: tuple[Path, ...], as_json: bool) -> None:
    """Hold every file of a results folder to its rules; each finding names a file and what is wrong."""
    plugins(late)
    root = results or default_results()
    runs = len(files(root)) + len(files(root / ARCHIVE))
    if not runs:
        raise UsageError(f"no runs in {root}: nothing to check")
    found = audit(root)
    if as_json:
        echo(json.dumps({"runs": runs, "findings": [vars(one) for one in found]}, indent=1))
    else:
        for one in found:
            echo(f"{one.path}: {one.problem}")
        echo(f"{runs} runs, {len(found) or 'no'} finding{'' if len(found) == 1 else 's'}", err=bool(found))
    if found:
        sys.exit(1)


@click.command()
@click.option("--reports/--no-reports", default=True, show_default=True, help="Renew reports/ first.")
def docs(reports: bool) -> None:
    """Renew what is generated in a checkout: reports/, the blocks of README.md, docs/methods.md, docs/cli.md."""
    if not (ROOT / "pyproject.toml").is_file():
        raise UsageError(f"{ROOT} is no checkout: there are no documents to renew")
    written = build(ROOT / "results", ROOT / "reports") if reports else []
    renew = runpy.run_path(str(ROOT / "tools" / "documents.py"))["renew"]
    program = cast(click.Group, click.get_current_context().find_root().command)
    for path in [*written, *renew(ROOT, program)]:
        echo(str(path.relative_to(ROOT)))
