"""HyperSteer: a network that reads a concept's description and writes its vector, tried on concepts it never saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from bench import Add, Array, Context, Fitted, Positive, Size, Steering, Train, method
from methods._trained import Pooled


@method(
    "hypersteer",
    surface="activations",
    paper="arXiv:2506.03292",
    needs=["add", "train"],
    provides=["steering", "detector"],
    needs_all_concepts=True,
)
@dataclass(frozen=True)
class HyperSteer(Pooled):
    """A hypernetwork from the concept's words to a vector, trained on the run's other concepts.

    Equation: w(c) = B·SiLU(A f(c) + a) `[H]`, f(c) the frozen model's mean state over the concept's description
    after block `layer`; A `[width, H]`, B `[H, width]` are trained over all concepts jointly on
    -mean_t log p(y_t | x, y_<t; h ← h + μw(c)). Each of `folds` parts of the concepts gets its vectors from a
    network trained on the others; a run of one concept trains on that one and says so.
    Deviations: the paper trains a copy of the model's first blocks with cross-attention to the prompt; here
    the encoder is the frozen model and the context-free variant, so that it trains on a laptop.
    Reproduction: the paper reports .373 for the context-free variant on held-out concepts (Gemma-2-2B).
    """

    own_epochs: ClassVar[int] = 3
    parametrisation: str = "hyper"
    rate: Positive = 0.01
    layer: int | float = 0.5
    width: Size = 64
    init: float = 0.01

    def unseen(self, ctx: Context, change: Any, train: Train) -> Fitted:
        from bench.training.changes.base import TrainingContext

        vector: Array = np.asarray(change.unseen(TrainingContext(ctx, [train]))[0], np.float32)
        steering = Steering(edits=(Add(layer=change.layer, value=vector),))
        return Fitted(steering, self.detector((change.layer, vector)), factor=self.factor if ctx.compat else None)
