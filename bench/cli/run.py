"""`bench run`: the plan, the stages, and the leaderboard at the end."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.table import Column, Table as Grid

from bench import results
from bench.backends import threads
from bench.cli import board
from bench.cli.console import confirm, echo, err, money, out, progress, say
from bench.cli.options import SEED, Number, Whole, json_option, max_cost_option, plugin_option, plugins, results_option
from bench.cli.tracking import SERVICES, Service, tracked
from bench.core.errors import BenchError, UsageError, named
from bench.core.escape import printable
from bench.core.paths import default_results, scratch
from bench.core.settings import cast
from bench.data.basics import BASICS
from bench.measure import columns
from bench.report import page
from bench.report.build import build, refuse_foreign, report_of
from bench.report.renewal import renewed
from bench.report.text.verdict import headlines
from bench.results import hypotheses
from bench.results.last import remember
from bench.results.runs import Run, read as read_run
from bench.results.tables import tables
from bench.run import effects
from bench.run.jobs import Job
from bench.run.plan import ADDRESS, Options, Plan, from_file, make
from bench.run.pulse import Pulse
from bench.run.session import Progress, execute, planned
from bench.run.speed import learn, rates
from bench.run.spending import Cost, looks, spend, trials
from bench.run.views import answer_tokens, unanswered_by


@click.command(context_settings={"allow_extra_args": True})
@click.option(
    "-m", "--methods", multiple=True, help="all, names, globs, a+b; -name or !name leaves out. Repeat or use commas."
)
@click.option("-t", "--task", help="Task [axbench].")
@click.option("--data", help="Data of the task: mini, concept10, concept500, or a folder.")
@click.option("--model", help="Hub id, folder, or packaged name.")
@click.option(
    "--judge",
    help="ensemble, embedding, likelihood, openai:MODEL (or any compatible server), hf:MODEL, vllm:MODEL [ensemble].",
)
@click.option("--prompter", help="Model that writes prompts: openai:MODEL; default: the target model.")
@click.option("--backend", help="Engine: hf, vllm, or auto (vllm where it is able and pays) [hf].")
@click.option("--dtype", help="auto, float32, bfloat16, float16.")
@click.option("--preset", help="quick, standard, paper [quick].")
@click.option("--strength", help="Unit of coefficients: norm, max-act.")
@click.option("--compat", help="axbench: reproduce the reference's quirks.")
@click.option("--seed", type=SEED, help="Seed of everything random [0].")
@click.option("-n", "--limit", type=Whole(1), help="Only the first so many concepts.")
@click.option("--concept", help="Only this concept of the data, by its name (bench data check lists them).")
@click.option("--coefficients", metavar="C,C,…", help="Strengths to try, 0 and negative ones too [the preset's].")
@click.option(
    "-p",
    "--set",
    "param",
    multiple=True,
    metavar="NAME.FIELD=VALUE",
    help="A field of a method, task or judge, of the protocol (protocol.select=8), or an argument of the model's chat "
    "template (chat.enable_thinking=true).",
)
@click.option(
    "--damage",
    type=Whole(0),
    metavar="N",
    help="Plain answers to read under each setting, for what it does where nobody asked [the preset's: 0, 8, 16].",
)
@click.option(
    "--effects",
    metavar="NAME,NAME,…",
    help="What to look at beside the score, at the picked settings: basics (48 shipped questions), any task of "
    "lm-eval, related (another concept), adverse (an order against the concept); none [quick: none; else those three].",
)
@click.option("--include-path", "include", type=click.Path(), help="Folder of your own lm-eval tasks, for --effects.")
@max_cost_option
@click.option(
    "--max-unscored",
    type=Number(0, 1),
    metavar="SHARE",
    help="Exit with 1 where more of a run's ratings are missing [0.02].",
)
@click.option("--config", type=click.Path(path_type=Path), help="TOML, or a past run.json to replay.")
@click.option(
    "--trust-remote-code",
    is_flag=True,
    default=None,
    help="Let Python code in the model's own folder run. Read it first.",
)
@click.option("--executor", help="local: this process; ray: workers of a Ray cluster, one for each device [local].")
@click.option("--ray-address", metavar="HOST:PORT", help="Cluster to join [$RAY_ADDRESS, else one on this machine].")
@click.option("--workers", type=Whole(1), help="Workers of --executor ray [one for each GPU, else each core].")
@click.option("--track", type=click.Choice(SERVICES), help="Tell a tracker scores and seconds, and no texts.")
@click.option("--yes", is_flag=True, help="Send texts and your key to the hosted models that --config names.")
@click.option("--dry-run", is_flag=True, help="Print the plan and its cost; load no model.")
@results_option
@plugin_option
@json_option
def run(
    methods: tuple[str, ...],
    param: tuple[str, ...],
    config: Path | None,
    dry_run: bool,
    yes: bool,
    track: str | None,
    results: Path | None,
    late: tuple[Path, ...],
    as_json: bool,
    **flags: Any,
) -> None:
    """Run methods on a task; what is done is not done again."""
    plugins(late)
    if words := click.get_current_context().args:
        raise UsageError(f"bench run takes no {words[0]!r} by itself: methods are named by -m {','.join(words)}")
    given = from_file(config) if config else {}
    given |= {k: v for k, v in flags.items() if v is not None}
    if methods:
        given["methods"] = methods
    if "coefficients" in given:
        given["coefficients"] = cast(given["coefficients"], tuple[float, ...], "--coefficients")
    if isinstance(names := given.get("effects"), str):
        given["effects"] = tuple(name.strip() for name in names.split(",") if name.strip())
    params = dict(given.get("params", {}))
    filed = set(params) if config else set[str]()
    for text in param:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"-p {text}: write name.field=value, as in diffmean.layer=12")
        params[key] = value
        filed.discard(key)
    plan = make(Options(**given | {"params": params}))
    summary = shown(plan, results)
    if any(row["status"] == "todo" for row in summary["runs"]):
        plan.ready()
    nothing = all(row["status"] in ("unsupported", "failed") for row in summary["runs"])
    if as_json and (dry_run or nothing):
        echo(json.dumps(summary, indent=1))
    if nothing:
        raise UsageError("no method of this run can be made: the reasons stand above")
    if dry_run:
        return
    columns.check(plan)  # before hours of work
    if config and not yes and any(row["status"] == "todo" for row in summary["runs"]):
        _consent(config, plan, {role for role in plan.sent if flags[role] is None}, filed)
    hypotheses.read(results or default_results())  # a mistake in it is told before an hour's work
    follower, pulse = Service(track, plan) if track else None, Pulse()
    bars: Progress = partial(progress, doing=pulse.now)
    bars = tracked(bars, follower) if follower else bars
    reports: set[Path] = set()
    jobs: list[Job] = []
    try:
        jobs = execute(plan, results, bars, lambda jobs: reports.update(provisional(jobs)), pulse)
        columns.measure(plan, jobs, say, bars)
        failed = outcome(jobs, results, as_json, plan.options.max_unscored)
    finally:  # an interrupt too: a page that is open and whose last report was not made looks for no newer one then
        for folder in reports:
            page.stop(folder)
        if follower:
            follower.finished([read_run(job.path) for job in jobs if job.path and job.status == "complete"])
    if config and config.suffix == ".json":
        _replayed(read_run(config), jobs)
    if failed:
        sys.exit(1)


def _consent(config: Path, plan: Plan, unnamed: set[str], filed: set[str]) -> None:
    """Ask before texts and a key go to a model that the command line did not name: by a past run, which may be another
    person's, or to an address of its own that a settings file gives."""
    asked = unnamed if config.suffix == ".json" else {"judge"} & plan.sent.keys() if any(map(_words, filed)) else set()
    if not asked:
        return
    places = " and ".join(f"{role} {plan.sent[role]}" for role in sorted(asked))
    told = f"{config.name} names the {places}: texts of this run and your key would go there"
    confirm(told, f"say --yes, or name it yourself ({', '.join(f'--{role}' for role in sorted(asked))})")


def _words(key: str) -> set[str]:
    return set(key.rpartition(".")[2].split("_")) & ADDRESS


def _replayed(record: Run, jobs: Sequence[Job]) -> None:
    """Say how far a replay's texts and score are those of the run that was replayed, and its plugins."""
    there = {plugin["name"]: plugin["digest"] for plugin in record.data.get("plugins", ())}
    for job in jobs:
        if job.path is None or job.path.resolve() == record.path.resolve() or job.spec.method != record.method:
            continue
        again = read_run(job.path)
        for plugin in again.data.get("plugins", ()):
            if there.get(plugin["name"], plugin["digest"]) != plugin["digest"]:
                say(f"{plugin['name']} is not as it was when {record.path.parent.name} was made")
        texts = {s["id"]: s.get("text") for s in again.data["samples"]}
        both = [s for s in record.data["samples"] if "text" in s and s["id"] in texts]
        differ = sum(texts[s["id"]] != s["text"] for s in both)
        scores = ["none" if (v := run.data["metrics"]["overall"]) is None else f"{v:.2f}" for run in (again, record)]
        say(
            f"replay of {record.path.parent.name}: {differ} of {len(both)} texts differ "
            f"({record.data['spec']['dtype']}, in other batches or on another machine); "
            f"overall {scores[0]} against {scores[1]}"
        )


CHARACTERS = 4
"""Of a token of plain English, about: for an estimate."""
STATES = {"cached": "done", "todo": "to do", "unsupported": "unsupported", "failed": "failed"}


def shown(made: Plan, folder: Path | None) -> dict[str, Any]:
    """Print what a run will cost at most; returns the same as JSON."""
    rows: list[dict[str, Any]] = []
    jobs = planned(made, folder)
    for job in jobs:
        bound = Cost()
        if job.status in ("cached", "todo"):
            asked_of = (job.method, made.protocol, made.task)
            bound = spend(*asked_of) + looks(*asked_of, made.looked)
        state = {"status": job.status, "reason": job.reason, "cached": job.status == "cached"}
        rows.append({"method": job.spec.method, "id": job.spec.id} | state | vars(bound))
    todo = [row for row in rows if row["status"] == "todo"]
    learning = [job.method for job in jobs if job.status == "todo"]
    plain = len(unanswered_by(made.task, made.protocol, learning))
    names = ("fits", "generations", "tokens", "ratings", "train_rows", "train_tokens")
    total = {name: sum(row[name] for row in todo) for name in names}
    total["generations"] += plain
    total["tokens"] += plain * answer_tokens(made.protocol)
    settings = sum(trials(job.method, made.protocol) for job in jobs if job.status == "todo")
    texts = round(sum(len(text.response) + len(text.instruction) for text in made.neutral_texts) / CHARACTERS)
    total["read"] = settings * len(made.task.concepts()) * texts  # bare they are read once a batch
    asked = len(todo) * len(made.task.concepts()) * effects.reading(made.benchmarks, CHARACTERS)
    speed = rates()
    units = {"fit": "fits", "train": "train_tokens", "generate": "tokens", "rate": "ratings", "read": "read"}
    seconds = sum(total[name] / speed[unit] for unit, name in units.items()) + asked / speed["read"]
    first = made.specs[0]
    length = first.protocol.sampling.max_new_tokens
    judging = dict(made.judge.estimate(total["ratings"], length)) if total["ratings"] else {}
    refused = results.refusals(first, made.asked) if folder is None else []
    where = folder or (scratch() if refused else default_results())
    shown = (*names[:4], "train_tokens")
    grid = Grid(
        Column("method", no_wrap=True),
        *names[:4],
        "trained",
        "state",
        title=f"{first.task} · {first.model} ({first.dtype}) · preset {first.protocol.preset}",
    )
    for row in rows:
        grid.add_row(row["method"], *(f"{row[n]:,}" for n in shown), STATES[row["status"]])
    if plain:
        written = f"{plain * answer_tokens(made.protocol):,}"
        grid.add_row("plain answers, for pairs", "0", f"{plain:,}", written, "0", "0", "to do")
    grid.add_section()
    grid.add_row(
        "to do, at most",
        *(f"{total[n]:,}" for n in shown),
        f"about {max(1, round(seconds / 60))} min" if todo else "nothing",
    )
    err.print(grid)
    if total["train_rows"]:
        err.print(f"trained: {total['train_rows']:,} rows of text, {total['train_tokens']:,} tokens, at most")
    for row in rows:
        if row["reason"]:
            say(f"{row['method']}: {row['status']}: {row['reason']}")
    if made.model.trusted:
        say(f"warning: Python code in the folder of {first.model} will run on this machine, as its author wrote it")
    if made.unheard:
        say(made.unheard)
    if made.engine:
        say(made.engine)
    if made.options.executor == "ray":
        cluster = made.options.ray_address or os.environ.get("RAY_ADDRESS") or "started on this machine"
        say(f"executor: ray ({cluster}), workers: {made.options.workers or 'one for each device'}")
    elif first.backend == "hf":
        say(threads.chosen()[1])
    if read := total["read"]:
        say(f"{len(made.neutral_texts)} plain answers are read under each setting: {read:,} tokens")
    for line in _beside(made, asked):
        say(line)
    for role, place in made.sent.items():
        say(f"{role}: texts go to {place}")
    if judging:
        say(money(judging, made.options.max_cost))
    if "model" in made.sent:
        say(f"model: at most {total['generations']:,} requests, which write at most {total['tokens']:,} tokens")
    say(f"results: {where}" + (f"  (not the checked results: {'; '.join(refused)})" if refused else ""))
    found = {
        "runs": rows,
        "plain_answers": plain,
        "backend": first.backend,
        "total": total,
        "eta_seconds": round(seconds) if todo else 0,
        "results": str(where),
    }
    return found | ({"judging": judging} if judging else {})


def _beside(made: Plan, tokens: int) -> list[str]:
    """What is looked at beside the score, and what it costs."""
    found = [f"{name}: {effects.TOLD[name]}" for name in made.looked]
    named = effects.tasks_of(made.effects)
    if made.benchmarks:
        known = f": {tokens:,} tokens" if tokens else ""
        rest = f", of lm-eval's tasks the first {effects.DOCUMENTS} documents each" if set(named) - {BASICS} else ""
        found.append(f"under each picked setting {', '.join(named)} asked{known}{rest}")
    elif named:
        found.append(f"{', '.join(named)}: not asked: {effects.unable(made.options.backend)}")
    return found


def provisional(jobs: Sequence[Job]) -> list[Path]:
    """Print the leaderboard of what is done on stderr, while what trains is still to come, and write its report;
    returns the folders of reports."""
    left = sum(job.status == "todo" for job in jobs)
    made: list[Path] = []
    try:
        for table in tables([results.read(job.path) for job in jobs if job.path]):
            board.show(table, err, f"provisional: {table.title}")
        say(f"provisional: {left} {'method' if left == 1 else 'methods'} still to come; ranks and intervals may change")
        for root in sorted({job.path.parents[3] for job in jobs if job.path and job.status == "complete"}):
            made += _report(root, left)
    except Exception as error:  # hours of work to come do not hang on a picture: the last report tells its failure
        say(f"no provisional report: {named(error)}")
    return made


def outcome(jobs: Sequence[Job], folder: Path | None, as_json: bool, max_unscored: float = 1.0) -> bool:
    """Print the leaderboard of a run's jobs, write its report.

    Returns whether anything failed, or more than a share `max_unscored` of a run's ratings is missing.
    """
    shown = [results.read(job.path) for job in jobs if job.path]
    learn(jobs, shown)
    rows = [
        {
            "method": job.spec.method,
            "task": job.spec.task,
            "model": job.spec.model,
            "status": job.status,
            "metrics": one.data["metrics"] if (one := next((r for r in shown if r.path == job.path), None)) else {},
            "path": str(job.path) if job.path else None,
        }
        | ({"reason": job.reason} if job.reason else {})
        for job in jobs
    ]
    console = err if as_json else out(200)
    made = tables(shown)
    said = headlines(made)
    for table in made:
        board.show(table, console)
        board.notes(table, console)
        board.beside(table, console)
        board.answer(said[table.group], console)
    fresh, answers = sum(job.fresh for job in jobs), sum(job.answers for job in jobs)
    kept = f", {answers - fresh} taken as they were kept" if answers > fresh else ""
    err.print(
        f"{fresh} generations made now{kept}; "
        f"{sum(job.status == 'cached' for job in jobs)} of {len(jobs)} methods were done before"
    )
    if as_json:
        echo(json.dumps({"runs": rows}, indent=1))
    lost, gaps = lacking(shown), [line for run in shown if (line := _gap(run, max_unscored))]
    del shown  # the report reads the runs for itself
    for root in sorted({path.parents[3] for job in jobs if (path := job.path)}):
        remember(root, {job.spec.group for job in jobs if job.path and job.path.parents[3] == root})
        _report(root)
    if lost:
        say(lost)
    # Last, where whoever finds exit code 1 looks; those that are unsupported stood in the plan.
    failed = [f"{job.spec.method}: {job.status}: {job.reason}" for job in jobs if job.status == "failed"]
    for line in (*gaps, *failed):
        echo(f"bench: {line}", err=True)
    return bool(gaps or failed)


def lacking(runs: Sequence[results.Run]) -> str:
    """Why ratings of these runs are missing, most often, and one reply that was read so; "" where none is."""
    found = [
        (reason, sample.get("said", {}).get(axis, ""))
        for run in runs
        for sample in run.data["samples"]
        for axis, reason in sample.get("reasons", {}).items()
        if axis != "overall"
    ]
    if not found:
        return ""
    (reason, count), *others = Counter(reason for reason, _ in found).most_common()
    reply = next((said for why, said in found if why == reason and said.strip()), "")
    shown = f"; one reply: {' '.join(printable(reply).split())[-SHOWN:]!r}" if reply else ""
    rest = f", and {len(found) - count} for {len(others)} other reasons" if others else ""
    return f"{count} ratings are missing: {printable(reason)}{rest}{shown}"


SHOWN = 120
"""Characters of a reply that a line has room for: its end, where a rating would be."""


def _gap(run: results.Run, most: float) -> str:
    """What to say of a run whose ratings are missing beyond the share `most`; empty for others."""
    counts = run.data["counts"]
    asked, lost, later = (counts.get(name, 0) for name in ("verdicts", "unscored", "unanswered"))
    if not asked or lost / asked <= most:
        return ""
    again = f"; {later} went unanswered, and the same command asks for them again" if later else ""
    return f"{run.method}: {lost} of {asked} ratings are missing, more than --max-unscored {most:g}{again}"


def _report(root: Path, to_come: int = 0) -> list[Path]:
    """Renew the report of the folder runs went to, while `to_come` methods are not done or at the end; returns its
    folder. One that cannot be made leaves the runs as they are."""
    try:
        refuse_foreign(folder := report_of(root))
        written = build(root, folder, to_come) if to_come else renewed(root, folder)
    except BenchError as error:
        say(f"no report: {error}")
        return []
    so_far = " so far (an open page shows the next by itself)" if to_come else ""
    say(f"report{so_far}: " + " ".join(str(p) for p in written if p.suffix in (".md", ".html")))
    return [folder]
