"""From names to engines: the backend that answers, and the model that writes prompts.

Invariant: making an engine loads no weights; they load on first use.
"""

from __future__ import annotations

import importlib.util

from bench.backends import threads
from bench.backends.hosted.backend import OpenAIBackend
from bench.backends.models import Model
from bench.core.errors import BenchError, UsageError
from bench.core.interfaces import Backend
from bench.core.money import SpendingLimit, price_of
from bench.core.registry import get


def make_backend(name: str, model: Model, dtype: str) -> Backend:
    """The engine of this name on a model."""
    cls = get("backend", name)
    if name == "fake":
        made: Backend = cls()
    elif name in ("hf", "vllm"):
        made = cls(model, dtype)
        if name == "hf":
            threads.use()
    else:
        raise BenchError(f"backend {name!r} cannot steer: use hf or vllm")
    return made


def make_prompter(name: str, purse: SpendingLimit) -> OpenAIBackend | None:
    """The model that writes prompts (`openai:MODEL`), where it is not the target model itself ("")."""
    if not name:
        return None
    model = name.removeprefix("openai:")
    if purse.limit and price_of(model) is None:
        raise UsageError(f"--max-cost: no price is known for the prompter {model}; leave --max-cost out")
    return OpenAIBackend(model, purse=purse)


EXECUTORS = ("local", "ray")
"""Who runs the model: this process, or the workers of a cluster (`bench.run.cluster`)."""


def unable(executor: str) -> str:
    """Why a run cannot be spread so on this machine; "" where it can."""
    if executor == "ray" and importlib.util.find_spec("ray") is None:
        return "Ray is not installed: pip install 'steer-or-prompt[ray]'"
    return ""
