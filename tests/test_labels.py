"""Names of points: none over another, each near its point, and the points of the cost figure where the data are."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
from matplotlib import rc_context
from page_cases import Recipe, price, write

from bench import results
from bench.report.figures import drawing, overhead
from bench.report.figures.labels import Box, crossing, places
from bench.results.tables import Table, tables

FRAME = Box(0, 0, 1000, 400)


def test_a_box_knows_what_meets_holds_and_cuts_it() -> None:
    box = Box(0, 0, 10, 4)
    assert box.meets(Box(9, 3, 20, 20))
    assert not box.meets(Box(10, 0, 20, 4))
    assert FRAME.holds(box)
    assert not FRAME.holds(box.wider(1))
    assert box.nearest(20, 2) == (10, 2)
    assert box.cut(((-5, 2), (15, 2)))
    assert box.cut(((-1, -1), (1, 1)))
    assert not box.cut(((-5, 2), (0, 2)))  # it ends at the edge
    assert not box.cut(((12, -5), (12, 9)))
    assert crossing(((0, 0), (2, 2)), ((0, 2), (2, 0)))
    assert not crossing(((0, 0), (2, 2)), ((0, 2), (0.5, 1.5)))


@pytest.mark.parametrize("heap", [1.0, 0.5, 0.2, 0.0])
def test_names_of_points_heaped_up_lie_apart_and_near(heap: float) -> None:
    """From points all over the frame to points on one spot, where few names have room."""
    rng = random.Random(3)
    points = [(500 + heap * rng.uniform(-450, 450), 200 + heap * rng.uniform(-180, 180)) for _ in range(24)]
    sizes = [(rng.uniform(20, 90), 11.0) for _ in points]
    lines = [((500.0, 0.0), (500.0, 150.0))]
    found = places(points, range(24), sizes, FRAME, lines)
    boxes = [box for box in found if box]
    assert len(boxes) >= 22 or heap == 0
    assert not any(one.meets(other) for one, other in combinations(boxes, 2))
    assert not any(box.wider(1).meets(Box(x, y, x, y).wider(4)) for box in boxes for x, y in points)
    assert not any(box.cut(line) for box in boxes for line in lines)
    assert all(FRAME.holds(box) for box in boxes)
    assert boxes
    assert found == places(points, range(24), sizes, FRAME, lines)
    nearest = found[0]
    assert nearest
    assert abs(nearest.left - points[0][0]) < 120  # who chooses first stands close by


def test_a_name_without_room_is_left_out() -> None:
    sizes = [(40.0, 11.0)] * 8
    found = places([(70, 30)] * 8, range(8), sizes, Box(0, 0, 140, 60))
    assert None in found
    boxes = [box for box in found if box]
    assert boxes
    assert not any(one.meets(other) for one, other in combinations(boxes, 2))


@pytest.fixture(scope="module")
def costly(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """25 methods with a record of their cost, most of equal cost and some that cost nothing."""
    root = tmp_path_factory.mktemp("costly")
    methods = [(f"a-way-{i}", "activations") for i in range(22)]
    recipe = Recipe([("prompt", "prompt"), *methods, ("b-way", "weights"), ("none", "control")], ("ocean", "sql"))
    for i, path in enumerate(write(recipe, root)):
        price(path, {0: 40, 1: 900, 2: 0, 24: 0}.get(i, 120), 1.02)
    (table,) = tables(results.load(root))
    return table


def panels(table: Table) -> Iterator[tuple[str, Any, Sequence[Mapping[str, Any]]]]:
    """(axis, panel laid out, the rows that were drawn) of the cost figure."""
    figure = overhead.pareto(table)
    assert figure
    with rc_context(drawing.STYLE):
        picture = figure.draw()
        picture.draw_without_rendering()
    for panel, axis in zip(picture.axes, ("token", "request"), strict=True):
        yield axis, panel, figure.rows


def test_every_point_of_the_cost_figure_is_where_its_cost_and_score_are(costly: Table) -> None:
    for axis, panel, rows in panels(costly):
        marks = [line.get_xydata()[0] for line in panel.lines if line.get_marker() not in (None, "None", "")]
        assert sorted(map(tuple, marks)) == sorted((p[f"{axis}_flops_percent"], p["overall"]) for p in rows)
        left, right = panel.get_xlim()
        assert all(left < x < right for x, _ in marks)
        zero, least = (panel.transData.transform((x, 0))[0] for x in (0, min(x for x, _ in marks if x > 0)))
        assert zero < least  # what costs nothing stands apart, at its own tick
        assert panel.get_xticklabels()[0].get_text() == "0"


def test_no_name_of_the_cost_figure_lies_on_another_or_on_a_point(costly: Table) -> None:
    from matplotlib.text import Annotation, Text

    for axis, panel, rows in panels(costly):
        names: list[Any] = [one for one in panel.texts if isinstance(one, Annotation)]
        shown = {name for one in names for name in one.get_text().split(", ")}
        assert len(shown) >= 12  # the rest score alike at one cost, and have no room
        assert {"prompt", "none"} | {p["method"] for p in rows if p[f"best_by_{axis}"] == "yes"} <= shown
        boxes = [Box(*Text.get_window_extent(one).extents) for one in names]
        assert [pair for pair in combinations(boxes, 2) if pair[0].meets(pair[1])] == []
        dots = panel.transData.transform([one.xy for one in names])
        assert not any(box.meets(Box(x, y, x, y).wider(3)) for box in boxes for x, y in dots)
        frame = Box(*panel.get_window_extent().extents)
        assert all(frame.holds(box) for box in boxes)
        drawn = [pair for line in panel.lines for pair in pairwise(panel.transData.transform(line.get_path().vertices))]
        assert not any(box.cut((tuple(a), tuple(b))) for box in boxes for a, b in drawn)


def test_the_cost_figure_is_the_same_twice(costly: Table, tmp_path: Path) -> None:
    one, two = (overhead.pareto(costly) for _ in range(2))
    assert one
    assert two
    files = [[path.read_bytes() for path in drawing.emit(f, tmp_path / name)] for f, name in ((one, "a"), (two, "b"))]
    assert files[0] == files[1]
