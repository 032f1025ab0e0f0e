"""Whether trained vectors add up, and whether they move to a fine-tuned model of the same base (BiPO's two claims).

For neighbouring concepts a, b of the mini set: the margin (mean log-probability per token of texts with the
concept minus those without it, in nats) on held-out pairs of a under nothing, a's vector, b's, and both at
once; and on the model fine-tuned on b with LoRA, alone and with a's vector, which was trained on the base
model. Prints means over pairs, and writes all of it to `synergy.json`. `python benchmarks/synergy.py
--method bipo --concepts 4`.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from crossing import scores

from bench import stats
from bench.backends.hf.backend import HFBackend
from bench.backends.models import DEFAULT, resolve
from bench.core.interfaces import Context
from bench.core.kinds import Add
from bench.core.naming import build_method
from bench.core.protocol import PRESETS, protocol
from bench.core.registry import build
from bench.core.steering import Steering
from bench.core.store import write_json
from bench.core.values import Pair, Train
from bench.results import provenance

EFFECTS = {
    "a vector alone": ("own", "bare"),
    "the neighbour's vector alone": ("other", "bare"),
    "both at once": ("both", "bare"),
    "what the second adds to the first": ("both", "own"),
    "the vector on the tuned model": ("tuned_own", "tuned"),
}
"""Differences of margins, paired by concept: (state, state it is taken from)."""


def vectors(ctx: Context, name: str, trains: Sequence[Train], strength: float) -> list[Steering]:
    """Each concept's vector at `strength` median norms."""
    found = []
    for train, (fitted,) in zip(trains, build_method(name, {}).fit_all(ctx, trains), strict=True):
        assert isinstance(fitted.steering, Steering)
        (edit,) = fitted.steering.edits
        assert isinstance(edit, Add)
        norm = float(np.median(np.linalg.norm(ctx.tokens(train.negatives, edit.layer), axis=1)))
        found.append(fitted.steering.scaled(strength * norm / float(np.linalg.norm(edit.value))))
    return found


def margin(lm: HFBackend, steering: Steering, held: Sequence[Pair]) -> float:
    """Mean over held-out pairs, nats per token."""
    shown, without = scores(lm, steering, held)
    return shown - without


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default="bipo")
    parser.add_argument("--concepts", type=int, default=4)
    parser.add_argument("--strength", type=float, default=0.2, help="of each vector, in median norms")
    parser.add_argument("--held", type=int, default=6, help="pairs of a concept that are measured")
    asked = parser.parse_args()
    lm = HFBackend(resolve(DEFAULT))
    task = build("task", "axbench", {}, protocol=protocol("quick"))
    whole = [task.train(concept) for concept in list(task.concepts())[: max(2, asked.concepts)]]
    budget = PRESETS["quick"].budget
    trains = [train.limited(budget.sequences) for train in whole]
    held = [train.pairs[budget.sequences // 2 :][: asked.held] for train in whole]
    ctx = Context(lm, budget, trains=tuple(trains))
    own = vectors(ctx, asked.method, trains, asked.strength)
    tuned = [f[0].steering for f in build_method("lora", {}).fit_all(ctx, trains)]
    rows: list[dict[str, Any]] = []
    for a in range(len(trains)):
        b = (a + 1) % len(trains)
        adapter = tuned[b]
        assert isinstance(adapter, Steering)
        states = {
            "bare": Steering(),
            "own": own[a],
            "other": own[b],
            "both": own[a].merged(own[b]),
            "tuned": adapter,
            "tuned_own": adapter.merged(own[a]),
        }
        found = {name: round(margin(lm, steering, held[a]), 4) for name, steering in states.items()}
        rows.append({"concept": trains[a].concept.id, "beside": trains[b].concept.id, **found})
        print(rows[-1])
    means = {name: round(float(np.mean([row[name] for row in rows])), 4) for name in states}
    gaps = {}
    for name, (one, two) in EFFECTS.items():
        gap = stats.paired([row[one] for row in rows], [row[two] for row in rows])
        gaps[name] = [round(x, 4) for x in (gap.mean, gap.low, gap.high)]
    print(means, gaps)
    record = {"method": asked.method, "strength": asked.strength, "rows": rows, "means": means, "effects": gaps}
    record |= {"budget": dataclasses.asdict(budget), "provenance": provenance.provenance()}
    write_json(Path(__file__).with_suffix(".json"), record)


if __name__ == "__main__":
    main()
