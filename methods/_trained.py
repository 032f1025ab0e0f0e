"""What trained methods share: a parametrisation crossed with an objective, by the names of their fields.

Invariant: a method's fields reach the parametrisation and the objective that have fields of the same name,
and a pair that cannot run is refused when the method is made.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from bench import BenchError, Budget, Context, Detector, Fitted, Method, Positive, Size, Train
from bench.training.objectives.all import objectives, refusal
from bench.training.objectives.base import Objective, settings
from bench.training.parametrisations import Parametrisation, forms
from methods._directions import DirectionDetector


@dataclass(frozen=True)
class Trained(Method):
    """A parametrisation trained on an objective; subclasses say which, with what settings.

    `rate` and vectors' lengths are relative to the model (a vector's to its median ‖h‖, see
    `VectorChange`). Under `--compat axbench`, units are the reference's, fields left at their default take what
    `axbench` says, and so does the recipe (`bench.training.trainer.Recipe`).
    """

    own_epochs: ClassVar[int] = 24
    """How often it goes over its texts where the budget leaves that to the method (0): as in its paper, or as AxBench
    trains LoRA where a paper has thousands of texts to go over."""
    axbench: ClassVar[Mapping[str, Any]] = {}
    """The reference's settings, by field of the method or of the recipe."""
    factor: ClassVar[float] = 0.0
    """What the reference multiplies a vector of its own length with at factor 1; 0: its largest detection score."""

    parametrisation: str = "vector"
    objective: str = "lm"
    rate: Positive = 0.1
    batch: Size = 2
    factors: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        form, goal = self.form, self.goal
        if why := refusal(form.name, goal.name, getattr(form, "strict", True)):
            raise ValueError(f"parametrisation {form.name} with objective {goal.name}: {why}")
        if self.rate <= 0 or self.batch < 1 or not self.factors or not all(self.factors):
            raise ValueError(f"rate = {self.rate}, batch = {self.batch}, factors = {self.factors}: all must be above 0")
        whole = "embeds" in form.needs
        if whole and set(self.factors) != {1.0}:
            raise ValueError(f"factors = {self.factors}: a soft prompt has one strength, 1")
        # Of the instance: crossing changes what the registered class says of its own pair.
        object.__setattr__(self, "views", goal.views)
        object.__setattr__(self, "needs", form.needs | {"train"})
        object.__setattr__(self, "one_way", whole or type(self).one_way)
        detects = {"detector"} if form.needs == {"add"} else set()
        object.__setattr__(self, "provides", frozenset({"steering"} | detects))

    @property
    def form(self) -> Parametrisation:
        made: Parametrisation = settings(forms(), self.parametrisation, vars(self), "parametrisation")
        return made

    @property
    def goal(self) -> Objective:
        made: Objective = settings(objectives(), self.objective, vars(self), "objective")
        return made

    @property
    def definitions(self) -> tuple[type[Any], ...]:
        """Its parametrisation, what does its work, and its objective too, which its fields name."""
        from bench.training.changes.build import change_of  # loads torch

        return (type(self), type(self.form), change_of(self.form), type(self.goal))

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        return next(self.fit_all(ctx, [train]))

    def fit_all(self, ctx: Context, trains: Sequence[Train]) -> Iterator[Sequence[Fitted]]:
        """All concepts in one batch."""
        for one in self.under(ctx.compat).learn(ctx, trains):
            yield [replace(self.fitted(one), factor=self.factor) if ctx.compat else self.fitted(one)]

    def training(self, budget: Budget) -> tuple[int, int]:
        goal = self.goal
        both = 2 if getattr(goal, "both", False) else 1
        rows = both * max(1, budget.sequences // 2) * len(goal.slots) * (budget.epochs or self.own_epochs)
        return rows, rows * budget.tokens

    def under(self, compat: str) -> Trained:
        """The method with the reference's settings where its mode is on and the user named none."""
        if compat != "axbench":
            return self
        same = {f.name for f in fields(self) if getattr(self, f.name) == f.default}
        return replace(self, **{name: value for name, value in self.axbench.items() if name in same})

    def recipe(self, ctx: Context) -> Any:
        """How it trains here (`bench.training.trainer.Recipe`)."""
        from bench.training.trainer import Recipe  # loads torch

        own = {f.name for f in fields(self)}
        given = {k: v for k, v in self.axbench.items() if k not in own} if ctx.compat == "axbench" else {}
        epochs = ctx.budget.epochs or self.own_epochs
        return Recipe(self.rate, self.batch, self.factors, epochs=epochs, **given)

    def learn(self, ctx: Context, trains: Sequence[Train]) -> Iterator[Any]:
        from bench.training import trainer  # loads torch

        return trainer.train(ctx, self.name, trains, self.form, self.goal, self.recipe(ctx))

    def fitted(self, one: Any) -> Fitted:
        """A trained concept as steering, detector and note."""
        return Fitted(one.change.steering(one.number), self.detector(one.change.direction(one.number)), one.note)

    def detector(self, found: tuple[int, Any] | None) -> Detector | None:
        if found is None:
            return None
        layer, vector = found
        if not vector.any():
            raise BenchError(f"the vector after block {layer} stayed at 0: nothing was learnt")
        return DirectionDetector(layer, vector)


@dataclass(frozen=True)
class Pooled(Trained):
    """One network for many concepts: each of `folds` parts of the run's concepts has its steerings from a network that
    was trained on the other parts; a run of one concept trains on that one and says so."""

    folds: Size = 3

    def fit_all(self, ctx: Context, trains: Sequence[Train]) -> Iterator[Sequence[Fitted]]:
        pool = list(ctx.trains) or list(trains)
        names, folds = [train.concept.id for train in pool], min(self.folds, len(pool))
        made: dict[int, tuple[Any, list[Train]]] = {}
        for train in trains:
            place = names.index(train.concept.id) if train.concept.id in names else 0
            fold = place % folds
            if fold not in made:
                others = [one for i, one in enumerate(pool) if i % folds != fold]
                shown = others or pool
                made[fold] = (list(self.under(ctx.compat).learn(ctx, shown)), shown)
            learnt, shown = made[fold]
            note = {"held_out": train not in shown, "trained_on": len(shown), **learnt[0].note}
            yield [replace(self.unseen(ctx, learnt[0].change, train), note=note)]

    @abstractmethod
    def unseen(self, ctx: Context, change: Any, train: Train) -> Fitted:
        """What a trained network gives for a concept, from its words alone."""

    def training(self, budget: Budget) -> tuple[int, int]:
        """Each concept's texts are in the training of every fold but its own."""
        rows, tokens = super().training(budget)
        return rows * max(1, self.folds - 1), tokens * max(1, self.folds - 1)
