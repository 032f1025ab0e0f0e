"""How far a judge is to be trusted: the tables that `bench judge validate --save` keeps, and what follows from them.

Invariant: a judge ranks a task only where it was held against readers and passed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.core.content import digest
from bench.core.documents import read_json
from bench.results.record import ValidityRecord
from bench.stats.intervals import Estimate, less

SHIPPED = Path(__file__).resolve().parent
"""Of a wheel, the root of its copy of the checked tables; a checkout has them among its results, and none here."""


def validity(roots: Iterable[Path], judge: str, params: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The validation tables of one judge with these parameters, from `ROOT/judges/`: the first root that has any, and
    last what came with the program."""
    for root in (*roots, SHIPPED):
        own = [
            t for t in validations(root) if t["judge"] == judge and digest(t["judge_params"]) == digest(dict(params))
        ]
        if own:
            return own
    return []


def validations(root: Path) -> list[Mapping[str, Any]]:
    """Every validation table of a results folder, in a fixed order."""
    return [_table(path) for path in sorted((root / "judges").glob("*.json"))]


def _table(path: Path) -> Mapping[str, Any]:
    remedy = "make it again: bench judge validate --save"
    data: dict[str, Any] = read_json(path, ValidityRecord, "a judge's validation", remedy)
    return data


def may_rank(found: Sequence[Mapping[str, Any]], task: str, model: str) -> bool | None:
    """Whether a judge with these tables may rank a task; None where no readers were asked.

    Every table that has answers of the model to this task must say so; where none has the model, those of others count,
    and a task that no reader's rating is of goes by the three axes together.
    """
    read = [table for table in found if "gate" in table]
    gates = [t["gate"]["tasks"] for t in ([t for t in read if model in t.get("models", ())] or read)]
    asked = [gate[task] for gate in gates if task in gate] or [gate.get("overall", False) for gate in gates]
    return all(asked) if asked else None


def corrected(
    e: Estimate, found: Sequence[Mapping[str, Any]], task: str, model: str, surface: str, run: str = ""
) -> Estimate | None:
    """A mean less what the judge is known to favour its surface by (prediction-powered, Angelopoulos et al. 2023).

    The judge rates all answers, readers a few; the mean difference on those corrects the rest, and its uncertainty
    is added. Of several tables one that has answers of this `run` goes first. None where no reader rated answers of
    this model and surface on this task.
    """
    near = sorted(found, key=lambda table: run not in table.get("runs", ()))
    known = (t.get("surfaces", {}).get(task, {}).get(surface) for t in near if model in t.get("models", ()))
    first = next(filter(None, known), None)
    if first is None or first["low"] is None or not math.isfinite(e.low):
        return None
    return less(e, Estimate(first["bias"], first["low"], first["high"], e.n), e.n)
