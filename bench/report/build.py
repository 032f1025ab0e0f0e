"""From results to reports: leaderboards as Markdown, CSV and JSON, and figures as PNG, SVG and CSV.

Invariant: a pure function of the results folder (and of the checked validity tables of judges, where the
folder has none); run twice, it gives identical bytes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.core.errors import UsageError
from bench.core.escape import name
from bench.core.paths import default_results
from bench.core.store import write_whole
from bench.report import page
from bench.report.figures import across_tasks, attacks, detection, forest, overhead, sample_efficiency, sweeps
from bench.report.figures.drawing import Figure, emit
from bench.report.section import Section
from bench.report.text import costs, leaderboard, monitors, opinions, sections as head_to_head, verdict
from bench.results.runs import load
from bench.results.tables import Table, tables
from bench.results.validity import validations, validity

FIGURES = (
    forest.best,
    forest.forest,
    detection.detection,
    attacks.attacks,
    overhead.pareto,
    sweeps.coefficients,
    sweeps.depths,
    forest.optimism,
)
"""What is drawn of each table, in this order; one that a table has nothing for gives none."""


def build(results: Path, out: Path) -> list[Path]:
    """Write the leaderboards and the figures of every table to `out`; returns the files."""
    found = tables(load(results))
    if not found:
        raise UsageError(f"no runs in {results}: run bench run first")
    out.mkdir(parents=True, exist_ok=True)
    curves = sample_efficiency.sections(found)
    below = {t.group: [*sections(t, (results, default_results())), *curves.get(t.group, [])] for t in found}
    images: dict[str, list[tuple[str, str]]] = {}
    drawn: list[Path] = []
    for group, stem, figure in figures(found, results):
        files = emit(figure, out / f"{stem}-{figure.kind}")
        images.setdefault(group, []).append((files[0].name, figure.caption))
        drawn += files
    names = [path.name for path in drawn]
    _clear(out, names)
    texts = {
        "leaderboard.md": leaderboard.markdown(found, images, below, verdict.section(found)),
        "leaderboard.csv": leaderboard.csv_of(found),
        "leaderboard.json": leaderboard.json_of(found, below, names),
    }
    for file, text in texts.items():
        write_whole(out / file, text.encode("utf-8", "replace"))
    shown = {group: [file for file, _ in found] for group, found in images.items()}
    return [*(out / file for file in texts), *drawn, *page.write(found, out, shown, below)]


def _clear(out: Path, kept: Sequence[str]) -> None:
    """Remove the figures that the report before this one listed, and this one has no more."""
    try:
        listed = json.loads((out / "leaderboard.json").read_text("utf-8"))["figures"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # no report before this one
    for old in listed:
        if (
            isinstance(old, str)
            and old == Path(old).name
            and old not in kept
            and old.endswith((".png", ".svg", ".csv"))
        ):
            (out / old).unlink(missing_ok=True)


def stem(table: Table) -> str:
    """What the names of a table's figures begin with."""
    spec = table.spec
    return name(f"{spec['task']}-{spec['model']}-{spec['protocol']['preset']}-{table.group[:6]}")


def figures(found: Sequence[Table], results: Path) -> Iterator[tuple[str, str, Figure]]:
    """(group, beginning of its files' names, figure): of each table, then of all together under the group ""."""
    for table in found:
        for draw in FIGURES:
            if table.concepts and (figure := draw(table)):
                yield table.group, stem(table), figure
    for table, figure in sample_efficiency.draw(found):
        yield table.group, sample_efficiency.stem(table), figure
    for model, figure in across_tasks.heat_maps(found):
        yield "", name(model), figure
    for arch in dict.fromkeys(a for table in found if (a := overhead.architecture(table))):
        yield "", name(arch.name.rstrip("/").split("/")[-1]), overhead.context(arch)
    if figure := across_tasks.judges(validations(results)):
        yield "", "judges", figure


def sections(table: Table, roots: Sequence[Path]) -> list[Section]:
    """What stands below a table: what may be claimed, how methods compare in detail, what they cost."""
    known = validity(roots, table.spec["judge"], table.spec["judge_params"])
    return [
        *opinions.sections(table, known),
        *head_to_head.sections(table),
        *monitors.sections(table),
        *costs.sections(table),
    ]


def publish(written: Sequence[Path], out: Path, site: Path) -> Path:
    """Copy a report to `site`, ready for any server of static files; returns its front page."""
    site.mkdir(parents=True, exist_ok=True)
    for path in written:
        target = site / path.relative_to(out)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    (site / ".nojekyll").touch()  # GitHub Pages would leave out names that begin with an underscore
    front = site / page.INDEX
    if out / page.INDEX in written:
        page.copy(out, site)
    else:
        write_whole(front, contents([path for path in written if path.parent == out]).encode())
    return front


def contents(files: Sequence[Path]) -> str:
    """A plain page that lists a report's files and shows its figures."""
    from html import escape

    shown = [f'<li><a href="{escape(p.name)}">{escape(p.name)}</a></li>' for p in files if p.suffix != ".svg"]
    images = [f'<img src="{escape(p.name)}" alt="{escape(p.stem)}">' for p in files if p.suffix == ".svg"]
    policy = "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'"
    return "\n".join(
        [
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>Steer or prompt?</title>',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            "<style>body{font:16px sans-serif;max-width:70rem;margin:2rem auto}img{width:100%;margin:1rem 0}</style>",
            "<h1>Steer or prompt?</h1>",
            *images,
            f"<ul>{''.join(shown)}</ul></html>",
            "",
        ]
    )
