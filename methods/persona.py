"""Persona vectors: what the model's own answers in and out of a persona differ by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench import (
    Array,
    BenchError,
    Budget,
    Context,
    Example,
    Fitted,
    Item,
    Request,
    Sampling,
    Size,
    Span,
    Train,
    method,
)
from methods._directions import DirectionMethod
from methods._personas import chat


@method(
    "persona",
    surface="activations",
    paper="arXiv:2507.21509",
    views=("texts", "personas"),
    needs=["add"],
    provides=["steering", "detector"],
    recovers=True,
    uses_judge=True,
)
@dataclass(frozen=True)
class Persona(DirectionMethod):
    """Difference of response means over the model's own rollouts under a persona and its opposite.

    Equation: w = mean over kept positive answers of (mean_t h_t) - the same over negative answers `[H]`,
    t the answer's tokens. A pair of answers to one question is kept where the judge rates the positive
    one at least 1 on the concept, the negative one below 1, and both at least 1 on fluency.
    It is added at the last prompt token and every token after it.
    Deviations: the run's judge in place of GPT-4.1-mini; personas from the data in place of system
    prompts from an LLM; the answers are read without the persona, so that it is not what is read. Where
    fewer than `least` pairs survive, the training responses are used, and the note says so.
    Reproduction: the paper's vectors (Qwen2.5-7B, Llama-3.1-8B) predict traits at r .75 to .83; it
    reports no AxBench row.
    """

    tokens: Size = 32
    least: Size = 4

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        return next(self.fit_all(ctx, [train]))

    def fit_all(self, ctx: Context, trains: Sequence[Train]) -> Iterator[Sequence[Fitted]]:
        """All concepts' rollouts in one call, and all their ratings in another."""
        for train, pairs in zip(trains, self.rollouts(ctx, trains), strict=True):
            kept = [pair for pair, good in pairs if good]
            note = {"survived": len(kept), "rollouts": len(pairs), "fallback": len(kept) < self.least}
            if not note["fallback"]:
                positives, negatives = (tuple(side) for side in zip(*kept, strict=True))
                train = replace(train, positives=positives, negatives=negatives)
            yield [replace(fitted, note={**fitted.note, **note}) for fitted in super().fit(ctx, train)]

    def rollouts(self, ctx: Context, trains: Sequence[Train]) -> list[list[tuple[tuple[Example, Example], bool]]]:
        """Per concept the pairs of answers (in persona, out of it), and whether each survives."""
        if ctx.rate is None:
            raise BenchError("it filters its rollouts with a judge, and there is none")
        places, requests = [], []
        for n, train in enumerate(trains):
            questions = list(dict.fromkeys(example.instruction for example in train.negatives))
            for i in range(self.pairs(ctx.budget)):
                question = questions[i % len(questions)]
                seed = int(ctx.rng("rollout", train.concept.id, i).integers(2**31))
                places.append((n, question))
                for persona in train.personas[i % len(train.personas)]:
                    requests.append(Request(chat(persona, question), None, Sampling(self.tokens), seed))
        answers = dict(ctx.lm.generate(requests))
        texts = [(answers[i].spoken or "").strip() or "." for i in range(len(requests))]
        items = [
            Item(axis, trains[n].concept, question, text)
            for (n, question), pair in zip(places, zip(texts[::2], texts[1::2], strict=True), strict=True)
            for text in pair
            for axis in ("concept", "fluency")
        ]
        rated = [verdict.value for verdict in ctx.rate(items)]
        found: list[list[tuple[tuple[Example, Example], bool]]] = [[] for _ in trains]
        for k, (n, question) in enumerate(places):
            plus, plus_fluency, minus, minus_fluency = (-1.0 if v is None else v for v in rated[4 * k : 4 * k + 4])
            good = plus >= 1 > minus >= 0 and min(plus_fluency, minus_fluency) >= 1
            found[n].append(((Example(question, texts[2 * k]), Example(question, texts[2 * k + 1])), good))
        return found

    def vector(self, ctx: Context, train: Train, layer: int) -> Array:
        means = []
        for rows in (train.positives, train.negatives):
            reads = ctx.read([example.messages for example in rows], layer)
            means.append(np.mean([read.answer(layer).mean(0) for read in reads], axis=0))
        difference: Array = means[0] - means[1]
        return difference

    @property
    def span(self) -> Span:
        return Span("generation")

    def pairs(self, budget: Budget) -> int:
        return max(2, budget.sequences // 4)

    def prompt_writing_cost(self, budget: Budget) -> tuple[int, int]:
        return 2 * self.pairs(budget), 2 * self.pairs(budget) * self.tokens

    def fit_ratings(self, budget: Budget) -> int:
        return 2 * 2 * self.pairs(budget)  # two axes of both answers
