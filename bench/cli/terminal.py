"""What a person sees: plans, progress bars, leaderboards and listings.

Invariant: results go to stdout, everything else to stderr; every table has its JSON.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table as Grid

from bench import results
from bench.core import registry
from bench.core.content import BenchError
from bench.core.paths import cache_root, default_results, scratch
from bench.core.store import write_json
from bench.report.build import build
from bench.report.text import leaderboard
from bench.results.tables import Table, tables
from bench.run.identity import code_of
from bench.run.plan import Plan
from bench.run.spending import spend

if TYPE_CHECKING:
    from bench.run.jobs import Job
    from bench.run.session import Advance

err = Console(stderr=True, highlight=False, emoji=False)
RATES = {"generate": 200.0, "rate": 8.0, "fit": 1.5, "train": 700.0}
"""Tokens, ratings, fits and trained tokens a second of the default model on two cores; replaced by what is measured."""


def say(line: str) -> None:
    """One line on stderr as it is: an error's reason or a path may have brackets, which are no markup."""
    err.print(line, markup=False, soft_wrap=True)


def _rates() -> dict[str, float]:
    return RATES | {unit: rate for unit, rate in _measured().items() if rate > 0}


def _measured() -> dict[str, float]:
    """What this machine's runs have shown so far."""
    path = cache_root() / "rates.json"
    found: dict[str, float] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return found


def plan(made: Plan, folder: Path | None) -> dict[str, Any]:
    """Print what a run will cost at most; returns the same as JSON."""
    rows: list[dict[str, Any]] = []
    for method, spec in zip(made.methods, made.specs, strict=True):
        bound = spend(method, made.protocol, made.task)
        code = code_of(method, type(made.task), type(made.judge), registry.get("backend", made.options.backend))
        done = results.find(spec, code, folder) is not None
        rows.append({"method": spec.method, "id": spec.id, "cached": done} | vars(bound))
    todo = [row for row in rows if not row["cached"]]
    names = ("fits", "generations", "tokens", "ratings", "train_rows", "train_tokens")
    total = {name: sum(row[name] for row in todo) for name in names}
    rates = _rates()
    units = {"fit": "fits", "train": "train_tokens", "generate": "tokens", "rate": "ratings"}
    seconds = sum(total[name] / rates[unit] for unit, name in units.items())
    first = made.specs[0]
    length = first.protocol.sampling.max_new_tokens
    judging = dict(made.judge.estimate(total["ratings"], length)) if total["ratings"] else {}
    refused = results.refusals(first) if folder is None else []
    where = folder or (scratch() if refused else default_results())
    shown = (*names[:4], "train_tokens")
    grid = Grid(
        Column("method", no_wrap=True),
        *names[:4],
        "trained",
        "state",
        title=escape(f"{first.task} · {first.model} ({first.dtype}) · preset {first.protocol.preset}"),
    )
    for row in rows:
        grid.add_row(escape(row["method"]), *(f"{row[n]:,}" for n in shown), "done" if row["cached"] else "to do")
    grid.add_section()
    grid.add_row(
        "to do, at most",
        *(f"{total[n]:,}" for n in shown),
        f"about {max(1, round(seconds / 60))} min" if todo else "nothing",
    )
    err.print(grid)
    if total["train_rows"]:
        err.print(f"trained: {total['train_rows']:,} rows of text, {total['train_tokens']:,} tokens, at most")
    if made.engine:
        say(made.engine)
    if judging:
        say(_estimate(judging, made.options.max_cost))
    say(f"results: {where}" + (f"  (not the checked results: {'; '.join(refused)})" if refused else ""))
    found = {
        "runs": rows,
        "backend": first.backend,
        "total": total,
        "eta_seconds": round(seconds) if todo else 0,
        "results": str(where),
    }
    return found | ({"judging": judging} if judging else {})


def _estimate(judging: Mapping[str, Any], limit: float) -> str:
    """The judge's tokens and money, as a line."""
    tokens = f"judge: about {judging['prompt_tokens']:,} tokens read and at most {judging['tokens']:,} written"
    if judging["dollars"] is None:
        return tokens + "; no price is known for its model (-p openai.price=IN,OUT)"
    over = f", over --max-cost ${limit:g}: asking may stop there" if limit and judging["dollars"] > limit else ""
    return f"{tokens}: about ${judging['dollars']:.2f} at most{over}"


@contextmanager
def progress(stage: str, total: int) -> Iterator[Advance]:
    """One bar a stage on a terminal, one line a stage elsewhere."""
    begun, done = time.monotonic(), 0
    columns = (
        TextColumn("{task.description:24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(stage, total=total)

        def advance(steps: int) -> None:
            nonlocal done
            done += steps
            bar.update(task, advance=steps)

        yield advance
    err.print(f"{stage}: {done}/{total} in {time.monotonic() - begun:.0f} s")


def outcome(jobs: Sequence[Job], folder: Path | None, as_json: bool, max_unscored: float = 1.0) -> bool:
    """Print the leaderboard of a run's jobs, write its report.

    Returns whether anything failed, or more than a share `max_unscored` of a run's ratings is missing.
    """
    shown = [results.read(job.path) for job in jobs if job.path]
    _learn(jobs, shown)
    rows = [
        {
            "method": job.spec.method,
            "task": job.spec.task,
            "model": job.spec.model,
            "status": job.status,
            "metrics": run.data["metrics"] if (run := next((r for r in shown if r.path == job.path), None)) else {},
            "path": str(job.path) if job.path else None,
        }
        | ({"reason": job.reason} if job.reason else {})
        for job in jobs
    ]
    for table in tables(shown):
        _board(
            table, err if as_json else Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 200)
        )
    for job in jobs:
        if job.reason:
            say(f"{job.spec.method}: {job.status}: {job.reason}")
    fresh = sum(job.fresh for job in jobs)
    err.print(
        f"{fresh} generations made now; "
        f"{sum(job.status == 'cached' for job in jobs)} of {len(jobs)} methods were done before"
    )
    if as_json:
        click.echo(json.dumps({"runs": rows}, indent=1))
    for root in sorted({path.parents[3] for job in jobs if (path := job.path)}):
        _report(root)
    gaps = [line for run in shown if (line := _gap(run, max_unscored))]
    for line in gaps:
        click.echo(f"bench: {line}", err=True)
    return bool(gaps) or any(job.status == "failed" for job in jobs)


def _gap(run: results.Run, most: float) -> str:
    """What to say of a run whose ratings are missing beyond the share `most`; empty for others."""
    counts = run.data["counts"]
    asked, lost, later = (counts.get(name, 0) for name in ("verdicts", "unscored", "unanswered"))
    if not asked or lost / asked <= most:
        return ""
    again = f"; {later} went unanswered, and the same command asks for them again" if later else ""
    return f"{run.method}: {lost} of {asked} ratings are missing, more than --max-unscored {most:g}{again}"


def _report(root: Path) -> None:
    """Renew the report of the folder runs went to; one that cannot be made leaves the runs as they are."""
    try:
        written = build(root, root.resolve().parent / "reports")
    except BenchError as error:
        say(f"no report: {error}")
        return
    say("report: " + " ".join(str(p) for p in written if p.suffix in (".md", ".html")))


def _learn(jobs: Sequence[Job], runs: Sequence[results.Run]) -> None:
    """Remember this machine's speeds, for the next plan's estimate."""
    made = [
        run.data
        for job, run in zip([j for j in jobs if j.path], runs, strict=True)
        if job.status == "complete" and job.fresh
    ]
    if not made or made[0]["spec"]["backend"] == "fake":
        return
    timings = made[0]["timings"]
    share = sum(d["counts"]["generated_now"] for d in made) / max(1, sum(d["counts"]["generations"] for d in made))
    if share < 0.9 or not any(d["counts"]["tokens"] for d in made):  # multiple choice writes nothing
        return
    spent = {k: sum(v for name, v in timings.items() if name.startswith(k)) for k in ("generate", "judge", "fit")}
    units = {"generate": sum(d["counts"]["tokens"] for d in made) / max(spent["generate"], 1)}
    if made[0]["spec"]["judge"]:  # a task that needs no judge says nothing of one's speed
        units["rate"] = 3 * sum(d["counts"]["generations"] for d in made) / max(spent["judge"], 1)
    write_json(cache_root() / "rates.json", _measured() | {k: round(v, 2) for k, v in units.items()})


def _board(table: Table, console: Console) -> None:
    grid = Grid(*leaderboard.headings(table), title=escape(leaderboard.title(table)))
    for row in table.rows:
        grid.add_row(*map(escape, leaderboard.cells(table, row)))
    console.print(grid)
    for note in leaderboard.notes(table):
        console.print(f"- {note}", soft_wrap=True, markup=False)


def listing(what: str, folder: Path | None, as_json: bool) -> None:
    if what == "runs":
        rows: list[dict[str, Any]] = []
        for root in [folder] if folder else [default_results(), scratch()]:
            for run in results.load(root):
                spec = run.data["spec"]
                rows.append(
                    {
                        "run": run.path.parent.name,
                        "task": spec["task"],
                        "model": spec["model"],
                        "preset": spec["protocol"]["preset"],
                        "overall": run.data["metrics"]["overall"],
                        "path": str(run.path),
                    }
                )
    elif what == "models":
        from bench.backends.models import listed

        rows = list(listed())
    else:
        kind = what.removesuffix("s")
        rows = [_entry(kind, name, cls) for name, cls in registry.table(kind).items()]
        if kind == "method":
            rows += [_combination(name) for name in registry.combinations()]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    grid = Grid(*(rows[0] if rows else ["nothing"]))
    for row in rows:
        cells = (", ".join(v) if isinstance(v, list) else "" if v is None else str(v) for v in row.values())
        grid.add_row(*map(escape, cells))
    Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 160).print(grid)


def _entry(kind: str, name: str, cls: Any) -> dict[str, Any]:
    if kind != "method":
        return {"name": name, "summary": (cls.__doc__ or "").strip().split("\n")[0]}
    return {
        "name": name,
        "family": cls.family,
        "needs": sorted(cls.needs | {f"view:{view}" for view in cls.views}),
        "summary": cls.summary(),
        "paper": cls.paper,
    }


def _combination(name: str) -> dict[str, Any]:
    classes = [registry.get("method", part) for part in name.split("+")]
    needs = {need for cls in classes for need in _entry("method", name, cls)["needs"]}
    return {
        "name": name,
        "family": "combination",
        "needs": sorted(needs),
        "summary": " and ".join(cls.name for cls in classes) + " at once.",
        "paper": "",
    }


def cache(action: str, yes: bool) -> None:
    root = cache_root()
    if action == "path":
        click.echo(str(root))
        return
    kinds = {
        p.name: sum(f.stat().st_size for f in p.rglob("*") if f.is_file()) for p in sorted(root.glob("*")) if p.is_dir()
    }
    if action == "size":
        for kind, size in kinds.items():
            click.echo(f"{kind:12} {size / 2**20:10.1f} MiB")
        click.echo(f"{'total':12} {sum(kinds.values()) / 2**20:10.1f} MiB")
        return
    if yes or click.confirm(f"delete {sum(kinds.values()) / 2**20:.0f} MiB of fits, generations, ratings and models?"):
        shutil.rmtree(root, ignore_errors=True)
        click.echo("cleared")
