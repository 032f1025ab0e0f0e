"""The grammar of method names: registered names, `a(b)` around another, `a+b` at once, surfaces and globs.

Invariant: one name means one method, and a name that means none is refused with the nearest that does.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from bench.core import registry
from bench.core.composition import Composed
from bench.core.errors import UsageError, suggest
from bench.core.interfaces import Method


def build_method(name: str, params: Mapping[str, Mapping[str, Any]] = MappingProxyType({})) -> Method:
    """A registered method, one around another `a(b)`, or a combination `a+b`, with its parameters."""
    parts = [_wrapped(part, params) for part in _terms(name)]
    made: Method = parts[0] if len(parts) == 1 else Composed(tuple(parts))
    return made


def _wrapped(name: str, params: Mapping[str, Mapping[str, Any]]) -> Method:
    outer, _, rest = name.partition("(")
    extra = {}
    if rest:
        if "inner" not in {f.name for f in dataclasses.fields(registry.get("method", outer))}:
            raise UsageError(f"{name}: {outer} is no method around another")
        extra["inner"] = build_method(rest.removesuffix(")"), params)
    made: Method = registry.build("method", outer, dict(params.get(outer, {})), **extra)
    return made


def _terms(name: str) -> list[str]:
    """`a+b(c+d)` -> `a`, `b(c+d)`."""
    if name.count("(") != name.count(")") or ("(" in name and not re.fullmatch(r"[^()]*(\(.*\)[^()]*)+", name)):
        raise UsageError(f"{name}: its brackets do not match")
    found = re.findall(r"(?:[^+()]|\([^()]*(?:\([^()]*\))?[^()]*\))+", name)
    if not found or "+".join(found) != name:
        raise UsageError(f"{name!r} is no method's name: one of its parts has none")
    return found


def names_in(name: str) -> list[str]:
    """The registered names that a method's name is made of."""
    return name.replace(")", "").replace("(", "+").split("+")


def select(wanted: Sequence[str], kind: str = "steering", options: bool = False) -> list[str]:
    """Method names from `all`, surfaces (unless a method has that name), globs, exclusions (`-name` or `!name`), and
    combinations.

    `all` and globs are over the methods that give what the task uses (`steering` or `detector`), and where it gives
    `options` over those that rate them.
    """
    known = registry.table("method")
    used = {kind, "options"} if options else {kind}
    everything = [name for name, cls in known.items() if used & cls.provides and not cls.named]
    everything += registry.combinations() if kind == "steering" else []
    surfaces = dict.fromkeys(everything, "combination") | {name: cls.surface for name, cls in known.items()}
    chosen: list[str] = []
    words = [word.strip() for entry in wanted for word in entry.split(",") if word.strip()]
    if words and all(word[0] in "-!" for word in words):
        words = ["all", *words]
    for word in words:
        name = word.lstrip("-!")
        if name == "all":
            found = everything
        elif name in surfaces.values() and name not in known:
            found = [one for one in everything if surfaces[one] == name]
            if not found:
                raise UsageError(f"no method of surface {name} gives a {kind}, which this task needs")
        elif any(c in name for c in "*?["):
            found = fnmatch.filter(everything, name)
        else:
            for part in names_in(name):
                if not part:
                    raise UsageError(f"{name}: one of its parts has no name")
                registry.get("method", part)
            found = [name]
        if not found:
            raise UsageError(f"no method matches {name!r}: {suggest(name, everything)}")
        if word[0] in "-!":
            chosen = [c for c in chosen if c not in found]
        else:
            chosen += [f for f in found if f not in chosen]
    if not chosen:
        raise UsageError("no method is left to run")
    return chosen
