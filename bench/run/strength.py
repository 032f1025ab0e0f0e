"""What a coefficient means: the length of a push at c = 1, so that methods compare.

Invariant: only what pushes (added vectors, clamps) has a unit that is measured. Low-rank edits and weight deltas have
the strength they were trained at, which stands at c = `TRAINED` in mode `norm`, amid the coefficients, and at
c = 1 otherwise; projections, rotations and maps are whole at c = 1 and tried at fractions of that
(`bench.run.trials`), and prompts are at their own strength. Two prompts that are mixed have c for their alpha, and
beside edits stand at alpha = 1 where what is trained stands. c = 0 is the bare model for all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from bench.core.content import digest
from bench.core.edits import Edit
from bench.core.errors import BenchError
from bench.core.interfaces import Context, Detector, Fitted
from bench.core.protocol import Protocol
from bench.core.rows import Rows
from bench.core.steering import Steering
from bench.core.values import Concept, Train

TRAINED = 0.3
"""The coefficient, in median norms, that stands for a trained change's own strength: c = 0.3 is factor 1."""


class Unmeasured(BenchError):
    """A unit is not kept, and nothing may be measured."""


class Strength:
    """Scales steerings in a protocol's unit; measurements are kept in `keep`, made there unless `measures` is false."""

    def __init__(
        self, context: Context, rules: Protocol, trains: Mapping[str, Train], keep: Rows, measures: bool = True
    ) -> None:
        self.context, self.rules, self.trains, self.keep, self.measures = context, rules, trains, keep, measures
        self._named: dict[tuple[str, int], tuple[int | Detector, str]] = {}

    def at(self, steering: Steering, candidate: Fitted, concept: Concept, c: float) -> Steering:
        """`steering` (a candidate's, after binding) at coefficient `c`."""
        if not steering.scalable:
            return steering if c else steering.scaled(0)
        added = [edit for edit in steering.edits if edit.length()]
        self._prepare(concept, [edit.layer for edit in added])
        # Vectors at several layers add up along the residual stream: together they make one push.
        total = self._total(candidate, concept, added)
        natural = 1 / TRAINED if self.rules.strength == "norm" else 1.0
        edits = tuple(
            self._sized(edit, 1 / total) if edit.length() else edit.scaled(natural) if edit.unit == "trained" else edit
            for edit in steering.edits
        )
        deltas = tuple(delta.scaled(natural * c) for delta in steering.deltas) if c else ()
        mix = steering.mix
        if mix and (deltas or any(edit.unit != "fraction" for edit in edits)):
            mix = dataclasses.replace(mix, alpha=mix.alpha * natural)
        sized = dataclasses.replace(steering, edits=edits, deltas=(), mix=mix)
        return dataclasses.replace(sized.scaled(c), deltas=deltas)

    def _total(self, candidate: Fitted, concept: Concept, added: list[Edit]) -> float:
        """How many units long the pushes are together."""
        if self.rules.strength == "norm" or candidate.factor is None:
            return sum(edit.length() / self._unit(candidate, concept, edit.layer) for edit in added)
        return 1 / (candidate.factor or self._largest(candidate, concept))

    def _sized(self, edit: Edit, factor: float) -> Edit:
        edit = edit.scaled(factor)
        if self.rules.compat:  # the reference steers every position, the first token too
            edit = dataclasses.replace(edit, span=dataclasses.replace(edit.span, sink=True))
        return edit

    def ratio(self, steering: Steering, concept: Concept) -> float | None:
        """Σ ‖v‖ / median ‖h‖ over the pushes of a scaled steering; None without one."""
        added = [edit for edit in steering.edits if edit.length()]
        found = [e.length() / self.median_norm(concept, e.layer) for e in added]
        return round(sum(found), 4) if found else None

    def median_norm(self, concept: Concept, layer: int) -> float:
        """Median ‖h‖ over the tokens of the concept's negative training texts after block `layer`."""
        negatives = self.trains[concept.id].negatives

        def measure() -> float:
            return float(np.median(np.linalg.norm(self.context.tokens(negatives, layer), axis=1)))

        return self._kept(self._key(concept, layer), measure)

    def _prepare(self, concept: Concept, layers: list[int]) -> None:
        """Read the layers whose norm is not kept yet in one pass."""
        todo = [layer for layer in layers if self._key(concept, layer) not in self.keep]
        if len(todo) > 1 and self.measures:
            self.context.read([example.messages for example in self.trains[concept.id].negatives], todo)

    def _unit(self, candidate: Fitted, concept: Concept, layer: int) -> float:
        """Length of a vector at c = 1: the median residual norm, or the largest detection score along it."""
        if self.rules.strength == "norm" or candidate.detector is None:  # where nothing detects there is no score
            return self.median_norm(concept, layer)
        weight = getattr(candidate.detector, "weight", None)
        largest = self._largest(candidate, concept)
        if isinstance(weight, np.ndarray) and weight.ndim == 1 and weight.any():
            return largest / float(np.linalg.norm(weight))  # a direction's score is in units of its length
        return largest

    def _largest(self, candidate: Fitted, concept: Concept) -> float:
        """The largest score that a candidate's detector gives to a training text."""
        train, detector = self.trains[concept.id], candidate.detector
        if detector is None:
            return 1.0

        def measure() -> float:
            largest = float(detector.score(self.context, [*train.positives, *train.negatives]).max())
            return largest if largest > 0 else 50.0  # AxBench's fallback

        return self._kept(self._key(concept, detector), measure)

    def _key(self, concept: Concept, of: int | Detector) -> str:
        """Of the norm after a block, or of a detector's largest score; the texts are digested once for each."""
        place = (concept.id, of if isinstance(of, int) else id(of))
        if place not in self._named:
            train = self.trains[concept.id]
            what = ("norm",) if isinstance(of, int) else ("max-act", train.positives)
            # The entry keeps a detector alive, so that no other takes its number.
            self._named[place] = (of, digest((*what, train.negatives, of), self.rules.budget.tokens))
        return self._named[place][1]

    def _kept(self, key: str, measure: Callable[[], float]) -> float:
        if key not in self.keep:
            if not self.measures:
                raise Unmeasured("a unit of strength is not kept")
            for _ in self.keep.portions([key]):
                self.keep.put(key, measure())
        return float(self.keep.get(key))
