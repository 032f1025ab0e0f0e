"""The spoken part of what a model wrote: its answer, without what it thought aloud before.

Invariant: a text without the marks of a thought is its own spoken part, to the letter; a thought that never ends is no
answer, whatever stands in it.
"""

from __future__ import annotations

import re

TAGS = "think|thinking|thoughts?|reasoning|reflection|scratchpad|seed:think"
THOUGHT = re.compile(
    rf"""(?<![`"'“‘\w]) (?P<open>
      <(?:{TAGS})> | \[THINK\] | ◁think▷ | <\|(?:begin_of_thought|START_THINKING)\|> | <\|channel>thought\b )
    | (?<![`"'“‘])
      (?:</(?:{TAGS})> | \[/THINK\] | ◁/think▷ | <\|(?:end_of_thought|END_THINKING)\|> | <channel\|> )""",
    re.IGNORECASE | re.VERBOSE,
)
"""What opens and what closes a thought, by those who train models to write it: a tag (DeepSeek, Qwen, Seed), Mistral's
and Kimi's brackets, Gemma's channel. A mark in quotes is spoken of and not meant."""
CHANNEL = re.compile(r"<\|channel\|>\s*(?:analysis|commentary)|\Aanalysis(?=[A-Z])")
FINAL = re.compile(r"<\|channel\|>\s*final\b[^<]*<\|message\|>|assistantfinal")
TURN = re.compile(r"\s*<\|(?:end|return)\|>\s*\Z")
"""Harmony's channels, and what is left of them where the special tokens were taken out."""
UNFINISHED = "the text ends inside a thought, or right after one: nothing was said"
"""Why such a text has no rating."""


def spoken(text: str) -> str | None:
    """What of `text` is said: closed thoughts dropped, and what comes before the end of one that began before the
    text. None where a thought never ends, or nothing comes after it."""
    said, inside, begin = [""], False, 0
    channels = CHANNEL.search(text) is not None or FINAL.match(text) is not None
    if channels:
        *thoughts, text = FINAL.split(text)
        if not thoughts:
            return None
        text = TURN.sub("", text)
    marks = list(THOUGHT.finditer(text))
    for mark in marks:
        if mark["open"] is None:
            said = said if inside else [""]
            inside, begin = False, mark.end()
        elif not inside:
            said.append(text[begin : mark.start()])
            inside = True
    if not (channels or marks):
        return text
    if not inside:
        said.append(text[begin:])
    return None if inside else "".join(said).strip() or None


HARMONY = frozenset({"<|start|>", "<|channel|>", "<|message|>"})


def of_thought(token: str) -> bool:
    """Whether a special token of a tokenizer belongs to a thought: taken out of a text, the thought is answer."""
    return token in HARMONY or THOUGHT.fullmatch(token) is not None


def unclosed(text: str) -> str:
    """The mark of the thought that `text` leaves open, and what stands behind it; "" where it leaves none open."""
    marks = list(THOUGHT.finditer(text))
    return text[marks[-1].start() :] if marks and marks[-1]["open"] else ""


def closing(text: str) -> str:
    """What closes the thought that `text` leaves open; "" where it leaves none open."""
    if not (left := THOUGHT.match(unclosed(text))):
        return ""
    opened = left[0]
    if opened.startswith("<|channel>"):
        return "<channel|>"
    if opened.startswith("<|"):
        return re.sub("begin|START", lambda found: "end" if found[0] == "begin" else "END", opened)
    return f"{opened[0]}/{opened[1:]}"
