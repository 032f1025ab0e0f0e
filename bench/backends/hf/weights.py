"""The weight of a linear module as a matrix, and its inputs row by row, whatever holds them.

A module is linear by what it is: a map of the last axis with `in_features` and `out_features` (torch's, and what
quantisers put in its place), or GPT-2's `Conv1D`, which holds its matrix transposed.

Invariant: nothing reads a linear module's parameters but this; a matrix that cannot be read is refused in one line,
and so is an input of which nobody can say which row it belongs to.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bench.backends.hf.linear import Packed, Widened
from bench.core.errors import BenchError

APART = 0.02
"""How far a quantised module's answer may lie from the matrix read out of it, relative."""


def shape(module: nn.Module) -> tuple[int, int] | None:
    """(out, in) of a linear module; None of any other."""
    for outer, inner in (("out_features", "in_features"), ("nf", "nx")):
        found = (getattr(module, outer, None), getattr(module, inner, None))
        if isinstance(found[0], int) and isinstance(found[1], int):
            return found[0], found[1]
    return None


def weight(module: nn.Module, name: str = "") -> Tensor:
    """W0 `[out, in]` of a linear module: the parameter itself, without a gradient, where that is the matrix; else what
    the module, asked with each unit vector, answers.

    Raises `BenchError` where the answers are not those of a matrix.
    """
    if hasattr(module, "_hf_hook"):
        return _carried(module, name)
    held: Any = getattr(module, "weight", None)
    # A quantiser may put its own forward into the instance and leave the class as it was.
    own = None if "forward" in vars(module) else type(module).forward
    numbers = type(held) in (Tensor, nn.Parameter) and held.is_floating_point() and held.element_size() > 1
    if numbers and own in (nn.Linear.forward, Widened.forward, Packed.forward):
        return Tensor.detach(held)
    if numbers and (held.shape[1], held.shape[0]) == shape(module) and type(module).__name__ == "Conv1D":
        return Tensor.detach(held).T
    return _asked(module, name)


def _carried(module: nn.Module, name: str) -> Tensor:
    """The same of a module that accelerate brings to its device when it is called: without that, as itself."""
    from accelerate.utils import align_module_device

    with align_module_device(module):
        own = vars(module)
        kept = {part: own.pop(part) for part in [name for name in own if name in ("forward", "_hf_hook")]}
        try:
            return weight(module, name).clone()
        finally:
            own.update(kept)


@torch.no_grad()
def _asked(module: nn.Module, name: str) -> Tensor:
    size = shape(module)
    if size is None:
        raise BenchError(f"{name or 'a module'} is a {type(module).__name__}, which is no linear module")
    held = [*module.parameters(), *module.buffers()]
    wide = [p for p in held if p.is_floating_point() and p.element_size() > 1]
    device = (wide or held)[0].device
    dtype = wide[0].dtype if wide else torch.float32
    scale = 2.0**8  # beside so large an input a bias costs no bits; a power of two costs none either

    def answer(x: Tensor) -> Tensor:
        found: Tensor = module(x)
        return found.float()

    kind = f"{name or 'a module'} is a {type(module).__name__}"
    remedy = "its weight cannot be read; take an unquantised checkpoint, or a method that changes states"
    x = torch.randn(8, size[1], generator=torch.Generator().manual_seed(0)).to(device, dtype)
    try:
        rest = answer(torch.zeros(1, size[1], dtype=dtype, device=device))
        found = ((answer(torch.eye(size[1], dtype=dtype, device=device) * scale) - rest) / scale).T.contiguous()
        given = answer(x) - rest
    except (AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
        raise BenchError(f"{kind} that gives no answer by itself ({error}): {remedy}") from error
    apart = float((given - x.float() @ found.T).norm() / given.norm().clamp(min=1e-12))
    if not apart < APART:
        raise BenchError(f"{kind} whose answers are no matrix's ({apart:.2g} apart): {remedy}")
    return found


def by_row(x: Any, size: tuple[int, ...], name: str) -> Tensor:
    """What a module is given or gives, `[B, T, H]` or flat `[B·T, H]`, as `[B, T, H]`; `size` is (B, T).

    Raises `BenchError` of anything else: a router's choice of tokens has no row to be changed by.
    """
    rows, tokens = size
    seen = list(x.shape) if isinstance(x, Tensor) else []
    if len(seen) == 3 and seen[0] == rows:
        found: Tensor = x
    elif len(seen) == 2 and seen[0] == rows * tokens:
        found = x.reshape(rows, tokens, -1)
    else:
        raise BenchError(
            f"{name} is given {seen or type(x).__name__} for {rows} rows of {tokens} tokens: no telling which are a "
            "row's own; name other modules (field `modules`)"
        )
    return found
