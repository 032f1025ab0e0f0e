"""The kinds of edit that come with the package: what each adds to a state, and what it costs.

Invariant: a kind changes a token by that token's own state alone, and continuously in its strength, also at 0; but for
`Clamp`, which sets what it reads, and for `Cache`, which changes what is kept of a token.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from bench.core.content import Array
from bench.core.edits import KEPT, Edit, Span, Unit, Work, edit
from bench.core.errors import BenchError

if TYPE_CHECKING:
    from torch import Tensor


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

    @property
    def unit(self) -> Unit:
        return "length"

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

    @property
    def unit(self) -> Unit:
        return "fraction"

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

    @property
    def unit(self) -> Unit:
        return "length"

    def length(self) -> float:
        """The length it writes at its target."""
        return abs(self.target) * float(np.linalg.norm(self.write))

    def work(self) -> Work:
        return Work(4 * self.read.shape[-1], _held(self), _held(self))


@edit("lowrank")
@dataclass(frozen=True, eq=False, kw_only=True)
class LowRank(Edit):
    """h ← h + strength · Rᵀ(W h + b - R h), R and W `[r, H]`, b `[r]` (LoReFT, arXiv 2404.03592)."""

    rotation: Array
    weight: Array
    bias: Array
    strength: float = 1.0

    @property
    def unit(self) -> Unit:
        return "trained"

    def scaled(self, c: float) -> Self:
        return dataclasses.replace(self, strength=self.strength * c)

    @staticmethod
    def change(h: Tensor, p: Mapping[str, Tensor], flags: Set[str]) -> Tensor:
        inner = _in(h, p["weight"] - p["rotation"]) + p["bias"]
        return p["strength"][..., None] * _out(inner, p["rotation"])

    def work(self) -> Work:
        rank, hidden = self.rotation.shape  # W - R is formed once, so a position takes two products
        return Work(4 * rank * hidden, _held(self), 2 * rank * hidden + rank)


@edit("scaled")
@dataclass(frozen=True, eq=False, kw_only=True)
class Scaled(Edit):
    """h ← h + strength · Σ_k a(r_k·h + b_k) w_k: as far along each `write` row as `read` finds in the token itself.

    `read` and `write` are `[k, H]`, `bias` `[k]`; to centre a read at μ, take r·μ from its bias. `activation` is a;
    `softmax` shares 1 out among the rows. Capped, conditional, covariance-aware and soft projections are all of this
    form. With unit `length` an activation counts as 1, so that ‖write‖ is how far it pushes.
    """

    read: Array
    write: Array
    bias: Array
    activation: Literal["linear", "relu", "tanh", "sigmoid", "softplus", "softmax"] = "linear"
    strength: float = 1.0
    unit: Unit = "trained"

    def __post_init__(self) -> None:
        super().__post_init__()
        rows, hidden = self.read.shape
        if self.write.shape != (rows, hidden) or self.bias.shape != (rows,):
            shapes = f"read {self.read.shape}, write {self.write.shape}, bias {self.bias.shape}"
            raise ValueError(f"Scaled takes read and write [k, H] and bias [k], not {shapes}")

    def scaled(self, c: float) -> Self:
        return dataclasses.replace(self, strength=self.strength * c)

    @staticmethod
    def change(h: Tensor, p: Mapping[str, Tensor], flags: Set[str]) -> Tensor:
        inner = _in(h, p["read"]) + p["bias"]
        if "activation=softmax" in flags:
            inner = inner.softmax(-1)
        elif "activation=softplus" in flags:
            import torch

            inner = torch.nn.functional.softplus(inner)
        else:
            for name in ("relu", "tanh", "sigmoid"):
                if f"activation={name}" in flags:
                    inner = getattr(inner, name)()
        return p["strength"][..., None] * _out(inner, p["write"])

    @property
    def partial(self) -> bool:
        return self.activation == "relu"

    def length(self) -> float:
        return abs(self.strength) * float(np.linalg.norm(self.write)) if self.unit == "length" else 0.0

    def work(self) -> Work:
        return Work(4 * self.read.size, _held(self), _held(self))


@edit("diagonal")
@dataclass(frozen=True, eq=False, kw_only=True)
class Diagonal(Edit):
    """h ← h + strength · m⊙((gain - 1)⊙h + shift): every dimension stretched and moved by itself.

    All fields are `[H]`. With `low` and `high`, m is 1 where low < h < high and 0 elsewhere: a map holds only where
    its source was seen.
    """

    gain: Array
    shift: Array
    low: Array | None = None
    high: Array | None = None
    strength: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.low is None) != (self.high is None):
            raise ValueError("Diagonal takes low and high together, or neither")

    @property
    def unit(self) -> Unit:
        return "fraction"

    @property
    def partial(self) -> bool:
        return self.low is not None

    def scaled(self, c: float) -> Self:
        return dataclasses.replace(self, strength=self.strength * c)

    @staticmethod
    def change(h: Tensor, p: Mapping[str, Tensor], flags: Set[str]) -> Tensor:
        moved = (p["gain"] - 1) * h + p["shift"]
        if "low" in p:
            moved = moved * ((p["low"] < h) & (h < p["high"]))
        return p["strength"][..., None] * moved

    def work(self) -> Work:
        return Work((3 if self.low is None else 5) * self.gain.size, _held(self), _held(self))


@edit("rotate")
@dataclass(frozen=True, eq=False, kw_only=True)
class Rotate(Edit):
    """h turned in a plane, its length kept. `basis` `[2, H]` has orthonormal rows b₁ and b₂.

    With φ the angle of h's part in the plane, counted from b₁ to b₂: `target` brings it the share `strength` of the
    short way to `angle` (arXiv 2510.26243), `offset` turns it by strength · `angle`; `towards` leaves the plane aside
    and moves h that share of the great circle to b₁ (arXiv 2602.08169), along b₂ where h points straight away from b₁.
    `when` says which tokens turn: `always`; `aligned`, where h·b₁ > 0; or `confident`, by as much as
    clip((-tanh(kappa cos θ) - beta)/(1 - beta), 0, 1), which is more the further h points away from b₁.
    """

    basis: Array
    mode: Literal["target", "offset", "towards"] = "target"
    when: Literal["always", "aligned", "confident"] = "always"
    angle: float = 0.0
    kappa: float = 20.0
    beta: float = 0.0
    strength: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.basis.shape[0] != 2 or not np.allclose(self.basis @ self.basis.T, np.eye(2), atol=1e-3):
            raise ValueError(f"Rotate.basis {self.basis.shape} must be two orthonormal rows")
        if not self.beta < 1:
            raise ValueError(f"Rotate.beta = {self.beta}, must lie below 1")

    @property
    def unit(self) -> Unit:
        return "fraction"

    @property
    def partial(self) -> bool:
        return self.when != "always"

    def negated(self) -> Self:
        """To the other side: the arc to -b₁, the angle half a turn on, or the turn the other way."""
        if self.mode == "towards":
            return dataclasses.replace(self, basis=np.stack([-self.basis[0], self.basis[1]]))
        if self.mode == "target":
            return dataclasses.replace(self, angle=self.angle + math.pi)
        return self.scaled(-1)

    def scaled(self, c: float) -> Self:
        return dataclasses.replace(self, strength=self.strength * c)

    @staticmethod
    def change(h: Tensor, p: Mapping[str, Tensor], flags: Set[str]) -> Tensor:
        import torch

        one, two = p["basis"][..., 0, :], p["basis"][..., 1, :]
        x, y = (h * one).sum(-1, keepdim=True), (h * two).sum(-1, keepdim=True)
        size = h.norm(dim=-1, keepdim=True).clamp(min=1e-30)
        cosine = (x / size).clamp(-1, 1)
        share = p["strength"][..., None].expand_as(x)
        if "when=aligned" in flags:
            share = share * (x > 0)
        elif "when=confident" in flags:
            beta = p["beta"][..., None]
            share = share * ((-torch.tanh(p["kappa"][..., None] * cosine) - beta) / (1 - beta)).clamp(0, 1)
        if "mode=towards" in flags:
            theta = torch.acos(cosine)
            aside = h - x * one
            straight = theta > math.pi - 1e-4
            aside = torch.where(straight, two, aside / aside.norm(dim=-1, keepdim=True).clamp(min=1e-30))
            left = (1 - share) * theta
            turned = size * (left.cos() * one + left.sin() * aside)
            return torch.where((theta < 1e-4) | (share == 0), 0.0, turned - h)
        length, phi = torch.hypot(x, y), torch.atan2(y, x)
        angle = p["angle"][..., None]
        way = angle if "mode=offset" in flags else torch.remainder(angle - phi + math.pi, 2 * math.pi) - math.pi
        to = phi + share * way
        change = (length * to.cos() - x) * one + (length * to.sin() - y) * two
        # An angle made of rounding errors says nothing; a token that does not turn keeps its bits.
        return torch.where((length > 1e-6 * size) & (share != 0), change, 0.0)

    def work(self) -> Work:
        hidden = self.basis.shape[-1]
        flops = 11 * hidden if self.mode == "towards" else 8 * hidden + (2 * hidden if self.when == "confident" else 0)
        return Work(flops, self.basis.size, self.basis.size)


@edit("cache")
@dataclass(frozen=True, eq=False, kw_only=True)
class Cache(Edit):
    """v ← v + strength · value: what attention keeps of one prompt token for those after it (arXiv 2507.08799).

    `value` `[G·d]` has the numbers of all key-value heads in turn; `site` says whether they are values or keys (those
    with their positions turned in). `entry` is the `last` token of the prompt, which is read as it was and so leaves
    the first new token as it was; or the one `before` it: the last is then read after the change. Nothing is done at
    the tokens that are written.
    """

    value: Array
    strength: float = 1.0
    site: Literal["keys", "values"] = "values"
    entry: Literal["last", "before"] = "last"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.site not in KEPT or self.span != Span() or self.gate is not None:
            raise ValueError("Cache changes what is kept, keys or values, of one prompt token: no span, no gate")

    @property
    def unit(self) -> Unit:
        return "trained"

    @property
    def parts(self) -> bool:
        return self.entry == "before"

    def scaled(self, c: float) -> Self:
        return dataclasses.replace(self, strength=self.strength * c)

    @staticmethod
    def change(h: Tensor, p: Mapping[str, Tensor], flags: Set[str]) -> Tensor:
        return p["strength"][..., None] * p["value"]

    def positions(self, index: Any, prompt: Any, header: Any = 1) -> Any:
        return (index == prompt - (2 if self.parts else 1)) & (index >= 0)

    def work(self) -> Work:
        return Work(self.value.size, self.value.size, 0)


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
