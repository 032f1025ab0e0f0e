"""The fit stage: each method on each concept, kept as content-addressed artefacts.

Invariant: a fit's key names all that decides it; a fit that cannot be stored or used fails its own method
and no other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.core.content import Weights, digest, stored
from bench.core.definitions import code_digest
from bench.core.errors import BenchError
from bench.core.interfaces import Backend, Context, Fitted, Method
from bench.core.protocol import Budget
from bench.core.store import Artefacts, pack
from bench.core.values import Train
from bench.run.steering_contract import unfit


@stored
@dataclass(frozen=True)
class Kept:
    """A stored fit: the candidates and what they cost."""

    candidates: tuple[Fitted, ...]
    seconds: float


@dataclass(frozen=True)
class Packed:
    """A fit as it is stored: the bytes of its file, and the weights that those only name."""

    content: bytes = b""
    weights: tuple[Weights, ...] = ()

    @classmethod
    def of(cls, value: Any) -> Packed:
        apart: dict[str, Weights] = {}
        content = pack(value, apart)
        return cls(content, tuple(apart.values()))


@dataclass(frozen=True)
class Rules:
    """What of a protocol and a task decides a fit, beside the method and its data."""

    budget: Budget
    seed: int
    compat: str
    kind: str
    suppresses: bool


@dataclass
class Fits:
    """Fits methods on `trains`, or takes what is stored in `artefacts`."""

    context: Context
    artefacts: Artefacts
    trains: Mapping[str, Train]
    kind: str
    judge: str
    suppresses: bool = False
    completed: Callable[[Method], Mapping[str, Train]] | None = None
    """Where a method's training data is more than `trains`: with views that were made for it."""

    def __post_init__(self) -> None:
        self.context.trains = tuple(self.trains.values())
        self.context.cache = self._keep

    def missing(self, method: Method, prompter: str) -> dict[str, str]:
        """concept -> key of the fits that are still to be made."""
        keys = self.keys(method, prompter)
        return {name: key for name, key in keys.items() if not self.artefacts.has(key)}

    def keys(self, method: Method, prompter: str) -> dict[str, str]:
        code = code_digest(*(cls for part in method.family_tree for cls in part.definitions))
        parts: list[Any] = [{"name": method.name, "params": method.params(), "prompter": prompter}, code]
        parts += [self.context.budget, self.context.seed, self.judge if method.uses_judge else ""]
        trains = self.trains_of(method)
        parts += [[digest(t) for t in trains.values()] if method.needs_all_concepts else ""]
        parts += [self.context.compat] if self.context.compat else []
        model = self.context.lm.fingerprint()
        return {name: digest(model, *parts, given(method, train, self.suppresses)) for name, train in trains.items()}

    def claimed(self, key: str) -> bool:
        """Whether a fit is this process's to make: no other has claimed it, or made it by now."""
        if not self.artefacts.claims.take(key):
            return False
        if made := self.artefacts.has(key):
            self.artefacts.claims.drop([key])
        return not made

    @property
    def rules(self) -> Rules:
        """What besides the method and its data decides a fit, for one that is made elsewhere."""
        context = self.context
        return Rules(context.budget, context.seed, context.compat, self.kind, self.suppresses)

    def trains_of(self, method: Method) -> Mapping[str, Train]:
        """Concept -> the training data that the method is fitted on, with the views made for it."""
        return self.completed(method) if self.completed else self.trains

    def fit(self, method: Method, todo: Iterable[str]) -> Iterator[Packed]:
        """The packed fit of each concept of `todo`, in order; nothing is written yet."""
        trains = self.trains_of(method)
        context = replace(self.context, trains=tuple(trains.values()))
        todo = list(todo)
        fitted = method.fit_all(context, [given(method, trains[name], self.suppresses) for name in todo])
        if not isinstance(fitted, Iterable):
            raise BenchError(f"its fit_all gave {_kind(fitted)}: the fits of each concept are due")
        fitted = iter(fitted)
        for name in todo:
            begun = time.monotonic()
            if (found := next(fitted, MISSING)) is MISSING:
                raise BenchError(f"the method gave no fit for {name}: one is due for each, in order")
            if isinstance(found, str | Mapping) or not isinstance(found, Iterable):
                raise BenchError(f"its fit gave {_kind(found)}, where a list of Fitted is due")
            candidates = tuple(found)
            self._accept(candidates)
            yield Packed.of(Kept(candidates, round(time.monotonic() - begun, 3)))

    def store(self, method: Method, name: str, key: str, packed: Packed) -> None:
        why = {"method": method.name, "params": method.params(), "concept": name}
        self.artefacts.make(key, why, partial(_write, packed), packed.weights)

    def load(self, method: Method, prompter: str) -> dict[str, Kept]:
        keys = self.keys(method, prompter)
        return {name: self.kept(key) for name, key in keys.items()}

    def kept(self, key: str) -> Kept:
        """The stored fit of a key."""
        found: Kept = self.artefacts.load(key, FILE)
        return found

    def _accept(self, candidates: Sequence[Fitted]) -> None:
        if not candidates:
            raise BenchError("its fit gave no candidate")
        for candidate in candidates:
            if problem := unfit(candidate, self.context.lm):
                raise BenchError(problem)
            if getattr(candidate, self.kind) is None:
                raise BenchError(f"its fit has no {self.kind}, which this task needs")

    def _keep(self, key: Any, make: Callable[[], Any]) -> Any:
        """An artefact that several fits share (a dictionary, say), under the model and `key`."""
        name = digest("shared", self.context.lm.fingerprint(), self.context.budget, self.context.seed, key)
        for _ in self.artefacts.portions([name]):
            packed = Packed.of(make())
            self.artefacts.make(name, {"shared": True}, partial(_write, packed), packed.weights)
        return self.artefacts.load(name, FILE)


def given(method: Method, train: Train, suppresses: bool) -> Train:
    """A concept's training data as a method gets it: what a task has to say is for prompts alone."""
    if not any(part.prompted for part in method.family_tree):
        return replace(train, prompts=())
    return train.reversed() if suppresses and method.prompted else train


def lacks(method: Method, backend: Backend, views: frozenset[str], steers: bool = True) -> str:
    """Why a method cannot be fitted on data with these views, or cannot steer (`steers`) this engine; "" if it can."""
    if steers and (lacking := sorted(method.needs - backend.can)):
        return f"backend {backend.name} cannot {', '.join(lacking)}"
    if missing := sorted(method.views - views):
        return f"the data has no {', '.join(missing)}"
    return ""


MISSING: Any = object()
FILE = "fit.safetensors"


def _kind(given: Any) -> str:
    return "None" if given is None else f"a {type(given).__name__}"


def _write(packed: Packed, folder: Path) -> None:
    (folder / FILE).write_bytes(packed.content)
