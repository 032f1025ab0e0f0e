"""From names to engines: the backend that answers, and the model that writes prompts.

Invariant: making an engine loads no weights; they load on first use.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.backends import threads
from bench.backends.hosted.backend import OpenAIBackend
from bench.backends.models import DEFAULT, Model
from bench.core.content import digest
from bench.core.errors import BenchError, UsageError
from bench.core.interfaces import Backend
from bench.core.money import SpendingLimit
from bench.core.registry import get

HOSTED = "openai"
"""The engine that asks a model behind an endpoint: it takes prompts, and nothing that steers."""


def hosted(name: str, chat: Mapping[str, Any]) -> Model:
    """The model behind an endpoint (`MODEL` or `openai:MODEL`): its weights are known by its name and address alone."""
    model = name.removeprefix(f"{HOSTED}:")
    if not model or model == DEFAULT:
        raise UsageError(f"--backend {HOSTED} asks a model behind an endpoint: name it, as in --model gpt-4o-mini")
    if chat:
        raise UsageError(f"-p chat.{next(iter(chat))}: an endpoint has a chat template of its own")
    return Model(model, Path(), "endpoint", digest("endpoint", model, OpenAIBackend(model).address))


def make_backend(name: str, model: Model, dtype: str, purse: SpendingLimit | None = None) -> Backend:
    """The engine of this name on a model; a hosted one is paid from `purse`."""
    cls = get("backend", name)
    if name == "fake":
        made: Backend = cls()
    elif name in ("hf", "vllm"):
        made = cls(model, dtype)
        if name == "hf":
            threads.use()
    elif name == HOSTED:
        made = _priced(OpenAIBackend(model.name, purse=purse), "model")
    else:
        raise BenchError(f"backend {name!r} makes no engine for a run: use hf or vllm")
    return made


def make_prompter(name: str, purse: SpendingLimit) -> OpenAIBackend | None:
    """The model that writes prompts (`openai:MODEL`), where it is not the target model itself ("")."""
    if not name:
        return None
    return _priced(OpenAIBackend(name.removeprefix("openai:"), purse=purse), "prompter")


def _priced(made: OpenAIBackend, role: str) -> OpenAIBackend:
    """Refuse a hosted model without a known price where money is limited."""
    if made.purse.limit and made.price is None:
        raise UsageError(f"--max-cost: no price is known for the {role} {made.model}; leave --max-cost out")
    return made


EXECUTORS = ("local", "ray")
"""Who runs the model: this process, or the workers of a cluster (`bench.run.cluster`)."""


def unable(executor: str) -> str:
    """Why a run cannot be spread so on this machine; "" where it can."""
    if executor == "ray" and importlib.util.find_spec("ray") is None:
        return "Ray is not installed: pip install 'steer-or-prompt[ray]'"
    return ""
