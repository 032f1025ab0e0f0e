"""Multiple choice end to end: TruthfulQA against lm-eval, behaviours by letter, units, splits and damaged data."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import script

from bench import results
from bench.backends.hf.backend import HFBackend
from bench.backends.models import Model
from bench.cli.main import main
from bench.core.content import digest
from bench.core.errors import BenchError, UsageError
from bench.core.protocol import protocol
from bench.core.registry import build
from bench.core.steering import Prompt
from bench.core.values import Completion, Concept, Sample, Train
from bench.report.text.leaderboard import extent, notes
from bench.results.tables import tables
from bench.run.trials import plain_text
from tasks._choices import ORDERS, shares
from tasks.truthfulqa import template

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def run(tmp_path: Path, *words: str, expect: int = 0) -> list[results.Run]:
    env = {"BENCH_CACHE": str(tmp_path / "cache"), "BENCH_RESULTS": str(tmp_path / "results")}
    found = CliRunner().invoke(main, ["run", "--backend", "fake", "--json", *words], env=env)
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == expect, found.stderr
    return results.load(tmp_path / "results")


@pytest.mark.slow
def test_a_run_resamples_questions_and_picks_per_fold(questions: Path, tmp_path: Path) -> None:
    runs = run(tmp_path, "-t", "truthfulqa", "--data", str(questions), "-m", "none,diffmean,prompt")
    assert {r.method for r in runs} == {"none", "diffmean", "prompt"}
    for one in runs:
        assert list(one.data["concepts"]) == ["fold-1", "fold-2"]
        scores = one.scores("mc2")
        assert len(scores) == 30  # every question is tested once, in the fold that has not seen its topic
        assert one.data["metrics"]["mc2"] == pytest.approx(np.mean([v for v in scores.values() if v]), abs=1e-4)
        assert one.data["spec"]["judge"] == ""
        assert one.data["counts"]["missing"] == 0
    (table,) = tables(runs)
    assert len(table.concepts) == 30
    assert table.reference == "prompt"


def test_both_folds_test_what_they_have_not_seen(questions: Path) -> None:
    made = build("task", "truthfulqa", {"data": str(questions)}, protocol=protocol("standard"))
    tested = []
    topic = {q.text: q.topic for q in made.questions}
    for concept in made.concepts():
        seen = {e.instruction for e in made.train(concept).positives}
        select = {s.instruction for s in made.select(concept)}
        test = {s.instruction for s in made.test(concept)}
        assert not {topic[q] for q in seen | select} & {topic[q] for q in test}
        assert not seen & select
        tested += sorted(test)
    assert sorted(tested) == sorted(topic)
    assert made.train(made.concepts()[0]).prompts == tuple(
        line.replace("{trait}", made.concepts()[0].text) for line in ORDERS
    )


def test_scores_are_the_published_definitions(questions: Path) -> None:
    made = build("task", "truthfulqa", {"data": str(questions)}, protocol=protocol("quick"))
    sample = made.test(made.concepts()[0])[0]
    known = next(q for q in made.questions if q.text == sample.instruction)
    logs = {text: -1.0 - i for i, text in enumerate(sample.options)}
    output = Completion("", 0, 0, options=tuple(logs[text] for text in sample.options))
    (found,) = made.score([sample], [output], lambda items: [])
    best = max(known.mc1, key=lambda text: logs[text])
    assert found["mc1"].value == float(known.mc1[best])
    mass = {text: np.exp(logs[text]) for text in known.mc2}
    true = sum(value for text, value in mass.items() if known.mc2[text])
    assert found["mc2"].value == pytest.approx(true / sum(mass.values()))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda rows: rows + rows[:1], "twice"),
        (lambda rows: [rows[0] | {"mc1_targets": {"a": 1, "b": 1}}, *rows[1:]], "no single true answer"),
        (
            lambda rows: [{"question": "Elsewhere?"} | rows[0] | {"question": "Elsewhere?"}],
            "none of the 1 questions of mc_task.json is in",
        ),
        (lambda rows: [{"question": rows[0]["question"]}], "mc1_targets"),
    ],
)
def test_damaged_questions_are_refused(questions: Path, damage: Any, said: str) -> None:
    path = questions / "mc_task.json"
    path.write_text(json.dumps(damage(json.loads(path.read_text("utf-8")))), encoding="utf-8")
    made = build("task", "truthfulqa", {"data": str(questions)}, protocol=protocol("quick"))
    with pytest.raises(BenchError, match=said):
        made.concepts()


def test_a_folder_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    for name in ("truthfulqa", "behaviour"):
        made = build("task", name, {"data": str(tmp_path / "nowhere")}, protocol=protocol("quick"))
        with pytest.raises(UsageError, match="unknown data"):
            made.concepts()


def test_plain_text_takes_a_prompt_edit_before_and_around_the_question() -> None:
    sample = Sample(
        "q", Concept("c", "truth"), "test", "choices", (("user", "Why?"),), raw="Q: Who?\nA: I.\n\nQ: {{question}}\nA:"
    )
    assert plain_text(sample, Prompt()) == "Q: Who?\nA: I.\n\nQ: Why?\nA:"
    edit = Prompt(system="Be true.", suffix=" Say.", shots=(("One?", "1."),))
    assert plain_text(sample, edit) == "Be true.\n\nQ: One?\nA: 1.\n\nQ: Who?\nA: I.\n\nQ: Why? Say.\nA:"


def test_letters_are_drawn_per_question_and_the_behaviour_is_what_counts(behaviours: Path) -> None:
    made = build("task", "behaviour", {"data": str(behaviours)}, protocol=protocol("standard"))
    samples = [s for concept in made.concepts() for s in made.test(concept)]
    letters = Counter(s.label for s in samples)
    assert min(letters.values()) > 15
    for sample in samples:
        line = next(part for part in sample.instruction.split("\n") if part.startswith(f"({sample.label})"))
        assert "Yes" in line
    sure = [Completion(s.label, 0, 0, options=(0.0, -9.0) if s.label == "A" else (-9.0, 0.0)) for s in samples]
    rows = made.score(samples, sure, lambda items: [])
    assert all(row["picked"].value == 1 and (row["overall"].value or 0) > 0.99 for row in rows)
    always_a = [Completion("A", 0, 0, options=(0.0, -9.0)) for _ in samples]
    picked = [row["picked"].value for row in made.score(samples, always_a, lambda items: [])]
    assert sum(picked) == letters["A"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["behaviour", "behaviour-open"])
def test_behaviours_run(behaviours: Path, tmp_path: Path, name: str) -> None:
    runs = run(tmp_path, "-t", name, "--data", str(behaviours), "-m", "none,diffmean,prompt,caa")
    assert len(runs) == 4
    for one in runs:
        assert set(one.data["concepts"]) == {"candour", "wealth-seeking"}
        assert len(one.scores("overall")) == 48 if name == "behaviour" else 6
        assert bool(one.data["spec"]["judge"]) is (name == "behaviour-open")
    (table,) = tables(runs)
    chosen = [c["select"][0]["n"] for c in runs[0].data["concepts"].values()]
    (said,) = [note for note in notes(table) if "settings picked on" in note]
    assert f"settings picked on {extent(chosen)} select prompts" in said
    assert "select prompts for each of 2 fits" in said


def test_a_question_asked_in_training_is_not_tested(behaviours: Path) -> None:
    path = behaviours / "candour" / "train.csv"
    path.write_text(path.read_text("utf-8") + "candour 100?,Yes,No\n", encoding="utf-8")
    made = build("task", "behaviour", {"data": str(behaviours)}, protocol=protocol("standard"))
    train: Train = made.train(Concept("candour", "candour"))
    assert "candour 100?" not in {e.instruction for e in train.positives}


def test_what_was_digested_before_a_field_came_keeps_its_name() -> None:
    concept = Concept("c", "text")
    old = digest({"type": "Train"})
    assert digest(Train(concept, (), ())) == digest(Train(concept, (), (), prompts=()))
    assert digest(Train(concept, (), (), prompts=("Do.",))) not in (digest(Train(concept, (), ())), old)


def test_shares_are_probabilities() -> None:
    assert shares([-1000.0, -1000.0]) == pytest.approx([0.5, 0.5])
    assert shares([0.0, -np.log(3)]) == pytest.approx([0.75, 0.25])


def test_truthfulqa_equals_lm_eval_question_by_question(default_model: Model, tmp_path: Path) -> None:
    """The bare default model in fp32 on eight questions; `benchmarks/truthfulqa.py` asks all 817."""
    folder = SHARED / "truthfulqa"
    if not folder.is_dir():
        pytest.skip("the TruthfulQA development data is not beside this checkout")
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'steer-or-prompt[eval]'")
    made = build("task", "truthfulqa", {"data": str(folder), "format": "lm-eval"}, protocol=protocol("quick"))
    samples = made.test(made.concepts()[0])[:8]
    known = {q.text: q for q in made.questions}
    assert all(next(iter(known[s.instruction].mc1.values())) == 1 for s in samples)  # lm-eval takes the first for true
    audit, lm = script("benchmarks/truthfulqa.py"), HFBackend(default_model, "float32")
    ours, theirs = audit.ours(lm, made, samples), audit.theirs(lm, made, samples, tmp_path)
    assert len(ours) == 8
    for question, values in ours.items():
        assert values == pytest.approx(theirs[question], abs=1e-4), question
    assert template().count("Q: ") == 7


def test_a_clone_of_today_s_repository_is_read_and_what_one_file_lacks_is_told(
    questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its options lie in `data/`, its table has a column more, and fewer questions than the list."""
    rows = list(csv.DictReader((questions / "TruthfulQA.csv").open(encoding="utf-8-sig", newline="")))
    clone = tmp_path / "clone"
    (clone / "data").mkdir(parents=True)
    (questions / "mc_task.json").rename(clone / "data" / "mc_task.json")
    with (clone / "TruthfulQA.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, [*rows[0], "Best Incorrect Answer"])
        table.writeheader()
        table.writerows(row | {"Best Incorrect Answer": ""} for row in rows[2:])
    made = build("task", "truthfulqa", {"data": str(clone)}, protocol=protocol("quick"))
    assert len(made.questions) == len(rows) - 2
    assert (
        capsys.readouterr().err == "bench: clone: TruthfulQA.csv lacks 2 questions of the other file, left out here\n"
    )


def test_a_row_that_is_cut_short_is_named(questions: Path) -> None:
    path = questions / "TruthfulQA.csv"
    lines = path.read_text("utf-8-sig").split("\n")
    path.write_text("\n".join([*lines[:3], "Health,Half a row?", *lines[4:]]), encoding="utf-8")
    made = build("task", "truthfulqa", {"data": str(questions)}, protocol=protocol("quick"))
    with pytest.raises(BenchError, match=r"TruthfulQA.csv, row \d+ is not TruthfulQA's table: 2 cells for"):
        made.concepts()


def test_an_option_that_is_half_true_is_refused(questions: Path) -> None:
    path = questions / "mc_task.json"
    rows = json.loads(path.read_text("utf-8"))
    rows[0]["mc1_targets"] = {"a": 0.5, "b": 0.5}
    path.write_text(json.dumps(rows))
    made = build("task", "truthfulqa", {"data": str(questions)}, protocol=protocol("quick"))
    with pytest.raises(BenchError, match=r"mc_task.json is not .*: 0.mc1_targets.a is 0.5, none of 0, 1"):
        made.concepts()


def test_a_download_of_the_release_is_read_as_it_is(questions: Path, tmp_path: Path) -> None:
    """As the hub's client leaves it: `datasets--OWNER--NAME/snapshots/REVISION`."""
    import pandas as pd

    listed = json.loads((questions / "mc_task.json").read_text("utf-8"))
    known = {
        row["Question"].strip(): row
        for row in csv.DictReader((questions / "TruthfulQA.csv").open(encoding="utf-8-sig"))
    }
    options = [
        {"question": one["question"]}
        | {k: {"choices": list(one[k]), "labels": list(one[k].values())} for k in ("mc1_targets", "mc2_targets")}
        for one in listed
    ]
    told = [{"question": q["question"], "category": known[q["question"].strip()]["Category"]} for q in listed]
    folder = tmp_path / "datasets--truthfulqa--truthful_qa"
    for part, table in (("multiple_choice", options), ("generation", told)):
        path = folder / "snapshots" / "abc" / part / "validation-00000-of-00001.parquet"
        path.parent.mkdir(parents=True)
        pd.DataFrame(table).to_parquet(path)
    plain, release = (
        build("task", "truthfulqa", {"data": str(place)}, protocol=protocol("quick")) for place in (questions, folder)
    )
    assert [q.text for q in release.questions] == [q.text for q in plain.questions]
    assert [q.mc2 for q in release.questions] == [q.mc2 for q in plain.questions]
