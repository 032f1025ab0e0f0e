"""What a flow (`bench.core.fields.ConceptFlow`) has of its model: how a concept is read, and what its block starts as.

Invariant: a flow's weights have the published names, and mean the same whatever family they come from: norms are kept
as what they multiply with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from bench.backends import devices
from bench.backends.hf.modules import blocks, read_blocks, site_of
from bench.backends.hf.weights import weight
from bench.core.content import Array, Weights
from bench.core.errors import BenchError
from bench.core.fields import FREQUENCIES, SLOTS, TIME_NAMES, flow_blocks, flow_names
from bench.core.interfaces import Backend

Activation = Literal["silu", "gelu", "gelu-tanh"]
ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu-tanh",
    "gelu_pytorch_tanh": "gelu-tanh",
}
"""What configurations call the activations of a gated feed-forward part."""
ENCODER = 1
"""The block whose output, under the model's last norm, is what a concept's words come to: the second."""
GATE = 0.1
"""What each channel of a flow's two parts is weighed with at first."""


@torch.inference_mode()
def concept_states(lm: Backend, text: str) -> Array:
    """States `[m, H]` of a concept's words, `SLOTS` at most: the first blocks and the last norm, no template."""
    ids = lm.encode(text)[:SLOTS]
    if not ids:
        raise BenchError("a concept without words cannot be read")
    model, device = lm.module, devices.of(lm.module)
    states = read_blocks(model, [ENCODER], input_ids=torch.tensor([ids], device=device))[ENCODER]
    found: Array = _last_norm(model)(states)[0].float().cpu().numpy()
    return found


def _last_norm(model: Any) -> nn.Module:
    decoder = model.get_decoder()
    for name in ("norm", "final_layernorm", "ln_f", "final_layer_norm"):
        found = getattr(decoder, name, None)
        if isinstance(found, nn.Module):
            return found
    raise BenchError(f"{type(decoder).__name__} has no last norm, under which a flow reads concepts")


def start(lm: Backend, layer: int, rng: np.random.Generator) -> tuple[dict[str, Array], Activation]:
    """A flow of one block, as it begins after block `layer`, and its activation: the block's own feed-forward part and
    norms, attention to the concept at random, e(t) = 0.

    Raises `BenchError` where the block has no gated feed-forward part.
    """
    config = lm.module.config.get_text_config()
    net, activation = _form(lm.module)
    block, hidden = blocks(lm.module)[layer], int(config.hidden_size)
    size, heads = 2 * len(net["frequencies"]), int(config.num_attention_heads)
    keys = int(getattr(config, "num_key_value_heads", None) or heads)
    fed = site_of(block, "mlp")
    for name in ("gate_proj", "up_proj", "down_proj"):
        part = getattr(fed, name, None)
        if not isinstance(part, nn.Module):
            raise BenchError(f"{type(fed).__name__} has no {name}: a flow starts as a block's gated feed-forward part")
        net[f"blocks.0.{name}.weight"] = weight(part, name).float().cpu().numpy().copy()
    for name, shape in {"q": (heads * size, hidden), "k": (keys * size, hidden), "v": (keys * size, hidden)}.items():
        net[f"blocks.0.cross_attn.{name}_proj.weight"] = _uniform(rng, *shape)
    net["blocks.0.cross_attn.o_proj.weight"] = _uniform(rng, hidden, heads * size)
    four = hasattr(block, "pre_feedforward_layernorm")
    own = {"pre_mlp": "pre_feedforward_layernorm" if four else "post_attention_layernorm"}
    own |= {"post_mlp": "post_feedforward_layernorm"} if four else {}
    for name in ("pre_cross", "post_cross", "pre_mlp", "post_mlp"):
        norm = getattr(block, own.get(name, ""), None)
        found = _multiplier(norm, hidden) if isinstance(norm, nn.Module) else None
        net[f"blocks.0.{name}_norm.weight"] = np.ones(hidden, np.float32) if found is None else found
    for name in ("q", "k"):
        net[f"blocks.0.cross_attn.{name}_norm.weight"] = np.ones(size, np.float32)
    net |= {f"blocks.0.{name}_gate": np.full(hidden, GATE, np.float32) for name in ("cross", "mlp")}
    zeros = ((hidden, hidden), (hidden,))
    first = (_uniform(rng, hidden, FREQUENCIES), _uniform(rng, 1, hidden)[0])
    values = (*first, *(np.zeros(shape, np.float32) for shape in zeros))
    return net | dict(zip(TIME_NAMES, values, strict=True)), activation


def _uniform(rng: np.random.Generator, out: int, into: int) -> Array:
    """As a linear layer's weight starts: within ±1/√in."""
    found: Array = rng.uniform(-1, 1, (out, into)).astype(np.float32) / np.float32(into**0.5)
    return found


def _form(model: Any) -> tuple[dict[str, Array], Activation]:
    """What of a flow is the model's own and not learnt, and its activation."""
    config = model.config.get_text_config()
    named = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
    if named not in ACTIVATIONS:
        raise BenchError(f"a flow's feed-forward part has the model's activation, and {named!r} is none of its own")
    size = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    numbers = {"eps": getattr(config, "rms_norm_eps", 1e-6), "softcap": config.to_dict().get("attn_logit_softcapping")}
    found = {name: np.asarray(value or 0.0, np.float32) for name, value in numbers.items()}
    return found | {"frequencies": _frequencies(model, size)}, ACTIVATIONS[named]


def _frequencies(model: Any, size: int) -> Array:
    """Radians `[d/2]` that a position turns a head by: the model's own where it turns whole heads."""
    rope = getattr(model.get_decoder(), "rotary_emb", None)
    for name in ("inv_freq", "full_attention_inv_freq"):
        own = getattr(rope, name, None)
        if isinstance(own, Tensor) and own.shape == (size // 2,):
            found: Array = own.float().cpu().numpy().copy()
            return found
    return (10000.0 ** (-np.arange(size // 2) / (size // 2))).astype(np.float32)


def _multiplier(norm: nn.Module, hidden: int) -> Array | None:
    """What an RMS norm multiplies with `[H]`, whatever its weight is counted from; None for a norm of another kind."""
    parameter = next(norm.parameters())
    x = torch.stack([torch.ones(hidden), torch.linspace(-1, 2, hidden)])[None].to(parameter)
    with torch.no_grad():
        ones, other = norm(x)[0].float()
    plain = x[0, 1].float() * x[0, 1].float().square().mean().rsqrt()
    if not torch.allclose(other, plain * ones, rtol=0.02, atol=0.02):
        return None
    found: Array = ones.cpu().numpy()
    return found


# Published checkpoints


def is_flow(path: Path) -> bool:
    """Whether a file holds a published flow."""
    if path.suffix != ".safetensors":
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return any(name.startswith("time_embed.") for name in file.keys())  # noqa: SIM118
    except (SafetensorError, OSError):
        return False


def published(path: Path, lm: Backend) -> tuple[Weights, Activation]:
    """The weights of a published checkpoint (`.safetensors`) as a flow on its model, and its activation.

    Raises `BenchError` for one that attends to other tokens, that lacks a part, or that is of another model.
    """
    with safe_open(path, framework="pt") as file:
        held = {name: file.get_tensor(name).float().numpy() for name in file.keys()}  # noqa: SIM118
    if own := sorted(name for name in held if "self_attn" in name or "_sa_norm" in name):
        raise BenchError(
            f"{path.name} attends to other tokens ({own[0]}), which needs field:stateful, and no engine here can: "
            "take a checkpoint without self-attention"
        )
    due = [*TIME_NAMES, *(name for block in range(max(1, flow_blocks(held))) for name in flow_names(block))]
    biases = {name.replace("weight", "bias") for name in due if "cross_attn" in name and "proj" in name}
    if lacking := [name for name in due if name not in held]:
        raise BenchError(f"{path.name} lacks {lacking[0]}: it is no whole flow")
    if strange := sorted(set(held) - set(due) - biases):
        raise BenchError(f"{path.name} holds {strange[0]}, which a flow has no place for")
    net, activation = _form(lm.module)
    gate = held["blocks.0.cross_gate"]
    if gate.shape != (lm.width,) or held["blocks.0.cross_attn.q_norm.weight"].shape != (2 * len(net["frequencies"]),):
        raise BenchError(f"{path.name} is a flow on states of {len(gate)} values: the model has {lm.width}")
    norm = _last_norm(lm.module)
    multiplier, kept = _multiplier(norm, lm.width), next(norm.parameters()).detach().float().cpu().numpy()
    # A family that counts its norms' weights from 1 counts a flow's so too.
    offset = 0.0 if multiplier is None else float(np.round((multiplier - kept).mean()))
    for name, value in held.items():
        net[name] = value + np.float32(offset) if name.endswith("norm.weight") else value
    return Weights(net), activation
