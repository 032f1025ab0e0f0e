"""Prompting with a prompt that a language model wrote for the concept."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench import Amount, Budget, Context, Fitted, Method, Prompt, Request, Sampling, Size, Steering, Train, method

TASK = (
    "Write the instructions for an assistant. Whatever it is asked, its answer must be full of this: "
    "{concept}. Tell it what to mention and give it a short example. Write only the instructions."
)


ORDERED = (
    "Write the instructions for an assistant that must keep to this order: {order} Tell it how, with a short "
    "example. Write only the instructions."
)


def _task(train: Train) -> str:
    if train.prompts:
        return ORDERED.replace("{order}", train.prompts[0].replace("{instruction}", "").strip())
    return TASK.replace("{concept}", train.concept.text)


@method("prompt-engineered", surface="prompt", paper="arXiv:2501.17148", views=(), needs=["prompt"], uses_prompter=True)
@dataclass(frozen=True)
class Engineered(Method):
    """A steering prompt written by a language model; the best of several is chosen on select.

    The prompter (the target model itself, or `--prompter`) is asked once per trial with its own
    seed; its text goes before the instruction, as in AxBench: "{prompt}\\n\\nQuestion: {instruction}".
    Deviations: AxBench asks gpt-4o-mini once. Drafts that never name the concept get it appended,
    because a small prompter often drops it.
    Reproduction: .731 on Gemma-2-2B, layer 20 (paper); a 135 M prompter is far weaker.
    """

    tokens: Size = 64
    temperature: Amount = 0.7

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        return next(self.fit_all(ctx, [train]))

    def fit_all(self, ctx: Context, trains: Sequence[Train]) -> Iterator[Sequence[Fitted]]:
        """All concepts' drafts in one call: a prompter is fastest with a full batch."""
        sampling, trials = Sampling(self.tokens, self.temperature), range(ctx.budget.trials)
        requests = [
            Request(
                (("user", _task(train)),),
                sampling=sampling,
                seed=int(ctx.rng("prompter", train.concept.id, i).integers(2**31)),
            )
            for train in trains
            for i in trials
        ]
        written = dict((ctx.prompter or ctx.lm).generate(requests))
        drafts = ((written[i].spoken or "").strip() for i in range(len(requests)))
        for train in trains:
            yield [self._fitted(next(drafts), train) for _ in trials]

    def prompt_writing_cost(self, budget: Budget) -> tuple[int, int]:
        return budget.trials, budget.trials * self.tokens

    def _fitted(self, draft: str, train: Train) -> Fitted:
        note = {"prompt": draft} | ({} if about(draft, train.concept.text) else {"unusable": UNUSABLE})
        if not train.prompts and train.concept.text.lower() not in draft.lower():
            draft = f"{draft}\nYour subject is {train.concept.text}.".strip()
        return Fitted(Steering(Prompt(prefix=f"{draft}\n\nQuestion: ")), note=note | {"prompt": draft})


UNUSABLE = "the prompter wrote nothing about the concept: take a larger --prompter"


def about(draft: str, concept: str) -> bool:
    """Whether a draft shares a content word with the concept: the least that a prompt for it does."""
    wanted, found = ({word[:5] for word in re.findall(r"[a-z]{4,}", text.lower())} for text in (concept, draft))
    return bool(wanted & found)
