"""Scoring many answers per prompt: one row of all that follows a prompt against one row per answer.

`texts` is what the likelihood judge asks, several answers that share nothing but their prompt; `options` what multiple
choice asks, short answers that begin alike. Both ways run interleaved in this process on the default model; the figure
is the median ratio of answer tokens per second and its spread.
Usage: python benchmarks/scoring.py [repeats]; prints one JSON object, and writes it beside this file.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import environment
from bench.backends.hf import HFBackend
from bench.models import DEFAULT, resolve
from bench.schema import Request
from bench.steering import Add, Steering
from bench.store import write_json

PROMPTS, ANSWERS = 8, 12
TEXTS = [f"Garden number {j} is full of roses, lilies and herbs that bloom from early spring." for j in range(ANSWERS)]
OPTIONS = [
    f"{begin} {place}"
    for begin in ("The old garden lies", "Nobody knows where it lies, but some say", "It lies")
    for place in ("behind the house", "beyond the river", "near the mill", "on the hill")
]


def compared(lm: HFBackend, answers: Sequence[str], repeats: int) -> dict[str, Any]:
    """How many times as many answer tokens a second the shared rows give."""
    asks = [
        (("user", f"Tell me, with many words, about garden number {i} behind the old house."),) for i in range(PROMPTS)
    ]
    # Requests of equal steering share a row: a vector too small to change anything, another for each answer.
    width = lm.model.config.hidden_size
    own = [Steering(edits=(Add(layer=0, value=np.full(width, 1e-30 * (j + 1), np.float32)),)) for j in range(ANSWERS)]
    plans = {
        "shared": [Request(ask, target=text) for ask in asks for text in answers],
        "full": [Request(ask, one, target=text) for ask in asks for one, text in zip(own, answers, strict=True)],
    }
    speeds: dict[str, list[float]] = {name: [] for name in plans}
    for _ in range(repeats + 1):  # the first round warms up and is dropped
        for name, requests in plans.items():
            begun = time.perf_counter()
            tokens = sum(len(score.logprobs) for _, score in lm.logprobs(requests))
            speeds[name].append(tokens / (time.perf_counter() - begun))
    ratios = [a / b for a, b in zip(speeds["shared"][1:], speeds["full"][1:], strict=True)]
    return {
        "shared_over_full": round(statistics.median(ratios), 2),
        "spread": [round(f(ratios), 2) for f in (min, max)],
    }


def main(repeats: int) -> None:
    lm = HFBackend(resolve(DEFAULT))
    found = {
        "what": f"{ANSWERS} answers after each of {PROMPTS} prompts, {DEFAULT}, {lm.dtype}",
        "texts": compared(lm, TEXTS, repeats),
        "options": compared(lm, OPTIONS, repeats),
        "repeats": repeats,
        "hardware": environment.hardware(),
        "versions": environment.versions(),
    }
    print(json.dumps(found, indent=1))
    write_json(Path(__file__).with_suffix(".json"), found)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
