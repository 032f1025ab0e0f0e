"""A run spread over a Ray cluster: a worker for each device with the engine loaded once, and this process, which alone
keeps, rates, pays and tells.

Invariant: a worker gives what this process's own engine would give, under the same keys. Work is handed out again only
where its worker was lost; what came back before is kept, and an error of the work itself is no reason to try again.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import threading
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bench.core.content import Array
from bench.core.errors import BenchError, StopRun, named, relayed
from bench.core.interfaces import Backend, Method, Prompted, ReadSite
from bench.core.machine import cores
from bench.core.paths import cache_root
from bench.core.registry import plugin_files
from bench.core.values import Activations, Completion, Divergence, Request, TargetScore, Train
from bench.run.fits import Packed, Rules
from bench.run.worker import Engine, Started, Worker

TURNS = 4
"""Units for each worker, about: so many that a slow one does not hold up the others for long."""
LEAST, MOST = 16, 256
"""Requests in a unit: where the engine names no batch, and at most, for a unit is what a lost worker costs."""
LIVES = 3
"""Workers that a unit may lose before it is taken for the reason."""
PATIENCE = 600
"""Seconds that a run waits for a first worker, or for another after the last."""
GOODBYE = 10
"""Seconds that a worker has to let its engine go, and the head of a cluster to answer at all."""


@dataclass
class Unit:
    """What a worker is handed at once: a method of `Worker` and what it is given."""

    call: str
    given: tuple[Any, ...]
    owner: Any = None
    """What whoever asks knows it by."""
    home: Hashable = None
    """What it shares with others, so that one worker had better do them all."""
    lost: int = 0
    """Workers that ended while they had it."""


@dataclass(frozen=True)
class Fitting:
    """Concepts that a method is to be fitted to, as one unit; `owner` is the caller's."""

    method: Method
    trains: Mapping[str, Train]
    names: tuple[str, ...]
    rules: Rules
    owner: Any


class Pool(Backend):
    """The engine of a run, as many times as there are workers. `local` is this process's own, whose weights are not
    loaded: it counts tokens, and says what it can."""

    whole = True

    def __init__(self, local: Backend, engine: Engine, address: str, workers: int, log: Callable[[str], None]) -> None:
        self.local, self.engine, self.address, self.wanted, self.log = local, engine, address, workers, log
        self.name = local.name  # type: ignore[misc]
        self.idle: list[Any] = []
        self._due: dict[Any, Any] = {}
        """Call -> its worker; its answer only says that the worker is free: a start, or what nobody waits for."""
        self._hosts: dict[Any, Started] = {}
        self._homes: dict[Hashable, Any] = {}
        self._hired = 0
        self._failed = 0
        self._asked: dict[str, Any] = {}
        self._own = False

    # What is spread

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        return self._stream("generate", requests)

    def logprobs(self, requests: Sequence[Request]) -> Iterator[tuple[int, TargetScore]]:
        return self._stream("logprobs", requests)

    def diverge(self, requests: Sequence[Request]) -> Iterator[tuple[int, Divergence]]:
        return self._stream("diverge", requests)

    def _stream(self, name: str, requests: Sequence[Request]) -> Iterator[tuple[int, Any]]:
        """Answers of all units, and then the error of one that was not answered whole."""
        failed: BenchError | None = None
        order = sorted(range(len(requests)), key=lambda i: _likeness(requests[i]))
        units = [Unit("stream", (name, [requests[i] for i in part]), part) for part in self._parts(name, order)]
        for unit, (rows, error) in self._each(units):
            for i, found in rows:
                yield unit.owner[i], found
            if isinstance(error, StopRun):
                raise error
            failed = failed or error
        if failed:
            raise failed

    def activations(
        self, texts: Sequence[Prompted], layers: Sequence[int], tokens: int = 0, site: ReadSite = "resid"
    ) -> list[Activations]:
        return self._read("activations", texts, layers, tokens, site)

    def gradients(
        self,
        texts: Sequence[Prompted],
        layer: int,
        readout: Array,
        at: Sequence[float] = (1.0,),
        baseline: Array | None = None,
        tokens: int = 0,
    ) -> list[Array]:
        return self._read("gradients", texts, layer, readout, at, baseline, tokens)

    def _read(self, name: str, texts: Sequence[Prompted], *given: Any) -> list[Any]:
        """One answer for each text."""
        found: dict[int, Any] = {}
        order = sorted(range(len(texts)), key=lambda i: -_length(texts[i]))
        units = [Unit("ask", (name, [texts[i] for i in part], *given), part) for part in self._parts(name, order)]
        for unit, (rows, error) in self._each(units):
            if error:
                raise error
            found.update(zip(unit.owner, rows, strict=True))
        return [found[i] for i in range(len(texts))]

    def fit(
        self, fittings: Sequence[Fitting], wanted: Callable[[Fitting], bool]
    ) -> Iterator[tuple[Fitting, list[Packed], BenchError | None]]:
        """The packed fits of each, of the first of its names where an error came between; those that have not begun
        when they are not `wanted` any more are left out."""
        units = [Unit("fit", (f.method, f.trains, f.names, f.rules), f, home=f.names) for f in fittings]
        for unit, (packed, error) in self._each(units, lambda unit: wanted(unit.owner)):
            yield unit.owner, packed, error

    def portions(self, names: Sequence[str]) -> list[tuple[str, ...]]:
        """Concepts as units of a fit: one for each worker, where that is not too much to lose."""
        if not names:
            return []
        size = max(1, min(LEAST, math.ceil(len(names) / self.workers)))
        return [tuple(names[i : i + size]) for i in range(0, len(names), size)]

    def _parts(self, name: str, order: Sequence[int]) -> list[Sequence[int]]:
        """Places, like beside like, in units of about a batch of the engine's `name`, as many for each worker."""
        if not order:
            return []
        known = ("written", "rows") if name == "generate" else ("batch",)  # what an engine may call it
        batch = next((found for one in known if (found := getattr(self.local, one, 0))), LEAST)
        size = min(MOST, max(batch, len(order) // (TURNS * self.workers)))
        turns = math.ceil(len(order) / size / self.workers)
        size = math.ceil(len(order) / (turns * self.workers))
        return [order[i : i + size] for i in range(0, len(order), size)]

    # What is known here, or asked of any worker

    def __getattr__(self, name: str) -> Any:
        """What only some engines have is this process's own."""
        if name.startswith("_") or name == "local":
            raise AttributeError(name)
        return getattr(self.local, name)

    @property
    def can(self) -> frozenset[str]:
        return self.local.can

    def fingerprint(self) -> str:
        return self.local.fingerprint()

    def encode(self, prompt: Prompted, tail: str = "") -> list[int]:
        return self.local.encode(prompt, tail)

    def count(self, prompt: Prompted) -> int:
        return self.local.count(prompt)

    def header(self, ids: Sequence[int]) -> int:
        return self.local.header(ids)

    @property
    def context(self) -> int:
        return self.local.context

    @property
    def module(self) -> Any:
        """This process's own, which it loads: for a fit that trains, and asks the judge or the prompter too."""
        return self.local.module

    @property
    def layers(self) -> int:
        return int(self._any("layers"))

    @property
    def width(self) -> int:
        return int(self._any("width"))

    def output_projection(self, layer: int) -> Array:
        found: Array = self._any("output_projection", layer)
        return found

    def findings(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._any("findings")
        return found

    def _any(self, name: str, *given: Any) -> Any:
        key = f"{name}{given}"
        if key not in self._asked:
            for _, (found, error) in self._each([Unit("ask", (name, *given))]):
                if error:
                    raise error
                self._asked[key] = found
        return self._asked[key]

    def executor(self) -> dict[str, Any]:
        """On what the run was made: each kind of host, with the workers that it had."""
        kinds = Counter(str(sorted(one.hardware.items())) for one in self._hosts.values())
        shown = {str(sorted(one.hardware.items())): one.hardware for one in self._hosts.values()}
        return {"name": "ray", "workers": [{"count": n, **shown[kind]} for kind, n in kinds.items()]}

    # Workers

    @cached_property
    def ray(self) -> Any:
        """Ray, joined or started, quiet: what is worth saying of it is said here."""
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it advises on stderr
        import ray
        from ray._private import worker as driver

        driver.print_to_stdstream = lambda *_, **__: None  # it tells of a lost worker on stdout, where results go
        if ray.is_initialized():
            return ray
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        where = self.address or os.environ.get("RAY_ADDRESS", "")
        ending = signal.getsignal(signal.SIGTERM)
        try:
            if where:
                _reach(where)
                ray.init(address=where, **quiet)
            else:
                ray.init(address="local", num_cpus=self.wanted or len(cores()), include_dashboard=False, **quiet)
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            what = f"cannot join the Ray cluster at {where}" if where else "cannot start Ray"
            raise StopRun(f"{what}: {named(error)}") from error
        finally:
            if ending is not None and threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, ending)  # Ray puts its own there, which exits without a word
        self._own = True
        return ray

    @cached_property
    def workers(self) -> int:
        """How many there should be: one for each device, unless the user says otherwise. Some may wait for a host."""
        return self.wanted or self._count("GPU") or self._count("CPU") or 1

    def _count(self, resource: str) -> int:
        return int(self.ray.cluster_resources().get(resource, 0))

    @cached_property
    def _actor(self) -> Any:
        gpus = 1 if self._count("GPU") else 0
        return self.ray.remote(Worker).options(num_cpus=1, num_gpus=gpus, max_restarts=0, scheduling_strategy="SPREAD")

    def _muster(self) -> None:
        """Hire who is not there yet, and ask the others whether they still are: an hour's rating may have passed."""
        while self._hired < self.workers:
            self._hire()
            self._hired += 1
        self._due |= {worker.here.remote(): worker for worker in self.idle}
        self.idle = []

    def _hire(self) -> None:
        worker = self._actor.remote(self.engine)
        self._due[worker.start.remote()] = worker

    def _each(
        self, units: Sequence[Unit], wanted: Callable[[Unit], bool] = lambda unit: True
    ) -> Iterator[tuple[Unit, Any]]:
        """What the workers answer to each unit, in the order in which it comes; each pulls the next when it is free."""
        queue = deque(units)
        busy: dict[Any, tuple[Any, Unit]] = {}
        if units:
            self._muster()
        try:
            while queue or busy:
                while queue and self.idle:
                    worker = self.idle.pop()
                    if not (unit := self._next(queue, worker, wanted)):
                        self.idle.append(worker)
                        continue
                    try:
                        call = getattr(worker, unit.call).remote(*unit.given)
                    except Exception as error:  # a method is third-party code, and may hold what cannot be sent
                        self.idle.append(worker)
                        yield unit, ([], relayed(error, ()))
                        continue
                    busy[call] = worker, unit
                if not (queue or busy):
                    break
                done, _ = self.ray.wait([*busy, *self._due], num_returns=1, timeout=PATIENCE)
                if not (done or busy):
                    has = f"{self._count('CPU')} CPUs and {self._count('GPU')} GPUs"
                    raise StopRun(f"no worker came within {PATIENCE} seconds: the cluster has {has}")
                for call in done:
                    if call in self._due:
                        self._freed(call)
                        continue
                    worker, unit = busy.pop(call)
                    try:
                        found = self.ray.get(call)
                    except self.ray.exceptions.RayTaskError as error:  # what could not be read there, or sent back
                        found = [], relayed(error.cause, ())
                    except self.ray.exceptions.RayError as error:
                        unit.lost += 1
                        queue.appendleft(unit)
                        self._lose(worker, unit, error)
                        continue
                    self.idle.append(worker)
                    yield unit, found
        finally:
            self._due |= {call: worker for call, (worker, _) in busy.items()}

    def _next(self, queue: deque[Unit], worker: Any, wanted: Callable[[Unit], bool]) -> Unit | None:
        """The unit that a worker does now: one of its own home, else of one that is nobody's, else the first."""
        while queue:
            own = (unit for unit in queue if unit.home is not None and self._homes.get(unit.home) is worker)
            new = (unit for unit in queue if unit.home not in self._homes)
            unit = next(own, None) or next(new, None) or queue[0]
            queue.remove(unit)
            if wanted(unit):
                if unit.home is not None:
                    self._homes.setdefault(unit.home, worker)
                return unit
        return None

    def _freed(self, call: Any) -> None:
        """Take a worker in that has started, or has ended what nobody waits for."""
        worker = self._due.pop(call)
        try:
            found = self.ray.get(call)
        except self.ray.exceptions.RayTaskError:
            found = None  # of what nobody waits for
        except self.ray.exceptions.RayError as error:
            self._lose(worker, None, error)
            return
        self.idle.append(worker)
        if isinstance(found, BenchError):
            raise found
        if isinstance(found, Started):
            if found.fingerprint != self.fingerprint():
                raise StopRun(
                    f"worker on {found.host} has another model, or other versions of bench and its packages, than this "
                    "process: its answers would have other keys"
                )
            self._hosts[worker], self._failed = found, 0

    def _lose(self, worker: Any, unit: Unit | None, error: Exception) -> None:
        """Hire another in the place of a worker that ended. Raises StopRun where that is no accident any more."""
        known = self._hosts.get(worker)
        self._failed += known is None
        self.ray.kill(worker)
        self._homes = {home: one for home, one in self._homes.items() if one is not worker}
        reason = type(error).__name__
        if unit and unit.lost >= LIVES:
            raise StopRun(
                f"{LIVES} workers ended over the same work ({reason}): it may need more memory than they have"
            )
        if self._failed > LIVES * self.workers:
            raise StopRun(f"workers end while they start ({reason}): `ray status` and Ray's logs say more")
        self.log(f"bench: a worker{f' on {known.host}' if known else ''} was lost; its work goes to another")
        self._hire()

    def close(self) -> None:
        """End the workers, and Ray where it was joined or started here."""
        if "ray" not in self.__dict__:
            return
        if self.ray.is_initialized():
            leaving = [worker.close.remote() for worker in self.idle]
            if leaving:
                self.ray.wait(leaving, num_returns=len(leaving), timeout=GOODBYE)
            for worker in [*self.idle, *self._due.values()]:
                self.ray.kill(worker)
            if self._own:
                self.ray.shutdown()
        self.idle, self._due, self._hired = [], {}, 0


def pooled(
    local: Backend, engine: tuple[str, Any, str], address: str, workers: int, log: Callable[[str], None]
) -> Pool:
    """The engine (name, model, dtype) spread over Ray; nothing is started before it is asked."""
    return Pool(local, Engine(*engine, tuple(plugin_files()), str(cache_root().absolute())), address, workers, log)


def _reach(address: str) -> None:
    """Raise OSError where nobody listens at HOST:PORT: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=GOODBYE).close()


def _length(prompt: Prompted) -> int:
    return len(prompt) if isinstance(prompt, str) else sum(len(content) for _, content in prompt)


def _likeness(request: Request) -> tuple[Any, ...]:
    """Sorts requests that share much beside each other: sampling, weights that are changed, length, prompt. The longest
    come first, so that the last units are the shortest."""
    deltas = request.steering.deltas if request.steering else ()
    weights = request.steering.internal_digest if request.steering and deltas else ""
    sampling = (request.sampling.max_new_tokens, request.sampling.temperature, request.sampling.top_k)
    return sampling, weights, -_length(request.prompt) - len(request.target), str(request.prompt)
