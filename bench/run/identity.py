"""Which code decides a result: the method's, the task's, the judge's, the engine's kernels, and the rules of a run.

Invariant: a key says nothing of where code lies, and everything of what it does (`bench.core.definitions`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.core.content import digest
from bench.core.definitions import code_digest
from bench.core.interfaces import Backend, Judge, Method, Task
from bench.core.naming import build_method, names_in
from bench.core.registry import get
from bench.judges.judging import rate
from bench.results.runs import load
from bench.results.second_judge import of
from bench.run.faults import definitions
from bench.run.fits import given
from bench.run.jobs import ratings
from bench.run.monitor import reading
from bench.run.steerings import applied, turned
from bench.run.strength import Strength
from bench.run.task_contract import scored
from bench.run.trials import best, drawn, options, repeated, repeats, request, ruled, trials
from bench.run.views import Views

RULES = (
    *(given, Views, turned, applied, Strength, trials, request, drawn, repeats, repeated, options),
    *(rate, scored, ruled, best, reading, ratings),
)
"""What a run itself does to a number, whatever it runs: data handed out, strength, questions, ratings, and the pick."""


def code_of(made: Method, task: type[Task], judge: type[Judge] | None, engine: type[Backend]) -> str:
    """Digest of the code that decides a result; `judge` counts where a judge rates the task's answers."""
    judged: tuple[Any, ...] = (judge,) if judge and task.rated else ()
    return digest([code_digest(*own) for own in (definitions(made), (task,), judged, RULES)], engine.code())


def keys(root: Path) -> dict[str, tuple[str, str]]:
    """file -> (the key that it has, the key that the present code gives it), of every run and opinion below `root`."""
    found = {}
    for run in load(root):
        spec = run.data["spec"]
        name, judge = spec["method"], spec["judge"].partition(":")[0]
        several = len(names_in(name)) > 1
        made = build_method(name, spec["method_params"] if several else {name: spec["method_params"]})
        made = made.under(spec["protocol"]["compat"])
        rater = get("judge", judge) if judge else None
        given = code_of(made, get("task", spec["task"]), rater, get("backend", spec["backend"]))
        found[run.path.relative_to(root).as_posix()] = run.code, given
        for opinion in of(run):
            rated_by = code_digest(get("judge", opinion.judge.partition(":")[0]))
            found[opinion.path.relative_to(root).as_posix()] = opinion.code, rated_by
    return found
