"""The committed results as a dataset: whole, admissible, reported as they are, and showing what is claimed."""

from __future__ import annotations

from pathlib import Path

import pytest
from sklearn.metrics import roc_auc_score

from bench import opinions
from bench.registry import get
from bench.report import build
from bench.results import Run, Table, _public, load, tables
from bench.stats import paired

ROOT = Path(__file__).resolve().parents[1]
RUNS = load(ROOT / "results")


@pytest.fixture(scope="module")
def table() -> Table:
    found = [t for t in tables(RUNS) if t.spec["model"] == "SmolLM2-135M-Instruct" and t.spec["task"] == "axbench"]
    return next(t for t in found if t.spec["protocol"]["preset"] == "standard")


def test_every_run_was_admissible() -> None:
    assert RUNS
    for run in RUNS:
        spec = run.data["spec"]
        assert run.data["refused"] == []
        assert run.data["provenance"]["dirty"] == []
        assert spec["protocol"]["preset"] in ("standard", "paper")
        asked = run.data["asked"]
        assert not [v for v in (asked["model"], *asked["task_params"].values()) if Path(str(v)).is_absolute()]
        assert run.path.parent.name == f"{spec['method']}-{run.data['id']}"


STEERED = [run for run in RUNS if run.data["spec"]["judge"]]
DETECTED = [run for run in RUNS if not run.data["spec"]["judge"]]


@pytest.mark.parametrize("run", STEERED, ids=lambda run: run.path.parent.name)
def test_a_run_holds_its_samples_and_they_give_its_scores(run: Run) -> None:
    rules = run.data["spec"]["protocol"]
    for name, concept in run.data["concepts"].items():
        rows = [s for s in run.data["samples"] if s["concept"] == name]
        assert len(rows) == rules["test"]
        for axis in run.data["axes"]:
            mean = sum(s["ratings"][axis] for s in rows) / len(rows)
            assert mean == pytest.approx(concept["test"][axis], abs=1e-3)
        assert {k: concept["picked"][k] for k in ("candidate", "coefficient")} in [
            {k: t[k] for k in ("candidate", "coefficient")} for t in concept["select"]
        ]
        if run.family == "direction" and not run.method.startswith("cast"):
            assert all(min(s["touched"]) > 0 for s in rows)


@pytest.mark.parametrize("run", DETECTED, ids=lambda run: run.path.parent.name)
def test_a_detector_s_scores_give_its_auroc(run: Run) -> None:
    for name, concept in run.data["concepts"].items():
        rows = [s for s in run.data["samples"] if s["concept"] == name]
        easy = [s for s in rows if s["label"] != "hard negative"]
        assert len(easy) == 72
        for axis, kept in (("auroc", easy), ("overall", easy), ("auroc_hard", rows)):
            found = roc_auc_score([s["label"] == "positive" for s in kept], [s["score"] for s in kept])
            assert found == pytest.approx(concept["test"][axis], abs=1e-3)


@pytest.mark.parametrize("run", STEERED, ids=lambda run: run.path.parent.name)
def test_every_answer_has_a_second_opinion(run: Run) -> None:
    """By an independent judge, from a clean tree, over the same samples; and it gives its own means."""
    found = [o for o in opinions.of(run) if o.independent]
    assert found
    for o in opinions.of(run):
        assert o.path == opinions.place(run, o.judge, o.data["judge_params"])
        assert o.independent == get("judge", o.judge.partition(":")[0]).independent
        assert o.data["provenance"]["dirty"] == []
        assert [s["id"] for s in o.data["samples"]] == [s["id"] for s in run.data["samples"]]
        ratings = {s["id"]: s["ratings"] for s in o.data["samples"]}
        for name, means in o.data["concepts"].items():
            own = [ratings[s["id"]] for s in run.data["samples"] if s["concept"] == name]
            for axis in run.data["axes"]:
                known = [r[axis] for r in own if r[axis] is not None]
                assert means[axis] == pytest.approx(sum(known) / len(known), abs=1e-3)
            assert means["missing"] == sum(r["overall"] is None for r in own)


def test_one_judge_rates_all_runs_under_one_calibration() -> None:
    found = [o for run in STEERED for o in opinions.of(run)]
    for judge in {o.judge for o in found}:
        said = [o.data for o in found if o.judge == judge]
        assert all(
            (o["calibration"], o["judge_params"]) == (said[0]["calibration"], said[0]["judge_params"]) for o in said
        )


def test_detection_has_the_paper_s_order() -> None:
    means = {run.method: run.data["metrics"]["auroc"] for run in DETECTED}
    assert min(means["diffmean"], means["probe"]) > max(means["pca"], means["lat"]) + 0.1
    assert means["diffmean"] > 0.95
    assert abs(means["random"] - 0.5) < 0.2


def test_the_reports_are_what_the_results_give(tmp_path: Path) -> None:
    """Figures depend on the machine's fonts and are compared by name alone."""
    for path in build(ROOT / "results", tmp_path):
        committed = ROOT / "reports" / path.name
        assert committed.is_file()
        if path.suffix != ".png":
            assert committed.read_text("utf-8") == path.read_text("utf-8")


def test_the_readme_shows_the_leaderboard() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    page = (ROOT / "reports" / "leaderboard.md").read_text("utf-8")
    rows = [line for line in page.split("Against the controls")[0].splitlines() if line.startswith("|")]
    assert len(rows) >= 12
    assert "\n".join(rows) in readme


def test_every_table_has_its_controls(table: Table) -> None:
    assert {"none", "random", "shuffled", "prompt"} <= {row.run.method for row in table.rows}
    assert len(table.concepts) >= 12


@pytest.mark.parametrize("control", ["shuffled", "none", "random"])
def test_diffmean_shows_the_concept_more_than_the_controls(table: Table, control: str) -> None:
    runs = {row.run.method: row.run for row in table.rows}
    scores = [[runs[name].scores("concept")[c] or 0.0 for c in table.concepts] for name in ("diffmean", control)]
    difference = paired(*scores)
    assert difference.low > 0
    assert difference.p < 0.01


def test_a_checked_run_keeps_a_folder_s_name_and_not_its_place() -> None:
    asked = {"model": str(ROOT / "weights"), "task_params": {"data": str(ROOT / "concept10"), "rows": 3}}
    assert _public(asked) == {"model": "weights", "task_params": {"data": "concept10", "rows": 3}}
    assert _public({"model": "some/model", "task_params": {}}) == {"model": "some/model", "task_params": {}}
