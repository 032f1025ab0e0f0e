"""One call of a vLLM engine: requests go in as others come out, with their steerings ahead of them.

Invariant: a steering is in the engine before the first request that names it, and nothing of a call is
left in the engine when it ends, read to its end or not.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from bench.backends.vllm.packed import FIELD
from bench.backends.vllm.wire import Wire
from bench.core.content import digest
from bench.core.errors import BenchError
from bench.core.steering import Steering
from bench.core.values import Request


class Owner(Protocol):
    """What a run needs of the backend it belongs to."""

    rows: int

    @property
    def ends(self) -> list[int]: ...
    @property
    def width(self) -> int: ...
    def begins(self, ids: Sequence[int], request: Request) -> int: ...
    def number(self) -> int: ...
    def lora(self, steering: Steering) -> Any: ...


class Run:
    """One call of `generate`: requests go in as others come out, with their steerings ahead of them."""

    def __init__(
        self,
        owner: Owner,
        engine: Any,
        requests: Sequence[Request],
        prompts: Sequence[list[int]],
        options: dict[str, Any],
    ) -> None:
        self.owner, self.engine, self.options = owner, engine, options
        self.requests, self.prompts = requests, prompts
        self.wire = Wire(owner.width)
        self.flying: dict[str, tuple[int, int]] = {}
        self.done: list[tuple[int, int, Any]] = []
        self.flushed = time.monotonic()

    def all(self) -> Iterator[tuple[int, Any, tuple[int, ...]]]:
        # Adapters change places in the engine: requests of one stand together.
        waiting = deque(sorted(range(len(self.requests)), key=self._adapter))
        while waiting or self.flying:
            room = 2 * self.owner.rows - len(self.flying)
            if waiting and room >= min(self.owner.rows, len(waiting)):
                self._submit([waiting.popleft() for _ in range(min(room, len(waiting)))])
            for output in self.engine.step():
                if output.finished:
                    self.done.append((*self.flying.pop(output.request_id), output))
            late = time.monotonic() - self.flushed > 1.0
            if self.done and (late or len(self.done) >= 64 or not self.flying):
                yield from self._flush()

    def close(self) -> None:
        """Leave an engine that knows nothing of this call, also when it was not read to its end."""
        if self.flying:
            self.engine.abort_request(list(self.flying))
        self.engine.collective_rpc("bench_clear")

    def _adapter(self, i: int) -> str:
        steering = self.requests[i].steering
        return digest(*steering.deltas) if steering is not None and steering.deltas else ""

    def _submit(self, chosen: list[int]) -> None:
        keys = {}
        for i in chosen:
            steering = self.requests[i].steering
            if steering is not None and steering.edits:
                keys[i] = self.wire.add(steering)
        if message := self.wire.message():
            self.engine.collective_rpc("bench_register", args=(message,))
        for i in chosen:
            self._add(i, keys.get(i))

    def _add(self, i: int, key: int | None) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        request, ids = self.requests[i], self.prompts[i]
        steering, sampling = request.steering, request.sampling
        number = self.owner.number()
        prompt: dict[str, Any] = {"prompt_token_ids": ids}
        extra: dict[str, Any] = {}
        if steering is not None and steering.edits:
            # Blocks of the prefix cache are keyed by tokens alone: the salt keeps steered ones apart.
            prompt["cache_salt"] = f"{steering.internal_digest}{request.settled or ''}"
            extra["extra_args"] = {FIELD: [number, key, len(ids), self.owner.begins(ids, request)]}
            if any(edit.gate for edit in steering.edits):  # a gate reads the whole prompt
                extra["skip_reading_prefix_cache"] = True
        if sampling.temperature:
            # torch's generator on a processor reads 32 bits of a seed: fold the others in.
            extra |= {"top_k": sampling.top_k or -1, "seed": (request.seed ^ request.seed >> 32) % 2**32}
        params: dict[str, Any] = {
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "stop_token_ids": self.owner.ends,
            "ignore_eos": True,  # the stop tokens are all there are
            "detokenize": False,
            "output_kind": RequestOutputKind.FINAL_ONLY,
        }
        params |= extra | self.options
        lora = self.owner.lora(steering) if steering is not None and steering.deltas else None
        self.engine.add_request(str(number), prompt, SamplingParams(**params), lora_request=lora)
        self.flying[str(number)] = (i, number)

    def _flush(self) -> Iterator[tuple[int, Any, tuple[int, ...]]]:
        """Ask the worker what it did for the finished requests, and hand them out."""
        done, self.done = self.done, []
        steered = [part for part in done if (s := self.requests[part[0]].steering) is not None and s.edits]
        found: dict[int, Any] = {}
        if steered:
            numbers = [number for _, number, _ in steered]
            # The last token is drawn and never run.
            limits = [len(o.prompt_token_ids) + len(o.outputs[0].token_ids) - 1 for _, _, o in steered]
            replies = self.engine.collective_rpc("bench_touched", args=(numbers, limits))[0]
            found = dict(zip(numbers, replies, strict=True))
        self.flushed = time.monotonic()
        for i, number, output in done:
            yield i, output, self._proof(i, found.get(number, ()), output)

    def _proof(self, i: int, reply: Any, output: Any) -> tuple[int, ...]:
        """The positions each edit touched; raises where one touched none that should have."""
        steering, prompt = self.requests[i].steering or Steering(), len(output.prompt_token_ids)
        if isinstance(reply, str):
            raise BenchError(f"request {i} with {prompt} prompt tokens: {reply}")
        for edit, count in zip(steering.edits, reply, strict=True):
            waits = edit.gate is not None or (edit.span.part == "response" and len(output.outputs[0].token_ids) <= 1)
            if count == 0 and not waits:
                raise BenchError(
                    f"{type(edit).__name__} at layer {edit.layer} touched no position of a request "
                    f"with {prompt} prompt tokens"
                )
        return tuple(reply)
