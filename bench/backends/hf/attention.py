"""Which attention a model runs with, and grouped-query attention on a CPU without copies of the keys.

The second takes the queries of a group as rows of one head. torch's CPU kernel works head by head, so that a lone query
per head (each step of writing an answer) is all overhead, and `transformers` first copies keys and values once per
query head: taken together, such a step takes a third to a twelfth of the time.

Invariant: every query sees the same keys in the same order as under torch's `sdpa`. Results are mostly the same
bits; the last ones may differ, as they do between batches of another shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from bench.backends import devices

NAME, PLAIN, WIDE = "grouped_sdpa", "sdpa", "wide_sdpa"
CAP = "attn_logit_softcapping"
"""Where Gemma-2 and its kin say what their attention's logits are capped at."""


def implementation(config: Any) -> str | None:
    """What to hand to `from_pretrained` as `attn_implementation`: None for transformers' own choice, whatever the
    checkpoint was saved with.

    That choice is `sdpa`, which drops a cap of attention's logits without a word, and the kernels that know one ask for
    a GPU or a compiler: a model with a cap runs as its own code has it.
    """
    return "eager" if getattr(config.get_text_config(decoder=True), CAP, None) is not None else None


def use(model: Any) -> None:
    """Let a model on a CPU take the queries of a group together in its passes without gradient, instead of `sdpa`."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None)  # Mamba has none
    groups = getattr(config, "num_key_value_heads", None) or heads
    if devices.of(model).type != "cpu" or groups == heads:
        return
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)

    def before(*_: Any) -> None:
        if config._attn_implementation in (PLAIN, NAME):  # NAME: a pass before was broken off from the keyboard
            config._attn_implementation = PLAIN if torch.is_grad_enabled() else NAME

    def after(*_: Any) -> None:
        if config._attn_implementation == NAME:
            config._attn_implementation = PLAIN

    model.register_forward_pre_hook(before)
    model.register_forward_hook(after, always_call=True)


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **rest: Any
) -> tuple[Tensor, None]:
    """`query` `[B, heads, L, D]` over `key` and `value` `[B, groups, T, D]`; returns `[B, L, heads, D]`."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    batch, heads, length, width = query.shape
    groups = key.shape[1]
    alike = attention_mask.shape[1] == 1 if attention_mask is not None else length == 1
    if groups == heads or not alike or rest.get("position_bias") is not None:
        found: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **rest)
        return found
    each = heads // groups
    mask = attention_mask
    if mask is not None and length > 1:  # the same for each of a group's heads
        mask = mask.expand(-1, -1, length, -1).repeat(1, 1, each, 1)
    rows = query.reshape(batch, groups, each * length, width)
    answered = torch.nn.functional.scaled_dot_product_attention(
        rows, key, value, attn_mask=mask, dropout_p=rest.get("dropout", 0.0), scale=rest.get("scaling")
    )
    return answered.reshape(batch, heads, length, -1).transpose(1, 2).contiguous(), None


def doubled(model: Any) -> AbstractContextManager[None]:
    """Attention takes its sums in fp64 in the passes of a fp32 model on a CPU: in fp32 their last bits differ with the
    place of a key in its row, and so with the company of a text."""
    return widened(model, torch.float64, attend) if model.dtype == torch.float32 else nullcontext()


@contextmanager
def widened(model: Any, wide: torch.dtype, attend: Callable[..., Any]) -> Iterator[None]:
    """In the passes of a model on a CPU that attends by `sdpa`, `attend` is given queries, keys, values and a mask of
    numbers as `wide`, and what it answers has the queries' type again."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    config = model.config.get_text_config()
    if devices.of(model).type != "cpu" or config._attn_implementation != PLAIN:
        yield
        return

    def attended(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **rest: Any) -> Any:
        told = mask if mask is None or mask.dtype == torch.bool else mask.to(wide)
        found, weights = attend(module, query.to(wide), key.to(wide), value.to(wide), told, **rest)
        return found.to(query.dtype), weights

    AttentionInterface.register(WIDE, attended)
    AttentionMaskInterface.register(WIDE, sdpa_mask)
    config._attn_implementation = WIDE
    try:
        yield
    finally:
        config._attn_implementation = PLAIN
