"""Rule concepts (capitals, a fixed beginning, a list, a length) checked by reading the text: no model.

Invariant: a rating is a function of the rule and the text alone; what no rule covers is missing with
its reason, never 0.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from bench.core.errors import suggest
from bench.core.interfaces import Judge
from bench.core.registry import judge
from bench.core.values import Concept, Item, Verdict

Rule = Callable[[str, str], bool]
"""(text, parameter) -> whether the text keeps the rule."""
EMOJI = re.compile("[\U0001f300-\U0001faff\u2600-\u27bf]")
NEARLY = 0.9
"""Share of words or sentences that is "all" of them: one slip in ten is still the manner."""


def _nearly(parts: Sequence[str], holds: Callable[[str], bool]) -> bool:
    return bool(parts) and sum(map(holds, parts)) >= NEARLY * len(parts)


def _cased(text: str) -> list[str]:
    """Words with at least one letter that has two cases."""
    return [word for word in text.split() if word.lower() != word.upper()]


def _found(text: str, pattern: str, enough: int = 1) -> bool:
    """Whether `pattern` occurs at least `enough` times."""
    return len(re.findall(pattern, text, re.MULTILINE)) >= enough


def _phrase(text: str, phrase: str, at_end: bool) -> bool:
    """Whether the phrase stands at that end of the text."""
    body, wanted = text.strip().casefold(), phrase.strip().casefold()
    if at_end:
        return body.rstrip(" .!?\"'").endswith(wanted.rstrip(" .!?"))
    return body.startswith(wanted)


def _contains(text: str, words: str) -> bool:
    """Whether all of the comma-separated words occur, as whole words in any case."""
    wanted = [word.strip() for word in words.split(",") if word.strip()]
    return all(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) for word in wanted)


def _json(text: str, _: str) -> bool:
    body = re.sub(r"^```(?:json)?\s*|\s*```$", "", text.strip())
    try:
        return isinstance(json.loads(body), dict | list)
    except ValueError:
        return False


def _script(text: str, name: str) -> bool:
    """Whether the letters belong to a script, by its Unicode name: CJK, HANGUL, CYRILLIC, ..."""
    letters = [char for char in text if char.isalpha()]
    return _nearly(letters, lambda char: unicodedata.name(char, "").startswith(name.strip().upper()))


def _sentences_end(text: str, ending: str) -> bool:
    sentences = [s.strip() for s in re.split(r"[.!?\n]+", text) if s.strip()]
    return _nearly(sentences, lambda s: s.casefold().endswith(ending.strip().casefold()))


def _exclaims(text: str, _: str) -> bool:
    """Whether sentences end with two exclamation marks; a last one that was cut short does not count."""
    ends = re.findall(r"[.!?]+(?=\s|$)", text)
    return _nearly(ends, lambda end: end.endswith("!!"))


RULES: dict[str, Rule] = {
    "contains": _contains,
    "date": lambda text, _: _found(text, r"\b\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])\b"),
    "double-breaks": lambda text, _: _found(text.strip(), r"\n\n"),
    "email": lambda text, _: _found(text, r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b"),
    "emoji": lambda text, _: bool(EMOJI.search(text)),
    "ends-with": lambda text, phrase: _phrase(text, phrase, at_end=True),
    "exclamation": _exclaims,
    "hashtags": lambda text, _: _found(text, r"(?<!\w)#\w+", 4),
    "json": _json,
    "lowercase": lambda text, _: bool(_cased(text)) and text == text.lower(),
    "max-words": lambda text, n: 0 < len(text.split()) <= int(n),
    "min-words": lambda text, n: len(text.split()) >= int(n),
    "numbered-list": lambda text, _: _found(text, r"^\s*\d+[.)]\s+\S", 2),
    "phone": lambda text, _: _found(text, r"(?<!\d)(?:\+?\d{1,3}[ .-]?)?\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}(?!\d)"),
    "postscript": lambda text, _: _found(text, r"^\s*P\.? ?(?:P\.? ?)?S\b\.?"),
    "quoted": lambda text, _: _nearly(text.split(), lambda w: bool(re.match(r"^[\"“'‘].*[\"”'’][.,;:!?]*$", w))),
    "script": _script,
    "sentences-end-with": _sentences_end,
    "separator": lambda text, _: _found(text, r"^\s*\*\*\*\s*$|\*\*\*"),
    "starts-with": lambda text, phrase: _phrase(text, phrase, at_end=False),
    "uppercase": lambda text, _: _nearly(_cased(text), str.isupper),
    "url": lambda text, _: _found(text, r"\bhttps?://[^\s/]+\.\w+"),
}
"""Each keeps to what ordinary prose does not do: a text that ignores the rule does not keep it by a part."""
WORDS = {
    "uppercase": "writing in capital letters only",
    "lowercase": "writing without a single capital letter",
    "exclamation": "ending every sentence with two exclamation marks",
    "starts-with": "beginning with the words '{}'",
    "ends-with": "closing with the words '{}'",
    "hashtags": "adding four hashtags",
    "numbered-list": "giving a numbered list",
    "url": "naming a web address",
    "email": "naming an e-mail address",
    "date": "naming a date such as 2024-05-17",
    "separator": "putting three asterisks between parts",
    "postscript": "closing with a postscript",
}
"""What a rule is called in a question."""
NEEDS_TEXT = frozenset({"contains", "ends-with", "script", "sentences-end-with", "starts-with"})
NEEDS_NUMBER = frozenset({"max-words", "min-words"})


def worded(name: str) -> str:
    """A rule in words, as a question names it."""
    rule, parameter = parse(name)
    return WORDS[rule].replace("{}", parameter)


def unworded(text: str) -> str:
    """The rule that a text in words means; the text itself where it means none."""
    for rule, words in WORDS.items():
        before, _, after = words.partition("{}")
        if text == words:
            return rule
        if after and text.startswith(before) and text.endswith(after):
            return f"{rule}:{text[len(before) : -len(after)]}"
    return text


def parse(name: str) -> tuple[str, str]:
    """`rule` or `rule: parameter` as (rule, parameter); ValueError says what is wrong with it."""
    rule, _, parameter = (part.strip() for part in name.partition(":"))
    if rule not in RULES:
        raise ValueError(f"{rule!r} is no rule: {suggest(rule, RULES)}")
    if rule in NEEDS_NUMBER and not (parameter.isdecimal() and int(parameter) > 0):
        raise ValueError(f"rule {rule} needs a number of words: {rule}:80")
    if rule in NEEDS_TEXT and not parameter.strip(" ,"):
        raise ValueError(f"rule {rule} needs a text: {rule}:TEXT")
    if parameter and rule not in NEEDS_TEXT | NEEDS_NUMBER:
        raise ValueError(f"rule {rule} takes no parameter, not {parameter!r}")
    return rule, parameter


@judge("rules")
@dataclass
class Rules(Judge):
    """2 where a text keeps its concept's rule, else 0; other axes are missing.

    A concept's id, else its text, names the rule and its parameter: `uppercase`, `starts-with:Dear
    reader`, `min-words:80`, `contains:rain,snow`.
    """

    independent: ClassVar[bool] = True

    def fingerprint(self) -> Mapping[str, Any]:
        return {"rules": sorted(RULES)}

    def key(self, item: Item) -> Any:
        return item.axis, item.concept.id, item.concept.text, item.text

    def rate(self, items: Sequence[Item]) -> Iterator[tuple[int, Verdict]]:
        for i, item in enumerate(items):
            yield i, _rated(item)


def rule_of(concept: Concept) -> Callable[[str], Verdict] | None:
    """What rates a text on a concept that is a rule, by its id or else its text; None for any other concept."""
    for name in (concept.id, concept.text):
        try:
            rule, parameter = parse(unworded(name))
        except ValueError:
            continue
        return partial(keeps, f"{rule}:{parameter}".rstrip(":"))
    return None


def _rated(item: Item) -> Verdict:
    if item.axis != "concept":
        return Verdict(None, reason=f"rules rate the concept axis alone, not {item.axis}")
    if rule := rule_of(item.concept):
        return rule(item.text)
    named = item.concept.text.partition(":")[0].strip() in RULES
    try:
        parse(item.concept.text if named else item.concept.id)
    except ValueError as error:
        return Verdict(None, reason=str(error))
    raise AssertionError("a name that parses is a rule")


def keeps(name: str, text: str) -> Verdict:
    """2 where `text` keeps the rule `name`, else 0; ValueError for what is no rule."""
    rule, parameter = parse(name)
    if not text.strip():
        return Verdict(0.0, reason="empty text")
    return Verdict(2.0 * RULES[rule](text, parameter), raw=name)
