"""From a plan's names to engines: the backend that answers, and the model that writes prompts.

Invariant: making an engine loads no weights; they load on first use.
"""

from __future__ import annotations

from bench.backends.hosted.backend import OpenAIBackend
from bench.core.errors import BenchError, UsageError
from bench.core.interfaces import Backend
from bench.core.money import price_of
from bench.core.registry import get
from bench.run.plan import Plan


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


def make_prompter(plan: Plan) -> OpenAIBackend | None:
    """The model that writes prompts, where it is not the target model itself."""
    name = plan.options.prompter
    if not name:
        return None
    model = name.removeprefix("openai:")
    if plan.purse.limit and price_of(model) is None:
        raise UsageError(f"--max-cost: no price is known for the prompter {model}; leave --max-cost out")
    return OpenAIBackend(model, purse=plan.purse)
