"""From a plan's names to engines: the backend that answers, and the model that writes prompts.

Invariant: making an engine loads no weights; they load on first use.
"""

from __future__ import annotations

from bench.api import Backend
from bench.plan import Plan
from bench.registry import get
from bench.schema import BenchError


def make_backend(plan: Plan) -> Backend:
    """The engine a plan names."""
    cls = get("backend", plan.options.backend)
    if plan.options.backend == "fake":
        made: Backend = cls()
    elif plan.options.backend in ("hf", "vllm"):
        made = cls(plan.model, plan.specs[0].dtype)
    else:
        raise BenchError(f"backend {plan.options.backend!r} cannot steer: use hf or vllm")
    return made


def make_prompter(plan: Plan) -> Backend | None:
    """The model that writes prompts, where it is not the target model itself."""
    name = plan.options.prompter
    if not name:
        return None
    prompter: Backend = get("backend", "openai")(name.removeprefix("openai:"))
    return prompter
