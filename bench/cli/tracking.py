"""What a run tells an experiment tracker: seconds of stages, and every method's scores with their intervals.

Invariant: a tracker decides nothing, is given no text of a model or of data, and where it fails the run goes on.
"""

from __future__ import annotations

import importlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from importlib.util import find_spec
from typing import Any, Protocol

from bench.cli.console import say
from bench.core.errors import UsageError, named
from bench.core.ranges import PROJECT
from bench.core.values import Advance
from bench.report.formats.told import Told
from bench.results.runs import Run
from bench.run.plan import Plan
from bench.run.session import Progress

SERVICES = ("trackio", "wandb")


class Tracker(Protocol):
    """What follows a run."""

    def stage(self, name: str, seconds: float) -> None:
        """A stage is done."""

    def finished(self, runs: Sequence[Run]) -> None:
        """The run is done; the results of its methods."""


class Service:
    """A package with `init`, `log` and `finish` as trackio and wandb have them; one that fails is named once.

    Stages go to a run of their own while they end; then each method has its own, all in one group.
    """

    def __init__(self, name: str, plan: Plan) -> None:
        if find_spec(name) is None:
            raise UsageError(f"--track {name} needs the package {name}: pip install '{PROJECT}[{name}]'")
        first, self.package, self.lost = plan.specs[0], name, False
        self.group = f"{first.task} {first.model} {first.group}"
        config = {"task": first.task, "model": first.model, "preset": first.protocol.preset}
        self._tell(lambda service: self._begin(service, "stages", config))

    def stage(self, name: str, seconds: float) -> None:
        self._tell(lambda service: service.log({f"seconds/{name}": round(seconds, 2)}))

    def finished(self, runs: Sequence[Run]) -> None:
        self._tell(lambda service: service.finish())
        for run in runs:
            self._tell(partial(self._result, run))

    def _result(self, run: Run, service: Any) -> None:
        self._begin(service, run.path.parent.name, {"id": run.data["id"], **run.data["spec"]})
        service.log(numbers(run))
        service.finish()

    def _begin(self, service: Any, name: str, config: dict[str, Any]) -> None:
        service.init(project=PROJECT, group=self.group, name=name, config=config)

    def _tell(self, call: Callable[[Any], object]) -> None:
        if self.lost:
            return
        try:
            with redirect_stdout(sys.stderr):  # stdout is for results
                call(importlib.import_module(self.package))
        except Exception as error:
            self.lost = True
            say(f"the run goes on without {self.package}: {named(error)}")


def numbers(run: Run) -> dict[str, float]:
    """A run's numbers by name: `test/AXIS`, `test/AXIS_low`, `_high`; `select/overall@C`; `seconds/STAGE`."""
    found: dict[str, float] = {}
    for score in Told(run).scores:
        parts = {"": score.mean, "_low": score.low, "_high": score.high}
        found |= {f"test/{score.axis}{part}": value for part, value in parts.items() if value is not None}
    for coefficient, scores in run.curve("overall").items():
        found[f"select/overall@{coefficient:g}"] = math.fsum(scores.values()) / len(scores)
    return found | {f"seconds/{name}": value for name, value in run.data.get("timings", {}).items()}


def tracked(progress: Progress, tracker: Tracker) -> Progress:
    """`progress` that tells a tracker when a stage is done."""

    @contextmanager
    def stage(name: str, total: int) -> Iterator[Advance]:
        begun = time.monotonic()
        with progress(name, total) as advance:
            yield advance
        tracker.stage(name, time.monotonic() - begun)

    return stage
