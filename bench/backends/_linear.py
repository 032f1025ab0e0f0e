"""bf16 products on an x86 processor without bf16 instructions: taken in fp32 and rounded once.

torch's own are emulated there and take three times as long, so that repeating a run in bf16 would cost far more
than the run.

Invariant: the factors and the rounded result are those of bf16 with fp32 sums; only the order of a sum's terms
differs, as it does between batches of another shape.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor, nn


def fast() -> bool:
    """Whether this processor multiplies bf16 itself."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


class _Product(torch.autograd.Function):
    """x Wᵀ + b in fp32; the weight is kept for the way back as it is, not widened."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        added = None if bias is None else bias.float()
        return nn.functional.linear(x.float(), weight.float(), added).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (x, weight), grad = ctx.saved_tensors, grads[0].float()
        to_x, to_weight, to_bias = ctx.needs_input_grad
        rows = grad.flatten(0, -2)
        return (
            (grad @ weight.float()).to(x.dtype) if to_x else None,
            (rows.mT @ x.flatten(0, -2).float()).to(weight.dtype) if to_weight else None,
            rows.sum(0).to(weight.dtype) if to_bias else None,
        )


class Widened(nn.Linear):
    """A linear module whose product is taken in fp32; weight, input and output keep their type."""

    def forward(self, input: Tensor) -> Tensor:
        found: Tensor = _Product.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return found


def use(model: Any) -> None:
    """Widen the linear modules of a bf16 model where the processor would emulate them."""
    slow = platform.machine() in ("x86_64", "AMD64") and not fast()
    if model.device.type != "cpu" or model.dtype != torch.bfloat16 or not slow:
        return
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Widened
