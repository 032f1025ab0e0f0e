"""What a persona vector foretells of a LoRA fine-tune, and what pushing along it during training prevents.

For one shipped trait, on the default model: data sets with no, half and all answers in the trait; for each the
projection difference before training, the shift of a LoRA trained on it, and the shift of one trained while the
vector was added. Prints a table and writes `persona_training.json`, with the correlation of the first two.
`python benchmarks/persona_training.py --concept ocean --layer 15 --push 0.3`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.backends.hf.backend import HFBackend
from bench.backends.models import DEFAULT, resolve
from bench.core.content import Array
from bench.core.interfaces import Context, Method
from bench.core.naming import build_method
from bench.core.protocol import PRESETS, protocol
from bench.core.registry import build
from bench.core.steering import Steering
from bench.core.store import write_json
from bench.core.values import Train
from bench.results import provenance
from bench.run.monitor import correlation
from benchmarks.persona_tools import prevented, projection_difference, shift

SHARES = (0.0, 0.5, 1.0)
"""Of a data set's answers, how many show the trait."""


def mixed(train: Train, share: float) -> Train:
    """The training questions, so large a share of them answered in the trait."""
    cut = round(share * len(train.pairs))
    rows = [*train.positives[:cut], *train.negatives[cut : len(train.pairs)]]
    return replace(train, positives=tuple(rows), negatives=train.negatives)


def measure(
    ctx: Context, made: Method, train: Train, chats: Sequence[Any], layer: int, vector: Array, shares: Sequence[float]
) -> list[dict[str, float]]:
    """Per data set: what was foretold, the shift without a push, and the shift with one; along `vector`."""
    assert isinstance(ctx.lm, HFBackend)
    rows = []
    for share in shares:
        data = mixed(train, share)
        foretold = projection_difference(ctx, data.positives, layer, vector).mean()
        ((plain,),) = made.fit_all(ctx, [data])
        pushed = prevented(ctx, made, data, layer, vector)
        steerings = [one.steering for one in (plain, pushed)]
        moved = [shift(ctx.lm, s, chats, layer, vector).mean() for s in steerings if isinstance(s, Steering)]
        found = zip(("share", "foretold", "shift", "prevented"), (share, foretold, *moved), strict=True)
        rows.append({name: round(float(value), 4) for name, value in found})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--concept", default="ocean")
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--layer", type=int, default=15)
    parser.add_argument("--push", type=float, default=0.3, help="length of the push, in median residual norms")
    args = parser.parse_args()
    task = build("task", "persona", {}, protocol=protocol("standard"))
    concept = next(c for c in task.concepts() if c.id == args.concept)
    ctx = Context(HFBackend(resolve(args.model), "float32"), PRESETS["standard"].budget)
    train = task.train(concept)
    (fitted,) = build_method("diffmean", {"diffmean": {"layer": args.layer}}).fit(ctx, train)
    assert isinstance(fitted.steering, Steering)
    norm = np.median(np.linalg.norm(ctx.tokens(train.negatives, args.layer), axis=1))
    vector = fitted.steering.edits[0].tensors()["value"] * norm * args.push
    chats = [sample.messages for sample in task.test(concept)]
    rows = measure(ctx, build_method("lora", {}), train, chats, args.layer, vector, SHARES)
    print(f"{'trait':>6}  {'foretold':>9}  {'shift':>9}  {'prevented':>9}")
    for row in rows:
        print(f"{row['share']:>6.0%}  {row['foretold']:>9.3f}  {row['shift']:>9.3f}  {row['prevented']:>9.3f}")
    r = correlation(np.array([row["foretold"] for row in rows]), np.array([row["shift"] for row in rows]))
    print(f"foretold against shift, r = {r}, over {len(rows)} data sets")
    record = {"settings": vars(args), "rows": rows, "r": r, "provenance": provenance.provenance()}
    write_json(Path(__file__).with_suffix(".json"), record)


if __name__ == "__main__":
    main()
