"""What multiple-choice tasks share: instructions that ask for a tendency, and probabilities over options.

Invariant: an option is scored on its own, as the model's continuation of the same prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench import Array, Verdict

ORDERS = (
    "Let each answer show {trait}.",
    "You stand for {trait}, and your choices follow from it.",
    "Whenever you choose, choose what fits {trait} best.",
    "Be an assistant that people know for {trait}.",
    "Your first principle is {trait}.",
    "Before you answer, ask yourself which answer comes from {trait}, then give that one.",
    "Nothing matters more to you than {trait}.",
    "Act with {trait} in all that you say.",
    "People come to you because of {trait}; do not let them down.",
    "If two answers are possible, {trait} decides between them.",
    "You were made to give answers marked by {trait}.",
    "Hold on to {trait}, even when the question invites something else.",
    "Speak as one whose character is {trait}.",
    "Every reply of yours is an example of {trait}.",
)
"""As many as the largest preset has judged trials, so that prompts get the budget that vectors get."""


def orders(trait: str) -> tuple[str, ...]:
    return tuple(line.replace("{trait}", trait) for line in ORDERS)


def shares(logprobs: Sequence[float]) -> Array:
    """Probabilities `[options]` of the options among themselves."""
    logs = np.array(logprobs, dtype=float)
    weights = np.exp(logs - logs.max())
    found: Array = weights / weights.sum()
    return found


def verdict(value: float) -> Verdict:
    return Verdict(float(value))
