"""What is looked at beside the score, at each method's picked setting: by name, and what a preset looks at.

Invariant: nothing here decides a setting or a score.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence

from bench.core.errors import UsageError
from bench.data.basics import BASICS, basics

NOTHING = "none"
RATED = ("related", "adverse")
"""Those that the run's own judge rates (`bench.run.specificity`); every other name is a task of lm-eval."""
USUAL: dict[str, tuple[str, ...]] = {"quick": (), "standard": (BASICS, *RATED), "paper": (BASICS, *RATED)}
"""By preset."""
TOLD = {
    "related": "test answers are rated for another concept too",
    "adverse": "half of the test questions are asked again with an order against the concept",
}
"""What each costs, for a plan; its numbers are among the plan's."""
DOCUMENTS = 100
"""Of each task of lm-eval the first so many are asked: `bench capability` asks all of them."""


def wanted(asked: Sequence[str], preset: str) -> tuple[str, ...]:
    """The names of what is looked at, each once: what was asked for, or else what the preset has."""
    if NOTHING in asked and len(asked) > 1:
        raise UsageError(f"effects = {','.join(asked)}: {NOTHING} stands by itself")
    return tuple(name for name in dict.fromkeys(asked or USUAL[preset]) if name != NOTHING)


def tasks_of(names: Sequence[str]) -> tuple[str, ...]:
    """Those of them that are tasks of lm-eval."""
    return tuple(name for name in names if name not in RATED)


def unable(backend: str) -> str:
    """Why no task of lm-eval can be asked in a run on this engine; "" where one can."""
    if backend != "hf":
        return (
            f"a run asks lm-eval's tasks on the engine hf, not on {backend} (bench capability RUN does it afterwards)"
        )
    return "" if importlib.util.find_spec("lm_eval") else "lm-eval is not here: pip install 'steer-or-prompt[eval]'"


def reading(names: Sequence[str], characters: float) -> int:
    """Tokens that are read for one steering, of so many characters each; those of tasks that are not shipped are not
    known beforehand."""
    return round(sum(map(len, map(json.dumps, basics()))) / characters) if BASICS in names else 0
