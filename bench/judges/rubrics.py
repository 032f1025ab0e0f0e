"""What a language model is asked as a judge: three rubrics, AxBench's three axes in our own words.

Invariant: a rubric names only what its axis is about; what is rated stands in it unchanged.
"""

from __future__ import annotations

import re

from bench.core.values import Item

SCALE = """Think in one or two sentences, then close with a line of exactly this form:
Rating: [[x]]
where x is 0, 1 or 2."""
RUBRICS = {
    "concept": """You grade how clearly a text shows a concept.

Concept: {concept}
Text: {text}

0: the concept is absent. 1: it is there, but little, or only touched in passing. 2: it is plainly and
fully part of the text. Judge the concept alone, not how good or sensible the text is.
"""
    + SCALE,
    "instruction": """You grade whether a text has to do with what was asked.

Request: {instruction}
Text: {text}

0: it has nothing to do with the request. 1: it is partly or loosely about it. 2: it is clearly about
it. A text may be cut short or contain other matter; judge only its relation to the request.
"""
    + SCALE,
    "fluency": """You grade how well a text reads.

Text: {text}

0: it is broken: unreadable, looping or word salad. 1: it can be read, with unnatural or repeated
parts. 2: it reads naturally. The text may end in the middle; do not hold that against it.
"""
    + SCALE,
}


def filled(item: Item) -> str:
    """The rubric with the item's parts, in one pass: braces inside a text stay as they are."""
    parts = {"concept": item.concept.text, "instruction": item.instruction, "text": item.text}
    return re.sub(r"\{(concept|instruction|text)\}", lambda found: parts[found[1]], RUBRICS[item.axis])
