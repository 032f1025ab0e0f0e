"""How far an answer depends on the batch it was written in, and how much noise two methods share.

    python benchmarks/determinism.py        # prints a table; five minutes on two cores

The same requests with the same seeds, in batches of 4 and of 24, in bfloat16 and float32: share of texts that are
equal, and of first tokens that differ. `inverse CDF` is the sampler of before, for comparison.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.backends.hf import backend as hf
from bench.backends.hf.backend import HFBackend
from bench.backends.models import DEFAULT, resolve
from bench.core.values import Request, Sampling

GENRES = Path(__file__).resolve().parents[1] / "tasks" / "data" / "mini" / "genres"
TOKENS = 48


def inverse_cdf(sampling: Sampling, seeds: torch.Tensor, width: int) -> Callable[..., torch.Tensor]:
    """Each row's token by inverse CDF over its likeliest tokens, in order of likelihood."""
    noise = np.stack([np.random.default_rng(int(seed)).random(sampling.max_new_tokens) for seed in seeds])

    def process(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        scores = logits.float() / sampling.temperature
        top, tokens = scores.topk(sampling.top_k, dim=-1)
        total = torch.softmax(top, dim=-1).cumsum(-1)
        u = torch.from_numpy(noise)[:, ids.shape[1] - width, None].to(total) * total[:, -1:]
        choice = (total <= u).sum(-1, keepdim=True).clamp(max=top.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(-1, tokens.gather(-1, choice), 0.0)

    return process


def texts(engine: Any, asked: list[Request]) -> list[str]:
    found = dict(engine.generate(asked))
    return [found[i].text for i in range(len(asked))]


def main() -> None:
    torch.set_num_threads(2)
    rows = [row for path in sorted(GENRES.glob("*.json")) for row in json.loads(path.read_text("utf-8"))["evaluation"]]
    asked = [
        Request((("user", text),), sampling=Sampling(TOKENS), seed=1000 * i + k)
        for i, text in enumerate(rows[::2][:48])
        for k in range(1)
    ]
    print("| number type | sampler | texts equal, batch 4 against 24 | first 8 tokens' text equal |")
    print("|---|---|---|---|")
    gumbel = hf.draw
    for dtype, (name, sampler) in itertools.product(
        ("bfloat16", "float32"), (("inverse CDF", inverse_cdf), ("Gumbel-max", gumbel))
    ):
        hf.draw = sampler
        one, two = (texts(HFBackend(resolve(DEFAULT), dtype, batch=size), asked) for size in (4, 24))
        short = [replace_tokens(request, 8) for request in asked]
        first, second = (texts(HFBackend(resolve(DEFAULT), dtype, batch=size), short) for size in (4, 24))
        shares = [np.mean([a == b for a, b in zip(*pair, strict=True)]) for pair in ((one, two), (first, second))]
        print(f"| {dtype} | {name} | {shares[0]:.0%} | {shares[1]:.0%} |", flush=True)
    hf.draw = gumbel


def replace_tokens(request: Request, tokens: int) -> Request:
    return Request(request.prompt, sampling=Sampling(tokens), seed=request.seed)


if __name__ == "__main__":
    main()
