"""SteerEval's folders: levels, held-out questions, the word that a program finds, methods by level."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from steereval_cases import domain

from bench import results
from bench.core.errors import BenchError, UsageError
from bench.core.protocol import protocol
from bench.core.registry import build
from bench.core.values import Completion, Item, Verdict
from bench.report.build import build as build_report
from bench.results.parts import by_part, change, scores
from bench.results.tables import tables
from bench.run.plan import Options, make
from bench.run.session import execute
from bench.stats.intervals import Estimate


def task(data: Path, preset: str = "standard", **given: Any) -> Any:
    return build("task", "steereval", {"data": str(data), **given}, protocol=protocol(preset))


def test_concepts_of_all_domains_and_levels_are_read(tmp_path: Path) -> None:
    domain(tmp_path / "set" / "sentiment")
    domain(tmp_path / "set" / "personality")
    made = task(tmp_path / "set")
    names = [concept.id for concept in made.concepts()]
    assert names[:2] == ["personality-L1_1", "personality-L1_2"]
    assert len(names) == 12
    assert [made.part_of(name) for name in names[:6]] == ["L1", "L1", "L2", "L2", "L3", "L3"]
    assert [c.id for c in task(tmp_path / "set", level=3).concepts()] == [
        "personality-L3_1", "personality-L3_2", "sentiment-L3_1", "sentiment-L3_2",
    ]  # fmt: skip
    assert [c.id for c in task(tmp_path / "set" / "sentiment", concept="sentiment-L2_1").concepts()] == [
        "sentiment-L2_1"
    ]


def test_settings_are_picked_on_questions_that_nothing_learns_from(tmp_path: Path) -> None:
    made = task(domain(tmp_path / "sentiment"))  # three validation questions, and standard asks for four
    concept = made.concepts()[0]
    asked = [sample.instruction for sample in made.select(concept)]
    picked = [*(f"valid {i}" for i in range(3)), "train 11"]
    assert asked == [f"sentiment L1_1 {name}: how did it go?" for name in picked]
    train = made.train(concept)
    learnt = {example.instruction for example in (*train.positives, *train.negatives)}
    tested = {sample.instruction for sample in made.test(concept)}
    assert len(learnt) == 11
    assert not learnt & {*asked, *tested}
    assert not tested & {*asked}
    assert train.views >= {"texts", "pairs", "choices"}
    assert {(p.positive, p.negative) for p in train.pairs} == {
        (f"Thank you, it went well {i}.", f"No thanks to anyone, it went {i}.") for i in range(11)
    }


def test_what_the_authors_generator_writes_is_read_too(tmp_path: Path) -> None:
    made = task(domain(tmp_path / "sentiment", valid=0, names=("_results", "")))
    concept = made.concepts()[0]
    assert len(made.select(concept)) == 4
    assert len(made.train(concept).positives) == 8


@pytest.mark.parametrize(
    ("text", "word"),
    [("I am BEHOLDEN1 to you.", 2.0), ("I am beholden10 to you.", 0.0), ("unbeholden1", 0.0), ("Thanks.", 0.0)],
)
def test_a_word_that_must_occur_is_looked_for_as_a_word(tmp_path: Path, text: str, word: float) -> None:
    made = task(domain(tmp_path / "sentiment"))
    one, other = (next(c for c in made.concepts() if c.id.endswith(name)) for name in ("L3_1", "L1_1"))

    def rate(items: list[Item]) -> list[Verdict]:
        assert {item.axis for item in items} == {"concept", "instruction", "fluency"}
        return [Verdict(1.0)] * len(items)

    samples = [made.test(one)[0], made.test(other)[0]]
    first, second = made.score(samples, [Completion(text, 3, 3)] * 2, rate)
    assert first["word"].value == word
    assert first["overall"].value == 1.0  # it decides nothing
    assert "word" not in second


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: (path / "train.json").write_text('{"one": []}'), "ids are L1_1"),
        (lambda path: (path / "test.json").write_text("{}"), "has no rows in train or test"),
        (lambda path: (path / "train.json").write_text('{"L1_1": [{"question": "?"}]}'), "matching"),
        (lambda path: (path / "train.json").unlink(), "holds no domain"),
    ],
)
def test_a_folder_that_cannot_be_used_is_told_by_what_is_wrong(tmp_path: Path, spoil: Any, words: str) -> None:
    path = domain(tmp_path / "sentiment")
    spoil(path)
    with pytest.raises((UsageError, BenchError), match=words):
        task(path).concepts()


def test_no_data_is_said() -> None:
    with pytest.raises(UsageError, match="give the folder of SteerEval's domains"):
        task(Path("none such")).concepts()


@pytest.mark.slow
def test_a_run_is_reported_by_level(tmp_path: Path) -> None:
    data = domain(tmp_path / "sentiment", each=3)
    options = Options(
        ("none", "prompt", "diffmean"), task="steereval", backend="fake", data=str(data), judge="likelihood"
    )
    jobs = execute(make(options), tmp_path / "results")
    assert [job.reason for job in jobs] == [""] * 3
    path = next(job.path for job in jobs if job.path and job.spec.method == "diffmean")
    run = json.loads(path.read_text())
    for i, found in enumerate(run["concepts"].values()):  # the fake engine's answers score 0 throughout
        found["test"]["overall"] = i / 8
    path.write_text(json.dumps(run))
    (table,) = tables(results.load(tmp_path / "results"))
    parts = by_part(table)
    assert {part: len(names) for part, names in parts.items()} == {"L1": 3, "L2": 3, "L3": 3}
    assert table.rows[0].name == "diffmean"
    means = {part: found.mean for part, found in scores(table.rows[0].run, parts, "overall").items()}
    assert means == pytest.approx({"L1": 1 / 8, "L2": 4 / 8, "L3": 7 / 8})
    assert set(scores(table.rows[0].run, parts, "word")) == {"L3"}
    build_report(tmp_path / "results", tmp_path / "reports")
    text = (tmp_path / "reports" / "leaderboard.md").read_text()
    assert "By part of the data, overall (concepts: L1 3, L2 3, L3 3)" in text
    assert "| L3 − L1 |" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| diffmean | 0.12")]
    assert "+0.75" in line


def test_what_lies_between_parts_has_the_errors_of_both() -> None:
    found = change(Estimate(1.0, 0.7, 1.3, 8), Estimate(0.6, 0.2, 1.0, 8))
    assert (found.mean, found.low, found.high) == pytest.approx((-0.4, -0.9, 0.1))
