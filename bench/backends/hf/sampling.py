"""Which token an answer goes on with, and where it stops.

Invariant: a row's token depends on its own logits and noise alone, whatever else is in its batch; and the noise of a
token depends on the seed, the step and the token, not on which other tokens are likely.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.core.errors import BenchError
from bench.core.steering import Mix
from bench.core.values import Sampling

MIXERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)
"""Of SplitMix64 (Steele, Lea and Flood 2014), as signed numbers."""
STEP = 0x9E3779B97F4A7C15 - 2**64


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch's keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mixed(x: Tensor) -> Tensor:
    """SplitMix64's output function on int64, which wraps: every bit of the input moves half of the output's."""
    x = x + STEP
    x = (x ^ _shifted(x, 30)) * MIXERS[0]
    x = (x ^ _shifted(x, 27)) * MIXERS[1]
    return x ^ _shifted(x, 31)


def gumbel(seeds: Tensor, step: int, tokens: Tensor) -> Tensor:
    """Standard Gumbel noise `[rows, k]` of the token ids `tokens` `[rows, k]` at a step, from `seeds` `[rows]` (int64).

    Counter-based: the same three numbers give the same noise, in whatever order and company.
    """
    bits = _mixed(_mixed(_mixed(seeds) + step)[:, None] + tokens)
    uniform = (_shifted(bits, 11).double() + 0.5) * 2.0**-53
    return -torch.log(-torch.log(uniform))


class Paired:
    """Rows of a batch that are two streams of one text: `pairs` names both rows, and how they are mixed."""

    steps = 0
    """Steps at which all of them were mixed."""

    def __init__(self, pairs: Sequence[tuple[int, int, Mix]], device: torch.device) -> None:
        self.places = torch.tensor([(one, other) for one, other, _ in pairs], device=device).reshape(-1, 2).T
        numbers = [(mix.alpha, mix.floor) for *_, mix in pairs]
        self.alpha, self.floor = torch.tensor(numbers, device=device).reshape(-1, 2, 1).unbind(1)

    def __call__(self, logits: Tensor) -> Tensor:
        """`logits` `[B, V]` with the mix in place of both rows of each pair, so that both go on with one token."""
        prompted, against = (logits[place] for place in self.places)
        found = Mix.floored(Mix.logprobs(prompted, against, self.alpha), prompted, self.floor)
        self.steps += 1
        return logits.float().index_copy(0, self.places.flatten(), torch.cat((found, found)))

    def drawn(self, tokens: int) -> int:
        """The first `tokens` tokens of a row, all of which were drawn from the mix; else BenchError."""
        if self.steps < tokens:
            raise BenchError(f"two prompts were mixed for {self.steps} tokens of an answer with {tokens}")
        return tokens


class Draw:
    """A logits processor that draws each row's token by Gumbel-max (the largest of log p + noise).

    Greedy `generate` then takes the drawn token; transformers' own sampler shares one generator over the batch, which
    would make a row's text depend on its neighbours. Where rounding moves the logits a little, as in bf16 between
    batch shapes, the largest mostly stays the largest; an inverse CDF over tokens in order of likelihood turned every
    exchange of two of them into another text (docs/why/decisions-engines.md has both rates).
    """

    def __init__(self, sampling: Sampling, seeds: Tensor, width: int, paired: Paired | None = None) -> None:
        self.sampling, self.seeds, self.width, self.paired = sampling, seeds, width, paired
        self.real = torch.full(seeds.shape, 2**31 - 1)
        """Tokens of each row that were drawn from numbers: a maximum over NaN is NaN, and any token."""

    def __call__(self, ids: Tensor, logits: Tensor) -> Tensor:
        step = ids.shape[1] - self.width
        logits = self.paired(logits) if self.paired else logits
        if self.sampling.temperature == 0:
            self._note(logits.amax(-1), step)
            return logits
        scores = logits.float() / self.sampling.temperature
        top, tokens = scores.topk(min(self.sampling.top_k or scores.shape[-1], scores.shape[-1]), dim=-1)
        self._note(top[:, 0], step)
        if tokens.device.type == "mps":  # it has no numbers of 64 bits with a fraction
            top, tokens = top.cpu(), tokens.cpu()
        noise = gumbel(self.seeds.to(tokens.device), step, tokens)
        choice = (top.double() + noise).argmax(-1, keepdim=True)
        only = torch.full_like(scores, -torch.inf)
        return only.scatter(-1, tokens.gather(-1, choice).to(only.device), 0.0)

    def _note(self, largest: Tensor, step: int) -> None:
        self.real = self.real.to(largest.device)
        self.real = torch.where(largest.isfinite(), self.real, self.real.clamp(max=step))


def halt(tokenizer: Any, stop: Sequence[str], width: int) -> Callable[..., Tensor]:
    """A stopping criterion: a row is done once what it wrote holds one of the texts `stop`."""

    def done(ids: Tensor, _: Tensor, **__: Any) -> Tensor:
        texts = tokenizer.batch_decode(ids[:, width:], skip_special_tokens=True)
        return torch.tensor([any(end in text for end in stop) for text in texts], device=ids.device)

    return done
