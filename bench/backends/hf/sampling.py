"""Which token an answer goes on with, and where it stops.

Invariant: a row's token depends on its own logits and noise alone, whatever else is in its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.core.values import Sampling


def draw(sampling: Sampling, noise: Tensor, width: int) -> Callable[[Tensor, Tensor], Tensor]:
    """A logits processor that draws each row's token by inverse CDF from its own `noise[row, step]`.

    Greedy `generate` then takes the drawn token; transformers' own sampler shares one generator over
    the batch, which would make a row's text depend on its neighbours.
    """

    def process(ids: Tensor, logits: Tensor) -> Tensor:
        if sampling.temperature == 0:
            return logits
        scores = logits.float() / sampling.temperature
        top, tokens = scores.topk(min(sampling.top_k or scores.shape[-1], scores.shape[-1]), dim=-1)
        total = torch.softmax(top, dim=-1).cumsum(-1)
        u = noise[:, ids.shape[1] - width, None].to(total) * total[:, -1:]
        choice = (total <= u).sum(-1, keepdim=True).clamp(max=top.shape[-1] - 1)
        only = torch.full_like(scores, -torch.inf)
        return only.scatter(-1, tokens.gather(-1, choice), 0.0)

    return process


def halt(tokenizer: Any, stop: Sequence[str], width: int) -> Callable[..., Tensor]:
    """A stopping criterion: a row is done once what it wrote holds one of the texts `stop`."""

    def done(ids: Tensor, _: Tensor, **__: Any) -> Tensor:
        texts = tokenizer.batch_decode(ids[:, width:], skip_special_tokens=True)
        return torch.tensor([any(end in text for end in stop) for text in texts], device=ids.device)

    return done
