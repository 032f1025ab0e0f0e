"""Runs side by side: one ranked table a group, with paired differences to the best prompt.

Invariant: only runs of equal task, data, model, engine, judge and protocol stand in one table.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench import stats
from bench.core import registry
from bench.core.paths import default_results
from bench.results import validity
from bench.results.differences import difference
from bench.results.runs import Run, by_question


@dataclass(frozen=True)
class Row:
    """One line of a leaderboard."""

    run: Run
    name: str
    rank: tuple[int, int] | None
    """The best and the worst that simultaneous comparisons leave; None for a control and for what is unvalidated."""
    estimates: Mapping[str, stats.Estimate]
    against: stats.Difference | None
    p: float | None
    """Holm-corrected over the table."""
    coefficient: float | None
    missing: int
    corrected: stats.Estimate | None = None
    """`overall` less what readers found the judge to favour the method's surface by."""
    idle: bool = False
    """Whether every answer is the bare model's own: whatever it was to change, nothing changed."""


@dataclass(frozen=True)
class Table:
    """Runs of one group (same task, data, model, engine, judge, protocol), ranked."""

    group: str
    title: str
    """For readers: task, data, model and preset, and what else tells it from the tables it was made with."""
    spec: Mapping[str, Any]
    axes: tuple[str, ...]
    concepts: tuple[str, ...]
    reference: str | None
    rows: tuple[Row, ...]
    detectable: float | None = None
    scale: float = 2.0
    """The largest value of an axis."""
    may_rank: bool | None = None
    """Whether its judge passed what it must show before it ranks this task; None where no readers were asked."""
    contrasts: Mapping[str, Mapping[str, stats.Difference]] = field(default_factory=dict)
    """method -> control -> paired difference on the first axis."""
    silent: str = ""
    """Why it says nothing of one method against another: no rank, interval, difference or verdict is in it then."""

    @property
    def kind(self) -> str:
        return self.rows[0].run.kind

    @property
    def decides(self) -> bool:
        """Whether its task's score may decide between steering and prompting (`Task.decides`)."""
        return bool(getattr(registry.table("task").get(self.spec["task"]), "decides", True))

    @property
    def told(self) -> str:
        """How its scores come about, where its task says that (`Task.told`)."""
        return str(getattr(registry.table("task").get(self.spec["task"]), "told", ""))

    @property
    def scope(self) -> str:
        """What its intervals and tests speak of where its concepts are too few to be a sample; else ""."""
        concepts = list(self.rows[0].run.data["concepts"])
        if not by_question(self.rows[0].run.data):
            return ""
        return f"further questions of {concepts[0] if len(concepts) == 1 else f'these {len(concepts)} concepts'} alone"

    @property
    def unit(self) -> str:
        """What intervals resample."""
        return "concept" if set(self.concepts) <= set(self.rows[0].run.data["concepts"]) else "question"


def tables(runs: Sequence[Run]) -> list[Table]:
    """One table per group."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.data["group"], []).append(run)
    order = {"paper": 0, "standard": 1, "quick": 2}
    named = titles(groups)
    made = [_table(group, named[group], found) for group, found in groups.items()]
    return sorted(made, key=lambda t: (t.spec["task"], t.spec["model"], order[t.spec["protocol"]["preset"]], t.group))


def titles(groups: Mapping[str, Sequence[Run]]) -> dict[str, str]:
    """group -> a title of its own: what is always named, then exactly the fields in which it differs from others."""
    shown = {group: _title(runs[0].data) for group, runs in groups.items()}
    found = {}
    for group, title in shown.items():
        alike = [other for other in groups if shown[other] == title]
        fields = {other: _fields(groups[other][0].data) for other in alike}
        names = dict.fromkeys(name for own in fields.values() for name in own)
        differ = [name for name in names if len({fields[other].get(name, "none") for other in alike}) > 1]
        # Another judge has other parameters, and what has a name needs no digest.
        plainly = set(differ) - {"weights", "data"}
        told = [name for name in differ if name in plainly or not plainly]
        told = [name for name in told if not (name.startswith("judge ") and "judge" in differ)]
        found[group] = " · ".join([title, *(f"{name} {fields[group].get(name, 'none')}" for name in told)])
    return found


def _title(data: Mapping[str, Any]) -> str:
    """Task with its parameters, model, preset with what was set in it."""
    spec, own = data["spec"], data.get("asked", {}).get("protocol", {})
    extra = (f"{k} {v}" for k, v in sorted(spec["task_params"].items()) if k != "data")
    parts = ", ".join(part for part in (data_name(spec), *extra) if part)
    preset = ", ".join([f"preset {spec['protocol']['preset']}", *(f"{k} {_short(v)}" for k, v in own.items())])
    return f"{spec['task']}{f' ({parts})' if parts else ''} · {spec['model']} · {preset}"


def _fields(data: Mapping[str, Any]) -> dict[str, str]:
    """What makes a group, as text by the names that readers know."""
    spec, rules = data["spec"], data["spec"]["protocol"]
    found = {"judge": spec["judge"], "model": str(data.get("asked", {}).get("model", ""))}
    found |= {f"judge {k}": v for k, v in spec["judge_params"].items()}
    found |= {"engine": spec["backend"], "dtype": spec["dtype"]}
    found |= {k: rules[k] for k in ("strength", "compat", "seed")}
    found["concepts"] = rules["concepts"] or "all"
    nested = {f"{k} {part}": v for k in ("sampling", "budget") for part, v in rules[k].items()}
    found |= nested | {k: rules[k] for k in ("coefficients", "select", "test")}
    found |= {"data": spec["data"][:6], "weights": spec["weights"][:6]}
    return {name: _short(value) or "none" for name, value in found.items()}


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_short, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def data_name(spec: Mapping[str, Any]) -> str:
    """The name of a task's data, where it has a name: what was asked for, else what the task takes by itself."""
    usual = getattr(registry.table("task").get(spec["task"]), "data", "")
    return str(spec["task_params"].get("data", usual))


def labels(runs: Sequence[Run]) -> list[str]:
    """A name of each run of a group: its method's, with the settings that were changed where the method ran twice."""
    methods = [run.method for run in runs]
    found = [run.method if methods.count(run.method) == 1 else run.variant for run in runs]
    ids = [str(run.data["id"])[:4] for run in runs]
    # The same settings under another prompter, say.
    return [name if found.count(name) == 1 else f"{name}-{mark}" for name, mark in zip(found, ids, strict=True)]


def _table(group: str, title: str, runs: list[Run]) -> Table:
    named = dict(zip(labels(runs), runs, strict=True))
    axes = tuple(axis for axis in runs[0].data["axes"] if all(axis in run.data["axes"] for run in runs))
    scores = {axis: [run.scores(axis) for run in runs] for axis in axes}

    def whole(name: str, axis: str) -> bool:
        """Whether all runs have a score; what the data has for none (no hard negatives, say) is no gap."""
        found = [own.get(name) is not None for own in scores[axis]]
        return all(found) or (axis != "overall" and not any(found))

    concepts = tuple(name for name in runs[0].scores("overall") if all(whole(name, axis) for axis in axes))

    def values(run: Run, axis: str) -> list[float]:
        own = run.scores(axis)
        return [v for name in concepts if (v := own[name]) is not None]

    scale = float(runs[0].data.get("scale", 2.0))
    spec = runs[0].data["spec"]
    known = validity.validity(_roots(runs[0]), spec["judge"], spec["judge_params"]) if spec["judge"] else []
    may_rank = validity.may_rank(known, spec["task"], spec["model"])
    if may_rank is False:
        title += BELOW
    reference = _reference(named)
    overall = {name: values(run, "overall") for name, run in named.items()}
    silent = _silent(runs, list(overall.values()))
    ranked = {n: v for n, v in overall.items() if named[n].data["validated"] and named[n].surface != "control"}
    ranks = stats.rank_intervals(ranked) if not silent and len(ranked) > 1 else {}
    others = [name for name in named if name != reference]
    against: dict[str, stats.Difference] = {}
    if reference and not silent:
        against = {n: difference(named[n], named[reference], units=concepts) for n in others}
    corrected = dict(zip(against, stats.holm([d.p for d in against.values()]), strict=True))
    rows = [
        Row(
            run=run,
            name=name,
            rank=ranks.get(name),
            estimates={axis: _estimate(values(run, axis), scale, silent) for axis in axes},
            against=against.get(name),
            p=corrected.get(name),
            coefficient=_coefficient(run),
            missing=run.data["counts"]["missing"],
            idle=any(_alike(run, bare) for bare in runs if bare.method == "none" and bare is not run),
        )
        for name, run in named.items()
    ]
    if not silent:
        rows = [replace(row, corrected=_corrected(row, known, spec, scale)) for row in rows]
    rows.sort(key=lambda row: (-row.estimates["overall"].mean, row.name))
    controls = [n for n, run in named.items() if run.method in ("none", "shuffled", "random")]
    contrasts = {
        name: {c: difference(run, named[c], axes[0], concepts) for c in controls}
        for name, run in named.items()
        if name not in controls and not silent
    }
    spread = [d.detectable for d in against.values() if math.isfinite(d.detectable) and d.detectable > 0]
    return Table(
        group,
        title,
        spec,
        axes,
        concepts,
        reference,
        tuple(rows),
        max(spread) if spread else None,
        scale,
        may_rank,
        contrasts,
        silent,
    )


def _silent(runs: Sequence[Run], scores: Sequence[Sequence[float]]) -> str:
    """Why runs of one group say nothing of one method against another; `scores` are of the units that all have."""
    judge = runs[0].data["spec"]["judge"]
    given = [s["ratings"] for run in runs for s in run.data["samples"]]
    rated = {axis: {r[axis] for r in given if r.get(axis) is not None} for axis in runs[0].data["axes"]}
    if not any(rated.values()):
        return f"judge {judge} gave no rating that could be read" if judge else "no answer has a score"
    if not scores[0]:
        return "no concept or question has a score of every method"
    if len(runs) == 1:
        return "one method ran, and there is nothing to compare it with"
    if len(scores[0]) == 1:
        unit = "question" if by_question(runs[0].data) else "concept"
        return f"one {unit} is no sample: no interval and no test can stand on it"
    if judge and len(given) > 1 and all(len(values) <= 1 for values in rated.values()):
        return f"judge {judge} gave every answer the same ratings, and tells nothing apart"
    if not _tied(scores):
        return ""
    if judge and (blind := [axis for axis, values in rated.items() if axis != "overall" and values == {0.0}]):
        return (
            f"judge {judge} gave every answer 0 for {' and '.join(blind)}: either no answer shows it, or this judge "
            f"does not see it. bench judge validate --judge {judge} --data DATA holds it against the data's own "
            "labelled texts; the same run with another --judge keeps the answers and rates them anew"
        )
    return "all methods have the same score on every concept or question"


def _tied(scores: Sequence[Sequence[float]]) -> bool:
    return all(list(own) == list(scores[0]) for own in scores)


def _estimate(values: Sequence[float], scale: float, silent: str) -> stats.Estimate:
    e = within(stats.estimate(values), scale)
    return replace(e, low=math.nan, high=math.nan) if silent else e


def _alike(run: Run, bare: Run) -> bool:
    """Whether a run's answers are the bare model's, word for word and likelihood for likelihood."""
    if run.kind == "detector":
        return False
    told, own = (
        {s["id"]: (s.get("text", s.get("withheld")), s["ratings"]) for s in one.data["samples"]} for one in (bare, run)
    )
    both = told.keys() & own.keys()
    return bool(both) and all(told[name] == own[name] for name in both)


BELOW = " · judge below its gate"
"""In the title of a table whose judge did not pass what it must show before it ranks (docs/judge.md)."""


def _roots(run: Run) -> list[Path]:
    """The results folder of a run, and the checked one."""
    return [run.path.parents[min(3, len(run.path.parents) - 1)], default_results()]


def _corrected(
    row: Row, known: Sequence[Mapping[str, Any]], spec: Mapping[str, Any], scale: float
) -> stats.Estimate | None:
    asked = spec["task"], spec["model"], row.run.surface, row.run.data["id"]
    found = validity.corrected(row.estimates["overall"], known, *asked)
    return within(found, scale) if found else None


def banded(table: Table) -> bool:
    """Whether a table's intervals resample concepts, and not their questions."""
    return bool(set(table.concepts) & set(table.rows[0].run.data["concepts"]))


def with_band(e: stats.Estimate, banded: bool) -> stats.Estimate:
    """A mean over concepts, without its interval where they are too few to resample."""
    return e if banded else replace(e, low=math.nan, high=math.nan)


def within(e: stats.Estimate, scale: float) -> stats.Estimate:
    """An interval cut to what a score can be: the bootstrap-t knows no bounds."""
    return replace(e, low=max(e.low, 0.0), high=min(e.high, scale))


def _reference(named: Mapping[str, Run]) -> str | None:
    """The prompt baseline that did best on the select split; for detectors the model that is asked.

    One that writes several answers and keeps one is no baseline while another ran: steering writes one. Nor is one with
    a strength, which reads both prompts for every token and reaches into the model as steering does.
    """
    if "prompt-detect" in named:
        return "prompt-detect"
    prompts = baselines(named)
    return max(prompts, key=lambda name: select_score(named[name])) if prompts else None


def baselines(named: Mapping[str, Run]) -> list[str]:
    """The prompts that may be the reference, in order of name."""
    prompts = sorted(name for name, run in named.items() if run.prompted)
    plain = [name for name in prompts if named[name].samples_per_prompt == 1 and not named[name].dialled]
    return plain or prompts


def select_score(run: Run) -> float:
    """Mean overall score of the picked settings on the select split: what a method may be chosen by."""
    known = [v for v in run.scores("overall", "select").values() if v is not None]
    return math.fsum(known) / len(known) if known else -1.0


def _coefficient(run: Run) -> float | None:
    """Median picked coefficient; None for a method without one."""
    if (run.prompted and not run.dialled) or run.method == "none" or run.kind == "detector":
        return None
    return float(statistics.median(c["picked"]["coefficient"] for c in run.data["concepts"].values()))
