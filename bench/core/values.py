"""The frozen nouns every other module speaks in, and `digest`, the one way to name content.

Invariant: two values with equal content have equal digests on every machine; nothing here holds a
model, a path or a clock.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

if TYPE_CHECKING:
    from bench.core.steering import Steering

Array = np.ndarray[Any, np.dtype[Any]]
Message = tuple[str, str]
"""(role, content)"""
T = TypeVar("T")


def plain(value: Any) -> Any:
    """`value` as JSON types; arrays become their dtype, shape and SHA-256, so that content decides."""
    if isinstance(value, np.ndarray):
        content = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return {"array": content, "dtype": str(value.dtype), "shape": list(value.shape)}
    if isinstance(value, np.generic):
        return value.item()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__} | fields
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(plain(v) for v in value)
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"cannot digest a {type(value).__name__}: {value!r}")


def digest(*values: Any) -> str:
    """24 hexadecimal digits that name the content of `values` (arrays, dataclasses, JSON types)."""
    text = json.dumps(plain(values), sort_keys=True, ensure_ascii=False, allow_nan=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def suggest(name: str, known: Iterable[str]) -> str:
    """ ", did you mean 'x'?" or the list of valid names."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"


_stored: dict[str, type[Any]] = {}


def stored(cls: type[T]) -> type[T]:
    """Let a frozen dataclass be kept in files, under its own name; what is read from a file is one of these."""
    taken = _stored.get(cls.__name__)
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls.__name__} is no dataclass: put @stored above @dataclass")
    if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
        raise UsageError(f"a stored type {cls.__name__!r} is already {taken.__module__}.{taken.__qualname__}")
    _stored[cls.__name__] = cls
    return cls


def stored_types() -> dict[str, type[Any]]:
    """name -> class, of all that files may hold."""
    return dict(_stored)


class BenchError(Exception):
    """A failure whose message is one line for the user: what, where, and what to do."""


class UsageError(BenchError):
    """The command or its configuration is wrong (exit code 2)."""


class Halted(BenchError):
    """The whole run ends here, where another error would end one method: no server, no key, no money."""


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
    """What the task knows of it: positive or negative, the right letter, the plain question."""
    unit: str = ""
    """What intervals resample, where it is not the concept: a question, say."""
    raw: str = ""
    """A Jinja template of a plain-text prompt around `question`, in place of the chat template."""

    @property
    def instruction(self) -> str:
        return next(content for role, content in reversed(self.messages) if role == "user")


@dataclass(frozen=True)
class Request:
    """One call of a model: a chat or a raw text, its own steering, sampling and seed.

    `prefill` is the beginning of the answer, put after the generation prompt; `target` is the
    answer whose log-probability is asked for (`Backend.logprobs`).
    """

    prompt: tuple[Message, ...] | str
    steering: Steering | None = None
    sampling: Sampling = Sampling()
    seed: int = 0
    prefill: str = ""
    target: str = ""


@dataclass(frozen=True)
class Completion:
    """A generated text with the counts that prove what happened.

    `touched` holds, per activation edit of the request's steering, the positions it changed;
    `prompt_tokens` and `tokens` are what the model read and wrote.
    """

    text: str
    tokens: int
    prompt_tokens: int
    touched: tuple[int, ...] = ()
    finish: str = "length"
    options: tuple[float, ...] = ()
    """Log-probability of each of the sample's options, where it is a multiple choice."""


@dataclass(frozen=True)
class TargetScore:
    """Log-probabilities (nats) of a request's `target`, one per target token."""

    logprobs: tuple[float, ...]
    touched: tuple[int, ...] = ()

    @property
    def total(self) -> float:
        return float(sum(self.logprobs))

    @property
    def mean(self) -> float:
        return self.total / max(1, len(self.logprobs))


@dataclass(frozen=True)
class Activations:
    """Residual-stream reads of one text: `values[layer]` is `[tokens, H]` in fp32.

    Row 0 is the first token after the part of the chat template that every chat shares, so the
    attention sink and the fixed header are never in it. `response` is the row where the answer
    begins.
    """

    values: Mapping[int, Array]
    response: int = 0


@dataclass(frozen=True)
class Verdict:
    """A rating, or `None` with the reason; `raw` is the judge's reply or evidence.

    `passing`: there is no rating because asking failed in a way that may pass. Such a verdict is not kept,
    so that the same command asks again.
    """

    value: float | None
    raw: str = ""
    reason: str = ""
    passing: bool = False


@dataclass(frozen=True)
class Item:
    """One thing to rate: a text on one axis."""

    axis: str
    concept: Concept
    instruction: str
    text: str


@dataclass(frozen=True)
class Budget:
    """What a method may spend on one concept: training rows, tokens a row, epochs, judged trials."""

    sequences: int
    tokens: int
    epochs: int
    trials: int


@dataclass(frozen=True)
class Protocol:
    """How every method of a run is treated; equal protocols make results comparable."""

    preset: str
    coefficients: tuple[float, ...]
    select: int
    test: int
    sampling: Sampling
    budget: Budget
    strength: Literal["norm", "max-act"] = "norm"
    compat: str = ""
    seed: int = 0
    concepts: int = 0
    """0: all; else only the first so many (`--limit`)."""


@dataclass(frozen=True)
class RunSpec:
    """The identity of one result: a method with its parameters on one task, model and judge.

    Nothing that leaves the numbers alone (batch size, host, workers) belongs here.
    """

    method: str
    task: str
    model: str
    judge: str
    protocol: Protocol
    method_params: Mapping[str, Any] = field(default_factory=dict)
    task_params: Mapping[str, Any] = field(default_factory=dict)
    judge_params: Mapping[str, Any] = field(default_factory=dict)
    prompter: str = ""
    backend: str = "hf"
    dtype: str = "auto"
    weights: str = ""
    """Digest of the model's weights, tokenizer and template: a name alone can move."""
    data: str = ""
    """Digest of the task's rows."""

    @property
    def id(self) -> str:
        return digest(self)[:10]

    @property
    def group(self) -> str:
        """Runs with equal groups may stand in one table."""
        return digest(dataclasses.replace(self, method="", method_params={}, prompter=""))[:10]
