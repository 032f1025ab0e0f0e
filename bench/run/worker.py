"""What runs in a process of a cluster: an engine, loaded once, and the fits and passes it is asked for.

Invariant: an error of the work is answered and never raised, so that what ends a call of a worker is its own end. A
worker keeps no result; what several fits share it keeps where the run does, under a claim.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.backends.models import Model, resolve
from bench.core.errors import THEIRS, BenchError, StopRun, relayed
from bench.core.interfaces import Backend, Context, Method
from bench.core.paths import cache_root
from bench.core.registry import load_plugin
from bench.core.store import Artefacts
from bench.core.values import Train
from bench.results.provenance import hardware
from bench.run.engines import make_backend
from bench.run.faults import files
from bench.run.fits import Fits, Packed, Rules


@dataclass(frozen=True)
class Engine:
    """What a process needs to be an engine of a run: plain values, for the plugins of the run come with them."""

    backend: str
    model: Model
    dtype: str
    plugins: tuple[str, ...]
    cache: str

    def made(self) -> Backend:
        """The engine, its weights not loaded yet; where this host has no folder of that name, on its own copy."""
        model = self.model
        if model.path.parts and not model.path.is_dir():
            model = resolve(model.name, trust=model.trusted).told(model.chat)
        return make_backend(self.backend, model, self.dtype)


@dataclass(frozen=True)
class Started:
    """A worker that is ready: what its engine is, and where it stands."""

    fingerprint: str
    host: str
    hardware: Mapping[str, Any]


class Worker:
    """Answers calls one at a time (an actor of Ray's)."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.read: dict[Any, Any] = {}
        """Activations that fits have read: methods on the same concepts share a pass, as they do in one process."""
        self.shared: dict[str, Any] = {}
        """What else fits have in common (`Context.shared`), until answers can use its memory."""

    @cached_property
    def lm(self) -> Backend:
        return self.engine.made()

    def start(self) -> Started | BenchError:
        """Be ready, which loads the plugins: what comes with later calls may be of their types."""
        os.environ["BENCH_CACHE"] = self.engine.cache
        host = socket.gethostname()
        try:
            for path in self.engine.plugins:
                load_plugin(Path(path))
            return Started(self.lm.fingerprint(), host, hardware())
        except THEIRS as error:
            return StopRun(f"worker on {host}: {relayed(error, self.engine.plugins)}")

    def here(self) -> None:
        """Answer: a worker that is lost does not."""

    def ask(self, name: str, *given: Any) -> tuple[Any, BenchError | None]:
        """What the engine's method or property `name` gives."""
        try:
            found = getattr(self.lm, name)
            return (found(*given) if callable(found) else found), None
        except THEIRS as error:
            return None, relayed(error, self.engine.plugins)

    def stream(self, name: str, requests: Sequence[Any]) -> tuple[list[tuple[int, Any]], BenchError | None]:
        """The (index, answer) pairs of the engine's method `name`, and what ended it early."""
        found: list[tuple[int, Any]] = []
        self.shared.clear()
        try:
            found.extend(getattr(self.lm, name)(requests))
        except THEIRS as error:
            return found, relayed(error, self.engine.plugins)
        return found, None

    def fit(
        self, method: Method, trains: Mapping[str, Train], names: Sequence[str], rules: Rules
    ) -> tuple[list[Packed], BenchError | None]:
        """The packed fits of the first of `names`, in order, and why there are no more."""
        packed: list[Packed] = []
        try:
            context = Context(
                self.lm, rules.budget, rules.seed, compat=rules.compat, shared=self.shared, _cache=self.read
            )
            fits = Fits(context, Artefacts(cache_root() / "fits"), trains, rules.kind, "", rules.suppresses)
            packed.extend(fits.fit(method, names))
        except THEIRS as error:
            return packed, relayed(error, files(method))
        return packed, None

    def close(self) -> None:
        """Let the engine go: one may have processes of its own."""
        if close := getattr(self.lm, "close", None):
            close()
