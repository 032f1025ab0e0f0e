"""The bare model: the zero point of every curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench import Context, Fitted, Method, Steering, Train, method


@method("none", surface="control", views=())
@dataclass(frozen=True)
class Bare(Method):
    """The model without any change.

    Equation: h ← h. Control; every steering at c = 0 must equal it exactly.
    """

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        return [Fitted(Steering())]
