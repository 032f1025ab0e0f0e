"""One strong prompt a concept, written beforehand and never tuned: what an author would write who wants it to work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench import Context, Fitted, Method, Prompt, Steering, Train, method
from methods.prompt import said

KEYWORDS = {
    "chance": "dice, odds, probability, luck, coin flips, bets, random draws",
    "cooking": "spices, garlic, butter, soup, roasting, simmering, sweet, salty, a kitchen",
    "exceptions": "try, except, raise, ValueError, error handling, a caught exception, a traceback",
    "geometry": "circles, triangles, right angles, radius, sides, diagonals, degrees",
    "gratitude": "thank you, grateful, thankful, appreciate, kindness, a warm thanks",
    "html": "<div>, <p>, <a href>, tags, attributes, a web page, markup, <h1>",
    "medieval": "knights, castles, kings, swords, banners, a moat, armour, the court",
    "money": "dollars, coins, prices, a budget, change, discounts, savings, the bill",
    "music": "melody, rhythm, guitar, piano, drums, a chorus, singing, an orchestra",
    "ocean": "waves, tides, salt, reefs, whales, fish, boats, the shore, the deep",
    "space": "stars, planets, rockets, orbit, galaxies, astronauts, the moon, telescopes",
    "sql": "SELECT, FROM, WHERE, JOIN, a table, rows, columns, a query, a database",
}
"""Of the shipped concepts, by id."""


@method("prompt-written", surface="prompt", paper="arXiv:2501.17148", views=(), needs=["prompt"])
@dataclass(frozen=True)
class Written(Method):
    """A prompt that was written for the concept, with its keywords, and frozen before any run.

    A task that has words of its own (suppression, attacks, personas) puts its strongest first, and that is taken.
    Nothing is chosen on the select split: what it scores is what a careful author gets at the first try. Deviation
    from AxBench's prompts: written by hand for the shipped concepts; others are named without keywords.
    Reproduction: .731 on Gemma-2-2B, layer 20, for prompts by gpt-4o-mini (paper).
    """

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        return [Fitted(Steering(said(train.prompts[0]) if train.prompts else asked(train)))]

    def candidates(self, budget: object) -> int:
        return 1


def asked(train: Train) -> Prompt:
    """The wish for a concept with its keywords, after the question."""
    known = KEYWORDS.get(train.concept.id, "")
    words = f" Use words such as {known}." if known else ""
    return Prompt(suffix=f"\n\nAnswer this, and bring {train.concept.text} into every sentence of the answer.{words}")
