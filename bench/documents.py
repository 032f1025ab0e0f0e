"""What is generated in the documentation: docs/methods.md, docs/cli.md, and the blocks of README.md.

Invariant: each is a function of the code and the committed results, so that a test can say when one is stale.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click

from bench import catalogue, opinions, registry, results
from bench import report as reports
from bench.escape import cell, head, row
from bench.report import forest, leaderboard
from bench.report.opinions import claims
from bench.results import Table
from bench.schema import BenchError
from bench.store import write_whole

COMMAND = "bench docs"
FAMILIES = {
    "prompting": "text before or around the question",
    "direction": "a vector from activations, nothing trained",
    "trained": "vectors, adapters and hypernetworks, trained",
    "combination": "two at once",
    "detector": "tells texts apart, does not steer",
    "control": "what any of them must beat",
}


def renew(root: Path) -> list[Path]:
    """Write every generated document of the checkout at `root`; returns the files."""
    readme = root / "README.md"
    texts = {
        root / "docs" / "methods.md": catalogue.document(),
        root / "docs" / "cli.md": commands(),
        readme: filled(readme.read_text("utf-8"), blocks(root)),
    }
    for path, text in texts.items():
        write_whole(path, text.encode())
    return list(texts)


def filled(text: str, found: Mapping[str, str]) -> str:
    """`text` with each block between `<!-- name: … -->` and `<!-- /name -->` replaced."""
    for name, block in found.items():
        mark = re.compile(rf"(<!-- {name}:[^>]*-->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if len(mark.findall(text)) != 1:
            raise BenchError(f"README.md: it needs one block from <!-- {name}: … --> to <!-- /{name} -->")
        text = mark.sub(lambda at, block=block: f"{at[1]}{block}\n{at[2]}", text)  # type: ignore[misc]
    return text


def blocks(root: Path) -> dict[str, str]:
    """The README's generated blocks by name."""
    return {"leaderboard": _leaderboard(results.tables(results.load(root / "results"))), "methods": _methods()}


def headline(tables: Sequence[Table]) -> Table:
    """The table the README shows: of concept steering, the one with most methods."""
    return max((t for t in tables if t.spec["task"] == "axbench"), key=lambda t: len(t.rows))


def _leaderboard(tables: Sequence[Table]) -> str:
    table = headline(tables)
    shown = leaderboard.best(table)
    image = f"reports/{reports.stem(table)}-{'best' if forest.best(table) else 'forest'}.png"
    head_, line, *rows = leaderboard.grid(table, shown)
    gap = [row(["…"] * len(leaderboard.headings(table)))] if len(table.rows) > leaderboard.TOP else []
    lines = [f"![{cell(leaderboard.title(table))}: each method minus {cell(table.reference or 'prompt')}]({image})", ""]
    if second := opinions.second(table):
        lines += [*(f"- {said}" for said in claims(table, second)), ""]
    lines += [head_, line, *rows[: leaderboard.TOP], *gap, *rows[leaderboard.TOP :], ""]
    note = f"The best {leaderboard.TOP} of {len(table.rows)} methods, with" if gap else "All methods, with"
    lines.append(f"{note} the controls. Every table and figure: [reports/leaderboard.md](reports/leaderboard.md).")
    return "\n".join(lines)


def _methods() -> str:
    """Shipped methods by family, each with a link to its section."""
    import methods

    shipped = [cls for cls in registry.table("method").values() if cls.__module__.startswith("methods.")]
    lines = head("family", "what it is", "methods")
    for family, what in FAMILIES.items():
        names = [f"[{cls.name}](docs/methods.md#{cls.name})" for cls in shipped if cls.family == family]
        if family == "combination":
            names = [f"`{name}`" for name in methods.COMBINATIONS] + ["any `a+b`"]
        lines.append(row((family, what, ", ".join(sorted(names)))))
    if strange := {cls.family for cls in shipped} - set(FAMILIES):
        raise BenchError(f"bench/documents.py does not say what the family {sorted(strange)[0]!r} is")
    return "\n".join(lines)


def commands() -> str:
    """docs/cli.md: the help text of every command, as `--help` prints it at 100 columns."""
    from bench.cli import main

    lines = ["# Commands", "", f"What `--help` prints, of every command. Generated: `{COMMAND}`.", ""]
    for context in _walk(click.Context(main, info_name="bench", terminal_width=100, **main.context_settings)):
        lines += [f"## {context.command_path}", "", "```text", context.get_help().rstrip(), "```", ""]
    return "\n".join(lines)


def _walk(context: click.Context) -> Iterator[click.Context]:
    """The context of a command and of everything below it, by name."""
    yield context
    if isinstance(context.command, click.Group):
        for name, command in sorted(context.command.commands.items()):
            yield from _walk(click.Context(command, parent=context, info_name=name, terminal_width=100))
