"""Prompting with one line: the baseline every steering method must beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from bench import Context, Fitted, Method, Prompt, Steering, Train, method

LINES = (
    Prompt(prefix="Please bring {concept} into your answer.\n\n"),
    Prompt(suffix="\n\nMake sure that your reply keeps mentioning {concept}."),
    Prompt(system="You love to talk about {concept}, whatever you are asked."),
    Prompt(prefix="Answer with many references to {concept}. "),
    Prompt(suffix=" Explain it with {concept}."),
    Prompt(system="Whatever the question, answer it and connect it with {concept}."),
    Prompt(prefix="Subject to include: {concept}.\nQuestion: "),
    Prompt(suffix="\n\n(Include {concept} in every sentence.)"),
    Prompt(prefix="Think of {concept} while you answer, and let it show.\n\n"),
    Prompt(system="Each of your answers is about {concept} first and the question second."),
    Prompt(suffix="\n\nUse comparisons that come from {concept}."),
    Prompt(prefix="You may only answer in terms of {concept}. "),
    Prompt(system="Never let an answer end without a word on {concept}."),
    Prompt(suffix="\n\nTell it through {concept}, start to end."),
)


@method("prompt", surface="prompt", paper="arXiv:2501.17148", views=(), needs=["prompt"])
@dataclass(frozen=True)
class OneLine(Method):
    """One line that asks for the concept; the wording is chosen on the select split.

    As many wordings are tried as a vector gets coefficients, so that both have the same budget of
    judged trials. Deviation from AxBench's simple prompt: it has one untuned wording.
    Reproduction: AxBench's prompts (written by gpt-4o-mini) score .731 on Gemma-2-2B, layer 20.
    """

    place: ClassVar[str] = ""
    """Where the line stands: `prefix` or `suffix` of the question, or anywhere."""

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        lines = [line for line in wordings(train) if not self.place or getattr(line, self.place)]
        return [Fitted(Steering(line)) for line in lines[: ctx.budget.trials]]


def wordings(train: Train) -> list[Prompt]:
    """What the task has to say, else lines that ask for the concept by its name."""
    return [said(text) for text in train.prompts] or [filled(line, train.concept.text) for line in LINES]


def said(text: str) -> Prompt:
    """A task's own words: text around `{instruction}`, or a system message."""
    before, found, after = text.partition("{instruction}")
    return Prompt(prefix=before, suffix=after) if found else Prompt(system=text)


def filled(line: Prompt, concept: str) -> Prompt:
    """A wording with the concept in its place."""
    system, prefix, suffix = (part.replace("{concept}", concept) for part in (line.system, line.prefix, line.suffix))
    return Prompt(system, prefix, suffix)
