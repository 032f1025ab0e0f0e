"""What a `Steering` costs, part by part: its edits and deltas say it themselves.

Invariant: a part without a rule here is an error, never a zero. FLOPs count what the equation of a part needs
(a dot product of length H is 2H; scalars are left out), not how an engine happens to run it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import singledispatch

import numpy as np

from bench.core.content import BenchError
from bench.core.steering import (
    Add,
    Clamp,
    Delta,
    DenseDelta,
    Edit,
    Gate,
    LowRank,
    LowRankDelta,
    Project,
    RotationDelta,
    Steering,
)
from bench.overhead.exact import Extra


@dataclass(frozen=True)
class Work:
    """FLOPs at each position a part acts on, the numbers it keeps, and those a step reads."""

    flops: int
    elements: int
    moved: int


@singledispatch
def work(part: Edit | Delta) -> Work:
    """What `part` costs where it acts; raises BenchError for a type without a rule."""
    raise BenchError(f"no rule says what a {type(part).__name__} costs: add one to bench/overhead/edits.py")


def _held(part: Edit | Delta) -> int:
    return sum(value.size for value in part.tensors().values())


@work.register
def _(part: Add) -> Work:
    hidden = part.value.shape[-1]
    flops = hidden + (3 * hidden if part.signed else 0) + (5 * hidden if part.keep_norm else 0)
    return Work(flops, part.value.size, hidden)


@work.register
def _(part: Project) -> Work:
    rank, hidden = part.basis.shape
    return Work(4 * rank * hidden, part.basis.size, part.basis.size)


@work.register
def _(part: Clamp) -> Work:
    hidden = part.read.shape[-1]
    return Work(4 * hidden, _held(part), _held(part))


@work.register
def _(part: LowRank) -> Work:
    rank, hidden = part.rotation.shape  # W - R is formed once, so a position takes two products
    return Work(4 * rank * hidden, _held(part), 2 * rank * hidden + rank)


@work.register
def _(part: LowRankDelta) -> Work:
    (rank, inner), outer = part.down.shape, part.up.shape[0]
    return Work(2 * rank * (inner + outer), _held(part), rank * (inner + outer))


@work.register
def _(part: DenseDelta) -> Work:
    outer, inner = part.change.shape
    return Work(2 * outer * inner, part.change.size, part.change.size)


@work.register
def _(part: RotationDelta) -> Work:
    outer, rank = part.u.shape  # the core is folded into one factor once
    inner = part.v.shape[0]
    return Work(2 * rank * (inner + outer), _held(part), rank * (inner + outer))


def gate_flops(gate: Gate, length: int) -> int:
    """FLOPs of reading a condition once on a prompt of `length` tokens: pooling and a cosine."""
    hidden = gate.direction.shape[-1]
    pooled = length * hidden if gate.pooling == "mean" else 0
    return int(pooled + (9 if gate.similarity == "cast" else 7) * hidden)


FAR = 10**6


def decodes(edit: Edit) -> bool:
    """Whether an edit acts on the tokens being written."""
    return bool(edit.span.mask(np.array([FAR]), FAR)[0])


def extra(steering: Steering, prompt_tokens: float = 0, length: int = 64, merged: bool = False) -> Extra:
    """The cost of `steering`, with a prompt edit that adds `prompt_tokens` to a prompt of `length` tokens.

    Where an edit takes every prompt token it counts per token, else once per request; a gate counts as open.
    `merged` puts weight deltas into the weights: they then cost nothing but their storage.
    """
    total = Extra(prompt_tokens=prompt_tokens)
    gates: dict[int, Gate] = {}
    for edit in steering.edits:
        one = work(edit)
        touched = int(np.count_nonzero(edit.span.mask(np.arange(length), length)))
        whole = touched >= length - edit.span.start() and touched > 0
        total = replace(
            total,
            decode=total.decode + one.flops * decodes(edit),
            read=total.read + one.flops * whole,
            once=total.once + (0 if whole else touched * one.flops),
            elements=total.elements + one.elements,
            held=total.held + one.elements,
            moved=total.moved + one.moved * decodes(edit),
        )
        if edit.gate is not None:
            gates[id(edit.gate)] = edit.gate
    gated = sum(value.direction.size * (1 if value.center is None else 2) for value in gates.values())
    opened = sum(gate_flops(gate, length) for gate in gates.values())
    total = replace(total, once=total.once + opened, elements=total.elements + gated, held=total.held + gated)
    for delta in steering.deltas:
        one = work(delta)
        total = replace(total, elements=total.elements + one.elements)
        if not merged:
            total = replace(
                total,
                decode=total.decode + one.flops,
                read=total.read + one.flops,
                held=total.held + one.elements,
                moved=total.moved + one.moved,
            )
    return total
