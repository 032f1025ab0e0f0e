"""What direction methods share: a layer setting, and the steering and detector made from one vector.

Invariant: the direction read after block l is written after block l.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bench import (
    Add,
    Array,
    BenchError,
    Context,
    Edit,
    Example,
    Fitted,
    LayerSpec,
    Method,
    Span,
    Steering,
    Train,
    check_layer,
    stored,
)


@stored
@dataclass(frozen=True, eq=False)
class DirectionDetector:
    """Score of a text: max over its tokens of h·w + b (AxBench's Eq. 2), w `[H]`."""

    layer: int
    weight: Array
    bias: float = 0.0

    def score(self, ctx: Context, texts: Sequence[Example]) -> Array:
        reads = ctx.read([text.messages for text in texts], self.layer)
        return np.array([float((read.values[self.layer] @ self.weight).max()) for read in reads]) + self.bias


@dataclass(frozen=True)
class DirectionMethod(Method):
    """A method that gives one vector per layer; subclasses say which.

    `layer` is an index, a relative depth, a span `a:b` (edited together), or `select` (one candidate
    per judged trial; the select split picks).
    """

    layer: LayerSpec = 0.5

    def __post_init__(self) -> None:
        check_layer(self.layer)

    @abstractmethod
    def vector(self, ctx: Context, train: Train, layer: int) -> Array:
        """The direction `[H]` after block `layer`; its length is measured, not used."""

    def prefetch(self, ctx: Context, train: Train, layers: list[int]) -> None:
        """Read what `vector` needs at several layers in one pass."""
        ctx.read([example.messages for example in (*train.positives, *train.negatives)], layers)

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        depths = ctx.depths(self.layer)
        layers = [layer for together in depths for layer in together]
        if len(layers) > 1:
            self.prefetch(ctx, train, layers)
        return [
            together([direction(self.vector(ctx, train, layer), layer, self.span) for layer in edited])
            for edited in depths
        ]

    @property
    def span(self) -> Span:
        """Positions the vector is added at; all of them unless a method says otherwise."""
        return Span()


def unit(vector: Array, layer: int) -> Array:
    """A direction `[H]` at length 1."""
    norm = float(np.linalg.norm(vector))
    if not np.isfinite(norm) or norm == 0:
        raise BenchError(f"the direction at layer {layer} has norm {norm}: nothing separates the texts")
    found: Array = (vector / norm).astype(np.float32)
    return found


def direction(vector: Array, layer: int, span: Span | None = None) -> Fitted:
    """A unit direction `[H]` as steering (added at `span`, by default everywhere) and as detector."""
    along = unit(vector, layer)
    steering = Steering(edits=(Add(layer=layer, value=along, span=span or Span()),))
    return Fitted(
        steering, DirectionDetector(layer, along), {"layer": layer, "raw_norm": float(np.linalg.norm(vector))}
    )


def together(parts: Sequence[Fitted]) -> Fitted:
    """Directions at several layers as one candidate; the middle one detects."""
    middle = parts[len(parts) // 2]
    if len(parts) == 1:
        return middle
    edits = tuple(edit for part in parts if isinstance(part.steering, Steering) for edit in part.steering.edits)
    layers = [part.note["layer"] for part in parts]
    return replace(middle, steering=Steering(edits=edits), note={"layers": layers})


def depths_read(ctx: Context, spec: LayerSpec, texts: Sequence[Example]) -> list[tuple[int, ...]]:
    """The layers of each candidate (`Context.depths`), all of them read for `texts` in one pass."""
    depths = ctx.depths(spec)
    ctx.read([text.messages for text in texts], [layer for layers in depths for layer in layers])
    return depths


def as_one(made: Sequence[tuple[Edit, Mapping[str, Any]]]) -> Fitted:
    """Edits at several layers as one candidate; the middle one's note tells of it."""
    edits, notes = zip(*made, strict=True)
    return Fitted(Steering(edits=edits), note=notes[len(notes) // 2])


def responses(ctx: Context, texts: Sequence[Example], layer: int) -> Array:
    """States `[n, H]` of the texts' response tokens after block `layer`."""
    reads = ctx.read([text.messages for text in texts], layer)
    return np.concatenate([read.answer(layer) for read in reads]).astype(np.float64)


def orthogonal(vector: Array, along: Array) -> Array:
    """What of `vector` `[H]` is orthogonal to the unit vector `along`, at length 1."""
    vector = vector / np.linalg.norm(vector)
    rest = vector - (vector @ along) * along
    if np.linalg.norm(rest) < 1e-6:  # the same line: any direction beside it will do
        rest = np.eye(len(along), dtype=np.float32)[int(np.abs(along).argmin())]
        rest = rest - (rest @ along) * along
    found: Array = (rest / np.linalg.norm(rest)).astype(np.float32)
    return found


def first_component(rows: Array) -> Array:
    """First principal component `[H]` of `rows` `[N, H]`, mean removed."""
    from sklearn.decomposition import PCA

    component: Array = PCA(n_components=1, svd_solver="covariance_eigh").fit(rows).components_[0]
    return component


def oriented(vector: Array, positives: Array, negatives: Array) -> Array:
    """`vector` with the sign under which positives `[N, H]` project above negatives `[M, H]`."""
    return vector if (positives @ vector).mean() >= (negatives @ vector).mean() else -vector


def agreeing(vector: Array, positives: Array, negatives: Array) -> Array:
    """`vector` with the sign under which most pairs `[N, H]` have their positive above; the mean
    difference settles a tie."""
    along = (positives - negatives) @ vector
    votes = np.sign(along).sum() or along.mean()
    return vector if votes >= 0 else -vector
