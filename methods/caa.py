"""CAA: the difference of states at the answer letter of two-choice questions."""

from __future__ import annotations

from dataclasses import dataclass

from bench import Array, Context, Prompted, Span, Train, method
from methods._directions import DirectionMethod


@method(
    "caa",
    surface="activations",
    paper="arXiv:2312.06681",
    views=("choices",),
    needs=["add"],
    provides=["steering", "detector"],
    antisymmetric=True,
    recovers=True,
)
@dataclass(frozen=True)
class CAA(DirectionMethod):
    """Mean difference between choosing the matching and the other answer, at the answer's letter.

    Equation: w = mean_i [h(q_i, c_i⁺) - h(q_i, c_i⁻)] `[H]` at the letter token of "(A" or "(B", added at
    the last prompt token and every token after it. Each question is asked in both orders, so that w is
    no "A minus B".
    Deviations: the text ends at the letter, so the last token holds it under any tokenizer; strength
    in median norms in place of a common norm over behaviours; both orders in place of a random one.
    Reproduction: the paper moves the share of matching answers of Llama-2-7B-chat (layer 13) by up to
    a few tens of points; it reports no AxBench row.
    """

    def vector(self, ctx: Context, train: Train, layer: int) -> Array:
        chats = self.texts(train)
        states = ctx.last(chats, layer)[layer]
        difference: Array = states[0::2].mean(0) - states[1::2].mean(0)
        return difference

    def texts(self, train: Train) -> list[Prompted]:
        """Per question and order: the chat with the matching letter, then with the other."""
        chats: list[Prompted] = []
        for choice in train.choices:
            for first in (True, False):
                a, b = (choice.matching, choice.not_matching) if first else (choice.not_matching, choice.matching)
                asked = ("user", f"{choice.question}\n(A) {a}\n(B) {b}")
                letters = "AB" if first else "BA"
                chats += [(asked, ("assistant", f"({letter}")) for letter in letters]
        return chats

    def prefetch(self, ctx: Context, train: Train, layers: list[int]) -> None:
        ctx.last(self.texts(train), layers)

    @property
    def span(self) -> Span:
        return Span("generation")
