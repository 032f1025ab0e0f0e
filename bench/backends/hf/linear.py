"""bf16 products on an x86 processor without bf16 instructions: taken in fp32 and rounded once.

torch's own are emulated there and take three times as long, so that repeating a run in bf16 would cost far more
than the run. Where memory allows, the weights are widened once: doing so at each token of an answer takes a fifth
of its time.

Invariant: the factors and the rounded result are those of bf16 with fp32 sums; only the order of a sum's terms
differs, as it does between batches of another shape.
"""

from __future__ import annotations

import os
import platform
from typing import Any

import torch
from torch import Tensor, nn

from bench.backends.models import fast


class _Product(torch.autograd.Function):
    """x Wᵀ + b in fp32, with `wide` for the weight in fp32 where it is at hand; else the weight is kept for the
    way back as it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, wide: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.wide = wide
        added = None if bias is None else bias.float()
        return nn.functional.linear(x.float(), weight.float() if wide is None else wide, added).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        (x, weight), grad = ctx.saved_tensors, grads[0].float()
        to_x, to_weight, to_bias, _ = ctx.needs_input_grad
        rows = grad.flatten(0, -2)
        return (
            (grad @ (weight.float() if ctx.wide is None else ctx.wide)).to(x.dtype) if to_x else None,
            (rows.mT @ x.flatten(0, -2).float()).to(weight.dtype) if to_weight else None,
            rows.sum(0).to(weight.dtype) if to_bias else None,
            None,
        )


class Widened(nn.Linear):
    """A linear module whose product is taken in fp32; weight, input and output keep their type."""

    keeps = False
    """Whether a frozen weight's fp32 numbers stay in memory."""
    _kept: tuple[tuple[int, int], Tensor] | None = None
    """Of which memory and which change of it, and the numbers."""

    def forward(self, input: Tensor) -> Tensor:
        wide = self._wide() if self.keeps and not self.weight.requires_grad else None
        found: Tensor = _Product.apply(input, self.weight, self.bias, wide)  # type: ignore[no-untyped-call]
        return found

    @torch.inference_mode(False)  # numbers first asked for inside a pass could never be in a gradient
    def _wide(self) -> Tensor:
        of = (self.weight.data_ptr(), self.weight._version)
        if self._kept is None or self._kept[0] != of:
            self._kept = (of, self.weight.detach().float())
        return self._kept[1]


def use(model: Any) -> None:
    """Widen the linear modules of a bf16 model where the processor would emulate them."""
    slow = platform.machine() in ("x86_64", "AMD64") and not fast()
    if model.device.type != "cpu" or model.dtype != torch.bfloat16 or not slow:
        return
    modules: list[Any] = [module for module in model.modules() if type(module) is nn.Linear]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    keeps = 4 * sum(module.weight.numel() for module in modules) <= memory // 8
    for module in modules:
        module.__class__ = Widened
        module.keeps = keeps
