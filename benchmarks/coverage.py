"""How often 95 % intervals hold the true mean, by simulation: the table of docs/statistics.md.

    python benchmarks/coverage.py            # a few minutes on one core; rewrites the table in the docs

Invariant: every cell is the same function of its distribution, number of concepts, form and seed, so that a
test can measure any cell again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import stats as distributions

from bench import stats
from bench.core.content import Array

DOCS = Path(__file__).resolve().parents[1] / "docs" / "statistics.md"
MARK = "<!-- coverage: written by benchmarks/coverage.py -->"
REPLICATIONS, RESAMPLES = 10_000, 1999
SIZES = (10, 12, 30)
FORMS = {"Student's t": "student", "bootstrap-t": "t", "BCa": "bca"}
Draw = Callable[[np.random.Generator, tuple[int, int]], Array]
SHAPES: dict[str, tuple[Draw, float]] = {
    "normal": (lambda rng, size: rng.normal(1, 0.4, size), 1.0),
    "exponential (skewness 2)": (lambda rng, size: rng.exponential(0.5, size), 0.5),
    "gamma, shape 4 (1)": (lambda rng, size: rng.gamma(4, 0.1, size), 0.4),
    "log-normal, σ 0.5 (1.75)": (lambda rng, size: rng.lognormal(0, 0.5, size), float(np.exp(0.125))),
    "beta(½, 2) on 0 to 2 (1.25)": (lambda rng, size: 2 * rng.beta(0.5, 2, size), 0.4),
}
"""What the intervals are held to."""
HARD: dict[str, tuple[Draw, float]] = {
    "60 % zeros, else uniform on 0.5 to 2": (
        lambda rng, size: np.where(rng.random(size) < 0.6, 0.0, rng.uniform(0.5, 2, size)),
        0.5,
    ),
    "uniform on 0 to 2": (lambda rng, size: rng.uniform(0, 2, size), 1.0),
    "80 % at the ceiling, else uniform": (
        lambda rng, size: np.where(rng.random(size) < 0.8, 2.0, rng.uniform(0, 2, size)),
        1.8,
    ),
    "log-normal, σ 1 (6.2)": (lambda rng, size: rng.lognormal(0, 1, size), float(np.exp(0.5))),
}
"""Where they are known to cover too much or too little."""


def coverage(shape: str, n: int, form: str, replications: int, seed: int, resamples: int = RESAMPLES) -> float:
    """Share of `replications` samples of `n` concepts whose 95 % interval holds the true mean."""
    draw, mean = (SHAPES | HARD)[shape]
    x = draw(np.random.default_rng([seed, n]), (replications, n))
    if form == "student":
        half = distributions.t.ppf(0.975, n - 1) * x.std(1, ddof=1) / np.sqrt(n)
        low, high = x.mean(1) - half, x.mean(1) + half
    else:
        kept, stats.RESAMPLES = stats.RESAMPLES, resamples
        try:
            blocks = [stats.intervals(block, form="bca" if form == "bca" else "t") for block in np.array_split(x, 10)]
        finally:
            stats.RESAMPLES = kept
        low, high = (np.concatenate(ends) for ends in zip(*blocks, strict=True))
    return float(((low <= mean + 1e-12) & (mean - 1e-12 <= high)).mean())


def table() -> list[str]:
    """Markdown rows: distributions against forms and numbers of concepts, in percent."""
    columns = [(title, form, n) for title, form in FORMS.items() for n in SIZES]
    lines = [f"| distribution | {' | '.join(f'{title}, {n}' for title, _, n in columns)} |"]
    lines.append("|---|" + "---|" * len(columns))
    for group in (SHAPES, HARD):
        for shape in group:
            cells = [f"{100 * coverage(shape, n, form, REPLICATIONS, seed=0):.1f}" for _, form, n in columns]
            lines.append(f"| {shape} | {' | '.join(cells)} |")
            print(lines[-1], file=sys.stderr, flush=True)
    return lines


def measured() -> dict[tuple[str, str, int], float]:
    """The table as the docs have it: (distribution, form, concepts) -> coverage."""
    block = DOCS.read_text("utf-8").split(MARK)[1]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.strip().splitlines()]
    keys = [(FORMS[title], int(n)) for title, n in (name.rsplit(", ", 1) for name in rows[0][1:])]
    return {
        (row[0], form, n): float(cell) / 100 for row in rows[2:] for (form, n), cell in zip(keys, row[1:], strict=True)
    }


def main() -> None:
    before, _, after = DOCS.read_text("utf-8").split(MARK)
    DOCS.write_text(f"{before}{MARK}\n{chr(10).join(table())}\n{MARK}{after}", "utf-8")


if __name__ == "__main__":
    main()
