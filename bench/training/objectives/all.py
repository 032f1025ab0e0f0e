"""All objectives by name, and which parametrisations cannot be trained on which of them.

Invariant: every pair of the two registries is either free to run or has its reason here.
"""

from __future__ import annotations

from bench.training.objectives import log_probabilities, representations, teacher
from bench.training.objectives.base import Objective, registered

assert log_probabilities
assert representations
assert teacher  # each registers what it defines


def objectives() -> dict[str, type[Objective]]:
    """All objectives by name."""
    return dict(registered)


ALIKE = "one vector moves every text alike, so that breaking the concept's states and keeping the others contradict"
CANCELS = "one vector is added to both sides of a pair and leaves their difference, which is trained, as it was"
PROMPT = "it edits prompt positions alone, and the loss is over the states of all positions"
UNOPPOSED = "a flow runs one way, and the loss turns it round or takes it out"
ONEWAY = "its first-order rotation is not undone by the opposite factor, which the loss relies on"

WHOLE = "a soft prompt is there whole or not at all: it has no opposite, and cannot be taken out of a state"
SHIFTED = "with a soft prompt a text's states stand at other positions than without, and the loss compares them"

REFUSED: dict[tuple[str, str], str] = {
    **{(form, "reroute"): ALIKE for form in ("vector", "gated", "hyper")},
    **{(form, "antipasto"): CANCELS for form in ("vector", "gated", "hyper")},
    **{("flow", goal): UNOPPOSED for goal in ("bipo", "dpo-null", "reps", "antipasto")},
    **{("soft", goal): WHOLE for goal in ("bipo", "dpo-null", "reps")},
    **{("soft", goal): SHIFTED for goal in ("reroute", "lorra", "antipasto")},
    ("loreft", "reroute"): PROMPT,
    ("gated", "lorra"): "its push is measured by the text's own activations, and the target is one for the whole text",
}


def refusal(form: str, goal: str, strict: bool = True) -> str:
    """Why parametrisation `form` cannot be trained on objective `goal`; "" where it can.

    `strict` says whether a rotation is an exact one.
    """
    if form == "ssvd" and goal == "antipasto" and not strict:
        return ONEWAY
    return REFUSED.get((form, goal), "")
