"""IFEval's 25 kinds of verifiable instruction, checked by reading the text; no model (arXiv 2311.07911).

Invariant: a check is a function of the instruction and the text alone. What cannot be checked here (a language without
`langdetect`) has no verdict, and an instruction that lacks an argument is refused, where the reference draws one at
random.

Strict is the text as it is; loose is the best of eight variants of it. An empty text keeps nothing. Everything is the
reference's rule (lm-eval's copy) but two that it leaves to nltk: sentences are counted, and words told apart, by rules
of our own (`sentences`, `capital_words`); `benchmarks/ifeval.json` has where they differ.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypedDict

from bench.core.documents import read_lines
from bench.core.errors import BenchError, suggest
from bench.core.shapes import Misfit, Text

Arguments = Mapping[str, Any]
Check = Callable[[str, Arguments], bool]
"""(text, arguments of the instruction) -> whether it is kept."""


class Unchecked(BenchError):
    """An instruction that cannot be checked here."""


ABBREVIATIONS = frozenset(
    [
        "mr",
        "mrs",
        "ms",
        "dr",
        "prof",
        "st",
        "mt",
        "jr",
        "sr",
        "inc",
        "ltd",
        "co",
        "corp",
        "vs",
        "etc",
        "e.g",
        "i.e",
        "fig",
        "no",
        "vol",
        "pp",
        "dept",
        "est",
        "approx",
        "gen",
        "gov",
        "hon",
        "lt",
        "col",
        "sgt",
        "capt",
        "rep",
        "sen",
        "rev",
        "jan",
        "feb",
        "mar",
        "apr",
        "aug",
        "sept",
        "sep",
        "oct",
        "nov",
        "dec",
        "a.m",
        "p.m",
        "u.s",
        "u.k",
        "d.c",
        "u.n",
        "ph.d",
        "b.a",
        "m.a",
    ]
)
"""Words whose point ends no sentence, without it."""
END = re.compile(r"""(\S*?)([.!?]+)(["'”’)\]}*]*)\s+(?=(\S+))""")
OPENING = "\"'“‘([{*_#-"


def sentences(text: str) -> int:
    """How many sentences a text has: one ends at . ! ? before a space, unless the point belongs to an abbreviation or
    an initial, or what follows begins in lower case."""
    count = 0
    for found in END.finditer(text):
        word, mark, _, after = found.groups()
        count += set(mark) != {"."} or _ends(word.lstrip(OPENING), mark, after.lstrip(OPENING))
    return count + bool(text.strip())


def _ends(word: str, points: str, after: str) -> bool:
    """Whether points after `word` end a sentence before `after`."""
    if after[:1].islower():
        return False
    abbreviated = word.lower() in ABBREVIATIONS or re.fullmatch(r"[A-Za-z]|(?:[A-Za-z]\.)+[A-Za-z]", word)
    return points != "." or not abbreviated


SEPARATE = re.compile(r"""[;@#$%&?!\[\](){}<>"“”„«»`]|--+|\.\.\.|[,:](?!\d)""")
SHORT = re.compile(r"(?<=\w)(?=(?:n't|'(?:s|m|d|ll|re|ve))(?!\w))", re.IGNORECASE)
"""Where a contraction is two words."""


def capital_words(text: str) -> int:
    """How many words are in capitals throughout; a contraction is two words, and what is hyphenated one."""
    return sum(word.isupper() for word in SHORT.sub(" ", SEPARATE.sub(" ", text)).split())


@cache
def _detect() -> tuple[Callable[[str], str], type[Exception]]:
    try:
        from langdetect import DetectorFactory, LangDetectException, detect
    except ImportError as error:
        raise Unchecked("the language of a text needs langdetect: pip install 'steer-or-prompt[ifeval]'") from error
    DetectorFactory.seed = 0  # it draws at random otherwise
    return detect, LangDetectException


def _language(text: str, code: str) -> bool:
    """Whether langdetect finds this language, or nothing to go by."""
    detect, unclear = _detect()
    try:
        return detect(text) == code
    except unclear:
        return True


def _related(count: int, relation: str, wanted: int) -> bool:
    if relation not in ("less than", "at least"):
        raise BenchError(f"relation {relation!r}: less than, or at least")
    return count < wanted if relation == "less than" else count >= wanted


def _cased(text: str, holds: Callable[[str], bool]) -> bool:
    return holds(text) and _language(text, "en")


def _highlights(text: str) -> int:
    one = [part.strip("*") for part in re.findall(r"\*[^\n\*]*\*", text)]
    two = [part.removeprefix("**").removesuffix("**") for part in re.findall(r"\*\*[^\n\*]*\*\*", text)]
    return sum(bool(part.strip()) for part in (*one, *two))


def _bullets(text: str) -> int:
    return len(re.findall(r"^\s*\*[^\*].*$", text, re.MULTILINE)) + len(re.findall(r"^\s*-.*$", text, re.MULTILINE))


def _inner(parts: Sequence[str]) -> list[str] | None:
    """The parts that say something; None where one between them says nothing."""
    if not all(part.strip() for part in parts[1:-1]):
        return None
    return [part for part in parts if part.strip()]


def _paragraphs(text: str, wanted: int) -> bool:
    found = _inner(re.split(r"\s?\*\*\*\s?", text))
    return found is not None and len(found) == wanted


def _two(text: str, _: Arguments) -> bool:
    found = _inner(text.split("******"))
    return found is not None and len(found) == 2 and found[0].strip() != found[1].strip()


def _first_word(text: str, given: Arguments) -> bool:
    parts = text.split("\n\n")
    nth, count = given["nth_paragraph"], sum(bool(part.strip()) for part in parts)
    if nth > count or not parts[nth - 1].strip():
        return False
    word = parts[nth - 1].split()[0].lstrip("'").lstrip('"')
    return count == given["num_paragraphs"] and bool(
        re.split(r"[.,?!'\"]", word)[0].lower() == given["first_word"].lower()
    )


def _json(text: str, _: Arguments) -> bool:
    body = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        body = body.removeprefix(fence)
    try:
        json.loads(body.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _postscript(text: str, given: Arguments) -> bool:
    marker = given["postscript_marker"].strip()
    known = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return bool(re.search(known.get(marker, marker.lower()), text.lower()))


def _matches(pattern: str, text: str) -> int:
    """How often a keyword occurs; as in the reference it is a pattern, as it stands."""
    return len(re.findall(pattern, text, re.IGNORECASE))


FIXED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
CHECKS: dict[str, Check] = {
    "change_case:capital_word_frequency": lambda text, g: _related(
        capital_words(text), g["capital_relation"], g["capital_frequency"]
    ),
    "change_case:english_capital": lambda text, g: _cased(text, str.isupper),
    "change_case:english_lowercase": lambda text, g: _cased(text, str.islower),
    "combination:repeat_prompt": lambda text, g: text.strip().lower().startswith(g["prompt_to_repeat"].strip().lower()),
    "combination:two_responses": _two,
    "detectable_content:number_placeholders": lambda text, g: (
        len(re.findall(r"\[.*?\]", text)) >= g["num_placeholders"]
    ),
    "detectable_content:postscript": _postscript,
    "detectable_format:constrained_response": lambda text, g: any(line in text for line in FIXED),
    "detectable_format:json_format": _json,
    "detectable_format:multiple_sections": lambda text, g: (
        _matches_exact(rf"\s?{g['section_spliter'].strip()}\s?\d+\s?", text) >= g["num_sections"]
    ),
    "detectable_format:number_bullet_lists": lambda text, g: _bullets(text) == g["num_bullets"],
    "detectable_format:number_highlighted_sections": lambda text, g: _highlights(text) >= g["num_highlights"],
    "detectable_format:title": lambda text, g: any(
        part.lstrip("<").rstrip(">").strip() for part in re.findall(r"<<[^\n]+>>", text)
    ),
    "keywords:existence": lambda text, g: all(_matches(word, text) for word in g["keywords"]),
    "keywords:forbidden_words": lambda text, g: (
        not any(_matches(rf"\b{word}\b", text) for word in g["forbidden_words"])
    ),
    "keywords:frequency": lambda text, g: _related(_matches(g["keyword"].strip(), text), g["relation"], g["frequency"]),
    "keywords:letter_frequency": lambda text, g: _related(
        text.lower().count(g["letter"].lower()), g["let_relation"], g["let_frequency"]
    ),
    "language:response_language": lambda text, g: _language(text, g["language"]),
    "length_constraints:nth_paragraph_first_word": _first_word,
    "length_constraints:number_paragraphs": lambda text, g: _paragraphs(text, g["num_paragraphs"]),
    "length_constraints:number_sentences": lambda text, g: _related(sentences(text), g["relation"], g["num_sentences"]),
    "length_constraints:number_words": lambda text, g: _related(
        len(re.findall(r"\w+", text)), g["relation"], g["num_words"]
    ),
    "punctuation:no_comma": lambda text, g: "," not in text,
    "startend:end_checker": lambda text, g: text.strip().strip('"').lower().endswith(g["end_phrase"].strip().lower()),
    "startend:quotation": lambda text, g: len(t := text.strip()) > 1 and t[0] == t[-1] == '"',
}
"""Name of a kind -> its check."""
_AT_THE_END = frozenset(
    {
        *("combination:two_responses", "detectable_content:postscript", "detectable_format:json_format"),
        *("detectable_format:multiple_sections", "detectable_format:number_bullet_lists", "startend:end_checker"),
        *("length_constraints:nth_paragraph_first_word", "length_constraints:number_paragraphs", "startend:quotation"),
    }
)
"""Kinds that only the end of an answer decides."""


def open_still(kind: str, given: Arguments, kept: bool) -> bool:
    """Whether what is missing of an answer that was cut off could turn this verdict."""
    relation = next((value for name, value in given.items() if name.endswith("relation")), "")
    return kind in _AT_THE_END or bool(relation and kept != (relation == "at least"))


def _matches_exact(pattern: str, text: str) -> int:
    return len(re.split(pattern, text)) - 1


def keeps(kind: str, given: Arguments, text: str) -> bool:
    """Whether a text keeps an instruction as it stands (strict). Raises `Unchecked` where that cannot be told here, and
    BenchError for a kind that is not known or an argument that is not there."""
    if kind not in CHECKS:
        raise BenchError(f"instruction {kind!r} is not known: {suggest(kind, CHECKS)}")
    try:
        return bool(text.strip()) and CHECKS[kind](text, given)
    except KeyError as error:
        raise BenchError(f"instruction {kind} lacks {error.args[0]}") from error
    except re.error as error:
        raise BenchError(f"instruction {kind} has a keyword that is no pattern: {error}") from error


def variants(text: str) -> list[str]:
    """A text as the loose reading has it: whole, without its first line, its last, or both; each with and without
    asterisks."""
    lines = text.split("\n")
    cut = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return list(dict.fromkeys([*cut, *(part.replace("*", "") for part in cut)]))


def keeps_loosely(kind: str, given: Arguments, text: str) -> bool:
    """Whether any variant of a text keeps an instruction (loose)."""
    return any(keeps(kind, given, part) for part in variants(text))


class Row(TypedDict):
    """A line of IFEval's `input_data.jsonl`."""

    key: int
    prompt: Text
    instruction_id_list: list[Text]
    kwargs: list[dict[str, Any]]


def _whole(row: Row) -> None:
    """Raise Misfit for an instruction without arguments of its own, or one that has no check."""
    kinds = row["instruction_id_list"]
    if not kinds or len(kinds) != len(row["kwargs"]):
        raise Misfit(f"has {len(kinds)} instructions and {len(row['kwargs'])} sets of arguments", "kwargs")
    for kind, given in zip(kinds, arguments(row), strict=True):
        try:
            if kind != "language:response_language":  # its text would need langdetect
                keeps(kind, given, "A text.")
        except Unchecked:
            continue
        except BenchError as error:
            raise Misfit(str(error), "instruction_id_list") from error


def arguments(row: Row) -> list[dict[str, Any]]:
    """The arguments of each instruction; the hub's copy names all there are, most with nothing in them."""
    return [{name: value for name, value in given.items() if value is not None} for given in row["kwargs"]]


PROMPT = Annotated[Row, _whole]


def read(path: Path) -> list[Row]:
    """The prompts of a file in the layout of IFEval's `input_data.jsonl`."""
    found: list[Row] = read_lines(path, PROMPT, "IFEval's prompts", "take its input_data.jsonl")
    if not found:
        raise BenchError(f"{path.name}: no prompt in it")
    return found
