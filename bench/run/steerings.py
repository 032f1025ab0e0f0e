"""The steering of a trial: a fitted candidate, bound to its prompt, turned away from what a task suppresses, at a
coefficient.

Invariant: what a test answer was made with, an export writes and a cost is measured of comes from here alone.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bench.core.content import Message, digest
from bench.core.definitions import code_digest
from bench.core.errors import BenchError
from bench.core.interfaces import Bound, Context, Fitted, Method, Task
from bench.core.protocol import Protocol
from bench.core.rows import Rows
from bench.core.steering import Steering
from bench.core.store import Artefacts
from bench.core.values import Concept
from bench.run.fits import Fits
from bench.run.steering_contract import misshapen
from bench.run.strength import Strength
from bench.run.views import Views


class Steerings:
    """A task's concepts under one protocol, with the fits and the units of strength that are kept in `root`.

    `uses_judge` names the judge that fits may ask. Where `measures` is false nothing is read from the model, and a unit
    that is not kept yet is an error (`bench.run.strength.Unmeasured`).
    """

    def __init__(
        self, context: Context, rules: Protocol, task: Task, root: Path, judged: str, measures: bool = True
    ) -> None:
        self.context, self.rules, self.task = context, rules, task
        self.concepts = list(task.concepts())
        answers = Rows(root / "rows" / "answers" / context.lm.fingerprint())
        self.views = Views(context, rules, task, answers, measures)
        self.trains = self.views.trains
        self.units = Rows(root / "rows" / "units" / digest(context.lm.fingerprint(), code_digest(Strength)))
        self.strength = Strength(context, rules, self.trains, self.units, measures)
        self.by_seed = [
            Fits(one, Artefacts(root / "fits"), self.trains, task.kind, judged, task.suppresses_concept, self.views.of)
            for one in (replace(context, seed=context.seed + s) if s else context for s in range(rules.fits))
        ]
        self._bound: dict[tuple[int, tuple[Message, ...]], tuple[Bound, Steering]] = {}

    @property
    def fits(self) -> Fits:
        """The fits with the run's own seed."""
        return self.by_seed[0]

    def of(
        self, method: Method, concept: Concept, candidate: Fitted, coefficient: float, messages: tuple[Message, ...]
    ) -> Steering:
        """What answers to `messages` are made with; every coefficient scales the same binding."""
        steering = candidate.steering
        if isinstance(steering, Bound):
            place = (id(steering), messages)  # the entry keeps it alive, so that no other takes its number
            if place not in self._bound:
                bound = steering.bind(self.context.lm, messages)
                if problem := misshapen(bound, self.context.lm):
                    raise BenchError(f"bound to a prompt, {problem}")
                self._bound[place] = (steering, bound)
            steering = self._bound[place][1]
        assert steering is not None
        return self.at(method, steering, concept, candidate, coefficient)

    def at(
        self, method: Method, steering: Steering, concept: Concept, candidate: Fitted, coefficient: float
    ) -> Steering:
        """A candidate's steering, bound already, at a coefficient."""
        return applied(steering, turned(self.task, method), self.strength, candidate, concept, coefficient)


def turned(task: Task, method: Method) -> bool:
    """Whether a method's edits are taken the other way round: the concept is to go, and they point to it."""
    return task.suppresses_concept and not method.points_away


def applied(
    steering: Steering, away: bool, strength: Strength, candidate: Fitted, concept: Concept, coefficient: float
) -> Steering:
    """A steering as answers are made with it: opposed where it is to lead away, in the protocol's unit."""
    return strength.at(steering.negated() if away else steering, candidate, concept, coefficient)
