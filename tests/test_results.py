"""The committed results as a dataset: whole, admissible, reported as they are, and showing what is claimed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ARCHIVE, committed

from bench.core.content import digest
from bench.overhead.record import Overhead
from bench.overhead.summary import RATIOS, Floor, floor, summary
from bench.report.build import build
from bench.report.text import costs
from bench.report.text.leaderboard import cells, notes
from bench.results import second_judge
from bench.results.audit import check
from bench.results.runs import Run, load, lookup, published, read
from bench.results.tables import Table, select_score, tables
from bench.stats.significance import paired

ROOT = Path(__file__).resolve().parents[1]
RUNS = load(ROOT / "results")


@pytest.mark.slow
def test_every_run_keeps_the_rules_of_the_results() -> None:
    """Names, scores from samples, opinions, trials, provenance, controls: `bench check results`."""
    assert RUNS
    assert check(ROOT / "results") == []


STEERED = [run for run in RUNS if run.data["spec"]["judge"]]


@pytest.mark.parametrize("run", STEERED, ids=lambda run: run.path.parent.name)
def test_a_run_answered_every_question_and_edits_touched_it(run: Run) -> None:
    rules = run.data["spec"]["protocol"]
    asked = {name: [s for s in run.data["samples"] if s["concept"] == name] for name in run.data["concepts"]}
    if run.data["spec"]["task"] == "axbench":
        assert {len(rows) for rows in asked.values()} == {rules["test"] * rules.get("answers", 1)}
    if run.surface == "activations" and not run.method.startswith("cast"):
        assert all(min(s["touched"]) > 0 for rows in asked.values() for s in rows)


@pytest.mark.parametrize("run", STEERED, ids=lambda run: run.path.parent.name)
def test_every_answer_has_a_second_opinion(run: Run) -> None:
    """By an independent judge; that it belongs and adds up is for `check`."""
    assert [o for o in second_judge.of(run) if o.independent]


def test_one_judge_rates_all_runs_on_the_same_data_under_one_calibration() -> None:
    found: dict[tuple[str, str], set[str]] = {}
    for run in STEERED:
        for said in second_judge.of(run):
            key = said.judge, run.data["spec"]["data"]
            found.setdefault(key, set()).add(digest(said.data["calibration"], said.data["judge_params"]))
    assert found
    assert {key for key, calibrations in found.items() if len(calibrations) > 1} == set()


@pytest.mark.slow
def test_a_table_says_where_its_runs_were_rated_under_several_calibrations(table: Table) -> None:
    made = {digest(row.run.data["calibration"]) for row in table.rows}
    said = [note for note in notes(table) if "was calibrated" in note]
    assert [f"calibrated {len(made)} times" in note for note in said] == [True] * (len(made) > 1)
    alone = replace(table, rows=table.rows[:1])
    assert not any("was calibrated" in note for note in notes(alone))


def test_no_measured_cost_is_claimed_that_the_bare_model_has_too(table: Table) -> None:
    """The bare model, measured against itself, lies off 1 by the machine's drift alone."""
    found = costs.records(table)
    drift = floor(found.values())
    assert drift["time"] > 0
    assert all(not ratio["distinguishable"] for ratio in measured(found["none"], drift))
    assert any(ratio["distinguishable"] for one in found.values() for ratio in measured(one, drift))
    wide = dict.fromkeys(drift, 10.0)
    assert not any(ratio["distinguishable"] for one in found.values() for ratio in measured(one, wide))


def measured(one: Overhead, drift: Floor) -> list[dict[str, Any]]:
    row = summary(one, drift=drift)
    return [row[name] for name in RATIOS if row[name]]


def test_a_prompt_that_keeps_the_best_of_several_answers_is_no_baseline(table: Table) -> None:
    """Not even where it does best on the select split."""
    runs = {run.method: run for run in (row.run for row in table.rows) if run.prompted}
    best = runs["prompt-best-of-n"]
    assert best.samples_per_prompt == best.data["concepts"]["ocean"]["note"]["n"]
    assert "best of 5" in cells(table, next(row for row in table.rows if row.run is best))[2]
    assert all(run.samples_per_prompt == 1 for run in RUNS if run.method != best.method)
    perfect = {n: c | {"select": [t | {"overall": 2.0} for t in c["select"]]} for n, c in best.data["concepts"].items()}
    winner = Run(best.path, {**best.data, "concepts": perfect})
    assert select_score(winner) > select_score(runs["prompt"])
    (one,) = tables([winner, runs["prompt"], runs["prompt-persona"]])
    assert one.reference == "prompt"
    (alone,) = tables([winner])
    assert alone.reference == winner.method


def test_a_method_that_ran_twice_keeps_its_name_where_its_settings_are_the_registered_ones(table: Table) -> None:
    runs = {row.name: row.run for row in table.rows}

    def changed(name: str, prompter: str = "", **params: object) -> Run:
        run = runs[name]
        spec = run.data["spec"] | {"method_params": run.data["spec"]["method_params"] | params, "prompter": prompter}
        return Run(run.path, {**run.data, "spec": spec, "id": "0123456789"})

    def names(*found: Run) -> set[str]:
        (one,) = tables(found)
        return {row.name for row in one.rows}

    both = {"diffmean": {"layer": 0.9}, "prompt": {}}
    assert names(runs["diffmean"]) == names(changed("diffmean", layer=0.9)) == {"diffmean"}
    assert names(runs["diffmean"], changed("diffmean", layer="select")) == {"diffmean", "diffmean layer=select"}
    assert names(runs["loreft"], changed("loreft", rank=8)) == {"loreft", "loreft rank=8"}
    assert names(runs["prompt+diffmean"], changed("prompt+diffmean", **both)) == {
        "prompt+diffmean",
        "prompt+diffmean diffmean.layer=0.9",
    }
    plain = runs["prompt"]
    assert names(plain, changed("prompt", "openai:one")) == {f"prompt-{plain.data['id'][:4]}", "prompt-0123"}


def test_detection_has_the_paper_s_order() -> None:
    named = ("diffmean", "probe", "pca", "lat", "random")
    means = {
        name: read(committed(name, "axbench-detect", "paper") / "run.json").data["metrics"]["auroc"] for name in named
    }
    assert min(means["diffmean"], means["probe"]) > max(means["pca"], means["lat"]) + 0.1
    assert means["diffmean"] > 0.95
    assert abs(means["random"] - 0.5) < 0.2


@pytest.mark.slow
def test_the_report_is_what_the_results_give_and_nothing_else(tmp_path: Path) -> None:
    """To the byte, pictures and page too, in another process with other hashes; beside it lies nothing that it does not
    name, and every committed run stands in it."""
    script = "import sys, pathlib; from bench.report.build import build; build(*map(pathlib.Path, sys.argv[1:]))"
    words = [sys.executable, "-c", script, str(ROOT / "results"), str(tmp_path / "again")]
    with subprocess.Popen(words, env=os.environ | {"PYTHONHASHSEED": "7"}) as again:
        written = build(ROOT / "results", tmp_path / "report")
    assert again.returncode == 0

    def files(folder: str) -> dict[str, bytes]:
        below = (tmp_path / folder).rglob("*")
        return {path.relative_to(tmp_path / folder).as_posix(): path.read_bytes() for path in below if path.is_file()}

    one, two = files("report"), files("again")
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []
    assert {path.name for path in (tmp_path / "report").iterdir() if path.is_file()} == {
        path.name for path in written if path.parent == tmp_path / "report"
    }
    rows = [row for table in json.loads(one["leaderboard.json"])["tables"] for row in table["rows"]]
    assert {(row["group"], row["id"]) for row in rows} == {(run.data["group"], run.data["id"]) for run in RUNS}


@pytest.mark.slow
def test_a_bare_name_is_the_run_under_the_registered_settings() -> None:
    """Beside it stands `diffmean layer=select`, which is named by its folder."""
    twice = [run for run in load(ARCHIVE) if run.method == "diffmean" and run.data["spec"]["task"] == "axbench"]
    assert len(twice) > 1
    assert lookup("diffmean", [ARCHIVE]).variant == "diffmean"
    for run in twice:
        assert lookup(run.path.parent.name, [ARCHIVE]).path == run.path


def test_a_curve_shows_the_parts_of_one_setting() -> None:
    """Of two candidates the better one by overall: the best concept and the best fluency may not be one answer's."""
    select = [
        {"candidate": 0, "coefficient": 0.1, "overall": 1.0, "concept": 0.5, "fluency": 2.0},
        {"candidate": 1, "coefficient": 0.1, "overall": 1.2, "concept": 1.5, "fluency": 1.0},
        {"candidate": 0, "coefficient": 0.2, "overall": None, "concept": 2.0, "fluency": None},
        {"candidate": 1, "coefficient": 0.2, "overall": 0.3, "concept": 0.1, "fluency": None},
    ]
    made = Run(Path("run.json"), {"concepts": {"ocean": {"select": select, "layers": [[3], [7]]}}})
    assert made.curve("overall") == {0.1: {"ocean": 1.2}, 0.2: {"ocean": 0.3}}
    assert made.curve("concept") == {0.1: {"ocean": 1.5}, 0.2: {"ocean": 0.1}}
    assert made.curve("fluency") == {0.1: {"ocean": 1.0}}
    assert made.depths("concept") == {3: {"ocean": 0.5}, 7: {"ocean": 1.5}}


def test_every_table_has_its_controls(table: Table) -> None:
    assert {"none", "random", "shuffled", "prompt"} <= {row.run.method for row in table.rows}
    assert len(table.concepts) >= 12


@pytest.mark.parametrize("control", ["shuffled", "none", "random"])
def test_diffmean_shows_the_concept_more_than_the_controls(table: Table, control: str) -> None:
    runs = {row.name: row.run for row in table.rows}
    scores = [[runs[name].scores("concept")[c] or 0.0 for c in table.concepts] for name in ("diffmean", control)]
    difference = paired(*scores)
    assert difference.low > 0
    assert difference.p < 0.01


def test_a_checked_run_keeps_a_folder_s_name_and_not_its_place() -> None:
    asked = {"model": str(ROOT / "weights"), "task_params": {"data": str(ROOT / "concept10"), "rows": 3}}
    kept = {"model": "weights", "task_params": {"data": "concept10", "rows": 3}}
    assert published({"id": "0", "asked": asked}) == {"id": "0", "asked": kept}
    kept = {"model": "some/model", "task_params": {}}
    assert published({"asked": kept}) == {"asked": kept}
