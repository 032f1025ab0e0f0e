"""The frozen nouns every other module speaks in: concepts, training data, samples, requests, completions, verdicts.

Invariant: nothing here holds a model, a path or a clock.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from bench.core.content import Array, Message
from bench.core.spoken import spoken
from bench.core.steering import Steering, Turns

Advance = Callable[[int], None]
"""Is told of steps that are done, as so many more."""


@dataclass(frozen=True)
class Concept:
    """What a text should show: `id` names it in keys and tables, `text` describes it to a model."""

    id: str
    text: str
    genre: str = "text"


@dataclass(frozen=True)
class Example:
    """One instruction with a response."""

    instruction: str
    response: str

    @property
    def messages(self) -> tuple[Message, ...]:
        return (("user", self.instruction), ("assistant", self.response))


@dataclass(frozen=True)
class Pair:
    """One instruction answered with the concept and without it."""

    instruction: str
    positive: str
    negative: str


@dataclass(frozen=True)
class Choice:
    """A question with an answer that matches the concept and one that does not."""

    question: str
    matching: str
    not_matching: str


@dataclass(frozen=True)
class Train:
    """All training views of one concept; a method declares the views it needs."""

    concept: Concept
    positives: tuple[Example, ...]
    negatives: tuple[Example, ...]
    hard_negatives: tuple[Example, ...] = ()
    pairs: tuple[Pair, ...] = ()
    choices: tuple[Choice, ...] = ()
    personas: tuple[tuple[str, str], ...] = ()
    triggers: tuple[str, ...] = ()
    """Instructions on which a conditional method should act, and `others` on which it should not."""
    others: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    """What a task would have prompting methods say, in place of wordings that name the concept: a system
    message, or text around `{instruction}`."""

    @property
    def views(self) -> frozenset[str]:
        present = {"texts": self.positives and self.negatives, "pairs": self.pairs}
        present |= {"choices": self.choices, "personas": self.personas}
        present |= {"conditions": self.triggers and self.others}
        return frozenset(name for name, rows in present.items() if rows)

    def reversed(self) -> Train:
        """The same texts with the concept's absence as what is wanted."""
        return dataclasses.replace(
            self,
            positives=self.negatives,
            negatives=self.positives,
            hard_negatives=(),
            pairs=tuple(Pair(p.instruction, p.negative, p.positive) for p in self.pairs),
            choices=tuple(Choice(c.question, c.not_matching, c.matching) for c in self.choices),
            personas=tuple((minus, plus) for plus, minus in self.personas),
        )

    def limited(self, sequences: int) -> Train:
        """The first `sequences` rows, half of them positive, as AxBench's data-scaling study cuts."""
        half = max(1, sequences // 2)
        cut = {n: getattr(self, n)[:half] for n in ("positives", "negatives", "pairs", "choices", "triggers", "others")}
        return dataclasses.replace(self, **cut)


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. `temperature` 0 is greedy; `top_k` 0 keeps the whole vocabulary."""

    max_new_tokens: int = 48
    temperature: float = 1.0
    top_k: int = 50


@dataclass(frozen=True)
class Sample:
    """One question of a task. `kind` says how it is answered; `options` belong to `choices`."""

    id: str
    concept: Concept
    split: Literal["select", "test"]
    kind: Literal["generate", "choices", "text", "external"]
    messages: tuple[Message, ...]
    options: tuple[str, ...] = ()
    label: str = ""
    """What the task knows of it: positive or negative, the right letter, the kind of attack."""
    unit: str = ""
    """What intervals resample, where it is not the concept: a question, say."""
    cluster: str = ""
    """What samples share that makes their luck one, beside the question: a topic, say."""
    question: str = ""
    """The question by itself, where the instruction has more in it: what an answer is rated against, and what
    samples of several concepts may share."""
    follows: str = ""
    """The sample whose chat and answer this one goes on from, as a later turn of a dialogue: `messages` is then the new
    turn alone."""
    turn: int = 0
    """Which turn of a dialogue it is, from 1; 0 where it is by itself."""
    prompted: Turns = "last"
    """Turns of the user that a prompt edit stands around."""
    settled: bool = False
    """Whether edits of activations leave the turns before this one as they are read."""
    raw: str = ""
    """A Jinja template of a plain-text prompt around `question`, in place of the chat template."""

    @property
    def instruction(self) -> str:
        return next(content for role, content in reversed(self.messages) if role == "user")


@dataclass(frozen=True)
class Request:
    """One call of a model: a chat or a raw text, its own steering, sampling and seed.

    `prefill` is the beginning of the answer, put after the generation prompt; `target` is the
    answer whose log-probability is asked for (`Backend.logprobs`). `settled` messages at the beginning are read, not
    edited: a span of the steering begins behind them, as it does behind a header (`Backend.generate` alone). `turns`
    are those that the steering's prompt stands around.
    """

    prompt: tuple[Message, ...] | str
    steering: Steering | None = None
    sampling: Sampling = Sampling()
    seed: int = 0
    prefill: str = ""
    target: str = ""
    settled: int = 0
    turns: Turns = "last"


@dataclass(frozen=True)
class Completion:
    """A generated text with the counts that prove what happened.

    `positions_edited` holds, per activation edit of the request's steering, the positions it changed, then the tokens
    that a soft prompt put in, where there is one, and under a mix of two prompts, last, the tokens that were drawn from
    it; `prompt_tokens` and `tokens` are what the model read (of the one prompt) and wrote.
    """

    text: str
    tokens: int
    prompt_tokens: int
    positions_edited: tuple[int, ...] = ()
    finish: str = "length"
    options: tuple[float, ...] = ()
    """Log-probability of each of the sample's options, where it is a multiple choice."""

    @cached_property
    def spoken(self) -> str | None:
        """What of the text is the answer (`bench.core.spoken`): None where the model never came to one."""
        return spoken(self.text)


@dataclass(frozen=True)
class TargetScore:
    """Log-probabilities (nats) of a request's `target`, one per target token."""

    logprobs: tuple[float, ...]
    positions_edited: tuple[int, ...] = ()

    @property
    def total(self) -> float:
        return float(sum(self.logprobs))

    @property
    def mean(self) -> float:
        return self.total / max(1, len(self.logprobs))


@dataclass(frozen=True)
class Divergence:
    """Sums over the `tokens` of a request's `target`: KL(steered || bare) and its log-probabilities, in nats."""

    tokens: int
    kl: float
    steered: float
    bare: float


@dataclass(frozen=True)
class Activations:
    """Residual-stream reads of one text: `values[layer]` is `[tokens, H]` in fp32.

    Row 0 is the first token after the part of the chat template that every chat shares, so the
    attention sink and the fixed header are never in it. `response` is the row where the answer
    begins.
    """

    values: Mapping[int, Array]
    response: int = 0

    def answer(self, layer: int) -> Array:
        """The rows of the answer; where the cut leaves none, the last row stands for it."""
        rows = self.values[layer]
        return rows[min(self.response, len(rows) - 1) :]


@dataclass(frozen=True)
class Verdict:
    """A rating, or `None` with the reason; `raw` is the judge's reply or evidence.

    `transient`: there is no rating because asking failed in a way that may pass. Such a verdict is not kept,
    so that the same command asks again.
    """

    value: float | None
    raw: str = ""
    reason: str = ""
    transient: bool = False


@dataclass(frozen=True)
class Item:
    """One thing to rate: a text on one axis."""

    axis: str
    concept: Concept
    instruction: str
    text: str
