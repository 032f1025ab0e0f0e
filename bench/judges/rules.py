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
from typing import Any, ClassVar

from bench.core.errors import suggest
from bench.core.interfaces import Judge
from bench.core.registry import judge
from bench.core.values import Item, Verdict

Rule = Callable[[str, str], float]
"""(text, parameter) -> how far the text keeps the rule, 0 to 1."""
EMOJI = re.compile("[\U0001f300-\U0001faff\u2600-\u27bf]")


def _share(parts: Sequence[str], holds: Callable[[str], bool]) -> float:
    return sum(map(holds, parts)) / len(parts) if parts else 0.0


def _cased(text: str) -> list[str]:
    """Words with at least one letter that has two cases."""
    return [word for word in text.split() if word.lower() != word.upper()]


def _found(text: str, pattern: str, enough: int = 1) -> float:
    """Matches of `pattern`, as a share of `enough`."""
    return min(1.0, len(re.findall(pattern, text, re.MULTILINE)) / enough)


def _phrase(text: str, phrase: str, at_end: bool) -> float:
    """Whole where the phrase stands at the right end of the text, half where it stands elsewhere."""
    body, wanted = text.strip().casefold(), phrase.strip().casefold()
    placed = body.rstrip(" .!?\"'").endswith(wanted.rstrip(" .!?")) if at_end else body.startswith(wanted)
    return 1.0 if placed else 0.5 if wanted in body else 0.0


def _contains(text: str, words: str) -> float:
    """Share of the comma-separated words that occur, as whole words in any case."""
    wanted = [word.strip() for word in words.split(",") if word.strip()]
    return _share(wanted, lambda word: bool(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE)))


def _json(text: str, _: str) -> float:
    body = re.sub(r"^```(?:json)?\s*|\s*```$", "", text.strip())
    try:
        return float(isinstance(json.loads(body), dict | list))
    except ValueError:
        return 0.0


def _script(text: str, name: str) -> float:
    """Share of the letters that belong to a script, by its Unicode name: CJK, HANGUL, CYRILLIC, ..."""
    letters = [char for char in text if char.isalpha()]
    return _share(letters, lambda char: unicodedata.name(char, "").startswith(name.strip().upper()))


def _sentences_end(text: str, ending: str) -> float:
    sentences = [s.strip() for s in re.split(r"[.!?\n]+", text) if s.strip()]
    return _share(sentences, lambda s: s.casefold().endswith(ending.strip().casefold()))


RULES: dict[str, Rule] = {
    "contains": _contains,
    "date": lambda text, _: _found(text, r"\b\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])\b"),
    "double-breaks": lambda text, _: _found(text.strip(), r"\n\n"),
    "email": lambda text, _: _found(text, r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b"),
    "emoji": lambda text, _: len(EMOJI.findall(text)[:3]) / 3,
    "ends-with": lambda text, phrase: _phrase(text, phrase, at_end=True),
    "exclamation": lambda text, _: _found(text, "!", 4),
    "hashtags": lambda text, _: _found(text, r"(?<!\w)#\w+", 4),
    "json": _json,
    "lowercase": lambda text, _: _share(_cased(text), str.islower),
    "max-words": lambda text, n: float(0 < len(text.split()) <= int(n)),
    "min-words": lambda text, n: min(1.0, len(text.split()) / int(n)),
    "numbered-list": lambda text, _: _found(text, r"^\s*\d+[.)]\s+\S", 2),
    "phone": lambda text, _: _found(text, r"(?<!\d)(?:\+?\d{1,3}[ .-]?)?\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}(?!\d)"),
    "postscript": lambda text, _: _found(text, r"^\s*P\.? ?(?:P\.? ?)?S\b\.?"),
    "quoted": lambda text, _: _share(text.split(), lambda w: bool(re.match(r"^[\"“'‘].*[\"”'’][.,;:!?]*$", w))),
    "script": _script,
    "sentences-end-with": _sentences_end,
    "separator": lambda text, _: _found(text, r"^\s*\*\*\*\s*$|\*\*\*"),
    "starts-with": lambda text, phrase: _phrase(text, phrase, at_end=False),
    "uppercase": lambda text, _: _share(_cased(text), str.isupper),
    "url": lambda text, _: _found(text, r"\bhttps?://[^\s/]+\.\w+"),
}
NEEDS_TEXT = frozenset({"contains", "ends-with", "script", "sentences-end-with", "starts-with"})
NEEDS_NUMBER = frozenset({"max-words", "min-words"})


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
    """Twice the degree to which a text keeps its concept's rule; other axes are missing.

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


def _rated(item: Item) -> Verdict:
    if item.axis != "concept":
        return Verdict(None, reason=f"rules rate the concept axis alone, not {item.axis}")
    try:
        rule, parameter = parse(item.concept.id)
    except ValueError as first:
        try:
            rule, parameter = parse(item.concept.text)
        except ValueError as second:
            named = item.concept.text.partition(":")[0].strip() in RULES
            return Verdict(None, reason=str(second if named else first))
    return keeps(f"{rule}:{parameter}".rstrip(":"), item.text)


def keeps(name: str, text: str) -> Verdict:
    """How far `text` keeps the rule `name`, 0 to 2; ValueError for what is no rule."""
    rule, parameter = parse(name)
    if not text.strip():
        return Verdict(0.0, reason="empty text")
    return Verdict(2 * RULES[rule](text, parameter), raw=name)
