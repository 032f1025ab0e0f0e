"""Watching in place of steering: does the state at the end of a prompt foretell what the answer will show?

Invariant: the answers are the bare model's, and what is held against their ratings is read before one
token of them is written. Nothing here decides a setting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bench.core.content import Array
from bench.core.interfaces import Context
from bench.core.steering import Steering
from bench.core.values import Sample


def reading(
    ctx: Context, steering: object, samples: Sequence[Sample], ratings: Sequence[float | None]
) -> Mapping[str, Any] | None:
    """How a steering's vectors read the samples' last prompt tokens, against the ratings of their answers.

    `r` is Pearson's over all answers, `within` after the mean of each kind of chat is taken off both: what
    the vector knows beyond the instruction that was given. None without a vector; each is None where one
    side does not vary.
    """
    edits = steering.edits if isinstance(steering, Steering) else ()
    # By its name: this reads a vector, and how one is added to a state is no part of what a reading depends on.
    added = [(edit.layer, edit.tensors()["value"]) for edit in edits if edit.need == "add" and edit.site == "resid"]
    pushes = [(layer, value) for layer, value in added if value.ndim == 1]
    if not pushes:
        return None
    states = ctx.last([sample.messages for sample in samples], sorted({layer for layer, _ in pushes}))
    along = np.mean([states[layer] @ (value / np.linalg.norm(value)) for layer, value in pushes], axis=0)
    known = np.array([rating is not None for rating in ratings])
    x, y = along[known], np.array([rating for rating in ratings if rating is not None])
    kinds = np.array([sample.label for sample in samples])[known]
    return {
        "r": correlation(x, y),
        "within": correlation(_centred(x, kinds), _centred(y, kinds)),
        "n": len(y),
        "projections": [round(float(value), 4) for value in along],
        "ratings": [None if rating is None else round(rating, 4) for rating in ratings],
        "kinds": [sample.label for sample in samples],
    }


def correlation(x: Array, y: Array) -> float | None:
    """Pearson's r; None with fewer than three points, or where a side does not vary."""
    if len(x) < 3 or np.ptp(x) < 1e-9 or np.ptp(y) < 1e-9:
        return None
    return round(float(np.corrcoef(x, y)[0, 1]), 4)


def _centred(values: Array, kinds: Array) -> Array:
    found = values.astype(float)
    for kind in set(kinds.tolist()):
        found[kinds == kind] -= found[kinds == kind].mean()
    return found
