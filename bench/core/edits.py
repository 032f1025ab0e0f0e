"""Changes of activations as data: where one acts, whether it acts, and what it adds to a state.

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
from bench.core.errors import BenchError
from bench.core.registry import register

if TYPE_CHECKING:
    from torch import Tensor

Site = Literal["resid", "attn", "mlp"]
"""Where an edit acts: the output of a block, of its attention, or of its feed-forward part."""


def finite(name: str, value: Array) -> None:
    """Refuse NaN and infinities where a tensor enters, not where text collapses."""
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

    Fields that are arrays or numbers are the kind's operands; fields that are true or false are its flags. Edits of one
    kind, span, flags and shapes run as one product, whatever their operands.
    """

    need: ClassVar[str]
    """The capability an engine must have, by the name the kind is registered under (`edit`)."""
    by_position: ClassVar[frozenset[str]] = frozenset()
    """Operands that may hold a row for each position of the span, `[n, H]` in place of `[H]`."""
    trained: ClassVar[bool] = False
    """Whether it has a strength it was trained at, which a coefficient then multiplies."""

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
        `[..., H]`, a matrix `[..., k, H]`.
        """

    @abstractmethod
    def work(self) -> Work:
        """What it costs."""

    def length(self) -> float:
        """How far it pushes a state, as the norm of what it adds; 0 for what pushes towards nothing."""
        return 0.0

    def negated(self) -> Self:
        """The edit away from what this one leads to."""
        return self.scaled(-1)

    def positions(self, index: Any, prompt: Any, header: Any = 1) -> Any:
        """Truth of the positions it acts on (`Span.mask`)."""
        return self.span.mask(index, prompt, header)

    def tensors(self) -> dict[str, Array]:
        return tensors_of(self)

    def operands(self) -> dict[str, Array]:
        """Its arrays and numbers in fp32, by field."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "layer"}
        kept = {k: v for k, v in values.items() if isinstance(v, np.ndarray | float | int) and not isinstance(v, bool)}
        return {name: np.asarray(value, np.float32) for name, value in kept.items()}

    def flags(self) -> frozenset[str]:
        """Names of the fields that are on."""
        return frozenset(f.name for f in dataclasses.fields(self) if getattr(self, f.name) is True)


E = TypeVar("E", bound=type[Edit])


def edit(name: str) -> Callable[[E], E]:
    """Register an edit kind: engines that apply any kind can then `name`, and files may hold it."""

    def add(cls: E) -> E:
        cls.need = name
        register("edit", name)(stored(cls))
        return cls

    return add


@edit("add")
@dataclass(frozen=True, eq=False, kw_only=True)
class Add(Edit):
    """h ← h + v. `value` is `[H]`, or `[n, H]`: row i goes to the i-th position of the span.

    `signed` adds sign(h·v)·v instead (RepE's piecewise operator); `keep_norm` restores ‖h‖.
    """

    by_position: ClassVar[frozenset[str]] = frozenset({"value"})

    value: Array
    signed: bool = False
    keep_norm: bool = False

    def scaled(self, c: float) -> Self:
        if self.signed and c < 0:  # sign(h·cv)·cv has no sign of c left
            raise ValueError(f"a piecewise push at layer {self.layer} has no negative coefficient (c = {c:g})")
        return dataclasses.replace(self, value=self.value * np.float32(c))

    @staticmethod
    def change(h: Tensor, p: Mapping[str, Tensor], flags: Set[str]) -> Tensor:
        value = p["value"]
        if "signed" in flags:
            value = (h * value).sum(-1, keepdim=True).sign() * value
        if "keep_norm" in flags:
            new = h + value
            kept: Tensor = new * (h.norm(dim=-1, keepdim=True) / new.norm(dim=-1, keepdim=True)) - h
            return kept
        return value

    def length(self) -> float:
        """‖v‖, the mean over its rows."""
        if not np.any(self.value):
            raise BenchError(f"the vector added at layer {self.layer} has length 0: it has no strength to scale")
        return float(np.linalg.norm(self.value, axis=-1).mean())

    def work(self) -> Work:
        hidden = self.value.shape[-1]
        flops = hidden + (3 * hidden if self.signed else 0) + (5 * hidden if self.keep_norm else 0)
        return Work(flops, self.value.size, hidden)


@edit("project")
@dataclass(frozen=True, eq=False, kw_only=True)
class Project(Edit):
    """h ← h - strength · BᵀB h, `basis` B `[k, H]` with orthonormal rows (directional ablation)."""

    basis: Array
    strength: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        gram = self.basis @ self.basis.T
        if not np.allclose(gram, np.eye(len(gram)), atol=1e-3):
            raise ValueError(f"Project.basis {self.basis.shape} must have orthonormal rows")

    def scaled(self, c: float) -> Self:
        return dataclasses.replace(self, strength=self.strength * c)

    def negated(self) -> Self:
        """Itself: removing a direction leads away already."""
        return self

    @staticmethod
    def change(h: Tensor, p: Mapping[str, Tensor], flags: Set[str]) -> Tensor:
        return -p["strength"][..., None] * _out(_in(h, p["basis"]), p["basis"])

    def work(self) -> Work:
        rank, hidden = self.basis.shape
        return Work(4 * rank * hidden, self.basis.size, self.basis.size)


@edit("clamp")
@dataclass(frozen=True, eq=False, kw_only=True)
class Clamp(Edit):
    """h ← h + (a' - a)·write, with a = z·1[z > threshold], z = h·read + bias, a' = target.

    What is read (an encoder row `[H]`) and what is written (a decoder row `[H]`) are separate.
    `at_least` keeps larger activations (min-clamp): a' = max(a, target).
    """

    read: Array
    write: Array
    target: float
    bias: float = 0.0
    threshold: float = 0.0
    at_least: bool = False

    def scaled(self, c: float) -> Self:
        return dataclasses.replace(self, target=self.target * c)

    @staticmethod
    def change(h: Tensor, p: Mapping[str, Tensor], flags: Set[str]) -> Tensor:
        import torch

        z = (h * p["read"]).sum(-1, keepdim=True) + p["bias"][..., None]
        a = torch.where(z > p["threshold"][..., None], z, 0.0)
        target = p["target"][..., None].expand_as(a)
        wanted: Tensor = torch.maximum(a, target) if "at_least" in flags else target
        return (wanted - a) * p["write"]

    def length(self) -> float:
        """The length it writes at its target."""
        return abs(self.target) * float(np.linalg.norm(self.write))

    def work(self) -> Work:
        return Work(4 * self.read.shape[-1], _held(self), _held(self))


@edit("lowrank")
@dataclass(frozen=True, eq=False, kw_only=True)
class LowRank(Edit):
    """h ← h + strength · Rᵀ(W h + b - R h), R and W `[r, H]`, b `[r]` (LoReFT, arXiv 2404.03592)."""

    trained: ClassVar[bool] = True

    rotation: Array
    weight: Array
    bias: Array
    strength: float = 1.0

    def scaled(self, c: float) -> Self:
        return dataclasses.replace(self, strength=self.strength * c)

    @staticmethod
    def change(h: Tensor, p: Mapping[str, Tensor], flags: Set[str]) -> Tensor:
        inner = _in(h, p["weight"] - p["rotation"]) + p["bias"]
        return p["strength"][..., None] * _out(inner, p["rotation"])

    def work(self) -> Work:
        rank, hidden = self.rotation.shape  # W - R is formed once, so a position takes two products
        return Work(4 * rank * hidden, _held(self), 2 * rank * hidden + rank)


def _held(part: Edit) -> int:
    return sum(value.size for value in part.tensors().values())


def _in(h: Tensor, matrix: Tensor) -> Tensor:
    """M h `[..., k]`, M `[..., k, H]`."""
    import torch

    found: Tensor
    if h.ndim == 3 and matrix.shape[1] == 1:  # rows with a matrix for all their positions: one product a row
        found = torch.einsum("bth,bkh->btk", h, matrix[:, 0])
    else:
        found = torch.einsum("...h,...kh->...k", h, matrix)
    return found


def _out(inner: Tensor, matrix: Tensor) -> Tensor:
    """Mᵀ y `[..., H]`, y `[..., k]`."""
    import torch

    found: Tensor
    if inner.ndim == 3 and matrix.shape[1] == 1:
        found = torch.einsum("btk,bkh->bth", inner, matrix[:, 0])
    else:
        found = torch.einsum("...k,...kh->...h", inner, matrix)
    return found
