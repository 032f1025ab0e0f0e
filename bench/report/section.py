"""A headed part of a report as data: tables, lists and paragraphs of plain text.

Invariant: what stands in Markdown, in JSON and on the page is the same value; text is escaped where it is written.
Between backticks stands code, which is all the markup there is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.core.escape import cell, head, row

SAFE = re.compile(r"(`[\w .:/=-]+`|\[[-+\d., ]+\](?![(\[:]))")
"""Code that can hold no markup, and intervals; other backticks and brackets are text."""
FIGURE = re.compile(r"(?:[-+\d.,%\[\] –]|p |<\.)*")
"""Numbers with their intervals and p-values: `[`, `]` and `<` can do nothing among these characters."""


@dataclass(frozen=True)
class Grid:
    """A table of text; every row has a cell for each column."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """A heading over tables, lists (tuples of text) and paragraphs."""

    heading: str
    parts: tuple[Grid | tuple[str, ...] | str, ...]


def prose(text: str) -> str:
    """A sentence as Markdown: code stays code, all else shows as itself."""
    return "".join(part if i % 2 else _spaced(part) for i, part in enumerate(SAFE.split(text)))


def _spaced(text: str) -> str:
    """`cell` of a part of a line, with a space at an end where it had one, or a new line."""
    before, after = text[:1].isspace(), text[-1:].isspace() and text.strip()
    return (" " if before else "") + cell(text) + (" " if after else "")


def grid(found: Grid) -> list[str]:
    """A table as lines of Markdown."""
    rows = ([text if FIGURE.fullmatch(text) else cell(text) for text in cells] for cells in found.rows)
    return [*head(*found.columns), *map(row, rows)]


def markdown(section: Section) -> list[str]:
    """A section as lines of Markdown, an empty line between its parts."""
    lines = [prose(section.heading)]
    for part in section.parts:
        lines.append("")
        if isinstance(part, str):
            lines.append(prose(part))
        else:
            lines += [f"- {prose(item)}" for item in part] if isinstance(part, tuple) else grid(part)
    return lines


def as_json(sections: Sequence[Section]) -> list[dict[str, Any]]:
    """Sections for programs and for the page: parts are `table`, `list` or `text`."""
    return [{"heading": one.heading, "parts": [_plain(part) for part in one.parts]} for one in sections]


def _plain(part: Grid | tuple[str, ...] | str) -> dict[str, Any]:
    if isinstance(part, str):
        return {"text": part}
    return {"list": list(part)} if isinstance(part, tuple) else {"table": [list(part.columns), *map(list, part.rows)]}
