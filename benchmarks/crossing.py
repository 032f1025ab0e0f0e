"""What each parametrisation learns under each objective: every pair that runs, trained and held against unseen pairs.

For the first concepts of the mini set: a pair trains on the budget of `--preset`, then texts it has not seen are scored
at each strength of `--at` (the protocol's coefficient). `gain` is what log p per token of texts with the concept gains
over the bare model, `margin` the same minus that of texts without it, in nats; both with 95 % intervals over concepts.
A pair takes the settings of the method that is named after its parametrisation. Rows are written as they are made, and
those that stand in the file are not made again. `python benchmarks/crossing.py --forms lora,vector --goals lm,reps`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import stats
from bench.backends.hf.backend import HFBackend
from bench.backends.models import DEFAULT, resolve
from bench.core.errors import BenchError
from bench.core.interfaces import Context, Fitted
from bench.core.naming import build_method
from bench.core.protocol import PRESETS, protocol
from bench.core.registry import build
from bench.core.rows import Rows
from bench.core.steering import Steering
from bench.core.store import write_json
from bench.core.values import Pair, Request, Train
from bench.results import provenance
from bench.run.strength import Strength
from bench.training.objectives.all import objectives, refusal
from bench.training.parametrisations import forms

NAMED = {
    "vector": "ssv",
    "gated": "reft-r1",
    "hyper": "hypersteer",
    "rotation": "antipasto",
    "full": "sft",
    "soft": "soft-prompt",
}
"""The method whose settings a parametrisation takes, where it has another name."""
WORDS = 40
"""What is scored of each text."""


def scores(lm: HFBackend, steering: Steering, held: Sequence[Pair]) -> tuple[float, float]:
    """Mean log-probability per token of held-out texts with the concept, and of those without."""
    asks = [
        Request((("user", pair.instruction),), steering, target=" ".join(text.split(" ")[:WORDS]))
        for pair in held
        for text in (pair.positive, pair.negative)
    ]
    found = dict(lm.logprobs(asks))
    values = [found[i].mean for i in range(len(asks))]
    return float(np.mean(values[0::2])), float(np.mean(values[1::2]))


def interval(values: Sequence[float]) -> list[float]:
    """Mean with the ends of its interval."""
    found = stats.estimate(values)
    return [round(x, 4) for x in (found.mean, found.low, found.high)]


def measured(
    strength: Strength,
    lm: HFBackend,
    fits: Sequence[Fitted],
    held: Sequence[Sequence[Pair]],
    bares: Sequence[tuple[float, float]],
    c: float,
) -> Mapping[str, Any]:
    """Gain and margin over the bare model, which scores `bares`, at coefficient `c`."""
    gains, margins = [], []
    for fitted, own, bare, train in zip(fits, held, bares, strength.trains.values(), strict=True):
        assert isinstance(fitted.steering, Steering)
        steered = scores(lm, strength.at(fitted.steering, fitted, train.concept, c), own)
        gains.append(steered[0] - bare[0])
        margins.append(gains[-1] - (steered[1] - bare[1]))
    return {"gain": interval(gains), "margin": interval(margins)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--forms", default=",".join(forms()))
    parser.add_argument("--goals", default=",".join(objectives()))
    parser.add_argument("--concepts", type=int, default=6)
    parser.add_argument("--held", type=int, default=4, help="pairs of a concept that are measured")
    parser.add_argument("--preset", default="standard", help="whose budget a fit has")
    parser.add_argument("--at", type=float, nargs="+", default=[0.15, 0.3])
    parser.add_argument("--dtype", default="auto", help="number type of the model")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    asked = parser.parse_args()
    rules, budget = protocol(asked.preset), PRESETS[asked.preset].budget
    lm = HFBackend(resolve(DEFAULT), asked.dtype)
    task = build("task", "axbench", {}, protocol=rules)
    whole = [task.train(concept) for concept in list(task.concepts())[: asked.concepts]]
    # The mini set's concepts have as many texts as a standard fit sees: some are kept from it here.
    budget = dataclasses.replace(
        budget, sequences=min(budget.sequences, 2 * (min(len(one.pairs) for one in whole) - asked.held))
    )
    trains: dict[str, Train] = {one.concept.id: one.limited(budget.sequences) for one in whole}
    held = [one.pairs[-asked.held :] for one in whole]
    ctx = Context(lm, budget, trains=tuple(trains.values()))
    settings = {k: getattr(asked, k) for k in ("concepts", "held", "preset", "at")}
    record: dict[str, Any] = {"settings": settings, "rows": []}
    if asked.out.exists():
        record = json.loads(asked.out.read_text("utf-8"))
        if record["settings"] != settings:
            parser.error(f"{asked.out.name} holds rows of other settings, {record['settings']}: give another --out")
    bares = [scores(lm, Steering(), own) for own in held]
    done = {(row["parametrisation"], row["objective"]) for row in record["rows"]}
    with tempfile.TemporaryDirectory() as folder:
        strength = Strength(ctx, rules, trains, Rows(Path(folder)))
        for goal in asked.goals.split(","):
            for form in asked.forms.split(","):
                if (form, goal) in done:
                    continue
                row: dict[str, Any] = {"parametrisation": form, "objective": goal}
                if why := refusal(form, goal):
                    row["refused"] = why
                else:
                    name, begun = NAMED.get(form, form), time.monotonic()
                    made = build_method(name, {name: {"parametrisation": form, "objective": goal}})
                    try:
                        fits = [found[0] for found in made.fit_all(ctx, list(trains.values()))]
                        row |= {"settings_of": name, "seconds": round(time.monotonic() - begun, 1)}
                        row["at"] = {f"{c:g}": measured(strength, lm, fits, held, bares, c) for c in asked.at}
                    except BenchError as error:
                        row["refused"] = str(error)
                print(json.dumps(row), flush=True)
                made = provenance.provenance()
                own = {"commit": made["commit"], "dtype": str(lm.dtype).removeprefix("torch.")}
                record["rows"].append(row | own)
                write_json(asked.out, record | {"provenance": made})


if __name__ == "__main__":
    main()
