"""Where the parts of a transformers model lie: its blocks, their attention and feed-forward modules, what they give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from bench.core.errors import BenchError


def blocks(model: nn.Module) -> nn.ModuleList:
    """The decoder blocks of a transformers causal language model."""
    decoder = model.get_decoder()  # type: ignore[operator]
    count = model.config.get_text_config().num_hidden_layers  # type: ignore[union-attr, operator]
    for child in decoder.children():
        if isinstance(child, nn.ModuleList) and len(child) == count:
            return child
    raise BenchError(f"found no list of {count} decoder blocks in {type(decoder).__name__}")


def site_of(block: nn.Module, site: str) -> nn.Module:
    """The module whose output an edit at `site` changes: the block, its attention, or its feed-forward part."""
    names = {"attn": ("self_attn", "attn", "attention"), "mlp": ("mlp", "feed_forward", "block_sparse_moe")}
    if site == "resid":
        return block
    for name in names[site]:
        if isinstance(found := getattr(block, name, None), nn.Module):
            return found
    raise BenchError(f"{type(block).__name__} has no {site!r} module")


def attention_output(block: nn.Module) -> nn.Linear:
    """The linear module that writes the heads' results to the residual stream."""
    attention = site_of(block, "attn")
    for name in ("o_proj", "out_proj", "dense", "c_proj"):
        if isinstance(found := getattr(attention, name, None), nn.Linear):
            return found
    raise BenchError(f"{type(attention).__name__} has no output projection")


def first(output: Any) -> Tensor:
    """The hidden states of a module that returns a tensor or a tuple (transformers 5 returns both)."""
    tensor: Tensor = output[0] if isinstance(output, tuple) else output
    return tensor


def with_first(output: Any, tensor: Tensor) -> Any:
    return (tensor, *output[1:]) if isinstance(output, tuple) else tensor


class Enough(Exception):
    """Ends a forward pass once the deepest wanted block has run."""


def read_blocks(model: nn.Module, layers: Sequence[int], site: str = "resid", **inputs: Tensor) -> dict[int, Tensor]:
    """Outputs of the blocks `layers` `[B, T, H]`, or what their heads give to the output projection
    (`heads`, `[B, T, heads * head_dim]`); nothing above the deepest is computed."""
    found: dict[int, Tensor] = {}
    modules, deepest = blocks(model), max(layers)
    handles = []

    def keep(layer: int, state: Any) -> None:
        found[layer] = first(state).detach()
        if layer == deepest:
            raise Enough

    def watch(layer: int) -> Any:
        if site == "heads":
            return attention_output(modules[layer]).register_forward_pre_hook(lambda _, args: keep(layer, args))
        return modules[layer].register_forward_hook(lambda _, __, output: keep(layer, output))

    try:
        for layer in sorted(set(layers)):
            handles.append(watch(layer))
        model(**inputs, use_cache=False)
    except Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return found
