"""Changes of activations as data: where one acts, whether it acts, and what a kind of edit owes the rest.

An edit kind is a class. It carries all that is particular to it: how it scales, what it adds to a batch of rows, how
far it pushes, what it costs. Engines, strengths and cost tables ask it, so that a new kind is one class (`@edit`).

Invariant: the maths of a kind is written once, in `change`, and every engine and the trainer call it.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

import numpy as np

from bench.core.content import Array, stored
from bench.core.registry import register

if TYPE_CHECKING:
    from torch import Tensor

Site = Literal["resid", "attn", "mlp", "keys", "values"]
"""Where an edit acts: the output of a block, of its attention, or of its feed-forward part; or what attention has kept
of a token, which the tokens after it look at."""
KEPT = ("keys", "values")
Unit = Literal["own", "length", "trained", "fraction"]
"""What a coefficient is of: what the kind says; the length of a push, which is measured (`Edit.length`); the strength
something was trained at; or a part from 0 to 1 of what the edit does whole, which is tried at fractions of its own."""


def finite(name: str, value: Array) -> None:
    """Refuse NaN, infinities and what is no number where a tensor enters, not where text collapses."""
    if np.asarray(value).dtype.kind not in "fiubc":
        raise TypeError(f"{name} holds {value.dtype}, where numbers are due (shape {value.shape})")
    if not np.isfinite(value).all():
        raise ValueError(f"{name} holds values that are not finite (shape {value.shape})")


def tensors_of(part: Any) -> dict[str, Array]:
    """The array fields of an edit or a delta, by name."""
    values = {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
    return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}


@dataclass(frozen=True)
class Work:
    """What a part of a steering costs: FLOPs at each position it acts on, the numbers it keeps, those a step reads.

    FLOPs count what the part's equation needs (a dot product of length H is 2H; scalars are left out), not how an
    engine happens to run it.
    """

    flops: int
    elements: int
    moved: int


@stored
@dataclass(frozen=True)
class Span:
    """Positions counted in a row's own tokens, so padding and the KV cache cannot move them.

    `all`; `prompt`; `response` (tokens after the prompt); `generation` (every position whose output
    predicts a response token: the last prompt token and all after it). `first` and `last` narrow
    `prompt` to its first and last so many tokens. Every span begins after the row's header, which is what
    all chats of its model begin with (the template's front with a default system prompt; at least token 0,
    an attention sink), `offset` tokens later; with `sink` it begins at token 0.
    """

    part: Literal["all", "prompt", "response", "generation"] = "all"
    first: int = 0
    last: int = 0
    offset: int = 0
    sink: bool = False

    def start(self, header: Any = 1) -> Any:
        """The first position of a row whose header is so many tokens long."""
        return (0 * header if self.sink else header) + self.offset

    def mask(self, index: Any, prompt: Any, header: Any = 1) -> Any:
        """Truth of `index` (token indices of a row, negative on padding) given its prompt's and header's length.

        Works on numpy arrays and torch tensors of any shapes that broadcast together.
        """
        start = self.start(header)
        inside = index >= start
        if self.part == "response":
            return inside & (index >= prompt)
        if self.part == "generation":
            return inside & (index >= prompt - 1)
        if self.part == "all":
            return inside
        inside = inside & (index < prompt)
        if self.first and self.last:
            return inside & ((index < start + self.first) | (index >= prompt - self.last))
        if self.first:
            return inside & (index < start + self.first)
        if self.last:
            return inside & (index >= prompt - self.last)
        return inside

    def rank(self, index: Any, prompt: Any, header: Any = 1) -> Any:
        """Which position of the span an index is, counted from where the span begins."""
        return index - (prompt - self.last if self.last and not self.first else self.start(header))


@stored
@dataclass(frozen=True, eq=False)
class Gate:
    """A condition read once on the prompt: an edit under it fires on a row, or never.

    With `h` the mean (or last) prompt activation after block `layer` and `d` the direction `[H]`:
    `cast` compares cos(h, tanh(d dᵀh / dᵀd)) (arXiv 2409.05907), `cosine` the signed
    cos(h - center, d), with `threshold`; `above` says which side fires.
    """

    layer: int
    direction: Array
    threshold: float
    above: bool = True
    pooling: Literal["mean", "last"] = "mean"
    similarity: Literal["cast", "cosine"] = "cast"
    center: Array | None = None

    def __post_init__(self) -> None:
        finite("Gate.direction", self.direction)


def similarity(states: Tensor, direction: Tensor, center: Tensor | None = None) -> Tensor:
    """A gate's similarity of pooled states `[..., H]` to its direction: signed and centred where `center` is given,
    else that of CAST, which is blind to the direction's sign."""
    import torch

    if center is None:
        along = (states * direction).sum(-1, keepdim=True) / (direction * direction).sum(-1, keepdim=True)
        return torch.cosine_similarity(states, torch.tanh(along * direction), dim=-1)
    states = states - center
    return torch.cosine_similarity(states, direction.expand_as(states), dim=-1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Edit(ABC):
    """One change of activations at the output of `site` in block `layer` (0-based): h ← h + change(h).

    Fields that are arrays or numbers are the kind's operands; fields that are true or false, or a word, are its flags.
    Edits of one kind, span, flags and shapes run as one product, whatever their operands.
    """

    need: ClassVar[str]
    """The capability an engine must have, by the name the kind is registered under (`edit`)."""
    by_position: ClassVar[frozenset[str]] = frozenset()
    """Operands that may hold a row for each position of the span, `[n, H]` in place of `[H]`."""
    shared: ClassVar[frozenset[str]] = frozenset()
    """Fields of `Weights` that only edits with the very same ones run together on: those of a network."""

    layer: int
    site: Site = "resid"
    span: Span = Span()
    gate: Gate | None = None

    def __post_init__(self) -> None:
        for name, value in self.tensors().items():
            finite(f"{type(self).__name__}.{name}", value)
        if self.gate is not None and self.gate.layer > self.layer - (self.site != "resid"):
            raise ValueError(f"a gate on layer {self.gate.layer} is read after the edit on layer {self.layer}")

    @abstractmethod
    def scaled(self, c: float) -> Self:
        """The same edit at strength `c` of the present one; `Steering.scaled` drops it at 0."""

    @staticmethod
    @abstractmethod
    def change(h: Tensor, p: Mapping[str, Tensor], flags: Set[str]) -> Tensor:
        """What to add to states `h` `[..., H]` in fp32.

        `p` holds each operand with the leading dimensions of `h`, some of them of size 1: a number is `[...]`, a vector
        `[..., H]`, a matrix `[..., k, H]`. What is `shared` comes as it is, under `field.name`. The engines that apply
        any kind add `index` `[...]`, where each token stands in its own text.
        """

    @abstractmethod
    def work(self) -> Work:
        """What it costs."""

    def length(self) -> float:
        """How far it pushes a state, as the norm of what it adds; 0 for what pushes towards nothing."""
        return 0.0

    @property
    def unit(self) -> Unit:
        """What its coefficient is of."""
        return "own"

    @property
    def parts(self) -> bool:
        """Whether the last token of a prompt is read after what is kept of the others was changed."""
        return False

    @property
    def partial(self) -> bool:
        """Whether it leaves a token as it is where the token's own state says so."""
        return False

    def negated(self) -> Self:
        """The edit away from what this one leads to."""
        return self.scaled(-1)

    def positions(self, index: Any, prompt: Any, header: Any = 1) -> Any:
        """Truth of the positions it acts on (`Span.mask`)."""
        return self.span.mask(index, prompt, header)

    def tensors(self) -> dict[str, Array]:
        return tensors_of(self)

    def operands(self) -> dict[str, Array]:
        """Its arrays and numbers in fp32, by field; a kind may give what `change` needs of them in their place."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "layer"}
        kept = {k: v for k, v in values.items() if isinstance(v, np.ndarray | float | int) and not isinstance(v, bool)}
        return {name: np.asarray(value, np.float32) for name, value in kept.items()}

    def flags(self) -> frozenset[str]:
        """Names of the fields that are on, and `field=word` of those that are words."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("site", "unit")}
        on = {name for name, value in values.items() if value is True}
        return frozenset(on | {f"{name}={value}" for name, value in values.items() if isinstance(value, str)})

    def common(self) -> dict[str, Array]:
        """The arrays of its `shared` fields, by `field.name`."""
        return {f"{name}.{key}": own for name in self.shared for key, own in getattr(self, name).items()}


E = TypeVar("E", bound=type[Edit])


def edit(name: str) -> Callable[[E], E]:
    """Register an edit kind: engines that apply any kind can then `name`, and files may hold it."""

    def add(cls: E) -> E:
        cls.need = name
        register("edit", name)(stored(cls))
        return cls

    return add
