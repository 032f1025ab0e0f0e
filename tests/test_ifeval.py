"""IFEval's checks: each kind on a text that keeps it and one that breaks it, both readings, the file, the reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import SHARED

from bench.core.errors import BenchError
from bench.core.protocol import protocol
from bench.core.registry import build
from bench.core.values import Completion
from bench.judges import ifeval
from bench.judges.ifeval import CHECKS, keeps, keeps_loosely, sentences, variants

AT_LEAST = {"relation": "at least"}
CASES: list[tuple[str, dict[str, Any], str, bool]] = [
    ("change_case:capital_word_frequency", {"capital_relation": "at least", "capital_frequency": 2}, "I SAW it", True),
    ("change_case:capital_word_frequency", {"capital_relation": "less than", "capital_frequency": 3}, "I DON'T", False),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it. "}, "  SAY IT. Yes.", True),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it."}, "Well: say it.", False),
    ("combination:two_responses", {}, "One.\n******\nTwo.", True),
    ("combination:two_responses", {}, "One.******One.", False),
    ("combination:two_responses", {}, "One.************Two.", False),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name], x[0]", True),
    ("detectable_content:number_placeholders", {"num_placeholders": 1}, "[na\nme]", False),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "stop. s.", True),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "apps. s", False),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye. p. p.s more", True),
    ("detectable_format:constrained_response", {}, "So: My answer is no. Sorry.", True),
    ("detectable_format:constrained_response", {}, "My answer is: no.", False),
    ("detectable_format:json_format", {}, "```JSON\n42\n```", True),
    ("detectable_format:json_format", {}, "{a: 1}", False),
    ("detectable_format:multiple_sections", {"section_spliter": "PART", "num_sections": 2}, "PART 1 a PART 2 b", True),
    ("detectable_format:multiple_sections", {"section_spliter": "PART", "num_sections": 2}, "Part 1 a part 2 b", False),
    ("detectable_format:number_bullet_lists", {"num_bullets": 3}, "* a\n - b\n---", True),
    ("detectable_format:number_bullet_lists", {"num_bullets": 1}, "• a\n**b**", False),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 1}, "2 * 3 * 4", True),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "**one**", False),
    ("detectable_format:title", {}, "1 << 2 >> 3", True),
    ("detectable_format:title", {}, "<< >>", False),
    ("keywords:existence", {"keywords": ["Cat", "dog"]}, "concatenate a DOG", True),
    ("keywords:existence", {"keywords": ["cat", "dog"]}, "a dog", False),
    ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, "concatenate", True),
    ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, "a CAT", False),
    ("keywords:frequency", AT_LEAST | {"keyword": "cat", "frequency": 2}, "concat a cat", True),
    ("keywords:frequency", {"relation": "less than", "keyword": "cat", "frequency": 2}, "cat cat", False),
    ("keywords:letter_frequency", {"let_relation": "at least", "letter": "a", "let_frequency": 3}, "Aha, a", True),
    ("keywords:letter_frequency", {"let_relation": "less than", "letter": "a", "let_frequency": 3}, "Aha, a", False),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "so"},
        'One.\n\n"So, two.',
        True,
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "so"},
        "One.\n\nSo, two.",
        False,
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", True),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n\nb", False),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a *** *** b", False),
    ("length_constraints:number_sentences", AT_LEAST | {"num_sentences": 2}, "Dr. Lee left. We stayed.", True),
    ("length_constraints:number_sentences", {"relation": "less than", "num_sentences": 3}, "No! Yes? So.", False),
    ("length_constraints:number_words", AT_LEAST | {"num_words": 3}, "I don't", True),
    ("length_constraints:number_words", {"relation": "less than", "num_words": 3}, "I don't", False),
    ("punctuation:no_comma", {}, "full，width", True),
    ("punctuation:no_comma", {}, "1,000", False),
    ("startend:end_checker", {"end_phrase": " The End. "}, '"So it goes. the end."', True),
    ("startend:end_checker", {"end_phrase": "The end"}, "The end.", False),
    ("startend:quotation", {}, ' "a" and "b" ', True),
    ("startend:quotation", {}, "“typographic”", False),
]
BY_LANGUAGE = {"change_case:english_capital", "change_case:english_lowercase", "language:response_language"}


@pytest.mark.parametrize(("kind", "given", "text", "expected"), CASES)
def test_an_instruction_is_kept_or_not(kind: str, given: dict[str, Any], text: str, expected: bool) -> None:
    assert keeps(kind, given, text) is expected
    assert not keeps(kind, given, " \n")


def test_every_kind_has_a_case_of_either_side() -> None:
    for side in (True, False):
        assert {kind for kind, _, _, expected in CASES if expected is side} == set(CHECKS) - BY_LANGUAGE


def test_languages_are_told_or_missing() -> None:
    try:
        import langdetect  # noqa: F401
    except ImportError:
        with pytest.raises(ifeval.Unchecked, match="pip install"):
            keeps("language:response_language", {"language": "de"}, "Das Haus steht am See.")
        return
    german = "Das Haus steht am Ende der Straße und gehört den Nachbarn."
    assert keeps("language:response_language", {"language": "de"}, german)
    assert not keeps("language:response_language", {"language": "fr"}, german)
    assert keeps("language:response_language", {"language": "fr"}, "12345")  # nothing to go by
    assert keeps("change_case:english_capital", {}, "THE HOUSE STANDS AT THE END OF THE STREET.")
    assert not keeps("change_case:english_capital", {}, german.upper())
    assert not keeps("change_case:english_lowercase", {}, "The house stands at the end of the street.")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("One", 1),
        ("One. Two! Three? Four", 4),
        ("Mr. A. Smith of the U.S. Army came at 3.5 p.m. on Jan. 3.", 1),
        ('"Go." She went.', 2),
        ("It is so... and so on.", 1),
    ],
)
def test_sentences_are_counted(text: str, count: int) -> None:
    assert sentences(text) == count


def test_a_loose_reading_drops_lines_and_asterisks() -> None:
    text = "Sure:\n*the end*\nBye, all."
    assert len(variants(text)) == 8
    assert not keeps("startend:end_checker", {"end_phrase": "the end"}, text)
    assert keeps_loosely("startend:end_checker", {"end_phrase": "the end"}, text)
    assert not keeps_loosely("startend:end_checker", {"end_phrase": "the end"}, " ")


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        ("punctuation:no_commas", {}, "did you mean 'punctuation:no_comma'"),
        ("length_constraints:number_words", {"relation": "at least"}, "lacks num_words"),
        ("length_constraints:number_words", {"relation": "at most", "num_words": 3}, "less than, or at least"),
        ("keywords:existence", {"keywords": ["("]}, "no pattern"),
    ],
)
def test_what_is_no_instruction_is_refused(kind: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(BenchError, match=said):
        keeps(kind, given, "A text.")


def test_a_file_that_is_none_names_its_row(instructions: Path) -> None:
    assert len(ifeval.read(instructions)) == 40
    good = instructions.read_text("utf-8")
    for spoiled, said in (
        (good.replace("no_comma", "no_point", 1), "row 1.*did you mean"),
        (good.replace('"kwargs": [{}]', '"kwargs": []', 1), "row 1.*1 instructions and 0 sets"),
        ("", "no prompt in it"),
    ):
        instructions.write_text(spoiled, "utf-8")
        with pytest.raises(BenchError, match=said):
            ifeval.read(instructions)


def test_its_prompts_are_scored_by_their_own_instructions(instructions: Path) -> None:
    task: Any = build("task", "ifeval", {"data": str(instructions)}, protocol=protocol("quick"))
    concept = task.concepts()[0]
    samples = task.test(concept)
    two = next(s for s in samples if len(task.rows[s.instruction]["kwargs"]) == 2)

    def row(text: str, finish: str = "stop") -> dict[str, float | None]:
        (found,) = task.score([two], [Completion(text, 9, 9, finish=finish)], lambda items: [])
        return {axis: verdict.value for axis, verdict in found.items()}

    assert row("One two three four five six seven eight nine ten.") == dict.fromkeys((*task.axes, "overall"), 1.0)
    assert row("So short.")["strict"] == 0
    assert row("So short.")["rule"] == 0.5
    assert row("So short.", "length")["rule"] == 1  # more words might have come
    assert row("So short.", "length")["strict"] is None
    assert row("So, short.", "length")["strict"] == 0
    assert not task.decides


KEPT = Path(__file__).resolve().parents[1] / "benchmarks" / "ifeval.json"


def test_the_checks_agree_with_the_reference_where_they_were_compared() -> None:
    found = json.loads(KEPT.read_text("utf-8"))
    assert found["answers"] >= 500
    assert set(found["kinds"]) == set(CHECKS)
    assert {a["kind"] for a in found["apart"]} <= {"keywords:letter_frequency", "length_constraints:number_sentences"}
    letters = [a for a in found["apart"] if a["kind"] == "keywords:letter_frequency"]
    assert not any(a["arguments"]["letter"].isalpha() for a in letters)  # there the reference draws a letter
    counted = [a for a in found["apart"] if a["kind"] == "length_constraints:number_sentences"]
    assert len(counted) <= 0.01 * found["kinds"]["length_constraints:number_sentences"]["verdicts"]


@pytest.mark.slow
def test_the_comparison_is_of_the_file_and_of_what_the_checks_say_now() -> None:
    """The verdicts kept beside the reference's are the present ones, kind by kind."""
    from benchmarks.ifeval import answers

    path = SHARED / "ifeval" / "input_data.jsonl"
    if not path.is_file():
        pytest.skip("the development data is not beside this checkout")
    found = json.loads(KEPT.read_text("utf-8"))
    rows = ifeval.read(path)
    assert len(rows) == 541
    assert sum(len(row["kwargs"]) for row in rows) == 834
    kept = dict.fromkeys(CHECKS, 0)
    for row, text in answers(rows, {}):
        for kind, given in zip(row["instruction_id_list"], ifeval.arguments(row), strict=True):
            if kind not in BY_LANGUAGE:
                kept[kind] += keeps(kind, given, text)
    for kind in set(CHECKS) - BY_LANGUAGE:
        apart = [a for a in found["apart"] if a["kind"] == kind and a["how"] == "strict"]
        ours = found["kinds"][kind]["kept"] + sum(1 if a["ours"] else -1 for a in apart)
        assert kept[kind] == ours, kind
