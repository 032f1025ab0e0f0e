"""A training question under the prompt that asks for the concept: what a method that copies prompts is taught by."""

from __future__ import annotations

from bench.core.values import Example, Train

SAY = "Please bring {concept} into your answer.\n\n"
"""What is asked where a task brings no words of its own."""


def under_prompt(train: Train, example: Example) -> Example:
    """An example whose question asks for the concept, in the task's own words where it has any."""
    said = train.prompts[0] if train.prompts else SAY.replace("{concept}", train.concept.text) + "{instruction}"
    if "{instruction}" not in said:
        said = said + "\n\n{instruction}"
    return Example(said.replace("{instruction}", example.instruction), example.response)
