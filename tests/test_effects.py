"""What is looked at beside the score: at the picked settings, paired, and in every table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import sums_task

from bench import results
from bench.backends import tiny
from bench.backends.hf.backend import HFBackend
from bench.cli.main import main
from bench.core.edits import Span
from bench.core.errors import UsageError
from bench.core.kinds import Add
from bench.core.naming import build_method
from bench.core.protocol import protocol
from bench.core.registry import build
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
from bench.run.session import execute
from bench.run.specificity import able, concept_axis, contested, others
from bench.run.spending import Cost, looks
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
    sums_task(root / "tasks")
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


# Whether a method moves its concept alone, and against an order


def ran_on_the_fake(tmp_path: Path, *methods: str, **given: Any) -> dict[str, results.Run]:
    jobs = execute(make(Options(methods, backend="fake", judge="likelihood", **given)), tmp_path / "results")
    assert [job.reason for job in jobs] == [""] * len(methods)
    return {run.method: run for run in results.load(tmp_path / "results")}


def test_the_other_concept_is_the_next_of_the_genre_and_round() -> None:
    task = build("task", "axbench", {}, protocol=protocol("quick"))
    beside, every = others(task), {concept.id: concept for concept in task.concepts()}
    assert beside.keys() == every.keys()
    for name, other in beside.items():
        assert other.id != name
        assert other.genre == every[name].genre
    texts = [concept for concept in every.values() if concept.genre == "text"]
    assert [beside[concept.id] for concept in texts] == [*texts[1:], texts[0]]
    alone = build("task", "axbench", {"concept": texts[0].id}, protocol=protocol("quick"))
    assert others(alone) == {}
    assert able(alone, ("related", "adverse")) == ("adverse",)


@pytest.mark.parametrize(
    ("name", "axis"),
    [("axbench", "concept"), ("persona", "trait"), ("axbench-suppress", ""), ("refusal", ""), ("constraints", "")],
)
def test_only_what_a_judge_rates_for_its_concept_is_looked_at(name: str, axis: str) -> None:
    assert concept_axis(build("task", name, {}, protocol=protocol("quick"))) == axis


def test_the_order_stands_in_the_question_and_the_answer_is_rated_against_the_plain_one() -> None:
    task = build("task", "axbench", {}, protocol=protocol("standard"))
    concept = task.concepts()[0]
    plain, found = task.test(concept), contested(task, concept)
    assert len(found) == len(plain) // 2 == 3
    for one, other in zip(plain, found, strict=False):
        assert other.id == one.id
        assert other.question == one.instruction
        assert other.instruction.startswith(one.instruction)
        assert f"keep strictly off {concept.text}" in other.instruction


@pytest.mark.slow
def test_looking_at_it_changes_no_score_and_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    plain = ran_on_the_fake(tmp_path / "plain", "none", "diffmean", limit=3)
    assert not any("specificity" in run.data for run in plain.values())
    runs = ran_on_the_fake(tmp_path / "looked", "none", "diffmean", limit=3, effects=("related", "adverse"))
    for name, run in runs.items():
        for part in ("samples", "metrics", "concepts", "id", "code"):
            a, b = (json.dumps(one.data[part], sort_keys=True) for one in (run, plain[name]))
            assert part == "concepts" or a == b
        assert run.data["counts"]["verdicts"] == plain[name].data["counts"]["verdicts"]
        found = run.data["specificity"]
        assert found["related"]["ratings"].keys() == {sample["id"] for sample in run.data["samples"]}
        assert found["related"]["others"].keys() == run.data["concepts"].keys()
        assert len(found["adverse"]["samples"]) == len(run.data["concepts"])  # one of quick's three questions
        assert all("keep strictly off" in sample["instruction"] for sample in found["adverse"]["samples"])
        assert effects.related(run).keys() == effects.adverse(run).keys() | effects.related(run).keys()
    (table,) = tables(list(runs.values()))
    grid = told.grid(table)
    assert grid is not None
    assert grid[0].columns == ("method", "overall", "related", "adverse")
    # What was looked at is not looked at again; what was not is, for that alone.
    asked = {"backend": "fake", "judge": "likelihood", "limit": 3}

    def states(folder: str, *names: str) -> list[str]:
        jobs = execute(make(Options(("none",), effects=names, **asked)), tmp_path / folder / "results")  # type: ignore[arg-type]
        return [job.status for job in jobs]

    assert states("looked", "related", "adverse") == states("looked", "adverse") == states("looked") == ["cached"]
    assert states("plain", "related") == ["complete"]
    assert states("plain", "related") == ["cached"]


def test_the_columns_are_paired(tmp_path: Path) -> None:
    def run(method: str, other: list[float], under: list[float]) -> results.Run:
        names = [f"c{i}" for i in range(6)]
        samples = [{"id": f"{n}/test/0", "concept": n, "ratings": {"concept": 1.0, "overall": 1.0}} for n in names]
        again = [dict(s, ratings={"concept": value}) for s, value in zip(samples, under, strict=True)]
        looked = {
            "related": {"key": "k", "others": {}, "ratings": {s["id"]: v for s, v in zip(samples, other, strict=True)}},
            "adverse": {"key": "k", "axis": "concept", "samples": again},
        }
        data = {"spec": {"method": method, "judge": "x"}, "samples": samples, "specificity": looked, "concepts": {
            n: {"test": {"overall": 1.0}} for n in names}}  # fmt: skip
        return results.Run(tmp_path / method / "run.json", data)

    bare = run("none", [0.1] * 6, [1.0] * 6)
    lifts = run("lifts", [1.1] * 6, [0.25] * 6)
    (related,) = told._related([bare, lifts])
    assert (related.cell(bare), related.cell(lifts)) == ("0.10 [0.10, 0.10]", "+1.00 [+1.00, +1.00]")
    (adverse,) = told._adverse([bare, lifts])
    assert (adverse.cell(bare), adverse.cell(lifts)) == ("+0.00 [+0.00, +0.00]", "-0.75 [-0.75, -0.75]")
    (alone,) = told._related([lifts])
    assert alone.cell(lifts) == "1.10 [1.10, 1.10]"


def test_a_plan_counts_what_is_looked_at() -> None:
    rules = protocol("standard")
    task = build("task", "axbench", {}, protocol=rules)
    made, concepts = build_method("diffmean", {}), len(task.concepts())
    assert looks(made, rules, task, ()) == Cost()
    assert looks(made, rules, task, ("related",)) == Cost(ratings=6 * concepts)
    both = looks(made, rules, task, ("related", "adverse"))
    assert (both.generations, both.ratings) == (3 * concepts, 9 * concepts)
    assert both.tokens == 3 * concepts * rules.sampling.max_new_tokens
    with pytest.raises(UsageError, match="no judge rates a concept of task refusal"):
        make(Options(("none",), task="refusal", backend="fake", effects=("adverse",)))
    with pytest.raises(UsageError, match="there is no other concept"):
        make(Options(("none",), backend="fake", limit=1, effects=("related",)))


@pytest.mark.slow
def test_what_cannot_be_asked_against_an_order_costs_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench.backends.fake.backend import FakeBackend

    answer = FakeBackend.generate

    def broken(self: FakeBackend, requests: Any) -> Any:
        if any("keep strictly off" in str(request.prompt) for request in requests):
            raise ValueError("too long")
        yield from answer(self, requests)

    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(FakeBackend, "generate", broken)
    runs = ran_on_the_fake(tmp_path, "none", "diffmean", limit=2, effects=("related", "adverse"))
    assert "under an adverse prompt: generate: ValueError: too long" in capsys.readouterr().err
    assert all(run.data["specificity"].keys() == {"related"} for run in runs.values())
