"""A judge against readers: how far it agrees, whom it favours, what it makes of broken text, and what it may rank.

Invariant: agreement is measured on what is ranked, and no figure is of ratings that the judge was fitted on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.core.content import Array, digest
from bench.core.interfaces import Task
from bench.core.values import Advance, Concept, Item
from bench.judges.instrument import Instrument
from bench.measure import reference
from bench.measure.reference import described, load
from bench.results import ratings
from bench.results.ratings import Answer, Origin, Rated
from bench.results.runs import finite
from bench.stats.agreement import agree, clustered, spearman
from bench.stats.intervals import auroc, estimate

WORN, FINE = 0.25, 1.5
"""Readers' fluency up to which an answer counts as broken, and from which as fine."""


def against(
    instrument: Instrument, task: Task, files: Sequence[Path], key: Mapping[str, Origin], advance: Advance
) -> dict[str, Any]:
    """What readers' ratings say of a judge: `human` (agreement by axis and of the composite), `readers` (among
    themselves), `ranked` (task by task, on what each ranks), `surfaces` (whom it favours there), `broken`, `ceiling`,
    `garbage`, and `gate`: what it may rank.

    A judge that was fitted on these ratings is taken at the figures of answers it had not seen.
    """
    rows = [row for file in files for row in ratings.read(file)]
    rated = ratings.merged(rows)
    found: dict[str, Any] = {"human": {}}
    judged = _judged(instrument, task, [answer for answer, _ in rated], advance)
    for axis in (*ratings.AXES, "overall"):
        both = [
            (a, b, answer.concept)
            for own, (answer, given) in zip(judged, rated, strict=True)
            if (a := _on(axis, own)) is not None and (b := _on(axis, given)) is not None
        ]
        if both:
            one, two, clusters = zip(*both, strict=True)
            found["human"][axis] = _agreement(np.array([one, two], dtype=float), clusters)
    found["readers"] = _among(rows)
    found |= as_ranked(judged, rated, key)
    found |= surface(judged, rated)
    garbage = [
        v for own in _judged(instrument, task, reference.garbage(), advance) if (v := _on("overall", own)) is not None
    ]
    found["garbage"] = {"highest": finite(max(garbage, default=0.0)), "n": len(garbage)}
    texts = [digest(file.read_text("utf-8"))[:12] for file in files]
    found["models"], found["runs"] = (sorted({getattr(o, part) for o in key.values()}) for part in ("model", "run"))
    if [getattr(instrument.judge, "fitted_on", "")] == texts:
        found |= _held_out(found, instrument.judge.held_out)  # type: ignore[attr-defined]
    return found | {"gate": gate(found)}


def count(files: Sequence[Path]) -> int:
    """Ratings that a judge is asked for; none without files."""
    answers = {row.answer for file in files for row in ratings.read(file)}
    return len(ratings.AXES) * (len(answers) + len(reference.garbage())) if files else 0


def _held_out(found: Mapping[str, Any], kept: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a judge on the ratings it was fitted on, replaced by those of answers it had not seen: the worse
    of held-out concepts and held-out methods; intervals, which nobody measured there, go."""

    def worse(*names: str) -> dict[str, Any]:
        rows = []
        for part in kept.values():
            for name in names:
                part = part[name]
            rows.append(part)
        return {"spearman": min(r for r, _ in rows), "low": None, "high": None, "mae": max(m for _, m in rows)}

    human = {axis: e | worse(axis) for axis, e in found["human"].items()}
    ranked = {task: e | worse("ranked", task) for task, e in found["ranked"].items()}
    unseen = {name: kept["concepts"][name] for name in ("surfaces", "broken", "ceiling")}
    return {"human": human, "ranked": ranked, "held_out": list(kept)} | unseen


def surface(
    judged: Sequence[Mapping[str, float | None]], rated: Sequence[tuple[Answer, Mapping[str, float]]]
) -> dict[str, Any]:
    """`broken`: how well fluency tells what readers found fine from what they found broken; `ceiling`: share of ratings
    at the top of each axis."""
    found: dict[str, Any] = {}
    fluent = [
        (own.get("fluency"), given["fluency"])
        for own, (_, given) in zip(judged, rated, strict=True)
        if "fluency" in given
    ]
    telling = [(value, shown) for value, shown in fluent if value is not None and not WORN < shown < FINE]
    labels = np.array([shown >= FINE for _, shown in telling])
    if 0 < labels.sum() < len(labels):
        found["broken"] = {
            "auroc": finite(auroc(np.array([value for value, _ in telling]), labels)),
            "fine": int(labels.sum()),
            "broken": int((~labels).sum()),
        }
    given = {axis: [v for own in judged if (v := own.get(axis)) is not None] for axis in ratings.AXES}
    found["ceiling"] = {axis: finite(float(np.mean(np.array(own) > 1.9))) for axis, own in given.items() if own}
    return found


def composite(given: Mapping[str, Any]) -> Any:
    """The harmonic mean of the three axes, 0 where one of them is; arrays or numbers by axis."""
    rows = np.array([given[axis] for axis in ratings.AXES], dtype=float)
    with np.errstate(divide="ignore"):
        return len(rows) / (1 / rows).sum(0)


def _on(axis: str, given: Mapping[str, float | None]) -> float | None:
    if axis != "overall":
        return given.get(axis)
    own = [given.get(name) for name in ratings.AXES]
    return None if any(v is None for v in own) else float(composite(dict(zip(ratings.AXES, own, strict=True))))


def _judged(
    instrument: Instrument, task: Task, answers: Sequence[Answer], advance: Advance
) -> list[dict[str, float | None]]:
    """axis -> rating of each answer. A concept of the data or of the mini set is calibrated as in a run, any other
    by what these have in common."""
    mini = load("mini")
    known = {name: (source, c) for source in (mini, task) for c in source.concepts() for name in (c.id, c.text)}
    found: list[dict[str, float | None]] = [{} for _ in answers]
    for source in (task, mini):
        places = [i for i, a in enumerate(answers) if known.get(a.concept, (mini, None))[0] is source]
        if not places:
            continue
        # Each set is calibrated whole, as a run calibrates it: an instruction anchor belongs to a genre.
        instrument.prepare(source.calibration())
        concepts = {
            i: known.get(answers[i].concept, (mini, Concept(answers[i].concept, answers[i].concept)))[1] for i in places
        }
        asked = [(i, axis) for i in places for axis in ratings.AXES]
        items = [Item(axis, concepts[i], answers[i].instruction, answers[i].answer) for i, axis in asked]
        for (i, axis), verdict in zip(asked, instrument.rate(items, advance), strict=True):
            found[i][axis] = verdict.value
    return found


def _among(rows: Sequence[Rated]) -> dict[str, Any]:
    """How far two readers of the same answers agree: the two that share most."""
    given: dict[str, dict[Answer, Mapping[str, float]]] = {}
    for row in rows:
        given.setdefault(row.reader, {})[row.answer] = row.ratings
    pairs = [(a, b) for i, a in enumerate(sorted(given)) for b in sorted(given)[i + 1 :]]
    shared = {(a, b): [answer for answer in given[a] if answer in given[b]] for a, b in pairs}
    pair = max(pairs, key=lambda names: len(shared[names]), default=None)
    if pair is None or len(shared[pair]) < 2:
        return {}
    found: dict[str, Any] = {"names": list(pair)}
    for axis in (*ratings.AXES, "overall"):
        both = [
            (x, y, answer.concept)
            for answer in shared[pair]
            if (x := _on(axis, given[pair[0]][answer])) is not None
            and (y := _on(axis, given[pair[1]][answer])) is not None
        ]
        if len(both) > 1:
            e = agree(*zip(*both, strict=True))
            found[axis] = {k: finite(getattr(e, k).mean) for k in ("kappa", "spearman", "alpha")} | {"n": e.n}
    return found


def as_ranked(
    judged: Sequence[Mapping[str, float | None]],
    rated: Sequence[tuple[Answer, Mapping[str, float]]],
    key: Mapping[str, Origin],
) -> dict[str, Any]:
    """`ranked`: task -> agreement on what it ranks; `surfaces`: task -> surface -> judge minus readers there, with its
    interval over concepts. Empty where nobody knows where the answers came from."""
    rows: dict[str, list[tuple[float, float, str, str]]] = {}
    for own, (answer, given) in zip(judged, rated, strict=True):
        origin = key.get(answer.id)
        if origin is None or set(given) != set(ratings.AXES):
            continue
        judge, readers = (reference.scorer(origin.task)(answer, side) for side in (own, given))
        if judge is not None and readers is not None:
            rows.setdefault(origin.task, []).append((judge, readers, answer.concept, origin.surface))
    found: dict[str, Any] = {"ranked": {}, "surfaces": {}}
    for name, both in sorted(rows.items()):
        judge_, readers_, concepts, surfaces = zip(*both, strict=True)
        values = np.array([judge_, readers_], dtype=float)
        found["ranked"][name] = _agreement(values, concepts)
        for surface in sorted(set(surfaces)):
            gaps: dict[str, list[float]] = {}
            for a, b, concept, one in both:
                if one == surface:
                    gaps.setdefault(concept, []).append(a - b)
            e = described(estimate([math.fsum(v) / len(v) for v in gaps.values()]), "bias")
            own_ = e | {"concepts": len(gaps), "n": sum(map(len, gaps.values()))}
            found["surfaces"].setdefault(name, {})[surface] = own_
    return found


def _agreement(values: Array, clusters: Sequence[str]) -> dict[str, Any]:
    e = described(clustered(spearman, values, clusters), "spearman")
    return e | {"mae": finite(float(np.abs(values[0] - values[1]).mean())), "n": values.shape[1]}


ORDER, SIZE = 0.75, 0.25
"""Least Spearman and largest mean error against readers, on what a task ranks."""


def gate(found: Mapping[str, Any]) -> dict[str, Any]:
    """What a judge may rank: `tasks`, each with whether it may, and `lines`, what was asked and found.

    A line that cannot be measured is not passed. A task that no reader covered is judged by the three axes together
    (`overall`).
    """
    highest = max(found["ceiling"].values(), default=None)
    common: dict[str, tuple[float | None, Callable[[float], bool]]] = {
        "fine against broken answers: AUROC at least .98": (_part(found, "broken", "auroc"), lambda v: v >= 0.98),
        "no garbage above .5": (_part(found, "garbage", "highest"), lambda v: v <= 0.5),
        "at most 60 % of answers at the ceiling of an axis": (highest, lambda v: v <= 0.6),
    }
    lines = [
        {"asked": asked, "value": value, "passed": value is not None and bool(enough(value))}
        for asked, (value, enough) in common.items()
    ]
    sound = all(line["passed"] for line in lines)
    tasks = {}
    for name, e in {"overall": found["human"].get("overall", {}), **found["ranked"]}.items():
        order, size = e.get("spearman"), e.get("mae")
        near = order is not None and size is not None and order >= ORDER and size <= SIZE
        lines.append({"asked": f"{name}: Spearman at least .75, error at most .25", "value": order, "passed": near})
        tasks[name] = sound and near
    return {"tasks": tasks, "lines": lines}


def _part(found: Mapping[str, Any], outer: str, inner: str) -> float | None:
    value = found.get(outer, {}).get(inner)
    return None if value is None else float(value)
