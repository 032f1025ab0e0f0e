"""Steer or prompt: which two are compared is decided before the test split, and what is said of them by rule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.report.text import verdict
from bench.report.text.leaderboard import cells
from bench.results.tables import Row, Table, select_score
from bench.results.verdict import Answer, answers
from bench.stats.intervals import Difference, holm, paired

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_two_were_best_on_the_select_split(committed_tables: list[Table]) -> None:
    made = answers(committed_tables)
    assert {one.table.spec["task"] for one in made} >= {"axbench"}
    for one in made:
        rows = {row.name: row for row in one.table.rows}
        asked = [one.table.spec[part] for part in ("task", "model")]
        rivals = [t for t in committed_tables if [t.spec[part] for part in ("task", "model")] == asked]
        assert len(rows) == max(len(t.rows) for t in rivals)

        def on_select(name: str, rows: dict[str, Row] = rows) -> float:
            return float(np.mean([v for v in rows[name].run.scores("overall", "select").values() if v is not None]))

        prompts = [name for name, row in rows.items() if row.run.family == "prompting"]
        trials = one.table.spec["protocol"]["budget"]["trials"]
        steered = [
            name
            for name, row in rows.items()
            if row.run.family in ("direction", "trained")
            and all(len(c["select"]) <= trials for c in row.run.data["concepts"].values())
        ]
        assert on_select(one.prompt.name) == max(map(on_select, prompts))
        assert on_select(one.steering.name) == max(map(on_select, steered))
        scores = [rows[name].run.scores("overall") for name in (one.steering.name, one.prompt.name)]
        pairs = [[s[unit] or 0.0 for unit in one.table.concepts] for s in scores]
        assert one.difference == paired(*pairs)
        assert one.chosen == (sum(rows[name].run.samples_per_prompt == 1 for name in prompts), len(steered))
    assert [one.p for one in made] == holm([one.difference.p for one in made])


@pytest.mark.slow
def test_steering_picked_from_more_settings_than_prompts_get_is_left_out_and_marked(
    table: Table,
) -> None:
    """Five blocks at five coefficients each: the best of 25 leads on the select split, and not on the test split."""
    (one,) = answers([table])
    rows = {row.name: row for row in one.table.rows}
    wide = rows["diffmean layer=select"]
    assert select_score(wide.run) > select_score(one.steering.run)
    assert "25 settings" in cells(one.table, wide)[2]
    trials = table.spec["protocol"]["budget"]["trials"]
    tried = {name: max(len(c["select"]) for c in row.run.data["concepts"].values()) for name, row in rows.items()}
    marked = {row.name for row in one.table.rows if row.run.over_budget}
    assert wide.name in marked
    assert marked == {name for name, number in tried.items() if number > trials}


def gap(low: float, high: float) -> Difference:
    return Difference((low + high) / 2, low, high, 0.01, 12, 0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "steer"),
        ({"judges": ""}, "steer"),
        ({"difference": gap(-0.1, 0.3)}, "no difference seen"),
        ({"p": 0.06}, "no difference seen"),
        ({"control": ("random", gap(-0.1, 0.4))}, "steering leads, and random with it"),
        ({"judges": "disputed"}, "the judges differ"),
        ({"judges": "no second opinion"}, "one judge's word"),
        ({"difference": gap(-0.3, -0.1), "control": ("random", gap(-0.1, 0.4)), "twin": False}, "prompt"),
        ({"control": None}, "steering leads, no control beside it"),
        ({"twin": False}, "steering leads, no twin beside it"),
    ],
)
def test_what_is_said(committed_tables: list[Table], changed: dict[str, Any], said: str) -> None:
    """Every condition of "steer" is needed, and the losses of steering ask for fewer."""
    one, *_ = answers(committed_tables)
    clear: dict[str, Any] = {"difference": gap(0.1, 0.3), "p": 0.01, "control": ("random", gap(0.1, 0.4))}
    made: Answer = replace(one, **(clear | {"twin": True, "judges": "agreed"} | changed))
    assert made.said == said


def test_without_steering_or_prompts_nothing_is_said(committed_tables: list[Table]) -> None:
    assert answers([t for t in committed_tables if t.kind == "detector"]) == []
    assert verdict.section([]) == []
