"""`bench data`: import examples, check a data folder, or have one written.

Invariant: as in `bench.cli`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from bench.cli.console import echo
from bench.cli.options import SEED, Number, Whole, force_option, json_option, max_cost_option
from bench.core.escape import dumped


@click.group()
def data() -> None:
    """Import your own examples, check a data folder, or have one written for your own concepts."""


@data.command("check")
@click.argument("folder")
@json_option
def data_check(folder: str, as_json: bool) -> None:
    """Say what is wrong with FOLDER (any layout of docs/data.md, or mini): exit code 1 where a run would be."""
    from bench.data.check import check, lines, place, plain_report

    report = check(place(folder))
    if as_json:
        echo(dumped(plain_report(report)))
    else:
        echo("\n".join(lines(report)))
    if report.failed:
        sys.exit(1)


@data.command("import")
@click.argument("file", required=False)
@click.option("--concept", default="", help="What the good answers show, in words; else a column concept says it.")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to make.")
@click.option("--name", default="", help="Of the concept, as a file's name [made of its text].")
@click.option("--test", "share", default=0.5, show_default=True, type=Number(0.1, 0.9), help="Share that is asked.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="Of which examples are asked.")
@click.option("--generator", default="", help="Writes all texts where FILE has none [the default target model].")
@force_option
@json_option
def data_import(
    file: str | None,
    concept: str,
    out: Path,
    name: str,
    share: float,
    seed: int,
    generator: str,
    force: bool,
    as_json: bool,
) -> None:
    """Make a data folder of FILE: JSONL, CSV, JSON, Parquet, a folder of these, or a data set of the hub (OWNER/NAME).

    A row has a prompt and a good and a bad answer, or a prompt, A, B and the letter in answer that is good, or a
    prompt alone, which is only asked. Without FILE, --concept alone is enough: --generator writes the texts.
    """
    from bench.backends.models import DEFAULT
    from bench.core.errors import UsageError
    from bench.data import own, quality
    from bench.data.check import check, lines
    from bench.data.make import Recipe, make

    if not file:
        if not concept:
            raise UsageError("give FILE with examples, or --concept with a description of what you want")
        found = make(concept, generator or f"hf:{DEFAULT}", out, Recipe(), None, lambda t: echo(t, err=True), force)
        echo(dumped(found) if as_json else "\n".join(quality.lines(found)))
        return
    if generator:
        raise UsageError("--generator writes texts where there is no FILE: give one of the two")
    written = own.write(own.concepts(own.rows(file), concept, name, share, seed), out, force)
    report = check(out)
    if as_json:
        echo(dumped([vars(one) for one in written]))
    else:
        echo("\n".join([*(one.line for one in written), *lines(report), *(own.advice(written, out))]))
    if report.failed:
        sys.exit(1)


@data.command("make")
@click.option("--concepts", required=True, type=click.Path(path_type=Path), help="CSV with a column concept, or .txt.")
@click.option("--generator", required=True, help="openai:MODEL, vllm:MODEL or hf:MODEL.")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to make.")
@click.option("--per-concept", default=72, show_default=True, type=Whole(1), help="Training positives.")
@click.option("--evaluation", default=36, show_default=True, type=Whole(4), help="Evaluation texts a class.")
@click.option("--hard", default=10, show_default=True, type=Whole(0), help="Hard negatives, at most.")
@click.option("--tokens", default=128, show_default=True, type=Whole(8), help="Longest answer.")
@click.option("--temperature", default=1.0, show_default=True, type=Number(0), help="Of the generator.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="Seed of everything random.")
@click.option("--instructions", type=click.Path(path_type=Path), help="JSON list of your own; else they are written.")
@click.option("--price", metavar="IN,OUT", help="Dollars per million tokens read, written [the listed price].")
@max_cost_option
@force_option
@json_option
def data_make(
    concepts: Path,
    generator: str,
    out: Path,
    instructions: Path | None,
    price: str | None,
    max_cost: float | None,
    force: bool,
    as_json: bool,
    **recipe: Any,
) -> None:
    """Write training and evaluation texts for your own concepts; the same command resumes."""
    from bench.core.errors import UsageError
    from bench.core.money import SpendingLimit, price_of
    from bench.core.settings import cast
    from bench.data import quality
    from bench.data.make import Recipe, make

    def tell(line: str) -> None:
        echo(line, err=True)

    amounts = cast(price, tuple[float, ...], "--price") if price else ()
    try:
        price_of("", amounts)
    except ValueError as error:
        raise UsageError(f"--price {price}: {error}") from error
    purse = SpendingLimit(max_cost or 0.0)
    found = make(concepts, generator, out, Recipe(**recipe), instructions, tell, force, purse, amounts)
    echo(dumped(found) if as_json else "\n".join(quality.lines(found)))
