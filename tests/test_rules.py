"""The rules judge: each rule on a text that keeps it and one that breaks it, and on ordinary prose."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bench.core.values import Concept, Item
from bench.judges.rules import RULES, WORDS, Rules, keeps, parse, rule_of, unworded, worded

CASES = [
    ("contains:rain,snow", "Rain and snow fell.", 2),
    ("contains:rain,snow", "The train, and snowy hills, and rain.", 0),
    ("contains:rain,snow", "A training day.", 0),
    ("date", "Due on 2024-03-31.", 2),
    ("date", "Due on 2024-13-31.", 0),
    ("double-breaks", "One.\n\nTwo.", 2),
    ("double-breaks", "One.\nTwo.\n\n", 0),
    ("email", "Write to a.b@example.org today", 2),
    ("email", "Write to a.b at example", 0),
    ("emoji", "Hello 😀 🚀 ☀", 2),
    ("emoji", "Hello", 0),
    ("ends-with:Is there more?", "Yes. Is there more?", 2),
    ("ends-with:Is there more?", "Is there more? No.", 0),
    ("exclamation", "Oh!! Ah!! and so", 2),
    ("exclamation", "Oh! Ah!!", 0),
    ("hashtags", "#a #b #c #d #e", 2),
    ("hashtags", "a#b", 0),
    ("json", '```json\n{"a": [1]}\n```', 2),
    ("json", "17", 0),
    ("json", "{a: 1}", 0),
    ("lowercase", "all of it 12", 2),
    ("lowercase", "Half here", 0),
    ("max-words:3", "one two three", 2),
    ("max-words:3", "one two three four", 0),
    ("min-words:4", "one two", 0),
    ("min-words:4", "one two three four five", 2),
    ("numbered-list", "1. a\n2. b", 2),
    ("numbered-list", "In 2. place", 0),
    ("phone", "Call +1 (555) 123-4567.", 2),
    ("phone", "Pay 5551234567890", 0),
    ("postscript", "Bye.\nP.S. Bring milk", 2),
    ("postscript", "The PSALM", 0),
    ("quoted", "\"one\" 'two'", 2),
    ("quoted", '"one" two', 0),
    ("script:HANGUL", "한국어", 2),
    ("script:hangul", "한a", 0),
    ("sentences-end-with:y", "A lucky day. Today.", 2),
    ("sentences-end-with:y", "A lucky day. Not this.", 0),
    ("separator", "One\n***\nTwo", 2),
    ("separator", "One ** Two", 0),
    ("starts-with:Dear reader", "dear reader, hello", 2),
    ("starts-with:Dear reader", "Hello, dear reader", 0),
    ("starts-with:Dear reader", "Hello", 0),
    ("uppercase", "ALL OF IT", 2),
    ("uppercase", "ALL of it", 0),
    ("uppercase", "12 34", 0),
    ("url", "See https://example.org/a", 2),
    ("url", "See example.org", 0),
]


@pytest.mark.parametrize(("rule", "text", "expected"), CASES)
def test_a_rule_rates_what_it_reads(rule: str, text: str, expected: float) -> None:
    by_id, by_text = (
        dict(Rules().rate([Item("concept", concept, "Say it.", text)]))[0]
        for concept in (Concept(rule, "a rule"), Concept("7", rule))
    )
    assert by_id.value == pytest.approx(expected)
    assert by_text == by_id


ORDINARY = [
    " ".join(row["response"].split()[:40])
    for path in sorted((Path(__file__).parents[1] / "tasks" / "data" / "mini" / "genres").glob("*.json"))
    for row in json.loads(path.read_text("utf-8"))["train"]
][:60]
FREE = {
    "max-words": "max-words:20",
    "min-words": "min-words:80",
    "contains": "contains:rain,snow",
    "script": "script:HANGUL",
}
PHRASES = {name: f"{name}:Dear reader," for name in ("starts-with", "ends-with", "sentences-end-with")}


@pytest.mark.parametrize("rule", sorted(RULES))
def test_ordinary_prose_does_not_keep_a_rule_by_a_part(rule: str) -> None:
    """Else a text that ignores the wish scores for it: the share of lower-case words gave prose 1.78 of 2."""
    texts = [text for text in ORDINARY if rule != "numbered-list" or not re.search(r"^\s*\d", text, re.MULTILINE)]
    assert len(texts) >= 50
    rated = [keeps((FREE | PHRASES).get(rule, rule), text).value or 0 for text in texts]
    assert sum(rated) / len(rated) < 0.1


def test_a_rule_in_words_is_the_rule() -> None:
    for rule in WORDS:
        name = f"{rule}:Dear reader," if "{}" in WORDS[rule] else rule
        assert unworded(worded(name)) == name
        assert rule_of(Concept("7", worded(name))) is not None
    assert rule_of(Concept("ocean", "the ocean and its creatures")) is None


def test_every_rule_has_its_cases() -> None:
    assert {parse(rule)[0] for rule, _, _ in CASES} == set(RULES)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("upercase", "did you mean 'uppercase'"),
        ("min-words:many", "needs a number"),
        ("min-words:0", "needs a number"),
        ("starts-with", "needs a text"),
        ("contains: , ", "needs a text"),
        ("uppercase:A", "takes no parameter"),
    ],
)
def test_what_is_no_rule_is_missing_with_its_reason(name: str, reason: str) -> None:
    for concept in (Concept(name, "said in words"), Concept("3", name)):
        verdict = dict(Rules().rate([Item("concept", concept, "q", "TEXT")]))[0]
        assert verdict.value is None
        if concept.id == name or ":" in name:
            assert reason in verdict.reason


@pytest.mark.parametrize("axis", ["instruction", "fluency"])
def test_other_axes_are_missing(axis: str) -> None:
    verdict = dict(Rules().rate([Item(axis, Concept("uppercase", ""), "q", "TEXT")]))[0]
    assert verdict.value is None
    assert "concept axis alone" in verdict.reason


def test_an_empty_text_rates_zero() -> None:
    verdict = dict(Rules().rate([Item("concept", Concept("max-words:9", ""), "q", " \n")]))[0]
    assert (verdict.value, verdict.reason) == (0.0, "empty text")
