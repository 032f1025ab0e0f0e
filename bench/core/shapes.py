"""What a value read from a file must look like, said as types: `dict[str, float | None]`, a `TypedDict`, `Count`.

Invariant: a value that is held to a shape can be used without a further look; where it does not fit, the error names
the innermost part that does not, as `concepts.ocean.test.overall`.

A shape is a type as an annotation has it: `Any`; `int`, `float` (whole numbers too), `str`, `bool` and None; unions;
`Literal`; `list[X]`; `tuple[X, Y]` (a list of two); `dict[str, X]`; `TypedDict`s, whose other keys are left alone; and
`Annotated[X, test, …]`, where a test raises ValueError for what is of the type and yet cannot be.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

Check = Callable[[Any], None]


class Misfit(ValueError):
    """A value that does not fit; its text says where in the whole, and why."""

    def __init__(self, reason: str, *place: str) -> None:
        self.reason, self.place = reason, place
        super().__init__(f"{'.'.join(place)} {reason}" if place else f"it {reason}")

    def within(self, part: object) -> Misfit:
        """The same misfit, seen from the value that has this one as its `part`."""
        return Misfit(self.reason, str(part), *self.place)


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`, both allowed."""

    low: float
    high: float = float("inf")

    def __call__(self, value: float) -> None:
        if not self.low <= value <= self.high:
            raise ValueError(f"is not {self.low:g} or more" if self.high == float("inf") else f"is not {self}")

    def __str__(self) -> str:
        return f"from {self.low:g} to {self.high:g}"


def spoken(value: str) -> None:
    """A text with something in it."""
    if not value.strip():
        raise ValueError("is empty")


MOST = 1_000_000
"""The largest number that a setting may be: a rank, a rate, a number of tokens. More would only run out of memory."""
Count = Annotated[int, Range(0)]
Size = Annotated[int, Range(1, MOST)]
Share = Annotated[float, Range(0, 1)]
Amount = Annotated[float, Range(0, MOST)]
Positive = Annotated[float, Range(1e-12, MOST)]
Text = Annotated[str, spoken]
"""A text that says something."""


def held(value: Any, shape: Any) -> Any:
    """`value`, which fits `shape`; raises `Misfit`."""
    _check(shape)(value)
    return value


NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", types.NoneType: "nothing"}
KINDS: dict[type, tuple[type, ...]] = {float: (int, float), dict: (dict,), list: (list,)}


def shown(value: Any) -> str:
    """A value in a message: short, in one line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


@cache
def _check(shape: Any) -> Check:
    origin, arguments = typing.get_origin(shape), typing.get_args(shape)
    if shape is Any:
        return lambda value: None
    if origin is Annotated:
        return _tested(_check(arguments[0]), arguments[1:])
    if origin in (types.UnionType, typing.Union):
        return _either(arguments)
    if origin is typing.Literal:
        return _one_of(arguments)
    if origin is list:
        return _list(_check(arguments[0]))
    if origin is tuple:
        return _tuple([_check(one) for one in arguments])
    if origin is dict:
        return _dict(_check(arguments[1]))
    if typing.is_typeddict(shape):
        hints = typing.get_type_hints(shape, include_extras=True)
        free = {name for name, hint in hints.items() if typing.get_origin(hint) is typing.NotRequired}
        fields = {name: typing.get_args(hint)[0] if name in free else hint for name, hint in hints.items()}
        return _record({name: _check(hint) for name, hint in fields.items()}, fields.keys() - free)
    return _plain(types.NoneType if shape is None else shape)


def _plain(kind: type) -> Check:
    known = KINDS.get(kind, (kind,))
    name = {**NAMES, dict: "an object", list: "a list"}[kind]

    def check(value: Any) -> None:
        if type(value) not in known:
            raise Misfit(f"is {shown(value)}, not {name}")

    return check


def _tested(inner: Check, tests: tuple[Callable[[Any], None], ...]) -> Check:
    def check(value: Any) -> None:
        inner(value)
        try:
            for test in tests:
                test(value)
        except Misfit:
            raise
        except ValueError as error:
            raise Misfit(f"is {shown(value)}, which {error}") from error

    return check


def _either(options: tuple[Any, ...]) -> Check:
    checks = [_check(option) for option in options]

    def check(value: Any) -> None:
        failed: list[Misfit] = []
        for one in checks:
            try:
                return one(value)
            except Misfit as error:
                failed.append(error)
        raise max(failed, key=lambda error: (len(error.place), "which" in error.reason))  # the one that was meant

    return check


def _one_of(values: tuple[Any, ...]) -> Check:
    def check(value: Any) -> None:
        if not any(type(value) is type(one) and value == one for one in values):
            raise Misfit(f"is {shown(value)}, none of {', '.join(map(repr, values))}")

    return check


def _list(inner: Check) -> Check:
    outer = _plain(list)

    def check(value: Any) -> None:
        outer(value)
        for i, one in enumerate(value):
            try:
                inner(one)
            except Misfit as error:
                raise error.within(i) from None

    return check


def _tuple(inner: list[Check]) -> Check:
    def check(value: Any) -> None:
        if type(value) is not list or len(value) != len(inner):
            raise Misfit(f"is {shown(value)}, not a list of {len(inner)}")
        for i, (one, test) in enumerate(zip(value, inner, strict=True)):
            try:
                test(one)
            except Misfit as error:
                raise error.within(i) from None

    return check


def _dict(inner: Check) -> Check:
    outer = _plain(dict)

    def check(value: Any) -> None:
        outer(value)
        for name, one in value.items():
            try:
                inner(one)
            except Misfit as error:
                raise error.within(name) from None

    return check


def _record(fields: dict[str, Check], required: set[str]) -> Check:
    outer = _plain(dict)

    def check(value: Any) -> None:
        outer(value)
        for name, inner in fields.items():
            if name in value:
                try:
                    inner(value[name])
                except Misfit as error:
                    raise error.within(name) from None
        if missing := sorted(required - value.keys()):
            raise Misfit(f"lacks {', '.join(missing)}")

    return check
