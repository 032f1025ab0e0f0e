"""What the README stands on, computed again from the raw answers by other code: numpy, and nothing of `bench.stats`.

Read are the samples of each committed run as JSON; compared is what `bench.results` makes of the same folder.
Intervals rest on draws of their own, and so agree within the noise of drawing.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.results.frames import load

ROOT = Path(__file__).parent.parent / "results"
AXES = ("concept", "instruction", "fluency")
"""Those of `axbench`, whose harmonic mean is the overall score."""
TASKS = ("axbench", "constraints")
"""Beginnings of the names of tasks whose units are concepts or rules."""


@pytest.fixture(scope="module")
def published() -> Any:
    return load(ROOT)


@pytest.fixture(scope="module")
def raw() -> dict[str, dict[str, Any]]:
    runs = (json.loads(path.read_text("utf-8")) for path in sorted(ROOT.glob("*/*/*/run.json")))
    return {run["id"]: run for run in runs}


def by_concept(run: dict[str, Any], axis: str) -> dict[str, float]:
    """The mean rating of each concept's test answers."""
    found = defaultdict(list)
    for sample in run["samples"]:
        if (value := sample["ratings"].get(axis)) is not None:
            found[sample["concept"]].append(value)
    return {concept: float(np.mean(values)) for concept, values in found.items()}


def generated(table: pd.DataFrame, raw: dict[str, dict[str, Any]]) -> list[tuple[Any, dict[str, Any]]]:
    """The rows of tables of answers over concepts, with their runs."""
    rows = [(row, raw[row.id]) for row in table.itertuples() if row.task.startswith(TASKS) and row.generations > 0]
    assert len(rows) > 50
    return [(row, run) for row, run in rows if len(run["concepts"]) > 5 and row.task != "axbench-detect"]


def test_an_answers_overall_score_is_the_harmonic_mean_of_its_axes(raw: dict[str, dict[str, Any]]) -> None:
    seen = 0
    for run in raw.values():
        for sample in run["samples"] if run["spec"]["task"] == "axbench" else ():
            axes = [sample["ratings"][axis] for axis in AXES]
            if None not in axes:
                mean = 0.0 if min(axes) <= 0 else len(axes) / sum(1 / axis for axis in axes)
                assert sample["ratings"]["overall"] == pytest.approx(mean, abs=2e-3)
                seen += 1
    assert seen > 1000


def test_scores_of_methods_are_means_over_concepts(published: Any, raw: dict[str, dict[str, Any]]) -> None:
    for row, run in generated(published.table(), raw):
        for axis in ("overall", "instruction", "fluency"):
            means = np.array(list(by_concept(run, axis).values()))
            if not len(means):  # not an axis of this task
                continue
            assert getattr(row, axis) == pytest.approx(means.mean(), abs=1e-4), (row.method, axis)


def test_intervals_hold_against_other_draws(published: Any, raw: dict[str, dict[str, Any]]) -> None:
    """The bootstrap-t over concepts, the error of a resample at least half the observed one."""
    rng, seen = np.random.default_rng(7), 0
    for row, run in generated(published.table(), raw):
        x = np.array(list(by_concept(run, "overall").values()))
        n, error = len(x), x.std(ddof=1) / math.sqrt(len(x))
        if error < 1e-6 or math.isnan(row.overall_low):
            continue
        drawn = x[rng.integers(n, size=(20_000, n))]
        errors = np.maximum(drawn.std(axis=1, ddof=1) / math.sqrt(n) * math.sqrt((n - 1) / n), error / 2)
        low, high = x.mean() - error * np.quantile((drawn.mean(axis=1) - x.mean()) / errors, [0.975, 0.025])
        wide = high - low
        assert row.overall_low == pytest.approx(max(low, 0), abs=0.1 * wide), row.method
        assert row.overall_high == pytest.approx(min(high, 2), abs=0.1 * wide), row.method
        seen += 1
    assert seen > 50


def test_differences_to_the_prompt_and_their_sign_flips(published: Any, raw: dict[str, dict[str, Any]]) -> None:
    table, seen = published.table(), 0
    for row, run in generated(table, raw):
        if not isinstance(row.reference, str) or row.reference == row.method or math.isnan(row.delta):
            continue
        reference = table[(table.group == row.group) & (table.method == row.reference)].id.item()
        own, other = by_concept(run, "overall"), by_concept(raw[reference], "overall")
        gaps = np.array([own[concept] - other[concept] for concept in own.keys() & other.keys()])
        assert row.delta == pytest.approx(gaps.mean(), abs=2e-4), row.method
        if row.p == row.p and len(gaps) <= 14:
            signs = np.array(list(itertools.product((1, -1), repeat=len(gaps))))
            p = np.mean(np.abs(signs @ gaps) >= abs(gaps.sum()) - 1e-12)
            assert row.p >= p - 1e-4, row.method  # the larger of two tests is told, of which this is one
            seen += 1
    assert seen > 50


def test_the_verdicts_differences(published: Any, raw: dict[str, dict[str, Any]]) -> None:
    table = published.table()
    titles = {t.title: t.group for t in published.tables}
    for verdict in published.verdicts().itertuples():
        runs = {row.method: raw[row.id] for row in table[table.group == titles[verdict.table]].itertuples()}
        own, other = by_concept(runs[verdict.steering], "overall"), by_concept(runs[verdict.prompt], "overall")
        assert verdict.difference == pytest.approx(np.mean([own[c] - other[c] for c in own]), abs=2e-4)
