"""What engines are at inside a call, while nothing of the stage is done: for whoever shows progress.

Invariant: it looks on. No answer, batch or key depends on it, and a pass of the model pays one call of a function.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from weakref import WeakSet

from bench.core.interfaces import Backend
from bench.core.values import Request

ROWS = {"generate": "answers written", "logprobs": "texts scored", "diverge": "texts compared"}
"""Calls that give a row for each request, and what they count."""
READS = ("activations", "gradients")
"""Calls that give all at once."""


class Pulse:
    """The work under way, counted as it goes on; `now` reads it, from any thread."""

    def __init__(self) -> None:
        self.begin()

    def begin(self, own: bool = False) -> None:
        """A stage begins: forget what was. `own`: its steps are the rows of its calls."""
        self.own = own
        self.others: dict[str, int] = {}
        """How often something was done of which no end is known here: training steps, say."""
        self._call("", 0)

    def now(self) -> tuple[float, str]:
        """How many steps of the stage the work under way comes to, beside those that are done, and what it is."""
        if self.rows and self.most:
            said = [f"{self.rows} answers at token {self.token} of {self.most}"]
            written = min(self.rows, self.asked - self.done) * self.token / self.most
        else:
            said, written = [], 0.0
        if self.asked and not self.own:
            said.insert(0, f"{self.done} of {self.asked} {self.noun}")
            if part := self.done + written:
                said.append(f"about {(time.monotonic() - self.since) / part * (self.asked - part):.0f} s for these")
        said += [f"{what}: {count}" for what, count in list(self.others.items())]
        return (written if self.own else 0.0), ", ".join(said)

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look on at every engine that works meanwhile, the judge's own too."""
        hooked: WeakSet[Any] = WeakSet()
        with ExitStack() as stack:

            def hook(engine: Backend) -> None:
                """See the passes of an engine in this process, whose model the call would load anyway."""
                hf = sys.modules.get("bench.backends.hf.backend")
                if hf and isinstance(engine, hf.HFBackend) and engine.module not in hooked:
                    hooked.add(engine.module)
                    stack.callback(engine.module.register_forward_pre_hook(self._passed, with_kwargs=True).remove)

            for cls in _engines():
                for name in (*ROWS, *READS):
                    if call := vars(cls).get(name):
                        setattr(cls, name, self._rows(name, call, hook) if name in ROWS else self._read(call, hook))
                        stack.callback(setattr, cls, name, call)
            if vllm := sys.modules.get("bench.backends.vllm.backend"):
                from bench.backends.vllm.pulse import stepping

                stack.enter_context(stepping(vllm.VLLMBackend, partial(self._count, "steps of the engine")))
            if "torch" in sys.modules:
                from torch.optim.optimizer import register_optimizer_step_post_hook

                note = partial(self._count, "training steps")
                stack.callback(register_optimizer_step_post_hook(note).remove)
            yield

    def _rows(self, name: str, call: Callable[..., Any], hook: Callable[[Backend], None]) -> Callable[..., Any]:
        def rows(engine: Backend, requests: Sequence[Request]) -> Iterator[Any]:
            if self.noun:  # one engine asks another: what was asked first counts
                yield from call(engine, requests)
                return
            hook(engine)
            limits = [one.sampling.max_new_tokens for one in requests] if name == "generate" else []
            self._call(ROWS[name], len(requests), max(limits, default=0))
            try:
                for row in call(engine, requests):
                    self.done += 1
                    self.token = self.rows = 0  # what is handed out was written to its end
                    yield row
            finally:
                self._call("", 0)

        return rows

    def _read(self, call: Callable[..., Any], hook: Callable[[Backend], None]) -> Callable[..., Any]:
        def read(engine: Backend, texts: Sequence[Any], *given: Any, **options: Any) -> Any:
            if self.noun:
                return call(engine, texts, *given, **options)
            hook(engine)
            self._call("texts read", len(texts))
            try:
                return call(engine, texts, *given, **options)
            finally:
                self._call("", 0)

        return read

    def _call(self, noun: str, asked: int, most: int = 0) -> None:
        self.noun, self.asked, self.done, self.since = noun, asked, 0, time.monotonic()
        self.most, self.token, self.rows = most, 0, 0
        """The tokens that an answer may have; those that are written, and in how many answers."""

    def _passed(self, _: Any, given: Sequence[Any], named: Mapping[str, Any]) -> None:
        """A pass of a model begins: over prompts or texts, or over the last token of each answer."""
        ids = named.get("input_ids", given[0] if given else None)
        if ids is None:
            return
        if self.noun == "texts read":  # those of the pass before
            self.done = min(self.asked, self.done + self.rows)
        self.rows, width = ids.shape
        if self.most:
            self.token = self.token + 1 if width == 1 else 0

    def _count(self, what: str, *_: Any) -> None:
        self.others[what] = self.others.get(what, 0) + 1


def _engines() -> Iterator[type[Backend]]:
    """The engines that are there, plugins' too."""
    todo: list[Any] = [Backend]  # which mypy does not take for a class, as it is abstract
    while todo:
        found = todo.pop().__subclasses__()
        yield from found
        todo += found
