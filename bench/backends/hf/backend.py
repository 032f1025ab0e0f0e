"""Any transformers causal language model, steered by forward hooks, each row with its own steering.

Invariant: a request's answer depends on the request alone: positions count from the row's own first
token, sampling noise comes from the request's seed, and a batch only changes speed (exactly so in
fp32; in bf16 rounding differs with the batch's shape).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from safetensors import SafetensorError

from bench.backends import devices
from bench.backends.hf import attention, linear, probe
from bench.backends.hf.batches import Batches
from bench.backends.hf.chat import Chat, Second, prompt_of
from bench.backends.hf.gradients import block_gradient
from bench.backends.hf.hooks import Applied
from bench.backends.hf.memory import Memory, room
from bench.backends.hf.modules import blocks, check_states, head_weights, read_blocks
from bench.backends.hf.prefix import prefix_groups
from bench.backends.hf.sampling import Draw, Paired, halt
from bench.backends.hf.scoring import Scored, diverge, edited, reads_trees, score
from bench.backends.models import Model, hush, pick_dtype
from bench.core.content import Array, digest
from bench.core.edits import KEPT
from bench.core.errors import BenchError, said
from bench.core.interfaces import Backend, Prompted, ReadSite
from bench.core.paths import cache_root
from bench.core.registry import backend, table
from bench.core.values import Activations, Completion, Divergence, Request, Sampling, TargetScore

if TYPE_CHECKING:
    from bench.backends.hf import cache
    from bench.backends.hf.below import Below


READ = 64, 8192
"""Rows and tokens of texts that are read at a time."""
WRITTEN = 256
"""Rows of answers: each is one token long in a pass, so that only many of them keep a product busy."""
ALONE: Mapping[int, Second] = MappingProxyType({})
"""No request has a second stream (`Chat.against`)."""


@backend("hf")
class HFBackend(Backend):
    """`transformers` in this process; the weights load on first use."""

    kernels = (Applied, Chat, Draw, read_blocks, block_gradient)
    packages = ("torch", "transformers")
    endless = False
    """Answers run to their last allowed token: for timing, where every side must write as much."""

    def __init__(self, model: Model, dtype: str = "auto", batch: int | None = None, tokens: int | None = None) -> None:
        """At most `batch` rows and `tokens` tokens at a time; without them `READ` of texts, and of answers `WRITTEN` as
        far as they fit."""
        self.source = model
        self.dtype = pick_dtype(dtype)
        self.batch = batch or READ[0]
        self.tokens = tokens or READ[1]
        self.written = batch or WRITTEN
        self._most = tokens
        self._probed: dict[str, Any] = {}
        self._sizes: dict[tuple[int, str], int] = {}

    @property
    def place(self) -> str:
        return probe.place(self.source.weights, self.dtype, self.source.device_map)

    @cached_property
    def memory(self) -> Memory:
        """What this device takes of this model in one pass."""
        return Memory.of(probe.memory_file(self.place, "answer"))

    @cached_property
    def training_memory(self) -> Memory:
        """The same with what a gradient needs."""
        return Memory.of(probe.memory_file(self.place, "train"))

    def findings(self) -> dict[str, Any]:
        return {"chat": probe.told(self.chat)} | (self._probed or probe.kept(self.place))

    @cached_property
    @torch.inference_mode(False)  # weights first asked for inside a pass could never be in a gradient
    def model(self) -> Any:
        from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

        hush()
        spread: dict[str, Any] = {}
        if self.source.device_map:
            spread = {
                "device_map": self.source.device_map,
                "offload_folder": str(cache_root() / "offload" / digest(self.source.weights, str(self.dtype))),
            }
        local = {"local_files_only": True, "trust_remote_code": self.source.trusted}
        try:
            config: Any = AutoConfig.from_pretrained(self.source.path, **local)
            for part in (config, config.get_text_config()):  # what a checkpoint was saved with is no wish of the run's
                part.output_attentions, part.output_hidden_states = False, False
                part.return_dict, part.use_cache = True, True
            config._attn_implementation = attention.implementation(config)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                self.source.path,
                config=config,
                dtype=self.dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                **spread,
                **local,
            )
        except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError, SafetensorError) as error:
            raise BenchError(f"cannot load model {self.source.name}: {said(error)}") from error
        model, loading = loaded
        probe.refuse_unloaded(self.source.name, loading)
        model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
        # A slice of the last positions is not contiguous, and torch then copies the whole output
        # matrix once per row of the batch: most of the time of a short pass.
        model.get_output_embeddings().register_forward_pre_hook(lambda _, args: (args[0].contiguous(),))
        model = (model if spread else model.to(devices.best())).eval().requires_grad_(False)
        attention.use(model)
        linear.use(model)
        self._probed = probe.tried(self.source.name, model, self.chat, loading, self.place)
        if faults := check_states(model):
            raise BenchError(f"cannot run {self.source.name}: {faults[0]}")
        return model

    @property
    def module(self) -> Any:
        return self.model

    @property
    def can(self) -> frozenset[str]:
        """Every registered kind of edit, those of plugins too, at every site."""
        sites = (f"site:{site}" for site in ("attn", "mlp", *KEPT))
        train = set() if self.source.device_map else {"train"}  # a change lies on one device, with all that it changes
        return frozenset({"prompt", "score", "mix", "gate", "delta", "embeds", *train, *sites, *table("edit")})

    @cached_property
    def below(self) -> Below:
        from bench.backends.hf.below import Below  # loads transformers

        return Below(self.model)

    @cached_property
    def chat(self) -> Chat:
        return Chat(self.source)

    @property
    def batches(self) -> Batches:
        return Batches(self.batch, self.tokens, self._fill, devices.of(self.model), self.memory)

    @property
    def answers(self) -> Batches:
        """The same of answers."""
        tokens, pairs = room(self.model)
        most = self._most or max(self.tokens, tokens)
        return Batches(self.written, most, self._fill, devices.of(self.model), self.memory, pairs)

    @property
    def _fill(self) -> int:
        """What padding holds: it is masked, so that any token will do that the embedding has a row for."""
        rows = self.model.get_input_embeddings().weight.shape[0]
        own = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        return next((token for token in own if token is not None and token < rows), 0)

    @property
    def tokenizer(self) -> Any:
        return self.chat.tokenizer

    def header(self, ids: Sequence[int]) -> int:
        return self.chat.header(ids)

    def begins(self, ids: Sequence[int], request: Request) -> int:
        """The token of a request's row at which edits may begin."""
        return self.chat.begins(ids, request, prompt_of(request))

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
    def width(self) -> int:
        return int(self.model.config.get_text_config().hidden_size)

    def size(self, layer: int, site: str = "resid") -> int:
        if site not in KEPT:
            return self.width
        if (layer, site) not in self._sizes:
            (found,) = self.activations([(("user", "x"),)], [layer], 0, cast(ReadSite, site))
            self._sizes[layer, site] = found.values[layer].shape[1]
        return self._sizes[layer, site]

    @property
    def context(self) -> int:
        return self.chat.context

    def _refuse_longer(self, need: int) -> None:
        """Raise where a row has more tokens than the model has positions: a rotary one would answer, and not well."""
        if need > self.context:
            raise BenchError(f"a request needs {need:,} tokens of context, and {self.source.name} has {self.context:,}")

    def _opened(self, prompts: Sequence[Sequence[int]], requests: Sequence[Request]) -> list[Sequence[int]]:
        """Prompts with places for what the requests' steerings put in.

        Raises where one has no token before its last, and what is kept of that is to be changed.
        """
        for ids, request in zip(prompts, requests, strict=True):
            if request.steering and request.steering.parts and len(ids) < 2:
                raise BenchError("a prompt of one token: nothing of it is kept before its last token is read")
        more = [request.steering.inserted if request.steering else 0 for request in requests]
        return [self.chat.opened(ids, n) if n else ids for ids, n in zip(prompts, more, strict=True)]

    def count(self, prompt: Prompted) -> int:
        return len(self.encode(prompt))

    def output_projection(self, layer: int) -> Array:
        return head_weights(self.model, layer)

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        prompts = [self.chat.steered(request) for request in requests]
        yield from self.write(prompts, requests, against=self.chat.against(requests))

    @torch.inference_mode()
    def write(
        self,
        prompts: Sequence[Sequence[int]],
        requests: Sequence[Request],
        stop: Sequence[str] = (),
        against: Mapping[int, Second] = ALONE,
    ) -> Iterator[tuple[int, Completion]]:
        """`generate` of prompts given as ids; a row ends where its text holds one of `stop`."""
        prompts = self._opened(prompts, requests)
        widest = [max(len(prompt), len(against[i].ids) if i in against else 0) for i, prompt in enumerate(prompts)]
        for width, request in zip(widest, requests, strict=True):
            self._refuse_longer(width + request.sampling.max_new_tokens)
        for sampling in dict.fromkeys(request.sampling for request in requests):
            own = [i for i, request in enumerate(requests) if request.sampling == sampling]
            for prefix, group in self._fronts(own, requests, prompts, sampling.max_new_tokens):
                totals = [widest[i] + sampling.max_new_tokens for i in group]
                # A front that was read takes memory for keys and values, but for no activations any more.
                lengths = [max(total - _length(prefix), total // 4) for total in totals]

                def work(
                    batch: list[int],
                    sampling: Sampling = sampling,
                    prefix: cache.Prefix = prefix,
                    group: list[int] = group,
                ) -> Iterator[tuple[int, Completion]]:
                    return self._generate([group[k] for k in batch], requests, prompts, against, sampling, stop, prefix)

                yield from self.answers.each(lengths, work, streams=[1 + (i in against) for i in group])

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
        # What leaves low blocks as they are stands apart from what changes them, or none could be read once for all;
        # and what is read in two parts from what is read in one.
        groups: dict[tuple[bool, bool], list[int]] = {}
        for i in sorted(rest):
            steering = requests[i].steering
            parts = steering is not None and steering.parts
            groups.setdefault((self.below.until(steering) < 0, parts), []).append(i)
        yield from (((), groups[key]) for key in sorted(groups))

    def _generate(
        self,
        chosen: list[int],
        requests: Sequence[Request],
        prompts: Sequence[Sequence[int]],
        against: Mapping[int, Second],
        sampling: Sampling,
        stop: Sequence[str],
        prefix: cache.Prefix,
    ) -> Iterator[tuple[int, Completion]]:
        from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

        from bench.backends.hf import cache  # loads transformers

        mixed = [(row, against[i]) for row, i in enumerate(chosen) if i in against]
        # Second streams stand behind all first ones.
        second = {row: len(chosen) + k for k, (row, _) in enumerate(mixed)}
        rows = [*(prompts[i] for i in chosen), *(other.ids for _, other in mixed)]
        owners = [*chosen, *(chosen[row] for row in second)]
        steerings = [*(requests[i].steering for i in chosen), *(other.steering for _, other in mixed)]
        inputs, pads = self.batches.pad(rows, _length(prefix))
        places = inputs.pop("position_ids")  # generate derives them from the mask
        width = inputs["input_ids"].shape[1]
        ends = self._ends()
        config = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=sampling.max_new_tokens,
            do_sample=False,
            repetition_penalty=1.0,  # a model's own default would hide collapse
            eos_token_id=sorted(ends),
            pad_token_id=self._fill,
            use_cache=True,  # whatever a checkpoint was saved with
        )
        seeds = torch.tensor([requests[i].seed for i in owners], dtype=torch.int64)
        paired = (
            Paired([(row, second[row], other.mix) for row, other in mixed], devices.of(self.model)) if mixed else None
        )
        drawn = Draw(sampling, seeds, width, paired)
        edits = [*(prompt_of(requests[i]) for i in chosen), *(other.mix.against for _, other in mixed)]
        headers = [self.chat.begins(row, requests[i], edit) for i, row, edit in zip(owners, rows, edits, strict=True)]
        applied = Applied(self.model, steerings, list(map(len, rows)), pads, headers)
        keeps = any(steering.keeps for steering in applied.steerings)
        kept = cache.cache(self.model, width + sampling.max_new_tokens, prefix, len(rows), keeps)
        until = min(map(self.below.until, steerings))
        which = self.below.shared(rows, until) if kept and not prefix else None
        parts = any(steering.parts for steering in applied.steerings)  # then all of them
        begun = {name: value[:, : width - parts] for name, value in (inputs | {"position_ids": places}).items()}
        processors: list[Any] = [drawn]
        if keeps:
            processors.insert(0, cache.changing(self.model, applied, kept, width))
        with self.below.read_once(begun, which, until, kept), applied:
            if parts:
                cache.begin(self.model, applied, begun, kept)
            output = self.model.generate(
                **inputs,
                generation_config=config,
                logits_processor=LogitsProcessorList(processors),
                stopping_criteria=StoppingCriteriaList([halt(self.tokenizer, stop, width)] if stop else []),
                **kept,
            )
        real = drawn.real.tolist()
        for row, i in enumerate(chosen):
            ids = output[row, width:].tolist()
            end = next((n for n, token in enumerate(ids) if token in ends), None)
            tokens = len(ids) if end is None else end + 1
            if real[row] < tokens:
                raise self._unreal(requests[i])
            positions_edited = applied.positions_edited(row, tokens)
            if paired and row in second:
                applied.positions_edited(second[row], tokens)  # the other stream's are proven too
                positions_edited = (*positions_edited, paired.drawn(tokens))
            yield (
                i,
                Completion(
                    text=self.chat.answer(requests[i], ids[:end]),
                    tokens=tokens,
                    prompt_tokens=len(rows[row]),
                    positions_edited=positions_edited,
                    finish="length" if end is None else "stop",
                ),
            )

    def _unreal(self, request: Request) -> BenchError:
        """The error for a request whose numbers are none."""
        number = str(self.dtype).removeprefix("torch.")
        cause = "under this steering: a smaller coefficient" if edited(request) else "on this prompt"
        return BenchError(f"{self.source.name}: its logits are not finite in {number} {cause}, or --dtype float32")

    def _ends(self) -> frozenset[int]:
        if self.endless:
            return frozenset({self.model.config.get_text_config().vocab_size})  # no token has it
        return self.chat.ends

    @torch.inference_mode()
    def logprobs(self, requests: Sequence[Request]) -> Iterator[tuple[int, TargetScore]]:
        prompts = [self.chat.steered(request) for request in requests]
        targets = [self.chat.continued(request.target) for request in requests]
        if empty := [i for i, target in enumerate(targets) if not target]:
            raise BenchError(f"request {empty[0]} has no target tokens to score")
        yield from self.score(prompts, targets, requests, self.chat.against(requests))

    @torch.inference_mode()
    def score(
        self,
        prompts: Sequence[Sequence[int]],
        targets: Sequence[Sequence[int]],
        requests: Sequence[Request],
        against: Mapping[int, Second] = ALONE,
    ) -> Iterator[tuple[int, Scored]]:
        """`logprobs` of prompts and targets given as ids, under the requests' steerings; equal prompts share rows."""
        prompts = self._opened(prompts, requests)
        others = [(other.ids, targets[i]) for i, other in against.items()]
        for prompt, target in [*zip(prompts, targets, strict=True), *others]:
            self._refuse_longer(len(prompt) + len(target) - 1)  # the last token is asked for, not read
        for i, found in score(self.model, self.chat.header, self.batches, requests, prompts, targets, against):
            if not math.isfinite(found.total):
                raise self._unreal(requests[i])
            yield i, found

    @torch.inference_mode()
    def diverge(self, requests: Sequence[Request]) -> Iterator[tuple[int, Divergence]]:
        """What each request's steering, its prompt edit included, does to the tokens of its target.

        At every target token (those before it given), KL(steered || bare) over the whole vocabulary. The
        bare model sees the request's own prompt.
        """
        targets = [self.chat.continued(request.target) for request in requests]
        steered = self._opened([self.chat.steered(request) for request in requests], requests)
        bare = [self.chat.steered(replace(request, steering=None)) for request in requests]
        steerings = [request.steering for request in requests]
        against = self.chat.against(requests)
        for i, found in diverge(self.model, self.chat.header, self.batches, steerings, steered, bare, targets, against):
            if not (math.isfinite(found.kl) and math.isfinite(found.bare)):
                raise self._unreal(requests[i])
            yield i, found

    @torch.inference_mode()
    def activations(
        self, texts: Sequence[Prompted], layers: Sequence[int], tokens: int = 0, site: ReadSite = "resid"
    ) -> list[Activations]:
        from bench.backends.hf import cache  # loads transformers

        rows, starts, skips = self._readable(texts, tokens)

        def work(batch: list[int]) -> Iterator[tuple[int, Activations]]:
            inputs, pads = self.batches.pad([rows[i] for i in batch])
            with attention.doubled(self.model):
                read = cache.kept if site in KEPT else read_blocks
                outputs = read(self.model, layers, site, **inputs)
            for row, i in enumerate(batch):
                begin = pads[row] + skips[i]
                values = {layer: h[row, begin:].float().cpu().numpy() for layer, h in outputs.items()}
                if not all(np.isfinite(value).all() for value in values.values()):
                    raise self._unreal(Request(texts[i]))
                yield i, Activations(values, min(starts[i], len(rows[i])) - skips[i])

        found = dict(self.batches.each(list(map(len, rows)), work))
        return [found[i] for i in range(len(texts))]

    def _readable(self, texts: Sequence[Prompted], tokens: int) -> tuple[list[list[int]], list[int], list[int]]:
        found = self.chat.readable(texts, tokens)
        self._refuse_longer(max(map(len, found[0]), default=0))
        return found

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

        def work(batch: list[int]) -> Iterator[tuple[int, Array]]:
            inputs, pads = self.batches.pad([rows[i] for i in batch])
            begins = [pad + skips[i] for pad, i in zip(pads, batch, strict=True)]
            gradient = block_gradient(self.model, layer, readout, begins, at, baseline, **inputs)
            for row, i in enumerate(batch):
                yield i, gradient[row, begins[row] :].float().cpu().numpy()

        # Fewer rows than elsewhere: every intermediate above the block stays in memory.
        found = dict(self.batches.each(list(map(len, rows)), work, max(1, self.batch // 4)))
        return [found[i] for i in range(len(texts))]


def _length(prefix: cache.Prefix) -> int:
    return prefix[0][0].shape[2] if prefix else 0
