"""Prompting with examples: a few training answers that show the concept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench import Context, Fitted, Method, Prompt, Size, Steering, Train, method


@method("prompt-fewshot", surface="prompt", paper="arXiv:2005.14165", needs=["prompt"])
@dataclass(frozen=True)
class FewShot(Method):
    """`k` training positives as example turns before the question; the draw is chosen on select.

    Each candidate is another random draw of k question and answer turns. Nothing names the concept.
    Deviations: examples come from the fit's own training texts, so that it sees what a vector sees.
    Reproduction: AxBench reports no few-shot row.
    """

    k: Size = 3

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        found = []
        for i in range(ctx.budget.trials):
            order = ctx.rng("shots", train.concept.id, i).permutation(len(train.positives))[: self.k]
            shots = tuple((train.positives[n].instruction, train.positives[n].response) for n in order)
            found.append(Fitted(Steering(Prompt(shots=shots)), note={"shots": [int(n) for n in order]}))
        return found
