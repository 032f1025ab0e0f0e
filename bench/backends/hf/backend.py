"""Any transformers causal language model, steered by forward hooks, each row with its own steering.

Invariant: a request's answer depends on the request alone: positions count from the row's own first
token, sampling noise comes from the request's seed, and a batch only changes speed (exactly so in
fp32; in bf16 rounding differs with the batch's shape).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from bench.backends.hf import attention, linear
from bench.backends.hf.batches import Batches
from bench.backends.hf.chat import Chat
from bench.backends.hf.gradients import block_gradient
from bench.backends.hf.hooks import Applied
from bench.backends.hf.modules import attention_output, blocks, read_blocks
from bench.backends.hf.prefix import prefix_groups
from bench.backends.hf.sampling import draw, halt
from bench.backends.hf.scoring import Divergence, Scored, diverge, edited, reads_trees, score
from bench.backends.models import Model, hush, pick_dtype
from bench.core.content import Array, digest
from bench.core.errors import BenchError
from bench.core.interfaces import Backend, Prompted, ReadSite
from bench.core.registry import backend, table
from bench.core.values import Activations, Completion, Request, Sampling, TargetScore

if TYPE_CHECKING:
    from bench.backends.hf import cache


@backend("hf")
class HFBackend(Backend):
    """`transformers` in this process; the weights load on first use."""

    kernels = (Applied, Chat, draw, read_blocks, block_gradient)
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

    @property
    def can(self) -> frozenset[str]:
        """Every registered kind of edit, those of plugins too, at every site."""
        return frozenset({"prompt", "gate", "delta", "site:attn", "site:mlp", "train", *table("edit")})

    @cached_property
    def chat(self) -> Chat:
        return Chat(self.source)

    @property
    def batches(self) -> Batches:
        return Batches(self.batch, self.tokens, self.tokenizer.pad_token_id, self.model.device)

    @property
    def tokenizer(self) -> Any:
        return self.chat.tokenizer

    def header(self, ids: Sequence[int]) -> int:
        return self.chat.header(ids)

    @property
    def template_prefix(self) -> int:
        """Tokens that every chat without a system message of its own begins with, at least 1."""
        return self.chat.template_prefix

    def encode(self, prompt: Prompted, tail: str = "") -> list[int]:
        return self.chat.encode(prompt, tail)

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

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        yield from self.write([self.chat.steered(request) for request in requests], requests)

    @torch.inference_mode()
    def write(
        self, prompts: Sequence[Sequence[int]], requests: Sequence[Request], stop: Sequence[str] = ()
    ) -> Iterator[tuple[int, Completion]]:
        """`generate` of prompts given as ids; a row ends where its text holds one of `stop`."""
        for sampling in dict.fromkeys(request.sampling for request in requests):
            own = [i for i, request in enumerate(requests) if request.sampling == sampling]
            for prefix, group in self._fronts(own, requests, prompts, sampling.max_new_tokens):
                totals = [len(prompts[i]) + sampling.max_new_tokens for i in group]
                # A front that was read takes memory for keys and values, but for no activations any more.
                lengths = [max(total - _length(prefix), total // 4) for total in totals]
                for batch in self.batches.split(lengths):
                    chosen = [group[k] for k in batch]
                    yield from self._generate(chosen, requests, prompts, sampling, stop, prefix)

    def _fronts(
        self, own: Sequence[int], requests: Sequence[Request], prompts: Sequence[Sequence[int]], more: int
    ) -> Iterator[tuple[cache.Prefix, list[int]]]:
        """The requests `own` in groups, each with what its prompts begin with, read once: without an edit only, and
        where the model sees a row of the prompt and `more` tokens as a mask says."""
        from bench.backends.hf import cache  # loads transformers

        bare: list[int] = []
        rest: list[int] = []
        for i in own:
            plain = not edited(requests[i]) and reads_trees(self.model, len(prompts[i]) + more)
            (bare if plain else rest).append(i)
        for length, group in prefix_groups([prompts[i] for i in bare]):
            members = [bare[k] for k in group]
            prefix = cache.read(self.model, prompts[members[0]][:length]) if length else ()
            if prefix:
                yield prefix, members
            else:
                rest += members
        yield (), sorted(rest)

    def _generate(
        self,
        chosen: list[int],
        requests: Sequence[Request],
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        stop: Sequence[str],
        prefix: cache.Prefix,
    ) -> Iterator[tuple[int, Completion]]:
        from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

        from bench.backends.hf import cache  # loads transformers

        rows = [prompts[i] for i in chosen]
        inputs, pads = self.batches.pad(rows, _length(prefix))
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
        seeds = torch.tensor([requests[i].seed for i in chosen], dtype=torch.int64)
        drawn = LogitsProcessorList([draw(sampling, seeds, width)])
        steerings, headers = [requests[i].steering for i in chosen], list(map(self.chat.header, rows))
        applied = Applied(self.model, steerings, list(map(len, rows)), pads, headers)
        with applied:
            output = self.model.generate(
                **inputs,
                generation_config=config,
                logits_processor=drawn,
                stopping_criteria=StoppingCriteriaList([halt(self.tokenizer, stop, width)] if stop else []),
                **cache.cache(self.model, width + sampling.max_new_tokens, prefix, len(chosen)),
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
                    positions_edited=applied.positions_edited(row, tokens),
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
        prompts = [self.chat.steered(request) for request in requests]
        targets = [self.chat.continued(request.target) for request in requests]
        if empty := [i for i, target in enumerate(targets) if not target]:
            raise BenchError(f"request {empty[0]} has no target tokens to score")
        yield from self.score(prompts, targets, requests)

    @torch.inference_mode()
    def score(
        self, prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], requests: Sequence[Request]
    ) -> Iterator[tuple[int, Scored]]:
        """`logprobs` of prompts and targets given as ids, under the requests' steerings; equal prompts share rows."""
        yield from score(self.model, self.chat.header, self.batches, requests, prompts, targets)

    @torch.inference_mode()
    def diverge(self, requests: Sequence[Request]) -> Iterator[tuple[int, Divergence]]:
        """What each request's steering, its prompt edit included, does to the tokens of its target.

        At every target token (those before it given), KL(steered || bare) over the whole vocabulary. The
        bare model sees the request's own prompt.
        """
        targets = [self.chat.continued(request.target) for request in requests]
        steered = [self.chat.steered(request) for request in requests]
        bare = [self.chat.steered(replace(request, steering=None)) for request in requests]
        steerings = [request.steering for request in requests]
        yield from diverge(self.model, self.chat.header, self.batches, steerings, steered, bare, targets)

    @torch.inference_mode()
    def activations(
        self, texts: Sequence[Prompted], layers: Sequence[int], tokens: int = 0, site: ReadSite = "resid"
    ) -> list[Activations]:
        rows, starts, skips = self.chat.readable(texts, tokens)
        found: list[Activations | None] = [None] * len(texts)
        for batch in self.batches.split(list(map(len, rows))):
            inputs, pads = self.batches.pad([rows[i] for i in batch])
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
        rows, _, skips = self.chat.readable(texts, tokens)
        found: dict[int, Array] = {}
        # Fewer rows than elsewhere: every intermediate above the block stays in memory.
        for batch in self.batches.split(list(map(len, rows)), max(1, self.batch // 4)):
            inputs, pads = self.batches.pad([rows[i] for i in batch])
            begins = [pad + skips[i] for pad, i in zip(pads, batch, strict=True)]
            gradient = block_gradient(self.model, layer, readout, begins, at, baseline, **inputs)
            for row, i in enumerate(batch):
                found[i] = gradient[row, begins[row] :].float().cpu().numpy()
        return [found[i] for i in range(len(texts))]


def _length(prefix: cache.Prefix) -> int:
    return prefix[0][0].shape[2] if prefix else 0
