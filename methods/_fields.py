"""What methods share that push states up a classifier: which states it is fitted on, and a layer setting.

Invariant: the classifier is fitted on the states after block l and acts after block l.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bench import Array, Context, Edit, Fitted, LayerSpec, Method, Size, Steering, Train, check_layer
from methods._directions import depths_read


@dataclass(frozen=True)
class ClassifierField(Method):
    """A classifier of states with and without the concept, as a velocity field; subclasses say which.

    It is fitted on the `states` of the texts, all of their tokens or each text's last, at most `most` of a side, drawn
    with the run's seed.
    """

    layer: LayerSpec = 0.5
    states: Literal["all", "last"] = "all"
    most: Size = 1024

    def __post_init__(self) -> None:
        check_layer(self.layer)

    @abstractmethod
    def field(self, layer: int, x: Array, y: Array, rng: np.random.Generator) -> tuple[Edit, dict[str, Any]]:
        """The edit after block `layer` and a note, from states `x` `[N, H]` and their labels `y` `[N]`, 0 or 1."""

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        chats = [[example.messages for example in part] for part in (train.negatives, train.positives)]
        found = []
        for together in depths_read(ctx, self.layer, (*train.negatives, *train.positives)):
            edits, notes = zip(*(self._field(ctx, train, layer, chats) for layer in together), strict=True)
            found.append(Fitted(Steering(edits=edits), note={"layers": list(together), "fits": list(notes)}))
        return found

    def _field(self, ctx: Context, train: Train, layer: int, chats: Any) -> tuple[Edit, dict[str, Any]]:
        sides, rng = [], ctx.rng(self.name, train.concept.id, layer)
        for side in chats:
            if self.states == "last":
                own = ctx.last(side, layer)[layer]
            else:
                own = np.concatenate([read.values[layer] for read in ctx.read(side, layer)])
            kept = np.sort(rng.permutation(len(own))[: self.most])
            sides.append(own[kept])
        x = np.concatenate(sides).astype(np.float64)
        return self.field(layer, x, np.repeat([0, 1], list(map(len, sides))), rng)
