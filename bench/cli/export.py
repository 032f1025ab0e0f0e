"""`bench export`: a run's steerings as files of other programs, or the run itself in formats that others read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from bench.cli.console import confirm, echo, say
from bench.cli.options import force_option, json_option, named, plugin_option, plugins, results_option
from bench.core import hub
from bench.core.errors import BenchError, UsageError
from bench.core.store import write_over
from bench.interchange.places import SCHEME, repository
from bench.report.formats import every_eval_files, hub_files, inspect_files
from bench.results.runs import Run
from bench.run.export import caveat, every, export as write

RECORDS = {"eee": ("", every_eval_files), "inspect": ("logs", inspect_files)}
"""Formats of a whole run: the folder that is usual there ("": named as the run), and what makes the files."""


@click.command()
@click.argument("run")
@click.option(
    "--format",
    "form",
    type=click.Choice(["eee", "gguf", "hub", "inspect", "json", "lm-eval", "peft", "safetensors"]),
    default="safetensors",
    show_default=True,
)
@click.option("--concept", default="", help="Only this concept's steering, as one file.")
@click.option(
    "--out",
    help="Folder, or the file of one concept [named as the run; inspect: logs]; hub: hf://OWNER/NAME sends it there.",
)
@click.option("--yes", is_flag=True, help="Send to the hub without asking.")
@force_option
@results_option
@plugin_option
@json_option
def export(
    run: str,
    form: str,
    concept: str,
    out: str | None,
    yes: bool,
    force: bool,
    results: Path | None,
    late: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Write the steering behind RUN's number as files: llama.cpp, lm-eval, peft, or all of it as safetensors.

    Or the run itself, with its answers and ratings: eee for Every Eval Ever, inspect for `inspect view`. hub is both: a
    model card, results and steerings, as a repository of the Hugging Face hub has them.
    """
    plugins(late)
    if out and out.startswith(SCHEME) and form != "hub":
        raise UsageError(f"--format {form} writes here: {SCHEME} is for --format hub")
    if concept and (form in RECORDS or form == "hub"):
        raise UsageError(f"--format {form} writes the whole run: --concept is for steerings")
    found = named(run, results)
    if form == "hub":
        rows = _to_hub(found, out or found.path.parent.name, yes, force)
    elif form in RECORDS:
        usual, made = RECORDS[form]
        folder = Path(out or usual or found.path.parent.name)
        files = {folder / name: content for name, content in made(found).items()}
        write_over(files, force)
        rows = [{"path": str(path)} for path in files]
    else:
        rows = write(found, form, concept, Path(out) if out else None, force)
    echo(json.dumps(rows, indent=1) if as_json else "\n".join(row["path"] for row in rows))
    if note := caveat(found, form):
        echo(f"bench: {note}", err=True)


def _to_hub(run: Run, place: str, yes: bool, force: bool) -> list[dict[str, Any]]:
    """Write a repository of the hub into a folder, or send it to the repository that `place` names."""
    sent = place.startswith(SCHEME)
    repo, below = repository(place) if sent else ("", "")
    if below:
        raise UsageError(f"{place}: a run goes to a whole repository, hf://{repo}")
    try:
        steerings = every(run)
    except BenchError as error:
        say(f"without the steerings: {error}")
        steerings = {}
    names = {concept: file for concept, (file, _) in steerings.items()}
    files = dict(steerings.values()) | (hub_files(run, names, place) if sent else hub_files(run, names))
    if not sent:
        write_over({Path(place) / name: content for name, content in files.items()}, force)
        return [{"path": str(Path(place) / name)} for name in files]
    _consent(repo, files, yes)
    say(f"sent: {hub.send(repo, files, f'{run.path.parent.name} with {len(steerings)} steerings')}")
    return [{"path": f"{SCHEME}{repo}/{name}"} for name in files]


def _consent(repo: str, files: dict[str, bytes], yes: bool) -> None:
    """Ask before anything leaves the machine."""
    size = sum(map(len, files.values())) / 1e6
    told = f"{len(files)} files ({size:.1f} MB) go to {SCHEME}{repo}, which is public unless you made it private"
    if yes:
        return
    confirm(told, "say --yes")
