"""Steering as data: what to change in a model, and nothing about how to run it.

A `Steering` is a prompt edit, activation edits and weight deltas; a backend applies it. Invariant:
`scaled(0)` drops everything but the prompt edit, so it is the bare model under the same prompt,
and the digest covers the tensors and not the code that made them.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import numpy as np

from bench.core.content import Array, Message, digest, stored

Site = Literal["resid", "attn", "mlp"]
"""Where an edit acts: the output of a block, of its attention, or of its feed-forward part."""


def _finite(name: str, value: Array, *shape: int) -> None:
    """Refuse NaN, infinities and wrong widths where a tensor enters, not where text collapses."""
    if not np.isfinite(value).all():
        raise ValueError(f"{name} holds values that are not finite (shape {value.shape})")
    if shape and value.shape[-len(shape) :] != shape:
        raise ValueError(f"{name} has shape {value.shape}, expected (..., {', '.join(map(str, shape))})")


def _tensors(part: Edit | Delta) -> dict[str, Array]:
    values = {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
    return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}


@stored
@dataclass(frozen=True)
class Span:
    """Positions counted in a row's own tokens, so padding and the KV cache cannot move them.

    `all`; `prompt`; `response` (tokens after the prompt); `generation` (every position whose output
    predicts a response token: the last prompt token and all after it). `first` and `last` narrow
    `prompt` to its first and last so many tokens, from `offset` on. Token 0 is an attention sink
    and is left out unless `sink`.
    """

    part: Literal["all", "prompt", "response", "generation"] = "all"
    first: int = 0
    last: int = 0
    offset: int = 0
    sink: bool = False

    def start(self) -> int:
        return max(self.offset, 0 if self.sink else 1)

    def mask(self, index: Any, prompt: Any) -> Any:
        """Truth of `index` (token indices of a row, negative on padding) given its prompt length.

        Works on numpy arrays and torch tensors of any shapes that broadcast together.
        """
        inside = index >= self.start()
        if self.part == "response":
            return inside & (index >= prompt)
        if self.part == "generation":
            return inside & (index >= prompt - 1)
        if self.part == "all":
            return inside
        inside = inside & (index < prompt)
        if self.first and self.last:
            return inside & ((index < self.start() + self.first) | (index >= prompt - self.last))
        if self.first:
            return inside & (index < self.start() + self.first)
        if self.last:
            return inside & (index >= prompt - self.last)
        return inside


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
        _finite("Gate.direction", self.direction)


@dataclass(frozen=True, eq=False, kw_only=True)
class Edit(ABC):
    """One change of activations at the output of `site` in block `layer` (0-based)."""

    need: ClassVar[str]
    layer: int
    site: Site = "resid"
    span: Span = Span()
    gate: Gate | None = None

    def __post_init__(self) -> None:
        for name, value in self.tensors().items():
            _finite(f"{type(self).__name__}.{name}", value)
        if self.gate is not None and self.gate.layer > self.layer - (self.site != "resid"):
            raise ValueError(f"a gate on layer {self.gate.layer} is read after the edit on layer {self.layer}")

    def tensors(self) -> dict[str, Array]:
        return _tensors(self)

    @abstractmethod
    def scaled(self, c: float) -> Self:
        """The same edit at strength `c` of the present one."""


@stored
@dataclass(frozen=True, eq=False, kw_only=True)
class Add(Edit):
    """h ← h + v. `value` is `[H]`, or `[n, H]`: row i goes to the i-th position of the span.

    `signed` adds sign(h·v)·v instead (RepE's piecewise operator); `keep_norm` restores ‖h‖.
    """

    need: ClassVar[str] = "add"
    value: Array
    signed: bool = False
    keep_norm: bool = False

    def scaled(self, c: float) -> Self:
        if self.signed and c < 0:  # sign(h·cv)·cv has no sign of c left
            raise ValueError(f"a piecewise push at layer {self.layer} has no negative coefficient (c = {c:g})")
        return dataclasses.replace(self, value=self.value * np.float32(c))


@stored
@dataclass(frozen=True, eq=False, kw_only=True)
class Project(Edit):
    """h ← h - strength · BᵀB h, `basis` B `[k, H]` with orthonormal rows (directional ablation)."""

    need: ClassVar[str] = "project"
    basis: Array
    strength: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        gram = self.basis @ self.basis.T
        if not np.allclose(gram, np.eye(len(gram)), atol=1e-3):
            raise ValueError(f"Project.basis {self.basis.shape} must have orthonormal rows")

    def scaled(self, c: float) -> Self:
        return dataclasses.replace(self, strength=self.strength * c)


@stored
@dataclass(frozen=True, eq=False, kw_only=True)
class Clamp(Edit):
    """h ← h + (a' - a)·write, with a = z·1[z > threshold], z = h·read + bias, a' = clip(target).

    What is read (an encoder row `[H]`) and what is written (a decoder row `[H]`) are separate.
    `at_least` keeps larger activations (min-clamp): a' = max(a, target).
    """

    need: ClassVar[str] = "clamp"
    read: Array
    write: Array
    target: float
    bias: float = 0.0
    threshold: float = 0.0
    at_least: bool = False

    def scaled(self, c: float) -> Self:
        return dataclasses.replace(self, target=self.target * c)


@stored
@dataclass(frozen=True, eq=False, kw_only=True)
class LowRank(Edit):
    """h ← h + strength · Rᵀ(W h + b - R h), R and W `[r, H]`, b `[r]` (LoReFT, arXiv 2404.03592)."""

    need: ClassVar[str] = "lowrank"
    rotation: Array
    weight: Array
    bias: Array
    strength: float = 1.0

    def scaled(self, c: float) -> Self:
        return dataclasses.replace(self, strength=self.strength * c)


@dataclass(frozen=True, eq=False, kw_only=True)
class Delta(ABC):
    """A change of one linear module's weight `[out, in]`, kept factored: y ← W0 x + ΔW x."""

    module: str

    def __post_init__(self) -> None:
        for name, value in self.tensors().items():
            _finite(f"{type(self).__name__}.{name}", value)

    def tensors(self) -> dict[str, Array]:
        return _tensors(self)

    @abstractmethod
    def scaled(self, c: float) -> Self:
        """The same change at strength `c` of the present one."""


@stored
@dataclass(frozen=True, eq=False, kw_only=True)
class LowRankDelta(Delta):
    """ΔW = strength · B A with `down` A `[r, in]` and `up` B `[out, r]`."""

    down: Array
    up: Array
    strength: float = 1.0

    def scaled(self, c: float) -> Self:
        return dataclasses.replace(self, strength=self.strength * c)


@stored
@dataclass(frozen=True, eq=False, kw_only=True)
class DenseDelta(Delta):
    """ΔW = strength · `change` `[out, in]`, where no factors are known."""

    change: Array
    strength: float = 1.0

    def scaled(self, c: float) -> Self:
        return dataclasses.replace(self, strength=self.strength * c)


@stored
@dataclass(frozen=True, eq=False, kw_only=True)
class RotationDelta(Delta):
    """ΔW = U [(Σ + δ) G - Σ] Vᵀ with the Cayley rotation G = (I - K)(I + K)⁻¹ (SSVD, 2509.02830).

    Not `strict`: its first order I - 2K, which is a rotation, and reversible, only while K is small.

    `u` `[out, k]`, `s` `[k]`, `v` `[in, k]` are the base weight's top singular factors, stored with
    the artefact because their signs are arbitrary; `skew` K `[k, k]`, `shift` δ `[k]`. A
    coefficient scales the generator, so G(-c) is the inverse of G(c).
    """

    u: Array
    s: Array
    v: Array
    skew: Array
    shift: Array
    strict: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not np.allclose(self.skew, -self.skew.T, atol=1e-6):
            raise ValueError(f"RotationDelta.skew {self.skew.shape} must be skew-symmetric")

    def core(self) -> Array:
        """(Σ + δ) G - Σ, `[k, k]`, so that ΔW = U core Vᵀ."""
        eye = np.eye(len(self.s))
        rotation = (eye - self.skew) @ np.linalg.inv(eye + self.skew) if self.strict else eye - 2 * self.skew
        core: Array = (np.diag(self.s + self.shift) @ rotation - np.diag(self.s)).astype(np.float32)
        return core

    def scaled(self, c: float) -> Self:
        return dataclasses.replace(self, skew=self.skew * np.float32(c), shift=self.shift * np.float32(c))


@stored
@dataclass(frozen=True)
class Prompt:
    """A change of the chat: a system message, text around the instruction, example turns."""

    system: str = ""
    prefix: str = ""
    suffix: str = ""
    shots: tuple[tuple[str, str], ...] = ()

    def apply(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """`messages` with the edit; the last user turn is the instruction."""
        head = [m for m in messages if m[0] == "system"]
        body = [m for m in messages if m[0] != "system"]
        if self.system:
            head = [("system", "\n\n".join([*(content for _, content in head), self.system]))]
        shots = [m for user, answer in self.shots for m in (("user", user), ("assistant", answer))]
        last = max((i for i, (role, _) in enumerate(body) if role == "user"), default=-1)
        if last >= 0:
            body[last] = ("user", self.prefix + body[last][1] + self.suffix)
        return (*head, *shots, *body)

    def merged(self, other: Prompt) -> Prompt:
        system = "\n\n".join(text for text in (self.system, other.system) if text)
        return Prompt(system, other.prefix + self.prefix, self.suffix + other.suffix, self.shots + other.shots)


@stored
@dataclass(frozen=True, eq=False)
class Steering:
    """Prompt edit + activation edits + weight deltas, as one value."""

    prompt: Prompt = Prompt()
    edits: tuple[Edit, ...] = ()
    deltas: tuple[Delta, ...] = ()

    @property
    def needs(self) -> frozenset[str]:
        """Capabilities a backend must have; compared with `Backend.can` before a model is loaded."""
        needs = {edit.need for edit in self.edits}
        needs |= {f"site:{edit.site}" for edit in self.edits if edit.site != "resid"}
        flags = {
            "prompt": self.prompt != Prompt(),
            "gate": any(edit.gate for edit in self.edits),
            "delta": bool(self.deltas),
        }
        return frozenset(needs | {name for name, on in flags.items() if on})

    @property
    def scalable(self) -> bool:
        """Whether a coefficient means anything (a prompt alone has none)."""
        return bool(self.edits or self.deltas)

    def scaled(self, c: float) -> Steering:
        """The steering at coefficient `c`; 0 is the bare model under the same prompt, exactly."""
        if c == 0:
            return Steering(self.prompt)
        edits = tuple(edit.scaled(c) for edit in self.edits)
        return Steering(self.prompt, edits, tuple(delta.scaled(c) for delta in self.deltas))

    def merged(self, other: Steering) -> Steering:
        return Steering(self.prompt.merged(other.prompt), self.edits + other.edits, self.deltas + other.deltas)

    def opposed(self) -> Steering:
        """The steering away from what this one steers towards; removing a direction already does that."""
        edits = tuple(edit if isinstance(edit, Project) else edit.scaled(-1) for edit in self.edits)
        return Steering(self.prompt, edits, tuple(delta.scaled(-1) for delta in self.deltas))

    @cached_property
    def digest(self) -> str:
        return digest(self.prompt, *(self.edits + self.deltas))

    @cached_property
    def internal_digest(self) -> str:
        """Digest of what acts inside the model; the prompt edit is visible in the messages."""
        return digest(*(self.edits + self.deltas))
