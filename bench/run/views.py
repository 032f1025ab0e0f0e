"""The training data of a run's concepts, with views made where a data set brings none.

Invariant: a view that the data brings stays as it is; one is made only for a method that needs it, where its task lets
it (`Task.derives`), and is the same for every method of the run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from bench.core.content import digest
from bench.core.errors import BenchError
from bench.core.interfaces import Context, Method, Task
from bench.core.protocol import Protocol
from bench.core.rows import Rows
from bench.core.values import Choice, Concept, Request, Sampling, Train
from bench.data import views as made_of

TEMPLATES: dict[str, Callable[[Concept], tuple[Any, ...]]] = {"choices": made_of.choices, "personas": made_of.personas}
MADE = {"choices": "template", "personas": "template", "pairs": "answers of the target model"}
"""Views that can be made, and how that is written down."""
ASKED = {
    "personas": (
        2,
        "Think of people who are devoted to this: {concept}. Write four lines, and nothing else. On each line stand a "
        "person who is devoted to it, a vertical bar, and that person's opposite, who has nothing to do with it. Ten "
        "words a side at most, as in: a gardener who talks of roses all day | a gardener who cannot stand roses",
    ),
    "choices": (
        3,
        "Write eight everyday questions that leave a choice, one on a line, and nothing else. After each question "
        "stand a vertical bar, a short answer that has to do with {concept}, another bar, and a short answer that has "
        "nothing to do with it, as in: What is in your bag? | A trowel and some seeds. | A book and an apple.",
    ),
}
"""What a named prompter is asked to write instead: the parts of a line, and the request."""
LEAST = 2
"""Lines of it that must be readable, or the template stands in."""
WRITTEN = 400
"""Tokens of what it writes, at most."""


class Unmade(BenchError):
    """A view would have to be made by asking the model, and it may not be asked."""


def lacking(train: Train, task: Task) -> frozenset[str]:
    """The views that a run makes for a concept."""
    return (task.derives & MADE.keys()) - train.views if "texts" in train.views else frozenset()


def offered(task: Task, trains: Iterable[Train]) -> frozenset[str]:
    """The views that every concept has or gets."""
    return frozenset[str].intersection(*(train.views | lacking(train, task) for train in trains))


def unanswered(task: Task, trains: Iterable[Train], methods: Iterable[Method]) -> list[str]:
    """The instructions that the model has to answer plainly so that these methods get their pairs, each once."""
    found: dict[str, None] = {}
    if any("pairs" in method.views for method in methods):
        for train in trains:
            if "pairs" in lacking(train, task):
                plain = {e.instruction for e in train.negatives}
                found |= dict.fromkeys(e.instruction for e in train.positives if e.instruction not in plain)
    return list(found)


def unanswered_by(task: Task, rules: Protocol, methods: Sequence[Method]) -> list[str]:
    """`unanswered`, of a task under a protocol that is not running yet."""
    if not any("pairs" in method.views & task.derives for method in methods):
        return []
    trains = (task.train(concept).limited(rules.budget.sequences) for concept in task.concepts())
    return unanswered(task, trains, methods)


def answer_tokens(rules: Protocol) -> int:
    """Tokens of a plain answer, at most: as AxBench, 1.5 times those of a response."""
    return int(1.5 * rules.sampling.max_new_tokens)


class Views:
    """The training data of each concept, completed for a method. What the model and the prompter write is kept in
    `keep`; where `asks` is false they are not asked."""

    def __init__(self, context: Context, rules: Protocol, task: Task, keep: Rows, asks: bool = True) -> None:
        self.context, self.rules, self.task, self.keep, self.asks = context, rules, task, keep, asks
        found = {concept.id: task.train(concept) for concept in task.concepts()}
        self.trains = {name: train.limited(rules.budget.sequences) for name, train in found.items()}

    def of(self, method: Method) -> dict[str, Train]:
        """Concept -> its training data with the views that the method needs."""
        wanted = method.views & self.task.derives
        if wanted:
            self.answer([method])
        return {name: self._with(train, wanted & lacking(train, self.task)) for name, train in self.trains.items()}

    def answer(self, methods: Sequence[Method], advance: Callable[[int], None] = lambda steps: None) -> None:
        """Have the model answer what pairs of these methods need, greedily and without steering."""
        asked = unanswered(self.task, self.trains.values(), methods)
        todo = {key: text for text in asked if (key := self._key(text)) not in self.keep}
        advance(len(asked) - len(todo))
        if todo and not self.asks:
            raise Unmade("pairs are made of the model's answers, and these are not kept: run the method first")
        sampling = Sampling(answer_tokens(self.rules), 0.0, 0)
        for keys in self.keep.portions(todo, advance):
            requests = [Request((("user", todo[key]),), None, sampling) for key in keys]
            for i, answer in self.context.lm.generate(requests):
                self.keep.put(keys[i], (answer.spoken or "").strip())
                advance(1)

    def made(self, method: Method) -> dict[str, str]:
        """How each of the method's views came about, where the data does not simply bring it."""
        found = {view: how for view, how in self.task.sources.items() if view in method.views}
        lacked = frozenset[str]().union(*(lacking(train, self.task) for train in self.trains.values()))
        by_hand = {"template": f"written by {self.context.prompter.name}"} if self.context.prompter else {}
        for view in sorted(method.views & lacked):
            made = by_hand.get(MADE[view], MADE[view])
            found[view] = f"{found[view]}; {made}" if view in found else made
        return found

    def _key(self, text: str) -> str:
        return digest(text, answer_tokens(self.rules))

    def _with(self, train: Train, wanted: frozenset[str]) -> Train:
        found: dict[str, Any] = {view: self._written(view, train.concept) for view in wanted & TEMPLATES.keys()}
        if "pairs" in wanted:
            plain = {e.instruction: e.response for e in train.negatives}
            answered = {e.instruction: self.keep.get(self._key(e.instruction)) for e in train.positives
                        if e.instruction not in plain}  # fmt: skip
            found["pairs"] = made_of.joined(train.positives, answered | plain)
        return replace(train, **found).limited(self.rules.budget.sequences) if found else train

    def _written(self, view: str, concept: Concept) -> tuple[Any, ...]:
        """By the prompter where one is named and what it writes can be read, else by the template."""
        prompter = self.context.prompter
        if prompter is None:
            return TEMPLATES[view](concept)
        key = digest(view, concept.text, prompter.fingerprint(), ASKED[view])
        if key not in self.keep:
            if not self.asks:
                raise Unmade(f"{view} are written by the prompter, and these are not kept: run the method first")
            text = ASKED[view][1].replace("{concept}", concept.text)
            request = Request((("user", text),), None, Sampling(WRITTEN, 0.0, 0))
            for _ in self.keep.portions([key]):
                ((_, answer),) = prompter.generate([request])
                self.keep.put(key, answer.spoken or "")
        lines = [re.sub(r"^[\s*-]*(\d+[.)])?\s*", "", line) for line in self.keep.get(key).splitlines()]
        parts = [tuple(part.strip(" *") for part in line.split("|")) for line in lines]
        whole = [line for line in parts if len(line) == ASKED[view][0] and all(line)]
        if len(whole) < LEAST:
            return TEMPLATES[view](concept)
        return tuple(Choice(*line) for line in whole) if view == "choices" else tuple(whole)
