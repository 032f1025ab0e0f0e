"""Fit the default judge to the readers' ratings, and say how well it foretells those it has not seen.

    python tools/fit_judge.py        # reads results/judges/reference.csv, writes bench/judges/ensemble.json

Nested: each figure is of answers whose concept (or method) no fit saw, and the strength of regularisation is chosen
inside, on the rest. The file that is shipped is fitted on all of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from bench.core.content import Array, digest
from bench.core.paths import cache_root
from bench.core.rows import Rows
from bench.core.store import write_whole
from bench.core.values import Concept, Item
from bench.judges import ensemble
from bench.judges.corruptions import CORRUPTIONS
from bench.judges.instrument import NoModel
from bench.judges.rules import rule_of
from bench.measure import readers, reference
from bench.measure.readers import composite
from bench.results import ratings
from bench.stats.agreement import spearman

ROOT = Path(__file__).resolve().parents[1]
RATINGS = ROOT / "results" / "judges" / "reference.csv"
OUT = ROOT / "bench" / "judges" / ensemble.FILE
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0)
"""Inverse regularisation to choose from."""
FOLDS, NEUTRAL, BROKEN = 8, 36, 10


def fit(x: Array, y: Array, strength: float) -> ensemble.Levels:
    scaler = StandardScaler().fit(x)
    made = [
        LogisticRegression(C=strength, max_iter=5000).fit(scaler.transform(x), y >= t - 0.01) for t in ensemble.LEVELS
    ]
    return ensemble.Levels(
        scaler.mean_, scaler.scale_, np.vstack([m.coef_[0] for m in made]), np.array([m.intercept_[0] for m in made])
    )


def strength(x: Array, y: Array, groups: Sequence[str]) -> float:
    """The regularisation under which the ratings of held-out groups are likeliest."""
    surprise = dict.fromkeys(STRENGTHS, 0.0)
    levels = np.abs(y[:, None] - np.array([0.0, *ensemble.LEVELS])).argmin(1)  # a mean of readers may lie between
    for train, test in GroupKFold(5).split(x, y, groups):
        for c in STRENGTHS:
            chances = fit(x[train], y[train], c).chances(x[test])
            surprise[c] -= float(np.log(np.maximum(chances[np.arange(len(test)), levels[test]], 1e-3)).sum())
    return min(surprise, key=lambda c: surprise[c])


def foretold(x: Array, y: dict[str, Array], used: dict[str, Array], groups: Any, broken: Array) -> Any:
    """axis -> ratings of answers whose group was held out."""
    found = {}
    for axis, values in y.items():
        found[axis] = np.zeros(len(values))
        for train, test in GroupKFold(FOLDS).split(x, values, groups):
            own = train[used[axis][train]]
            c = strength(x[own], values[own], groups[own])
            found[axis][test] = fit(*_with(axis, x[own], values[own], broken), c).rating(x[test])
    return found


def _with(axis: str, x: Array, y: Array, broken: Array) -> tuple[Array, Array]:
    """What fluency learns from besides: plain texts broken on purpose, which no reader needs to see to rate 0."""
    if axis != "fluency":
        return x, y
    return np.vstack([x, broken]), np.concatenate([y, np.zeros(len(broken))])


def agreement(both: Array) -> list[float]:
    """Spearman and mean absolute error of two rows."""
    return [round(spearman(both), 3), round(float(np.abs(both[0] - both[1]).mean()), 3)]


def ranked(
    found: dict[str, Array], y: dict[str, Array], answers: Sequence[Any], tasks: Sequence[str]
) -> dict[str, Any]:
    """task -> agreement on what that task ranks (suppression wants the concept absent, a rule is read), by task."""
    made: dict[str, Any] = {}
    for task in sorted(set(tasks)):
        own = [i for i, name in enumerate(tasks) if name == task]
        score = reference.scorer(task)
        sides = [[score(answers[i], {axis: v[axis][i] for axis in v}) for i in own] for v in (found, y)]
        made[task] = agreement(np.array(sides, dtype=float))
    return made


def main() -> None:
    rated = ratings.merged(ratings.read(RATINGS))
    key = ratings.read_key(ratings.key_of(RATINGS))
    answers = [answer for answer, _ in rated]
    y = {axis: np.array([ratings[axis] for _, ratings in rated]) for axis in ratings.AXES}
    items = [Item("concept", Concept(a.concept, a.concept), a.instruction, a.answer) for a in answers]
    neutral = _neutral()
    ensemble.fitted = lambda: {"neutral": neutral}  # type: ignore[assignment]
    judge = ensemble.Ensemble()
    judge.prepare(NoModel(), Rows(cache_root() / "rows" / "fit-judge" / digest(neutral)), [])
    x = judge.features(items)
    broken = judge.features(_broken())
    # A rule is read, not foretold, so its answers teach nothing about concepts.
    ruled = np.array([rule_of(item.concept) is not None for item in items])
    used = {axis: ~ruled if axis == "concept" else np.ones(len(answers), bool) for axis in y}
    groups = {
        "concepts": np.array([a.concept for a in answers]),
        "methods": np.array([key[a.id].method for a in answers]),
    }
    held: dict[str, Any] = {}
    for name, own in groups.items():
        found = foretold(x, y, used, own, broken)
        found["concept"][ruled] = y["concept"][ruled]
        both = np.array([composite(found), composite(y)])[:, ~ruled]
        held[name] = {axis: agreement(np.array([found[axis], y[axis]])[:, used[axis]]) for axis in y} | {
            "overall": agreement(both),
            "ranked": ranked(found, y, answers, [key[a.id].task for a in answers]),
        }
        seen = [{axis: float(values[i]) for axis, values in found.items()} for i in range(len(answers))]
        held[name] |= readers.surface(seen, rated) | {"surfaces": readers.as_ranked(seen, rated, key)["surfaces"]}
    axes = {}
    for axis in y:
        own = used[axis]
        chosen = strength(x[own], y[axis][own], groups["concepts"][own])
        made = fit(*_with(axis, x[own], y[axis][own], broken), chosen)
        axes[axis] = {"strength": chosen} | {
            name: np.round(getattr(made, name), 5).tolist() for name in ("mean", "scale", "weights", "intercepts")
        }
    provenance = {
        "reference": digest(RATINGS.read_text("utf-8"))[:12],
        "answers": len(answers),
        "reads with": judge.model,
        "held out": held,
    }
    data = {"provenance": provenance, "features": list(ensemble.FEATURES), "neutral": neutral, "axes": axes}
    write_whole(OUT, (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode())
    print(json.dumps(held, indent=1))


def _broken() -> list[Item]:
    """Plain answers of the shipped data, broken in each of three ways, under their own instructions."""
    found = []
    for path in sorted((ROOT / "tasks" / "data" / "mini" / "genres").glob("*.json")):
        for row in json.loads(path.read_text("utf-8"))["train"][-BROKEN:]:
            text = " ".join(row["response"].split()[:36])
            for kind in CORRUPTIONS.values():
                found.append(Item("fluency", Concept("none", "something else"), row["instruction"], kind(text)))
    return found


def _neutral() -> list[str]:
    """Plain answers of the shipped data, cut to what an answer of a run has."""
    found: list[str] = []
    files = sorted((ROOT / "tasks" / "data" / "mini" / "genres").glob("*.json"))
    for path in files:
        rows = json.loads(path.read_text("utf-8"))["train"]
        found += [" ".join(row["response"].split()[:36]) for row in rows[: NEUTRAL // len(files)]]
    return found


if __name__ == "__main__":
    main()
