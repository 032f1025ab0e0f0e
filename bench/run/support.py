"""Whether a run can be made, decided before a model is loaded and before anything is priced.

Invariant: what is refused here costs nothing, and what passes is not refused later for a reason that was known here.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NotRequired, TypedDict, cast

from bench.backends.models import Model
from bench.core.documents import read_json
from bench.core.errors import BenchError
from bench.core.interfaces import Backend, Context, Method, Task
from bench.core.paths import cache_root
from bench.core.protocol import Protocol
from bench.core.shapes import Count
from bench.run.fits import lacks

SPARE = 256 << 20
"""Bytes of disk that a run leaves free, beside what it writes."""
ROW = 4096
"""Bytes of an answer or a rating on the disk, about."""


class Inner(TypedDict):
    num_hidden_layers: NotRequired[Count]


class Blocks(Inner):
    """Where a configuration says how many blocks a model has."""

    text_config: NotRequired[Inner]


def unsupported(made: Method, task: Task, rules: Protocol, engine: Backend, views: frozenset[str], blocks: int) -> str:
    """Why a method cannot run on a task with these training views, on this engine and a model of so many blocks (0: not
    known); "" if it can."""
    if made.provides == {"options"}:
        return "" if task.multiple_choice else f"it rates given options, which task {task.name} does not ask"
    if task.kind not in made.provides:
        return f"it gives no {task.kind}, which task {task.name} needs"
    if task.suppresses_concept and made.one_way:
        return f"its steering has no opposite, which task {task.name} takes"
    if reason := lacks(made, engine, views, steers=task.kind == "steering"):
        return reason
    several = made.samples_per_prompt(rules.budget) > 1
    if several and any(task.train(concept).prompts for concept in task.concepts()):
        return f"it keeps the answer most about a concept, which task {task.name} does not ask for"
    return next((reason for part in made.family_tree for reason in _misplaced(part, rules, blocks)), "")


def _misplaced(made: Method, rules: Protocol, blocks: int) -> Iterator[str]:
    """What is wrong with the layers that a method names."""
    context = Context(cast(Any, SimpleNamespace(layers=blocks)), rules.budget)
    params = made.params() if blocks and not made.members else {}
    for spec in [*([params["layer"]] if params.get("layer") is not None else []), *params.get("layers", ())]:
        try:
            context.depths(spec)
        except BenchError as error:
            yield f"{error}"


def blocks_of(model: Model, engine: Backend) -> int:
    """The decoder blocks of a model, from its configuration; 0 where that does not say."""
    if not model.path.parts:
        return engine.layers
    try:
        config = read_json(model.path / "config.json", Blocks, "a model's configuration")
    except BenchError:
        return 0
    return int(config.get("text_config", config).get("num_hidden_layers", 0))


def check_disk(rows: int, folders: Sequence[Path]) -> None:
    """Raise where one of the places that a run writes to cannot take so many answers and ratings."""
    need = SPARE + ROW * rows
    for folder in (cache_root(), *folders):
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        if (free := shutil.disk_usage(there).free) < need:
            raise BenchError(f"{folder} has {free >> 20:,} MiB free, and the run may write {need >> 20:,} MiB")
