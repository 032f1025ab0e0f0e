"""What follows from intervals for the expectations of results/plan.md, and which tables they are taken from."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import script

from bench.results.tables import Row, Table
from bench.stats.intervals import Estimate

ROOT = Path(__file__).resolve().parents[1]
paper = script("tools/paper.py")
Ends = list[tuple[float, float]]


def gaps(ends: Ends) -> list[Any]:
    return [paper.Gap("diffmean", (low + high) / 2, low, high) for low, high in ends]


@pytest.mark.parametrize(
    ("rule", "ends", "outcome"),
    [
        ("none_leads", [(-0.5, -0.1), (-0.3, 0.05)], "as expected"),
        ("none_leads", [(-0.5, -0.1), (-0.3, 0.2)], "undecided"),
        ("none_leads", [(-0.5, -0.1), (0.01, 0.2)], "refuted"),
        ("one_leads", [(-0.5, -0.1), (0.01, 0.2)], "as expected"),
        ("one_leads", [(-0.5, -0.1), (-0.2, -0.01)], "refuted"),
        ("one_leads", [(-0.05, 0.05), (-0.09, 0.02)], "refuted"),
        ("one_leads", [(-0.5, -0.1), (-0.2, 0.2)], "undecided"),
        ("larger", [(-0.5, 0.1), (0.01, 0.2)], "as expected"),
        ("larger", [(-0.5, -0.1), (-0.3, -0.2)], "refuted"),
        ("larger", [(-0.5, -0.1), (-0.3, 0.2)], "undecided"),
        ("all_behind", [(-0.5, -0.1), (-0.3, -0.05)], "as expected"),
        ("all_behind", [(-0.5, -0.1), (-0.3, 0.0)], "refuted"),
        ("all_more", [(0.1, 0.2), (0.3, 0.4)], "as expected"),
        ("all_more", [(0.1, 0.2), (-0.3, -0.2)], "refuted"),
        ("all_more", [(0.1, 0.2), (-0.3, 0.2)], "undecided"),
        ("not_behind", [(-0.05, 0.2)], "as expected"),
        ("not_behind", [(-0.5, -0.15)], "refuted"),
        ("not_behind", [(-0.5, 0.2)], "undecided"),
    ],
)
def test_an_outcome_follows_from_the_intervals(rule: str, ends: Ends, outcome: str) -> None:
    found = gaps(ends)
    assert getattr(paper, rule)(found) == outcome
    assert getattr(paper, rule)([replace(found[0], piled=True), *found[1:]]) == "undecided"


@pytest.mark.parametrize(
    ("more", "fewer", "outcome"),
    [
        ([(0.1, 0.2), (-0.1, 0.1)], [(-0.3, -0.1), (-0.1, 0.1)], "as expected"),
        ([(0.1, 0.2), (-0.1, 0.1)], [(-0.3, 0.1), (-0.3, -0.1)], "undecided"),
        ([(0.1, 0.2), (-0.2, -0.1)], [(-0.1, 0.1), (-0.1, 0.1)], "refuted"),
        ([(0.1, 0.2), (-0.2, -0.1)], [(-0.3, -0.1), (-0.1, 0.1)], "undecided"),  # one shows it, the other refutes it
    ],
)
def test_declining_more_and_answering_fewer_is_of_one_method(more: Ends, fewer: Ends, outcome: str) -> None:
    assert paper.declines_more(gaps(more), gaps(fewer)) == outcome


@pytest.mark.parametrize(
    ("slopes", "prompt", "begins", "outcome"),
    [
        ([(0.01, 0.02)], (-0.03, -0.01), [(0.1, 0.3)], "as expected"),
        ([(0.01, 0.02)], (-0.03, -0.01), [(-0.1, 0.3)], "undecided"),  # what never shows the trait cannot lose it
        ([(0.01, 0.02)], (-0.03, 0.01), [(0.1, 0.3)], "undecided"),  # the prompt is not shown to lose it
        ([(-0.02, -0.01)], (-0.03, -0.01), [(0.1, 0.3)], "refuted"),
    ],
)
def test_lasting_is_of_what_was_there(slopes: Ends, prompt: tuple[float, float], begins: Ends, outcome: str) -> None:
    assert paper.lasts(gaps(slopes), *gaps([prompt]), gaps(begins)) == outcome


@pytest.mark.parametrize(("low", "outcome"), [(0.01, "as expected"), (0.0, "refuted"), (-0.1, "refuted")])
def test_an_order_that_reaches_0_is_none(low: float, outcome: str) -> None:
    assert paper.positive(Estimate(0.4, low, 0.7, 9)) == outcome


def test_every_expectation_of_the_plan_stands_on_the_page_in_its_words() -> None:
    plan = (ROOT / "results" / "plan.md").read_text("utf-8")
    planned = re.findall(r"^\| (\d+) \| ([^|]+) \|", plan, re.MULTILINE)
    assert [(str(n), found.said) for n, found in enumerate(paper.ten([]), 1)] == planned
    assert {(found.outcome, found.gaps) for found in paper.ten([])} == {("open", ())}


def with_data(line: Row, **data: Any) -> Row:
    return replace(line, run=replace(line.run, data={**line.run.data, **data}))


@pytest.fixture
def planned(table: Table) -> Table:
    """The table of the archive as if its runs had been registered, at the settings of the plan."""
    names = {"prompt": "prompt", "steering": ["diffmean", "reps"], "combination": "prompt+diffmean", "margin": 0.1}
    return replace(table, rows=tuple(with_data(line, registered=names) for line in table.rows))


@pytest.mark.slow
def test_gaps_are_those_of_raw_ratings(planned: Table) -> None:
    at = paper.registered([planned], "axbench", paper.TAUGHT)
    own, other = (at.rows[name].run.scores("overall") for name in ("diffmean", "prompt"))
    found = at.gap(at.rows["diffmean"], 2)
    assert found.mean == pytest.approx(np.mean([own[c] - other[c] for c in own]) / 2)
    wider = at.gap(at.rows["diffmean"], 10)
    assert wider.low < found.low < found.high < wider.high
    assert next(one.outcome for one in paper.ten([planned])) != "open"


@pytest.mark.slow
def test_open_says_what_is_missing(planned: Table) -> None:
    def why(table: Table) -> str:
        found = paper.registered([table], "axbench", paper.TAUGHT)
        assert isinstance(found, str)
        return found

    assert why(replace(planned, rows=tuple(r for r in planned.rows if r.name != "reps"))) == "reps not run"
    assert why(replace(planned, spec={**planned.spec, "data": "x", "task_params": {"data": "concept10"}})) == "not run"
    assert why(replace(planned, silent="nothing differs")) == "nothing differs"
    mixed = (with_data(planned.rows[0], registered={}), *planned.rows[1:])
    assert why(replace(planned, rows=mixed)) == "its runs registered nothing, or not all the same"


@pytest.mark.slow
def test_an_order_leaves_controls_out_and_draws_the_same_concepts(planned: Table) -> None:
    twin = replace(planned, spec={**planned.spec, "model": paper.BASE})
    found = paper.carried([planned, twin])
    steered = [line for line in planned.rows if line.run.surface != "control"]
    assert (found.n, found.mean, found.low) == (len(steered), pytest.approx(1), pytest.approx(1))
    assert paper.carried([planned]) == f"{paper.BASE}: not run"


@pytest.mark.slow
def test_a_repeat_stands_beside_the_first_and_a_correction_beside_the_judge(planned: Table) -> None:
    rules = {**planned.spec["protocol"], "seed": 1}
    twin = replace(planned, group="again", spec={**planned.spec, "protocol": rules})
    assert paper.again([planned]) == "Not run yet."
    lines = [line.split(" | ") for line in paper.again([planned, twin]).splitlines()[2:]]
    names = [cells[0].removeprefix("| ") for cells in lines]
    assert names == ["prompt", "diffmean", "reps", "prompt+diffmean", "none", "random", "shuffled"]
    for cells in lines[1:]:
        assert cells[1] == cells[2]
        assert cells[3] == cells[4]
        assert cells[5] == "yes |"
    assert paper.ten([planned, twin]) == paper.ten([planned])  # a repeat decides nothing
    rows = tuple(replace(r, corrected=Estimate(1.0, 0.5, 1.5, 9) if r.name == "reps" else None) for r in planned.rows)
    told = paper.corrected([replace(planned, rows=rows)]).splitlines()[2:]
    assert len(told) == 1
    assert told[0].endswith("| 0.50 [0.25, 0.75] |")


def test_what_a_run_carries_was_registered_at_the_commit_that_made_it() -> None:
    """Else it could have been registered after the run was read."""

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)

    if git("rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip("the history is not all here")
    told: dict[str, dict[str, Any]] = {}
    for path in sorted((ROOT / "results").glob("*/*/*/run.json")):
        run = json.loads(path.read_text("utf-8"))
        if not (carried := run.get("registered")):
            continue
        commit = run["provenance"]["commit"]
        if commit not in told:
            told[commit] = tomllib.loads(git("show", f"{commit}:results/hypotheses.toml").stdout)
        kept = told[commit]
        assert carried == kept["tasks"][run["spec"]["task"]] | {"margin": kept["margin"]}, path
