"""Output scores: how much a latent, amplified, makes the model say what the latent's own direction says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench import Add, Context, Span, Steering
from methods._dictionary import Dictionary

TEXT = "From my experience,"
TOP, AMPLIFY, TOGETHER = 20, 10.0, 32
"""Tokens that a direction says; multiple of the text's largest activation; latents in one pass."""


def output_scores(ctx: Context, found: Dictionary, latents: Sequence[int], layer: int) -> list[float]:
    """S = (1 - r/V)·p of each latent (arXiv:2505.20063), as one pass over a neutral text for each.

    r is the best rank and p the largest probability that the latent's `TOP` tokens have as the next token, with the
    latent amplified on the text's last token. Its tokens are those that the model's head reads in its decoder row.
    """
    import torch

    from bench.backends.hf.hooks import Applied

    lm: Any = ctx.lm
    model, ids = lm.module, lm.encode(TEXT)
    state = ctx.last([TEXT], layer)[layer]
    peak = float(found.activations(state).max()) or float(np.linalg.norm(state))
    scores: list[float] = []
    with torch.inference_mode():
        for begin in range(0, len(latents), TOGETHER):
            own = list(latents[begin : begin + TOGETHER])
            said = _said(model, found.decoder[own]).topk(TOP, -1).indices
            push = [AMPLIFY * peak * found.decoder[i] for i in own]
            ways = [Steering(edits=(Add(layer=layer, value=v, span=Span("prompt", last=1)),)) for v in push]
            rows = torch.tensor([ids] * len(own), device=said.device)
            with Applied(model, ways, [len(ids)] * len(own), [0] * len(own), lm.header(ids)):
                logits = model(input_ids=rows, use_cache=False).logits[:, -1].float()
            rank = logits.argsort(-1, descending=True).argsort(-1).gather(1, said).min(1).values
            likely = logits.softmax(-1).gather(1, said).max(1).values
            scores += ((1 - rank / logits.shape[-1]) * likely).tolist()
    return scores


def _said(model: Any, directions: Any) -> Any:
    """Logits `[n, V]` of the model's own last norm and head on `directions` `[n, H]`, as if they were last states."""
    import torch

    from bench.backends.hf.modules import blocks, with_first

    device = next(model.parameters()).device
    states = torch.as_tensor(np.asarray(directions), dtype=model.dtype, device=device)[:, None]
    handle = blocks(model)[-1].register_forward_hook(lambda _, __, output: with_first(output, states))
    try:
        anything = torch.zeros(len(states), 1, dtype=torch.long, device=device)
        return model(input_ids=anything, use_cache=False).logits[:, 0].float()
    finally:
        handle.remove()
