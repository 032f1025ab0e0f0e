"""Combinations of methods: `prompt+diffmean` is the merge of two steerings.

Invariant: a coefficient scales what acts inside the model; the prompt part stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.core.interfaces import Context, Fitted, Method
from bench.core.steering import Steering
from bench.core.values import BenchError, Budget, Train, UsageError


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
