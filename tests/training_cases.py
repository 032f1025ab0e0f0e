"""What the training tests share: concepts of letters, made on the spot, and fits on tiny models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.backends.hf.backend import HFBackend
from bench.core.interfaces import Context
from bench.core.protocol import Budget
from bench.core.steering import Steering
from bench.core.values import Concept, Example, Pair, Request, Train
from bench.training.objectives.all import objectives
from bench.training.objectives.base import Objective
from bench.training.parametrisations import Parametrisation, forms
from bench.training.trainer import Group, Recipe

BUDGET = Budget(sequences=16, tokens=64, epochs=2, trials=2)


def letters(name: str = "low", shown: str = "abcd", plain: str = "wxyz", count: int = 6, seed: int = 0) -> Train:
    """A concept whose texts are written in the letters `shown`, others in `plain`."""
    rng = np.random.default_rng(seed)

    def text(alphabet: str) -> str:
        return " ".join("".join(rng.choice(list(alphabet), rng.integers(2, 6))) for _ in range(4))

    pairs = tuple(Pair(f"Ask {i} of {name}?", text(shown), text(plain)) for i in range(count))
    return Train(
        Concept(name, f"the letters {shown}"),
        positives=tuple(Example(p.instruction, p.positive) for p in pairs),
        negatives=tuple(Example(p.instruction, p.negative) for p in pairs),
        pairs=pairs,
        personas=((f"one who says {shown}", f"one who says {plain}"), (f"a friend of {shown}", f"a friend of {plain}")),
        prompts=(f"Use {shown}. {{instruction}}",),
    )


def small(name: str, **values: Any) -> Parametrisation:
    """A parametrisation of a size that suits a model of four blocks and width 32."""
    sizes: dict[str, dict[str, Any]] = {
        "loreft": {"layers": (0.25, 0.5), "rank": 2, "first": 2, "last": 3},
        "lora": {"layers": (0.25, 0.5), "rank": 2, "alpha": 4.0},
        "dora": {"layers": (0.25, 0.5), "rank": 2, "alpha": 4.0},
        "pissa": {"layers": (0.25, 0.5), "rank": 2, "alpha": 2.0},
        "svft": {"layers": (0.25, 0.5), "rank": 12, "band": 2},
        "ssvd": {"layers": (0.25, 0.5), "share": 0.3},
        "rotation": {"layers": (0.25,), "rank": 9},
        "soft": {"size": 3, "opening": "Say {concept}. "},
    }
    made: Parametrisation = forms()[name](**sizes.get(name, {}) | values)
    return made


def goal(name: str, **values: Any) -> Objective:
    sizes: dict[str, dict[str, Any]] = {
        "reroute": {"targets": (0.5, 0.75)},
        "lorra": {"targets": (0.5, 0.75)},
        "antipasto": {"words": 2},
    }
    made: Objective = objectives()[name](**sizes.get(name, {}) | values)
    return made


def group(
    lm: HFBackend,
    form: Parametrisation,
    objective: Objective | None = None,
    trains: Sequence[Train] = (),
    rate: float = 0.05,
    budget: Budget = BUDGET,
    **recipe: Any,
) -> Group:
    """A group ready to train."""
    trains = trains or (letters(),)
    ctx = Context(lm, budget, trains=tuple(trains))
    return Group(ctx, "case", trains, form, objective or goal("lm"), Recipe(rate, **recipe))


def margin(lm: HFBackend, steering: Steering | None, held: Train) -> float:
    """How much likelier per token held-out texts with the concept are than those without it, in nats."""
    asks = [
        Request((("user", p.instruction),), steering, target=text)
        for p in held.pairs
        for text in (p.positive, p.negative)
    ]
    found = dict(lm.logprobs(asks))
    values = [found[i].mean for i in range(len(asks))]
    return float(np.mean(values[0::2]) - np.mean(values[1::2]))


def numbers(steering: Steering) -> list[np.ndarray[Any, Any]]:
    """All tensors of a steering, in order."""
    return [tensor for part in steering.inside for tensor in part.tensors().values()]
