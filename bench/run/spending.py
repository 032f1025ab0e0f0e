"""What a method spends in a run, before there is one: answers, tokens, ratings, and what it trains on.

Invariant: an upper bound under the preset's budgets; stored rows are not paid again.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import astuple, dataclass

from bench.core.interfaces import Method, Monitored, Task
from bench.core.protocol import Protocol
from bench.run.specificity import contested
from bench.run.trials import fits, repeats


@dataclass(frozen=True)
class Cost:
    """An upper bound of what one method spends over all concepts; stored rows are not paid again.

    `generations` counts answers written and options scored.
    """

    fits: int = 0
    generations: int = 0
    tokens: int = 0
    ratings: int = 0
    train_rows: int = 0
    train_tokens: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(one + two for one, two in zip(astuple(self), astuple(other), strict=True)))


def spend(made: Method, rules: Protocol, task: Task) -> Cost:
    """Trials × select + test and the ratings of each, and what the fits ask for, over the task's concepts."""
    concepts = task.concepts()
    several = len(concepts) * (1 if task.kind == "detector" else fits(made, rules))
    trained = [several * part for part in made.training(rules.budget)]
    drafts, written = (several * part for part in made.prompt_writing_cost(rules.budget))
    learnt = several * made.fit_ratings(rules.budget)
    if task.kind == "detector":
        return Cost(several, drafts, written, learnt, *trained)
    tried = [sample for concept in concepts for sample in task.select(concept)] * trials(made, rules)
    tested = [s for concept in concepts for s in task.test(concept) for _ in range(repeats(made, s, rules))]
    asked = [*tried, *tested]
    open_ended = sum(sample.kind == "generate" for sample in asked)
    watched = sum(len(task.watched(c)) for c in concepts) if isinstance(task, Monitored) else 0
    drawn = open_ended * made.samples_per_prompt(rules.budget) + watched
    options = sum(len(sample.options) for sample in asked)
    tokens = drawn * rules.sampling.max_new_tokens + written
    ratings = open_ended * (task.ratings or len(task.axes)) + watched if task.rated else 0
    return Cost(several, drawn + options + drafts, tokens, ratings + learnt, *trained)


def looks(made: Method, rules: Protocol, task: Task, names: Collection[str]) -> Cost:
    """What `related` and `adverse` ask besides (`bench.run.specificity`): ratings, and the answers of the latter."""
    if not names:
        return Cost()
    plain = [s for concept in task.concepts() for s in task.test(concept) if s.kind == "generate" and s.turn <= 1]
    asked = sum(len(contested(task, concept)) for concept in task.concepts()) if "adverse" in names else 0
    drawn = asked * made.samples_per_prompt(rules.budget)
    ratings = asked + (len(plain) if "related" in names else 0)
    return Cost(generations=drawn, tokens=drawn * rules.sampling.max_new_tokens, ratings=ratings)


def trials(made: Method, rules: Protocol) -> int:
    """Settings tried on the select split: wordings of a prompt, or coefficients of an edit."""
    if made.name == "none":
        return 1
    trained = made.needs & {"delta", "lowrank"} or made.needs >= {"scaled", "train"}
    fixed = rules.compat == "axbench" and trained and not made.needs & {"add", "clamp", "project"}
    each = 1 if made.prompted or fixed or not made.sweeps else len(rules.coefficients)
    return made.candidates(rules.budget) * each
