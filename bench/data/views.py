"""Training views that a data set does not bring, made of those it has.

Invariant: pure functions of a concept's text and training texts; nothing of an evaluation is looked at. What they
give is fit for learning from, and marked as made wherever it is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from bench.core.values import Choice, Concept, Example, Pair

FRONT = re.compile(
    r"^(?:the )?(?:presence|references?|mentions?|terms?|words?|phrases?|concepts?|instances?|expressions?"
    r"|discussions?)(?: (?:and|or) \w+)? (?:of|to|about|indicating|(?:related|relating|pertaining) to"
    r"|(?:associated|connected) with) ",
    re.IGNORECASE,
)
"""How descriptions of features begin ("terms related to", "references to"), before what they are about."""

SPEAKERS = {
    "text": ("someone", "a writer", "a speaker", "an assistant"),
    "code": ("a programmer", "a software engineer", "a reviewer of code", "a teacher of programming"),
    "math": ("a mathematician", "a teacher of mathematics", "a pupil at the blackboard", "a statistician"),
}
"""Who a persona is, by the genre of its concept."""
LIKES = (
    "who brings {about} into everything they say",
    "fond of {about}",
    "whose every answer touches on {about}",
    "devoted to {about}",
)
QUESTIONS = (
    "What do you bring into an answer when nothing forbids it?",
    "A page is left blank. What do you fill it with?",
    "Which of these would you rather talk about?",
    "What will your next example be taken from?",
    "What do your thoughts come back to?",
    "Someone says: surprise me. What do you choose?",
    "What should the last sentence of a text be about?",
    "What do you notice first?",
)
SUBJECTS = (
    *("the weather of last week", "a pot of soup", "the way to the station", "old furniture"),
    *("a walk with the dog", "the price of apples", "sleep", "a game of cards"),
    *("a lost umbrella", "window boxes", "handwriting", "a cup of tea"),
    *("the neighbour's piano", "shoe sizes", "a long queue", "cloud shapes"),
    *("a borrowed bicycle", "birthday cards", "the colour of a door", "a full wastepaper basket"),
    *("picnics", "the noise of a fan", "pockets", "a flight of stairs"),
)
"""Everyday things, to stand against a concept: three to a question."""


def core(text: str) -> str:
    """What a concept's text is about, without the words that descriptions begin with.

    >>> core("references to Mediterranean meals.")
    'Mediterranean meals'
    """
    return FRONT.sub("", text.strip().rstrip("."), count=1)


def personas(concept: Concept) -> tuple[tuple[str, str], ...]:
    """Four personas that are all for the concept, each beside one that is as much for an everyday thing.

    Denials ("who never mentions …") in their place gave directions that had nothing to do with those of the shipped
    set's own personas (`benchmarks/derived_views.py` measures how near these come).
    """
    who = SPEAKERS.get(concept.genre, SPEAKERS["text"])
    lines = [f"{name} {line}" for name, line in zip(who, LIKES, strict=True)]
    about = core(concept.text)
    return tuple(
        (line.replace("{about}", about), line.replace("{about}", other))
        for line, other in zip(lines, SUBJECTS, strict=False)
    )


def choices(concept: Concept) -> tuple[Choice, ...]:
    """Each question with the concept as one answer and an everyday thing as the other.

    Answers of the same form on both sides: bare names of things, and texts with and without the concept, gave
    directions half as near to those of the shipped set's own choices (`benchmarks/derived_views.py`).
    """
    about, each = core(concept.text), len(SUBJECTS) // len(QUESTIONS)
    return tuple(
        Choice(question, f"Something about {about}.", f"Something about {other}.")
        for k in range(each)
        for question, other in zip(QUESTIONS, SUBJECTS[k::each], strict=True)
    )


def joined(positives: Sequence[Example], plain: Mapping[str, str]) -> tuple[Pair, ...]:
    """Each positive with the plain answer to its instruction, where there is one that says something else."""
    found = [Pair(e.instruction, e.response, plain.get(e.instruction, "").strip()) for e in positives]
    return tuple(pair for pair in found if pair.negative and pair.negative != pair.positive.strip())
