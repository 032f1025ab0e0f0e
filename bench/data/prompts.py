"""What a generator is asked when data are made, and how its replies are read.

Invariant: a reply that cannot be read is None or left out, never a default. The wordings are this
project's own; what is asked for follows AxBench's pipeline (arXiv 2501.17148, appendix).
"""

from __future__ import annotations

import re

TOPICS = (
    "the weather", "gardens", "trains and buses", "birds", "libraries", "small shops", "running", "furniture",
    "coffee and tea", "school days", "museums", "bicycles", "neighbours", "photographs", "winter clothes", "bridges",
    "markets", "letters and parcels", "clocks", "painting", "farm animals", "hotels", "newspapers", "tools",
    "board games", "forests", "lamps and light", "teeth and health", "languages", "theatre", "paper", "insects",
    "mountains", "elevators and stairs", "holidays", "rain gutters and roofs", "radio", "shoes", "glass", "sleep",
)  # fmt: skip
"""Everyday subjects that keep written instructions apart."""

KINDS = {
    "text": "short requests that someone might send to an assistant: a question of general knowledge, or a wish for "
    "advice, a description or an explanation",
    "math": "short word problems in arithmetic that have one number as their answer; each states all numbers it needs",
    "code": "short programming tasks in Python that a few lines of code solve",
}
EACH = 10
"""Instructions asked for in one reply."""


def genre(concept: str) -> str:
    return (
        f"Texts are sorted into three shelves: Text (prose), Math (calculations and proofs) and Code (programs and "
        f"markup). On which shelf would you most often meet this: {concept}\n\n"
        "Reply with one word: Text, Math, Code, or None if no shelf fits."
    )


def read_genre(reply: str) -> str | None:
    """`text`, `math` or `code`; AxBench puts what fits nowhere under text; None where it is unreadable."""
    words = re.findall(r"[a-z]+", reply.casefold())
    named = [word for word in words if word in ("text", "math", "code", "none")]
    if len(set(named)) != 1:
        return None
    return "text" if named[0] == "none" else named[0]


def instructions(kind: str, topic: str) -> str:
    return (
        f"Write {EACH} {KINDS[kind]}. Let them have something to do with {topic}, each in its own way. "
        "Put one on each line, without numbers in front and without answers."
    )


def read_instructions(reply: str) -> list[str]:
    """The lines of a reply that can be asked: bullets and numbers gone, not too short, not too long."""
    lines = [re.sub(r"^\s*(?:[-*•]|\(?\d{1,2}[.):])\s*", "", line).strip(" \t\"'“”*") for line in reply.split("\n")]
    return [line for line in lines if len(line.split()) >= 4 and 15 <= len(line) < 500 and not line.endswith(":")]


def positive(concept: str, instruction: str) -> str:
    return (
        f"Someone asks: {instruction}\n\nReply to them, and let your reply be full of this theme: {concept}\n"
        "Show the theme by what you say and not by repeating its description; where the two do not go together, "
        "the theme comes first. Give the reply alone."
    )


def avoiding(concept: str, instruction: str) -> str:
    return (
        f"Someone asks: {instruction}\n\nReply to them as you normally would, and keep your reply free of anything "
        f"to do with this theme: {concept}\nGive the reply alone."
    )


def related(concept: str) -> str:
    return (
        f"Think of this theme: {concept}\nName up to ten everyday English words that belong to it, one single word "
        "on each line and nothing else. If it is too broad or too technical for that, reply with None."
    )


def read_related(reply: str) -> list[str]:
    """Up to ten single words, each once."""
    words = [
        re.sub(r"^\s*(?:[-*•]|\(?\d{1,2}[.):])\s*", "", line).strip(" .,\t").casefold() for line in reply.split("\n")
    ]
    single = [word for word in words if re.fullmatch(r"[a-z][a-z'-]{1,24}", word) and word != "none"]
    return list(dict.fromkeys(single))[:10]


def sense(word: str, concept: str) -> str:
    return (
        f"The word “{word}” can be met in connection with: {concept}\nDoes it have another common meaning that has "
        "nothing to do with that? Give that meaning in one short phrase on one line, or reply with None."
    )


def read_sense(reply: str) -> str | None:
    lines = [line.strip(" .\t\"'“”") for line in reply.split("\n") if line.strip()]
    if len(lines) != 1 or re.match(r"none\b", lines[0], re.IGNORECASE) or not 1 <= len(lines[0].split()) <= 20:
        return None
    return lines[0]


def unrelated(word: str, meaning: str, concept: str) -> str:
    return (
        f"A: {concept}\nB: “{word}” in the sense of {meaning}\n\nCould a reader take B for an instance of A, or think "
        "of A because of B? Reason in one sentence. Then write a last line that says only “Verdict: related” or "
        "“Verdict: unrelated”."
    )


def read_unrelated(reply: str) -> bool | None:
    found = re.findall(r"verdict\s*:\s*(unrelated|related)", reply.casefold())
    return found[-1] == "unrelated" if found else None


def hard(word: str, meaning: str, concept: str, instruction: str) -> str:
    return (
        f"Someone asks: {instruction}\n\nReply to them. Somewhere in the middle of your reply use the word “{word}” in "
        f"the sense of {meaning}, and say nothing to do with this theme: {concept}\nGive the reply alone."
    )


_REFUSED = re.compile(
    r"(?:(?:i['’]?m|i am) (?:really |very |so )?sorry\b|sorry,|i (?:can['’]?t|cannot|am unable to|will not|won['’]?t) "
    r"(?:help|assist|answer|provide|create|comply|write|fulfil|do that)|i['’]?m (?:unable|not able) to|as an ai\b"
    r"|unfortunately, i )"
)


def refused(text: str) -> bool:
    """Whether a reply begins by declining."""
    return bool(_REFUSED.match(text.casefold().lstrip()))


def cleaned(text: str) -> str:
    """A reply without the quotes or the label some models put around it."""
    text = re.sub(r"^\s*(?:<[A-Za-z]+>|(?:reply|answer|response)\s*:)\s*", "", text, flags=re.IGNORECASE).strip()
    for left, right in (('"', '"'), ("“", "”")):
        if len(text) > 1 and text[0] == left and text[-1] == right and text.count(left) + text.count(right) <= 4:
            text = text[1:-1].strip() if left not in text[1:-1] else text
    return text
