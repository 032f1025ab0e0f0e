"""The gradient of a linear readout of the last block by an earlier block's output.

Invariant: weights get no gradient and nothing below the block is in a graph; a row's gradient depends
on that row alone; every hook is gone at the end, also after an exception.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.backends.hf.modules import blocks, first
from bench.core.content import Array
from bench.core.errors import BenchError


def block_gradient(
    model: nn.Module,
    layer: int,
    readout: Array,
    begins: Sequence[int],
    at: Sequence[float] = (1.0,),
    baseline: Array | None = None,
    **inputs: Tensor,
) -> Tensor:
    """Mean over `at` of ∂f/∂x `[B, T, H]`, f = readout · h, by the output x of block `layer`.

    `inputs` are left-padded; h is what the last block gives at the last position. At a point p of `at`
    that is not 1 the pass goes on from baseline + p·(x - baseline) in place of x, from index
    `begins[row]` of each row on. The blocks up to `layer` run once for all points.
    """
    if baseline is None and any(point != 1 for point in at):
        raise BenchError(f"a gradient at {min(at):g} of the way needs the baseline it starts from")
    modules = blocks(model)
    if not 0 <= layer < len(modules):
        raise BenchError(f"gradient at layer {layer}: the model has {len(modules)} layers")
    with torch.inference_mode(False), torch.no_grad():
        x, given = _trace(model, layer, **inputs)
        origin = None if baseline is None else _vector(baseline, x, "baseline")
        out = _vector(readout, x, "readout")
        index = torch.arange(x.shape[1], device=x.device)[None]
        inside = (index >= torch.tensor(begins, device=x.device)[:, None])[..., None]
        total = torch.zeros_like(x, dtype=torch.float32)
        for point in at:
            moved = x if origin is None or point == 1 else (origin + point * (x.float() - origin)).to(x.dtype)
            leaf = torch.where(inside, moved, x).requires_grad_(True)
            with torch.enable_grad():  # only from the leaf on is a graph built: the weights are frozen
                h = leaf
                for block, (args, kwargs) in zip(modules[layer + 1 :], given, strict=True):
                    h = first(block(h, *args, **kwargs))
                total += torch.autograd.grad((h[:, -1].float() @ out).sum(), leaf)[0]
        return total / len(at)


Call = tuple[tuple[Any, ...], dict[str, Any]]


def _trace(model: nn.Module, layer: int, **inputs: Tensor) -> tuple[Tensor, list[Call]]:
    """The output of block `layer`, and what each block above it is called with beside the states."""
    found: list[Tensor] = []
    given: list[Call] = []
    modules = blocks(model)

    def below(_: nn.Module, __: Any, output: Any) -> None:
        found.append(first(output))

    def above(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given.append((args[1:], {k: v for k, v in kwargs.items() if k != "hidden_states"}))

    handles = [modules[layer].register_forward_hook(below)]
    handles += [block.register_forward_pre_hook(above, with_kwargs=True) for block in modules[layer + 1 :]]
    try:
        model.get_decoder()(**inputs, use_cache=False)  # type: ignore[operator]
    finally:
        for handle in handles:
            handle.remove()
    return found[0], given


def _vector(value: Array | None, like: Tensor, what: str) -> Tensor:
    """A direction `[H]` as a tensor on the device of `like` `[..., H]`."""
    vector = torch.as_tensor(np.asarray(value, dtype=np.float32), device=like.device)
    if vector.shape != like.shape[-1:]:
        raise BenchError(f"{what} has shape {tuple(vector.shape)}, the model's states have width {like.shape[-1]}")
    return vector
