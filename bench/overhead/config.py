"""From a model's configuration to its dimensions: a `config.json`, a folder, a hub id, or a known name.

Invariant: only configurations are read, never weights; a layer that the accounting has no rule for is refused.
The dimensions of a few well-known models ship in `dimensions.json`, under the keys of their `config.json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

from bench.core import hub
from bench.core.documents import first_line, read_json
from bench.core.errors import BenchError, UsageError
from bench.core.paths import expanded
from bench.core.shapes import Range, held
from bench.overhead.exact import Architecture, FeedForward

# fmt: off
UNGATED = frozenset({
    "bloom", "codegen", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "mpt", "nemotron", "opt", "phi",
    "starcoder2", "xglm",
})
"""Model types whose feed-forward part has two matrices; all others have a gate."""
KEYS = (
    "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "intermediate_size", "vocab_size", "tie_word_embeddings", "max_position_embeddings", "sliding_window",
    "use_sliding_window", "layer_types", "num_local_experts", "num_experts", "n_routed_experts", "num_experts_per_tok",
    "moe_intermediate_size", "shared_expert_intermediate_size", "n_shared_experts", "mlp_only_layers",
    "decoder_sparse_step", "first_k_dense_replace",
)
"""What the accounting reads of a configuration."""
# fmt: on


@lru_cache(maxsize=1)
def dimensions() -> dict[str, dict[str, Any]]:
    """The dimensions that ship, by base name."""
    found: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("dimensions.json").read_text("utf-8"))
    return found


def base_name(name: str) -> str:
    """`google/gemma-2-2b-it` -> `gemma-2-2b`: what models of one pretraining share."""
    short = name.rstrip("/").split("/")[-1].lower().removeprefix("meta-")
    return re.sub(r"(-(it|instruct|chat|hf|base))+$", "", short)


def known(name: str) -> Architecture | None:
    """A model whose dimensions ship; no file of the model is looked at."""
    found = dimensions().get(base_name(name))
    return architecture(found, name) if found else None


def of_model(name: str) -> Architecture:
    """The dimensions of a model by folder, known name, packaged name or hub id; only its config is fetched."""
    folder = expanded(name)
    if (folder / "config.json").is_file():
        return of_file(folder / "config.json", name)
    return known(name) or of_file(_fetched(name), name)


def _fetched(name: str) -> Path:
    if name.count("/") != 1:
        raise UsageError(
            f"unknown model {name!r}: give --config path/to/config.json, a folder, a hub id owner/name, or one of "
            + ", ".join(dimensions())
        )
    try:
        return hub.fetch(name, "config.json")
    except BenchError as error:
        raise BenchError(f"{error}; give --config path/to/config.json") from error


def of_file(path: Path, name: str = "") -> Architecture:
    """The dimensions in a `config.json`; what it leaves out is its model type's default in transformers."""
    raw = read_json(path, dict[str, Any], "a model's configuration", error=UsageError)
    return architecture(complete(raw), name or str(raw.get("_name_or_path") or path.parent.name or path.stem))


def complete(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration in the keys of `KEYS`, with its model type's defaults."""
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        return {key: raw[key] for key in KEYS if raw.get(key) is not None}
    try:
        made = AutoConfig.for_model(**raw).get_text_config(decoder=True)
    except Exception as error:  # a configuration's class may raise anything, its own kinds of errors among them
        raise UsageError(f"not a configuration of {kind}: {first_line(str(error))}") from error
    if getattr(made, "kv_lora_rank", None) or getattr(made, "state_size", None) or getattr(made, "d_inner", None):
        raise BenchError(f"{kind}: compressed caches and recurrent layers have no rule here")
    found = {key: value for key in KEYS if (value := getattr(made, key, None)) is not None}
    widths = ("n_inner", "ffn_dim", "ffn_hidden_size")
    if "intermediate_size" not in found:
        own = next((w for name in widths if (w := getattr(made, name, None))), None)
        found["intermediate_size"] = own or 4 * made.hidden_size
    if kind == "falcon":
        several = made.new_decoder_architecture or not made.multi_query
        found["num_key_value_heads"] = made.num_kv_heads if several else 1
    elif kind == "gpt_bigcode" and made.multi_query:
        found["num_key_value_heads"] = 1
    return found


Size = Annotated[int, Range(1, 2**24)]
Amount = Annotated[int, Range(0, 2**24)]


class Dimensions(TypedDict):
    """A configuration in the keys of `KEYS`."""

    hidden_size: Size
    num_hidden_layers: Annotated[int, Range(1, 10_000)]
    num_attention_heads: Size
    vocab_size: Size
    model_type: NotRequired[str | None]
    intermediate_size: NotRequired[Size | None]
    num_key_value_heads: NotRequired[Size | None]
    head_dim: NotRequired[Size | None]
    tie_word_embeddings: NotRequired[bool | None]
    max_position_embeddings: NotRequired[Amount | None]
    sliding_window: NotRequired[Amount | None]
    use_sliding_window: NotRequired[bool | None]
    layer_types: NotRequired[list[str] | None]
    num_local_experts: NotRequired[Amount | None]
    num_experts: NotRequired[Amount | None]
    n_routed_experts: NotRequired[Amount | None]
    num_experts_per_tok: NotRequired[Amount | None]
    moe_intermediate_size: NotRequired[Amount | None]
    shared_expert_intermediate_size: NotRequired[Amount | None]
    n_shared_experts: NotRequired[Amount | None]
    mlp_only_layers: NotRequired[list[int] | None]
    decoder_sparse_step: NotRequired[Amount | None]
    first_k_dense_replace: NotRequired[Amount | None]


def architecture(config: Mapping[str, Any], name: str) -> Architecture:
    """Dimensions from a configuration in the keys of `KEYS`; raises UsageError for what it lacks or cannot be."""
    try:
        held(dict(config), Dimensions)
        hidden, layers, heads = (config[k] for k in ("hidden_size", "num_hidden_layers", "num_attention_heads"))
        return Architecture(
            name=name,
            hidden=hidden,
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or hidden // heads,
            vocab=config["vocab_size"],
            tied=bool(config.get("tie_word_embeddings", True)),
            windows=_windows(config, layers),
            feed=tuple(_feed(config, layer) for layer in range(layers)),
            longest=config.get("max_position_embeddings") or 0,
        )
    except (KeyError, ValueError) as error:
        told = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise UsageError(f"{name or 'the configuration'} has no dimensions that can be counted: {told}") from error


def _windows(config: Mapping[str, Any], layers: int) -> tuple[int, ...]:
    window = config.get("sliding_window") or 0
    if types := config.get("layer_types"):
        sizes = {"full_attention": 0, "sliding_attention": window}
        if unknown := sorted(set(types) - set(sizes)):
            raise BenchError(f"no rule for layers of type {unknown[0]}")
        return tuple(sizes[kind] for kind in types)
    return (window if config.get("use_sliding_window", True) else 0,) * layers


def _feed(config: Mapping[str, Any], layer: int) -> FeedForward:
    gated = config.get("model_type") not in UNGATED
    dense = FeedForward(config["intermediate_size"], gated)
    names = ("num_local_experts", "n_routed_experts", "num_experts")
    experts = next((n for name in names if (n := config.get(name))), 0)
    step = config.get("decoder_sparse_step") or 1
    if (
        experts < 2
        or layer in (config.get("mlp_only_layers") or ())
        or (layer + 1) % step
        or layer < (config.get("first_k_dense_replace") or 0)
    ):
        return dense
    width = config.get("moe_intermediate_size") or config["intermediate_size"]
    own = config.get("shared_expert_intermediate_size") or 0
    return FeedForward(
        width,
        gated,
        experts,
        active=config["num_experts_per_tok"],
        shared=own or (config.get("n_shared_experts") or 0) * width,
        shared_gate=bool(own),
    )
