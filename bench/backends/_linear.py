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


class Widened(nn.Linear):
    """A linear module whose product is taken in fp32; weight, input and output keep their type."""

    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.float()
        return nn.functional.linear(input.float(), self.weight.float(), bias).to(input.dtype)


def use(model: Any) -> None:
    """Widen the linear modules of a bf16 model where the processor would emulate them."""
    slow = platform.machine() in ("x86_64", "AMD64") and not fast()
    if model.device.type != "cpu" or model.dtype != torch.bfloat16 or not slow:
        return
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Widened
