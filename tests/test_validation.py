"""Validating a judge: right figures from known ratings, the agreed JSON, and the real judges on a small part."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

from bench.cli.main import main
from bench.core.errors import BenchError, UsageError
from bench.core.interfaces import Judge
from bench.core.registry import judge
from bench.core.values import Concept, Example, Item, Train, Verdict
from bench.judges.corruptions import CORRUPTIONS
from bench.judges.instrument import Instrument
from bench.measure.judge_validity import questions, separation, validate
from bench.measure.readers import composite, count, gate
from bench.measure.reference import load
from bench.results.ratings import Answer, Origin, Rated, key_of, write, write_key


@pytest.fixture(scope="module")
def part(axbench_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two concepts of Concept10 with 8 training and 6 evaluation texts of each class, the first 24 words."""
    folder = tmp_path_factory.mktemp("data") / "small10"
    same = ["concept_id", "category"]
    for name, rows, kinds in (
        ("generate/train_data", 8, [*same, "concept_genre"]),
        ("inference/latent_eval_data", 6, same),
    ):
        frame = pd.read_parquet(axbench_folder / f"{name}.parquet")
        frame = frame[frame.concept_id.isin([-1, 0, 1])].groupby(kinds).head(rows)
        frame["output"] = frame["output"].map(lambda text: " ".join(text.split()[:24]))
        (folder / name).parent.mkdir(parents=True)
        frame.to_parquet(folder / f"{name}.parquet")
    lines = (axbench_folder / "generate" / "metadata.jsonl").read_text("utf-8").splitlines()[:2]
    (folder / "generate" / "metadata.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Kept ratings of this test alone, beside the models that are there."""
    from bench.core.paths import cache_root

    models = cache_root() / "models"
    root = tmp_path / "cache"
    root.mkdir()
    if models.is_dir():
        (root / "models").symlink_to(models)
    monkeypatch.setenv("BENCH_CACHE", str(root))
    return root


Rule = Callable[[Item], float | None]


@pytest.fixture
def seeing(cache: Path) -> Callable[[Rule], Instrument]:
    """An instrument whose judge rates by a rule of the test, and notes what it was calibrated on."""

    def make(rule: Rule) -> Instrument:
        @judge(f"rule{id(rule)}")
        @dataclass
        class Seeing(Judge):
            independent = True

            def fingerprint(self) -> Mapping[str, Any]:
                return {}

            def prepare(self, backend: Any, keep: Any, trains: Sequence[Train]) -> None:
                self.trains = trains

            def rate(self, items: Sequence[Item]) -> Iterator[tuple[int, Verdict]]:
                for i, item in enumerate(items):
                    value = rule(item)
                    yield i, Verdict(value, reason="" if value is not None else "no")

        return Instrument(f"rule{id(rule)}")

    return make


def truth(folder: Path) -> dict[tuple[str, str], str]:
    task = load(str(folder))
    return {(c.id, e.response): label for c in task.concepts() for e, label in task.evaluation(c)}  # type: ignore[attr-defined]


def test_known_ratings_give_known_figures(part: Path, seeing: Callable[[Rule], Instrument]) -> None:
    labels = truth(part)
    pairs = {(e.instruction, e.response) for c in load(str(part)).concepts() for e, _ in load(str(part)).evaluation(c)}  # type: ignore[attr-defined]

    def perfect(item: Item) -> float:
        if item.axis == "concept":
            return 2.0 if labels.get((item.concept.id, item.text)) == "positive" else 0.0
        if item.axis == "instruction":
            return 2.0 if (item.instruction, item.text) in pairs else 0.0
        return 2.0 if (item.concept.id, item.text) in labels else 0.0

    found = validate(seeing(perfect), str(part))
    assert list(found)[:2] == ["judge", "axes"]
    assert {axis: list(others) for axis, others in found["axes"].items()} == {
        "concept": ["negative", "hard_negative"],
        "instruction": ["shuffled"],
        "fluency": ["words_shuffled", "looped", "truncated"],
    }
    for others in found["axes"].values():
        for e in others.values():
            assert list(e) == ["auroc", "low", "high", "n"]
            assert (e["auroc"], e["low"], e["high"]) == (1, 1, 1)
    assert found["axes"]["concept"]["negative"]["n"] == 24
    assert {axis: e["missing"] for axis, e in found["missing"].items()} == dict.fromkeys(found["axes"], 0)
    assert found["corruption_shift"]["positive/looped"]["change"] == -2
    assert found["corruption_shift"]["negative/looped"]["change"] == 0


def test_a_constant_judge_is_at_chance_and_a_long_text_shows_its_bias(
    part: Path, seeing: Callable[[Rule], Instrument]
) -> None:
    found = validate(seeing(lambda item: min(2.0, len(item.text.split()) / 100 + 0.5)), str(part))
    assert abs(found["axes"]["instruction"]["shuffled"]["auroc"] - 0.5) < 0.01  # same texts on both sides
    assert found["length_bias"]["concept"]["spearman"] == pytest.approx(1)


def test_missing_ratings_are_counted_and_left_out(part: Path, seeing: Callable[[Rule], Instrument]) -> None:
    labels = truth(part)
    odd = set(sorted(text for _, text in labels)[::2])
    found = validate(
        seeing(lambda i: None if i.text in odd else 2.0 * (labels.get((i.concept.id, i.text)) == "positive")), str(part)
    )
    assert found["axes"]["concept"]["negative"]["auroc"] == 1
    assert 0 < found["axes"]["concept"]["negative"]["n"] < 24
    assert 0 < found["missing"]["concept"]["rate"] < 1
    silent = validate(seeing(lambda i: None), str(part))
    assert silent["axes"]["fluency"]["looped"] == {"auroc": None, "low": None, "high": None, "n": 0}
    assert silent["missing"]["fluency"]["rate"] == 1
    json.dumps(silent, allow_nan=False)


def test_calibration_sees_training_texts_alone(part: Path, seeing: Callable[[Rule], Instrument]) -> None:
    instrument = seeing(lambda item: 1.0)
    validate(instrument, str(part))
    task = load(str(part))
    held = {e.response for c in task.concepts() for e, _ in task.evaluation(c)}  # type: ignore[attr-defined]
    seen = {e.response for t in instrument.judge.trains for e in (*t.positives, *t.negatives)}  # type: ignore[attr-defined]
    assert seen
    assert not seen & held


def test_a_text_in_both_splits_is_refused(part: Path, tmp_path: Path, seeing: Callable[[Rule], Instrument]) -> None:
    folder = tmp_path / "leaky"
    shutil.copytree(part, folder)
    train = pd.read_parquet(folder / "generate" / "train_data.parquet")
    held = pd.read_parquet(folder / "inference" / "latent_eval_data.parquet")
    held.loc[held.index[0], "output"] = train[train.concept_id == held.concept_id.iloc[0]].output.iloc[0]
    held.to_parquet(folder / "inference" / "latent_eval_data.parquet")
    with pytest.raises(BenchError, match="share a text"):
        validate(seeing(lambda item: 1.0), str(folder))


def test_data_without_labelled_texts_is_refused(seeing: Callable[[Rule], Instrument]) -> None:
    with pytest.raises(UsageError, match="no labelled evaluation texts"):
        validate(seeing(lambda item: 1.0), "mini")


def rated(n: int, concepts: int = 6) -> list[Rated]:
    """Answers whose length is what readers go by; the second reader is half a point off at every third."""
    rows = []
    for k in range(n):
        length = 1 + (5 * k) % 17
        answer = Answer(f"r{k}", f"subject {k % concepts}", "Say it.", "word " * length)
        given = {axis: min(2.0, length / 8) for axis in ("concept", "instruction", "fluency")}
        rows.append(Rated(answer, "one", given))
        if k % 3 == 0:
            rows.append(Rated(answer, "two", {axis: max(0.0, v - 0.5) for axis, v in given.items()}))
    return rows


def test_a_judge_is_held_against_readers_on_any_file(seeing: Callable[[Rule], Instrument], tmp_path: Path) -> None:
    path = tmp_path / "theirs.csv"
    write(path, [row for row in rated(60) if row.reader == "one"])
    done: list[int] = []
    judge = seeing(lambda i: min(2.0, len(i.text.split()) / 8))
    found = validate(judge, "mini", human=[path], advance=done.append)
    assert sum(done) == count([path]) == 3 * (60 + 30)  # garbage is rated beside
    assert count([]) == 0
    assert found["axes"] == {}
    assert set(found["human"]) == {"concept", "instruction", "fluency", "overall"}
    for e in found["human"].values():
        assert e["spearman"] == pytest.approx(1, abs=0.01)
        assert e["mae"] == pytest.approx(0, abs=1e-6)
        assert e["n"] == 60
    assert found["readers"] == {}
    assert (found["ranked"], found["models"]) == ({}, [])  # nobody says where they came from
    json.dumps(found, allow_nan=False)


def test_readers_families_and_the_gate(seeing: Callable[[Rule], Instrument], tmp_path: Path) -> None:
    """A judge half a point too kind to what a prompt wrote: the bias is found, and named by surface."""
    path = tmp_path / "theirs.csv"
    rows = rated(60)
    write(path, rows)
    surfaces = ("prompt", "activations")
    write_key(
        key_of(path),
        [
            Origin(r.answer.id, "run", str(k), "axbench", "m", "some", surfaces[int(r.answer.id[1:]) % 2], "1")
            for k, r in enumerate(rows)
            if r.reader == "one"
        ],
    )

    def kind(item: Item) -> float:
        return min(2.0, len(item.text.split()) / 8 + 0.5)

    found = validate(seeing(kind), "mini", human=[path])
    assert found["readers"]["names"] == ["one", "two"]
    assert found["readers"]["concept"]["n"] == 20
    assert found["readers"]["overall"]["spearman"] > 0.9
    assert set(found["surfaces"]["axbench"]) == set(surfaces)
    for e in found["surfaces"]["axbench"].values():
        assert 0.2 < e["bias"] < 0.8
        assert e["low"] > 0
    assert found["ranked"]["axbench"]["mae"] > 0.25
    assert not found["gate"]["tasks"]["axbench"]


@pytest.mark.parametrize(
    ("changed", "passed"),
    [
        ({}, True),
        ({"human": {"overall": {"spearman": 0.7, "mae": 0.1}}}, False),
        ({"human": {"overall": {"spearman": 0.8, "mae": 0.3}}}, False),
        ({"human": {}}, False),
        ({"broken": {"auroc": 0.9}}, False),
        ({"broken": {}}, False),
        ({"garbage": {"highest": 0.6}}, False),
        ({"ceiling": {"concept": 0.1, "fluency": 0.9}}, False),
    ],
)
def test_every_line_of_the_gate_is_needed(changed: Mapping[str, Any], passed: bool) -> None:
    good: dict[str, Any] = {
        "human": {"overall": {"spearman": 0.8, "mae": 0.2}},
        "ranked": {},
        "broken": {"auroc": 0.99},
        "garbage": {"highest": 0.4},
        "ceiling": {"concept": 0.1, "fluency": 0.5},
    }
    assert gate(good | changed)["tasks"]["overall"] is passed


def test_the_composite_ends_at_0_where_an_axis_does() -> None:
    assert composite({"concept": 2, "instruction": 1, "fluency": 2}) == pytest.approx(1.5)
    assert composite({"concept": 0, "instruction": 2, "fluency": 2}) == 0


def test_each_text_is_asked_with_another_text_s_instruction() -> None:
    texts = [(Example(f"q{k}", f"answer number {k} is here"), "positive") for k in range(9)]
    asked = [q for q in questions(Concept("c", "c"), texts) if q.group == "instruction"]
    own = {q.item.text: q.item.instruction for q in asked if q.label == "matched"}
    moved = {q.item.text: q.item.instruction for q in asked if q.label == "shuffled"}
    assert set(own) == set(moved)
    assert all(own[text] != moved[text] for text in own)
    assert sorted(own.values()) == sorted(moved.values())


def test_a_concept_without_a_class_is_left_out() -> None:
    found = separation({"a": [2, 1], "b": [2]}, {"a": [0, 1], "b": []})
    assert (found["auroc"], found["n"], found["low"]) == (0.875, 4, None)


@pytest.mark.slow
@pytest.mark.model
def test_the_embedding_judge_through_the_command_line(part: Path, cache: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    command = ["judge", "validate", "--judge", "embedding", "--data", str(part), "--json", "--save"]
    done = CliRunner().invoke(main, [*command, "--results", str(results)])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert list(found)[:2] == ["judge", "axes"]
    assert found["judge"] == "embedding"
    assert found["axes"]["concept"]["negative"]["auroc"] > 0.8
    assert all(found["axes"]["fluency"][kind]["auroc"] > 0.6 for kind in CORRUPTIONS)
    kept = json.loads((results / "judges" / "embedding-small10.json").read_text("utf-8"))
    assert {k: v for k, v in kept.items() if k != "provenance"} == found
    assert str(part) not in json.dumps(kept)  # a place on one machine is no part of a result
