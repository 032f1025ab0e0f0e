"""Methods made of other methods: around one (`a(b)`), or of several at once (`a+b`).

Invariant: what such a method needs, reads and costs follows from its members, by one rule.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from bench.core.errors import BenchError, UsageError
from bench.core.interfaces import Context, Fitted, Method
from bench.core.protocol import Budget
from bench.core.steering import Steering
from bench.core.values import Train

EITHER = ("suppresses", "one_way", "uses_judge", "uses_prompter", "needs_all_concepts")
"""What is true of the whole where it is true of a member."""
BOTH = ("deterministic", "validated", "points_away")
"""What is true of the whole where it is true of every member."""


class Wrapper(Method):
    """A method made of `members`, named `outer(inner)`; each member keeps its parameters under its own name."""

    own_views: ClassVar[frozenset[str]] = frozenset()
    """Training views it reads itself, beside its members."""
    own_needs: ClassVar[frozenset[str]] = frozenset()
    """Capabilities it needs itself."""

    @property
    @abstractmethod
    def members(self) -> tuple[Method, ...]: ...

    def __post_init__(self) -> None:
        members = self.members
        own: dict[str, Any] = {"name": f"{type(self).name}({members[0].name})"}
        own |= {name: any(getattr(m, name) for m in members) for name in EITHER}
        own |= {name: all(getattr(m, name) for m in members) for name in BOTH}
        # A combination takes one candidate of each member, and tries it at all strengths.
        own["sweeps"] = len(members) > 1 or members[0].sweeps
        own["views"] = self.own_views.union(*(m.views for m in members))
        own["needs"] = self.own_needs.union(*(m.needs for m in members))
        for name, value in own.items():  # of the instance: the class is registered under its own
            object.__setattr__(self, name, value)

    def under(self, compat: str) -> Self:
        """Its members as the mode has them."""

        def own(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(own(one) for one in value)
            return value.under(compat) if isinstance(value, Method) else value

        if not compat:
            return self
        values = {f.name: own(getattr(self, f.name)) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        try:
            return dataclasses.replace(self, **values)  # type: ignore[type-var]
        except ValueError as error:
            raise UsageError(f"{self.name} in mode {compat}: {error}") from error

    def params(self) -> dict[str, Any]:
        """Its own fields under its name, and each member's under the member's."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        found: dict[str, Any] = {type(self).name: {k: v for k, v in fields.items() if not isinstance(v, Method)}}
        for member in self.members:
            found |= member.params() if member.members else {member.name: member.params()}
        return found

    def candidates(self, budget: Budget) -> int:
        return self.members[0].candidates(budget)

    def prompt_writing_cost(self, budget: Budget) -> tuple[int, int]:
        each = [member.prompt_writing_cost(budget) for member in self.members]
        return sum(n for n, _ in each), sum(tokens for _, tokens in each)

    def fit_ratings(self, budget: Budget) -> int:
        return sum(member.fit_ratings(budget) for member in self.members)

    def training(self, budget: Budget) -> tuple[int, int]:
        each = [member.training(budget) for member in self.members]
        return sum(rows for rows, _ in each), sum(tokens for _, tokens in each)

    def samples_per_prompt(self, budget: Budget) -> int:
        return max(member.samples_per_prompt(budget) for member in self.members)


@dataclass(frozen=True)
class Composed(Wrapper):
    """Several methods at once, each by its first candidate, so that the trials stay equal."""

    parts: tuple[Method, ...]

    @property
    def members(self) -> tuple[Method, ...]:
        return self.parts

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "name", "+".join(part.name for part in self.parts))
        object.__setattr__(self, "surface", "combination")
        if self.samples_per_prompt(Budget(1, 1, 1, 1)) > 1:
            raise UsageError(f"{self.name}: an answer chosen among several cannot be merged with another method")
        if any(part.points_away for part in self.parts) and not self.points_away:
            raise UsageError(f"{self.name}: one part points away from the concept and another towards it")

    def params(self) -> dict[str, Any]:
        return {part.name: part.params() for part in self.parts}

    def candidates(self, budget: Budget) -> int:
        return 1

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        merged, notes, detector = Steering(), {}, None
        factors: set[float | None] = set()
        for part in self.parts:
            candidate = part.fit(ctx, train)[0]
            if not isinstance(candidate.steering, Steering):
                raise BenchError(f"{part.name} does not give a steering that can be merged")
            merged = merged.merged(candidate.steering)
            notes[part.name] = dict(candidate.note)
            detector = detector or candidate.detector
            if any(edit.length() for edit in candidate.steering.edits):
                factors.add(candidate.factor)
        # Pushes that are measured in different ways have one unit together: the score along them.
        return [Fitted(merged, detector, notes, factor=factors.pop() if len(factors) == 1 else None)]
