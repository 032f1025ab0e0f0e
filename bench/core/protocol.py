"""How every method of a run is treated: sampling, budgets, presets, and the identity of a result.

Invariant: equal protocols make results comparable; nothing that leaves the numbers alone is in one.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from bench.core.content import digest
from bench.core.errors import UsageError, suggest
from bench.core.settings import changed
from bench.core.shapes import MOST
from bench.core.values import Sampling


@dataclass(frozen=True)
class Budget:
    """What a method may spend on one concept: training rows, tokens a row, epochs, judged trials."""

    sequences: int
    tokens: int
    epochs: int
    """0: each method's own, as of its paper."""
    trials: int


@dataclass(frozen=True)
class Protocol:
    """How every method of a run is treated; equal protocols make results comparable."""

    preset: str
    coefficients: tuple[float, ...]
    select: int
    test: int
    sampling: Sampling
    budget: Budget
    strength: Literal["norm", "max-act"] = "norm"
    compat: str = ""
    seed: int = 0
    concepts: int = 0
    """0: all; else only the first so many (`--limit`)."""
    answers: int = 1
    """Answers to each test prompt, each with noise of its own."""
    fits: int = 1
    """Fits of a method that trains, each with another seed; the answers to a prompt take turns with them. Settings are
    picked with the first."""

    @property
    def usual(self) -> bool:
        """Whether the coefficients are the preset's, not a user's own."""
        return self.coefficients == STRENGTHS[self.strength].get(self.preset)


@dataclass(frozen=True)
class RunSpec:
    """The identity of one result: a method with its parameters on one task, model and judge.

    Nothing that leaves the numbers alone (batch size, host, workers) belongs here.
    """

    method: str
    task: str
    model: str
    judge: str
    protocol: Protocol
    method_params: Mapping[str, Any] = field(default_factory=dict)
    task_params: Mapping[str, Any] = field(default_factory=dict)
    judge_params: Mapping[str, Any] = field(default_factory=dict)
    prompter: str = ""
    backend: str = "hf"
    dtype: str = "auto"
    weights: str = ""
    """Digest of the model's weights, tokenizer and template: a name alone can move."""
    data: str = ""
    """Digest of the task's rows."""

    @property
    def id(self) -> str:
        return digest(self)[:10]

    @property
    def group(self) -> str:
        """Runs with equal groups may stand in one table."""
        return digest(dataclasses.replace(self, method="", method_params={}, prompter=""))[:10]


STRENGTHS: dict[str, dict[str, tuple[float, ...]]] = {
    "norm": {
        "quick": (0.2, 0.35, 0.5),
        "standard": (0.1, 0.2, 0.3, 0.4, 0.55),
        "paper": (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8),
    },
    "max-act": {
        "quick": (0.4, 1.0, 2.0),
        "standard": (0.2, 0.6, 1.0, 1.6, 2.5),
        "paper": (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 4.0, 5.0),
    },
}
"""Coefficients by strength mode: multiples of median ‖h_l‖ / ‖v‖, or of the largest detection score."""


ELSEWHERE = "hosted"
"""The number type of a model behind an endpoint: which it is nobody says, and nothing but its answers can be read."""
USUAL_TASK = "axbench"
"""The task that is meant where none is named."""
DEFAULT_JUDGE = "ensemble"
"""The judge that rates where neither a command nor `BENCH_JUDGE` names one."""


def usual_judge() -> str:
    """The judge that rates where none is named."""
    return os.environ.get("BENCH_JUDGE") or DEFAULT_JUDGE


PRESETS = {
    "quick": Protocol("quick", (), 2, 3, Sampling(32), Budget(24, 64, 2, 3)),
    "standard": Protocol("standard", (), 4, 6, Sampling(48), Budget(72, 64, 3, 5), answers=4, fits=3),
    "paper": Protocol("paper", (), 5, 5, Sampling(128), Budget(144, 512, 0, 14), answers=4, fits=3),
}


FLAGS = ("preset", "strength", "compat", "seed", "concepts")
"""Fields of a protocol that have a flag of their own; the others are set by `protocol.FIELD`."""


def protocol(
    preset: str,
    strength: str = "norm",
    compat: str = "",
    seed: int = 0,
    limit: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Protocol:
    """A preset's protocol; `compat="axbench"` also switches to the reference's strength mode.

    `settings` are other values for its fields: `coefficients`, `select`, `sampling.max_new_tokens`, …. Where
    they name coefficients alone, prompts get as many trials as there are coefficients.
    """
    if preset not in PRESETS:
        raise UsageError(f"unknown preset {preset!r}: {suggest(preset, PRESETS)}")
    if compat not in ("", "axbench"):
        raise UsageError(f"unknown compatibility mode {compat!r}: known: axbench")
    if strength not in STRENGTHS:
        raise UsageError(f"unknown strength {strength!r}: {suggest(strength, STRENGTHS)}")
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed = {seed}: a whole number from 0 to {2**32 - 1}")
    if limit < 0:
        raise UsageError(f"limit = {limit}: a number of concepts, or 0 for all")
    mode = "max-act" if compat else strength
    rules = replace(
        PRESETS[preset],
        coefficients=STRENGTHS[mode][preset],
        strength=mode,  # type: ignore[arg-type]
        compat=compat,
        seed=seed,
        concepts=limit,
    )
    if compat:
        # The reference writes one answer with one fit, and trains each method as long as its settings say.
        rules = replace(rules, answers=1, fits=1, budget=replace(rules.budget, epochs=0))
    return _set(rules, settings) if settings else rules


def _set(rules: Protocol, settings: Mapping[str, Any]) -> Protocol:
    """A protocol with the values a user gave, each within what it can be."""
    for name in FLAGS:
        if name in settings:
            raise UsageError(f"protocol.{name} has a flag: --{'limit' if name == 'concepts' else name}")
    rules = changed(rules, settings, "protocol")
    tried = rules.coefficients
    if not tried or len(set(tried)) < len(tried):
        raise UsageError(f"protocol.coefficients = {', '.join(map(str, tried))}: give each once, and at least one")
    if "coefficients" in settings and "budget.trials" not in settings:
        rules = replace(rules, budget=replace(rules.budget, trials=len(tried)))
    for part, where in ((rules, "protocol"), (rules.sampling, "protocol.sampling"), (rules.budget, "protocol.budget")):
        for name, value in vars(part).items():
            least = 0 if name in ("temperature", "top_k", "epochs", *FLAGS) else 1
            most = 1000 if name in ("answers", "fits", "trials") else MOST
            if isinstance(value, int | float) and not least <= value <= most and name not in FLAGS:
                raise UsageError(f"{where}.{name} = {value}: at least {least}, at most {most}")
    return rules
