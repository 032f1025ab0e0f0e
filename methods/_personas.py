"""Contrast pairs of one beginning of an answer under two personas, as RepE and repeng read them.

Invariant: the two chats of a pair differ in the persona alone, so their last token is the same.
"""

from __future__ import annotations

from bench import Context, Prompted, Train

TEMPLATE = "Speak as {persona}, wholly and in every word. {instruction}"


def chat(persona: str, instruction: str, answer: str = "") -> tuple[tuple[str, str], ...]:
    """A chat that asks for a persona, with the beginning of an answer where there is one."""
    asked = ("user", TEMPLATE.replace("{persona}", persona).replace("{instruction}", instruction))
    return (asked, ("assistant", answer)) if answer else (asked,)


def stimuli(ctx: Context, train: Train) -> tuple[list[Prompted], list[Prompted]]:
    """Matched chats (positive persona, negative persona); half the budget's sequences are pairs.

    Answers are the negatives' own, cut after a few words: what is read is the persona in mid-sentence,
    not the text.
    """
    rng = ctx.rng("stimuli", train.concept.id)
    count = max(2, ctx.budget.sequences // 2)
    positive: list[Prompted] = []
    negative: list[Prompted] = []
    for i in range(count):
        example = train.negatives[int(rng.integers(len(train.negatives)))]
        words = example.response.split()
        room = max(1, ctx.budget.tokens // 4) if ctx.budget.tokens else len(words)
        answer = " ".join(words[: 1 + int(rng.integers(max(1, min(len(words), room, 12))))])
        plus, minus = train.personas[i % len(train.personas)]
        positive.append(chat(plus, example.instruction, answer))
        negative.append(chat(minus, example.instruction, answer))
    return positive, negative
