"""The objective that copies a prompt: states as the same response has them under the prompt.

Invariant: prompt and plain question differ by the prompt alone, and states are compared token by token of one response.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.core.values import Example, Train
from bench.training.objectives.base import Batch, Slot, StateObjective, objective
from bench.training.objectives.representations import mean_over, responses, split

if TYPE_CHECKING:
    from torch import Tensor


SAY = "Keep mentioning {concept}. "
"""What is asked; a task's own words are for methods that prompt."""


def under_prompt(train: Train, example: Example) -> Example:
    """An example whose question asks for the concept."""
    return Example(SAY.replace("{concept}", train.concept.text) + example.instruction, example.response)


@objective("teacher", "texts")
@dataclass(frozen=True)
class Teacher(StateObjective):
    """Mean over blocks and response tokens of ‖h - h'‖² / ‖h₀ - h'‖², h' the bare model's states under the prompt and
    h₀ without it: 1 before training, 0 where the states are the prompt's.

    `targets` are the relative depths it compares at.
    """

    slots: ClassVar[tuple[Slot, ...]] = (Slot(0),)
    targets: tuple[float, ...] = (0.25, 0.5, 0.75, 0.999)

    def items(self, train: Train) -> list[tuple[Example, ...]]:
        return [(example, under_prompt(train, example)) for example in train.positives]

    def loss(self, batch: Batch) -> Tensor:
        import torch

        assert batch.still is not None
        total = torch.zeros(len(batch.concept), device=batch.concept.device)
        for layer, states in batch.passed.states.items():
            rows, counts = responses(batch.still, batch.still.states[layer])
            bare, taught = split(rows, 2).unbind(1)
            new = responses(batch.passed, states)[0]
            length = min(bare.shape[1], new.shape[1])
            there = torch.arange(length, device=new.device)[None] < split(counts, 2).min(1).values[:, None]
            bare, taught, new = (part[:, :length].float() for part in (bare, taught, new))
            far, start = (mean_over((part - taught).square().sum(-1), there.float()) for part in (new, bare))
            total = total + far / start.clamp(min=1e-6)
        return total / len(batch.passed.states)
