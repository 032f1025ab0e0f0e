"""The report as one page: `index.html`, and below `page/` its scripts and its data.

Invariant: the page needs no server and asks for nothing but files beside it; data reaches it as JSON inside
scripts, in which no text of a model or a data set can end the script or become markup. Same results, same bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

from bench.core.content import digest
from bench.core.store import write_whole
from bench.report.page import methods, samples, summary
from bench.report.page.encoding import key, script
from bench.report.section import Section
from bench.report.text import leaderboard
from bench.report.text.verdict import by_table, lead
from bench.results.models import side_by_side
from bench.results.tables import Table
from bench.results.verdict import answers

INDEX = "index.html"
FOLDER = "page"
"""Beside the index: scripts, style and data."""
BUILT = f"{FOLDER}/data/built.js"
"""What an open page looks at for a newer report: the digest of this one, and whether a run is under way."""
STATIC = ("style.css", "core.js", "parts.js", "columns.js", "leaderboard.js", "methods.js", "cases.js", "answers.js",
          "samples.js", "app.js", "live.js")  # fmt: skip


def write(
    tables: Sequence[Table],
    out: Path,
    figures: Mapping[str, Sequence[tuple[str, str]]],
    below: Mapping[str, Sequence[Section]],
    to_come: int = 0,
) -> list[Path]:
    """Write the page into `out`, and take away data files of an earlier one; returns `index.html` alone.

    `figures` and `below` are what the leaderboard shows of each group: files in `out` with captions, and its sections.
    While a run is under way, `to_come` is how many methods it has yet to finish.
    """
    kept = set()
    digests = []
    for name, content in _files(tables, figures, below):
        digests.append((name, digest(content.decode("utf-8"))))
        kept.add(_renew(out / name, content))
    said = leaderboard.provisional(to_come)
    built = {"stamp": digest(digests), "live": to_come > 0, "to_come": to_come, "said": said}
    _renew(out / BUILT, script("built", built))  # last: who sees it finds the rest
    _clear(out, kept)
    return [out / INDEX]


def stop(out: Path) -> None:
    """Say in the provisional page in `out` that its run is not under way any more."""
    path = out / BUILT
    with suppress(OSError):  # there is none, or it cannot be written: whoever ends a run has more to tell
        _renew(path, path.read_bytes().replace(b'"live":true', b'"live":false'))


def _renew(path: Path, content: bytes) -> Path:
    if not (path.is_file() and path.read_bytes() == content):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    return path


def copy(out: Path, site: Path) -> None:
    """Bring the scripts and the data of the page in `out` to `site`, and take away those of an earlier copy."""
    files = sorted(path for path in (out / FOLDER).rglob("*") if path.is_file())
    for path in files:
        target = site / path.relative_to(out)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    _clear(site, {site / path.relative_to(out) for path in files})


def _clear(root: Path, kept: Container[Path]) -> None:
    """Remove the data files below `root` that are not `kept`, and folders left empty."""
    for path in sorted((root / FOLDER / "data").glob("*/*.js")):
        if path not in kept:
            path.unlink()
            if not any(path.parent.iterdir()):
                path.parent.rmdir()


def _files(
    tables: Sequence[Table],
    figures: Mapping[str, Sequence[tuple[str, str]]],
    below: Mapping[str, Sequence[Section]],
) -> Iterator[tuple[str, bytes]]:
    """Every file of the page by its place, the data of one table after the other and the first file last."""
    for table in tables:
        for name, value in _data(table):
            whole = f"{key(table.group)}/{name}"
            yield f"{FOLDER}/data/{whole}.js", script(whole, value)
    found = answers(tables)
    answered = by_table(found)
    first = {
        "tables": [
            summary.table(t, answered.get(t.group, []), figures.get(t.group, ()), below.get(t.group, ()))
            for t in tables
        ],
        "lead": lead(found),
        "across": [summary.across(one) for one in side_by_side(tables)],
        "methods": methods.described(row.run for table in tables for row in table.rows),
    }
    yield f"{FOLDER}/data/overview.js", script("overview", first)
    static = files("bench.report.page") / "static"
    for name in STATIC:
        yield f"{FOLDER}/{name}", (static / name).read_bytes()
    yield INDEX, (static / INDEX).read_bytes()


def _data(table: Table) -> Iterator[tuple[str, Any]]:
    for row in table.rows:
        yield methods.file_of(row.run), methods.details(row.run, table)
    yield from samples.shards(table)
