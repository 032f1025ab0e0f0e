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
from methods.answer_only import Form
from methods.temperature import DIVISORS
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
    with pytest.raises(UsageError, match=r"examples = -1 is not 0 or more|at least 1"):
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
    assert len(data) == 1 + 4 * 3 * 5
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


# What form alone earns


def scored(made: TruthfulQA, said: dict[str, float]) -> list[dict[str, Verdict]]:
    """The scores of a fold where each option has the log-probability that `said` gives it, else -9."""
    samples = [s for concept in made.concepts() for s in made.test(concept)]
    outputs = [Completion("", 0, 0, options=tuple(said.get(o, -9.0) for o in s.options)) for s in samples]
    return list(made.score(samples, outputs, lambda items: []))


def lines(folder: Path, rows: list[tuple[str, str, str, str, str, str]]) -> Path:
    kinds = [
        f"{kind} Answer{s}" for s, kind in (("", "Best"), ("", "Best Incorrect"), ("s", "Correct"), ("s", "Incorrect"))
    ]
    names = ["Category", "Question", *kinds]
    folder.mkdir()
    with (folder / "TruthfulQA.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([names, *rows])
    return folder


def test_the_data_of_2025_has_a_binary_setting_and_says_where_form_points_the_wrong_way(tmp_path: Path) -> None:
    rows = [
        (
            "A",
            "Do cats fly?",
            "No, cats do not fly",
            "Cats fly",
            "No, cats do not fly; They walk",
            "Cats fly; At night",
        ),
        ("B", "Is rain wet?", "Rain is wet", "No, rain is dry", "Rain is wet", "No, rain is dry"),
        ("A", "Do fish sing?", "Some fish make sounds", "Fish sing hymns", "Some fish make sounds", "Fish sing hymns"),
        ("B", "Is ice hot?", "Ice is cold", "Ice is hot", "Ice is cold", "Ice is hot"),
    ]
    made = task(lines(tmp_path / "tqa", rows))
    known = {q.text: q for q in made.questions}
    assert known["Do cats fly?"].binary == ("No, cats do not fly", "Cats fly")
    assert {q.text for q in made.questions if q.reversed} == {"Is rain wet?"}
    found = scored(made, {"No, cats do not fly": -1, "No, rain is dry": -1, "Ice is cold": -1, "Ice is hot": -1})
    assert sorted(row["binary"].value or 0 for row in found) == [0, 0.5, 0.5, 1]  # rain; fish and ice tie; cats
    assert [row["reversed"].value for row in found if "reversed" in row] == [0]


def test_five_fits_where_there_are_several_and_errors_by_topic(questions: Path) -> None:
    assert task(questions, preset="standard").protocol.fits == 5
    assert task(questions, preset="quick").protocol.fits == 1
    made = task(questions)
    topic = {q.text: q.topic for q in made.questions}
    assert all(s.cluster == topic[s.instruction] for c in made.concepts() for s in made.test(c))


def test_the_controls_of_multiple_choice_rate_options_and_run_nowhere_else(questions: Path, tmp_path: Path) -> None:
    runs = run(tmp_path, questions, "-t", "truthfulqa", "-m", "none,answer-only,temperature")
    by = {r.method: r for r in runs}
    assert set(by) == {"none", "answer-only", "temperature"}
    bare, cool = (by[name].data["metrics"] for name in ("none", "temperature"))
    assert cool["mc1"] == bare["mc1"]  # which option is likeliest stays
    chosen = {c["picked"]["candidate"] for c in by["temperature"].data["concepts"].values()}
    assert all(0 <= at < len(DIVISORS) for at in chosen)
    plan = ["run", "-t", "axbench", "-m", "answer-only", "-n", "1", "--backend", "fake", "--json"]
    env = {"BENCH_CACHE": str(tmp_path / "cache"), "BENCH_RESULTS": str(tmp_path / "other")}
    (row,) = json.loads(CliRunner().invoke(main, plan, env=env).stdout)["runs"]
    assert (row["status"], row["reason"]) == ("unsupported", "it rates given options, which task axbench does not ask")


@pytest.mark.slow
def test_form_alone_finds_true_answers(truthfulqa_2025: Path) -> None:
    """Without the question, on topics it never saw: well above chance, which is what the control is for."""
    made = task(truthfulqa_2025)
    hits = []
    for concept in made.concepts():
        train = made.train(concept).limited(72)
        rater = Form(*(tuple(e.response for e in rows) for rows in (train.positives, train.negatives)))
        known = {q.text: q for q in made.questions}
        for sample in made.test(concept):
            logs = dict(zip(sample.options, rater.rate(sample.options, ()), strict=True))
            true, false = (logs[text] for text in known[sample.instruction].binary)
            hits.append(true > false)
    assert len(hits) == 790
    assert sum(hits) / len(hits) > 0.55  # standard error .018
