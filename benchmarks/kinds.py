"""What steering costs when every row of a batch is changed in another way: time over that of bare rows.

`python -m benchmarks.kinds` writes 64 rows of the default model on `hf`: all bare, each under another kind of edit, and
64 rows of one kind, in turns, in seconds of this thread's own time; then 256 rows under as many vectors, each at a
layer and a coefficient of its own. Writes `kinds.json`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import (
    Add,
    Cache,
    Clamp,
    Diagonal,
    Embeds,
    Gate,
    LowRank,
    LowRankDelta,
    Mix,
    Project,
    Prompt,
    QuadraticField,
    Request,
    Rotate,
    Sampling,
    Scaled,
    Span,
    Steering,
)
from bench.backends.hf.backend import HFBackend
from bench.backends.models import DEFAULT, resolve
from bench.core.store import write_json
from bench.results import provenance

ROWS, TOKENS, TURNS = 64, 24, 3
CONFIGURATIONS = 256


def kinds(lm: HFBackend) -> dict[str, Steering]:
    """One steering of each kind after the middle block, weak enough to leave answers long."""
    rng = np.random.default_rng(0)
    width, layer = lm.width, lm.layers // 2

    def drawn(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(np.float32)

    basis = np.linalg.qr(drawn(width, 4))[0].T.astype(np.float32)
    value, bias = drawn(width), np.zeros(2, np.float32)
    edits = {
        "add": Add(layer=layer, value=value),
        "add, length kept": Add(layer=layer, value=value, keep_norm=True),
        "add at the attention": Add(layer=layer, value=value, site="attn"),
        "add under a gate": Add(layer=layer, value=value, gate=Gate(layer - 1, value, -2.0, similarity="cosine")),
        "project": Project(layer=layer, basis=basis[:1], strength=0.2),
        "clamp": Clamp(layer=layer, read=basis[0], write=basis[1], target=1.0),
        "lowrank": LowRank(layer=layer, rotation=basis, weight=0.9 * basis, bias=np.zeros(4, np.float32)),
        "scaled": Scaled(layer=layer, read=basis[:2], write=basis[2:], bias=bias, activation="relu", strength=0.1),
        "scaled, full rank": Scaled(
            layer=layer,
            read=drawn(width, width) / width,
            write=np.eye(width, dtype=np.float32),
            bias=np.zeros(width, np.float32),
            strength=0.1,
        ),
        "diagonal": Diagonal(layer=layer, gain=1 + 0.01 * value, shift=0.1 * value),
        "velocity of a classifier, 10 steps": QuadraticField(
            layer=layer, basis=basis, weights=np.ones(4, np.float32), linear=value, steps=10, time=1.0
        ),
        "cache": Cache(layer=layer, value=0.1 * drawn(lm.size(layer, "values"))),
        "rotate": Rotate(layer=layer, basis=basis[:2], angle=1.0),
        "rotate, towards": Rotate(layer=layer, basis=basis[:2], mode="towards", when="confident", strength=0.1),
    }
    found = {name: Steering(edits=(edit,)) for name, edit in edits.items()}
    every = tuple(Add(layer=k, value=0.1 * value, span=Span("generation")) for k in range(lm.layers))
    found["add at every block"] = Steering(edits=every)
    module = f"model.layers.{layer}.self_attn.o_proj"
    found["weights, rank 4"] = Steering(
        deltas=(LowRankDelta(module=module, down=0.01 * drawn(4, width), up=drawn(width, 4)),)
    )
    found["soft prompt of 5"] = Steering(embeds=(Embeds(0.1 * drawn(5, width)),))
    found["mix of two prompts"] = Steering(Prompt(system="Talk about the sea."), mix=Mix(alpha=1.5))
    return found


def configurations(lm: HFBackend) -> list[Steering]:
    """Vectors that differ in everything, over the middle half of the blocks, weak enough to leave answers long."""
    rng = np.random.default_rng(1)
    values = rng.standard_normal((CONFIGURATIONS, lm.width)).astype(np.float32)
    layers = range(lm.layers // 4, lm.layers - lm.layers // 4)
    return [
        Steering(edits=(Add(layer=layers[i % len(layers)], value=(0.2 + i / CONFIGURATIONS) * value),))
        for i, value in enumerate(values)
    ]


def spent(lm: HFBackend, ways: Sequence[Steering | None]) -> float:
    """Seconds of this thread for one answer under each of the ways, over the tokens written. No two rows ask the same,
    since what is asked twice is read once."""
    asks = [f"Tell me, in a few sentences, about garden {i} beyond the river." for i in range(len(ways))]
    requests = [
        Request((("user", ask),), way, Sampling(TOKENS), i) for i, (ask, way) in enumerate(zip(asks, ways, strict=True))
    ]
    begun = time.thread_time()
    tokens = sum(answer.tokens for _, answer in lm.generate(requests))
    return (time.thread_time() - begun) / tokens


def ratios(lm: HFBackend, ways: Mapping[str, Sequence[Steering | None]]) -> dict[str, dict[str, Any]]:
    """Seconds a token of each way over those of bare rows, turn by turn."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(TURNS):
        bare: dict[int, float] = {}
        for name, rows in ways.items():
            if len(rows) not in bare:
                bare[len(rows)] = spent(lm, [None] * len(rows))
            found[name].append(spent(lm, rows) / bare[len(rows)])
    return {
        name: {"over_bare": round(statistics.median(v), 3), "spread": [round(min(v), 3), round(max(v), 3)]}
        for name, v in found.items()
    }


def main() -> None:
    torch.set_num_threads(1)
    lm = HFBackend(resolve(DEFAULT), "auto")
    each = kinds(lm)
    names = list(each)
    one_stream = [name for name in names if name != "mix of two prompts"]
    ways: dict[str, Sequence[Steering | None]] = {
        "a kind for each row": [each[one_stream[i % len(one_stream)]] for i in range(ROWS)]
    }
    ways |= {name: [each[name]] * ROWS for name in names}
    spent(lm, [None] * ROWS)  # what a first call loads
    found: dict[str, Any] = {"rows": ROWS, "tokens": TOKENS, "turns": TURNS, "kinds": ratios(lm, ways)}
    found["configurations"] = ratios(lm, {str(CONFIGURATIONS): configurations(lm)})
    write_json(Path(__file__).with_suffix(".json"), found | {"provenance": provenance.provenance()})


if __name__ == "__main__":
    main()
