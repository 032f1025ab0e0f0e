"""What an objective is: the rows an item needs, what a loss sees of them, and the registry by name.

Invariant: a loss is per item and reads that item alone (and what `measure` found for its concept), so many
concepts in one batch train as each would alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from bench.core.errors import suggest
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
    by_token: ClassVar[bool] = False
    """Whether the reference code averages it over all tokens of a batch, and not over its texts."""

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


class StateObjective(Objective):
    """Settings of a loss over states alone, at the relative depths `targets`."""

    targets: tuple[float, ...]

    @property
    def depths(self) -> tuple[float, ...]:
        return self.targets

    @property
    def logits(self) -> bool:
        return False


registered: dict[str, type[Objective]] = {}


def objective(name: str, *views: str) -> Callable[[type[Objective]], type[Objective]]:
    """Register an objective; `views` are the training views it reads."""

    def add(cls: type[Objective]) -> type[Objective]:
        cls.name, cls.views = name, frozenset(views)
        registered[name] = cls
        return cls

    return add


def settings(known: Mapping[str, type[Any]], name: str, values: Mapping[str, Any], what: str) -> Any:
    """An instance of the class `name` with those of `values` that it has fields for."""
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}: {suggest(name, known)}")
    cls = known[name]
    return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})
