"""The tables below a leaderboard say what the committed runs say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.report.section import Grid, Section
from bench.report.text import sections
from bench.report.text.leaderboard import cells, interval
from bench.results.differences import difference
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
        assert interval(difference(runs["diffmean"], runs[control], units=table.concepts)) in row


def test_the_variance_of_a_difference_is_split_over_what_was_drawn(table: Table) -> None:
    (section,) = sections.noise(table)
    for concepts, questions, answers in rows(section).values():
        assert answers == "in the questions"  # one answer each: their noise cannot be told apart
        assert int(concepts.rstrip("%")) + int(questions.rstrip("%")) in (99, 100, 101)


def test_picks_at_the_end_of_the_sweep_are_marked(table: Table) -> None:
    marked = {row.name: row.run.grid_end for row in table.rows if row.run.grid_end}
    assert set(marked.values()) <= {"the weakest c", "the strongest c"}
    for name, end in marked.items():
        run = next(row.run for row in table.rows if row.name == name)
        picked = [c["picked"]["coefficient"] for c in run.data["concepts"].values()]
        tried = [t["coefficient"] for c in run.data["concepts"].values() for t in c["select"]]
        assert picked.count((min if "weak" in end else max)(tried)) > len(picked) / 2
        assert f"mostly at {end}" in cells(table, next(row for row in table.rows if row.name == name))[2]


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
