"""What multiplies by the weights of a model on an x86 processor, where torch's own choice is the slower.

`Packed`: oneDNN, on weights laid out for it once; torch lays them out at each product in bf16, and asks MKL in fp32,
whose products of one to three rows differ in their last bits from those of more. `Widened`: bf16 on a processor
without its instructions, taken in fp32 and rounded once; torch's own are emulated there and take three times as long,
so that repeating a run in bf16 would cost far more than the run. What is laid out stays in memory where that allows.

Invariant: in fp32 a row's product is the same bits in any company. In bf16 the factors and the rounded result are
torch's; `Widened` alone takes a sum's terms in another order, as batches of another shape do.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor, nn

from bench.backends import devices
from bench.backends.models import fast
from bench.core.machine import memory


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


def onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b by oneDNN, of a weight `[out, in]` as it is or laid out."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found


class _Through(torch.autograd.Function):
    """The same with a way back to x, for weights that stay as they are."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, laid: Tensor) -> Tensor:
        ctx.weight = weight
        return onednn(x, laid, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return onednn(grads[0].contiguous(), ctx.weight.T.contiguous()), None, None, None


class Laid(nn.Linear):
    """A linear module that multiplies its own way; weight, input and output keep their type."""

    keeps = False
    """Whether a frozen weight's numbers stay in memory as they are laid out."""
    _kept: tuple[tuple[int, int], Tensor] | None = None
    """Of which memory and which change of it, and the numbers."""

    def lay(self, weight: Tensor) -> Tensor:
        """The weight as the product takes it."""
        raise NotImplementedError

    @torch.inference_mode(False)  # numbers first asked for inside a pass could never be in a gradient
    def laid(self) -> Tensor:
        """The same of this module's weight as it now is, laid out once."""
        of = (self.weight.data_ptr(), self.weight._version)
        if self._kept is None or self._kept[0] != of:
            self._kept = (of, self.lay(self.weight.detach()))
        return self._kept[1]

    def __getstate__(self) -> dict[str, Any]:
        """A copy lays its own numbers out: oneDNN's cannot be copied."""
        return {name: value for name, value in vars(self).items() if name != "_kept"}


class Widened(Laid):
    """A linear module whose product is taken in fp32."""

    def lay(self, weight: Tensor) -> Tensor:
        return weight.float()

    def forward(self, input: Tensor) -> Tensor:
        wide = self.laid() if self.keeps and not self.weight.requires_grad else None
        found: Tensor = _Product.apply(input, self.weight, self.bias, wide)  # type: ignore[no-untyped-call]
        return found


class Packed(Laid):
    """A linear module whose product oneDNN takes; one whose own numbers are learnt is left to torch."""

    def lay(self, weight: Tensor) -> Tensor:
        found: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
        return found

    def forward(self, input: Tensor) -> Tensor:
        graded = torch.is_grad_enabled()
        if graded and (self.weight.requires_grad or self.weight.dtype != torch.float32):
            return super().forward(input)  # in bf16 these are the same bits, and torch knows their way back
        # As it is, a weight has a kernel of its own for one row, of other last bits.
        laid = self.laid() if self.keeps else self.lay(self.weight.detach())
        if graded and input.requires_grad:
            found: Tensor = _Through.apply(input, self.weight, self.bias, laid)  # type: ignore[no-untyped-call]
            return found
        return onednn(input, laid, self.bias)


SHARE = 8
"""One in so many bytes of the machine's memory may hold weights a second time."""


def use(model: Any) -> None:
    """Let the linear modules of a model on an x86 processor multiply their own way, where that is the faster."""
    if devices.spread(model) or model.device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64"):
        return
    kind: type[Laid] = Widened if model.dtype == torch.bfloat16 and not fast() else Packed
    if kind is Packed and not _has_onednn(model.dtype):
        return
    modules: list[Any] = [module for module in model.modules() if type(module) is nn.Linear]
    size = 4 if kind is Widened else model.dtype.itemsize
    keeps = size * sum(module.weight.numel() for module in modules) <= memory() // SHARE
    if kind is Packed and model.dtype == torch.bfloat16 and not keeps:
        return  # torch's own does the same
    for module in modules:
        module.__class__ = kind
        module.keeps = keeps


def _has_onednn(dtype: torch.dtype) -> bool:
    takes = dtype in (torch.float32, torch.bfloat16) and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return takes and hasattr(torch.ops.mkldnn, "_linear_pointwise")
