"""Steerings as bytes for an engine in another process: rows of a bank, and small tables that point to them.

Invariant: a vector is sent once, whatever its coefficients: two that are parallel to fp32 rounding share a
row, and each edit brings its own strength.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from safetensors.numpy import save

from bench.backends.vllm.packed import FORMS, GATES, NUMBERS, PARTS, SITES
from bench.core.content import Array
from bench.core.edits import Edit, Gate
from bench.core.errors import BenchError
from bench.core.steering import Steering

_PROBE_STEP = 1e-4
_ROUNDING = 4e-7
"""Largest difference of two unit vectors that are one vector scaled in fp32: a few roundings."""


class Wire:
    """Numbers steerings and vectors, and packs those an engine does not have yet."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.probe = np.random.default_rng(0).standard_normal(width)
        self.keys: dict[str, int] = {}
        self.sent = 0
        self._exact: dict[str, int] = {}
        self._near: dict[tuple[int, int], list[tuple[Array, int]]] = {}
        self._gates: dict[str, int] = {}
        self._rows: list[Array] = []
        self._biases: list[Array] = []
        self._edits: list[list[int]] = []
        self._numbers: list[list[float]] = []
        self._new_gates: list[list[int]] = []
        self._thresholds: list[float] = []

    @property
    def slots(self) -> int:
        """Rows of the bank in use, sent or not."""
        return self.sent + sum(len(rows) for rows in self._rows)

    def add(self, steering: Steering) -> int:
        """The number of `steering`, whose edits join the next message if they are new."""
        name = steering.internal_digest
        if name not in self.keys:
            key = self.keys[name] = len(self.keys)
            order: dict[tuple[int, str], int] = {}
            for number, edit in enumerate(steering.edits):
                place = (edit.layer, edit.site)
                order[place] = order.get(place, -1) + 1
                self._edit(key, number, order[place], edit)
        return self.keys[name]

    def message(self) -> bytes | None:
        """What `Packed.register` takes, as safetensors; None where nothing is new."""
        if not self._edits:
            return None
        empty = np.zeros((0, self.width), np.float32)
        rows, biases = np.concatenate([empty, *self._rows]), np.concatenate([np.zeros(0, np.float32), *self._biases])
        parts = {
            "rows": rows,
            "biases": biases,
            "edits": np.array(self._edits, np.int64),
            "numbers": np.array(self._numbers, np.float32),
            "gates": np.array(self._new_gates, np.int64).reshape(-1, len(GATES)),
            "thresholds": np.array(self._thresholds, np.float32),
        }
        self.sent += len(rows)
        for part in (self._rows, self._biases, self._edits, self._numbers, self._new_gates, self._thresholds):
            part.clear()
        return save(parts)

    def _edit(self, key: int, number: int, order: int, edit: Edit) -> None:
        kind = next((n for n, form in enumerate(FORMS) if form.kind is type(edit)), -1)
        if kind < 0:
            raise BenchError(f"no rule to send a {type(edit).__name__}")
        form, values = FORMS[kind], dict[str, Any](edit.operands())
        first, second = (
            [np.atleast_2d(values[name]) for name in names if name in values] for names in (form.first, form.second)
        )
        count = sum(map(len, first))
        if form.ordered:
            slot, values["strength"] = self._direction(np.concatenate(first))
        else:
            slot = self._slot(np.concatenate(first), values[form.beside] if form.beside else ())
        other = self._slot(np.concatenate(second)) if second else 0
        span = edit.span
        flags = sum((name in edit.flags()) << bit for bit, name in enumerate(form.flags))
        where = [key, number, edit.layer, SITES.index(edit.site), order, kind, flags]
        where += [count, slot, other, PARTS.index(span.part), span.offset << 1 | span.sink, span.first, span.last]
        self._edits.append([*where, -1 if edit.gate is None else self._gate(edit.gate)])
        numbers = [float(values[name]) for name in form.numbers]
        self._numbers.append(numbers + [0.0] * (NUMBERS - len(numbers)))

    def _direction(self, value: Array) -> tuple[int, float]:
        """The slot of a unit tensor and its factor, so that multiples of one tensor meet."""
        rows = self._wide(np.asarray(value, np.float64))
        size = float(np.linalg.norm(rows))
        if size == 0:
            return self._slot(rows), 1.0
        unit = rows / size
        mark = float((unit @ self.probe).sum())
        if mark < 0:
            unit, size, mark = -unit, -size, -mark
        place = round(mark / _PROBE_STEP)
        for near in (place, place - 1, place + 1):
            for known, slot in self._near.get((len(rows), near), ()):
                if np.abs(known - unit).max() <= _ROUNDING * np.abs(known).max():
                    return slot, size
        slot = self._slot(unit)
        self._near.setdefault((len(rows), place), []).append((unit, slot))
        return slot, size

    def _wide(self, value: Array) -> Array:
        """`value` as rows, refused where they do not fit the model."""
        rows = np.atleast_2d(value)
        if rows.shape[1] != self.width:
            raise BenchError(f"an edit has width {rows.shape[1]}, the model {self.width}")
        return rows

    def _slot(self, rows: Array, biases: Sequence[float] | Array = ()) -> int:
        """The first row of equal content in the bank, made where there is none."""
        rows = np.ascontiguousarray(self._wide(rows), np.float32)
        shifts = np.zeros(len(rows), np.float32)
        if len(biases):
            shifts[:] = biases
        name = hashlib.sha256(rows.tobytes() + shifts.tobytes()).hexdigest()
        if name not in self._exact:
            self._exact[name] = self.slots
            self._rows.append(rows)
            self._biases.append(shifts)
        return self._exact[name]

    def _gate(self, gate: Gate) -> int:
        parts = [gate.layer, int(gate.pooling == "last"), int(gate.similarity == "cast"), int(gate.above)]
        parts += [self._slot(gate.direction), -1 if gate.center is None else self._slot(gate.center)]
        name = f"{parts}{gate.threshold!r}"
        if name not in self._gates:
            self._gates[name] = len(self._gates)
            self._new_gates.append(parts)
            self._thresholds.append(gate.threshold)
        return self._gates[name]
