"""Changes of weights as data, kept factored: y ← W0 x + ΔW x.

Invariant: `scaled(c)` is the change at strength `c`, so that W0 + c·ΔW is the bare model at 0 in every form.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self

import numpy as np

from bench.core.content import Array, stored
from bench.core.edits import Work, finite, tensors_of


@dataclass(frozen=True, eq=False, kw_only=True)
class Delta(ABC):
    """A change of the weight `[out, in]` of the linear module named `module`: ΔW = strength · left right."""

    module: str

    def __post_init__(self) -> None:
        for name, value in self.tensors().items():
            finite(f"{type(self).__name__}.{name}", value)

    @abstractmethod
    def scaled(self, c: float) -> Self:
        """The same change at strength `c` of the present one."""

    @abstractmethod
    def factors(self) -> tuple[Array, Array | None]:
        """(left `[out, r]`, right `[r, in]`, or None for the identity), without the strength."""

    @abstractmethod
    def work(self) -> Work:
        """What it costs, unmerged."""

    def tensors(self) -> dict[str, Array]:
        return tensors_of(self)


@stored
@dataclass(frozen=True, eq=False, kw_only=True)
class LowRankDelta(Delta):
    """ΔW = strength · B A with `down` A `[r, in]` and `up` B `[out, r]`."""

    down: Array
    up: Array
    strength: float = 1.0

    def scaled(self, c: float) -> Self:
        return dataclasses.replace(self, strength=self.strength * c)

    def factors(self) -> tuple[Array, Array | None]:
        return self.up, self.down

    def work(self) -> Work:
        (rank, inner), outer = self.down.shape, self.up.shape[0]
        moved = rank * (inner + outer)
        return Work(2 * moved, self.down.size + self.up.size, moved)


@stored
@dataclass(frozen=True, eq=False, kw_only=True)
class DenseDelta(Delta):
    """ΔW = strength · `change` `[out, in]`, where no factors are known."""

    change: Array
    strength: float = 1.0

    def scaled(self, c: float) -> Self:
        return dataclasses.replace(self, strength=self.strength * c)

    def factors(self) -> tuple[Array, Array | None]:
        return self.change, None

    def work(self) -> Work:
        return Work(2 * self.change.size, self.change.size, self.change.size)


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

    def factors(self) -> tuple[Array, Array | None]:
        return self.u, self.core() @ self.v.T

    def work(self) -> Work:
        outer, rank = self.u.shape  # the core is folded into one factor once
        moved = rank * (self.v.shape[0] + outer)
        return Work(2 * moved, sum(value.size for value in self.tensors().values()), moved)
