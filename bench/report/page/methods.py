"""What the page says of a method: its class's own description, and how it did concept by concept.

Invariant: descriptions come from docstrings and fields alone; a run's details come from its `run.json` alone.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

from bench.core import registry
from bench.report import catalogue
from bench.report.page.encoding import key
from bench.results import second_judge
from bench.results.runs import Run
from bench.results.tables import Table


def described(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """Every shipped method and every one that `runs` have, by surface and name."""
    known = registry.table("method")
    surfaces = {name: cls.surface for name, cls in known.items() if cls.__module__.startswith("methods.")}
    surfaces |= {run.method: run.surface for run in runs}
    found = [_described(name, surface, known) for name, surface in surfaces.items()]
    return sorted(found, key=lambda one: (one["surface"], one["name"]))


def _described(name: str, surface: str, known: Mapping[str, type[Any]]) -> dict[str, Any]:
    cls = known.get(name)
    if cls is None:  # a method made of others, or a plugin that is not loaded
        made = [part for part in re.findall(r"[\w.-]+", name) if part in known]
        return {"name": name, "surface": surface, "made": made, "parts": []}
    return {
        "name": name,
        "surface": surface,
        "paper": cls.paper,
        "made": [part for part in name.split("+") if part in known] if "+" in name else [],
        "parts": [list(part) for part in catalogue.paragraphs(inspect.getdoc(cls) or "")],
        "marks": catalogue.marks(cls),
        "needs": sorted(cls.needs),
        "views": sorted(cls.views),
        "gives": sorted(cls.provides),
        "fields": [list(pair) for pair in catalogue.fields(cls)],
    }


def file_of(run: Run) -> str:
    """Where the details of a run stand, in its table's folder."""
    return f"run-{key(run.data['id'])}"


def details(run: Run, table: Table) -> dict[str, Any]:
    """One run: its settings, and per concept the scores on both splits and what was picked."""
    data = run.data
    axes = ("overall", *table.axes[:-1])
    others = [o for o in second_judge.of(run) if o.data["concepts"]]
    return {
        "id": data["id"],
        "params": {k: v for k, v in data["spec"]["method_params"].items() if k != "type"},
        "commit": data.get("provenance", {}).get("commit"),
        "judges": [o.judge for o in others],
        "concepts": [
            {
                "id": name,
                "picked": [c["picked"]["candidate"], c["picked"]["coefficient"]],
                "strength": c.get("strength"),
                "note": c.get("note") or {},
                "layers": c.get("layers") or [],
                "prompt": run.prompt(name),
                "test": [c["test"].get(axis) for axis in axes],
                "others": [o.data["concepts"].get(name, {}).get("overall") for o in others],
                "select": [[t["candidate"], t["coefficient"], t.get("overall")] for t in c["select"]],
            }
            for name, c in data["concepts"].items()
        ],
    }
