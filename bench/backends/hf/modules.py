"""Where the parts of a transformers model lie: its blocks, their attention and feed-forward modules, what they give.

Families name their modules each in its own way, so a part is found by its place and by the names in use for it.

Invariant: what is not found, or gives no states `[B, T, H]`, is an error in one line, never another module.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.backends import devices
from bench.backends.hf.batches import Batches
from bench.backends.hf.weights import by_row, shape, weight
from bench.core.content import Array
from bench.core.errors import BenchError

SITES = {
    "attn": ("self_attn", "attn", "attention", "self_attention", "multi_head_attention"),
    "mlp": ("mlp", "feed_forward", "block_sparse_moe", "ffn"),
}
"""What families call the two parts of a block."""
MIXERS = ("mixer", "mamba", "linear_attn", "conv", "temporal_block")
"""What stands in attention's place where a block has a recurrence or a convolution: adapters take it, but it has no
heads."""
WRITERS = {
    "attn": ("o_proj", "out_proj", "dense", "c_proj", "wo"),
    "mlp": ("down_proj", "fc2", "fc_out", "c_proj", "dense_4h_to_h", "w2", "output_linear"),
}
"""What they call the linear module of a part that writes to the residual stream."""
FUSED = ("query_key_value", "qkv_proj", "c_attn", "Wqkv")
ROLES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "attn-out": ("attn", WRITERS["attn"]),
    "mlp-out": ("mlp", WRITERS["mlp"]),
    "attn-query": ("attn", ("q_proj", "q_b_proj", *FUSED)),
    "attn-value": ("attn", ("v_proj", "kv_b_proj", *FUSED)),
}
"""A linear module's part in a block, by a name that no module can have: the part it lies in, and its names there."""


def blocks(model: nn.Module) -> nn.ModuleList:
    """The decoder blocks of a transformers causal language model."""
    decoder = model.get_decoder()  # type: ignore[operator]
    count = model.config.get_text_config().num_hidden_layers  # type: ignore[union-attr, operator]
    # Llama-4 takes itself for its decoder, so that the list lies one deeper.
    for found in (*decoder.children(), *(inner for child in decoder.children() for inner in child.children())):
        if isinstance(found, nn.ModuleList) and len(found) == count:
            return found
    raise BenchError(f"found no list of {count} decoder blocks in {type(decoder).__name__}")


def site_of(block: nn.Module, site: str) -> nn.Module:
    """The module whose output an edit at `site` changes: the block, its attention, or its feed-forward part."""
    if site == "resid":
        return block
    found = _part(block, site)
    if found is None:
        raise BenchError(f"{type(block).__name__} has no {site!r} module")
    if "residual" in inspect.signature(found.forward).parameters:  # BLOOM's give the whole stream
        return _named(found, WRITERS[site]) or found
    return found


def _part(block: nn.Module, site: str) -> nn.Module | None:
    return _named(block, SITES[site])


def _named(inside: nn.Module, names: Sequence[str]) -> nn.Module | None:
    """The module of one of these names, in their order, that lies least deep."""
    found = [(path.count("."), names.index(last), module) for path, last, module in _inner(inside) if last in names]
    return min(found, key=lambda entry: entry[:2])[2] if found else None


def _inner(module: nn.Module) -> Iterator[tuple[str, str, nn.Module]]:
    """(path, last name, module) of all inside but what stands in a list: those are called as a router chooses."""
    for path, child in module.named_modules():
        if path and not any(part.isdigit() for part in path.split(".")):
            yield path, path.rpartition(".")[2], child


def linears(block: nn.Module) -> dict[str, nn.Module]:
    """Path in the block -> each linear module that sees every token."""
    return {path: module for path, _, module in _inner(block) if shape(module)}


def chosen(block: nn.Module, name: str) -> list[str]:
    """Paths in the block of the linear modules that have the role `name`, or are called so (`mlp.c_proj`, `c_proj`)."""
    known = linears(block)
    if name not in ROLES:
        return [path for path in known if f".{path}".endswith(f".{name}")]
    part, names = ROLES[name]
    attention = _part(block, "attn") or _named(block, MIXERS)
    own = attention if part == "attn" else _part(block, part)
    # Some blocks (OPT's) have no module around their feed-forward part.
    inside = block if own is None and part == "mlp" else own
    taken = set(map(id, attention.modules())) if attention is not None and part == "mlp" else set()
    within = set(map(id, inside.modules())) - taken if inside is not None else set()
    found = {path: path.rpartition(".")[2] for path, module in known.items() if id(module) in within}
    return [path for path, last in found.items() if last in names]


Place = tuple[str, nn.Module, int]
"""A linear module: its full name, itself, and its block."""


def places(model: nn.Module, names: Sequence[str], layers: Sequence[int]) -> list[Place]:
    """The linear modules of the blocks `layers` that have the roles or names `names` (none: all of them).

    Raises `BenchError` where a name is no module's and where nothing is found at all. A role that no module has, as in
    a mixture whose experts are one tensor, is left to the others: `without` says which.
    """
    stack, full = blocks(model), {id(module): name for name, module in model.named_modules()}
    found: dict[str, Place] = {}
    for layer in layers:
        inside = linears(stack[layer])
        wanted = {path for name in names for path in chosen(stack[layer], name)} if names else set(inside)
        for path, module in inside.items():
            if path in wanted:
                found.setdefault(full[id(module)], (full[id(module)], module, layer))
    missing = [name for name in without(model, names, layers) if name not in ROLES]
    if missing or not found:
        what = f"no linear module {missing[0] if missing else ' or '.join(names)!r}"
        known = sorted({path for layer in layers for path in linears(stack[layer])})
        raise BenchError(f"{what} in the blocks {list(layers)}, which have: {', '.join(known) or 'none'}")
    return list(found.values())


def without(model: nn.Module, names: Sequence[str], layers: Sequence[int]) -> list[str]:
    """Which of `names` none of the blocks `layers` has a linear module for."""
    stack = blocks(model)
    return [name for name in names if not any(chosen(stack[layer], name) for layer in layers)]


def attention_output(block: nn.Module) -> nn.Module:
    """The linear module that writes the heads' results to the residual stream."""
    attention = _part(block, "attn")
    if attention is None:
        raise BenchError(f"{type(block).__name__} has no attention, and so no heads")
    found = _named(attention, WRITERS["attn"])
    if found is None or shape(found) is None:
        raise BenchError(f"{type(attention).__name__} has no output projection")
    return found


def head_weights(model: nn.Module, layer: int) -> Array:
    """What block `layer`'s attention output does to each head's result, `[H, heads, head_dim]`."""
    matrix = weight(attention_output(blocks(model)[layer]), f"the attention output of block {layer}").float()
    heads = int(model.config.get_text_config().num_attention_heads)  # type: ignore[union-attr, operator]
    if matrix.shape[1] % heads:
        raise BenchError(f"the attention output of block {layer} reads {matrix.shape[1]} numbers: not {heads} heads'")
    found: Array = matrix.cpu().numpy()
    return found.reshape(len(found), heads, -1)


def first(output: Any) -> Tensor:
    """The hidden states of a module that returns a tensor, a tuple or a list (transformers 5 returns all three).

    Raises `BenchError` where they are not `[B, T, H]`: Gemma-3n has four streams in one tensor, say.
    """
    tensor: Tensor = output[0] if isinstance(output, tuple | list) else output
    if tensor.ndim != 3:
        raise BenchError(f"a module gives {list(tensor.shape)}, not the states of rows by tokens: it cannot be steered")
    return tensor


def with_first(output: Any, tensor: Tensor) -> Any:
    return type(output)((tensor, *output[1:])) if isinstance(output, tuple | list) else tensor


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
            name, size = f"the attention output of block {layer}", tuple(inputs["input_ids"].shape)
            return attention_output(modules[layer]).register_forward_pre_hook(
                lambda _, args: keep(layer, by_row(args[0], size, name))
            )
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


@contextmanager
def resumed(
    stack: nn.ModuleList, states: Tensor, wrapped: bool, passed: Callable[[int], None] = lambda number: None
) -> Iterator[None]:
    """Blocks from the first on pass their input on, and the last of them gives `states`; nothing in them is computed.

    `wrapped`: they give it in a tuple, as those of this model do. `passed` is told the number of each as it is passed.
    """

    def forward(number: int) -> Any:
        def passing(hidden: Tensor, *_: Any, **__: Any) -> Any:
            passed(number)
            given = states if number == len(stack) - 1 else hidden
            return (given,) if wrapped else given

        return passing

    own = [vars(block).get("forward") for block in stack]  # accelerate puts one there
    for number, block in enumerate(stack):
        block.forward = forward(number)
    try:
        yield
    finally:
        for block, before in zip(stack, own, strict=True):
            vars(block).pop("forward", None)
            if before is not None:
                vars(block)["forward"] = before


PROBE = 6
"""Tokens of the longer row that `check_states` reads."""
SAME = 0.05
"""How far a row's states may lie from those it has alone, relative: rounding in bf16 stays well below."""


@torch.no_grad()
def check_states(model: nn.Module) -> list[str]:
    """What is wrong with the states of a model's blocks, one line each; nothing where they can be read and steered.

    A short row runs alone and beside a longer one: every block must be called, give `[B, T, H]`, and give the short
    row what it has alone.
    """
    name = type(model).__name__
    try:
        stack = blocks(model)
        width = int(model.config.get_text_config().hidden_size)  # type: ignore[union-attr, operator]
    except (BenchError, AttributeError) as error:
        return [f"{name} has no blocks that can be steered ({error}): ask it through an endpoint, with prompts alone"]
    long, short = list(range(5, 5 + PROBE)), list(range(9, 9 + PROBE // 2))
    found: list[dict[int, Tensor]] = []
    for rows in ([short], [long, short]):
        inputs, _ = Batches(len(rows), 2 * PROBE, 5, devices.of(model)).pad(rows)
        seen: dict[int, Any] = {}
        handles = [block.register_forward_hook(partial(_see, seen, layer)) for layer, block in enumerate(stack)]
        try:
            model(**inputs, use_cache=False)
        except TypeError as error:
            return [f"{name} cannot be told of padding ({error}): ask it through an endpoint, with prompts alone"]
        finally:
            for handle in handles:
                handle.remove()
        size = (len(rows), max(map(len, rows)), width)
        if idle := sorted(set(range(len(stack))) - set(seen)):
            return [f"{name}: block {idle[0]} is never called, so that nothing can be steered there"]
        if odd := [layer for layer, states in seen.items() if getattr(states, "shape", None) != size]:
            shown = list(getattr(seen[odd[0]], "shape", ())) or type(seen[odd[0]]).__name__
            return [f"{name}: block {odd[0]} gives {shown} for {list(size)}: states of another rank cannot be steered"]
        found.append(seen)
    alone, beside = (torch.stack([seen[k][-1, -len(short) :].float() for k in sorted(seen)]) for seen in found)
    apart = float(((alone - beside).norm(dim=-1) / alone.norm(dim=-1).clamp(min=1e-6)).median())
    if not apart < SAME:
        return [f"{name}: padding moves a row's states by {apart:.0%}: rows of several lengths cannot share a batch"]
    return []


def _see(seen: dict[int, Any], layer: int, _: nn.Module, __: Any, output: Any) -> None:
    seen[layer] = output[0] if isinstance(output, tuple | list) else output
