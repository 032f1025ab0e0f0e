"""Rules of form: training texts keep them, grades are of the rule, broken texts earn nothing, pairs keep both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import results
from bench.core.protocol import protocol
from bench.core.registry import build
from bench.core.values import Completion
from bench.report.build import build as build_report
from bench.results.composition import retention
from bench.run.plan import Options, make
from bench.run.session import execute
from tasks._rules import PAIRS, RULES, shipped
from tasks.constraints import ORDERS, on_topic, parts, sound


def made(name: str = "constraints", preset: str = "standard") -> Any:
    return build("task", name, {}, protocol=protocol(preset))


@pytest.mark.parametrize("name", ["constraints", "constraints-two"])
def test_training_texts_keep_their_rules_and_plain_ones_do_not(name: str) -> None:
    task = made(name)
    assert len(task.concepts()) == 12
    for concept in task.concepts():
        train = task.train(concept)
        assert train.views == {"texts", "pairs", "choices", "personas", "conditions"}
        for rule in parts(concept):
            kept, plain = (
                [RULES[rule].grade(e.response, False) for e in rows] for rows in (train.positives, train.negatives)
            )
            assert min(kept) > 0.7, (concept.id, rule)  # a sentence of eight words has few common ones
            assert sum(kept) / len(kept) > 0.97
            assert sum(plain) / len(plain) < 0.2, (concept.id, rule)
        assert len(train.prompts) == len(ORDERS)
        assert all(RULES[rule].order in train.prompts[0] for rule in parts(concept))


CASES = [
    ("spanish", "El gato duerme en la casa y no sale.", 1.0),
    ("spanish", "The cat sleeps in the house and does not go out.", 0.0),
    ("spanish", "Le chat dort dans la maison et il ne sort pas.", 0.0),
    ("french", "Le chat dort dans la maison et il ne sort pas.", 1.0),
    ("french", "El gato duerme en la casa y no sale.", 0.0),
    ("spanish", "O gato dorme na casa e não sai com você.", 0.0),
    ("short", "It purrs.", 1.0),
    ("short", " ".join(["word"] * 40), 2 / 17),
    ("no-the", "A cat on a mat.", 1.0),
    ("no-the", "The theme of a day.", 0.0000454),
    ("friend", "Listen, My Friend.", 1.0),
    ("friend", "My friendly cat.", 0.0),
    ("exclamations", 'Yes! "No!" So.', 2 / 3),
    ("no-commas", "One two, three four.", 0.0000037),
    ("highlights", "*One* and **two**.", 2 / 3),
    ("highlights", "2 * 3 * 4 * 5", 0.0),
    ("bullets", "- one\n- two", 1.0),
    ("bullets", "List:\n* one\n• two\n", 2 / 3),
    ("bullets", "- one", 0.5),
    ("capitals", "ONE two", 0.5),
    ("lowercase", "all of it 12", 1.0),
    ("lowercase", "One sentence that is like any other in a text of ordinary prose.", 0.0213),
    ("json", '{"a": "b"}', 1.0),
    ("json", '```json\n{"a": [1]}\n```', 1.0),
    ("json", 'Sure: ```json\n{"a": [1]}\n```', 0.5),
    ("json", "42", 0.0),
    ("json", "{}", 0.0),
]


@pytest.mark.parametrize(("rule", "text", "expected"), CASES)
def test_a_rule_is_graded(rule: str, text: str, expected: float) -> None:
    assert RULES[rule].grade(text, False) == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("rule", RULES)
def test_nothing_keeps_no_rule(rule: str) -> None:
    assert RULES[rule].grade("", False) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(('{"answer": "Cats are ca', 0.5), ('{"a": [1, {"b', 0.5), ('{"a"', 0.5), ('{"a":', 0.5), ('{"a": 1,', 0.5)),
        *(("[1, 2", 0.5), ("{a: 1", 0.0), ("Cats are calm", 0.0), ('{"a": 1]', 0.0)),
    ],
)
def test_json_that_was_cut_off_is_half_of_it(text: str, expected: float) -> None:
    assert RULES["json"].grade(text, True) == expected
    assert RULES["json"].grade(text, False) == 0


def test_an_answer_that_was_cut_off_is_not_short() -> None:
    assert RULES["short"].grade("It purrs.", True) == 0.5


def scored(task: Any, concept: Any, text: str, finish: str = "stop") -> dict[str, float]:
    sample = next(s for s in (*task.select(concept), *task.test(concept)))
    (row,) = task.score([sample], [Completion(text, 9, 9, finish=finish)], lambda items: [])
    return {axis: verdict.value for axis, verdict in row.items()}


def test_a_broken_text_earns_nothing_though_it_keeps_the_rule() -> None:
    task = made()
    concept = next(c for c in task.concepts() if c.id == "capitals")
    asked = task.select(concept)[0].instruction
    word = next(word for word in asked.rstrip("?.").split() if on_topic(asked, word))
    good = scored(task, concept, f"{word} IS WHAT THIS TEXT IS ABOUT FROM ITS FIRST LINE.".upper())
    assert good == dict.fromkeys((*task.axes, "overall"), 1.0)
    for broken in (f"{word} ".upper() * 20, "ENTIRELY UNRELATED MATTERS STAND HERE.", word.upper(), ""):
        row = scored(task, concept, broken)
        assert row["overall"] == 0, broken
    plain = scored(task, concept, f"{word.lower()} is what this text is about from its first line.")
    assert (plain["rule"], plain["overall"], plain["answer"]) == (0, 0, 1)
    loose = scored(task, concept, f"Sure:\n{word.upper()} IS WHAT THIS IS ABOUT.")
    assert (loose["strict"], loose["loose"]) == (0, 1)


def test_a_question_s_topic_is_known_in_every_language() -> None:
    task = made()
    assert set(shipped()["topics"]) == set(task.plain[1])
    assert on_topic("Why do cats purr?", "El gato ronronea.")
    assert on_topic("Why do cats purr?", "LE CHAT RONRONNE.") is True
    assert not on_topic("Why do cats purr?", "Because they can.")


def test_sound_falls_with_repetition() -> None:
    assert sound("one two three four five six") == 1
    assert sound("one two one two one two one two") == 0
    assert 0 < sound("one two three one two three four") < 1
    assert sound("Yes indeed") == 0


def test_neighbouring_rules_are_asked_other_questions() -> None:
    task = made()
    first, second = (task.test(c) for c in task.concepts()[:2])
    assert not {s.instruction for s in first} & {s.instruction for s in second}
    for concept in task.concepts():
        for sample in (*task.select(concept), *task.test(concept)):
            assert concept.text not in sample.instruction


def test_each_rule_stands_in_two_pairs_and_both_must_be_kept() -> None:
    assert sorted(name for pair in PAIRS for name in pair) == sorted([*RULES, *RULES])
    task = made("constraints-two")
    concept = next(c for c in task.concepts() if c.id == "no-commas+capitals")
    asked = task.select(concept)[0].instruction
    word = next(w for w in asked.rstrip("?.").split() if on_topic(asked, w)).upper()
    both = scored(task, concept, f"{word} STANDS HERE AND IT IS LOUD.")
    assert both == dict.fromkeys((*task.axes, "overall"), 1.0)
    one = scored(task, concept, f"{word.lower()} stands here and it is not loud.")
    assert (one["first"], one["second"], one["rule"], one["strict"], one["overall"]) == (1, 0, 0, 0, 0)


def test_retention_is_what_is_left_of_a_rule_kept_alone() -> None:
    def run(scores: dict[str, dict[str, float | None]], axis: str) -> results.Run:
        concepts = {name: {"test": means} for name, means in scores.items()}
        return results.Run(Path(), {"concepts": concepts, "axes": [axis], "scale": 1.0})

    alone = run({"no-commas": {"rule": 0.8}, "capitals": {"rule": 0.01}, "short": {"rule": None}}, "rule")
    means: dict[str, float | None] = {"first": 0.4, "second": 0.2}
    both = run(dict.fromkeys(("no-commas+capitals", "no-commas+short", "long+no-commas"), means), "rule")
    assert retention(both, alone) == {
        "no-commas+capitals": (0.5, None),  # what was hardly there cannot be lost
        "no-commas+short": (0.5, None),
        "long+no-commas": (None, 0.25),
    }


@pytest.mark.slow
def test_a_report_sets_pairs_against_their_rules_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    for name in ("constraints", "constraints-two"):
        options = Options(("none", "diffmean", "prompt"), task=name, backend="fake")
        assert {job.status for job in execute(make(options), tmp_path / "results")} == {"complete"}
    build_report(tmp_path / "results", tmp_path / "out")
    text = (tmp_path / "out" / "leaderboard.md").read_text("utf-8")
    assert text.count("Two wishes at once") == 1
    assert "of 12 |" in text
