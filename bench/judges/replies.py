"""From what a judging model wrote to a rating: `Rating: [[x]]`, JSON, or the odds of 0, 1 and 2.

Invariant: a reply without one readable rating is `None` with its reason; no score is made up.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bench.core.spoken import spoken
from bench.core.values import Verdict

READER = 4
"""Changes where the same reply is read as another rating than before: part of every fingerprint."""
RATINGS = ("0", "1", "2")
TOP = 2.0
NUMBER = r"[+-]?(?:\d{1,9}(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?"
"""A rating as models write it: `2.`, `+1`, `.5`, `1e0`."""
LABEL = r"(?:(?:final|overall|my)[ \t]+)?(?:rating|score)"
"""What a rating stands behind, at the beginning of a line."""
KEPT = 8000
"""Characters of a reply that are kept as evidence: the two ends of a longer one."""
NONE = "no readable rating in the reply"

Likely = Sequence[tuple[str, Mapping[str, float]]]
"""Per token of a reply: the token, and log-probabilities of alternatives to it."""

HEAD = re.compile(rf"(?P<quoted>[>\"'“‘`]?)[\s#*_\"'`>•-]*{LABEL}[\s*_`]*(?P<colon>[:：=]?)(?P<rest>.*)", re.I | re.S)
SENTENCE = re.compile(rf"(?<=[.!?;:)])[ \t]+(?=[*_]*{LABEL}[\s*_]*[:：][\s*_]*\[\[)", re.I)
"""Where a rating in the form that was asked for follows a sentence on its line."""
VALUE = re.compile(
    rf"""[\s*_`"'(]* (?: \[\[[\s*_`"']*(?P<whole>{NUMBER})[\s*_`"']*(?P<end>\]\])?
      | \\boxed\{{\s*(?P<boxed>{NUMBER})\s*\}}
      | \[?\s*(?P<bare>{NUMBER}) ) (?P<tail>.*)""",
    re.X | re.S,
)
MARKS = r"[\]\s*_`\"'”’)}$]*"
OUT_OF = re.compile(rf"{MARKS}(?:(?:/|out\s+of)\s*\[*{TOP:g}(?:\.0)?(?![\d.]*\d))?{MARKS}")
REMARK = re.compile(r"(?:[.;,]|\s[-–—])(?:\s.*)?|\(.*", re.S)
"""What may come after a rating without brackets; any words may after one with brackets."""
OTHER = re.compile(r".*\[\[|\s*(?:[-–—/~%]|(?:or|to|and|through|of)\b).*\d", re.I | re.S)
"""What makes a second rating of the words after one; after one without brackets, any digit does."""
ENDS = re.compile(r"(?:\s*</?\|?[A-Za-z_|]{1,24}>)+\s*\Z")
"""A turn's end that a server left in the text: `</s>`, `<|im_end|>`."""


def parse(reply: str, finish: str = "stop") -> Verdict:
    """The one rating in a reply: in lines that begin with `Rating:` or `Score:`, or in JSON with such a field.

    Thoughts do not count, and a line in quotes does not beside one without. None where there is no rating, where two
    differ, where one is not from 0 to 2, or where a reply that was cut (`finish` is `length`) ends within it.
    """
    raw = reply if len(reply) <= KEPT else f"{reply[: KEPT // 2]} … {reply[-KEPT // 2 :]}"
    said, cut = spoken(reply), finish == "length"
    if said is None:
        return Verdict(None, raw=raw, reason="the reply ends inside a thought: -p JUDGE.tokens=… gives it more room")
    found = _ratings(ENDS.sub("", said), cut)
    different = sorted({value for value in found if value is not None})
    if len(different) > 1:
        return Verdict(
            None, raw=raw, reason=f"different ratings in the reply: {', '.join(f'{v:g}' for v in different)}"
        )
    if not different or found[-1] is None:
        why = NONE if said.strip() else "the reply is empty"
        return Verdict(None, raw=raw, reason=f"{why}, which was cut off: -p JUDGE.tokens=… gives more" if cut else why)
    if not 0 <= different[0] <= TOP:
        return Verdict(None, raw=raw, reason=f"rating {different[0]:g} is outside 0 to {TOP:g}")
    return Verdict(different[0], raw=raw)


def _ratings(said: str, cut: bool) -> list[float | None]:
    """Every rating, in order; None for one that cannot be read. Those in quotes only where there are no others."""
    whole = re.sub(r"^```\w*\s*|\s*```$", "", said.strip())
    objects = list(_in_json(said))
    if whole.startswith("{") and objects:
        return [value for *_, value in objects]
    for begin, end, _ in objects:
        said = f"{said[:begin]}{' ' * (end - begin)}{said[end:]}"
    lines = [line for line in SENTENCE.sub("\n", said).splitlines() if line.strip()]
    plain: list[float | None] = []
    quoted: list[float | None] = []
    for i, line in enumerate(lines):
        head = HEAD.fullmatch(line.strip())
        if head is None:
            continue
        rest, last = head["rest"], i == len(lines) - 1
        if not rest.strip(" \t*_#`\"'"):
            if not (head["colon"] or line.lstrip().startswith(("#", "*"))):
                continue
            rest, last = (lines[i + 1], i + 1 == len(lines) - 1) if not last else ("", True)
        elif not head["colon"]:
            continue
        (quoted if head["quoted"] else plain).append(_value(rest, cut and last))
    return [*(plain or quoted), *(value for *_, value in objects)]


def _value(text: str, cut: bool) -> float | None:
    """The number that `text` begins with, where what follows it names no second one; in a text that was cut, only a
    number that is closed."""
    found = VALUE.fullmatch(text.strip())
    if found is None:
        return None
    number, tail = found["whole"] or found["boxed"] or found["bare"], found["tail"]
    closed = bool(found["end"] or found["boxed"])
    if cut and not closed and (found["whole"] or not tail):
        return None
    rest = tail[len(match[0]) :] if (match := OUT_OF.match(tail)) else tail
    if closed:
        return None if OTHER.match(rest) else float(number)
    return None if rest and (re.search(r"\d", rest) or not REMARK.fullmatch(rest)) else float(number)


FIELD = re.compile(r'"(?:rating|score)"\s*:', re.I)


def _in_json(text: str) -> list[tuple[int, int, float | None]]:
    """(begin, end, rating) of every object that has one, in order; its rating is None where it cannot be read, or two
    fields of it disagree."""
    found: list[tuple[int, int, float | None]] = []
    fields = [match.start() for match in FIELD.finditer(text)]
    while fields and len(found) < 8:
        field = fields.pop()
        begin = field
        for _ in range(8):  # a brace within a string of the object may stand nearer than its own
            begin = text.rfind("{", 0, begin)
            if begin < 0:
                break
            try:
                value, end = json.JSONDecoder().raw_decode(text, begin)
            except (ValueError, RecursionError):
                continue
            if end > field:
                found.insert(0, (begin, end, _rating(value)))
                fields = [place for place in fields if place < begin]
                break
    return found


def _rating(found: Any) -> float | None:
    named = [value for name, value in found.items() if name.lower() in ("rating", "score")]
    try:
        values = {float(value) for value in named if not isinstance(value, bool)}
    except (TypeError, ValueError, OverflowError):
        return None
    value = values.pop() if len(values) == 1 else math.nan
    return value if math.isfinite(value) else None


PLACE = re.compile(
    rf"""(?:^|(?<=[.!?;:)][ ])) [\s#*_>"'`]* {LABEL} [\s*_"'`]* [:：=]? [\s*_`"']* (?:\[+|\\boxed\{{)? \s*
      | "(?:rating|score)"\s*:\s*"?""",
    re.I | re.M | re.X,
)
"""Where a rating begins."""


def expected(likely: Likely, written: float) -> tuple[float, str] | None:
    """Σ r·p(r) / Σ p(r) over 0, 1, 2 where the reply rates `written`, with the three odds as text.

    None where no tokens came, or where that rating is not one digit of one token.
    """
    text = "".join(token for token, _ in likely)
    digit = f"{written:g}"
    place = max((p.end() for p in PLACE.finditer(text) if text.startswith(digit, p.end())), default=-1)
    begin = 0
    for token, alternatives in likely:
        if begin <= place < begin + len(token):
            at = place - begin
            if token[at] not in RATINGS or float(token[at]) != written:
                return None
            odds = [_odds(alternatives, token[:at] + rating + token[at + 1 :]) for rating in RATINGS]
            return weigh(odds)
        begin += len(token)
    return None


def _odds(alternatives: Mapping[str, float], token: str) -> float:
    return math.exp(min(0.0, alternatives.get(token, -math.inf)))


def weigh(odds: Sequence[float]) -> tuple[float, str] | None:
    """The mean of 0, 1, 2 under `odds`, with them as text; None where they are all 0."""
    if not sum(odds) > 0:
        return None
    shown = ", ".join(f"p({rating}) = {p:.3g}" for rating, p in zip(RATINGS, odds, strict=True))
    return sum(i * p for i, p in enumerate(odds)) / sum(odds), f"weighted: {shown}"
