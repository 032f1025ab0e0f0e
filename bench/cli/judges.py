"""`bench judge`: rate kept answers again, validate a judge, draw answers to rate by hand.

Invariant: as in `bench.cli`.
"""

from __future__ import annotations

from pathlib import Path

import click

from bench.cli.options import WithDefault, json_option, plugin_option, plugins, results_option
from bench.core.content import UsageError


@click.group(cls=WithDefault)
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
    from bench.cli import terminal_judges

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
    from bench.cli import terminal_judges

    terminal_judges.validate(name, data, model, dtype, limit or 0, human, collapsed, save, results, as_json)


@judge.command("sample")
@click.argument("runs", nargs=-1, required=True)
@click.option("-n", "--n", "count", type=click.IntRange(1), default=100, show_default=True, help="Texts to draw.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="CSV to write.")
@results_option
def judge_sample(runs: tuple[str, ...], count: int, seed: int, out: Path, results: Path | None) -> None:
    """Draw answers of RUNS for a person to rate blind, spread over methods, concepts and coefficients."""
    from bench.cli import terminal_judges

    terminal_judges.sample(runs, count, seed, out, results)
