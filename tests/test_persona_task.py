"""The persona task: traits rated, personas as prompts, and vectors that watch the prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from bench import results
from bench.backends.hf.backend import HFBackend
from bench.cli.main import main
from bench.core.errors import BenchError, UsageError
from bench.core.interfaces import Context, Monitored
from bench.core.kinds import Add
from bench.core.protocol import Budget, protocol
from bench.core.registry import build
from bench.core.steering import Prompt, Steering
from bench.core.values import Completion, Concept, Item, Sample, Verdict
from bench.run.monitor import correlation, reading
from bench.run.plan import Options, make
from bench.run.spending import spend
from tasks.persona import WORDINGS, Persona


def bench(tmp_path: Path, *words: str) -> Result:
    env = {"BENCH_CACHE": str(tmp_path / "cache"), "BENCH_RESULTS": str(tmp_path / "results")}
    found = CliRunner().invoke(main, list(words), env=env)
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found


@pytest.fixture
def traits(tmp_path: Path) -> Path:
    """Two traits in the task's own layout."""
    folder = tmp_path / "traits"
    folder.mkdir()
    for name in ("flattery", "gloom"):
        row = {
            "trait": f"{name} towards the user",
            "personas": {"positive": [f"an agent of {name}"], "negative": [f"a foe of {name}"]},
            "answers": [
                {"question": f"Tell me of {i}?", "positive": f"With {name}, it is {i}.", "negative": f"It is {i}."}
                for i in range(12)
            ],
            "questions": [f"And what of {i}?" for i in range(20, 32)],
        }
        (folder / f"{name}.json").write_text(json.dumps(row), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def mini() -> Persona:
    made: Persona = build("task", "persona", {}, protocol=protocol("standard"))
    return made


def test_prompts_take_on_every_persona_in_every_wording(mini: Persona) -> None:
    for concept in mini.concepts():
        train = mini.train(concept)
        assert len(set(train.prompts)) == len(WORDINGS) * len(train.personas)
        assert len({next(p for p, _ in train.personas if p in text) for text in train.prompts[:3]}) > 1
        assert all("{persona}" not in text for text in train.prompts)


def test_it_watches_both_sides_and_the_plain_question_and_names_no_other(mini: Persona) -> None:
    assert isinstance(mini, Monitored)
    concept = mini.concepts()[0]
    samples = mini.watched(concept)
    kinds = [sample.label for sample in samples]
    assert {kind: kinds.count(kind) for kind in kinds} == dict.fromkeys(
        ("positive 0", "positive 1", "negative 0", "negative 1", "none"), 6
    )
    asked = {s.instruction for s in mini.test(concept)}
    assert {s.instruction for s in samples} == asked
    assert all((s.messages[0][0] == "system") is (s.label != "none") for s in samples)
    assert len({s.id for s in samples}) == len(samples)


def test_the_score_is_trait_and_coherence(mini: Persona) -> None:
    samples = mini.test(mini.concepts()[0])[:2]
    seen: list[Item] = []

    def rate(items: Any) -> list[Verdict]:
        seen.extend(items)
        return [Verdict(2.0 if item.axis == "fluency" else 1.0 if item.text == "one" else 0.0) for item in items]

    one, two = mini.score(samples, [Completion(text, 1, 1) for text in ("one", "two")], rate)
    assert (one["trait"].value, one["coherence"].value) == (1.0, 2.0)
    assert one["overall"].value == pytest.approx(4 / 3)
    assert two["overall"].value == 0
    assert {item.axis for item in seen} == {"concept", "fluency"}


def test_a_vector_that_moves_the_rated_states_is_a_perfect_monitor(lm: HFBackend) -> None:
    rng, concept = np.random.default_rng(0), Concept("c", "c")
    samples = [
        Sample(f"{i}", concept, "test", "generate", (("user", f"Word {i}, {'x' * i}?"),), label="ab"[i % 2])
        for i in range(12)
    ]
    ctx = Context(lm, Budget(4, 0, 1, 1))
    v = rng.standard_normal(32).astype(np.float32)
    states = ctx.last([s.messages for s in samples], 2)[2]
    ratings: list[float | None] = [float(x) for x in states @ v]
    ratings[3] = None
    found = reading(ctx, Steering(edits=(Add(layer=2, value=v),)), samples, ratings)
    assert found is not None
    assert found["r"] == pytest.approx(1, abs=1e-3)
    assert found["within"] == pytest.approx(1, abs=1e-3)
    assert found["n"] == 11
    assert len(found["projections"]) == len(found["kinds"]) == 12
    turned = reading(ctx, Steering(edits=(Add(layer=2, value=-v),)), samples, ratings)
    assert turned is not None
    assert turned["r"] == pytest.approx(-1, abs=1e-3)
    assert reading(ctx, Steering(Prompt(system="Be.")), samples, ratings) is None


def test_what_only_follows_the_instruction_knows_nothing_within() -> None:
    assert correlation(np.zeros(5), np.arange(5.0)) is None
    assert correlation(np.arange(5.0), np.arange(5.0)) == 1.0
    assert correlation(np.arange(2.0), np.arange(2.0)) is None


@pytest.mark.slow
@pytest.mark.parametrize("data", ["mini", "folder"])
def test_a_run_keeps_and_shows_what_its_vectors_foretold(traits: Path, tmp_path: Path, data: str) -> None:
    given = ["--data", str(traits)] if data == "folder" else ["--limit", "2"]
    words = ("run", "-t", "persona", "-m", "none,diffmean,persona,prompt,prompt-persona", "--backend", "fake", *given)
    assert bench(tmp_path, *words).exit_code == 0
    runs = {run.method: run for run in results.load(tmp_path / "results")}
    assert set(runs) == {"none", "diffmean", "persona", "prompt", "prompt-persona"}
    for name, run in runs.items():
        for concept in run.data["concepts"].values():
            assert ("monitor" in concept) is (name in ("diffmean", "persona"))
    kept = next(iter(runs["diffmean"].data["concepts"].values()))["monitor"]
    assert kept["n"] == len(kept["projections"])
    assert kept["n"] == len(kept["ratings"]) == (15 if data == "mini" else 9)
    page = (tmp_path / "reports" / "leaderboard.md").read_text("utf-8")
    assert "As a monitor" in page
    shown = bench(tmp_path, "show", "diffmean")
    assert ("monitor r" in shown.output) is (kept["r"] is not None)
    again = bench(tmp_path, *words, "--json")
    assert {job["status"] for job in json.loads(again.stdout)["runs"]} == {"cached"}


def test_the_plan_counts_the_watched_answers() -> None:
    plan = make(Options(methods=("none",), task="persona", backend="fake"))
    found = spend(plan.methods[0], plan.protocol, plan.task)
    assert found.generations == 12 * (2 + 3 + 5 * 3)
    assert found.ratings == 12 * (2 * (2 + 3) + 5 * 3)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"trait": None, "questions": [1, 2, 3, 4]}, "trait is None, not a text"),
        ({"personas": {"positive": ["a"], "negative": []}}, "1 positive and 0 negative"),
        ({"answers": []}, "no positive training texts"),
        ({"questions": ["And?"]}, "4 are needed"),
        ({"questions": ["Tell me of 3?", "a?", "b?", "c?", "d?"]}, "is a training instruction"),
        ({"questions": ["a?", "a?", "b?", "c?"]}, "twice"),
    ],
)
def test_a_damaged_or_leaking_trait_is_refused(traits: Path, damage: dict[str, Any], said: str) -> None:
    path = traits / "gloom.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | damage), encoding="utf-8")
    made = build("task", "persona", {"data": str(traits)}, protocol=protocol("quick"))
    with pytest.raises(BenchError, match=said):
        made.concepts()


def test_data_without_personas_is_refused(axbench_folder: Path) -> None:
    made = build("task", "persona", {"data": str(axbench_folder)}, protocol=protocol("quick"))
    with pytest.raises(UsageError, match="no personas"):
        made.concepts()
