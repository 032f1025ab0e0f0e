"""Runs as a list, and as pandas frames: what a notebook or a script reads results with.

Invariant: every number comes from where the reports take it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.core.errors import UsageError
from bench.results import comparison, verdict
from bench.results.runs import ARCHIVE, Run, chosen, finite, read, trials
from bench.results.tables import Table, data_name, tables
from bench.stats.significance import Difference

if TYPE_CHECKING:
    import pandas as pd


class Results(list[Run]):
    """Runs of any number of methods and tasks, with what they say as frames.

    `reasons` has what was asked for and did not run: method -> why.
    """

    def __init__(self, runs: Iterable[Run] = (), reasons: Mapping[str, str] | None = None) -> None:
        super().__init__(runs)
        self.reasons = dict(reasons or {})

    @cached_property
    def tables(self) -> list[Table]:
        """Ranked tables, one for each group of runs that may be compared."""
        return tables(self)

    def table(self) -> pd.DataFrame:
        """The leaderboards: a row for each method of each table, the best first.

        `overall` and every other axis with its 95 % interval (`_low`, `_high`); `delta` is overall minus the
        table's prompt, paired, `p_holm` its p-value, corrected over the table.
        """
        import pandas as pd

        return pd.DataFrame([row for table in self.tables for row in _wide(table)])

    def compare(self, one: str, two: str) -> pd.DataFrame:
        """Run `one` minus run `two` (methods, run folders or ids), axis by axis, paired over what both were asked.

        Raises UsageError where a name is none or several of these runs, or the two were not made alike.
        """
        import pandas as pd

        found = comparison.compare(*(chosen(name, self) for name in (one, two)))
        rows = {
            axis: _interval("difference", a.difference)
            | {"p": a.difference.p, "n": a.difference.n, "detectable": a.difference.detectable}
            | {f"{per}s_won": win.mean for per, win in a.wins.items()}
            | ({"at_equal_length": a.length.equal.mean} if a.length else {})
            for axis, a in found.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("axis")

    def samples(self, *methods: str, split: Literal["select", "test"] = "test") -> pd.DataFrame:
        """The answers behind the numbers: of the named methods (runs, ids), else of every run.

        `text` is the answer, `AXIS_rating` what it was given on an axis. On the select split there is a row for each
        setting that was tried. Raises UsageError where a name is none or several of these runs.
        """
        import pandas as pd

        if split not in ("select", "test"):
            raise UsageError(f"split = {split!r}: select or test")
        rows = []
        for run in [chosen(name, self) for name in methods] or self:
            for row in run.data["samples"] if split == "test" else trials(run):
                setting = run.data["concepts"][row["concept"]]["picked"] if split == "test" else row
                kept = {k: v for k, v in row.items() if not isinstance(v, list | dict)}
                rows.append(
                    {"method": run.method, "task": run.data["spec"]["task"], "run": run.data["id"]}
                    | kept
                    | {key: setting[key] for key in ("candidate", "coefficient")}
                    | {f"{axis}_rating": value for axis, value in row["ratings"].items()}
                )
        return pd.DataFrame(rows)

    def verdicts(self) -> pd.DataFrame:
        """Steer or prompt, a row for each task: the best prompt against the best steering, and what may be said."""
        import pandas as pd

        rows = [
            {"table": one.table.title, "prompt": one.prompt.name, "steering": one.steering.name}
            | _interval("difference", one.difference)
            | {"p_holm": one.p, "registered": one.registered}
            | {"verdict": one.said, "reason": one.reason}
            for one in verdict.answers(self.tables)
        ]
        return pd.DataFrame(rows)


def load(folder: Path | str) -> Results:
    """Every run below a folder (`results`, `results/axbench`), in a fixed order; those of its archive are left out.

    Raises UsageError where there is no such folder, BenchError for a damaged run.
    """
    if not Path(folder).is_dir():
        raise UsageError(f"no folder {folder}")
    found = sorted(Path(folder).rglob("run.json"))
    return Results(read(path) for path in found if ARCHIVE not in path.relative_to(folder).parts)


def _interval(name: str, d: Difference) -> dict[str, float]:
    return {name: d.mean, f"{name}_low": d.low, f"{name}_high": d.high}


def _wide(table: Table) -> Iterator[dict[str, Any]]:
    """The methods of a table, each as one row."""
    for name, rows in groupby(records(table), key=itemgetter("method")):
        first, *others = rows
        bounds = {f"{one['axis']}{end}": one[k] for one in (first, *others) for end, k in ENDS.items()}
        shared = {k: v for k, v in first.items() if k not in ("axis", *ENDS.values())}
        yield {"method": name, "rank": shared["rank"], "rank_high": shared["rank_high"], **bounds, **shared}


ENDS = {"": "mean", "_low": "low", "_high": "high"}


def records(table: Table) -> list[dict[str, Any]]:
    """A table as data: one row a method and axis, under the columns of `leaderboard.csv`."""
    spec = table.spec
    shared = {
        "task": spec["task"],
        "data": data_name(spec),
        "model": spec["model"],
        "preset": spec["protocol"]["preset"],
        "judge": spec["judge"],
        "backend": spec["backend"],
        "dtype": spec["dtype"],
        "group": table.group,
    }
    found = []
    for row in table.rows:
        for axis in ("overall", *table.axes[:-1]):
            e, d = row.estimates[axis], row.against if axis == "overall" else None
            found.append(
                shared
                | {
                    "method": row.name,
                    "surface": row.run.surface,
                    "id": row.run.data["id"],
                    "rank": row.rank[0] if row.rank else None,
                    "rank_high": row.rank[1] if row.rank else None,
                    "axis": axis,
                }
                | {"mean": finite(e.mean), "low": finite(e.low), "high": finite(e.high), "concepts": e.n}
                | {
                    "delta": finite(d.mean) if d else None,
                    "delta_low": finite(d.low) if d else None,
                    "delta_high": finite(d.high) if d else None,
                    "p": finite(d.p) if d else None,
                    "p_holm": finite(row.p) if d and row.p is not None else None,
                    "reference": table.reference,
                    "corrected": finite(row.corrected.mean) if axis == "overall" and row.corrected else None,
                    "corrected_low": finite(row.corrected.low) if axis == "overall" and row.corrected else None,
                    "corrected_high": finite(row.corrected.high) if axis == "overall" and row.corrected else None,
                    "coefficient": row.coefficient,
                    "generations": row.run.data["counts"]["generations"],
                    "tokens": row.run.data["counts"]["tokens"],
                    "missing": row.missing,
                    "idle": row.idle,
                }
            )
    return found
