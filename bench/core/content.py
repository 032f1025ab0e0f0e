"""What everything else stands on: naming content by digests, what may be stored, and errors for the user.

Invariant: two values with equal content have equal digests on every machine.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from bench.core.errors import UsageError

Array = np.ndarray[Any, np.dtype[Any]]


Message = tuple[str, str]
"""(role, content)"""


T = TypeVar("T")


def plain(value: Any) -> Any:
    """`value` as JSON types; arrays become their dtype, shape and SHA-256, so that content decides."""
    if isinstance(value, np.ndarray):
        content = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return {"array": content, "dtype": str(value.dtype), "shape": list(value.shape)}
    if isinstance(value, np.generic):
        return value.item()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__} | fields
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(plain(v) for v in value)
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"cannot digest a {type(value).__name__}: {value!r}")


def digest(*values: Any) -> str:
    """24 hexadecimal digits that name the content of `values` (arrays, dataclasses, JSON types)."""
    text = json.dumps(plain(values), sort_keys=True, ensure_ascii=False, allow_nan=True)
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
