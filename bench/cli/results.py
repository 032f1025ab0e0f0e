"""Commands on results: show, compare, report, check, submit, and the documents made from them.

Invariant: as in `bench.cli`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import cast

import click

from bench.cli.options import WithDefault, json_option, plugin_option, plugins, results_option
from bench.core.content import UsageError


@click.command()
@click.argument("run")
@click.option("--concept", help="Only this concept.")
@click.option("-n", "--limit", default=12, help="Generations shown.")
@click.option("--sample", help="One question by its id, with every judge's word; of the select split, every setting.")
@results_option
@json_option
def show(run: str, concept: str | None, limit: int, sample: str | None, results: Path | None, as_json: bool) -> None:
    """Show one RUN: its settings and the generations behind its number."""
    from bench.cli import terminal_results

    if sample:
        terminal_results.sample(run, sample, results, as_json)
    else:
        terminal_results.show(run, concept, limit, results, as_json)


@click.command()
@click.argument("one")
@click.argument("two")
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), help="Also write a page, answers side by side."
)
@results_option
@json_option
def compare(one: str, two: str, html: Path | None, results: Path | None, as_json: bool) -> None:
    """Compare two runs, paired by concept: ONE minus TWO."""
    from bench.cli import terminal_results

    terminal_results.compare(one, two, html, results, as_json)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="Where to write [reports/ beside the results].")
@click.option("--scratch", "use_scratch", is_flag=True, help="Report on the scratch folder.")
@click.option("--publish", type=click.Path(path_type=Path), help="Also copy it here, as a static site.")
@results_option
@json_option
def report(out: Path | None, use_scratch: bool, publish: Path | None, results: Path | None, as_json: bool) -> None:
    """Write leaderboards (Markdown, CSV, JSON) and figures (PNG, SVG, CSV) from results alone."""
    from bench import report as reports
    from bench.core.paths import default_results, scratch

    root = results or (scratch() if use_scratch else default_results())
    folder = out or root.resolve().parent / "reports"
    written = reports.build(root, folder)
    if publish:
        written = [*written, reports.publish(written, folder, publish)]
    click.echo(json.dumps([str(p) for p in written]) if as_json else "\n".join(map(str, written)))


@click.group(cls=WithDefault)
def check() -> None:
    """Hold a method to its contract (check NAME), or the results to their rules (check results)."""


@check.command("method")
@click.argument("name")
@plugin_option
@json_option
def check_method(name: str, late: tuple[Path, ...], as_json: bool) -> None:
    """Run the method contract on NAME with a tiny random model."""
    plugins(late)
    from bench.cli import terminal_results

    if terminal_results.contract(name, as_json):
        sys.exit(1)


@check.command("results")
@results_option
@plugin_option
@json_option
def check_results(results: Path | None, late: tuple[Path, ...], as_json: bool) -> None:
    """Hold every file of a results folder to its rules; each finding names a file and what is wrong."""
    plugins(late)
    from bench.cli import terminal_results

    if terminal_results.audit(results, as_json):
        sys.exit(1)


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("submission"),
    show_default=True,
    help="Empty folder for the files.",
)
@results_option
@plugin_option
@json_option
def submit(runs: tuple[str, ...], out: Path, results: Path | None, late: tuple[Path, ...], as_json: bool) -> None:
    """Check RUNs against the rules of the results, and prepare the files and the text of a pull request."""
    plugins(late)
    from bench.cli import terminal_results

    if terminal_results.submission(runs, out, results, as_json):
        sys.exit(1)


@click.command()
@click.option("--reports/--no-reports", default=True, show_default=True, help="Renew reports/ first.")
def docs(reports: bool) -> None:
    """Renew what is generated in a checkout: reports/, the blocks of README.md, docs/methods.md, docs/cli.md."""
    from bench.cli import documents

    program = cast(click.Group, click.get_current_context().find_root().command)
    from bench.report.build import build
    from bench.results.provenance import ROOT

    if not (ROOT / "pyproject.toml").is_file():
        raise UsageError(f"{ROOT} is no checkout: there are no documents to renew")
    written = build(ROOT / "results", ROOT / "reports") if reports else []
    for path in [*written, *documents.renew(ROOT, program)]:
        click.echo(str(path.relative_to(ROOT)))
