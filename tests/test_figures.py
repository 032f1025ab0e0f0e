"""Figures: three files each, the same bytes each time, told apart without colour, readable at fifty methods."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bench import report
from bench.report.build import _clear
from bench.report.figures import across_tasks, attacks, detection, drawing, forest, sweeps
from bench.report.figures.drawing import Figure, emit
from bench.results.runs import Run
from bench.results.tables import Table, data_name

ROOT = Path(__file__).resolve().parents[1]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_figure_is_a_png_an_svg_and_its_rows_and_comes_out_the_same(table: Table, tmp_path: Path) -> None:
    figure = forest.forest(table)
    first, again = emit(figure, tmp_path / "a.b"), emit(forest.forest(table), tmp_path / "c")
    assert [path.name for path in first] == ["a.b.png", "a.b.svg", "a.b.csv"]
    for one, two in zip(first, again, strict=True):
        assert one.read_bytes() == two.read_bytes()
    assert first[0].read_bytes().startswith(b"\x89PNG")
    assert first[0].stat().st_size < 200_000
    assert "<date>" not in first[1].read_text("utf-8").lower()
    assert "url(#clip0)" in first[1].read_text("utf-8")  # numbered: matplotlib's own names hold memory addresses
    kept = rows_of(first[2])
    assert [row["method"] for row in kept] == [row.name for row in table.rows]
    for line, row in zip(kept, table.rows, strict=True):
        assert float(line["overall"]) == pytest.approx(row.estimates["overall"].mean, rel=1e-4, abs=1e-6)
        assert bool(line["delta"]) == (row.against is not None)


def test_a_table_names_the_data_its_task_takes_by_itself() -> None:
    known = {"axbench": "mini", "axbench-detect": "concept10", "persona": "mini", "nobody-s": ""}
    assert {t: data_name({"task": t, "task_params": {}}) for t in known} == known
    assert data_name({"task": "axbench-detect", "task_params": {"data": "mine"}}) == "mine"


def luminance(colour: str) -> float:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue


def test_families_and_lines_are_told_apart_without_colour() -> None:
    styles = [*drawing.SURFACES.values(), drawing.OTHER]
    assert len({marker for _, marker in styles}) == len(styles)
    assert len({(str(dashes), marker) for _, dashes, marker in drawing.LINES}) == len(drawing.LINES)
    assert len({str(dashes) for _, dashes, _ in drawing.LINES}) == len(drawing.LINES)
    assert all(luminance(colour) < 0.62 for colour, _ in styles)  # dark enough on white, in grey too
    shipped = {row["surface"] for row in json.loads(_listed())}
    assert shipped <= set(drawing.SURFACES)


def _listed() -> str:
    from click.testing import CliRunner

    from bench.cli.main import main

    return CliRunner().invoke(main, ["list", "methods", "--json"]).stdout


def many(table: Table, number: int) -> Table:
    """The table with its runs again under other names."""
    import dataclasses

    rows = [
        dataclasses.replace(table.rows[i % len(table.rows)], name=f"{table.rows[i % len(table.rows)].name}-{i}")
        for i in range(number)
    ]
    return dataclasses.replace(table, rows=tuple(rows), reference=rows[1].name)


@pytest.mark.slow
def test_fifty_methods_fit_a_page_with_a_line_each(table: Table, tmp_path: Path) -> None:
    assert forest.best(many(table, 25)) is None
    front = forest.best(many(table, 50))
    assert front
    assert len(front.rows) == 10 + sum(row.run.surface == "control" for row in many(table, 50).rows[10:])
    for figure in (forest.forest(many(table, 50)), forest.optimism(many(table, 50))):
        assert figure
        png, *_ = emit(figure, tmp_path / figure.kind)
        with Image.open(png) as image:
            width, height = image.size
            assert 20 <= height / 50 <= 40  # a line of text, and not more than two screens
            assert width < 1800
            grey = image.convert("L")
            assert grey.getextrema()[0] < 40
        assert png.stat().st_size < 250_000


def attacked(table: Table) -> Table:
    """The table with its overall score standing for every kind of attack."""
    import dataclasses

    kinds = ("plain", "append", "prepend", "shots-1", "shots-4", "shots-12")
    rows = tuple(
        dataclasses.replace(row, estimates=dict.fromkeys((*kinds, "overall"), row.estimates["overall"]))
        for row in table.rows
    )
    return dataclasses.replace(table, axes=(*kinds, "overall"), rows=rows)


@pytest.mark.slow
def test_attacks_have_a_point_by_kind_and_number_of_shots(table: Table, tmp_path: Path) -> None:
    assert attacks.attacks(table) is None
    figure = attacks.attacks(attacked(table))
    assert figure
    kept = rows_of(emit(figure, tmp_path / "attacks")[2])
    assert len(kept) == 6 * len(table.rows)
    assert {(row["attack"], row["shots"]) for row in kept} >= {("plain", "0"), ("append", ""), ("shots-12", "12")}


def test_detection_keeps_every_concept(committed_tables: list[Table], table: Table) -> None:
    assert detection.detection(table) is None
    detected = next(t for t in committed_tables if t.kind == "detector")
    figure = detection.detection(detected)
    assert figure
    assert len(figure.rows) == len(detected.axes[:-1]) * len(detected.rows) * (1 + len(detected.concepts))
    assert {"auroc", "f1_rare", "hard_accuracy"} <= {row["axis"] for row in figure.rows}


def test_curves_begin_at_the_bare_model(table: Table) -> None:
    figure = sweeps.coefficients(table)
    assert figure
    bare = next(row.run for row in table.rows if row.name == "none")
    known = [v for v in bare.scores("overall", "select").values() if v is not None]
    own = [r for r in figure.rows if r["method"] == "diffmean" and r["axis"] == "overall"]
    assert own[0]["coefficient"] == 0
    assert own[0]["mean"] == pytest.approx(sum(known) / len(known), abs=1e-6)
    assert [r["coefficient"] for r in own[1:]] == table.spec["protocol"]["coefficients"]
    assert {r["axis"] for r in figure.rows} == {"overall", "concept", "instruction", "fluency"}
    assert not [r for r in figure.rows if r["surface"] == "combination" and r["coefficient"] == 0]


def test_a_curve_over_folds_has_no_interval(committed_tables: list[Table]) -> None:
    """Two folds are no sample of anything: the questions are, and select scores are kept by fold."""
    asked = next(t for t in committed_tables if t.spec["task"] == "truthfulqa")
    figure = sweeps.coefficients(asked)
    assert figure
    assert all(math.isnan(row["low"]) and math.isnan(row["high"]) for row in figure.rows)
    assert all(math.isfinite(row["mean"]) for row in figure.rows)


def test_the_heat_map_has_the_numbers_of_the_leaderboards(committed_tables: list[Table]) -> None:
    for model, figure in across_tasks.heat_maps(committed_tables):
        own = [t for t in committed_tables if t.spec["model"] == model]
        assert len(figure.rows) == sum(len(t.rows) for t in own)
        means = {row.estimates["overall"].mean for t in own for row in t.rows}
        assert {row["overall"] for row in figure.rows} == means
        assert all(0 <= row["share"] <= 1 for row in figure.rows if row["share"] > 0)
    assert across_tasks.heat_maps(committed_tables[:1]) == []


def test_validity_shows_every_judge_and_nothing_without_one() -> None:
    saved = [json.loads(p.read_text("utf-8")) for p in sorted((ROOT / "results" / "judges").glob("*.json"))]
    figure = across_tasks.judges(saved)
    assert figure
    assert {row["judge"] for row in figure.rows} == {t["judge"] for t in saved if t["axes"]}
    assert across_tasks.judges([]) is None


def test_a_name_with_a_dollar_sign_is_drawn_as_it_is(tmp_path: Path) -> None:
    def draw() -> Any:
        picture = drawing.canvas(2, 1)
        picture.suptitle("$\\frac{broken")
        return picture

    assert len(emit(Figure("x", "y", [{"a": 1}], draw), tmp_path / "x")) == 3


def test_a_long_title_takes_lines_and_is_not_cut(table: Table) -> None:
    title = " · ".join(["axbench (mine) on a model", "preset quick", "judge of some name", "below its gate"] * 3)
    picture = forest.forest(dataclasses.replace(table, title=title)).draw()
    picture.draw_without_rendering()
    (drawn,) = [text for text in picture.texts if text.get_text().startswith(title)]
    width = picture.canvas.get_width_height()[0]
    box = drawn.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= width


def test_a_figure_that_is_drawn_no_more_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "mine.png").write_text("kept")
    (tmp_path / "old.png").write_text("of a report before")
    listed = {"figures": ["old.png", "../outside.png", "mine.txt", 3]}
    (tmp_path / "leaderboard.json").write_text(json.dumps(listed))
    (tmp_path / "mine.txt").write_text("kept")
    outside = tmp_path.parent / "outside.png"
    outside.write_text("kept")
    _clear(tmp_path, ["new.png"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["leaderboard.json", "mine.png", "mine.txt"]
    assert outside.is_file()


def test_a_run_has_one_stem(table: Table) -> None:
    run: Run = table.rows[0].run
    assert report.stem(table).startswith(f"{run.data['spec']['task']}-{run.data['spec']['model']}-standard-")
