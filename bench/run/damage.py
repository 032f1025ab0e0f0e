"""What a setting does where nobody asked for it: how far it moves plain answers to plain questions, and how well a
method would do if it might move them so far and no further.

Invariant: read at every setting that was tried, on texts that no method is fitted on; nothing here decides a setting.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.core.protocol import Protocol
from bench.core.values import Divergence, Verdict
from bench.run.trials import Trial, best

TEXTS = {"quick": 0, "standard": 8, "paper": 16}
"""Plain answers that are read under every setting, by preset."""
LIMITS = (0.1, 0.3, 1.0)
"""KL(steered || bare) a token at which methods are compared."""


@dataclass(frozen=True)
class Damage:
    """Of one setting, a token of the plain answers, in nats."""

    kl: float
    """KL(steered || bare)."""
    surprise: float
    """How much less likely the answer's own words became: the logarithm of the perplexity over the bare model's."""


def summed(found: Iterable[Divergence]) -> Damage:
    """The mean a token over several answers."""
    each = list(found)
    tokens = sum(one.tokens for one in each)
    kl, lost = (math.fsum(values) / tokens for values in ([d.kl for d in each], [d.bare - d.steered for d in each]))
    return Damage(round(kl, 5), round(lost, 5))


def at_most(
    tried: Mapping[Trial, Sequence[Mapping[str, Verdict]]],
    questions: Sequence[str],
    damage: Mapping[Trial, Damage],
    limit: float,
    rules: Protocol,
) -> float | None:
    """The mean overall score on the select split, each question under the setting that is best on the others among
    those with a KL of at most `limit`: none chooses the setting it is answered under.

    `questions` name what each verdict of a setting belongs to; those of one name are left out together. None where no
    setting is so mild, and with fewer than two questions.
    """
    mild = {trial: list(rows) for trial, rows in tried.items() if trial in damage and damage[trial].kl <= limit}
    if len(set(questions)) < 2 or any(len(rows) != len(questions) for rows in mild.values()) or not mild:
        return None
    scores: list[float] = []
    for question in dict.fromkeys(questions):
        own = [i for i, name in enumerate(questions) if name == question]
        others = {
            trial: [dict(row) for i, row in enumerate(rows) if questions[i] != question] for trial, rows in mild.items()
        }
        rows = mild[best(others, rules)]
        scores += [value for i in own if (value := rows[i]["overall"].value) is not None]
    return round(math.fsum(scores) / len(scores), 4) if scores else None
