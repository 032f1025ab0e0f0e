"""What is read once for many answers: a prompt before several answers, and what several prompts begin with alike.

`texts` are what the likelihood judge asks, several answers that share nothing but their prompt; `options` what
multiple choice asks, short answers that begin alike; both against a row for each answer. Prompts with `shots` begin
with the same long examples, before options and before answers that are written; against prompts read one by one.
Both ways run interleaved in this process on the default model; the figure is the median ratio of answer tokens per
second and its spread.
Usage: python benchmarks/scoring.py [repeats]; prints one JSON object, and writes it beside this file.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.backends.hf.backend import HFBackend
from bench.backends.models import DEFAULT, resolve
from bench.core.content import Message
from bench.core.kinds import Add
from bench.core.steering import Steering
from bench.core.store import write_json
from bench.core.values import Request, Sampling
from bench.results import provenance

Run = Callable[[], int]
"""Does its work and returns how many answer tokens that was."""
PROMPTS, ANSWERS = 8, 12
TEXTS = [f"Garden number {j} is full of roses, lilies and herbs that bloom from early spring." for j in range(ANSWERS)]
OPTIONS = [
    f"{begin} {place}"
    for begin in ("The old garden lies", "Nobody knows where it lies, but some say", "It lies")
    for place in ("behind the house", "beyond the river", "near the mill", "on the hill")
]


SHOTS = "\n".join(f"Question {i}: what is in garden {i}? Answer: roses and herbs, in {i} rows." for i in range(50))


def asks(before: str = "") -> list[tuple[Message, ...]]:
    texts = [f"Tell me, with many words, about garden number {i} behind the old house." for i in range(PROMPTS)]
    return [(("user", before + text),) for text in texts]


def scoring(lm: HFBackend, answers: Sequence[str]) -> dict[str, Run]:
    own = apart(lm, len(answers))
    shared = [Request(ask, target=text) for ask in asks() for text in answers]
    full = [Request(ask, one, target=text) for ask in asks() for one, text in zip(own, answers, strict=True)]
    return {"shared": scored(lm, shared), "full": scored(lm, full)}


def shots(lm: HFBackend) -> dict[str, Run]:
    own = apart(lm, PROMPTS)
    shared = [Request(ask, target=text) for ask in asks(SHOTS) for text in OPTIONS]
    full = [Request(ask, one, target=text) for ask, one in zip(asks(SHOTS), own, strict=True) for text in OPTIONS]
    return {"shared": scored(lm, shared), "full": scored(lm, full)}


def written(lm: HFBackend) -> dict[str, Run]:
    lm.endless = True
    shared = [Request(ask, sampling=Sampling(48), seed=i) for i, ask in enumerate(asks(SHOTS))]
    full = [replace(request, steering=one) for request, one in zip(shared, apart(lm, PROMPTS), strict=True)]
    return {"shared": generated(lm, shared), "full": generated(lm, full)}


def apart(lm: HFBackend, count: int) -> list[Steering]:
    """Vectors too small to change anything, each another: requests of unequal steering share nothing."""
    width = lm.model.config.hidden_size
    return [Steering(edits=(Add(layer=0, value=np.full(width, 1e-30 * (j + 1), np.float32)),)) for j in range(count)]


def scored(lm: HFBackend, requests: Sequence[Request]) -> Run:
    return lambda: sum(len(score.logprobs) for _, score in lm.logprobs(requests))


def generated(lm: HFBackend, requests: Sequence[Request]) -> Run:
    return lambda: sum(answer.tokens for _, answer in lm.generate(requests))


def compared(plans: Mapping[str, Run], repeats: int) -> dict[str, Any]:
    """How many times as many answer tokens a second the shared reading gives."""
    speeds: dict[str, list[float]] = {name: [] for name in plans}
    for _ in range(repeats + 1):  # the first round warms up and is dropped
        for name, run in plans.items():
            begun = time.perf_counter()
            tokens = run()
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
        "shots": f"{lm.count(asks(SHOTS)[0])} tokens a prompt, which all but the last line share",
        "scored texts": compared(scoring(lm, TEXTS), repeats),
        "scored options": compared(scoring(lm, OPTIONS), repeats),
        "scored options after shots": compared(shots(lm), repeats),
        "written after shots": compared(written(lm), repeats),
        "repeats": repeats,
        "hardware": provenance.hardware(),
        "versions": provenance.versions(),
    }
    print(json.dumps(found, indent=1))
    write_json(Path(__file__).with_suffix(".json"), found)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
