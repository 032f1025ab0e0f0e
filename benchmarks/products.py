"""What one core reaches: products of the default model's weights, reading prompts, writing answers, and rating.

Torch's own products against those of the engine, in turns in this process, in seconds of this thread's own time, so
that a neighbour counts as little as it can. A share is of the limit: all products of a pass on the model's own
weights, which do not fit into a cache, and nothing else. `python -m benchmarks.products`; a quarter of an hour.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.backends.hf import cache, linear, scoring
from bench.backends.hf.backend import HFBackend
from bench.backends.hf.below import Below
from bench.backends.models import DEFAULT, resolve
from bench.core.kinds import Add
from bench.core.steering import Steering
from bench.core.store import write_json
from bench.core.values import Request, Sampling
from bench.results import provenance

PROMPT, ROOM, STEPS = 54, 48, 4
"""Tokens of a prompt and of an answer in the default job; tokens written in one timing."""
ROWS = (64, 256)
TURNS = 5
WORDS = ["the", "garden", "of", "old", "roses", "lies", "beyond", "a", "river", "and", "nobody", "knows", "its", "name"]


def seconds(work: Callable[[], object]) -> float:
    begun = time.thread_time()
    work()
    return time.thread_time() - begun


@contextlib.contextmanager
def torch_s_own(model: Any) -> Iterator[None]:
    """The model with torch's products, as before the engine chose any."""
    modules: list[tuple[Any, Any]] = [
        (module, module.__class__) for module in model.modules() if isinstance(module, linear.Laid)
    ]
    for module, _ in modules:
        module.__class__ = nn.Linear
    try:
        yield
    finally:
        for module, own in modules:
            module.__class__ = own


class Job:
    """Passes of `rows` rows on a model."""

    def __init__(self, lm: HFBackend, rows: int) -> None:
        self.model, self.rows = lm.model, rows
        draw = torch.Generator().manual_seed(0)
        self.ids = torch.randint(10, 40_000, (rows, PROMPT), generator=draw)
        self.pads = torch.randint(0, 12, (rows,), generator=draw)
        self.mask = (torch.arange(PROMPT)[None] >= self.pads[:, None]).long()
        self.next = torch.randint(10, 40_000, (rows, 1), generator=draw)
        self.kept: Any = None
        self.linears = [module for module in self.model.modules() if isinstance(module, nn.Linear)]
        sizes, dtype = {module.in_features for module in self.linears}, self.model.dtype
        self.inputs = {(n, size): torch.randn(n, size, dtype=dtype) for n in {rows, rows * PROMPT} for size in sizes}

    def read(self) -> None:
        self.kept = cache.cache(self.model, PROMPT + ROOM)
        self.model(input_ids=self.ids, attention_mask=self.mask, logits_to_keep=1, **self.kept)

    def write(self) -> None:
        """`STEPS` tokens of each row, from the end of the prompts."""
        for layer in self.kept["past_key_values"].layers:
            layer.keys, layer.values = (whole[:, :, :PROMPT] for whole in layer.whole)
        for k in range(STEPS):
            seen = torch.cat([self.mask, torch.ones(self.rows, k + 1, dtype=torch.long)], 1)
            places = (PROMPT + k - self.pads)[:, None]
            self.model(self.next, attention_mask=seen, position_ids=places, logits_to_keep=1, **self.kept)

    def products(self, tokens: int) -> None:
        """All products of a pass of `tokens` tokens, of which one a row goes through the output matrix."""
        for module in self.linears:
            last = module is self.model.get_output_embeddings()
            module(self.inputs[min(tokens, self.rows) if last else tokens, module.in_features])


def turns(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Least seconds of each way, taken in turns."""
    for work in ways.values():
        work()
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(TURNS):
        for name, work in ways.items():
            found[name].append(seconds(work))
    return {name: min(each) for name, each in found.items()}


def generation(lm: HFBackend, rows: int) -> dict[str, Any]:
    """Tokens a second of thread time, the gain over torch's own products, and the share of the limit."""
    job = Job(lm, rows)

    def own(work: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            with torch_s_own(lm.model):
                work()

        return run

    job.read()
    wrote = turns({"now": job.write, "before": own(job.write), "limit": lambda: job.products(rows)})
    read = turns({"now": job.read, "before": own(job.read), "limit": lambda: job.products(rows * PROMPT)})
    tokens = {"write": rows * STEPS, "read": rows * PROMPT}
    found: dict[str, Any] = {}
    for name, times, passes in (("write", wrote, STEPS), ("read", read, 1)):
        found[name] = {
            "tokens_per_second": round(tokens[name] / times["now"]),
            "now_over_before": round(times["before"] / times["now"], 3),
            "share_of_limit": round(passes * times["limit"] / times["now"], 3),
            "share_before": round(passes * times["limit"] / times["before"], 3),
        }
    return found


def rating(lm: HFBackend) -> dict[str, Any]:
    """What a likelihood judge asks, as rows of several widths; read tokens a second over those of plain reading."""
    texts = [" ".join(WORDS[(i * k + j) % len(WORDS)] for j in range(20 + k)) for i in range(16) for k in (1, 3, 7)]
    asks = [f"Tell me about garden {i} beyond the river. (Work into the reply: {w}.)" for i in range(4) for w in WORDS]
    scattered = [Request((("user", asks[i * 7 % len(asks)]),), target=text) for i, text in enumerate(texts)]
    grouped = [Request((("user", asks[i // 12]),), target=text) for i, text in enumerate(texts)]
    counted = {"tokens": 0}
    scored = scoring._score

    def counting(*words: Any) -> Any:
        counted["tokens"] += sum(len(tree.ids) for _, tree in words[3])
        return scored(*words)

    scoring._score = counting  # type: ignore[assignment]
    ids = torch.randint(10, 40_000, (64, 64))
    plain = 4096 / min(seconds(lambda: lm.model(input_ids=ids, logits_to_keep=1)) for _ in range(TURNS))
    found: dict[str, Any] = {"plain_tokens_per_second": round(plain)}
    now = scoring.WIDE
    try:
        for what, requests in (("scattered", scattered), ("grouped", grouped)):
            for wide in (512, 128, 64):
                scoring.WIDE = wide
                shares, times = [], []
                for _ in range(3):
                    counted["tokens"] = 0
                    spent = seconds(lambda own=requests: list(lm.logprobs(own)))  # type: ignore[misc]
                    shares.append(counted["tokens"] / spent / plain)
                    times.append(spent)
                found[f"{what}, width {wide}"] = {
                    "seconds": round(statistics.median(times), 2),
                    "share_of_plain": round(statistics.median(shares), 3),
                    "spread": [round(min(shares), 3), round(max(shares), 3)],
                }
    finally:
        scoring.WIDE, scoring._score = now, scored
    return found


def sharing(lm: HFBackend) -> dict[str, Any]:
    """Answers to a few prompts under many strengths of a vector at the middle layer: over reading each prompt whole."""
    rng = np.random.default_rng(0)
    direction = rng.normal(size=lm.width).astype(np.float32)
    asks = [
        f"Write, in a few sentences, about garden {i} beyond the old river, and say who lives there." for i in range(6)
    ]
    requests = [
        Request(
            (("user", ask),), Steering(edits=(Add(layer=lm.layers // 2, value=c * direction),)), Sampling(ROOM, 1.0), i
        )
        for i, ask in enumerate(asks)
        for c in np.linspace(0.1, 0.4, 24)
    ]
    shared = Below.shared

    def whole() -> None:
        Below.shared = lambda *_: None  # type: ignore[method-assign]
        try:
            list(lm.generate(requests))
        finally:
            Below.shared = shared  # type: ignore[method-assign]

    ways = {"once": lambda: list(lm.generate(requests)), "whole": whole}
    ratios = []
    for _ in range(3):
        times = {name: seconds(work) for name, work in ways.items()}
        ratios.append(times["whole"] / times["once"])
    return {"requests": len(requests), "prompts": len(asks), "once_over_whole": round(statistics.median(ratios), 3),
            "spread": [round(min(ratios), 3), round(max(ratios), 3)]}  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    found: dict[str, Any] = {"prompt": PROMPT, "steps": STEPS, "turns": TURNS}
    with torch.inference_mode():
        for dtype in ("bfloat16", "float32"):
            lm = HFBackend(resolve(DEFAULT), dtype)
            found[dtype] = {str(rows): generation(lm, rows) for rows in ROWS}
            if dtype == "bfloat16":
                found["rating"], found["sharing"] = rating(lm), sharing(lm)
            print(json.dumps(found[dtype]), flush=True)
    write_json(Path(__file__).with_suffix(".json"), found | {"provenance": provenance.provenance()})


if __name__ == "__main__":
    main()
