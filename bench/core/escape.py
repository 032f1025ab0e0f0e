"""Text of models, data sets and plugins, made harmless for the place it is written to.

Invariant: nothing a model, a data set or a server says can start a formula in a spreadsheet, open a tag, a link or a
new cell in a page, or steer a terminal.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.core.content import digest

FORMULA = re.compile(r"^'*\s*[=+\-@\t\r\n]")
"""With apostrophes of its own before it, so that taking away the one which guards a text gives that text."""
NUMBER = re.compile(r"^[+-]?\d+(\.\d*)?(e[+-]?\d+)?$", re.IGNORECASE)
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
"""What steers a terminal or turns a line's direction, line ends and tabs apart; and halves of surrogate pairs."""
LINK = re.compile(r"\b(?:https?|ftp)://|\bwww\.", re.IGNORECASE)


def printable(text: str) -> str:
    """`text` as a terminal may have it: characters that would steer it are shown as unknown ones."""
    return CONTROL.sub("\ufffd", text)


def dumped(value: Any) -> str:
    """`value` as JSON for readers and terminals: what would steer one is escaped, and so the value is the same."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    return CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def cell(text: str) -> str:
    """`text` as one cell of a Markdown table: it shows as itself and does nothing."""
    flat = " ".join(re.sub(r"[\x00-\x1f\x7f\u0085\u2028\u2029]", " ", text).split())
    flat = re.sub("[&<>@]", lambda found: ENTITIES[found[0]], flat)
    flat = re.sub(LINK, lambda found: found[0].replace("/", "&#47;").replace(".", "&#46;"), flat)
    return re.sub(r"([\\`*_\[\]|~$!]|(?<!&)#)", r"\\\1", flat)


def row(cells: Iterable[str]) -> str:
    """One line of a Markdown table, from cells that are escaped already."""
    return f"| {' | '.join(cells)} |"


def head(*names: str) -> list[str]:
    """The first two lines of a Markdown table."""
    return [row(map(cell, names)), "|" + "---|" * len(names)]


LONGEST = 120
"""Bytes of a name that a text gives to a file; with what is put around it, it stays below the 255 of file systems."""
DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


def name(text: str) -> str:
    """`text` as part of a file's name on any system: letters, digits and `.()+=-_`; a long one ends in its digest."""
    safe = re.sub(r"[^\w.()+=-]+", "-", unicodedata.normalize("NFC", text)).strip(".") or "unnamed"
    if DEVICE.match(safe):
        safe = f"_{safe}"
    if len(safe.encode()) <= LONGEST:
        return safe
    return f"{safe.encode()[: LONGEST - 9].decode(errors='ignore')}-{digest(text)[:8]}"


def plain(value: Any) -> Any:
    """A value as a CSV cell: numbers short, unknown ones empty, text that a spreadsheet would run as text."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return guarded(value.replace("\r\n", "\n").replace("\r", "\n")) if isinstance(value, str) else value


def guarded(text: str) -> str:
    """`text` behind an apostrophe where a spreadsheet would run it."""
    return f"'{text}" if FORMULA.match(text) and not NUMBER.match(text) else text


def unguarded(text: str) -> str:
    """What `guarded` was given."""
    return text[1:] if text[:1] == "'" and guarded(text[1:]) == text else text


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys as CSV under their keys."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = list(dict.fromkeys(key for found in rows for key in found))
    writer.writerow(map(plain, columns))
    writer.writerows([plain(found.get(key)) for key in columns] for found in rows)
    return out.getvalue()
