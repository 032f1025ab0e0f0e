"""How well a judge tells labelled texts apart: AUROC per axis, missing ratings, length bias, shift.

Invariant: calibration sees training texts, the figures evaluation texts, and the two share none; a
missing rating is counted and left out, never a score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.core.content import digest
from bench.core.errors import BenchError, UsageError
from bench.core.interfaces import Task
from bench.core.values import Advance, Concept, Example, Item, Verdict
from bench.judges.corruptions import CORRUPTIONS
from bench.judges.instrument import Instrument
from bench.measure import readers
from bench.measure.reference import described, load
from bench.results import ratings
from bench.results.runs import Run, finite
from bench.stats.agreement import spearman
from bench.stats.intervals import auroc, estimate

MOVED, BROKEN = 18, 8
"""Texts of each class of a concept that are paired with another's instruction, and that are broken in
each way. Their AUROC is near 1, where more texts narrow no interval over concepts but cost passes."""


@dataclass(frozen=True)
class Question:
    """One text to rate, and what is known of it."""

    item: Item
    label: str
    group: str
    """`concept`, `instruction`, `fluency`: the axis tested; or `shift`: concept of a text that was broken."""


def questions(concept: Concept, texts: Sequence[tuple[Example, str]]) -> list[Question]:
    """Everything asked about one concept's labelled texts."""
    found = [Question(_item("concept", concept, e), label, "concept") for e, label in texts]
    for label in ("positive", "negative"):
        own = [e for e, kind in texts if kind == label][:MOVED]
        moved = [
            Example(asked, e.response) for e, asked in zip(own, _others(own), strict=True) if asked != e.instruction
        ]
        found += [Question(_item("instruction", concept, e), "matched", "instruction") for e in own]
        found += [Question(_item("instruction", concept, e), "shuffled", "instruction") for e in moved]
        # A text of few words can come out of a corruption as it was.
        whole = [e for e in own if all(corrupt(e.response) != e.response for corrupt in CORRUPTIONS.values())]
        for e in whole[:BROKEN]:
            found.append(Question(_item("fluency", concept, e), "natural", "fluency"))
            found.append(Question(_item("concept", concept, e), f"{label}/natural", "shift"))
            for kind, corrupt in CORRUPTIONS.items():
                broken = Example(e.instruction, corrupt(e.response))
                found.append(Question(_item("fluency", concept, broken), kind, "fluency"))
                found.append(Question(_item("concept", concept, broken), f"{label}/{kind}", "shift"))
    return found


def _item(axis: str, concept: Concept, e: Example) -> Item:
    return Item(axis, concept, e.instruction, e.response)


def _others(rows: Sequence[Example]) -> list[str]:
    """For each row another row's instruction, the same on every machine."""
    seed = int(digest([e.instruction for e in rows]), 16)
    ring = [int(i) for i in np.random.default_rng(seed).permutation(len(rows))]
    after = dict(zip(ring, [*ring[1:], *ring[:1]], strict=True))
    return [rows[after[i]].instruction for i in range(len(rows))]


def validate(
    instrument: Instrument,
    data: str,
    limit: int = 0,
    collapsed: Sequence[Run] = (),
    human: Sequence[Path] = (),
    key: Path | None = None,
    advance: Advance = lambda steps: None,
) -> dict[str, Any]:
    """The validity of a judge as JSON: `judge`, `axes`, and what else was seen.

    `collapsed` are runs whose test texts are known to be broken down; `human` are CSV files of readers' ratings
    (`ratings.read`), `key` says where the rated answers came from.
    """
    task = load(data, limit)
    concepts = list(task.concepts())
    texts = {c.id: list(task.evaluation(c)) for c in concepts}
    if not all(texts.values()):
        if not human:
            raise UsageError(f"data {data!r} has no labelled evaluation texts: give a folder in AxBench's layout")
        concepts = []
    found: dict[str, Any] = {"judge": instrument.name, "axes": {}, "data": Path(data).name}
    if concepts:
        _check_apart(task, concepts)
        instrument.prepare(task.calibration())
        asked = {c.id: questions(c, texts[c.id]) for c in concepts}
        asked[concepts[0].id] += [
            Question(Item("fluency", concepts[0], s["instruction"], s["text"]), "collapsed", "fluency")
            for run in collapsed
            for s in run.data["samples"]
        ]
        rated = {
            name: list(zip(rows, instrument.rate([q.item for q in rows], advance), strict=True))
            for name, rows in asked.items()
        }
        found |= _figures(rated, bool(collapsed))
    if human:
        known = [file for file in (key, *map(ratings.key_of, human)) if file and file.is_file()]
        origins = {name: origin for file in known for name, origin in ratings.read_key(file).items()}
        found |= readers.against(instrument, task, human, origins, advance)
    return found | {"judge_params": dict(instrument.judge.fingerprint()), "model": instrument.backend.fingerprint()}


def count(data: str, limit: int = 0) -> dict[str, int]:
    """concept -> ratings asked for."""
    task = load(data, limit)
    return {c.id: len(questions(c, task.evaluation(c))) for c in task.concepts()}


def _check_apart(task: Task, concepts: Sequence[Concept]) -> None:
    """No evaluation text may be among the texts that calibrate."""
    for concept in concepts:
        train = task.train(concept)
        seen = {e.response for e in (*train.positives, *train.negatives, *train.hard_negatives)}
        if both := seen & {e.response for e, _ in task.evaluation(concept)}:
            raise BenchError(f"concept {concept.id}: training and evaluation share a text: {min(both)[:60]!r}")


Rated = Mapping[str, Sequence[tuple[Question, Verdict]]]


def _figures(rated: Rated, collapsed: bool) -> dict[str, Any]:
    against = {
        "concept": ("positive", {"negative": "negative", "hard_negative": "hard negative"}),
        "instruction": ("matched", {"shuffled": "shuffled"}),
        "fluency": ("natural", {kind: kind for kind in CORRUPTIONS}),
    }
    axes = {
        axis: {
            name: separation(*(_values(rated, axis, label) for label in (better, worse)))
            for name, worse in others.items()
        }
        for axis, (better, others) in against.items()
    }
    if collapsed:
        broken = [v for values in _values(rated, "fluency", "collapsed").values() for v in values]
        natural = _values(rated, "fluency", "natural")
        axes["fluency"]["collapsed"] = separation(natural, dict.fromkeys(natural, broken))
    return {
        "axes": axes,
        "concepts": len(rated),
        "missing": {axis: _missing(rated, axis) for axis in against},
        "length_bias": {axis: _length_bias(rated, axis) for axis in against},
        "corruption_shift": {
            f"{label}/{kind}": _shift(rated, label, kind) for label in ("positive", "negative") for kind in CORRUPTIONS
        },
    }


def _values(rated: Rated, group: str, label: str) -> dict[str, list[float]]:
    """concept -> the ratings of its texts with this label that are not missing."""
    return {
        name: [v.value for q, v in rows if (q.group, q.label) == (group, label) and v.value is not None]
        for name, rows in rated.items()
    }


def separation(better: Mapping[str, Sequence[float]], worse: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Mean over concepts of the AUROC within a concept, with its bootstrap-t interval over concepts.

    `n` counts texts. A concept that lacks one of the two classes is left out. AUROC has no values
    above 1, so the interval is cut there.
    """
    both = [(b, w) for name, b in better.items() if b and (w := worse.get(name))]
    found = [auroc(np.array([*b, *w]), np.repeat([1, 0], [len(b), len(w)])) for b, w in both]
    e = estimate(found)
    return {
        "auroc": finite(e.mean),
        "low": finite(float(np.clip(e.low, 0, 1))),
        "high": finite(float(np.clip(e.high, 0, 1))),
        "n": sum(len(b) + len(w) for b, w in both),
    }


def _missing(rated: Rated, axis: str) -> dict[str, Any]:
    values = [v.value for rows in rated.values() for q, v in rows if q.item.axis == axis]
    gone = sum(v is None for v in values)
    return {"missing": gone, "n": len(values), "rate": finite(gone / max(1, len(values)))}


def _length_bias(rated: Rated, axis: str) -> dict[str, Any]:
    """Spearman of rating with length in words within one class of one concept, mean over concepts."""
    per_concept = []
    for rows in rated.values():
        own = [(q, v.value) for q, v in rows if q.group == axis and v.value is not None]
        cells = []
        for label in dict.fromkeys(q.label for q, _ in own):
            pairs = [(len(q.item.text.split()), value) for q, value in own if q.label == label]
            cells.append(spearman(np.array(pairs, dtype=float).T))
        if known := [c for c in cells if not math.isnan(c)]:
            per_concept.append(math.fsum(known) / len(known))
    return described(estimate(per_concept), "spearman")


def _shift(rated: Rated, label: str, kind: str) -> dict[str, Any]:
    """Mean change of the concept rating when a text is broken in one way, over concepts."""
    changes = []
    for rows in rated.values():
        whole = [v.value for q, v in rows if (q.group, q.label) == ("shift", f"{label}/natural")]
        torn = [v.value for q, v in rows if (q.group, q.label) == ("shift", f"{label}/{kind}")]
        pairs = [b - a for a, b in zip(whole, torn, strict=True) if a is not None and b is not None]
        if pairs:
            changes.append(math.fsum(pairs) / len(pairs))
    return described(estimate(changes), "change")
