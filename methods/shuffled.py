"""The control for what labels add: a method after the labels of its training data were shuffled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from bench import Choice, Context, Fitted, LayerSpec, Method, Pair, Train, Wrapper, method
from methods.diffmean import DiffMean

Row = TypeVar("Row")


@method(
    "shuffled", surface="control", needs=["add"], provides=["steering", "detector"], antisymmetric=False, recovers=False
)
@dataclass(frozen=True)
class Shuffled(Wrapper):
    """Another method on the same data with half of each class exchanged; DiffMean unless one is named.

    Equation: that of the inner method, with labels permuted so that both sides hold as many positives as
    negatives (a plain permutation keeps part of the concept by chance), in every view it may read: texts,
    pairs, choices, personas and conditions. `shuffled(reps)` is RePS's twin: same parametrisation, loss,
    steps and strength, so that a difference between the two is what the labels taught. Hard negatives,
    which have no counterpart to be exchanged with, are left out.
    """

    layer: LayerSpec = 0.5
    """DiffMean's, where no method is named."""
    inner: Method | None = None

    def __post_init__(self) -> None:
        inner = self.taught
        if self.inner is not None:
            if self.layer != type(self).layer:
                raise ValueError(f"layer = {self.layer} is plain shuffled's: give {inner.name} its own")
            if why := _unlabelled(inner):
                raise ValueError(f"{why}: it has no labels to shuffle")
        super().__post_init__()
        object.__setattr__(self, "provides", inner.provides)
        if self.inner is None:
            object.__setattr__(self, "name", "shuffled")

    @property
    def taught(self) -> Method:
        """What is fitted."""
        return DiffMean(self.layer) if self.inner is None else self.inner

    @property
    def members(self) -> tuple[Method, ...]:
        return (self.taught,)

    def params(self) -> dict[str, Any]:
        return {"layer": self.layer} if self.inner is None else super().params() | {"shuffled": {}}

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        return next(self.fit_all(ctx, [train]))

    def fit_all(self, ctx: Context, trains: Sequence[Train]) -> Iterator[Sequence[Fitted]]:
        pool = replace(ctx, trains=tuple(mixed(ctx, train) for train in ctx.trains))
        yield from self.taught.fit_all(pool, [mixed(ctx, train) for train in trains])


def _unlabelled(inner: Method) -> str:
    """Why labels do not make `inner` what it is; "" where they do."""
    for part in inner.members:
        if why := _unlabelled(part):
            return why
    if inner.prompted or inner.surface == "control":
        return f"{inner.name} is a control" if inner.surface == "control" else f"{inner.name} prompts"
    if getattr(inner, "both", False):  # the language-model loss of both sides (`LM`)
        return f"{inner.name} with both = true trains on both sides alike"
    return "" if inner.views else f"{inner.name} reads no training data"


def mixed(ctx: Context, train: Train) -> Train:
    """`train` with the two sides of every view exchanged for half of its rows."""
    rng = ctx.rng("shuffled", train.concept.id)
    positives, negatives = _dealt(rng, train.positives, train.negatives)
    rng = ctx.rng("shuffled", train.concept.id, "views")  # its own, so that texts are mixed as ever
    triggers, others = _dealt(rng, train.triggers, train.others)
    return replace(
        train,
        positives=positives,
        negatives=negatives,
        hard_negatives=(),
        pairs=_turned(rng, train.pairs, lambda p: Pair(p.instruction, p.negative, p.positive)),
        choices=_turned(rng, train.choices, lambda c: Choice(c.question, c.not_matching, c.matching)),
        personas=_turned(rng, train.personas, lambda sides: (sides[1], sides[0])),
        triggers=triggers,
        others=others,
    )


def _dealt(rng: np.random.Generator, one: Sequence[Row], two: Sequence[Row]) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Two sides, each of half of `one` and half of `two`."""
    a, b = ([rows[i] for i in rng.permutation(len(rows))] for rows in (one, two))
    half_a, half_b = len(a) // 2, len(b) // 2
    return tuple(a[:half_a] + b[:half_b]), tuple(a[half_a:] + b[half_b:])


def _turned(rng: np.random.Generator, rows: Sequence[Row], turn: Callable[[Row], Row]) -> tuple[Row, ...]:
    """`rows` with half of them turned, in their order; of an odd number one stands both ways."""
    order = rng.permutation(len(rows))
    half = len(rows) // 2
    chosen, both = set(order[:half].tolist()), set(order[half : len(rows) - half].tolist())
    found: list[Row] = []
    for i, row in enumerate(rows):
        found += [row, turn(row)] if i in both else [turn(row) if i in chosen else row]
    return tuple(found)
