"""What a `Steering` costs, part by part: its edits and deltas say it themselves.

Invariant: a part without a rule here is an error, never a zero. FLOPs count what the equation of a part needs
(a dot product of length H is 2H; scalars are left out), not how an engine happens to run it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bench.core.edits import Edit, Gate
from bench.core.steering import Steering
from bench.overhead.exact import Extra


def gate_flops(gate: Gate, length: int) -> int:
    """FLOPs of reading a condition once on a prompt of `length` tokens: pooling and a cosine."""
    hidden = gate.direction.shape[-1]
    pooled = length * hidden if gate.pooling == "mean" else 0
    return int(pooled + (9 if gate.similarity == "cast" else 7) * hidden)


FAR = 10**6


def decodes(edit: Edit) -> bool:
    """Whether an edit acts on the tokens being written."""
    return bool(edit.positions(np.array([FAR]), FAR)[0])


def extra(steering: Steering, prompt_tokens: float = 0, length: int = 64, merged: bool = False) -> Extra:
    """The cost of `steering`, with a prompt edit that adds `prompt_tokens` to a prompt of `length` tokens, mixed with
    the bare prompt where it is mixed.

    Where an edit takes every prompt token it counts per token, else once per request; a gate counts as open. What is
    put into the prompt costs what a prompt of as many tokens does, and the room for it.
    `merged` puts weight deltas into the weights: they then cost nothing but their storage.
    """
    soft, streams = sum(part.work().elements for part in steering.embeds), 1 if steering.mixing else 0
    total = Extra(prompt_tokens=prompt_tokens + steering.inserted, elements=soft, held=soft, streams=streams)
    gates: dict[int, Gate] = {}
    for edit in steering.edits:
        one = edit.work()
        positions_edited = int(np.count_nonzero(edit.positions(np.arange(length), length)))
        whole = positions_edited >= length - edit.span.start(1) and positions_edited > 0
        total = replace(
            total,
            decode=total.decode + one.flops * decodes(edit),
            read=total.read + one.flops * whole,
            once=total.once + (0 if whole else positions_edited * one.flops),
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
        one = delta.work()
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
