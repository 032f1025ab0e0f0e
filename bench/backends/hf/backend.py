"""Any transformers causal language model, steered by forward hooks, each row with its own steering.

Invariant: a request's answer depends on the request alone: positions count from the row's own first
token, sampling noise comes from the request's seed, and a batch only changes speed (exactly so in
fp32; in bf16 rounding differs with the batch's shape).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jinja2 import TemplateError
from safetensors import SafetensorError
from torch import Tensor

from bench.backends.hf import attention, linear
from bench.backends.hf.gradients import block_gradient
from bench.backends.hf.hooks import Applied, attention_output, blocks, read_blocks
from bench.backends.hf.prefix import common, fronts
from bench.backends.hf.scoring import edited, reads_trees, score
from bench.backends.hf.tokens import halt
from bench.backends.models import Model, hush
from bench.core.interfaces import Backend, Prompted, ReadSite
from bench.core.registry import backend
from bench.core.values import (
    Activations,
    Array,
    BenchError,
    Completion,
    Message,
    Request,
    Sampling,
    TargetScore,
    digest,
)

if TYPE_CHECKING:
    from bench.backends.hf import cache


def pick_dtype(wish: str) -> torch.dtype:
    """`auto`: bf16 on a GPU or a processor with bf16 instructions, else fp32."""
    named = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
    if wish in named:
        return named[wish]
    return torch.bfloat16 if torch.cuda.is_available() or linear.fast() else torch.float32


def _draw(sampling: Sampling, noise: Tensor, width: int) -> Callable[[Tensor, Tensor], Tensor]:
    """A logits processor that draws each row's token by inverse CDF from its own `noise[row, step]`.

    Greedy `generate` then takes the drawn token; transformers' own sampler shares one generator over
    the batch, which would make a row's text depend on its neighbours.
    """

    def process(ids: Tensor, logits: Tensor) -> Tensor:
        if sampling.temperature == 0:
            return logits
        scores = logits.float() / sampling.temperature
        top, tokens = scores.topk(min(sampling.top_k or scores.shape[-1], scores.shape[-1]), dim=-1)
        total = torch.softmax(top, dim=-1).cumsum(-1)
        u = noise[:, ids.shape[1] - width, None].to(total) * total[:, -1:]
        choice = (total <= u).sum(-1, keepdim=True).clamp(max=top.shape[-1] - 1)
        only = torch.full_like(scores, -torch.inf)
        return only.scatter(-1, tokens.gather(-1, choice), 0.0)

    return process


@backend("hf")
class HFBackend(Backend):
    """`transformers` in this process; the weights load on first use."""

    can = frozenset({"prompt", "add", "project", "clamp", "lowrank", "gate", "delta", "site:attn", "site:mlp", "train"})
    kernels = (Applied, _draw)
    packages = ("torch", "transformers")
    endless = False
    """Answers run to their last allowed token: for timing, where every side must write as much."""

    def __init__(self, model: Model, dtype: str = "auto", batch: int = 64, tokens: int = 8192) -> None:
        self.source = model
        self.dtype = pick_dtype(dtype)
        self.batch = batch
        self.tokens = tokens

    @cached_property
    @torch.inference_mode(False)  # weights first asked for inside a pass could never be in a gradient
    def model(self) -> Any:
        from transformers import AutoModelForCausalLM

        hush()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(
                self.source.path, dtype=self.dtype, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, SafetensorError) as error:
            raise BenchError(f"cannot load model {self.source.name}: {str(error).splitlines()[0]}") from error
        # A slice of the last positions is not contiguous, and torch then copies the whole output
        # matrix once per row of the batch: most of the time of a short pass.
        model.get_output_embeddings().register_forward_pre_hook(lambda _, args: (args[0].contiguous(),))
        model = model.to(device).eval().requires_grad_(False)
        attention.use(model)
        linear.use(model)
        return model

    @property
    def module(self) -> Any:
        return self.model

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(
            self.source.path, local_files_only=True, trust_remote_code=False, padding_side="left"
        )
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def fingerprint(self) -> str:
        return digest("hf", self.source.weights, str(self.dtype), self.code())

    @property
    def layers(self) -> int:
        return len(blocks(self.model))

    @property
    def context(self) -> int:
        return int(self.model.config.get_text_config().max_position_embeddings)

    def count(self, prompt: Prompted) -> int:
        return len(self.encode(prompt))

    def output_projection(self, layer: int) -> Array:
        projection = attention_output(blocks(self.model)[layer])
        weight: Array = projection.weight.detach().float().cpu().numpy()
        config = self.model.config.get_text_config()
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return weight.reshape(weight.shape[0], -1, width)

    @cached_property
    def header(self) -> int:
        """Tokens at the front that every chat shares: what a read skips (at least the sink)."""
        one, two = (self.encode((("user", text),)) for text in ("1", "2"))
        shared = common(one, two)
        return max(1, shared) if shared < min(len(one), len(two)) else 1

    def render(self, messages: Sequence[Message]) -> str:
        """The chat as text, up to where the assistant begins to speak."""
        if not self.tokenizer.chat_template:
            return "\n".join(content for _, content in messages) + "\n"
        turns = [{"role": role, "content": content} for role, content in messages]
        try:
            text: str = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:  # some templates refuse a system turn
            if turns[0]["role"] != "system" or len(turns) < 2:
                raise BenchError(f"the chat template of {self.source.name} refuses this chat: {error}") from error
            merged = (turns[1]["role"], turns[0]["content"] + "\n\n" + turns[1]["content"])
            return self.render([merged, *messages[2:]])
        return text

    def encode(self, prompt: Prompted, tail: str = "") -> list[int]:
        """Token ids of a chat (plus the beginning of the answer) or of a raw text."""
        if isinstance(prompt, str):
            ids: list[int] = self.tokenizer(prompt + tail)["input_ids"]
            return ids
        special = not self.tokenizer.chat_template
        ids = self.tokenizer(self.render(prompt), add_special_tokens=special)["input_ids"]
        return ids + self._plain(tail)

    def _plain(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []

    def _steered(self, request: Request) -> list[int]:
        """Prompt ids of a request under its prompt edit."""
        prompt = request.prompt
        edit = request.steering.prompt if request.steering else None
        if edit is not None:
            if isinstance(prompt, str) and (edit.system or edit.shots):
                raise BenchError("a plain text has no place for a system message or examples: ask it as a chat")
            prompt = edit.prefix + prompt + edit.suffix if isinstance(prompt, str) else edit.apply(prompt)
        return self.encode(prompt, request.prefill)

    def _batches(self, lengths: Sequence[int], rows: int, weights: Sequence[int] | None = None) -> Iterator[list[int]]:
        """Indices in groups of similar length, at most `rows` (each counting its weight) and about `self.tokens`
        tokens each."""
        batch: list[int] = []
        spent = 0
        for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
            weight = weights[i] if weights else 1
            if batch and (spent + weight > rows or (len(batch) + 1) * lengths[batch[0]] > self.tokens):
                yield batch
                batch, spent = [], 0
            batch.append(i)
            spent += weight
        if batch:
            yield batch

    def _pad(self, rows: Sequence[Sequence[int]], front: int = 0) -> tuple[dict[str, Tensor], list[int]]:
        """`input_ids`, `attention_mask`, `position_ids`, padded on the left of all but the first `front` tokens, and
        the padding of each row."""
        width = max(map(len, rows))
        pads = [width - len(row) for row in rows]
        fill = self.tokenizer.pad_token_id
        ids = [[*row[:front], *[fill] * pad, *row[front:]] for pad, row in zip(pads, rows, strict=True)]
        index = torch.arange(width)[None] - torch.tensor(pads)[:, None]
        index = torch.where(torch.arange(width) < front, torch.arange(width), index.masked_fill(index < front, -1))
        inputs = {
            "input_ids": torch.tensor(ids),
            "attention_mask": (index >= 0).long(),
            "position_ids": index.clamp(min=0),
        }
        return {name: value.to(self.model.device) for name, value in inputs.items()}, pads

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        yield from self._write(requests, [self._steered(request) for request in requests])

    def _write(
        self, requests: Sequence[Request], prompts: Sequence[list[int]], stop: Sequence[str] = ()
    ) -> Iterator[tuple[int, Completion]]:
        """Answers to prompts given as ids; a row ends where its text holds one of `stop`."""
        for sampling in dict.fromkeys(request.sampling for request in requests):
            own = [i for i, request in enumerate(requests) if request.sampling == sampling]
            for front, group in self._fronts(own, requests, prompts, sampling.max_new_tokens):
                totals = [len(prompts[i]) + sampling.max_new_tokens for i in group]
                # A front that was read takes memory for keys and values, but for no activations any more.
                lengths = [max(total - _length(front), total // 4) for total in totals]
                for batch in self._batches(lengths, self.batch):
                    chosen = [group[k] for k in batch]
                    yield from self._generate(chosen, requests, prompts, sampling, stop, front)

    def _fronts(
        self, own: Sequence[int], requests: Sequence[Request], prompts: Sequence[list[int]], more: int
    ) -> Iterator[tuple[cache.Front, list[int]]]:
        """The requests `own` in groups, each with what its prompts begin with, read once: without an edit only, and
        where the model sees a row of the prompt and `more` tokens as a mask says."""
        from bench.backends.hf import cache  # loads transformers

        bare: list[int] = []
        rest: list[int] = []
        for i in own:
            plain = not edited(requests[i]) and reads_trees(self, len(prompts[i]) + more)
            (bare if plain else rest).append(i)
        for length, group in fronts([prompts[i] for i in bare]):
            members = [bare[k] for k in group]
            front = cache.read(self.model, prompts[members[0]][:length]) if length else ()
            if front:
                yield front, members
            else:
                rest += members
        yield (), sorted(rest)

    def _generate(
        self,
        chosen: list[int],
        requests: Sequence[Request],
        prompts: Sequence[list[int]],
        sampling: Sampling,
        stop: Sequence[str],
        front: cache.Front,
    ) -> Iterator[tuple[int, Completion]]:
        from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

        from bench.backends.hf import cache  # loads transformers

        rows = [prompts[i] for i in chosen]
        inputs, pads = self._pad(rows, _length(front))
        inputs.pop("position_ids")  # generate derives them from the mask
        width = inputs["input_ids"].shape[1]
        ends = self._ends()
        config = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=sampling.max_new_tokens,
            do_sample=False,
            repetition_penalty=1.0,  # a model's own default would hide collapse
            eos_token_id=sorted(ends),
            pad_token_id=self.tokenizer.pad_token_id,
            use_cache=True,  # whatever a checkpoint was saved with
        )
        noise = np.stack([np.random.default_rng(requests[i].seed).random(sampling.max_new_tokens) for i in chosen])
        drawn = LogitsProcessorList([_draw(sampling, torch.from_numpy(noise), width)])
        applied = Applied(self.model, [requests[i].steering for i in chosen], list(map(len, rows)), pads, self.header)
        with applied:
            output = self.model.generate(
                **inputs,
                generation_config=config,
                logits_processor=drawn,
                stopping_criteria=StoppingCriteriaList([halt(self.tokenizer, stop, width)] if stop else []),
                **cache.cache(self.model, width + sampling.max_new_tokens, front, len(chosen)),
            )
        for row, i in enumerate(chosen):
            ids = output[row, width:].tolist()
            end = next((n for n, token in enumerate(ids) if token in ends), None)
            tokens = len(ids) if end is None else end + 1
            yield (
                i,
                Completion(
                    text=self.tokenizer.decode(ids[:end], skip_special_tokens=True),
                    tokens=tokens,
                    prompt_tokens=len(rows[row]),
                    touched=applied.touched(row, tokens),
                    finish="length" if end is None else "stop",
                ),
            )

    def _ends(self) -> set[int]:
        if self.endless:
            return {self.model.config.get_text_config().vocab_size}  # no token has it
        found = self.model.generation_config.eos_token_id
        listed = found if isinstance(found, list) else [found]
        return {token for token in (*listed, self.tokenizer.eos_token_id) if token is not None}

    @torch.inference_mode()
    def logprobs(self, requests: Sequence[Request]) -> Iterator[tuple[int, TargetScore]]:
        prompts = [self._steered(request) for request in requests]
        targets = [self._plain(request.target) for request in requests]
        if empty := [i for i, target in enumerate(targets) if not target]:
            raise BenchError(f"request {empty[0]} has no target tokens to score")
        yield from score(self, requests, prompts, targets)

    def _readable(self, texts: Sequence[Prompted], tokens: int) -> tuple[list[list[int]], list[int], list[int]]:
        """Per text its ids, cut, the index where the answer begins, and how many ids a read skips."""
        rows: list[list[int]] = []
        starts: list[int] = []
        for text in texts:
            if isinstance(text, str) or text[-1][0] != "assistant":
                rows.append(self.encode(text))
                starts.append(len(rows[-1]))
            else:
                starts.append(len(self.encode(text[:-1])))
                rows.append(self.encode(text[:-1], text[-1][1]))
        skips = [1 if isinstance(text, str) else self.header for text in texts]
        if tokens:
            rows = [row[: skip + tokens] for row, skip in zip(rows, skips, strict=True)]
        if short := [i for i, (row, skip) in enumerate(zip(rows, skips, strict=True)) if len(row) <= skip]:
            raise BenchError(f"text {short[0]} has no token after the shared beginning: nothing to read")
        return rows, starts, skips

    @torch.inference_mode()
    def activations(
        self, texts: Sequence[Prompted], layers: Sequence[int], tokens: int = 0, site: ReadSite = "resid"
    ) -> list[Activations]:
        rows, starts, skips = self._readable(texts, tokens)
        found: list[Activations | None] = [None] * len(texts)
        for batch in self._batches(list(map(len, rows)), self.batch):
            inputs, pads = self._pad([rows[i] for i in batch])
            outputs = read_blocks(self.model, layers, site, **inputs)
            for row, i in enumerate(batch):
                begin = pads[row] + skips[i]
                values = {layer: h[row, begin:].float().cpu().numpy() for layer, h in outputs.items()}
                found[i] = Activations(values, min(starts[i], len(rows[i])) - skips[i])
        return [read for read in found if read is not None]

    def gradients(
        self,
        texts: Sequence[Prompted],
        layer: int,
        readout: Array,
        at: Sequence[float] = (1.0,),
        baseline: Array | None = None,
        tokens: int = 0,
    ) -> list[Array]:
        rows, _, skips = self._readable(texts, tokens)
        found: dict[int, Array] = {}
        # Fewer rows than elsewhere: every intermediate above the block stays in memory.
        for batch in self._batches(list(map(len, rows)), max(1, self.batch // 4)):
            inputs, pads = self._pad([rows[i] for i in batch])
            begins = [pad + skips[i] for pad, i in zip(pads, batch, strict=True)]
            gradient = block_gradient(self.model, layer, readout, begins, at, baseline, **inputs)
            for row, i in enumerate(batch):
                found[i] = gradient[row, begins[row] :].float().cpu().numpy()
        return [found[i] for i in range(len(texts))]


def _length(front: cache.Front) -> int:
    return front[0][0].shape[2] if front else 0
