"""The tables below a leaderboard say what the committed runs say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.report.section import Grid, Section
from bench.report.text import sections
from bench.report.text.leaderboard import interval
from bench.results.runs import Run, matched
from bench.results.tables import Table
from bench.results.verdict import is_twin
from bench.stats.significance import paired


def rows(section: Section) -> dict[str, tuple[str, ...]]:
    grid = section.parts[0]
    assert isinstance(grid, Grid)
    return {row[0]: row[1:] for row in grid.rows}


@pytest.mark.slow
def test_optimism_is_select_minus_test_at_the_pick(table: Table) -> None:
    (section,) = sections.optimism(table)
    found = rows(section)
    assert "select prompts minus" in section.heading
    assert list(found)[:-1] == [row.name for row in table.rows]
    chosen = []
    for row in table.rows:
        data = row.run.data["concepts"]
        select, test = [], []
        for name in table.concepts:
            pick = data[name]["picked"]
            select += [t["overall"] for t in data[name]["select"] if {k: t[k] for k in pick} == pick]
            test.append(data[name]["test"]["overall"])
        assert found[row.name] == (str(len(data[table.concepts[0]]["select"])), interval(paired(select, test)))
        if found[row.name][0] != "1":
            chosen.append(np.array(select) - np.array(test))
    assert found[f"mean of the {len(chosen)} with a choice"][1] == interval(
        paired(np.mean(chosen, 0), np.zeros(len(table.concepts)))
    )
    assert found["none"][0] == "1"


def test_methods_that_choose_among_settings_look_better_on_select_than_they_are(table: Table) -> None:
    """The reason why only test scores are ranked."""
    *_, (_, mean) = rows(sections.optimism(table)[0]).values()
    assert mean.startswith("+")


@pytest.mark.slow
def test_head_to_head_counts_the_generations_of_the_runs(table: Table) -> None:
    (section,) = sections.head_to_head(table)
    found = rows(section)
    assert list(found) == [row.name for row in table.rows]
    assert found[table.reference or ""][0] == "reference"
    runs = {row.name: row.run for row in table.rows}
    one, two = (runs[name].data["samples"] for name in ("diffmean", table.reference or ""))
    other = {s["id"]: s["ratings"]["overall"] for s in two}
    gaps = [s["ratings"]["overall"] - other[s["id"]] for s in one if s["concept"] in table.concepts]
    won = sum(g > 1e-6 for g in gaps) + sum(abs(g) <= 1e-6 for g in gaps) / 2
    assert found["diffmean"][0].startswith(f"{won / len(gaps):.0%} [")
    lengths = matched([runs["diffmean"], runs[table.reference or ""]], "tokens", table.concepts)
    assert found["diffmean"][3] == f"{(lengths[0] - lengths[1]).mean():+.1f}"


def test_a_method_stands_beside_its_shuffled_twin(table: Table) -> None:
    (section,) = sections.twins(table)
    assert "exchanged for half" in section.heading
    runs = {row.name: row.run for row in table.rows}
    row = rows(section)["diffmean"]
    for control in ("shuffled", "none"):
        scores = [[runs[name].scores("overall")[c] or 0.0 for c in table.concepts] for name in ("diffmean", control)]
        assert interval(paired(*scores)) in row


@pytest.mark.parametrize(
    ("method", "params", "twin", "same"),
    [
        ("lora", {"rate": 0.1}, {"shuffled": {}, "lora": {"rate": 0.1}}, True),
        ("lora", {"rate": 0.1}, {"shuffled": {}, "lora": {"rate": 0.2}}, False),
        ("cast(pca)", {"cast": {}, "pca": {}}, {"shuffled": {}, "cast": {}, "pca": {}}, True),
    ],
)
def test_a_twin_has_the_same_settings(method: str, params: Any, twin: Any, same: bool) -> None:
    one = Run(Path(), {"spec": {"method": method, "method_params": params}})
    other = Run(Path(), {"spec": {"method": f"shuffled({method})", "method_params": twin}})
    assert is_twin(other, one) is same


@pytest.mark.slow
def test_detection_tables_have_neither(committed_tables: list[Table]) -> None:
    found = [t for t in committed_tables if t.kind == "detector"]
    assert found
    assert all(sections.sections(t) == [] for t in found)
