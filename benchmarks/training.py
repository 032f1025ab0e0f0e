"""What batching over concepts saves: one vector per concept trained together, against one after the other.

Prints, and writes to `training.json` (`training-cuda.json` on a GPU), seconds on the same texts with the
same steps (batch 6): `together` runs `bench.training` with its frozen prefix and all concepts in a batch;
`apart` is a plain loop over concepts in which a hook adds the vector, so that gradients already stop at
the edited block. Both learn the same vectors; the largest difference is written down too.
`python benchmarks/training.py --concepts 12 --steps 12`.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.backends.hf.backend import HFBackend
from bench.backends.hf.modules import blocks, first, with_first
from bench.backends.models import DEFAULT, resolve
from bench.core.interfaces import Context
from bench.core.protocol import PRESETS, protocol
from bench.core.registry import build
from bench.core.store import write_json
from bench.core.values import Train
from bench.results import provenance
from bench.training.changes.base import TrainingContext
from bench.training.objectives.log_probabilities import LM
from bench.training.parametrisations import Vector
from bench.training.trainer import Recipe, Trained, train

FORM, RECIPE = Vector(), Recipe(rate=0.05, batch=6)


def batched(ctx: Context, trains: Sequence[Train]) -> list[Trained]:
    """All concepts' vectors, trained together."""
    return list(train(ctx, "benchmark", trains, FORM, LM(), RECIPE))


def plain_loop(ctx: Context, one: Train) -> np.ndarray[Any, Any]:
    """One concept's vector `[H]`, by a loop that knows nothing of the trainer but its starting point."""
    scene = TrainingContext(ctx, [one])
    layer, model = ctx.layer(FORM.layer), scene.model
    unit = scene.norms(layer)[0] / scene.hidden**0.5
    weight = torch.nn.Parameter(FORM.init * scene.normal(scene.hidden, salt="vector")[0])
    begin = ctx.lm.template_prefix
    limit = begin + ctx.budget.tokens
    rows = []
    for example in one.positives:
        ids = ctx.lm.encode(example.messages[:-1], example.response)[:limit]
        rows.append((ids, len(ctx.lm.encode(example.messages[:-1]))))
    rng = ctx.rng("train", one.concept.id, "order")
    size, epochs = RECIPE.batch, ctx.budget.epochs
    total = math.ceil(len(rows) / size) * epochs
    adam = torch.optim.AdamW([weight], lr=RECIPE.rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: 1 - step / total)

    def add(_: Any, __: Any, output: Any) -> Any:
        h = first(output)
        header = torch.arange(h.shape[1], device=h.device)[None, :, None] < begin
        return with_first(output, torch.where(header, h, (h.float() + unit * weight).to(h.dtype)))

    handle = blocks(model)[layer].register_forward_hook(add)
    try:
        for _ in range(epochs):
            order = rng.permutation(len(rows))
            for k in range(0, len(rows), size):
                picked = [rows[i] for i in order[k : k + size]]
                width = max(len(ids) for ids, _ in picked)
                padded = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in picked], device=scene.device)
                logits = model(input_ids=padded, use_cache=False).logits.float()
                chosen = logits[:, :-1].gather(2, padded[:, 1:, None])[..., 0] - logits[:, :-1].logsumexp(2)
                losses = [-chosen[i, n - 1 : len(ids) - 1].mean() for i, (ids, n) in enumerate(picked)]
                torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_([weight], RECIPE.clip)
                adam.step()
                schedule.step()
                adam.zero_grad()
    finally:
        handle.remove()
    found: np.ndarray[Any, Any] = (unit * weight).detach().cpu().numpy()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--concepts", type=int, default=12)
    parser.add_argument("--steps", type=int, default=12, help="per concept; a step is six texts")
    parser.add_argument("--tokens", type=int, default=64, help="kept of each text, its instruction among them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    backend = HFBackend(resolve(DEFAULT))
    task = build("task", "axbench", {}, protocol=protocol("standard"))
    each = 6 * min(asked.steps, 4)  # a concept of the mini set has 24 texts
    trains = [
        dataclasses.replace(one, positives=one.positives[:each], negatives=one.negatives[:each])
        for one in (task.train(concept) for concept in list(task.concepts())[: asked.concepts])
    ]
    epochs = max(1, round(asked.steps / math.ceil(each / 6)))
    budget = dataclasses.replace(PRESETS["standard"].budget, tokens=asked.tokens, epochs=epochs)
    ctx = Context(backend, budget)
    for one in trains:  # the length of a unit is measured once, for both
        ctx.tokens([*one.positives, *one.negatives], ctx.layer(FORM.layer))

    def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
        begun = time.perf_counter()
        found = work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - begun, found

    plain_loop(dataclasses.replace(ctx, budget=dataclasses.replace(budget, epochs=1)), trains[0])  # warm
    together, apart = [], []
    for _ in range(asked.rounds):  # in turn, so that both see the same machine
        taken, learnt = seconds(lambda: batched(ctx, trains))
        together.append(taken)
        taken, looped = seconds(lambda: [plain_loop(ctx, one) for one in trains])
        apart.append(taken)
    vectors = [one.change.direction(one.number)[1] for one in learnt]  # type: ignore[index]
    scale = max(float(np.linalg.norm(v)) for v in looped)
    worst = max(float(np.linalg.norm(a - b)) for a, b in zip(vectors, looped, strict=True)) / scale
    one, other = statistics.median(together), statistics.median(apart)
    found = {
        "concepts": len(trains),
        "steps": epochs * math.ceil(each / 6),
        "batch": RECIPE.batch,
        "tokens": asked.tokens,
        "dtype": str(backend.dtype).removeprefix("torch."),
        "together_seconds": [round(t, 3) for t in together],
        "apart_seconds": [round(t, 3) for t in apart],
        "apart_to_together": round(other / one, 3),
        "largest_difference": float(f"{worst:.3g}"),
        "provenance": provenance.provenance(),
    }
    name = "training-cuda.json" if torch.cuda.is_available() else "training.json"
    write_json(asked.out or Path(__file__).with_name(name), found)
    print(f"together {one:.2f} s, apart {other:.2f} s: {other / one:.2f} x; largest difference {worst:.2g}")


if __name__ == "__main__":
    main()
