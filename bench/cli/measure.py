"""Commands around a result: what it takes to see a difference, what steering costs, what else it changes.

Invariant: as in `bench.cli`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from bench.cli.options import json_option, plugin_option, plugins, quiet, results_option
from bench.core.content import UsageError


@click.command()
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
    from bench.cli.sizing import advise

    advise(run_a, run_b, results, as_json, axis, aim)


@click.command()
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
    from bench.overhead import summary

    if sum(map(bool, (runs, formulas, model or config))) != 1:
        raise UsageError("give runs, --model or --config, or --formulas blog: one of them")
    if formulas:
        summary.formulas(as_json)
    elif runs:
        from bench.core.paths import default_results, scratch
        from bench.results import sidecars
        from bench.results.runs import lookup

        found = [lookup(name, [results] if results else [default_results(), scratch()]) for name in runs]
        failed = []
        if anew:
            from bench.measure.overhead import Settings, renew

            settings = Settings(tokens, batch, repeats, concepts, dtype)
            failed = renew(found, settings, lambda text: click.echo(text, err=True))
        summary.runs([sidecars.required(run) for run in found if not failed or sidecars.load(run)], as_json)
        if failed:
            sys.exit(1)
    else:
        arch = summary.resolve(model, config)
        asked = summary.numbers(sizes, "--prompt-tokens"), summary.numbers(contexts, "--context")
        summary.model(arch, *asked, rank, reply, texts, requests, as_json)
        if figure:
            from bench.report.figures.overhead import write_context

            write_context(arch, asked[0], rank, figure)


@click.command()
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
    from bench.core.paths import default_results, scratch
    from bench.measure import capability as measuring
    from bench.results.runs import lookup

    found = lookup(run, [results] if results else [default_results(), scratch()])
    with quiet():
        own = measuring.Capability(found, concept, coefficient, lambda line: click.echo(line, err=True))
        settings = measuring.Settings(names, include_path, limit, num_fewshot, chat)
        entries = own.lm_eval(settings) if names else own.side_effects()
    click.echo(json.dumps(entries, indent=1) if as_json else "\n".join(measuring.lines(entries)))
