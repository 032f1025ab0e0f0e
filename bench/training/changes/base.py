"""What training learns, as modules that hold the parameters of many concepts and act on each row by its own.

Invariant: at initialisation a change leaves the model as it is (a vector is as short as its `init`), and what
it exports acts as it did in training.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.backends import devices
from bench.backends.hf.modules import Place, first, places, with_first
from bench.core.content import Array
from bench.core.edits import Span
from bench.core.interfaces import Context, LayerSpec
from bench.core.steering import Steering
from bench.core.values import Train

Hook = Callable[[nn.Module, Any, Any], Any]


@dataclass(frozen=True)
class RowPlan:
    """How each row of a pass is changed: its concept's number, factor (0: not at all), and whether the change
    is to be taken out instead (RePS's null), all `[B]`; `index` `[B, T]` counts its tokens (negative on padding),
    and `prompt` and `header` `[B, 1]` are the lengths of its prompt and of what stands before its own words."""

    concept: Tensor
    factor: Tensor
    null: Tensor
    index: Tensor = dataclasses.field(default_factory=lambda: torch.empty(0))
    prompt: Tensor = dataclasses.field(default_factory=lambda: torch.empty(0))
    header: Tensor = dataclasses.field(default_factory=lambda: torch.empty(0))

    def placed(self, index: Tensor, prompt: Tensor, header: Tensor) -> RowPlan:
        return dataclasses.replace(self, index=index, prompt=prompt, header=header)


@dataclass(frozen=True)
class TrainingContext:
    """A model and the concepts trained together on it."""

    ctx: Context
    trains: Sequence[Train]

    @property
    def model(self) -> Any:
        return self.ctx.lm.module

    @property
    def device(self) -> torch.device:
        return devices.of(self.model)

    @property
    def reference(self) -> bool:
        """Whether the reference code's units and quirks are wanted."""
        return self.ctx.compat == "axbench"

    @property
    def hidden(self) -> int:
        return int(self.model.config.get_text_config().hidden_size)

    def rng(self, concept: int, *salt: object) -> np.random.Generator:
        return self.ctx.rng("train", self.trains[concept].concept.id, *salt)

    def normal(self, *shape: int, salt: str) -> Tensor:
        """Standard normal `[C, *shape]`, each concept from its own generator."""
        return self._stacked([self.rng(c, salt).standard_normal(shape) for c in range(len(self.trains))])

    def uniform(self, *shape: int, salt: str) -> Tensor:
        """As `normal`, within ±1/√H: how a linear layer of H inputs starts."""
        drawn = [self.rng(c, salt).uniform(-1, 1, shape) for c in range(len(self.trains))]
        return self._stacked([one / self.hidden**0.5 for one in drawn])

    def _stacked(self, drawn: Sequence[Array]) -> Tensor:
        return torch.tensor(np.stack(drawn), dtype=torch.float32, device=self.device)

    def norms(self, *layers: int) -> list[Tensor]:
        """Median ‖h‖ after each of the blocks over each concept's training tokens, `[C]`; read in one pass."""
        found: list[list[float]] = [[] for _ in layers]
        for train in self.trains:
            reads = self.ctx.read([e.messages for e in (*train.positives, *train.negatives)], layers)
            for own, layer in zip(found, layers, strict=True):
                states = np.concatenate([read.values[layer] for read in reads])
                own.append(float(np.median(np.linalg.norm(states, axis=1))))
        return [torch.tensor(own, dtype=torch.float32, device=self.device) for own in found]

    def layers(self, depths: Sequence[LayerSpec]) -> list[int]:
        """The blocks that layer settings name together, in order."""
        return sorted({layer for depth in depths for together in self.ctx.depths(depth) for layer in together})

    def linears(self, names: Sequence[str], layers: Sequence[int]) -> list[Place]:
        """The linear modules of the blocks `layers` that have the roles or names `names` (none: all of them)."""
        return places(self.model, names, layers)


class Change(nn.Module):
    """The parameters of `C` concepts, each tensor `[C, ...]`, and the hooks that apply them to rows."""

    floor: int
    """The last block whose output no parameter touches; -1: there is none."""
    first: int
    """The first block whose output a parameter changes."""
    nulls = False
    """Whether it can be taken out of a state (RePS's null); others are subtracted in its place."""
    inserts = 0
    """Tokens that every row grows by after its header, whose embeddings it gives."""
    shared = False
    """Whether concepts share parameters, so that their updates cannot be told apart."""
    together: int = 0
    """How many of the concepts that share parameters make a step; 0: all of them."""
    times: tuple[float, ...] = ()
    """Between which bounds a step draws the factor of its rows; none: each item draws among the recipe's factors."""
    ramped = True
    """Whether its penalty begins at 0 and is whole at the end of training; else it is whole throughout."""
    now: RowPlan

    @abstractmethod
    def hooks(self) -> list[tuple[nn.Module, Hook]]:
        """Forward hooks that apply the change of the present rows (`now`)."""

    @abstractmethod
    def steering(self, concept: int) -> Steering:
        """What concept number `concept` learnt, as data: c = 1 is the change at factor 1."""

    def direction(self, concept: int) -> tuple[int, Array] | None:
        """(layer, vector `[H]`) that detects the concept, where there is one."""
        return None

    def note(self, concept: int) -> Mapping[str, Any]:
        """What a reader should know of this fit."""
        return {}

    def penalty(self) -> Tensor | None:
        """A loss of the change itself for each row of the last pass, `[B]` (see `ramped`)."""
        return None

    def prepare(self) -> None:
        """Before a step: what is to be taken out of the gradients."""

    def settle(self) -> None:
        """After a step: what the parameters are held to."""


def on_states(edit: Callable[[Tensor], Tensor]) -> Hook:
    """A hook that changes a block's states in fp32 and gives them back in the block's own type."""

    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        return with_first(output, edit(first(output)))

    return hook


def inside(rows: RowPlan, span: Span) -> Tensor:
    """`[B, T, 1]`: the positions of `span` that a row's factor lets change."""
    active = (rows.factor != 0) | rows.null
    found: Tensor = span.mask(rows.index, rows.prompt, rows.header) & (rows.index >= 0) & active[:, None]
    return found[..., None]


def array(tensor: Tensor) -> Array:
    found: Array = tensor.detach().float().cpu().numpy().copy()
    return found
