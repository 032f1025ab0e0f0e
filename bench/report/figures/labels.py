"""Names beside the points of a panel: each near its point, none over another name, a point or another's line.

Invariant: points stay where they are and names give way; a name for which there is no room is left out. The same
points get the same places.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

RADII = (*range(9, 60, 4), *range(60, 320, 12))
"""Distances from the point at which a place is looked for, in pixels, the nearest first."""
TURNS = 24
PAD = 2
"""Pixels that stay free around a name: an SVG's letters are not a PNG's to the pixel."""
MARK = 5
"""Half the width of a point's mark, in pixels."""
NEAR = 14
"""A name farther from its point than so many pixels has a line to it."""


class Box(NamedTuple):
    """A rectangle in pixels."""

    left: float
    low: float
    right: float
    high: float

    def meets(self, other: Box) -> bool:
        """Whether the two share more than an edge."""
        return self.left < other.right and other.left < self.right and self.low < other.high and other.low < self.high

    def holds(self, other: Box) -> bool:
        """Whether `other` lies within."""
        return (
            self.left <= other.left and other.right <= self.right and self.low <= other.low and other.high <= self.high
        )

    def wider(self, by: float) -> Box:
        return Box(self.left - by, self.low - by, self.right + by, self.high + by)

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """The place in the rectangle that is nearest to a point."""
        return min(max(x, self.left), self.right), min(max(y, self.low), self.high)

    def cut(self, line: Line) -> bool:
        """Whether a line from one point to another runs through the rectangle (Liang and Barsky's test)."""
        (x, y), (to_x, to_y) = line
        begin, end = 0.0, 1.0
        for start, step, low, high in ((x, to_x - x, self.left, self.right), (y, to_y - y, self.low, self.high)):
            if step == 0:
                if not low < start < high:
                    return False
                continue
            first, last = sorted(((low - start) / step, (high - start) / step))
            begin, end = max(begin, first), min(end, last)
        return begin < end


Line = tuple[tuple[float, float], tuple[float, float]]


def crossing(one: Line, two: Line) -> bool:
    """Whether two lines cross between their ends."""

    def side(line: Line, x: float, y: float) -> float:
        (a, b), (c, d) = line
        return (c - a) * (y - b) - (d - b) * (x - a)

    return side(one, *two[0]) * side(one, *two[1]) < 0 and side(two, *one[0]) * side(two, *one[1]) < 0


def places(
    points: Sequence[tuple[float, float]],
    named: Sequence[int],
    sizes: Sequence[tuple[float, float]],
    frame: Box,
    drawn: Sequence[Line] = (),
) -> list[Box | None]:
    """Where the names of points number `named` stand, in pixels; None where there is no room.

    `sizes` are the names' widths and heights, in the order of `named`: earlier ones choose first. Names lie in
    `frame`, and off the lines `drawn`.
    """
    marks = [Box(x, y, x, y).wider(MARK) for x, y in points]
    kept: dict[int, Box] = {}
    lines: list[Line] = []
    for at, size in zip(named, sizes, strict=True):
        point = points[at]
        # A line may leave a heap of points that lie on one another.
        others = [mark for mark in marks if not mark.meets(marks[at])]

        def clear(box: Box, point: tuple[float, float] = point) -> bool:
            wide, line = box.wider(PAD), (point, box.nearest(*point))
            return (
                frame.holds(wide)
                and not any(wide.meets(other) for other in (*kept.values(), *marks))
                and not any(wide.cut(other) for other in (*lines, *drawn))
                and not any(other.cut(line) for other in kept.values())
            )

        def straight(box: Box, point: tuple[float, float] = point, others: Sequence[Box] = others) -> bool:
            line = (point, box.nearest(*point))
            near = math.dist(*line)
            return (
                not any(other.cut(line) for other in others)
                and not any(crossing(line, other) for other in lines)
                # Nor may it seem another point's.
                and all(math.dist(box.nearest(*other), other) >= min(near, NEAR) for other in points)
            )

        around = [box for box in _around(point, size) if clear(box)]
        # In a crowd a line may run over other points and lines, but no name lies on anything.
        if box := next(filter(straight, around), around[0] if around else None):
            kept[at] = box
            lines.append((point, box.nearest(*point)))
    return [kept.get(at) for at in named]


def _around(point: tuple[float, float], size: tuple[float, float]) -> Iterator[Box]:
    """Boxes of a size around a point: to its right first, then by turns up and down to its left; then farther."""
    (x, y), (width, height) = point, size
    for radius in RADII:
        for turn in sorted(range(TURNS), key=lambda k: (min(k, TURNS - k), k)):
            angle = 2 * math.pi * turn / TURNS
            # The box touches the ring from outside, on the side that its angle points to.
            left = x + radius * math.cos(angle) - width * (1 - math.cos(angle)) / 2
            low = y + radius * math.sin(angle) - height * (1 - math.sin(angle)) / 2
            yield Box(left, low, left + width, low + height)


def label(
    panel: Any,
    points: Sequence[tuple[float, float]],
    names: Sequence[tuple[int, str, str]],
    size: float,
    lines: Sequence[Line] = (),
) -> None:
    """Write `names` (number of the point, text, colour) into a panel whose figure is laid out, the most needed first.

    `points`, and `lines` that no name may lie on, are in data units; `size` is the font's.
    """
    from matplotlib.text import Text

    def pixels(some: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(float(x), float(y)) for x, y in panel.transData.transform(some)]

    drawn = pixels(points)
    texts = [panel.annotate(text, points[at], fontsize=size, color=colour) for at, text, colour in names]
    extents = [Text.get_window_extent(text) for text in texts]
    frame = Box(*panel.get_window_extent().extents)
    sizes = [(one.width, one.height) for one in extents]
    off: list[Line] = [(start, end) for start, end in map(pixels, lines)]
    found = places(drawn, [at for at, _, _ in names], sizes, frame, off)
    for text, (at, words, colour), box in zip(texts, names, found, strict=True):
        text.remove()
        if box is None:
            continue
        x, y = drawn[at]
        near = box.nearest(x, y)
        scale = 72 / panel.figure.dpi
        line = None
        if math.dist(near, (x, y)) > NEAR:
            spot = ((near[0] - box.left) / (box.right - box.left), (near[1] - box.low) / (box.high - box.low))
            line = {"arrowstyle": "-", "color": colour, "lw": 0.5, "shrinkA": 0, "shrinkB": 3, "relpos": spot}
        panel.annotate(
            words,
            points[at],
            ((box.left - x) * scale, (box.low - y) * scale),
            textcoords="offset points",
            fontsize=size,
            color=colour,
            ha="left",
            va="bottom",
            arrowprops=line,
        ).set_in_layout(False)
