"""When a fitted vector or adapter has paid for itself, against a prompt that needs no fitting.

Invariant: both sides serve the same requests, and all is in FLOPs of one model; choosing a wording or a
coefficient costs both the same number of trials and is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench.overhead.exact import Architecture, Extra, adapter, lora, prefill_flops, prompt, request_flops, vector

LENGTH, EPOCHS = 64, 3
"""Tokens of a training text and epochs of a trained adapter, as preset standard has them."""
LONGEST = 2**20
"""Longest request prompt that a break-even is searched for."""


@dataclass(frozen=True)
class Fit:
    """What making a steering costs: `texts` of `tokens` tokens through the whole model, `passes` times each.

    A vector reads its texts once; a trained adapter runs forward and backward (three passes) every epoch.
    """

    texts: int
    tokens: int
    passes: int = 1

    def flops(self, arch: Architecture) -> int:
        return self.passes * self.texts * prefill_flops(arch, self.tokens)


def saving(arch: Architecture, steering: Extra, tokens: int, own: int, reply: int, cached: bool) -> int:
    """FLOPs a request saves under `steering` against a prompt of `tokens` tokens; negative where it costs more.

    `own` are the tokens of the request itself, `cached` says that the prompt's keys and values are kept.
    """
    return request_flops(arch, prompt(tokens), own, reply, cached) - request_flops(arch, steering, own, reply)


def requests(arch: Architecture, steering: Extra, fit: float, tokens: int, own: int, reply: int, cached: bool) -> float:
    """Requests after which fitting (`fit` FLOPs) and serving is cheaper than the prompt; infinite if never."""
    won = saving(arch, steering, tokens, own, reply, cached)
    return math.ceil(fit / won) if won > 0 else math.inf


def context(
    arch: Architecture, steering: Extra, fit: float, tokens: int, served: int, reply: int, cached: bool
) -> int | None:
    """Shortest own prompt at which `served` requests pay for the fit; None where none up to `LONGEST` does.

    Savings grow with a request's length and then level off, or fall where the steering costs more per token than
    attending to the prompt; lengths are tried by doubling, then narrowed down.
    """

    def pays(own: int) -> bool:
        return requests(arch, steering, fit, tokens, own, reply, cached) <= served

    high = next((own for own in _powers() if pays(own)), None)
    if high is None or high == 1:
        return high
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if pays(middle) else (middle, high)
    return high


def _powers() -> Iterator[int]:
    own = 1
    while own <= LONGEST:
        yield own
        own *= 2


def table(
    arch: Architecture, sizes: Sequence[int], own: Sequence[int], reply: int, texts: int, served: int, rank: int
) -> list[dict[str, Any]]:
    """Break-evens of a vector and of adapters against prompts of `sizes` tokens, as JSON rows.

    A vector reads `texts` texts of `LENGTH` tokens once; adapters train on them for `EPOCHS` epochs.
    """
    once, trained = Fit(texts, LENGTH), Fit(texts, LENGTH, 3 * EPOCHS)
    fitted = {
        "vector, 1 block": (vector(arch), once),
        f"rank-{rank} edit, 1 block": (adapter(arch, rank), trained),
        f"LoRA rank {rank}, all linears": (lora(arch, rank), trained),
        f"LoRA rank {rank}, merged": (lora(arch, rank, merged=True), trained),
    }
    rows = []
    for name, (steering, fit) in fitted.items():
        for size in sizes:
            for cached in (False, True):
                needed = [requests(arch, steering, fit.flops(arch), size, n, reply, cached) for n in own]
                rows.append(
                    {
                        "method": name,
                        "prompt_tokens": size,
                        "prefix_cached": cached,
                        "fit_flops": fit.flops(arch),
                        "requests": {
                            str(n): None if math.isinf(count) else count for n, count in zip(own, needed, strict=True)
                        },
                        "context": context(arch, steering, fit.flops(arch), size, served, reply, cached),
                        "at_requests": served,
                    }
                )
    return rows
