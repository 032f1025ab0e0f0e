"""What was registered before the runs: the prompt and the steering methods that a claim rests on, by what margin.

Invariant: a run carries the registration as it stood when the run was made, so no later edit of the file can turn
what was found into what was expected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from bench.core.documents import read_toml
from bench.core.errors import BenchError, suggest

FILE = "hypotheses.toml"
"""In a results folder, committed before its runs."""
MARGIN = 0.1
"""Share of the scale within which two methods are equivalent, where nothing else was registered."""
KEYS = ("prompt", "steering", "combination")


class Named(TypedDict):
    """What a task's verdict rests on, by role; the first two are needed (`read` says so)."""

    prompt: NotRequired[str]
    steering: NotRequired[list[str]]
    combination: NotRequired[str]


class Hypotheses(TypedDict):
    """The file."""

    margin: NotRequired[float]
    models: NotRequired[list[str]]
    tasks: NotRequired[dict[str, Named]]


@dataclass(frozen=True)
class Registration:
    """The primary comparison of one task."""

    prompt: str
    steering: tuple[str, ...] = ()
    """Each is compared with the prompt by itself."""
    combination: str = ""
    margin: float = MARGIN


def read(folder: Path) -> dict[str, Any]:
    """The registered hypotheses of a results folder as they stand in the file; empty where it has none.

        margin = 0.1                  # share of the scale within which two methods are equivalent
        models = ["SmolLM2-135M-Instruct"]
        [tasks.axbench]
        prompt = "prompt"
        steering = ["diffmean", "lora"]
        combination = "prompt+diffmean"

    Raises BenchError for a file that does not say this.
    """
    path = folder / FILE
    if not path.is_file():
        return {}
    data: dict[str, Any] = read_toml(path, Hypotheses, "a registration of hypotheses")
    if unknown := sorted(set(data) - {"margin", "models", "tasks"}):
        raise BenchError(f"{path.name}: {suggest(unknown[0], ('margin', 'models', 'tasks'))}")
    if not 0 < data.get("margin", MARGIN) < 1:
        raise BenchError(f"{path.name}: margin = {data['margin']!r} is no share of the scale")
    for name, named in data.get("tasks", {}).items():
        if unknown := sorted(set(named) - set(KEYS)):
            raise BenchError(f"{path.name}, tasks.{name}: {suggest(unknown[0], KEYS)}")
        if not named.get("prompt") or not named.get("steering"):
            raise BenchError(f"{path.name}, tasks.{name}: name a prompt, and a list of steering methods")
    return data


def carried(folder: Path, task: str, model: str) -> dict[str, Any]:
    """What a run on this task and model carries of it; empty where nothing was registered for them."""
    data = read(folder)
    named = data.get("tasks", {}).get(task)
    if not named or model not in data.get("models", [model]):
        return {}
    return dict(named) | {"margin": float(data.get("margin", MARGIN))}


def of(runs: Sequence[Mapping[str, Any]]) -> Registration | None:
    """The registration that all of the runs (`run.json` as read) were made under; None where one was made under
    none or another."""
    made = [run.get("registered") or {} for run in runs]
    if not made or not made[0] or any(one != made[0] for one in made):
        return None
    named = made[0]
    steering = tuple(map(str, named["steering"]))
    return Registration(str(named["prompt"]), steering, str(named.get("combination", "")), float(named["margin"]))
