"""The rules judge: each rule on a text that keeps it, one that breaks it, and one between."""

from __future__ import annotations

import pytest

from bench.core.values import Concept, Item
from bench.judges.rules import RULES, Rules, parse

CASES = [
    ("contains:rain,snow", "Rain and snow fell.", 2),
    ("contains:rain,snow", "The train, and snowy hills, and rain.", 1),
    ("contains:rain,snow", "A training day.", 0),
    ("date", "Due on 2024-03-31.", 2),
    ("date", "Due on 2024-13-31.", 0),
    ("double-breaks", "One.\n\nTwo.", 2),
    ("double-breaks", "One.\nTwo.\n\n", 0),
    ("email", "Write to a.b@example.org today", 2),
    ("email", "Write to a.b at example", 0),
    ("emoji", "Hello 😀 🚀 ☀", 2),
    ("emoji", "Hello 😀", 2 / 3),
    ("ends-with:Is there more?", "Yes. Is there more?", 2),
    ("ends-with:Is there more?", "Is there more? No.", 1),
    ("exclamation", "Oh! Ah!", 1),
    ("hashtags", "#a #b #c #d #e", 2),
    ("hashtags", "a#b", 0),
    ("json", '```json\n{"a": [1]}\n```', 2),
    ("json", "17", 0),
    ("json", "{a: 1}", 0),
    ("lowercase", "all of it 12", 2),
    ("lowercase", "Half here", 1),
    ("max-words:3", "one two three", 2),
    ("max-words:3", "one two three four", 0),
    ("min-words:4", "one two", 1),
    ("min-words:4", "one two three four five", 2),
    ("numbered-list", "1. a\n2. b", 2),
    ("numbered-list", "In 2. place", 0),
    ("phone", "Call +1 (555) 123-4567.", 2),
    ("phone", "Pay 5551234567890", 0),
    ("postscript", "Bye.\nP.S. Bring milk", 2),
    ("postscript", "The PSALM", 0),
    ("quoted", "\"one\" 'two'", 2),
    ("quoted", '"one" two', 1),
    ("script:HANGUL", "한국어", 2),
    ("script:hangul", "한a", 1),
    ("sentences-end-with:y", "A lucky day. Not this.", 1),
    ("separator", "One\n***\nTwo", 2),
    ("separator", "One ** Two", 0),
    ("starts-with:Dear reader", "dear reader, hello", 2),
    ("starts-with:Dear reader", "Hello, dear reader", 1),
    ("starts-with:Dear reader", "Hello", 0),
    ("uppercase", "ALL OF IT", 2),
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
