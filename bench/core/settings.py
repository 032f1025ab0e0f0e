"""Values from a command line or a file as what a field is annotated with.

Invariant: a name that is no field and a value that is not of its type are refused, with what was meant.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from bench.core.errors import UsageError, suggest

Data = TypeVar("Data")


def changed(value: Data, settings: Mapping[str, Any], where: str) -> Data:
    """A dataclass with other values in some fields, given as `name` or `part.name`; raises UsageError."""
    own: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {}
    hints = typing.get_type_hints(type(value), include_extras=True)
    for key, given in settings.items():
        name, _, rest = key.partition(".")
        if name not in hints:
            raise UsageError(f"{where} has no field {name!r}: {suggest(name, hints)}")
        nested = dataclasses.is_dataclass(hints[name])
        if nested and not rest:
            fields = ", ".join(f"{name}.{f}" for f in typing.get_type_hints(hints[name]))
            raise UsageError(f"{where}.{name}: give one of {fields}")
        if rest and not nested:
            raise UsageError(f"{where}.{key}: {where}.{name} has no fields")
        if rest:
            parts.setdefault(name, {})[rest] = given
        else:
            own[name] = cast(given, hints[name], f"{where}.{name}")
    own |= {name: changed(getattr(value, name), inner, f"{where}.{name}") for name, inner in parts.items()}
    return dataclasses.replace(value, **own)  # type: ignore[type-var]


def known(cls: type[Data], values: Mapping[str, Any]) -> Data:
    """A dataclass of those `values` that are its fields: a file may hold what another version wrote besides."""
    fields = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    return cls(**{name: value for name, value in values.items() if name in fields})


LARGEST = 2**32
"""Above what any field means, and what a seed may be: larger numbers hang a loop, or overflow in a library."""
WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "none"}


def cast(value: Any, hint: Any, where: str) -> Any:
    """`value` (text from a command line, or already typed) as the type a field is annotated with."""
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    options = typing.get_args(hint) if union else (hint,)
    if typing.get_origin(hint) is Annotated:
        inner, *tests = typing.get_args(hint)
        made = cast(value, inner, where)
        for test in tests:
            try:
                test(made)
            except ValueError as error:
                raise UsageError(f"{where} = {value!r} {error}") from error
        return made
    for option in options:
        try:
            return _as(value, option, where)
        except (TypeError, ValueError):
            continue
    shown = " or ".join(map(_told, options))
    raise UsageError(f"{where} = {value!r} is not {shown}")


def _told(option: Any) -> str:
    if typing.get_origin(option) is typing.Literal:
        return f"one of {', '.join(map(str, typing.get_args(option)))}"
    return WORDS.get(option, getattr(option, "__name__", str(option)))


def _as(value: Any, option: Any, where: str) -> Any:
    """`value` as one type; raises ValueError where it is not."""
    origin = typing.get_origin(option)
    if origin is typing.Literal:
        if value in typing.get_args(option):
            return value
    elif origin is tuple:
        parts = [part for part in value.split(",") if part] if isinstance(value, str) else value
        if isinstance(parts, list | tuple):
            inner = typing.get_args(option)[0]
            return tuple(cast(part, inner, where) for part in parts)
    elif option is bool:
        if str(value).lower() in ("true", "false"):
            return str(value).lower() == "true"
    elif option in (int, float):
        exact = isinstance(value, str | int) or (option is float and isinstance(value, float))
        if exact and not isinstance(value, bool) and math.isfinite(number := option(value)) and abs(number) < LARGEST:
            return number
    elif isinstance(option, type) and isinstance(value, option):
        return value
    raise ValueError(where)
