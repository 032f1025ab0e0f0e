"""Inspect's model provider `steer`: any of its evaluations on the steering behind a run's number.

Invariant: what is asked at once is answered in one batch, each row under its own steering, whichever concepts and
coefficients the models of an evaluation have; a setting that no engine here has is refused, never left out.

    inspect eval task.py --model steer/RUN -M concept=ocean -M coefficient=1.5
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
from anyio.lowlevel import RunVar
from inspect_ai.model import ChatMessage, GenerateConfig, ModelAPI, ModelOutput, ModelUsage, modelapi
from inspect_ai.tool import ToolChoice, ToolInfo

from bench.core.content import Message, digest
from bench.core.errors import BenchError, UsageError
from bench.core.interfaces import Backend
from bench.core.registry import load_plugin, plugin_files
from bench.core.values import Completion, Request, Sampling
from bench.results.last import find
from bench.results.runs import Run
from bench.run.engines import make_backend
from bench.run.export import strengths

MOST = 64
"""Requests that are under way at once, and so the rows of a batch."""
TOKENS = 512
"""New tokens of an answer where a task says nothing."""
APART = 0.02
"""Seconds to wait for requests that come together."""
TAKEN = frozenset({"temperature", "top_k", "max_tokens", "stop_seqs", "seed"})
"""Settings of Inspect that decide an answer here."""
ASIDE = frozenset(
    {"max_retries", "timeout", "attempt_timeout", "stream_idle_timeout", "max_connections", "adaptive_connections",
     "system_message", "parallel_tool_calls", "internal_tools", "max_tool_output", "cache_prompt", "fallback_models",
     "fail_on_refusal", "reasoning_history", "reasoning_summary", "extra_headers", "cache", "batch"}
)  # fmt: skip
"""Those that decide how a server is asked, or that Inspect sees to itself."""
NEUTRAL = {"top_p": 1, "num_choices": 1, "best_of": 1}
"""Others at which nothing is asked for, beside 0 and False; all others are refused."""


@dataclass
class Waiting:
    """A request, and then its answer or why there is none."""

    request: Request
    answer: Completion | None = None
    error: Exception | None = None

    @property
    def done(self) -> bool:
        return self.answer is not None or self.error is not None


@dataclass
class Gathering:
    """Requests of one event loop that wait for an engine: whoever holds the lock answers for all of them."""

    lock: anyio.Lock = field(default_factory=anyio.Lock)
    waiting: list[Waiting] = field(default_factory=list)


_gatherings: RunVar[dict[int, Gathering] | None] = RunVar("steer_gatherings")
_engines: dict[str, Backend] = {}
"""Engines by what they are: models of one evaluation share the weights."""


@modelapi(name="steer")
class Steer(ModelAPI):
    """`steer/RUN`: the steering of a run (its folder, its method's name or the beginning of its id, as for
    `bench show`) on the run's model.

    `concept`: which of the run's, where it has several. `coefficient`: in the run's unit, in place of the picked one;
    at 0 nothing is steered, and what a run says in a prompt is said all the same. `backend`: hf or vllm, in place of
    the run's own. `results`: the folder it is looked for in. `plugin`: the file of a plugin that the run was made with;
    several as a list.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        concept: str = "",
        coefficient: float | None = None,
        backend: str = "",
        results: str = "",
        plugin: str | Sequence[str] = "",
        **others: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config or GenerateConfig())
        if others:
            known = "concept, coefficient, backend, results, plugin"
            raise UsageError(f"steer has no argument {next(iter(others))!r}: {known}")
        # One that is loaded already is not loaded again: its classes would be others of the same names.
        for file in [plugin] if isinstance(plugin, str) else plugin:
            if file and (path := Path(file).expanduser().resolve()) not in map(Path, plugin_files()):
                load_plugin(path)
        self.run = named(model_name, results)
        self.concept = one_concept(self.run, str(concept))
        found = strengths(self.run, self.concept, None if coefficient is None else float(coefficient))
        self.steering, self.coefficient = found.steerings[self.concept], found.coefficients[self.concept]
        spec = self.run.data["spec"]
        if backend not in ("", "hf", "vllm"):
            raise UsageError(f"backend={backend!r}: hf or vllm, where a model can be steered")
        name = backend or spec["backend"]
        key = digest(name, spec["dtype"], found.model.name, found.model.weights)
        if key not in _engines:
            _engines[key] = make_backend(name, found.model, spec["dtype"])
        self.engine = _engines[key]
        if lacks := self.steering.needs - self.engine.can:
            raise UsageError(f"backend {name} cannot {', '.join(sorted(lacks))}: use hf")
        self.asked: Counter[str] = Counter()

    def max_connections(self) -> int:
        return MOST

    def max_tokens(self) -> int:
        return TOKENS

    def connection_key(self) -> str:
        return self.engine.fingerprint()

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        if tools:
            raise UsageError(f"{self.model_name} calls no tools: a steered model is asked in plain turns")
        chat = messages(input)
        rules = sampling(config)
        said = digest(chat, vars(rules), config.seed)
        self.asked[said] += 1  # the epochs of a sample are draws of their own
        seed = int(digest(said, self.asked[said]), 16) % 2**63
        answer = await self._answered(Request(chat, self.steering, rules, seed))
        text, finish = cut(answer.text, config.stop_seqs or [], answer.finish)
        output = ModelOutput.from_content(
            self.model_name, text, stop_reason="max_tokens" if finish == "length" else "stop"
        )
        read, wrote = answer.prompt_tokens, answer.tokens
        output.usage = ModelUsage(input_tokens=read, output_tokens=wrote, total_tokens=read + wrote)
        output.metadata = {
            "concept": self.concept,
            "coefficient": self.coefficient,
            "touched": list(answer.positions_edited),
        }
        return output

    async def _answered(self, request: Request) -> Completion:
        if (gatherings := _gatherings.get(None)) is None:
            _gatherings.set(gatherings := {})
        gathering = gatherings.setdefault(id(self.engine), Gathering())
        own = Waiting(request)
        gathering.waiting.append(own)
        async with gathering.lock:
            if not own.done:
                await anyio.sleep(APART)
                batch, gathering.waiting = gathering.waiting, []
                try:
                    await anyio.to_thread.run_sync(answer_all, self.engine, batch)
                except BaseException:  # cancelled before the work began: the others are answered by the next of them
                    gathering.waiting[:0] = [one for one in batch if not one.done and one is not own]
                    raise
        if own.answer is None:
            raise own.error or BenchError("a request was left without an answer")
        return own.answer


def named(name: str, results: str) -> Run:
    """The run that a model's name means."""
    given = results or os.environ.get("BENCH_RESULTS", "")
    folder = Path(given).expanduser() if given else None
    return find(name, folder)[0]


def one_concept(run: Run, given: str) -> str:
    """A run's concept of this name; its only one where none is given."""
    known = list(run.data["concepts"])
    if given or len(known) == 1:
        return given or known[0]
    raise UsageError(f"{run.path.parent.name} has {len(known)} concepts: say which, -M concept={known[0]}")


def messages(input: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """Inspect's messages as turns of a chat."""
    found = []
    for message in input:
        if message.role == "tool":
            raise UsageError("a steered model reads no answers of tools")
        if not isinstance(message.content, str) and any(
            part.type not in ("text", "reasoning") for part in message.content
        ):
            raise UsageError("a steered model reads text alone: no pictures, sounds or files")
        found.append((message.role, message.text))
    return tuple(found)


def sampling(config: GenerateConfig) -> Sampling:
    """Inspect's settings as a `Sampling`: greedy where no temperature is given. Refuses what has no place in one."""
    given = config.model_dump(exclude_none=True)
    for name in given.keys() - TAKEN - ASIDE:
        if given[name] != NEUTRAL.get(name, 0):
            raise UsageError(
                f"steer has no {name}: temperature, top_k, max_tokens, stop_seqs and seed are its settings"
            )
    tokens = TOKENS if config.max_tokens is None else config.max_tokens
    return Sampling(tokens, config.temperature or 0.0, config.top_k or 0)


def cut(text: str, stops: Sequence[str], finish: str) -> tuple[str, str]:
    """A text up to the first of `stops`, and why it ends there."""
    ends = [at for stop in stops if (at := text.find(stop)) >= 0]
    return (text[: min(ends)], "stop") if ends else (text, finish)


def answer_all(engine: Backend, batch: Sequence[Waiting]) -> None:
    """Answer a batch; where the engine cannot, one by one, so that what one request is refused for is its own."""
    try:
        for at, answer in engine.generate([one.request for one in batch]):
            batch[at].answer = answer
    except Exception as error:
        for one in batch:
            if not one.done and len(batch) > 1:
                answer_all(engine, [one])
            elif not one.done:
                one.error = error
