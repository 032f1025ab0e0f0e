"""The grammar of method names: registered names, `a(b)` around another, `a+b` at once, families and globs.

Invariant: one name means one method, and a name that means none is refused with the nearest that does.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.core import registry
from bench.core.errors import BenchError, UsageError, suggest
from bench.core.interfaces import Context, Fitted, Method
from bench.core.protocol import Budget
from bench.core.steering import Steering
from bench.core.values import Train


def build_method(name: str, params: Mapping[str, Mapping[str, Any]]) -> Method:
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
    return re.findall(r"(?:[^+()]|\([^()]*(?:\([^()]*\))?[^()]*\))+", name)


def names_in(name: str) -> list[str]:
    """The registered names that a method's name is made of."""
    return name.replace(")", "").replace("(", "+").split("+")


def select(wanted: Sequence[str], uses: str = "steering") -> list[str]:
    """Method names from `all`, families, globs, exclusions (`-name` or `!name`), and combinations.

    `all` and globs are over the methods that give what the task uses (`steering` or `detector`).
    """
    known = registry.table("method")
    everything = [name for name, cls in known.items() if uses in cls.gives and not cls.named]
    everything += registry.combinations() if uses == "steering" else []
    families = dict.fromkeys(everything, "combination") | {name: cls.family for name, cls in known.items()}
    chosen: list[str] = []
    words = [word.strip() for entry in wanted for word in entry.split(",") if word.strip()]
    if words and all(word[0] in "-!" for word in words):
        words = ["all", *words]
    for word in words:
        name = word.lstrip("-!")
        if name == "all":
            found = everything
        elif name in families.values():
            found = [one for one in everything if families[one] == name]
            if not found:
                raise UsageError(f"no method of family {name} gives a {uses}, which this task needs")
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


@dataclass(frozen=True)
class Composed(Method):
    """Several methods at once, each by its first candidate, so that the trials stay equal."""

    parts: tuple[Method, ...]

    @property
    def name(self) -> str:  # type: ignore[override]
        return "+".join(part.name for part in self.parts)

    @property
    def family(self) -> str:  # type: ignore[override]
        return "combination"

    @property
    def views(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset().union(*(part.views for part in self.parts))

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset().union(*(part.needs for part in self.parts))

    @property
    def members(self) -> tuple[Method, ...]:
        return self.parts

    def __post_init__(self) -> None:
        if sum(part.draws(Budget(1, 1, 1, 1)) > 1 for part in self.parts):
            raise UsageError(f"{self.name}: an answer chosen among several cannot be merged with another method")
        if any(part.away for part in self.parts) and not all(part.away for part in self.parts):
            raise UsageError(f"{self.name}: one part points away from the concept and another towards it")
        own = {"validated": all(part.validated for part in self.parts)}
        own["away"] = all(part.away for part in self.parts)
        own["deterministic"] = all(part.deterministic for part in self.parts)
        for flag in ("judged", "pooled", "prompted", "suppresses"):
            own[flag] = any(getattr(part, flag) for part in self.parts)
        for flag, value in own.items():  # of the instance: a combination is what its parts are
            object.__setattr__(self, flag, value)

    def params(self) -> dict[str, Any]:
        return {part.name: part.params() for part in self.parts}

    def drafts(self, budget: Budget) -> tuple[int, int]:
        each = [part.drafts(budget) for part in self.parts]
        return sum(n for n, _ in each), sum(tokens for _, tokens in each)

    def training(self, budget: Budget) -> tuple[int, int]:
        each = [part.training(budget) for part in self.parts]
        return sum(rows for rows, _ in each), sum(tokens for _, tokens in each)

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        merged, notes, detector = Steering(), {}, None
        for part in self.parts:
            candidate = part.fit(ctx, train)[0]
            if not isinstance(candidate.steering, Steering):
                raise BenchError(f"{part.name} does not give a steering that can be merged")
            merged = merged.merged(candidate.steering)
            notes[part.name] = dict(candidate.note)
            detector = detector or candidate.detector
        return [Fitted(merged, detector, notes)]
