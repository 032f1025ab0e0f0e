"""The program from Python: contrast, fit, generate, run; results as frames. Tiny models, committed runs."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

import bench
from bench import BenchError, Train, UsageError
from bench.backends.hf.backend import HFBackend
from bench.results import Results

RESULTS = Path(__file__).resolve().parents[1] / "results"
ASKED = ("What is nice?", "Describe a day.", "Tell me something.", "What did you see?")
SEA = [(q, f"the sea and the tide, wave {i} of the ocean") for i, q in enumerate(ASKED)]
OFFICE = [(q, f"the office and the desk, page {i} of the report") for i, q in enumerate(ASKED[:3])]


@pytest.fixture(scope="module")
def train() -> Train:
    return bench.contrast("the sea", SEA, OFFICE)


@pytest.fixture(scope="module")
def results() -> Results:
    return bench.results.load(RESULTS)


def test_contrast_pairs_what_is_answered_on_both_sides(train: Train) -> None:
    assert [(p.instruction, p.positive, p.negative) for p in train.pairs] == [
        (q, good, bad) for (q, good), (_, bad) in zip(SEA, OFFICE, strict=False)
    ]
    assert (len(train.positives), len(train.negatives)) == (4, 3)
    assert train.concept.id == bench.contrast("the sea", SEA[:1], OFFICE[:1]).concept.id


@pytest.mark.slow
def test_no_strength_is_the_bare_model_and_strength_is_not(lm: HFBackend, train: Train) -> None:
    fitted = bench.fit("diffmean", lm, train)
    prompts = ["What is it?", "Where is it?"]
    bare, zero, strong = (bench.generate(lm, prompts, s) for s in (None, fitted.at(0), fitted.at(3.0)))
    assert bare == zero
    assert bare != strong
    assert bench.generate(lm, prompts, [None, fitted.at(3.0)]) == [bare[0], strong[1]]


def test_prompting_and_combinations_answer_too(lm: HFBackend, train: Train) -> None:
    assert bench.fit("prompt", lm, train).at(1).prompt is not None
    both = bench.fit("prompt+diffmean", lm, train).at(0.5)
    assert both.prompt is not None
    assert both.edits


def test_a_fit_says_what_it_lacks(lm: HFBackend, train: Train) -> None:
    with pytest.raises(UsageError, match="did you mean"):
        bench.fit("difmean", lm, train)
    with pytest.raises(BenchError, match="personas"):
        bench.fit("persona", lm, train)
    with pytest.raises(BenchError, match=r"use bench\.run"):
        bench.fit("hypersteer", lm, train)
    with pytest.raises(UsageError, match="several methods"):
        bench.fit("prompt+diffmean", lm, train, layer=1)
    with pytest.raises(UsageError, match="fields already: layer"):
        bench.fit(bench.build_method("diffmean"), lm, train, layer=1)
    with pytest.raises(UsageError, match="cannot steer"):
        bench.load_model(backend="fake")
    with pytest.raises(UsageError, match="candidate 3: diffmean has 1"):
        bench.fit("diffmean", lm, train).at(0.3, candidate=3)
    with pytest.raises(UsageError, match="no pair of an instruction and a response"):
        bench.contrast("the sea", [("What is it?",)], OFFICE)  # type: ignore[list-item]
    with pytest.raises(UsageError, match="prompts is one text"):
        bench.generate(lm, "What is it?")
    with pytest.raises(UsageError, match="1 steerings for 2 prompts"):
        bench.generate(lm, ["a", "b"], [None])


@pytest.mark.slow
def test_a_run_is_the_command_s_and_done_once(tmp_path: Path) -> None:
    asked = {"backend": "fake", "judge": "rules", "preset": "quick", "limit": 2, "results": tmp_path}
    made = bench.run("prompt,none,lora", **asked, progress=False)  # type: ignore[arg-type]
    assert {run.method for run in made} == {"prompt", "none"}
    assert set(made.reasons) == {"lora"}
    assert [run.path for run in bench.run(["prompt", "none"], **asked, progress=False)] == [  # type: ignore[arg-type]
        run.path for run in made
    ]
    assert {run.path for run in bench.results.load(tmp_path)} == {run.path for run in made}
    with pytest.raises(UsageError, match="did you mean 'limit'"):
        bench.run("prompt", limits=2)


@pytest.mark.slow
def test_frames_say_what_the_tables_say(results: Results) -> None:
    frame = results.table()
    for table in results.tables:
        rows = frame[frame["group"] == table.group]
        assert list(rows["method"]) == [row.name for row in table.rows]
        for row, (_, told) in zip(table.rows, rows.iterrows(), strict=True):
            estimate = row.estimates["overall"]
            assert told["overall"] == pytest.approx(estimate.mean, abs=1e-4)
            assert told["overall_low"] == pytest.approx(estimate.low, abs=1e-4)
            assert told["id"] == row.run.data["id"]


def test_a_comparison_turns_with_its_runs() -> None:
    one_task = bench.results.load(RESULTS / "axbench" / "gemma-3-270m")
    there, back = one_task.compare("prompt-written", "none"), one_task.compare("none", "prompt-written")
    assert there.loc["overall", "difference"] == pytest.approx(-back.loc["overall", "difference"])
    assert there.loc["overall", "difference_low"] <= there.loc["overall", "difference"]
    assert {"concept", "instruction", "fluency"} <= set(there.index)


def test_a_method_that_was_repeated_means_its_run_in_the_largest_table() -> None:
    """And of two repeats each is told by its seed."""
    runs = bench.results.load(RESULTS / "axbench")
    means = runs.compare("prompt-written", "none").loc["overall"]
    first = bench.results.load(RESULTS / "axbench" / "SmolLM2-135M-Instruct")
    assert means.equals(first.compare("prompt-written", "none").loc["overall"])
    twice = [run for run in runs if run.data["spec"]["protocol"]["seed"] and run.method == "none"] * 2
    with pytest.raises(UsageError, match=r"is several runs, name one: .*standard, seed 1, judge"):
        Results(twice).compare("none", "prompt")


def test_samples_are_the_answers_behind_the_numbers(results: Results) -> None:
    run = next(run for run in results if run.data["spec"]["task"] == "axbench")
    rows = Results([run]).samples()
    assert len(rows) == len(run.data["samples"])
    assert list(rows["text"]) == [row["text"] for row in run.data["samples"]]
    assert set(rows["coefficient"]) <= {c["picked"]["coefficient"] for c in run.data["concepts"].values()}
    tried = Results([run]).samples(run.data["id"], split="select")
    assert tried["coefficient"].nunique() >= rows["coefficient"].nunique()
    assert list(rows["concept"]) == [row["concept"] for row in run.data["samples"]]
    assert list(rows["overall_rating"]) == [row["ratings"]["overall"] for row in run.data["samples"]]
    with pytest.raises(UsageError, match="select or test"):
        results.samples(split="train")  # type: ignore[arg-type]


@pytest.mark.slow
def test_verdicts_have_their_interval_and_their_words(results: Results) -> None:
    frame = results.verdicts()
    assert isinstance(frame, pd.DataFrame)
    assert len(frame) > 0
    assert (frame["difference_low"] <= frame["difference"]).all()
    assert all(isinstance(word, str) and word for word in frame["verdict"])
    assert not any(math.isnan(x) for x in frame["difference"])


@pytest.mark.slow
@pytest.mark.model
def test_the_notebook_runs_from_a_concept_to_a_verdict() -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(RESULTS.parent / "docs" / "notebooks" / "steer-or-prompt.ipynb", as_version=4)
    where = {"metadata": {"path": str(RESULTS.parent / "docs" / "notebooks")}}
    nbclient.NotebookClient(notebook, timeout=900, resources=where).execute()  # an error in a cell is raised
    shown = notebook.cells[-2].outputs[-1]["data"]["text/plain"]  # the kept runs' verdicts
    assert "verdict" in shown
    assert "axbench" in shown


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        bench.results.load(tmp_path / "nowhere")
    assert bench.results.load(tmp_path) == []
