"""What an endpoint sent, read once: text, odds, and what it says that it took.

Invariant: JSON of any shape is an answer or a ValueError, and a count of tokens that cannot be is no count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.core.money import Taken
from bench.core.values import Completion

MOST = 10**7
"""Tokens that no request reads or writes."""
SAID, THOUGHT = ("text", "output_text"), ("thinking", "reasoning", "reasoning_content", "redacted_thinking")
"""Types of a part of an answer that is a list of parts."""


@dataclass(frozen=True)
class Reply:
    """A completion and, where they were asked for and came, its tokens with the alternatives to each.

    `likely[t]` is (token, {alternative: log-probability}), the token itself among the alternatives. `taken` is None
    where the server does not say, or says what cannot be. `model` is the name that it answered with.
    """

    completion: Completion
    likely: tuple[tuple[str, Mapping[str, float]], ...] = ()
    taken: Taken | None = None
    model: str = ""


def read(answer: Any) -> Reply:
    """The reply in a chat completion's JSON; raises ValueError for JSON of another shape."""
    choices = _of(answer, dict, "the answer").get("choices")
    if not isinstance(choices, list) or not choices:
        raise ValueError("no choices")
    choice = _of(choices[0], dict, "a choice")
    text = _text(_of(choice.get("message"), dict, "the message"))
    finish, model, found = choice.get("finish_reason"), answer.get("model"), taken(answer.get("usage"))
    finish = finish if isinstance(finish, str) else ""
    counts = (found.written, found.read) if found else (0, 0)
    return Reply(
        Completion(text, *counts, finish=finish), _likely(choice), found, model if isinstance(model, str) else ""
    )


def _of(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{what} is a {type(value).__name__}")
    return value


def _text(message: Mapping[str, Any]) -> str:
    """What the model wrote: text, or the text of a list's parts. Thoughts that come apart from it are left out, but
    where there is nothing else they stand as a thought that never ended."""
    content = message.get("content")
    parts = content if isinstance(content, list) else [content or ""]
    said, thought = [], [message.get(name) for name in ("reasoning_content", "reasoning", "thinking")]
    for part in parts:
        if isinstance(part, str):
            said.append(part)
        elif isinstance(part, dict) and part.get("type", "text") in SAID:
            said.append(_of(part.get("text"), str, "the text of a part"))
        elif isinstance(part, dict) and part.get("type") in THOUGHT:
            thought.append(part.get("thinking") or part.get("text") or "…")
        else:
            raise ValueError("content of no kind that is known")
    text = "".join(said)
    if text.strip() or not any(thought):
        return text
    return "<think>\n" + "\n".join(part for part in thought if isinstance(part, str))


def taken(usage: Any) -> Taken | None:
    """The tokens that `usage` counts; None where it does not, or where one of the counts cannot be."""
    if not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    read, written, cached = (
        _count(n) for n in (usage.get("prompt_tokens"), usage.get("completion_tokens"), cached or 0)
    )
    if read is None or written is None or cached is None or cached > read:
        return None
    return Taken(read, written, cached)


def _count(value: Any) -> int | None:
    """A number of tokens; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST or value != int(value):
        return None
    return int(value)


def _likely(choice: Mapping[str, Any]) -> tuple[tuple[str, Mapping[str, float]], ...]:
    """The odds of each token; none at all where one cannot be read."""
    listed = choice.get("logprobs")
    listed = listed.get("content") if isinstance(listed, dict) else None
    found = []
    for token in listed if isinstance(listed, list) else ():
        try:
            own = [token, *(token.get("top_logprobs") or [])]
            odds = {str(each["token"]): float(each["logprob"]) for each in reversed(own)}
        except (AttributeError, LookupError, TypeError, ValueError, OverflowError):
            return ()
        if any(math.isnan(value) for value in odds.values()):
            return ()
        found.append((str(token["token"]), odds))
    return tuple(found)
