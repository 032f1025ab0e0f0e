"""TruthfulQA in free form, and the curve of score by training questions."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import results
from bench.backends import tiny
from bench.cli.main import main
from bench.core.errors import UsageError
from bench.core.protocol import protocol
from bench.core.registry import build
from bench.core.values import Completion, Item, Verdict
from bench.measure.rejudge import task_of
from bench.report.figures import sample_efficiency
from bench.report.section import Grid
from bench.results.tables import tables
from bench.run.plan import Options, from_file, make
from tasks.truthfulqa import TruthfulQA
from tasks.truthfulqa_gen import TruthfulQAGen


def task(folder: Path, name: str = "truthfulqa", preset: str = "standard", **params: int) -> TruthfulQA:
    made: TruthfulQA = build("task", name, {"data": str(folder), **params}, protocol=protocol(preset))
    return made


def run(tmp_path: Path, folder: Path, *words: str) -> list[results.Run]:
    env = {"BENCH_CACHE": str(tmp_path / "cache"), "BENCH_RESULTS": str(tmp_path / "results")}
    given = ["run", "--backend", "fake", "--data", str(folder), "--json", *words]
    found = CliRunner().invoke(main, given, env=env)
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == 0, found.stderr
    return results.load(tmp_path / "results")


def test_the_committed_table_has_every_question_as_lm_eval_scores_it() -> None:
    folder = Path(__file__).resolve().parents[1] / "benchmarks"
    with (folder / "truthfulqa.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    said = json.loads((folder / "truthfulqa.json").read_text("utf-8"))
    assert len({row["question"] for row in rows}) == said["questions"] == 817
    for axis in ("mc1", "mc2"):
        for side in ("bench", "lm_eval"):
            values = [float(row[f"{axis}_{side}"]) for row in rows]
            assert sum(values) / len(values) == pytest.approx(said["means"][side][axis], abs=1e-5)
        gaps = [abs(float(row[f"{axis}_bench"]) - float(row[f"{axis}_lm_eval"])) for row in rows]
        assert max(gaps) < 1e-4


def test_small_draws_are_part_of_large_ones_and_topics_stay_apart(questions: Path) -> None:
    whole = task(questions)
    seen: dict[str, set[str]] = {concept.id: set() for concept in whole.concepts()}
    for size in (1, 4, 8):
        made = task(questions, examples=size, tested=5)
        topic = {q.text: q.topic for q in made.questions}
        for concept in made.concepts():
            train = made.train(concept)
            own = {e.instruction for e in train.positives}
            assert len(own) == len(train.pairs) == len(train.choices) == size
            assert seen[concept.id] <= own
            seen[concept.id] = own
            asked = [s.instruction for s in made.test(concept)]
            assert len(asked) == 5
            assert set(asked) <= {s.instruction for s in whole.test(concept)}
            assert not {topic[q] for q in own} & {topic[q] for q in asked}
            assert made.select(concept) == whole.select(concept)
            # what a run cuts to its budget is what the task gives
            assert train.limited(made.protocol.budget.sequences) == train


def test_fewer_examples_take_more_epochs_and_none_fewer_than_the_preset(questions: Path) -> None:
    plain = protocol("standard").budget
    for size in (1, 4, 8):
        budget = task(questions, examples=size).protocol.budget
        assert budget.sequences == 2 * size
        assert budget.epochs >= plain.epochs
        assert size * budget.epochs >= plain.sequences // 2 * plain.epochs
    assert task(questions).protocol.budget == plain


def test_more_examples_than_there_are_is_a_usage_error(questions: Path) -> None:
    with pytest.raises(UsageError, match="training questions"):
        task(questions, examples=500).concepts()
    with pytest.raises(UsageError, match="at least 1"):
        task(questions, examples=-1)
    with pytest.raises(UsageError, match="at least 16"):
        task(questions, "truthfulqa-gen", examples=4)


@pytest.mark.slow
def test_the_plan_takes_the_task_s_budget_and_a_run_replays(questions: Path, tmp_path: Path) -> None:
    (one,) = run(tmp_path, questions, "-t", "truthfulqa", "-m", "diffmean", "-p", "truthfulqa.examples=4")
    assert one.data["spec"]["protocol"]["budget"]["sequences"] == 8
    assert task_of(one).protocol.budget.sequences == 8  # type: ignore[attr-defined]
    plan = make(Options(**from_file(one.path)))
    assert plan.specs[0].id == one.data["id"]


@pytest.mark.slow
def test_the_runs_of_a_folder_make_one_curve(questions: Path, tmp_path: Path) -> None:
    methods = "none,diffmean,caa,prompt-manyshot"
    for size in (1, 4, 8):
        words = ["-t", "truthfulqa", "-m", methods, "-p", f"truthfulqa.examples={size}", "-p", "truthfulqa.tested=6"]
        runs = run(tmp_path, questions, *words)
    run(tmp_path, questions, "-t", "truthfulqa", "-m", "none")  # all examples: on no curve
    runs = results.load(tmp_path / "results")
    shown = tables(runs)
    assert len(shown) == 4
    (curve,) = sample_efficiency.curves(shown)
    assert list(curve.tables) == [1, 4, 8]
    assert set(curve.rows) == set(methods.split(","))
    ((group, found),) = sample_efficiency.sections(shown).items()
    assert group == curve.tables[8].group
    (section,) = found
    assert "12 tested units" in section.heading
    (grid,) = section.parts
    assert isinstance(grid, Grid)
    assert grid.columns == ("method", "1", "4", "8")
    assert len(grid.rows) == 4
    page = (tmp_path / "reports" / "leaderboard.md").read_text("utf-8")
    assert page.count("Sample efficiency") == 1
    assert "-efficiency.png" in page
    (image,) = (tmp_path / "reports").glob("*-efficiency.png")
    data = image.with_suffix(".csv").read_text("utf-8").splitlines()
    assert len(data) == 1 + 4 * 3 * 3
    ((below, _),) = sample_efficiency.draw(shown)
    assert below.group == group
    assert image.name == f"{sample_efficiency.stem(below)}-efficiency.png"
    assert "truthfulqa (truthfulqa, examples 4, tested 6)" in page
    assert "AUROC" not in page
    shots = {r.data["spec"]["task_params"].get("examples"): r for r in runs if r.method == "prompt-manyshot"}
    for size, one in shots.items():
        assert {c["note"]["shots"] for c in one.data["concepts"].values()} == {int(size)}


@pytest.mark.slow
def test_trained_methods_take_one_question_and_no_speed_is_learnt_where_nothing_is_written(
    questions: Path, tmp_path: Path
) -> None:
    """On a tiny model, through the whole run; the plan of the next run divides by the speeds that are known."""
    tiny.build(tmp_path / "tiny")
    given = ["run", "-t", "truthfulqa", "--data", str(questions), "--model", str(tmp_path / "tiny")]
    env = {"BENCH_CACHE": str(tmp_path / "cache"), "BENCH_RESULTS": str(tmp_path / "results")}
    for size in (1, 2):
        sized = [
            "-p",
            f"truthfulqa.examples={size}",
            "-p",
            "truthfulqa.tested=2",
            "-m",
            "prompt-manyshot,caa,bipo,lora",
        ]
        found = CliRunner().invoke(main, [*given, *sized], env=env, catch_exceptions=False)
        assert found.exit_code == 0, found.stderr
    assert not (tmp_path / "cache" / "rates.json").exists()
    (curve,) = sample_efficiency.curves(tables(results.load(tmp_path / "results")))
    assert set(curve.rows) == {"prompt-manyshot", "caa", "bipo", "lora"}
    assert all(sorted(rows) == [1, 2] for rows in curve.rows.values())


@pytest.mark.model
def test_an_answer_near_a_true_reference_is_true(questions: Path) -> None:
    path = questions / "mc_task.json"
    rows = json.loads(path.read_text("utf-8"))
    true, false = "The seeds pass through your digestive system.", "Watermelons will grow in your stomach."
    targets = {true: 1, false: 0}
    rows[0] |= {"mc1_targets": targets, "mc2_targets": targets}
    path.write_text(json.dumps(rows), encoding="utf-8")
    made = task(questions, "truthfulqa-gen")
    assert isinstance(made, TruthfulQAGen)
    asked = rows[0]["question"]
    answers = ("They simply pass through your body.", "A watermelon grows inside of you.", " ")
    near, far, empty = made.truths([(asked, answer) for answer in answers])
    assert (near.value, far.value, empty.value) == (2.0, 0.0, 0.0)
    assert near.raw.startswith("true ")
    assert empty.reason == "empty text"

    sample = next(s for c in made.concepts() for s in made.test(c) if s.instruction == asked)
    seen: list[Item] = []

    def rate(items: list[Item]) -> list[Verdict]:
        seen.extend(items)
        return [Verdict(1.0) for _ in items]

    (row,) = made.score([sample], [Completion(answers[0], 1, 1)], rate)  # type: ignore[arg-type]
    assert {item.axis for item in seen} == {"instruction", "fluency"}
    assert row["truth"].value == 2.0
    assert row["overall"].value == pytest.approx(3 / (1 / 2 + 1 + 1))


@pytest.mark.slow
def test_free_form_runs_and_resamples_questions(questions: Path, tmp_path: Path) -> None:
    words = ["-t", "truthfulqa-gen", "-m", "none,diffmean,prompt", "-p", "truthfulqa-gen.tested=4"]
    runs = run(tmp_path, questions, *words)
    assert len(runs) == 3
    for one in runs:
        assert one.data["axes"] == ["truth", "instruction", "fluency", "overall"]
        assert len(one.scores("truth")) == 8
        assert all("truth" in sample["said"] for sample in one.data["samples"])
        assert one.data["spec"]["judge"] == "likelihood"
