"""Which judges read English alone, and whether a text is English.

Invariant: the rule is a table of small words and nothing else, so that it says the same everywhere; what it cannot tell
(a formula, a name, a few words) passes as English.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from bench.core.errors import UsageError
from bench.core.interfaces import Task
from bench.core.values import Concept

ALONE = frozenset({"ensemble", "embedding"})
"""Judges whose sentence encoder and counts of words are English. `likelihood` is calibrated on the task's own texts,
and how well that went stands in its calibration."""
LETTERS = re.compile(r"[^\W\d_]")
LATIN = re.compile(r"[a-zA-ZªºÀ-ɏḀ-ỿ]")
ACCENTED = re.compile(r"[À-ÖØ-öø-ɏḀ-ỿ]")
WORD = re.compile(r"[^\W\d_]+")
SMALL = {
    "English": "a an the and or but if of in to for on at by with from as that this it its is are was were be been do "
    "does did not no i you he she we they my your his her our their me him them who what which when where why how have "
    "has had will would can could may so there all one up out about into than then some any more most write explain "
    "describe give tell make",
    "German": "der das und von zu ist dass es für auf sind mit sie bei sein dieser diese dieses aus oder nicht ein "
    "eine einen einer dem den des im kann wenn auch sich wird werden nach wie ich du wir ihr mich dir mir zum zur über "
    "beschreibe schreibe erkläre warum",
    "Spanish": "el los las de que en un una por con para se del al lo su sus más pero como si cuando muy hay también "
    "ser es son está están tu uno desde este esta todo sin sobre entre ha han le les nos mis qué cómo eso esa otro "
    "otra la",
    "French": "le les et des du de que en un une par avec pour se au aux il elle sa ses plus mais comme ou si quand "
    "très aussi être est sont ce cette vous votre dans sur qui ne pas nous tout leur sans son je tu quel quelle la",
    "Italian": "il lo gli le di che un una con da si del della dei è sono come più ma anche questo questa nel "
    "alla quando ogni molto perché cosa la",
    "Portuguese": "os as de que em um uma por para se da não são como mais mas também este esta quando cada tudo "
    "muito você ao dos das seu sua uma",
    "Dutch": "de het een en van ik te dat niet zijn aan met voor er maar om hem dan zou wat mijn deze hij zij ook "
    "naar hoe waarom",
}
"""Words that prose of a language cannot do without; none that English or a programming language has (die, per, op)."""
WORDS = {language: frozenset(words.split()) for language, words in SMALL.items()}
SHARE = 0.12
"""Least share of its small words that tells a language: prose has twice that and more. None of the 1,014 shipped
English texts is taken for another language, and of 44,632 committed answers to English questions 22, most of them in
none that exists."""
FEWEST = 2
"""Small words that tell a language at the least."""


@lru_cache(maxsize=2**16)  # a report counts the same answers for each of its forms
def foreign(text: str) -> str:
    """The language that a text is in, as far as it can be told; "" for English and for what cannot be told.

    >>> foreign("Wie schreibe ich einen Brief an meine Nachbarin?")
    'German'
    >>> foreign("print(x + y)")
    ''
    """
    letters, latin = len(LETTERS.findall(text)), len(LATIN.findall(text))
    if letters >= FEWEST and latin < letters / 2:
        return "no Latin letters"
    words = WORD.findall(text.casefold())
    english = sum(word in WORDS["English"] for word in words)
    counts = {
        language: sum(word in own and word not in WORDS["English"] for word in words)
        for language, own in WORDS.items()
        if language != "English"
    }
    counts["a language with accents"] = sum(ACCENTED.search(word) is not None for word in words)
    found = max(counts, key=counts.__getitem__)  # the first of those that tie
    return found if counts[found] > english and counts[found] >= max(FEWEST, SHARE * len(words)) else ""


SHOWN = 24
"""Training instructions of a concept that are looked at."""


def asked(task: Task, concept: Concept) -> Iterator[str]:
    """What a concept's answers are answers to: its questions, and instructions of its training texts."""
    for sample in (*task.select(concept), *task.test(concept)):
        yield sample.question or sample.instruction
    for example in task.train(concept).negatives[:SHOWN]:
        yield example.instruction


def unread(judge: str, task: Task) -> str:
    """What to say of a task of which an English judge cannot read some; "" where it can read all.

    Raises UsageError where at least half of the concepts ask in another language.
    """
    if judge.partition(":")[0] not in ALONE or not task.rated:
        return ""
    concepts = task.concepts()
    found = {concept.id: why for concept in concepts if (why := foreign("\n".join(asked(task, concept))))}
    if not found:
        return ""
    first = next(iter(found))
    told = (
        f"judge {judge} reads English alone, and {len(found)} of {len(concepts)} concepts of task {task.name} ask in "
        f"another language ({first}: {found[first]})"
    )
    if 2 * len(found) >= len(concepts):
        raise UsageError(f"{told}: take --judge openai:MODEL, hf:MODEL or likelihood")
    return f"warning: {told}: what it says of those is no rating"


def answered(texts: Sequence[str]) -> int:
    """How many answers are in another language than English."""
    return sum(bool(foreign(text)) for text in texts)
