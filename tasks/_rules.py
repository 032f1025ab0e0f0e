"""Rules that an answer can keep whatever it is about: how each is asked for, graded, and brought into a plain text.

Invariant: a grade is a function of the text alone (and of whether it was cut off), 1 where the rule is kept in whole.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
MOST = 20
"""Words of an answer that is to be short."""
SAID, UNSAID = "my friend", "the"
INSTEAD = ("our", "my", "some")
"""What stands for the word that may not be said: it goes with one thing and with many."""
COMMON = {
    "english": "a the and of to is in that it was for on are as with they at be this have from or had by but what all "
    "were when we there can an your which their will if do how you not he she his her my has its into them then",
    "spanish": "el la los las y de que en un una por con para se del al lo su sus más pero como o si cuando muy hay "
    "también ser es son está están tu te uno desde hasta porque este esta puede puedes cada todo no a o e ni sin sobre "
    "entre ha han le les nos mi mis todos todas donde después luego mientras así ya fue era eso esa ese otro otra",
    "french": "le la les et des du de que en un une par avec pour se au aux il elle sa ses plus mais comme ou si quand "
    "très aussi être est sont ce cette vous votre vos dans sur qui ne pas on nous c'est chaque tout puis à a où donc "
    "leur leurs sans entre même tous toutes son ses me était ont ces cet l'on quelque",
    "german": "der die das und von zu ist in dass es für auf sind als mit sie bei sein dieser aus oder nicht ein eine "
    "den dem des im man kann wenn auch sich wird werden nach",
    "italian": "il lo la gli le e di che in un una per con da si del della è sono non come più ma anche questo questa "
    "nel alla quando ogni tutto molto",
    "portuguese": "o os a as e de que em um uma por com para se do da no na é são não como mais mas também este esta "
    "quando cada tudo muito você",
}
"""Common words of languages, to tell one from the others."""
Grade = Callable[[str, bool], float]
"""(text, whether it was cut off) -> how far it keeps the rule, from 0 to 1."""
Make = Callable[[str, int], str]
"""(plain text, its place among the shipped ones) -> the same with the rule kept."""


@dataclass(frozen=True)
class Rule:
    """`text` names it for a model that is to do it, `order` asks for it."""

    text: str
    order: str
    grade: Grade
    make: Make


@cache
def shipped() -> Mapping[str, Any]:
    """Answers in other languages, in the order of the plain ones, and beginnings of words that belong to a question."""
    found: Mapping[str, Any] = json.loads((DATA / "rules.json").read_text("utf-8"))
    return found


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)*", text)


def _share(parts: Sequence[str], holds: Callable[[str], bool]) -> float:
    return sum(map(holds, parts)) / len(parts) if parts else 0.0


def _capitals(text: str, cut: bool) -> float:
    return _share([word for word in _words(text) if word.lower() != word.upper()], str.isupper)


def _rare(pattern: str) -> Grade:
    """exp(-n / 2) for n occurrences in a hundred words."""

    def grade(text: str, cut: bool) -> float:
        words = len(text.split())
        return math.exp(-50 * len(re.findall(pattern, text)) / words) if words else 0.0

    return grade


def _language(name: str) -> Grade:
    """Of common words: the share of those of one language among them and those of the others alone, from ½ to .9."""
    own = set(COMMON[name].split())
    others = {word for key, words in COMMON.items() if key != name for word in words.split()} - own

    def grade(text: str, cut: bool) -> float:
        words = [word.lower() for word in _words(text)]
        ours, theirs = (sum(word in known for word in words) for known in (own, others))
        return min(1.0, max(0.0, (ours / (ours + theirs) - 0.5) / 0.4)) if ours else 0.0

    return grade


def _bullets(text: str, cut: bool) -> float:
    """Share of the lines that are items; of a single item, half of it."""
    lines = [line for line in text.splitlines() if line.strip()]
    items = [line for line in lines if re.match(r"\s*[-*•]\s+\S", line)]
    return len(items) / len(lines) * min(1.0, len(items) / 2) if lines else 0.0


def _json(text: str, cut: bool) -> float:
    """1 for an object or a list and nothing beside it but a fence; ½ with something beside it, or cut off inside."""
    body = re.sub(r"^```(?:json)?\s*|\s*```$", "", text.strip(), flags=re.IGNORECASE)
    if _holds(body):
        return 1.0
    fenced = re.search(r"```(?:json)?\s*(.*?)```", text, re.DOTALL | re.IGNORECASE)
    if (fenced and _holds(fenced[1])) or (cut and _begun(body)):
        return 0.5
    return 0.0


def _holds(text: str) -> bool:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict | list) and bool(found)


def _begun(text: str) -> bool:
    """Whether a text is the beginning of an object or a list: closed where it stops, or after its last whole part."""
    closers, inside, skip = [], False, False
    for char in text:
        if skip:
            skip = False
        elif inside:
            inside, skip = char != '"', char == "\\"
        elif char == '"':
            inside = True
        elif char in "[{":
            closers.append("]" if char == "[" else "}")
        elif char in "]}" and (not closers or closers.pop() != char):
            return False
    if not text.startswith(("{", "[")) or not closers:
        return False
    end = "".join(reversed(closers))
    base = text[:-1] if skip else text
    stops = (
        (f'{base}"', f'{base}":0', f'{base}":""') if inside else (base, f"{base}:0", f"{base}0", base.rstrip(", \n"))
    )
    return any(_holds(stop + end) for stop in stops)


def _highlights(text: str, cut: bool) -> float:
    return min(1.0, len(re.findall(r"(?<!\*)\*{1,2}[^*\s][^*\n]*\*{1,2}(?!\*)", text)) / 3)


def _short(text: str, cut: bool) -> float:
    """1 up to `MOST` words, then 2 / (1 + (words / MOST)⁴); at most ½ where there would have been more."""
    words = len(text.split())
    grade = min(1.0, 2 / (1 + (words / MOST) ** 4)) if words else 0.0
    return min(0.5, grade) if cut else grade


def _exclaims(text: str, cut: bool) -> float:
    return _share(re.findall(r"[.!?…]+(?=[\"'”*}\]]*(?:\s|$))", text), lambda end: end.endswith("!"))


def _says(text: str, cut: bool) -> float:
    return float(bool(re.search(rf"(?<!\w){SAID}(?!\w)", text, re.IGNORECASE)))


def sentences(text: str) -> list[str]:
    return [part.strip() for part in re.findall(r"[^.!?]+[.!?]+", text)]


def _marked(text: str, place: int) -> str:
    """The longest word of each clause between asterisks."""
    clauses = re.split(r"(?<=[.,;:!?])\s+", text)
    longest = [max(_words(clause), key=len, default="") for clause in clauses]
    return " ".join(
        re.sub(rf"\b{w}\b", f"*{w}*", c, count=1) if w else c for c, w in zip(clauses, longest, strict=True)
    )


def _befriended(text: str, place: int) -> str:
    """The first and the last sentence are said to a friend."""
    parts = sentences(text)
    for i in {0, len(parts) - 1}:
        parts[i] = f"{parts[i][:-1]}, {SAID}{parts[i][-1]}"
    return " ".join(parts)


def _without(text: str, place: int) -> str:
    found = iter(range(place, place + len(text)))

    def other(match: re.Match[str]) -> str:
        word = INSTEAD[next(found) % len(INSTEAD)]
        return word.capitalize() if match[0][0].isupper() else word

    return re.sub(rf"\b{UNSAID}\b", other, text, flags=re.IGNORECASE)


RULES: dict[str, Rule] = {
    "spanish": Rule(
        "writing in Spanish only",
        "Write your answer in Spanish only.",
        _language("spanish"),
        lambda text, place: str(shipped()["spanish"][place]),
    ),
    "french": Rule(
        "writing in French only",
        "Write your answer in French only.",
        _language("french"),
        lambda text, place: str(shipped()["french"][place]),
    ),
    "short": Rule(
        f"saying it in at most {MOST} words",
        f"Use at most {MOST} words.",
        _short,
        lambda text, place: min(sentences(text), key=lambda part: len(part.split())),
    ),
    "no-the": Rule(
        f"never using the word '{UNSAID}'",
        f"Do not use the word '{UNSAID}'.",
        _rare(rf"(?i)\b{UNSAID}\b"),
        _without,
    ),
    "friend": Rule(f"calling the reader '{SAID}'", f"Use the words '{SAID}' in your answer.", _says, _befriended),
    "exclamations": Rule(
        "ending every sentence with an exclamation mark",
        "End every sentence with an exclamation mark.",
        _exclaims,
        lambda text, place: re.sub(r"[.?](?=\s|$)", "!", text),
    ),
    "no-commas": Rule(
        "using no commas at all",
        "Do not use any commas.",
        _rare(","),
        lambda text, place: text.replace(",", ""),
    ),
    "highlights": Rule(
        "marking important words with asterisks",
        "Mark at least three important words with asterisks, *like this*.",
        _highlights,
        _marked,
    ),
    "bullets": Rule(
        "answering with a list of bullet points only",
        "Answer with a list of bullet points and nothing else.",
        _bullets,
        lambda text, place: "\n".join(f"- {part}" for part in sentences(text)),
    ),
    "capitals": Rule(
        "writing in capital letters only",
        "Write in capital letters only.",
        _capitals,
        lambda text, place: text.upper(),
    ),
    "lowercase": Rule(
        "writing without any capital letters",
        "Write in lowercase letters only, with no capital letters.",
        _rare(r"[A-ZÀ-ÖØ-Þ]\w*"),
        lambda text, place: text.lower(),
    ),
    "json": Rule(
        "giving the whole answer as a JSON object",
        'Give your whole answer as a JSON object, such as {"answer": "..."}.',
        _json,
        lambda text, place: json.dumps({"answer": text}, ensure_ascii=False),
    ),
}
"""Name -> rule, in the order in which several are brought into one text."""
PAIRS = (
    *(("no-commas", "capitals"), ("spanish", "capitals"), ("friend", "lowercase"), ("french", "lowercase")),
    *(("no-commas", "bullets"), ("spanish", "bullets"), ("french", "short"), ("no-the", "json")),
    *(("exclamations", "json"), ("exclamations", "highlights"), ("no-the", "highlights"), ("short", "friend")),
)
"""Rules that can be kept at once; each stands in two pairs."""
