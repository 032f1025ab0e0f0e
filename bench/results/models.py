"""Methods on several models: the tables of one task and preset side by side.

Invariant: a cell is a row of the model's own table; nothing is computed across models, whose answers differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.core.content import digest
from bench.results.tables import Row, Table, data_name
from bench.results.verdict import weight

SAME = ("task", "task_params", "data", "judge", "judge_params")
"""Fields of a spec that tables share which stand side by side, with their preset."""


@dataclass(frozen=True)
class SideBySide:
    """One task at one preset: a column a model, a row a method."""

    title: str
    columns: Mapping[str, Table]
    """Name of a model -> its table."""
    rows: Mapping[str, Mapping[str, Row]]
    """Method -> model -> its row there, for models that it ran on; those with the largest share of the scale first."""


def side_by_side(tables: Sequence[Table]) -> list[SideBySide]:
    """One for each task, with its settings, data and judge, and preset that ran on more than one model.

    Of several tables of a model (of two engines, say) the one is taken that answers for it (`verdict.weight`).
    """
    groups: dict[str, dict[tuple[str, str], Table]] = {}
    for table in tables:
        spec = table.spec
        group = groups.setdefault(digest([spec[k] for k in SAME], spec["protocol"]["preset"]), {})
        place = spec["model"], spec["weights"]
        if place not in group or weight(table) > weight(group[place]):
            group[place] = table
    return [_made(group) for group in groups.values() if len(group) > 1]


def _made(group: Mapping[tuple[str, str], Table]) -> SideBySide:
    models = [model for model, _ in group]
    # Two checkpoints in folders of one name are told apart by their weights.
    columns = {m if models.count(m) == 1 else f"{m} ({weights[:6]})": table for (m, weights), table in group.items()}
    found: dict[str, dict[str, Row]] = {}
    for name, table in columns.items():
        for row in table.rows:
            found.setdefault(row.name, {})[name] = row

    def order(method: str) -> tuple[float, str]:
        shares = [row.estimates["overall"].mean / columns[name].scale for name, row in found[method].items()]
        known = [share for share in shares if math.isfinite(share)]
        return -sum(known) / len(known) if known else math.inf, method

    spec = next(iter(columns.values())).spec
    data = f" ({name})" if (name := data_name(spec)) else ""
    judge = f" · judge {spec['judge']}" if spec["judge"] else ""
    title = f"{spec['task']}{data} · preset {spec['protocol']['preset']}{judge}"
    return SideBySide(title, columns, {method: found[method] for method in sorted(found, key=order)})
