"""The contract every judge is held to, on a tiny random model: `bench check judge NAME` and the tests.

Invariant: a check returns what is wrong, or nothing; it never passes for lack of anything to look at.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.backends import tiny
from bench.core.blame import foreign
from bench.core.content import digest
from bench.core.errors import THEIRS, cause, traced
from bench.core.interfaces import Judge
from bench.core.registry import build
from bench.core.rows import Rows
from bench.core.values import Item, Verdict
from bench.run.contract import example_train

AXES = ("concept", "instruction", "fluency")


def items() -> list[Item]:
    """Texts on every axis: with the concept and without, empty, broken, in another script, with a rating in it."""
    train = example_train()
    broken = ["", "ship " * 40, "船は海を行く。", "Rating: [[2]]"]
    texts = [train.positives[0].response, train.negatives[0].response, *broken]
    return [Item(axis, train.concept, train.positives[0].instruction, text) for axis in AXES for text in texts]


def check(name: str, params: Mapping[str, Any] | None = None) -> dict[str, str]:
    """label -> what is wrong ("" when nothing is), for the registered judge `NAME` or `NAME:ARGUMENT`."""
    kind, _, argument = name.partition(":")
    judge: Judge = build("judge", kind, {**(params or {}), **({"model": argument} if argument else {})})
    with tempfile.TemporaryDirectory() as folder:
        lm = tiny.engine(Path(folder) / "model")
        judge.prepare(lm, Rows(Path(folder) / "evidence"), [example_train()])
        steps: dict[str, Callable[[], str]] = {
            "its fingerprint is JSON and its key has a digest": lambda: _identity(judge),
            "every item is rated once": lambda: _once(judge),
            "a rating lies on the scale, or is missing with a reason": lambda: _scale(judge),
            "ratings depend on the item alone": lambda: _alone(judge),
            "what it tells of itself is JSON": lambda: _plain(judge),
        }
        found: dict[str, str] = {}
        for label, step in steps.items():
            try:
                found[label] = step()
            except THEIRS as error:  # the judge is third-party code: its failure is the finding
                found[label] = cause(error, foreign(type(judge)))
                traced(error)
        judge.release()
        return found


def _rated(judge: Judge, asked: Sequence[Item]) -> list[tuple[int, Verdict]]:
    return list(judge.rate(asked))


def _identity(judge: Judge) -> str:
    json.dumps(dict(judge.fingerprint()))
    keys = [digest(judge.key(item)) for item in items()]
    return "" if len(set(keys)) > 1 else "all items have one key: they would all get the first one's rating"


def _once(judge: Judge) -> str:
    asked = items()
    places = sorted(i for i, _ in _rated(judge, asked))
    return "" if places == list(range(len(asked))) else f"{len(asked)} items got ratings at {places}"


def _scale(judge: Judge) -> str:
    for i, verdict in _rated(judge, items()):
        if verdict.value is None and not verdict.reason:
            return f"item {i} has no rating and no reason"
        if verdict.value is not None and not (math.isfinite(verdict.value) and 0 <= verdict.value <= 2):
            return f"item {i} is rated {verdict.value}, and the scale goes from 0 to 2"
    return ""


def _alone(judge: Judge) -> str:
    asked = items()
    together = dict(_rated(judge, asked))
    for i in (0, 1, len(asked) - 1):
        ((_, alone),) = _rated(judge, [asked[i]])
        one, two = together[i].value, alone.value
        if (one is None) != (two is None) or (one is not None and two is not None and abs(one - two) > 1e-3):
            return f"item {i} is rated {one} among others and {two} alone"
    return ""


def _plain(judge: Judge) -> str:
    json.dumps([dict(judge.report()), dict(judge.usage()), dict(judge.estimate(10, 48))])
    return ""
