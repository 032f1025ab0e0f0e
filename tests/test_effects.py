"""What is looked at beside the score: at the picked settings, paired, and in every table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from bench import results
from bench.backends import tiny
from bench.backends.hf.backend import HFBackend
from bench.cli.main import main
from bench.core.edits import Span
from bench.core.errors import UsageError
from bench.core.kinds import Add
from bench.core.steering import Prompt, Steering
from bench.data import layout
from bench.data.basics import basics
from bench.data.check import place
from bench.measure import capability
from bench.report.text import effects as told
from bench.results import effects, sidecars
from bench.results.tables import tables
from bench.run.effects import wanted
from bench.run.plan import Options, make
from bench.stats.intervals import estimate


def bench(*words: str) -> Result:
    found = CliRunner().invoke(main, list(words))
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, and a local task of lm-eval."""
    root = tmp_path_factory.mktemp("effects")
    tiny.build(root / "model")
    (root / "tasks").mkdir()
    rows = [{"question": f"What is {i} plus {i}?", "options": [str(2 * i), str(i), "none"], "at": 0} for i in range(8)]
    (root / "tasks" / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "tasks" / "sums.yaml").write_text(
        f"task: sums\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {root}/tasks/sums.jsonl\n"
        'test_split: test\noutput_type: multiple_choice\ndoc_to_text: "Q: {{question}}\\nA:"\n'
        "doc_to_choice: options\ndoc_to_target: at\n"
    )
    return root


@pytest.fixture(autouse=True)
def _own_folders(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(home / "cache"))
    monkeypatch.setenv("BENCH_RESULTS", str(home / "results"))
    monkeypatch.setenv("HF_HOME", str(home / "hub"))


def words(home: Path, *more: str) -> tuple[str, ...]:
    """A run of three methods on the tiny model."""
    asked = ("run", "-m", "none,random,prompt", "-n", "2", "--model", str(home / "model"), "--dtype", "float32")
    return (*asked, "--judge", "likelihood", "--include-path", str(home / "tasks"), *more)


@pytest.fixture
def ran(home: Path) -> dict[str, results.Run]:
    done = bench(*words(home, "--effects", "basics,sums"))
    assert done.exit_code == 0, done.stderr
    return {run.method: run for run in results.load(home / "results")}


@pytest.mark.slow
def test_a_run_asks_what_it_is_told_under_every_picked_setting(
    home: Path, ran: dict[str, results.Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in ran.values():
        kept = sidecars.capability(run.path.with_name(sidecars.CAPABILITY))["entries"].values()
        assert {entry["concept"]: entry["coefficient"] for entry in kept} == {
            name: found["picked"]["coefficient"] for name, found in run.data["concepts"].items()
        }
        assert all(entry["numbers"].keys() == {"basics", "sums"} for entry in kept)
        assert all(entry["numbers"]["basics"]["acc"]["n"] == len(basics()) == 48 for entry in kept)

    def never(*_: Any) -> Any:
        raise AssertionError("asked again")

    monkeypatch.setattr(capability, "evaluate", never)
    again = bench(*words(home, "--effects", "basics,sums"))
    assert again.exit_code == 0
    assert "is not known" not in again.stderr


@pytest.mark.slow
def test_the_change_is_paired_by_document_and_its_interval_is_over_documents(
    home: Path, ran: dict[str, results.Run]
) -> None:
    run = ran["random"]
    (what,) = [one for one in effects.asked(list(ran.values())) if one.task == "basics"]
    assert what.metric == "acc"
    found = effects.change(run, what)
    assert found is not None
    assert found.items is not None
    made = capability.Capability(run)
    settings = capability.Settings(("basics", "sums"), home / "tasks", 100, chat=True)
    bare = made._evaluated(Steering(), settings)["basics"]["acc"]["documents"]
    each = [made._evaluated(one, settings)["basics"]["acc"]["documents"] for one in made.steerings.values()]
    changes = [np.mean([steered[k] - bare[k] for steered in each]) for k in bare]
    assert found.difference == pytest.approx(np.mean(changes))
    assert sorted(found.items) == pytest.approx(sorted(changes))
    assert estimate(found.items).mean == pytest.approx(found.difference)
    nothing = effects.change(ran["none"], what)
    assert nothing is not None
    assert (nothing.difference, nothing.touched) == (0.0, False)
    assert found.bare == nothing.bare == pytest.approx(np.mean(list(bare.values())))


@pytest.mark.slow
def test_every_table_has_the_columns_beside_the_score(home: Path, ran: dict[str, results.Run], tmp_path: Path) -> None:
    (table,) = tables(list(ran.values()))
    grid = told.grid(table)
    assert grid is not None
    shown, notes = grid
    assert shown.columns == ("method", "overall", "basics", "sums")
    cells = {row[0]: row[2] for row in shown.rows}
    assert cells["none"] == "–"
    assert cells["random"].startswith(("+", "-"))
    assert any("on the same 48 documents" in note for note in notes)
    assert bench("report", "--out", str(tmp_path / "out")).exit_code == 0
    assert told.HEADING in (tmp_path / "out" / "leaderboard.md").read_text("utf-8")
    assert "basics: " in bench("show", "random").stdout
    assert "Beside the score" in bench(*words(home, "--effects", "none")).stdout


@pytest.mark.slow
def test_what_fails_under_lm_eval_costs_no_run(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("no logits")

    monkeypatch.setattr(capability, "evaluate", broken)
    done = bench(*words(home, "--effects", "sums", "--results", str(tmp_path / "results"), "--seed", "3"))
    assert done.exit_code == 0
    assert "what random does to sums is not known: ValueError: no logits" in " ".join(done.stderr.split())
    assert len(results.load(tmp_path / "results")) == 3


def test_a_task_that_lm_eval_lacks_is_refused_before_the_run(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lm_eval.tasks

    class Own(lm_eval.tasks.TaskManager):
        """Without lm-eval's own index, which takes ten seconds to read."""

        def __init__(self, include_path: str, include_defaults: bool = False) -> None:
            super().__init__(include_path=include_path, include_defaults=False)

    monkeypatch.setattr(lm_eval.tasks, "TaskManager", Own)
    done = bench(*words(home, "--effects", "sumz", "--results", str(tmp_path / "results")))
    assert done.exit_code == 2
    assert "lm-eval has no task 'sumz': did you mean 'sums'?" in done.stderr
    assert not (tmp_path / "results").exists()


def test_what_a_steering_cannot_touch_is_untouched_by_construction(lm: HFBackend) -> None:
    from lm_eval.api.instance import Instance

    from bench.measure.lm_eval import BenchLM

    def touched(steering: Steering, *answers: str) -> bool:
        made = BenchLM(lm, steering)
        asked = [Instance(request_type="loglikelihood", doc={}, arguments=("Is it?", one), idx=0) for one in answers]
        made.loglikelihood(asked)
        return made.touched

    vector = np.ones(lm.model.config.hidden_size, dtype=np.float32)
    later = Steering(edits=(Add(layer=1, value=vector, span=Span("response")),))
    one, long = "a", "a long answer of many words"
    assert len(lm.tokenizer.encode(one, add_special_tokens=False)) == 1
    assert not touched(Steering(), one, long)
    assert not touched(later, one)  # its first token follows the question, which no such edit reaches
    assert touched(later, one, long)
    assert touched(Steering(edits=(Add(layer=1, value=vector),)), one)
    assert touched(Steering(Prompt(system="Be brief.")), one)
    found = effects.Change(0.5, 0.0, np.zeros(3), 3, touched=False)
    assert told._changed(found, False) == told.UNTOUCHED


def test_the_shipped_questions_are_their_own() -> None:
    rows: list[Any] = basics()
    asked = [layout.fold(row["question"]) for row in rows]
    assert len(set(asked)) == len(rows)
    mini = layout.read(place("mini"))
    used = {layout.fold(t.instruction) for t in mini.texts} | {layout.fold(q.instruction) for q in mini.questions}
    assert not used & set(asked)
    for row in rows:
        assert row["answer"] == 0
        assert len({option.lower() for option in row["options"]}) == 4


def test_a_preset_has_its_effects_and_a_user_chooses() -> None:
    assert wanted((), "quick") == ()
    assert "basics" in wanted((), "standard")
    assert wanted((), "standard") == wanted((), "paper")
    assert wanted(("none",), "paper") == ()
    assert wanted(("arc_easy", "basics", "arc_easy"), "quick") == ("arc_easy", "basics")
    with pytest.raises(UsageError, match="stands by itself"):
        wanted(("none", "basics"), "quick")


def test_an_engine_that_lm_eval_cannot_ask_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="on the engine hf, not on fake"):
        make(Options(("none",), backend="fake", effects=("basics",)))
    assert make(Options(("none",), backend="fake", preset="standard")).benchmarks == ()
    shown = bench("run", "-m", "none", "--backend", "fake", "--preset", "standard", "-n", "2", "--dry-run")
    assert "basics: not asked" in " ".join(shown.stderr.split())
    with pytest.raises(UsageError, match="no folder of lm-eval tasks"):
        make(Options(("none",), backend="fake", include=str(tmp_path / "nosuch")))


def test_a_plan_says_what_lm_eval_s_tasks_cost(home: Path) -> None:
    cost = " ".join(bench(*words(home, "--effects", "basics,sums", "--seed", "9", "--dry-run")).stderr.split())
    assert "under each picked setting basics, sums asked: " in cost
    assert "the first 100 documents each" in cost
