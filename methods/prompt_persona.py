"""Prompting with a persona in the system message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench import Context, Fitted, Method, Prompt, Steering, Train, method

LINES = (
    "Be {persona}, as strongly as you can.",
    "From now on you speak as {persona}, whatever comes up.",
    "Stay in this part without exception: {persona}.",
    "Your readers know you as {persona}; do not disappoint them.",
)


@method(
    "prompt-persona",
    surface="prompt",
    paper="github.com/vgel/repeng",
    views=("personas",),
    needs=["prompt"],
)
@dataclass(frozen=True)
class PersonaPrompt(Method):
    """The persona that control vectors are made from, asked for in the system message.

    The candidates go through the data's personas and two wordings; the select split picks.
    Deviations: wordings of our own; repeng asks in the user turn and only to make a vector.
    Reproduction: AxBench reports no persona row.
    """

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        asked = [line.replace("{persona}", plus) for line in LINES for plus, _ in train.personas]
        return [Fitted(Steering(Prompt(system=text)), note={"prompt": text}) for text in asked[: ctx.budget.trials]]
