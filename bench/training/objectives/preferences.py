"""What training minimises: one frozen dataclass per objective, by name, over rows of texts under a change.

Invariant: a loss is per item and reads that item alone (and what `measure` found for its concept), so many
concepts in one batch train as each would alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bench.core.values import Example, Train

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from bench.training.texts import Passed, Texts


@dataclass(frozen=True)
class Slot:
    """One row that an item needs: which of its texts, the sign of the factor, or the change taken out."""

    text: int
    sign: float = 1.0
    null: bool = False


@dataclass(frozen=True)
class Batch:
    """What a loss sees of `n` items with `s` slots and `k` texts each.

    `logp` `[n, s]` is the summed log-probability of each slot's response under its change, `bare` `[n, k]`
    of each text's under the bare model (where the objective asks for it); `lengths` `[n, k]` their response
    tokens and `widths` `[n, k]` all their tokens. `sign` `[n]` is the drawn sign, `done` the share of
    training behind, `concept` `[n]` the concept's number. `passed` holds the rows `[n·s]` with their
    states and logits, `still` the bare model's `[n·k]`. `reference`: the reference code's quirks.
    """

    logp: Tensor
    bare: Tensor
    lengths: Tensor
    widths: Tensor
    sign: Tensor
    done: float
    concept: Tensor
    passed: Passed
    still: Passed | None
    constants: Mapping[str, Tensor]
    reference: bool


class Objective(ABC):
    """Settings of one loss."""

    name: ClassVar[str]
    views: ClassVar[frozenset[str]]
    slots: ClassVar[tuple[Slot, ...]]
    compares: ClassVar[bool] = False
    """Whether it needs the bare model's log-probabilities."""
    apart: ClassVar[bool] = False
    """Whether the reference code draws each slot's factor apart."""

    @property
    def depths(self) -> tuple[float, ...]:
        """Relative depths whose states it reads, changed and bare; none: it reads log-probabilities alone."""
        return ()

    @property
    def logits(self) -> bool:
        """Whether it needs the model's predictions."""
        return True

    @abstractmethod
    def items(self, train: Train) -> list[tuple[Example, ...]]:
        """The texts of each item, in the order the slots count them."""

    def signs(self, rng: np.random.Generator, count: int, reference: bool) -> list[float]:
        """A sign for each item of a step, which multiplies its factors."""
        return [1.0] * count

    def measure(self, texts: Texts, items: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """What the loss needs of one concept's items under the bare model, found once before training."""
        return {}

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """`[n]`, to be minimised."""


_objectives: dict[str, type[Objective]] = {}


def objective(name: str, *views: str) -> Callable[[type[Objective]], type[Objective]]:
    """Register an objective; `views` are the training views it reads."""

    def add(cls: type[Objective]) -> type[Objective]:
        cls.name, cls.views = name, frozenset(views)
        _objectives[name] = cls
        return cls

    return add


def objectives() -> dict[str, type[Objective]]:
    """All objectives by name."""
    from bench.training.objectives import representations

    assert representations
    return dict(_objectives)


@objective("lm", "texts")
@dataclass(frozen=True)
class LM(Objective):
    """Language-model loss: -mean_t log p(y_t) of texts with the concept; `both`: of those without it too."""

    slots: ClassVar[tuple[Slot, ...]] = (Slot(0),)
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


@objective("reps", "pairs")
@dataclass(frozen=True)
class RePS(Preference):
    """-½[log σ(Δ⁺) + log σ(Δ⁻)], Δ⁺ = β⁺·log p(y⁺; steered)/|y⁺| - log p(y⁻; steered)/|y⁻|, Δ⁻ the same with
    the sides exchanged and the change taken out; β± = max(bare log p of the rejected - of the chosen, 1)."""

    slots: ClassVar[tuple[Slot, ...]] = (Slot(0), Slot(1), Slot(1, null=True), Slot(0, null=True))
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


def settings(known: Mapping[str, type[Any]], name: str, values: Mapping[str, Any], what: str) -> Any:
    """An instance of the class `name` with those of `values` that it has fields for."""
    from dataclasses import fields

    from bench.core.values import suggest

    if name not in known:
        raise ValueError(f"unknown {what} {name!r}: {suggest(name, known)}")
    cls = known[name]
    return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})
