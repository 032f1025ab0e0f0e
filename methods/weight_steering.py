"""Contrastive weight steering: what training on the concept changes in the weights, less what its absence does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bench import BenchError, Budget, Context, Fitted, LowRankDelta, Steering, Train, method
from methods.lora import LoRAMethod


@method(
    "weight-steering",
    surface="weights",
    paper="arXiv:2511.05408",
    needs=["delta", "train"],
    provides=["steering"],
)
@dataclass(frozen=True)
class WeightSteering(LoRAMethod):
    """The difference of two adapters, one trained on texts with the concept and one on those without it.

    Equation: ΔW = c·s·(B⁺A⁺ - B⁻A⁻), of rank 2r; both adapters train from one start, on equally many texts, in the same
    order, so that what both learn (the texts' style, the task) cancels.
    Deviations: the paper trains on judged answers to 500 to 900 prompts a side under five system prompts, all linear
    modules, rank 32; here the training texts, and `lora`'s modules and rank.
    Reproduction: the paper shows figures alone (sycophancy, evil; Qwen2.5-7B); it reports no AxBench row.
    """

    own_epochs: ClassVar[int] = 24

    def fit_all(self, ctx: Context, trains: Sequence[Train]) -> Iterator[Sequence[Fitted]]:
        even = [_even(train) for train in trains]
        towards = super().fit_all(ctx, even)
        away = super().fit_all(ctx, [train.reversed() for train in even])
        for plus, minus in zip(towards, away, strict=True):
            yield [_difference(plus[0], minus[0])]

    def training(self, budget: Budget) -> tuple[int, int]:
        rows, tokens = super().training(budget)
        return 2 * rows, 2 * tokens


def _even(train: Train) -> Train:
    """As many texts of either side."""
    count = min(len(train.positives), len(train.negatives))
    return Train(train.concept, train.positives[:count], train.negatives[:count], prompts=train.prompts)


def _difference(plus: Fitted, minus: Fitted) -> Fitted:
    """One adapter less the other, module by module."""
    assert isinstance(plus.steering, Steering)
    assert isinstance(minus.steering, Steering)
    deltas, dots = [], np.zeros(3)
    for one, two in zip(plus.steering.deltas, minus.steering.deltas, strict=True):
        if not (isinstance(one, LowRankDelta) and isinstance(two, LowRankDelta) and one.module == two.module):
            raise BenchError("weight steering takes the difference of low-rank adapters of the same modules")
        up = np.concatenate([one.strength * one.up, -two.strength * two.up], 1)
        deltas.append(LowRankDelta(module=one.module, down=np.concatenate([one.down, two.down]), up=up))
        dots += [_inner(one, two), _inner(one, one), _inner(two, two)]
    note = {"loss_last": plus.note.get("loss_last"), "loss_last_without": minus.note.get("loss_last")}
    # Near 1 the two have learnt the same: nothing but style.
    note["cosine"] = round(float(dots[0] / max(np.sqrt(dots[1] * dots[2]), 1e-30)), 4)
    return Fitted(Steering(deltas=tuple(deltas)), None, note, factor=plus.factor)


def _inner(one: LowRankDelta, two: LowRankDelta) -> float:
    """Inner product of two changes of one weight, from their factors."""
    return float(np.sum((one.up.T @ two.up) * (one.down @ two.down.T)) * one.strength * two.strength)
