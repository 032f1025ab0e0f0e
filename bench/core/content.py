"""What everything else stands on: naming content by digests, what may be stored, and errors for the user.

Invariant: two values with equal content have equal digests on every machine.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import ItemsView, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from bench.core.errors import UsageError

Array = np.ndarray[Any, np.dtype[Any]]


Message = tuple[str, str]
"""(role, content)"""


T = TypeVar("T")
SCALARS = frozenset({str, int, float, bool, type(None)})


def plain(value: Any) -> Any:
    """`value` as JSON types; arrays become their dtype, shape and SHA-256, so that content decides."""
    kind = type(value)
    if kind in SCALARS:  # most of what is named, and every row that is kept is named
        return value
    if kind is tuple or kind is list:
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        content = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return {"array": content, "dtype": str(value.dtype), "shape": list(value.shape)}
    if isinstance(value, np.generic):
        return value.item()
    if kind is Weights:
        return {"weights": value.digest}
    if (names := _fields(kind)) is not None:
        return {"type": kind.__name__} | {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(plain(v) for v in value)
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"cannot digest a {type(value).__name__}: {value!r}")


_known: dict[type[Any], tuple[str, ...] | None] = {}


def _fields(kind: type[Any]) -> tuple[str, ...] | None:
    """Names of the fields of a dataclass; None for another type."""
    if kind not in _known:
        _known[kind] = tuple(f.name for f in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else None
    return _known[kind]


ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False, allow_nan=True)


def digest(*values: Any) -> str:
    """24 hexadecimal digits that name the content of `values` (arrays, dataclasses, JSON types)."""
    text = ENCODER.encode(plain(values))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]


_stored: dict[str, type[Any]] = {}


def stored(cls: type[T]) -> type[T]:
    """Let a frozen dataclass be kept in files, under its own name; what is read from a file is one of these."""
    taken = _stored.get(cls.__name__)
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls.__name__} is no dataclass: put @stored above @dataclass")
    if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
        raise UsageError(f"a stored type {cls.__name__!r} is already {taken.__module__}.{taken.__qualname__}")
    _stored[cls.__name__] = cls
    return cls


def stored_types() -> dict[str, type[Any]]:
    """name -> class, of all that files may hold."""
    return dict(_stored)


@stored
@dataclass(frozen=True, eq=False)
class Weights:
    """Arrays by name that many values have in common, as the weights of a network: named once, however many do.

    Where values are kept beside each other they are kept once (`Artefacts`); in a file by itself they are in the file.
    """

    arrays: Mapping[str, Array]

    def __post_init__(self) -> None:
        for name, value in self.arrays.items():
            if not np.isfinite(value).all():
                raise ValueError(f"{name} holds values that are not finite (shape {value.shape})")

    @cached_property
    def digest(self) -> str:
        return digest(self.arrays)

    def items(self) -> ItemsView[str, Array]:
        return self.arrays.items()

    @property
    def size(self) -> int:
        """How many numbers they are."""
        return sum(value.size for value in self.arrays.values())
