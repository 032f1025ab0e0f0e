"""What sharing one pass saves: fitting every direction on the same texts against fitting one.

Prints, and writes to `fitting.json`, seconds with the default model on the mini set's first concepts
(preset standard): DiffMean alone, then all methods that read the same texts with the shared activation
cache, and the same methods each with a cache of its own. `python benchmarks/fitting.py`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.backends.hf.backend import HFBackend
from bench.backends.models import DEFAULT, resolve
from bench.core.interfaces import Context
from bench.core.naming import build_method
from bench.core.protocol import PRESETS, protocol
from bench.core.registry import build
from bench.core.store import write_json
from bench.results import provenance

METHODS = ("diffmean", "mean", "pca", "lat", "probe", "ablate", "random", "shuffled", "sae")
CONCEPTS = 3


def main() -> None:
    backend = HFBackend(resolve(DEFAULT))
    task = build("task", "axbench", {}, protocol=protocol("standard"))
    budget = PRESETS["standard"].budget
    trains = [task.train(concept).limited(budget.sequences) for concept in list(task.concepts())[:CONCEPTS]]
    made = {name: build_method(name, {}) for name in METHODS}
    dictionaries: dict[str, Any] = {}

    def keep(key: Any, make: Callable[[], Any]) -> Any:
        """The dictionary is trained once for all concepts, before: here its latent is picked."""
        if str(key) not in dictionaries:
            dictionaries[str(key)] = make()
        return dictionaries[str(key)]

    def context() -> Context:
        return Context(backend, budget, trains=tuple(trains), cache=keep)

    list(made["sae"].fit_all(context(), trains))
    backend.activations([trains[0].positives[0].messages], [15])  # warm

    def seconds(names: tuple[str, ...], shared: bool) -> float:
        begun = time.perf_counter()
        for train in trains:
            ctx = context()
            for name in names:
                made[name].fit(ctx if shared else context(), train)
        return time.perf_counter() - begun

    rounds = [{"one": seconds(METHODS[:1], True), "all": seconds(METHODS, True)} for _ in range(3)]
    apart = seconds(METHODS, False)
    one, everything = (statistics.median(r[k] for r in rounds) for k in ("one", "all"))
    found = {
        "methods": list(METHODS),
        "concepts": CONCEPTS,
        "one_seconds": round(one, 3),
        "all_seconds": round(everything, 3),
        "apart_seconds": round(apart, 3),
        "all_to_one": round(everything / one, 3),
        "apart_to_one": round(apart / one, 3),
        "provenance": provenance.provenance(),
    }
    write_json(Path(__file__).with_suffix(".json"), found)
    print(
        f"one {one:.2f} s, all {everything:.2f} s ({everything / one:.2f} x), apart {apart:.2f} s ({apart / one:.2f} x)"
    )


if __name__ == "__main__":
    main()
