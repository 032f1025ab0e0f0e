"""What is learnt: one frozen dataclass of settings per parametrisation, by name.

Invariant: nothing here imports torch; `bench.training.changes` does the work.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from bench.core.interfaces import LayerSpec, check_layer

SPREAD: tuple[LayerSpec, ...] = (0.2, 0.4, 0.6, 0.8)
"""AxBench's four layers of Gemma-2-2B (5, 10, 15, 20 of 26) as relative depths."""
WRITERS = ("attn-out", "mlp-out")
"""The linear modules that write to the residual stream, by their roles: every family has names of its own
(`bench.backends.hf.modules.ROLES`)."""


class Parametrisation:
    """Settings of one way to change a model."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]]
    """What a backend must be able to apply."""


_forms: dict[str, type[Parametrisation]] = {}


def parametrisation(name: str, *needs: str) -> Callable[[type[Parametrisation]], type[Parametrisation]]:
    """Register a parametrisation; `needs` are the capabilities its exports ask of a backend."""

    def add(cls: type[Parametrisation]) -> type[Parametrisation]:
        cls.name, cls.needs = name, frozenset(needs)
        _forms[name] = cls
        return cls

    return add


def forms() -> dict[str, type[Parametrisation]]:
    """All parametrisations by name."""
    return dict(_forms)


@parametrisation("vector", "add")
@dataclass(frozen=True)
class Vector(Parametrisation):
    """One vector added after block `layer`; it starts at `init` median norms, in a random direction.

    As in AxBench's code, `start` may be `constant` (every entry `init`) or `uniform` (within ±1/√H), and a scalar
    `bias` b may be learnt beside it: h + (a + b)·w, and in what is taken out ReLU(h·w + b).
    """

    layer: int | float = 0.5
    init: float = 0.01
    start: Literal["normal", "constant", "uniform"] = "normal"
    bias: bool = False


@parametrisation("gated", "add")
@dataclass(frozen=True)
class Gated(Parametrisation):
    """A unit vector added as far as its `k` largest ReLU activations on the text say (ReFT-r1); `sparsity`
    weighs the penalty on all other activations."""

    layer: int | float = 0.5
    k: int = 8
    sparsity: float = 0.005


@parametrisation("hyper", "add")
@dataclass(frozen=True)
class HyperNetwork(Parametrisation):
    """A vector after block `layer` that a network of `width` hidden units makes from the concept's words."""

    layer: int | float = 0.5
    width: int = 64
    init: float = 0.01


@parametrisation("psr", "scaled")
@dataclass(frozen=True)
class Focused(Parametrisation):
    """A vector at each of several blocks, added as far as the token's own state says: ReLU(w·h + b) z.

    Without `gate` the factor stays 1: a constant vector at each block, the twin that says what the gate adds.
    """

    layers: tuple[LayerSpec, ...] = ("0.0:-1",)
    gate: bool = True

    def __post_init__(self) -> None:
        _depths(self.layers)


@parametrisation("flow", "concept-flow")
@dataclass(frozen=True)
class Flow(Parametrisation):
    """A velocity field after block `layer` that reads the concept's words, followed in `steps` steps for a time that
    each training step draws from `times`; `diversity` weighs the cosine between pushes to different concepts, and
    `together` concepts make a training step."""

    layer: int | float = 0.5
    steps: int = 3
    times: tuple[float, ...] = (0.5, 2.0)
    diversity: float = 0.1
    together: int = 4

    def __post_init__(self) -> None:
        _positive(steps=self.steps, together=self.together)
        if len(self.times) != 2 or not 0 < self.times[0] <= self.times[1]:
            raise ValueError(f"times = {self.times}: the shortest and the longest, above 0, are due")


@parametrisation("loreft", "lowrank")
@dataclass(frozen=True)
class LoReFT(Parametrisation):
    """A rank-`rank` edit of the first and last prompt positions after several blocks."""

    layers: tuple[LayerSpec, ...] = SPREAD
    rank: int = 4
    first: int = 5
    last: int = 5

    def __post_init__(self) -> None:
        _depths(self.layers)
        _positive(rank=self.rank, last=self.last)


@parametrisation("lora", "delta")
@dataclass(frozen=True)
class LoRA(Parametrisation):
    """ΔW = s·B A of rank `rank`, s = `alpha`/r, or `alpha`/√r where `rslora`; `modules` are roles or names, none: all
    linear ones."""

    layers: tuple[LayerSpec, ...] = SPREAD
    modules: tuple[str, ...] = WRITERS
    rank: int = 4
    alpha: float = 32.0
    rslora: bool = True

    def __post_init__(self) -> None:
        _depths(self.layers)
        _positive(rank=self.rank, alpha=self.alpha)

    @property
    def scaling(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


@parametrisation("dora", "delta")
@dataclass(frozen=True)
class DoRA(LoRA):
    """LoRA of the direction of each weight row, with a learnt magnitude; alpha = 2r."""

    alpha: float = 8.0
    rslora: bool = False


@parametrisation("pissa", "delta")
@dataclass(frozen=True)
class PiSSA(LoRA):
    """LoRA that starts from the principal singular factors; alpha = r, so s = 1."""

    alpha: float = 4.0
    rslora: bool = False


@parametrisation("svft", "delta")
@dataclass(frozen=True)
class SVFT(Parametrisation):
    """ΔW = U M Vᵀ, M sparse on a fixed pattern over the top `rank` singular directions (0: all of them)."""

    layers: tuple[LayerSpec, ...] = SPREAD
    modules: tuple[str, ...] = WRITERS
    rank: int = 128
    variant: Literal["plain", "banded", "random", "top-k"] = "banded"
    band: int = 4

    def __post_init__(self) -> None:
        _depths(self.layers)
        if self.rank < 0 or self.band < 0:
            raise ValueError(f"rank = {self.rank} and band = {self.band} must not be negative")


@parametrisation("ssvd", "delta")
@dataclass(frozen=True)
class SSVD(Parametrisation):
    """The top `share` of right singular directions, turned and rescaled; `strict`: Cayley, else I - 2K."""

    layers: tuple[LayerSpec, ...] = SPREAD
    modules: tuple[str, ...] = WRITERS
    share: float = 0.1
    strict: bool = True

    def __post_init__(self) -> None:
        _depths(self.layers)
        if not 0 < self.share <= 1:
            raise ValueError(f"share = {self.share}, must lie in (0, 1]")


@parametrisation("rotation", "delta")
@dataclass(frozen=True)
class Rotation(Parametrisation):
    """AntiPaSTO's adapter: `rank` chosen singular directions, turned by at most `angle` and rescaled;
    `init` and `shift` are the spread of the first rotation and the first rescaling."""

    layers: tuple[LayerSpec, ...] = SPREAD
    modules: tuple[str, ...] = WRITERS
    rank: int = 48
    angle: float = math.pi / 4
    init: float = 0.003
    shift: float = 4e-4

    def __post_init__(self) -> None:
        _depths(self.layers)
        _positive(rank=self.rank, angle=self.angle)


@parametrisation("full", "delta")
@dataclass(frozen=True)
class SFT(Parametrisation):
    """Every entry of the chosen modules' weights (all linear modules of all blocks unless named)."""

    layers: tuple[LayerSpec, ...] = ("0.0:-1",)
    modules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _depths(self.layers)


@parametrisation("soft", "embeds")
@dataclass(frozen=True)
class SoftPrompt(Parametrisation):
    """`size` rows that are read as embeddings before a chat's own words (prompt tuning).

    They start at the embeddings of `opening`, with the concept for {concept}, cut or repeated to their number; at
    random where it is empty.
    """

    size: int = 20
    opening: str = ""

    def __post_init__(self) -> None:
        _positive(size=self.size)


def _depths(layers: tuple[LayerSpec, ...]) -> None:
    for depth in layers:
        check_layer(depth)
        if depth == "select":
            raise ValueError("layers = select: an adapter trains all its layers together")


def _positive(**values: float) -> None:
    for name, value in values.items():
        if value <= 0:
            raise ValueError(f"{name} = {value}, must be above 0")
