"""Prompting with every example that fits the context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench import BenchError, Budget, Context, Fitted, Method, Prompt, Share, Steering, Train, method


@method("prompt-manyshot", surface="prompt", paper="arXiv:2404.11018", needs=["prompt"])
@dataclass(frozen=True)
class ManyShot(Method):
    """All training positives as example turns, up to the model's context; nothing to choose.

    The turns go in training order until `share` of the context is full, counted in the tokens the model
    reads, so that the question and its answer still fit.
    Deviations: the budget's sequences bound it, as they bound every fit; papers go to thousands.
    Reproduction: AxBench reports no many-shot row.
    """

    share: Share = 0.75

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share = {self.share} is not a share of the context")

    def candidates(self, budget: Budget) -> int:
        return 1

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        room = int(self.share * ctx.lm.context)
        shots: list[tuple[str, str]] = []
        for example in train.positives:
            room -= ctx.lm.count(example.messages)
            if room < 0:
                break
            shots.append((example.instruction, example.response))
        if not shots:
            raise BenchError(f"not one example fits {self.share:g} of a context of {ctx.lm.context} tokens")
        return [Fitted(Steering(Prompt(shots=tuple(shots))), note={"shots": len(shots)})]
