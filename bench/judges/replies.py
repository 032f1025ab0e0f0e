"""From what a judging model wrote to a rating: `Rating: [[x]]`, JSON, or the odds of 0, 1 and 2.

Invariant: a reply without a readable rating is `None` with its reason; no score is made up.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bench.core.values import Verdict

READER = 3
"""Changes where the same reply is read as another rating than before: part of every fingerprint."""
RATINGS = ("0", "1", "2")
NUMBER = r"[+-]?(?:\d{1,9}(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?"
"""A rating as models write it: `2.`, `+1`, `.5`, `1e0`."""
KEPT = 8000
"""Characters of a reply that are kept as evidence: the two ends of a longer one."""
NONE = "no readable rating in the reply"

Likely = Sequence[tuple[str, Mapping[str, float]]]
"""Per token of a reply: the token, and log-probabilities of alternatives to it."""


def parse(reply: str) -> Verdict:
    """The rating in a reply that is JSON, else after the last `Rating:`, else in JSON within it.

    JSON is an object with `rating` or `score`, bare or in a code fence. None where there is no rating, or
    one that is not from 0 to 2.
    """
    raw = reply if len(reply) <= KEPT else f"{reply[: KEPT // 2]} … {reply[-KEPT // 2 :]}"
    bare = re.sub(r"^```\w*\s*|\s*```$", "", reply.strip())
    lines = "Rating:" in reply
    value = _in_json(bare) if bare.startswith("{") or not lines else None
    if value is None and lines:
        value = _after(reply)
    if value is None:
        return Verdict(None, raw=raw, reason=NONE if reply.strip() else "the reply is empty")
    if not 0 <= value <= 2:
        return Verdict(None, raw=raw, reason=f"rating {value:g} is outside 0 to 2")
    return Verdict(value, raw=raw)


def _after(reply: str) -> float | None:
    """The number after the last `Rating:`, with or without brackets, quotes and asterisks."""
    line = reply.rpartition("Rating:")[2].strip().split("\n")[0]
    found = re.fullmatch(rf"[\[\s*`\"']*({NUMBER})[\]\s*`\"'.]*", line)
    return float(found[1]) if found else None


FIELD = re.compile(r'"(?:rating|score)"\s*:', re.I)


def _in_json(text: str) -> float | None:
    """The rating of the last object that has one; None where two fields of it disagree."""
    field = next((found for found in reversed(list(FIELD.finditer(text)))), None)
    begin = field.start() if field else -1
    for _ in range(8):  # a brace within a string of the object may stand nearer than its own
        begin = text.rfind("{", 0, begin)
        if begin < 0:
            return None
        try:
            found, end = json.JSONDecoder().raw_decode(text, begin)
        except (ValueError, RecursionError):
            continue
        if field is not None and end > field.start():
            return _rating(found)
    return None


def _rating(found: Any) -> float | None:
    named = [value for name, value in found.items() if name.lower() in ("rating", "score")]
    try:
        values = {float(value) for value in named if not isinstance(value, bool)}
    except (TypeError, ValueError, OverflowError):
        return None
    return values.pop() if len(values) == 1 else None


def expected(likely: Likely, written: float) -> tuple[float, str] | None:
    """Σ r·p(r) / Σ p(r) over 0, 1, 2 where the reply rates `written`, with the three odds as text.

    None where no tokens came, or where that rating is not one digit of one token.
    """
    text = "".join(token for token, _ in likely)
    place = max(
        (found.end() for found in re.finditer(r'Rating:[\s*`"\']*\[*\s*|"(?:rating|score)"\s*:\s*"?', text)), default=-1
    )
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
