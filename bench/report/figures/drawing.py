"""One way to draw and to keep a figure: as PNG, as SVG, and its numbers as CSV.

Invariant: the same data gives the same bytes; what colour tells apart, a marker, a dash or a number does too.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.escape import csv_text, printable
from bench.core.store import write_whole

SURFACES = {
    "prompt": ("#D55E00", "s"),
    "decoding": ("#8C510A", "p"),
    "activations": ("#0072B2", "o"),
    "weights": ("#009E73", "v"),
    "combination": ("#B0528A", "D"),
    "control": ("#5A5A5A", "^"),
    "detector": ("#C58400", "P"),
}
"""Colour (Okabe and Ito's, some darkened for thin lines) and marker of each surface."""
OTHER = ("#56B4E9", "X")
LINES = (
    ("#111111", "-", "o"),
    ("#0072B2", (0, (4, 1.5)), "s"),
    ("#D55E00", (0, (1, 1)), "^"),
    ("#009E73", (0, (5, 1.5, 1, 1.5)), "D"),
    ("#B0528A", (0, (2, 1)), "v"),
    ("#C58400", (0, (7, 2)), "P"),
    ("#3B8FC4", (0, (3, 1, 1, 1, 1, 1)), "X"),
    ("#7A5C3A", (0, (8, 1.5, 2, 1.5)), "*"),
)
"""Colour, dashes and marker of lines that share a panel, in order."""
DPI = 130
GRID = "#dedede"
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "svg.hashsalt": "bench",
    "svg.fonttype": "path",
    "text.parse_math": False,  # names come from plugins and data: a dollar sign is a dollar sign
}


@dataclass(frozen=True)
class Figure:
    """A picture to be drawn, and the rows it shows."""

    kind: str
    caption: str
    rows: Sequence[Mapping[str, Any]]
    draw: Callable[[], Any]
    """Makes the matplotlib figure."""


def surface(name: str) -> tuple[str, str]:
    """Colour and marker of a surface."""
    return SURFACES.get(name, OTHER)


def canvas(width: float, height: float) -> Any:
    """An empty matplotlib figure of so many inches, outside of pyplot's global state."""
    from matplotlib.figure import Figure as Picture

    return Picture(figsize=(width, height), dpi=DPI, layout="constrained")


def titled(figure: Any, text: str) -> None:
    """Set the title of a figure, on as many lines as its width asks for."""
    figure.suptitle(text, fontsize=9, wrap=True)


def handle(**style: Any) -> Any:
    """An entry of a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], **{"ls": "", "color": "#333333"} | style)


def surfaces(names: Sequence[str]) -> list[Any]:
    """Legend entries of the surfaces among `names`."""
    known = [name for name in SURFACES if name in names] + sorted(set(names) - set(SURFACES))
    return [handle(color=surface(name)[0], marker=surface(name)[1], ms=5, label=name) for name in known]


def emit(figure: Figure, path: Path) -> list[Path]:
    """Write `path` with .png, .svg and .csv; returns the files."""
    files = drawn(figure, path)
    for file, content in files.items():
        write_whole(file, content)
    return list(files)


def drawn(figure: Figure, path: Path) -> dict[Path, bytes]:
    """`path` with .png, .svg and .csv, and what belongs there."""
    from matplotlib import rc_context

    with rc_context(STYLE), _harmless():
        picture = figure.draw()
        picture.draw_without_rendering()
        picture.set_layout_engine("none")  # laid out once: it takes longer than drawing
        images = {".png": _png(picture), ".svg": _svg(picture)}
    found = images | {".csv": csv_text(figure.rows).encode("utf-8", "replace")}
    return {path.with_name(path.name + suffix): content for suffix, content in found.items()}


@contextmanager
def _harmless() -> Iterator[None]:
    """While every text of a picture, its ticks' too, is set without what is no XML or what a font cannot take."""
    from matplotlib.text import Text

    plainly = Text.set_text
    Text.set_text = lambda self, s: plainly(self, printable(s) if isinstance(s, str) else s)  # type: ignore[method-assign]
    try:
        yield
    finally:
        Text.set_text = plainly  # type: ignore[method-assign]


def _png(picture: Any) -> bytes:
    """With a palette of 256 colours, which pictures of this kind need no more than: half the size."""
    from PIL import Image

    drawn, kept = io.BytesIO(), io.BytesIO()
    picture.savefig(drawn, format="png", dpi=DPI, metadata={"Software": None})
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
            kept, "PNG", optimize=True
        )
    return kept.getvalue()


def _svg(picture: Any) -> bytes:
    drawn = io.BytesIO()
    picture.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    return _numbered(drawn.getvalue())


def _numbered(svg: bytes) -> bytes:
    """Its clip paths numbered in order: matplotlib names them by a memory address, which differs between processes."""
    names: dict[bytes, bytes] = {}
    return re.sub(rb"\bp[0-9a-f]{10}\b", lambda found: names.setdefault(found[0], b"clip%d" % len(names)), svg)
