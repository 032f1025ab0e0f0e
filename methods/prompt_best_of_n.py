"""Best of n: spend the tuning tokens on more answers instead of on more wordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench import BenchError, Budget, Context, Count, Fitted, Method, Prompt, Sample, Steering, Train, method, stored
from methods._rating import expected

LINE = Prompt(suffix="\n\nLet your whole reply be about {concept}.")
QUESTION = "How much of this reply is about {concept}?\n\n{text}\n\nOne word, none, some or most:"
WORDS = ("none", "some", "most")


@stored
@dataclass(frozen=True)
class SelfRated:
    """Keeps the answer that the model itself, asked in one question, finds most about the concept."""

    concept: str
    n: int

    def pick(self, ctx: Context, sample: Sample, answers: Sequence[str]) -> int:
        questions = [QUESTION.replace("{concept}", self.concept).replace("{text}", text) for text in answers]
        return int(expected(ctx.lm, questions, WORDS).argmax())


@method("prompt-best-of-n", surface="decoding", paper="arXiv:2407.21787", views=(), needs=["prompt", "score"])
@dataclass(frozen=True)
class BestOfN(Method):
    """One line, `n` answers to each question, and the one kept that the model rates highest itself.

    The wording is fixed, so no trial is spent on it: with n equal to the trials a wording search gets,
    both write as many tokens on the select split; on the test split this costs n times one answer,
    which the run's token count shows.
    Deviations: the model's own expected rating picks, never the run's judge, which would score its own
    choice.
    Reproduction: AxBench reports no row for it.
    """

    n: Count = 0
    """0: as many answers as the budget has judged trials."""

    def __post_init__(self) -> None:
        if self.n == 1 or self.n > 1000:
            raise ValueError(f"n = {self.n}: 2 to 1000 answers, or 0 for as many as there are trials")

    def candidates(self, budget: Budget) -> int:
        return 1

    def samples_per_prompt(self, budget: Budget) -> int:
        return self.n or max(2, budget.trials)

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        if train.prompts:
            raise BenchError("it rates replies by how much they are about a concept, which this task does not ask for")
        prompt = Prompt(suffix=LINE.suffix.replace("{concept}", train.concept.text))
        chooser = SelfRated(train.concept.text, self.samples_per_prompt(ctx.budget))
        return [Fitted(Steering(prompt), note={"n": chooser.n}, chooser=chooser)]
