"""The published cost formulas, and exact costs from a configuration and from a steering."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch.utils.flop_counter import FlopCounterMode

from bench.backends.hf.backend import HFBackend
from bench.cli.main import main
from bench.core.content import Array
from bench.core.deltas import Delta, DenseDelta, LowRankDelta, RotationDelta
from bench.core.edits import Gate, Span
from bench.core.embeds import Embeds
from bench.core.errors import BenchError, UsageError
from bench.core.kinds import Add, Cache, Clamp, Diagonal, LowRank, Project, Rotate, Scaled
from bench.core.steering import Steering
from bench.overhead import breakeven, exact, published
from bench.overhead.config import base_name, complete, known, of_file, of_model
from bench.overhead.edits import extra

RNG = np.random.default_rng(0)
SIZES = (50, 100, 400)


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def architecture(name: str) -> exact.Architecture:
    found = known(name)
    assert found is not None
    return found


# As published

COMPUTE, MEMORY = "prompt compute", "prompt memory"
FIGURE, BEYOND = (f"{MEMORY}, upper bound (Figure 2, {where})" for where in ("a few thousand", "beyond 16k"))
CLOSING = "upper bound (conclusion)"
BLOG: list[tuple[str, int, int | None, float, float, bool]] = [
    # (quantity, context, prompt tokens, printed %, the formula's %, agrees)
    (COMPUTE, 512, 50, 0.20, 0.01428, False),
    (COMPUTE, 512, 100, 0.39, 0.02857, False),
    (COMPUTE, 512, 400, 1.56, 0.1143, False),
    (COMPUTE, 4096, 50, 0.03, 0.01414, False),
    (COMPUTE, 4096, 100, 0.06, 0.02828, False),
    (COMPUTE, 4096, 400, 0.24, 0.1131, False),
    (COMPUTE, 16384, 50, 0.008, 0.01366, False),
    (COMPUTE, 16384, 100, 0.016, 0.02733, False),
    (COMPUTE, 16384, 400, 0.06, 0.1093, False),
    (f"{COMPUTE} (prose)", 16384, 50, 0.0001, 0.0137, False),
    (f"{COMPUTE} (prose)", 16384, 400, 0.001, 0.109, False),
    (MEMORY, 4096, 100, 2.5, 2.44, True),
    (FIGURE, 4096, 50, 5, 1.22, True),
    (FIGURE, 4096, 100, 5, 2.44, True),
    (FIGURE, 4096, 400, 5, 9.77, False),
    (FIGURE, 8192, 400, 5, 4.88, True),
    (BEYOND, 16384, 50, 1, 0.305, True),
    (BEYOND, 16384, 100, 1, 0.610, True),
    (BEYOND, 16384, 400, 1, 2.44, False),
    (f"{COMPUTE}, {CLOSING}", 4096, 50, 0.06, 0.01414, True),
    (f"{COMPUTE}, {CLOSING}", 4096, 100, 0.06, 0.02828, True),
    (f"{COMPUTE}, {CLOSING}", 4096, 400, 0.06, 0.1131, False),
    (f"{MEMORY}, {CLOSING}", 4096, 50, 0.06, 1.22, False),
    (f"{MEMORY}, {CLOSING}", 4096, 100, 0.06, 2.44, False),
    (f"{MEMORY}, {CLOSING}", 4096, 400, 0.06, 9.77, False),
    (f"{COMPUTE}, {CLOSING}", 16384, 50, 0.01, 0.0137, False),
    (f"{COMPUTE}, {CLOSING}", 16384, 100, 0.01, 0.0273, False),
    (f"{COMPUTE}, {CLOSING}", 16384, 400, 0.01, 0.1093, False),
    (f"{MEMORY}, {CLOSING}", 16384, 50, 0.01, 0.305, False),
    (f"{MEMORY}, {CLOSING}", 16384, 100, 0.01, 0.610, False),
    (f"{MEMORY}, {CLOSING}", 16384, 400, 0.01, 2.44, False),
    ("vector memory", 4096, None, 0.02, 0.0244, True),
    ("vector compute", 512, None, 0.00019, 0.000190, True),
    ("vector compute", 4096, None, 0.00019, 0.000189, True),
    ("vector compute", 16384, None, 0.00018, 0.000182, True),
    ("adapter memory", 4096, None, 0.39, 0.3906, True),
    ("adapter compute", 512, None, 0.003, 0.00305, True),
    ("adapter compute", 4096, None, 0.003, 0.00302, True),
    ("adapter compute", 16384, None, 0.0029, 0.00292, True),
    ("ReFT memory", 4096, None, 0.39, 0.3906, True),
    ("ReFT compute", 512, None, 0, 0, True),
    ("ReFT compute", 4096, None, 0, 0, True),
    ("ReFT compute", 16384, None, 0, 0, True),
    ("vector memory (closing)", 4096, None, 0.02, 0.0244, True),
    ("adapter memory (closing)", 4096, None, 0.39, 0.3906, True),
]


@pytest.mark.parametrize("row", BLOG, ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}")
def test_a_printed_number_agrees_or_not(row: tuple[Any, ...]) -> None:
    quantity, context, tokens, printed, formula, agrees = row
    own = [
        r
        for r in published.records()
        if (r["quantity"], r["context"], r["prompt_tokens"]) == (quantity, context, tokens)
    ]
    assert len(own) == 1
    assert own[0]["printed_percent"] == printed
    assert own[0]["formula_percent"] == pytest.approx(formula, rel=4e-3)
    assert own[0]["agrees"] is agrees


def test_every_printed_number_is_held() -> None:
    assert len(published.records()) == len(BLOG)


def test_no_constant_gives_the_prompt_table() -> None:
    needed = [published.implied_attention(*at) for at in ((512, 100, 0.39), (4096, 100, 0.06), (16384, 50, 0.008))]
    assert needed == pytest.approx([2670, 413, 110], rel=0.01)
    assert published.implied_attention(16384, 400, 0.06) == pytest.approx(103, rel=0.01)
    assert published.equal_context() == pytest.approx(349_525, rel=1e-5)
    # what the formula itself gives is what its own constant implies
    own = 100 * published.prompt_compute(4096, 100)
    assert published.implied_attention(4096, 100, own) == pytest.approx(published.ATTENTION)


def test_figure_2_bounds_need_longer_contexts() -> None:
    assert published.least_context(400, 0.05) == pytest.approx(8000)
    assert published.least_context(400, 0.01) == pytest.approx(40_000)
    assert published.prompt_memory(4096, 204) < 0.05 < published.prompt_memory(4096, 205)


# Exact, from a configuration

TABLE = {
    # model, context -> ΔFLOP %, Δbytes %, KV share % for prompts of 50, 100, 400 tokens
    ("Llama-2-7B", 512): ((0.195, 0.390, 1.58), (0.195, 0.390, 1.58), (9.8, 19.5, 78)),
    ("Llama-2-7B", 4096): ((0.171, 0.342, 1.38), (0.171, 0.342, 1.38), (1.22, 2.44, 9.77)),
    ("Llama-2-7B", 16384): ((0.120, 0.241, 0.971), (0.120, 0.241, 0.971), (0.31, 0.61, 2.44)),
    ("Gemma-2-2B", 512): ((0.200, 0.401, 1.62), (0.101, 0.202, 0.813), (9.8, 19.5, 78)),
    ("Gemma-2-2B", 4096): ((0.175, 0.350, 1.42), (0.094, 0.188, 0.758), (1.22, 2.44, 9.77)),
    ("Gemma-2-2B", 16384): ((0.072, 0.144, 0.578), (0.042, 0.084, 0.338), (0.24, 0.49, 1.95)),
    ("Llama-3.1-8B", 4096): ((0.153, 0.307, 1.24), (0.042, 0.084, 0.338), (1.22, 2.44, 9.77)),
}


@pytest.mark.parametrize(("model", "context"), TABLE)
def test_a_cached_prompt_costs_what_its_attention_costs(model: str, context: int) -> None:
    arch = architecture(model)
    for measure, expected in zip(
        (exact.flops_percent, exact.bytes_percent, exact.kv_percent), TABLE[model, context], strict=True
    ):
        found = [measure(arch, exact.prompt(n), context) for n in SIZES]
        assert found == pytest.approx(expected, rel=0.022)  # three printed digits, two where they are few


@pytest.mark.parametrize(
    ("model", "kib", "macs", "vector_kv", "vector_flops", "rank_kv", "lora", "lora_percent", "lora_flops", "prefill"),
    [
        ("Llama-2-7B", 512, 202.4e6, 0.00038, 2.7e-5, 0.0061, 20.0e6, 0.297, 0.26, (48, 96, 387)),
        ("Gemma-2-2B", 104, 77.9e6, 0.00106, 3.8e-5, 0.0169, 10.4e6, 0.397, 0.34, (38, 76, 307)),
        ("Llama-3.1-8B", 128, 218.1e6, 0.0015, 2.4e-5, 0.0244, 21.0e6, 0.261, 0.24, (46, 92, 368)),
    ],
)
def test_what_a_vector_and_an_adapter_cost(
    model: str, kib: int, macs: float, vector_kv: float, vector_flops: float, rank_kv: float, lora: float,
    lora_percent: float, lora_flops: float, prefill: tuple[int, ...],
) -> None:  # fmt: skip
    arch = architecture(model)
    assert exact.kv_bytes(arch, 1) == kib * 1024
    assert arch.attention_weights + arch.feed[0].macs(arch.hidden) == pytest.approx(macs, rel=1e-3)
    vector, low = exact.vector(arch), exact.adapter(arch, 8)
    assert exact.kv_percent(arch, vector, 4096) == pytest.approx(vector_kv, rel=0.02)
    assert exact.flops_percent(arch, vector, 4096) == pytest.approx(vector_flops, rel=0.02)
    assert exact.kv_percent(arch, low, 4096) == pytest.approx(rank_kv, rel=0.01)
    everywhere = exact.lora(arch, 8)
    assert everywhere.elements == pytest.approx(lora, rel=0.003)
    share = everywhere.elements / exact.weights(arch)
    assert 100 * share == pytest.approx(lora_percent, rel=0.003)
    assert exact.flops_percent(arch, everywhere, 4096) == pytest.approx(lora_flops, rel=0.05)
    assert exact.flops_percent(arch, exact.lora(arch, 8, merged=True), 4096) == 0
    assert [round(exact.prefill_in_tokens(arch, n)) for n in SIZES] == list(prefill)


def test_an_uncached_prompt_is_a_share_of_a_reply() -> None:
    arch = architecture("Llama-2-7B")
    shares = [100 * exact.prefill_in_tokens(arch, n) / 256 for n in SIZES]
    assert shares == pytest.approx([19, 38, 151], abs=0.5)


def test_a_known_name_is_found_under_what_its_users_call_it() -> None:
    for name in ("google/gemma-2-2b-it", "gemma-2-2b", "google/gemma-2-2b"):
        assert architecture(name).layers == 26
    assert base_name("meta-llama/Meta-Llama-3.1-8B-Instruct") == "llama-3.1-8b"
    assert base_name("meta-llama/Llama-2-7b-chat-hf") == "llama-2-7b"
    assert known("llama-9-1000b") is None
    with pytest.raises(UsageError, match="--config"):
        of_model("llama-9-1000b")


def test_shipped_dimensions_are_those_of_the_real_default_model(default_model: Any) -> None:
    mine = dataclasses.replace(of_file(default_model.path / "config.json"), name="")
    assert mine == dataclasses.replace(architecture("SmolLM2-135M-Instruct"), name="")


# Against real modules

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "gemma2": {"head_dim": 8, "sliding_window": 16},
    "gemma3_text": {"head_dim": 8, "sliding_window": 16},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "mistral": {"sliding_window": 16},
    "phi3": {"pad_token_id": 0},
    "phi": {},
    "starcoder2": {},
    "gpt_neox": {},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4},
    "falcon": {"num_kv_heads": 1},
    "mixtral": {"num_local_experts": 4},
    "qwen2_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
                  "shared_expert_intermediate_size": 24},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 2},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "sliding_window": 16},
}  # fmt: skip


def small(kind: str) -> Any:
    """A configuration of `kind` with small, unequal dimensions."""
    from transformers import AutoConfig

    shape = {"vocab_size": 130, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
    takes = vars(AutoConfig.for_model(kind))  # an unknown name would be kept and never read
    return AutoConfig.for_model(kind, **{k: v for k, v in shape.items() if k in takes} | FAMILIES[kind])


@pytest.mark.parametrize("kind", FAMILIES)
def test_weights_are_those_of_the_modules(kind: str, tmp_path: Path) -> None:
    from torch import nn
    from transformers import AutoModelForCausalLM

    config = small(kind)
    config.save_pretrained(tmp_path)
    arch = of_file(tmp_path / "config.json")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    tables -= {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    kept = [(n, p) for n, p in model.named_parameters() if p.ndim > 1 and id(p) not in tables]
    kept = [(n, p) for n, p in kept if not n.endswith("_bias")]  # of all experts at once
    assert exact.weights(arch) == sum(p.numel() for _, p in kept)
    if "moe" not in kind and kind not in ("mixtral", "gpt_oss"):
        extra_table = 0 if arch.tied else arch.hidden * arch.vocab
        assert exact.linear_macs(arch) == exact.weights(arch) - extra_table
        linear = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and "head" not in n}
        if kind in ("llama", "qwen2", "gemma2"):
            assert sorted((m.in_features, m.out_features) for m in linear.values()) == sorted(arch.linears())


def test_a_mixture_pays_for_its_active_experts_alone() -> None:
    from bench.overhead.config import architecture as parse

    arch = parse(complete(small("mixtral").to_dict()), "mixtral")
    idle = 3 * (4 - 2) * 3 * 32 * 48  # layers × idle experts × matrices × H × width
    assert exact.linear_macs(arch) == exact.weights(arch) - idle - arch.hidden * arch.vocab * (not arch.tied)


def test_what_has_no_rule_is_refused(tmp_path: Path) -> None:
    for name, config in {
        "deepseek": {"model_type": "deepseek_v3"},
        "mamba": {"model_type": "mamba"},
        "llama4": {"model_type": "llama4_text"},
    }.items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(config))
        with pytest.raises(BenchError):
            of_file(path)
    (tmp_path / "empty.json").write_text("{}")
    with pytest.raises(UsageError, match="lacks"):
        of_file(tmp_path / "empty.json")
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(UsageError, match="not an object"):
        of_file(tmp_path / "list.json")


def counting() -> FlopCounterMode:
    """Torch's counter, told what a product by oneDNN is."""

    def product(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
        return 2 * math.prod(x) * weight[0]

    return FlopCounterMode(display=False, custom_mapping={torch.ops.mkldnn._linear_pointwise: product})


@pytest.mark.slow
@torch.inference_mode()
def test_flops_are_those_torch_counts(any_lm: HFBackend) -> None:
    """Tokens one by one, so that no masked product is counted; past the window of the tiny Gemma (64)."""
    arch = of_file(any_lm.source.path / "config.json")
    model = any_lm.model
    token = torch.tensor([[65]])
    model.set_attn_implementation("eager")  # torch counts every matrix product of it
    try:
        cache, counted = None, {}
        for context in range(1, 71):
            if context > 5 and context < 60:
                cache = model(input_ids=token, past_key_values=cache, use_cache=True).past_key_values
                continue
            with counting() as counter:
                cache = model(input_ids=token, past_key_values=cache, use_cache=True).past_key_values
            counted[context] = counter.get_total_flops()
            assert exact.decode_flops(arch, context) == pytest.approx(counted[context], rel=0.01)
    finally:
        model.set_attn_implementation("sdpa")
    head = 2 * arch.hidden * arch.vocab
    for first, last in ((1, 5), (60, 70)):
        read = sum(counted[c] - head for c in range(first, last + 1))
        assert exact.prefill_flops(arch, last - first + 1, first - 1) == pytest.approx(read, rel=0.01)


@torch.inference_mode()
@pytest.mark.parametrize("context", [5, 64, 90])
def test_cache_bytes_are_those_of_the_cache(any_lm: HFBackend, context: int) -> None:
    arch = of_file(any_lm.source.path / "config.json")
    cache = any_lm.model(input_ids=torch.full((1, context), 65), use_cache=True).past_key_values
    held = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    assert exact.kv_held(arch, context, width=4) == held
    windowed = any(arch.windows) and context >= 64
    assert (exact.kv_bytes(arch, context, width=4) == held) is not windowed


# From a steering

H = 32
PARTS: list[tuple[Any, int, int, int]] = [
    # part, FLOPs at a position, numbers kept, numbers read by a step
    (Add(layer=1, value=normal(H)), H, H, H),
    (Add(layer=1, value=normal(3, H)), H, 3 * H, H),
    (Add(layer=1, value=normal(H), signed=True), 4 * H, H, H),
    (Add(layer=1, value=normal(H), keep_norm=True), 6 * H, H, H),
    (Project(layer=1, basis=np.eye(2, H, dtype=np.float32)), 4 * 2 * H, 2 * H, 2 * H),
    (Clamp(layer=1, read=normal(H), write=normal(H), target=1.0), 4 * H, 2 * H, 2 * H),
    (LowRank(layer=1, rotation=normal(4, H), weight=normal(4, H), bias=normal(4)), 16 * H, 8 * H + 4, 8 * H + 4),
    (Scaled(layer=1, read=normal(3, H), write=normal(3, H), bias=normal(3)), 12 * H, 6 * H + 3, 6 * H + 3),
    (Diagonal(layer=1, gain=normal(H), shift=normal(H)), 3 * H, 2 * H, 2 * H),
    (Diagonal(layer=1, gain=normal(H), shift=normal(H), low=normal(H), high=normal(H)), 5 * H, 4 * H, 4 * H),
    (Rotate(layer=1, basis=np.eye(2, H, dtype=np.float32)), 8 * H, 2 * H, 2 * H),
    (Rotate(layer=1, basis=np.eye(2, H, dtype=np.float32), mode="towards"), 11 * H, 2 * H, 2 * H),
    (Cache(layer=1, value=normal(H)), H, H, 0),
    (Embeds(normal(5, H)), 0, 5 * H, 0),
    (LowRankDelta(module="m", down=normal(4, H), up=normal(64, 4)), 8 * (H + 64), 4 * (H + 64), 4 * (H + 64)),
    (DenseDelta(module="m", change=normal(64, H)), 2 * 64 * H, 64 * H, 64 * H),
    (
        RotationDelta(module="m", u=normal(64, 3), s=normal(3), v=normal(H, 3), skew=np.zeros((3, 3)), shift=normal(3)),
        6 * (H + 64),
        3 * (H + 64) + 9 + 6,
        3 * (H + 64),
    ),
]


@pytest.mark.parametrize("row", PARTS, ids=lambda row: type(row[0]).__name__)
def test_each_part_says_what_it_costs(row: tuple[Any, int, int, int]) -> None:
    found = row[0].work()
    assert (found.flops, found.elements, found.moved) == row[1:]


def test_a_part_that_does_not_say_what_it_costs_is_no_part() -> None:
    @dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
    class Novel(Delta):
        def scaled(self, c: float) -> Novel:
            return self

    with pytest.raises(TypeError, match="work"):
        Novel(module="m")  # type: ignore[abstract]


def test_the_closed_forms_are_the_costs_of_such_steerings(any_lm: HFBackend) -> None:
    arch = of_file(any_lm.source.path / "config.json")
    assert extra(Steering(edits=(Add(layer=1, value=normal(H)),))) == exact.vector(arch)
    several = tuple(Add(layer=layer, value=normal(H)) for layer in range(3))
    assert extra(Steering(edits=several)) == exact.vector(arch, 3)
    low = LowRank(layer=1, rotation=normal(4, H), weight=normal(4, H), bias=normal(4))
    assert extra(Steering(edits=(low,))) == exact.adapter(arch, 4)
    model = any_lm.model
    linear = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"}
    deltas = tuple(
        LowRankDelta(module=n, down=normal(4, m.in_features), up=normal(m.out_features, 4)) for n, m in linear.items()
    )
    assert extra(Steering(deltas=deltas)) == exact.lora(arch, 4)
    assert extra(Steering(deltas=deltas), merged=True) == exact.lora(arch, 4, merged=True)


@torch.inference_mode()
def test_the_cost_of_a_delta_is_what_torch_counts(lm: HFBackend) -> None:
    """The run itself, steered and not: only the factored products may differ."""
    from bench.backends.hf.hooks import Applied

    module = "model.layers.1.mlp.up_proj"
    linear = lm.model.get_submodule(module)
    delta = LowRankDelta(module=module, down=normal(4, linear.in_features), up=normal(linear.out_features, 4))
    counts = []
    for steering in (Steering(), Steering(deltas=(delta,))):
        with Applied(lm.model, [steering], [5], [0], 1), FlopCounterMode(display=False) as counter:
            lm.model(input_ids=torch.tensor([[65] * 5]))
        counts.append(counter.get_total_flops())
    assert counts[1] - counts[0] == 5 * delta.work().flops


def test_a_span_decides_when_an_edit_costs() -> None:
    edit = Add(layer=1, value=normal(H))
    prompt_only = dataclasses.replace(edit, span=Span("prompt"))
    reply_only = dataclasses.replace(edit, span=Span("response"))
    last = dataclasses.replace(edit, span=Span("prompt", last=2))
    found = {name: extra(Steering(edits=(e,)), length=20) for name, e in
             {"prompt": prompt_only, "reply": reply_only, "last": last}.items()}  # fmt: skip
    assert (found["prompt"].decode, found["prompt"].read, found["prompt"].once) == (0, H, 0)
    assert (found["reply"].decode, found["reply"].read, found["reply"].once) == (H, 0, 0)
    assert (found["last"].decode, found["last"].read, found["last"].once) == (0, 0, 2 * H)
    assert found["prompt"].moved == found["last"].moved == 0


def test_a_gate_is_read_once_however_many_edits_share_it() -> None:
    gate = Gate(0, normal(H), 0.1)
    edits = tuple(Add(layer=layer, value=normal(H), gate=gate) for layer in (1, 2))
    found = extra(Steering(edits=edits), length=20)
    assert found.once == 20 * H + 9 * H
    assert found.elements == 3 * H


# Requests and break-even


def test_a_request_is_its_tokens_one_by_one() -> None:
    arch = architecture("Gemma-2-2B")
    head = 2 * arch.hidden * arch.vocab
    by_hand = sum(exact.decode_flops(arch, c) for c in range(1, 5 + 30 + 7)) - (5 + 30 - 1) * head
    assert exact.request_flops(arch, exact.prompt(5), 30, 7) == by_hand
    cached = exact.request_flops(arch, exact.prompt(5), 30, 7, cached=True)
    assert by_hand - cached == exact.prefill_flops(arch, 5)
    plain = exact.request_flops(arch, exact.Extra(), 30, 7)
    assert exact.request_flops(arch, exact.vector(arch), 30, 7) - plain == (30 + 6) * arch.hidden


def test_break_even_is_where_the_totals_cross() -> None:
    arch = architecture("Llama-2-7B")
    fit = breakeven.Fit(72, 64).flops(arch)
    assert fit == 72 * exact.prefill_flops(arch, 64)
    for cached in (False, True):
        needed = breakeven.requests(arch, exact.vector(arch), fit, 100, 512, 256, cached)

        def total(steering: exact.Extra, n: int, kept: bool) -> int:
            return n * exact.request_flops(arch, steering, 512, 256, kept)

        n = int(needed)
        assert fit + total(exact.vector(arch), n, False) <= total(exact.prompt(100), n, cached)
        assert fit + total(exact.vector(arch), n - 1, False) > total(exact.prompt(100), n - 1, cached)
    bare, kept = (breakeven.requests(arch, exact.vector(arch), fit, 100, 512, 256, c) for c in (False, True))
    assert kept > 10 * bare  # a cached prefix takes most of the prompt's cost away


def test_an_unmerged_adapter_never_pays_against_a_short_cached_prompt() -> None:
    arch = architecture("Llama-2-7B")
    fit = breakeven.Fit(72, 64, 9).flops(arch)
    assert math.isinf(breakeven.requests(arch, exact.lora(arch, 8), fit, 50, 512, 256, cached=True))
    assert breakeven.context(arch, exact.lora(arch, 8), fit, 50, 10**6, 256, cached=True) is None
    assert breakeven.requests(arch, exact.lora(arch, 8, merged=True), fit, 50, 512, 256, cached=True) < 10**6


def test_break_even_context_is_the_shortest_that_pays() -> None:
    arch = architecture("Gemma-2-2B")
    fit = breakeven.Fit(72, 64).flops(arch)
    vector = exact.vector(arch)
    own = breakeven.context(arch, vector, fit, 400, 100, 256, cached=True)
    assert own is not None
    assert own > 1
    assert breakeven.requests(arch, vector, fit, 400, own, 256, cached=True) <= 100
    assert breakeven.requests(arch, vector, fit, 400, own - 1, 256, cached=True) > 100


def test_break_even_rows_are_whole() -> None:
    rows = breakeven.table(architecture("Gemma-2-2B"), (50, 400), (512, 4096), 256, 72, 1000, 8)
    assert len(rows) == 4 * 2 * 2
    assert {row["prefix_cached"] for row in rows} == {True, False}
    json.dumps(rows, allow_nan=False)


# The command


def bench(*words: str, expect: int = 0) -> Result:
    done = CliRunner().invoke(main, ["overhead", *words])
    assert done.exit_code == expect, done.output
    return done


def test_the_blog_s_numbers_as_json_and_as_a_table() -> None:
    rows = json.loads(bench("--formulas", "blog", "--json").stdout)
    keys = ["quantity", "context", "prompt_tokens", "printed_percent", "formula_percent", "agrees"]
    assert isinstance(rows, list)
    assert all(list(row) == keys for row in rows)
    assert rows == published.records()
    text = bench("--formulas", "blog").stdout
    assert text.count(" NO ") == sum(not row["agrees"] for row in rows) > 0
    assert "2,671, 413 and 110" in text


def test_a_model_by_name_or_by_its_configuration_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: Any, **__: Any) -> None:
        raise AssertionError("no network is needed")

    monkeypatch.setattr("socket.socket.connect", closed)
    words = ("--prompt-tokens", "50,100,400", "--context", "512,4096,16384", "--json")
    found = json.loads(bench("--model", "google/gemma-2-2b-it", *words).stdout)
    config = {"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"], "hidden_size": 2304, "head_dim": 256}
    config |= {"num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 256000}
    config |= {"intermediate_size": 9216, "sliding_window": 4096}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    own = json.loads(bench("--model", "google/gemma-2-2b-it", "--config", str(path), *words).stdout)
    assert own == found
    assert found["model"] == "google/gemma-2-2b-it"
    assert [row["context"] for row in found["base"]] == [512, 4096, 16384]
    row = next(r for r in found["rows"] if (r["prompt_tokens"], r["context"]) == (100, 4096))
    assert row["flops_percent"] == pytest.approx(0.350, rel=0.002)
    assert row["bytes_percent"] == pytest.approx(0.188, rel=0.003)
    assert {r["prefix_cached"] for r in found["breakeven"]} == {True, False}


@pytest.mark.slow
def test_a_figure_is_written_with_its_data(tmp_path: Path) -> None:
    done = bench("--model", "llama-2-7b", "--figure", str(tmp_path / "llama.png"), "--rank", "4")
    assert "LoRA rank 4, all linears" in done.stdout
    assert (tmp_path / "llama.png").read_bytes().startswith(b"\x89PNG")
    rows = (tmp_path / "llama.csv").read_text("utf-8").splitlines()
    assert rows[0].startswith("method,context,prompt_tokens,flops_percent")
    assert len(rows) == 1 + 8 * 4  # kinds × contexts from 512 to 4096, the longest it was made for


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("diffmean", "--model", "llama-2-7b"), "one of them"),
        (("--formulas", "blog", "--model", "llama-2-7b"), "one of them"),
        (("--model", "llama-2-7b", "--prompt-tokens", "a"), "numbers of tokens"),
        (("--model", "llama-2-7b", "--context", "400"), "does not hold a prompt"),
        (("--model", "nothing"), "unknown model"),
        (("--config", "nowhere.json"), "cannot be read"),
    ],
)
def test_a_wrong_command_says_what_to_write(words: tuple[str, ...], message: str) -> None:
    assert message in bench(*words, expect=2).stderr
