"""Prompt search: many instructions proposed, the likeliest on training answers kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bench import Budget, Context, Fitted, Method, Prompt, Request, Sampling, Size, Steering, Train, method
from methods.prompt import filled, wordings

PROPOSE = (
    "Here are two answers by an assistant.\n\n1. {one}\n\n2. {two}\n\nBoth follow one order about {concept}. "
    "Write that order to the assistant in a single sentence."
)


@method("prompt-search", surface="prompt", paper="arXiv:2211.01910", needs=["prompt", "score"], uses_prompter=True)
@dataclass(frozen=True)
class Search(Method):
    """Proposed instructions, ranked by how likely they make training answers; the best are judged.

    Equation: score(p) = mean_i log p(y_i⁺ | p, x_i) per token over `probes` training positives; the best
    n, the judged trials a vector gets, go to the select split. Proposals: all hand-written wordings of
    `prompt`, and n sentences the prompter writes after seeing two answers each.
    Deviations from APE: no resampling around the best; the prompter is the target model unless
    `--prompter` names one; likelihood alone, since judged trials are the budget held equal.
    Reproduction: AxBench reports no row for it.
    """

    probes: Size = 4
    tokens: Size = 32

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        return next(self.fit_all(ctx, [train]))

    def fit_all(self, ctx: Context, trains: Sequence[Train]) -> Iterator[Sequence[Fitted]]:
        """All concepts' proposals in one call, and their scores in another."""
        requests = [self._ask(ctx, train, i) for train in trains for i in range(self._written(ctx.budget))]
        drafts = dict((ctx.prompter or ctx.lm).generate(requests))
        texts = iter((drafts[i].spoken or "").strip().split("\n")[0] for i in range(len(requests)))
        proposals = []
        for train in trains:
            own = [next(texts) for _ in range(self._written(ctx.budget))]
            written = [filled(Prompt(prefix=f"{text}\n\n"), train.concept.text) for text in own if text]
            proposals.append(list(dict.fromkeys([*wordings(train), *written])))
        asks = [
            Request(example.messages[:1], Steering(prompt), target=_cut(example.response))
            for train, prompts in zip(trains, proposals, strict=True)
            for prompt in prompts
            for example in train.positives[: self.probes]
        ]
        scored = dict(ctx.lm.logprobs(asks))
        values = iter(scored[i].mean for i in range(len(asks)))
        for train, prompts in zip(trains, proposals, strict=True):
            count = len(train.positives[: self.probes])
            merit = [float(np.mean([next(values) for _ in range(count)])) for _ in prompts]
            best = sorted(range(len(prompts)), key=lambda i: (-merit[i], i))[: ctx.budget.trials]
            yield [Fitted(Steering(prompts[i]), note={"loglik": round(merit[i], 4)}) for i in best]

    def prompt_writing_cost(self, budget: Budget) -> tuple[int, int]:
        return self._written(budget), self._written(budget) * self.tokens

    def _written(self, budget: Budget) -> int:
        return max(2, budget.trials)

    def _ask(self, ctx: Context, train: Train, i: int) -> Request:
        rng = ctx.rng("propose", train.concept.id, i)
        shown = [train.positives[n].response for n in rng.permutation(len(train.positives))[:2]]
        one, two = shown[0], shown[-1]
        asked = PROPOSE.replace("{concept}", train.concept.text).replace("{one}", _cut(one)).replace("{two}", _cut(two))
        return Request((("user", asked),), sampling=Sampling(self.tokens, 0.7), seed=int(rng.integers(2**31)))


def _cut(text: str) -> str:
    """The first words of an answer: enough to tell what makes it likely."""
    return " ".join(text.split(" ")[:32])
