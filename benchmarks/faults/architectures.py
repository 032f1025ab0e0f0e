"""Architectures held to an independent reference.

Of each family a tiny random model with the default model's tokenizer, saved, loaded by the `hf` engine and compared
with transformers alone: attention as the family's own code has it, one row at a time, without padding, cache or any
hook of the engine's. `python -m benchmarks.faults.architectures [KIND …]` prints what it finds and writes nothing;
`count` keeps it in `benchmarks/architectures.json`, of which docs/engines.md has a table.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from bench.core.content import Array, Message
from bench.core.errors import BenchError
from bench.core.store import write_json
from benchmarks.faults.counts import Count

TABLE = Path(__file__).resolve().parents[1] / "architectures.json"
SECONDS = 200
"""Of processor time, after which one architecture is given up."""
WRITTEN = 6
"""Tokens of an answer."""
CLOSE = 1e-3
"""Largest difference that counts as equal, in nats of a token, or relative to a state's or a gradient's length."""
LAYERS, HIDDEN, WINDOW, LENGTH = 4, 32, 16, 512
SIZES = {
    HIDDEN: "hidden_size n_embd d_model embed_dim",
    LAYERS: "num_hidden_layers n_layer n_layers num_layers decoder_layers num_attention_heads n_head n_heads "
    "attention_heads decoder_attention_heads num_experts num_local_experts n_routed_experts",
    2: "num_key_value_heads num_experts_per_tok top_k eos_token_id pad_token_id",
    64: "intermediate_size n_inner ffn_dim ffn_hidden_size d_ff dff decoder_ffn_dim moe_intermediate_size "
    "shared_expert_intermediate_size shared_intermediate_size",
    8: "head_dim v_head_dim qk_nope_head_dim qk_rope_head_dim q_lora_rank kv_lora_rank",
    1: "n_group topk_group bos_token_id",
    49152: "vocab_size",
    LENGTH: "max_position_embeddings n_positions n_ctx max_seq_len",
    WINDOW: "sliding_window",
}
"""What a configuration's fields become, whatever the family calls them."""
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_chunk_size": 16}
DELTA = {f"linear_num_{part}_heads": 4 for part in ("key", "value")} | {
    f"linear_{part}_head_dim": 8 for part in ("key", "value")
}
SHAPES: dict[str, dict[str, Any]] = {
    "bamba": MAMBA | {"attn_layer_indices": [1, 3]},
    "codegen": {"rotary_dim": 8},
    "deepseek_v2": {"num_key_value_heads": LAYERS},
    "deepseek_v3": {"num_key_value_heads": LAYERS},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4},
    },
    "dots1": {"n_shared_experts": 1, "first_k_dense_replace": 1},
    "falcon_h1": MAMBA | {"mamba_d_ssm": 64},
    "falcon": {"head_dim": None},
    "gemma3": {"vision_config": {"image_size": 56, "patch_size": 14}, "mm_tokens_per_image": 4},
    "gemma3n_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 0,
        "vocab_size_per_layer_input": 49152,
        "hidden_size_per_layer_input": 8,
        "activation_sparsity_pattern": [0.0] * LAYERS,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": WINDOW},
    "gptj": {"rotary_dim": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2},
    "granitemoehybrid": MAMBA | {"layer_types": ["mamba", "attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1},
    "qwen3_5_text": DELTA,
    "qwen3_next": DELTA,
    "mamba2": {"num_heads": 4, "head_dim": 16, "state_size": 16, "chunk_size": 16, "n_groups": 1},
}
"""What else a family needs to be small; None drops a field."""
FAMILIES = """
llama mistral mixtral qwen2 qwen2_moe qwen3 qwen3_moe qwen3_next qwen3_5_text gemma gemma2 gemma3_text gemma3
gemma3n_text gemma4_text phi phi3 phimoe gpt2 gpt_neo gpt_neox gptj gpt_bigcode opt bloom falcon mpt stablelm olmo
olmo2 olmo3 olmoe flex_olmo cohere cohere2 granite granitemoe granitemoeshared granitemoehybrid starcoder2 smollm3 glm
glm4 glm4_moe exaone4 deepseek_v2 deepseek_v3 llama4_text gpt_oss mamba mamba2 falcon_mamba rwkv jamba bamba
nemotron nemotron_h persimmon dbrx ernie4_5 ernie4_5_moe hunyuan_v1_dense hunyuan_v1_moe lfm2 lfm2_moe helium arcee
apertus seed_oss minimax minimax_m2 bitnet codegen ctrl xglm biogpt openai-gpt diffllama doge falcon_h1
recurrent_gemma vaultgemma nanochat ministral3 mimo_v2_flash dots1 jetmoe afmoe bart
"""
KINDS = tuple(FAMILIES.split())
QUESTIONS: tuple[tuple[Message, ...], ...] = (
    (("user", "Why?"),),
    (("user", "What is the sea like on a calm day, and who would sail on it then?"),),
    *((("user", "Of ships and of harbours there is much to tell. " * 14 + last),) for last in ("Go on.", "Now stop!")),
)
"""Beyond a window, beyond the shortest front that is read once for several rows, and three lengths."""
TARGET = " The sea is wide."
Record = dict[str, Any]


def build(folder: Path, kind: str, seed: int = 0) -> None:
    """Write a random model of `kind`, some millions of weights, with the default model's tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from bench.backends.models import DEFAULT, resolve

    made: Any = CONFIG_MAPPING[kind]
    model: Any = None
    shape = _shrunk(made()) | SHAPES.get(kind, {})
    for part in ("text_config", "vision_config"):
        if getattr(made(), part, None) is not None:
            shape[part] = _shrunk(getattr(made(), part)) | shape.get(part, {})
    torch.manual_seed(seed)
    config = made(**{name: value for name, value in shape.items() if value is not None})
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # wider logits than the first weights give: texts differ between prompts
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.mul_(4.0 if "embed" in name or "wte" in name else 2.0)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(resolve(DEFAULT).path).save_pretrained(folder)


def _shrunk(config: Any) -> dict[str, Any]:
    known = {name: size for size, names in SIZES.items() for name in names.split()}
    found = {}
    for name, size in known.items():
        try:
            held = hasattr(config, name)
        except Exception as error:  # Gemma-4's head_dim is one by layer
            held = "Ambiguous" not in type(error).__name__
        if held:
            found[name] = size
    return found


class Plain:
    """The reference: transformers, and hooks of its own."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        self.model.eval().requires_grad_(False)
        named = [(n, m) for n, m in self.model.named_modules() if isinstance(m, torch.nn.ModuleList)]
        # A wrapper's picture encoder has blocks too.
        self.blocks: Any = next(m for n, m in named if len(m) == LAYERS and "vision" not in n)

    def logits(self, ids: Sequence[int], last: int = 1) -> Any:
        """`[last, V]` at the last so many tokens: over the whole text they are most of the time."""
        import torch

        head = self.model.get_output_embeddings()
        handle = head.register_forward_pre_hook(lambda _, args: (args[0][:, -last:],))
        try:
            return self.model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]
        finally:
            handle.remove()

    def logprobs(self, ids: Sequence[int], target: Sequence[int]) -> Array:
        import torch

        with torch.no_grad():
            found = self.logits([*ids, *target], len(target) + 1).log_softmax(-1)
        return np.array([float(found[k, token]) for k, token in enumerate(target)])

    def written(self, ids: Sequence[int], count: int, end: int) -> tuple[list[int], list[float]]:
        """The likeliest tokens one after the other, and how far each is ahead of the next likely."""
        import torch

        row, ahead = list(ids), []
        for _ in range(count):
            with torch.no_grad():
                best = self.logits(row)[-1].topk(2)
            row.append(int(best.indices[0]))
            ahead.append(float(best.values[0] - best.values[1]))
            if row[-1] == end:
                break
        return row[len(ids) :], ahead

    @contextmanager
    def changed(self, module: Any, change: Callable[[Any], Any], begin: int) -> Iterator[None]:
        """The first of what `module` gives, changed from token `begin` on."""

        def hook(_: Any, __: Any, output: Any) -> Any:
            states = output[0] if isinstance(output, tuple | list) else output
            flat = states.ndim == 2
            new = (states[None] if flat else states).clone()
            new[:, begin:] = change(new[:, begin:])
            new = new[0] if flat else new
            return type(output)((new, *output[1:])) if isinstance(output, tuple | list) else new

        handle = module.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def added(self, changes: dict[str, Array]) -> Iterator[None]:
        """ΔW `[out, in]` on top of the weights of named modules."""
        import torch

        held = []
        for name, change in changes.items():
            weight = self.model.get_submodule(name).weight
            delta = torch.from_numpy(change)
            held.append((weight, weight.clone()))
            weight += delta.T if type(self.model.get_submodule(name)).__name__ == "Conv1D" else delta
        try:
            yield
        finally:
            for weight, old in held:
                weight.copy_(old)

    def inner(self, module: Any, ids: Sequence[int], given: bool = False) -> Any:
        """What a module gives, or is given, over a text: `[T, …]`."""
        import torch

        found: list[Any] = []

        def hook(_: Any, args: Any, output: Any) -> None:
            state = args[0] if given else output
            found.append((state[0] if isinstance(state, tuple | list) else state).detach())

        handle = module.register_forward_hook(hook)
        try:
            with torch.no_grad():
                self.logits(ids)
        finally:
            handle.remove()
        return found[0].reshape(len(ids), -1)


class Examined:
    """One architecture under both."""

    def __init__(self, folder: Path, seed: int) -> None:
        from bench.backends.hf import HFBackend
        from bench.backends.models import resolve

        self.lm = HFBackend(resolve(str(folder)), dtype="float32")
        self.rng = np.random.default_rng(seed)
        self.plain = Plain(folder)
        self.ids = [self.lm.encode(question) for question in QUESTIONS]
        self.target = self.lm.chat.continued(TARGET)
        # Independent of the engine's own count: what the ids of two chats have in common.
        pairs = enumerate(zip(self.ids[0], self.ids[1], strict=False))
        self.begin = max(1, next(k for k, (a, b) in pairs if a != b))
        self.size = float(np.median(np.linalg.norm(self.plain.inner(self.plain.blocks[1], self.ids[1]), axis=1)))

    def direction(self) -> Array:
        """Of half a state's length."""
        drawn = self.rng.standard_normal(HIDDEN)
        return (0.5 * self.size * drawn / np.linalg.norm(drawn)).astype(np.float32)

    def bare(self) -> float:
        return self._scored(None, lambda c: nullcontext())

    def text(self) -> float:
        return self._written(None, nullcontext())

    def states(self) -> float:
        """After two blocks, in a batch."""
        read = self.lm.activations(QUESTIONS, [1, LAYERS - 1])
        worst = 0.0
        for own, ids in zip(read, self.ids, strict=True):
            for layer, values in own.values.items():
                right = self.plain.inner(self.plain.blocks[layer], ids).numpy()
                worst = max(worst, _apart(values, right[len(ids) - len(values) :]))
        return worst

    def batch(self) -> float:
        """A batch against its rows, one at a time."""
        from bench.core.values import Request

        asked = [Request(question, target=TARGET) for question in QUESTIONS]
        together = dict(self.lm.logprobs(asked))
        alone = [next(iter(self.lm.logprobs([one])))[1] for one in asked]
        return max(float(np.abs(np.subtract(together[i].logprobs, one.logprobs)).max()) for i, one in enumerate(alone))

    def zero(self) -> float:
        """An edit at strength 0 is the bare model, bit for bit."""
        from bench.core.kinds import Add
        from bench.core.steering import Steering
        from bench.core.values import Request

        steering = Steering(edits=(Add(layer=1, value=self.direction()),)).scaled(0.0)
        asked = [[Request(question, one, target=TARGET) for question in QUESTIONS] for one in (None, steering)]
        bare, none = (dict(self.lm.logprobs(requests)) for requests in asked)
        return max(float(np.abs(np.subtract(bare[i].logprobs, none[i].logprobs)).max()) * 1e9 for i in bare)

    def add(self) -> float:
        from bench.core.kinds import Add
        from bench.core.steering import Steering

        v = self.direction()
        steering = Steering(edits=(Add(layer=1, value=v),))
        change = self._states(self.plain.blocks[1], lambda c: lambda h: h + c * _tensor(v))
        return max(self._scored(steering, change), self._written(steering, change(1.0)))

    def project(self) -> float:
        from bench.core.kinds import Project
        from bench.core.steering import Steering

        v = self.direction()
        u = v / np.linalg.norm(v)
        steering = Steering(edits=(Project(layer=2, basis=u[None]),))
        t = _tensor(u)
        return self._scored(
            steering, self._states(self.plain.blocks[2], lambda c: lambda h: h - c * (h @ t)[..., None] * t)
        )

    def clamp(self) -> float:
        from bench.core.kinds import Clamp
        from bench.core.steering import Steering

        v = self.direction()
        read, write = (v / np.linalg.norm(v)).astype(np.float32), self.direction()
        steering = Steering(edits=(Clamp(layer=2, read=read, write=write, target=0.7),))

        def change(c: float) -> Callable[[Any], Any]:
            def apply(h: Any) -> Any:
                z = (h @ _tensor(read)).clamp(min=0)
                return h + (0.7 * c - z)[..., None] * _tensor(write)

            return apply

        return self._scored(steering, self._states(self.plain.blocks[2], change))

    def attention(self) -> float:
        """Added to what the attention gives."""
        return self._site("attn")

    def feed_forward(self) -> float:
        return self._site("mlp")

    def _site(self, site: Any) -> float:
        from bench.backends.hf.modules import blocks, site_of
        from bench.core.kinds import Add
        from bench.core.steering import Steering

        layer, module = self._first(lambda layer: site_of(blocks(self.lm.model)[layer], site))
        name = next(name for name, one in self.lm.model.named_modules() if one is module)
        v = self.direction()
        steering = Steering(edits=(Add(layer=layer, site=site, value=v),))
        return self._scored(
            steering, self._states(self.plain.model.get_submodule(name), lambda c: lambda h: h + c * _tensor(v))
        )

    def _first(self, find: Callable[[int], Any]) -> tuple[int, Any]:
        """The first block where something is found, and that; the last refusal where there is none."""
        refused: BenchError | None = None
        for layer in range(LAYERS):
            try:
                return layer, find(layer)
            except BenchError as error:
                refused = error
        assert refused is not None
        raise refused

    def adapter(self) -> float:
        """Low-rank changes of every module that adapters take by default, in all blocks."""
        from bench.backends.hf.modules import places
        from bench.backends.hf.weights import shape
        from bench.core.deltas import LowRankDelta
        from bench.core.steering import Steering
        from bench.training.parametrisations import WRITERS

        deltas = []
        for name, module, _ in places(self.lm.model, WRITERS, range(LAYERS)):
            outer, inner = shape(module) or (0, 0)
            down = self.rng.standard_normal((2, inner)).astype(np.float32) * 0.2
            up = self.rng.standard_normal((outer, 2)).astype(np.float32) * 0.2
            deltas.append(LowRankDelta(module=name, down=down, up=up))
        steering = Steering(deltas=tuple(deltas))

        def change(c: float) -> Any:
            return self.plain.added({d.module: c * d.up @ d.down for d in deltas})

        return max(self._scored(steering, change), self._written(steering, change(1.0)))

    def heads(self) -> float:
        """What the heads give to the output projection, and that the projection's parts add up to what it gives."""
        from bench.backends.hf.modules import attention_output, blocks

        for layer in range(LAYERS):
            attention_output(blocks(self.lm.model)[layer])  # every block must have one
        layer = LAYERS - 1
        module = attention_output(blocks(self.lm.model)[layer])
        name = next(name for name, one in self.lm.model.named_modules() if one is module)
        own: Any = self.plain.model.get_submodule(name)
        weights, worst = self.lm.output_projection(layer), 0.0
        for read, ids in zip(self.lm.activations(QUESTIONS, [layer], site="heads"), self.ids, strict=True):
            given, out = (self.plain.inner(own, ids, side).numpy() for side in (True, False))
            z = read.values[layer]
            bias = getattr(own, "bias", None)
            shifts = np.einsum("hnd,tnd->th", weights, z.reshape(len(z), *weights.shape[1:]))
            shifts = shifts if bias is None else shifts + bias.numpy()
            worst = max(worst, _apart(z, given[len(ids) - len(z) :]), _apart(shifts, out[len(ids) - len(z) :]))
        return worst

    def gradients(self) -> float:
        import torch

        readout = self.direction()
        found = self.lm.gradients(QUESTIONS[:2], 1, readout)
        worst = 0.0
        for own, ids in zip(found, self.ids, strict=False):
            leaf = self.plain.inner(self.plain.blocks[1], ids)[None].requires_grad_(True)
            last: list[Any] = []

            def keep(_: Any, __: Any, output: Any, last: list[Any] = last) -> None:
                last.append(output[0] if isinstance(output, tuple | list) else output)

            handle = self.plain.blocks[-1].register_forward_hook(keep)
            try:
                with self.plain.changed(self.plain.blocks[1], lambda h, leaf=leaf: leaf, 0), torch.enable_grad():
                    self.plain.logits(ids)
                    right = torch.autograd.grad((last[0][0, -1] @ _tensor(readout)), leaf)[0][0].numpy()
            finally:
                handle.remove()
            worst = max(worst, _apart(own, right[len(ids) - len(own) :]))
        return worst

    def training(self) -> float:
        """A small LoRA fit by the method's own settings: what it learnt gives in training, and as a steering, what the
        reference gives with its changes in the weights."""
        import torch

        from bench.core.interfaces import Context
        from bench.core.registry import build
        from bench.run.contract import BUDGET, example_train
        from bench.training.changes.base import RowPlan
        from bench.training.texts import Text
        from bench.training.trainer import Group

        method = build("method", "lora", {})
        train = example_train()
        ctx = Context(self.lm, dataclasses.replace(BUDGET, tokens=0), trains=(train,))
        group = Group(ctx, "lora", [train], method.form, method.goal, method.recipe(ctx))
        with torch.inference_mode(False), torch.enable_grad():
            fitted = group.fit()[0]
        texts = [Text(one.messages[:-1], one.messages[-1][1]) for one in train.positives[:3]]
        numbers = [number for text in texts if (number := group.texts.add(text)) is not None]
        each = torch.zeros(len(numbers), dtype=torch.long)
        rows = RowPlan(each, torch.ones(len(numbers)), torch.zeros(len(numbers), dtype=torch.bool))
        with torch.no_grad():
            found = group.texts.run(numbers, group.change, rows).total.tolist()
        steering = fitted.change.steering(0)
        deltas = {d.module: np.asarray(d.factors()[0] @ d.factors()[1]) for d in steering.deltas}  # type: ignore[operator]
        if not any(change.any() for change in deltas.values()):
            raise AssertionError("nothing was learnt")
        worst = 0.0
        with self.plain.added(deltas):
            for text, total in zip(texts, found, strict=True):
                ids = self.lm.encode(text.prompt)
                target = self.lm.encode(text.prompt, text.response)[len(ids) :]
                worst = max(worst, abs(float(self.plain.logprobs(ids, target).mean()) - total / len(target)))
        return worst

    def _states(self, module: Any, change: Callable[[float], Callable[[Any], Any]]) -> Callable[[float], Any]:
        return lambda c: self.plain.changed(module, change(c), self.begin)

    def _scored(self, steering: Any, change: Callable[[float], Any]) -> float:
        """Log-probabilities of one batch: each question bare, at strength 1, and at -1/2."""
        from bench.core.values import Request

        strengths = (0.0,) if steering is None else (0.0, 1.0, -0.5)
        cells = [(i, c) for i in range(len(QUESTIONS)) for c in strengths]
        asked = [Request(QUESTIONS[i], steering.scaled(c) if c else None, target=TARGET) for i, c in cells]
        found = dict(self.lm.logprobs(asked))
        worst, moved = 0.0, 0.0
        for k, (i, c) in enumerate(cells):
            with change(c) if c else nullcontext():
                right = self.plain.logprobs(self.ids[i], self.target)
            worst = max(worst, float(np.abs(right - found[k].logprobs).max()))
            moved = max(
                moved, float(np.abs(np.subtract(found[k].logprobs, found[k - k % len(strengths)].logprobs)).max())
            )
        if steering is not None and moved == 0:
            raise AssertionError("the steering changed nothing")
        return worst

    def _written(self, steering: Any, change: Any) -> float:
        """0 where greedy texts are equal, else how far the reference's token was ahead where they part."""
        from bench.core.values import Request, Sampling

        asked = [Request(question, steering, Sampling(WRITTEN, 0.0)) for question in QUESTIONS]
        found, worst, tokenizer = dict(self.lm.generate(asked)), 0.0, self.lm.tokenizer
        with change:
            for i, ids in enumerate(self.ids):
                right, ahead = self.plain.written(ids, WRITTEN, tokenizer.eos_token_id)
                texts = [tokenizer.decode(right[:k], skip_special_tokens=True) for k in range(len(right) + 1)]
                if found[i].text != texts[-1]:
                    parted = next(k for k, text in enumerate(texts) if not found[i].text.startswith(text))
                    worst = max(worst, *ahead[max(0, parted - 2) : parted])
        return worst


CHECKS: dict[str, Callable[[Examined], float]] = {
    "bare": Examined.bare,
    "text": Examined.text,
    "states": Examined.states,
    "batch": Examined.batch,
    "c = 0": Examined.zero,
    "add": Examined.add,
    "project": Examined.project,
    "clamp": Examined.clamp,
    "attn": Examined.attention,
    "mlp": Examined.feed_forward,
    "adapter": Examined.adapter,
    "heads": Examined.heads,
    "gradients": Examined.gradients,
    "training": Examined.training,
}
"""What is compared; each gives the largest difference, raises `BenchError` where the engine refuses, and anything else
where it is wrong."""


def _tensor(value: Array) -> Any:
    import torch

    return torch.from_numpy(np.asarray(value, np.float32))


def _apart(found: Array, right: Array) -> float:
    return float((np.linalg.norm(found - right, axis=-1) / np.maximum(np.linalg.norm(right, axis=-1), 1e-9)).max())


def examine(kind: str, seed: int) -> Record:
    """Everything about one architecture: `apart` by check, `refused` by check with the line, `wrong` lines."""
    import torch

    from bench.backends.hf.modules import check_states

    torch.set_num_threads(1)
    record: Record = {"kind": kind, "apart": {}, "refused": {}, "wrong": []}
    with tempfile.TemporaryDirectory() as name:
        build(Path(name), kind, seed)
        try:
            examined = Examined(Path(name), seed)
            record["class"] = type(examined.lm.model).__name__
            if faults := check_states(examined.lm.model):
                record["refused"] = {"all": faults[0]}
                return record
        except BenchError as error:
            record["refused"] = {"all": str(error)}
            return record
        for check, compare in CHECKS.items():
            try:
                found = compare(examined)
                record["apart"][check] = float(f"{found:.1e}")
                if not found < CLOSE:
                    record["wrong"].append(f"{check}: {found:.2g} apart")
            except BenchError as error:
                record["refused"][check] = str(error)
            except Exception as error:  # a fault of the engine or of the comparison: told as it is
                place = traceback.extract_tb(error.__traceback__)[-1]
                where = f"{Path(place.filename).name}:{place.lineno}"
                record["wrong"].append(f"{check}: {type(error).__name__} at {where}: {str(error).splitlines()[:1]}")
    return record


def apart(kind: str, seed: int) -> Record:
    """`examine` in a process of its own: a crash or a hang is that architecture's."""
    import bench.backends.hf.cache  # what every one of them loads
    import bench.training.trainer  # noqa: F401

    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        try:
            record = examine(kind, seed)
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            record = {"kind": kind, "apart": {}, "refused": {}}
            record["wrong"] = [f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}: {error}"[:300]]
        with os.fdopen(writer, "w") as file:
            file.write(json.dumps(record))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        said = file.read()
    _, status = os.waitpid(child, 0)
    ended = f"ended by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "said nothing"
    found: Record = json.loads(said) if said else {"kind": kind, "apart": {}, "refused": {}, "wrong": [ended]}
    return found


def count(scale: float, seed: int) -> list[Count]:
    """At `scale` 1 the table is written, as it grows; a part of the families leaves it as it is."""
    import transformers

    kinds = KINDS[: max(1, round(scale * len(KINDS)))]
    rows: list[Record] = []
    for kind in kinds:
        rows.append(apart(kind, seed))
        if len(kinds) == len(KINDS):
            write_json(TABLE, {"transformers": transformers.__version__, "seed": seed, "close": CLOSE, "rows": rows})
    whole = [row for row in rows if "all" in row["refused"]]
    taken = [row for row in rows if row not in whole]
    compared = sum(len(row["apart"]) for row in taken)
    worst = max((value for row in taken for value in row["apart"].values()), default=0.0)
    lines = sum(len(row["refused"]) for row in taken)
    names = ", ".join(row["kind"] for row in whole)
    return [
        Count(
            "architectures, tiny and random, under the `hf` engine and under transformers alone",
            len(rows),
            sum(bool(row["wrong"]) for row in rows),
            f"another number, text, state or gradient, a traceback, an edit that does nothing; {len(taken)} run "
            f"({compared} comparisons, worst {worst:.0e}; {lines} parts refused in a line), {len(whole)} are refused "
            f"whole: {names}",
        )
    ]


if __name__ == "__main__":
    for own in sys.argv[1:] or KINDS:
        begun = time.monotonic()
        print(json.dumps(apart(own, 0) | {"seconds": round(time.monotonic() - begun, 1)}), flush=True)
