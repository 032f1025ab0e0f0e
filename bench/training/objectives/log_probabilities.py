"""Objectives over log-probabilities of texts: language modelling, and preferences between two answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.core.values import Example, Train
from bench.training.objectives.base import Batch, Objective, Slot, objective

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@objective("lm", "texts")
@dataclass(frozen=True)
class LM(Objective):
    """Language-model loss: -mean_t log p(y_t) of texts with the concept; `both`: of those without it too."""

    slots: ClassVar[tuple[Slot, ...]] = (Slot(0),)
    by_token: ClassVar[bool] = True
    both: bool = False

    def items(self, train: Train) -> list[tuple[Example, ...]]:
        shown = [*train.positives, *(train.negatives if self.both else ())]
        return [(example,) for example in shown]

    def loss(self, batch: Batch) -> Tensor:
        return -batch.logp[:, 0] / batch.lengths[:, 0]


class Preference(Objective):
    """An objective over pairs: text 0 shows the concept, text 1 answers the same without it."""

    slots: ClassVar[tuple[Slot, ...]] = (Slot(0), Slot(1))
    compares: ClassVar[bool] = True

    def items(self, train: Train) -> list[tuple[Example, ...]]:
        return [(Example(p.instruction, p.positive), Example(p.instruction, p.negative)) for p in train.pairs]


ADDED_AND_TAKEN_OUT = (Slot(0), Slot(1), Slot(1, null=True), Slot(0, null=True))
"""A pair with the change added, then with its sides exchanged and the change taken out."""


def _margin(batch: Batch) -> Tensor:
    """(log π(y⁺) - log π(y⁻)) - the same of the bare model, `[n]`."""
    gained: Tensor = batch.logp[:, 0] - batch.logp[:, 1] - (batch.bare[:, 0] - batch.bare[:, 1])
    return gained


@objective("dpo", "pairs")
@dataclass(frozen=True)
class DPO(Preference):
    """-log σ(β·[(log π(y⁺) - log π(y⁻)) - (log π₀(y⁺) - log π₀(y⁻))]), sums over response tokens."""

    beta: float = 0.1

    def loss(self, batch: Batch) -> Tensor:
        return _soft(self.beta * _margin(batch))


@objective("ipo", "pairs")
@dataclass(frozen=True)
class IPO(Preference):
    """([(log π(y⁺) - log π(y⁻)) - (log π₀(y⁺) - log π₀(y⁻))] - 1/2β)²."""

    beta: float = 0.1

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise ValueError(f"beta = {self.beta}, must be above 0")

    def loss(self, batch: Batch) -> Tensor:
        return (_margin(batch) - 1 / (2 * self.beta)).square()


@objective("simpo", "pairs")
@dataclass(frozen=True)
class SimPO(Preference):
    """-log σ(β·log π(y⁺)/|y⁺| - β·log π(y⁻)/|y⁻| - γ), without a reference."""

    compares: ClassVar[bool] = False
    beta: float = 2.0
    gamma: float = 0.5

    def loss(self, batch: Batch) -> Tensor:
        mean = batch.logp / batch.lengths
        return _soft(self.beta * (mean[:, 0] - mean[:, 1]) - self.gamma)


@objective("bipo", "pairs")
@dataclass(frozen=True)
class BiPO(DPO):
    """DPO under d·v with the logit times d, d = ±1 drawn for half of each step's items (the reference's
    code: once a step)."""

    def signs(self, rng: np.random.Generator, count: int, reference: bool) -> list[float]:
        first = float(rng.choice([-1.0, 1.0]))
        return [first if reference or i % 2 == 0 else -first for i in range(count)]

    def loss(self, batch: Batch) -> Tensor:
        return _soft(self.beta * batch.sign * _margin(batch))


@objective("dpo-null", "pairs")
@dataclass(frozen=True)
class DPONull(DPO):
    """½[DPO + DPO of the sides exchanged with the change taken out]: what AxBench trains under the name BiPO."""

    slots: ClassVar[tuple[Slot, ...]] = ADDED_AND_TAKEN_OUT
    apart: ClassVar[bool] = True

    def loss(self, batch: Batch) -> Tensor:
        taken = batch.logp[:, 2] - batch.logp[:, 3] - (batch.bare[:, 1] - batch.bare[:, 0])
        return (super().loss(batch) + _soft(self.beta * taken)) / 2


@objective("reps", "pairs")
@dataclass(frozen=True)
class RePS(Preference):
    """-½[log σ(Δ⁺) + log σ(Δ⁻)], Δ⁺ = β⁺·log p(y⁺; steered)/|y⁺| - log p(y⁻; steered)/|y⁻|, Δ⁻ the same with
    the sides exchanged and the change taken out; β± = max(bare log p of the rejected - of the chosen, 1)."""

    slots: ClassVar[tuple[Slot, ...]] = ADDED_AND_TAKEN_OUT
    apart: ClassVar[bool] = True

    def loss(self, batch: Batch) -> Tensor:
        size = batch.widths if batch.reference else batch.lengths  # the code divides by all tokens
        plus = (batch.bare[:, 1] - batch.bare[:, 0]).clamp(min=1)
        minus = (batch.bare[:, 0] - batch.bare[:, 1]).clamp(min=1)
        steered = plus * batch.logp[:, 0] / size[:, 0] - batch.logp[:, 1] / size[:, 1]
        without = minus * batch.logp[:, 2] / size[:, 1] - batch.logp[:, 3] / size[:, 0]
        return (_soft(steered) + _soft(without)) / 2


def _soft(logit: Tensor) -> Tensor:
    """-log σ(logit)."""
    from torch.nn.functional import softplus

    found: Tensor = softplus(-logit)
    return found
