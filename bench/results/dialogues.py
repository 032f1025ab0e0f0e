"""Runs of dialogues by turn: scores, how they fall or rise, and how much of a turn repeats earlier ones.

Invariant: a dialogue counts once in its concept, and concepts are what intervals resample, as everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bench.results.runs import Run
from bench.stats.surface import ngrams

GRAM = 4
"""Words of a piece of text that repeats an earlier one."""

Dialogues = dict[str, list[list[Mapping[str, Any]]]]
"""concept -> its dialogues -> their samples in order of turns."""


def of(run: Run) -> Dialogues:
    """The dialogues of a run; empty where its task has none."""
    found: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for sample in run.data["samples"]:
        if "turn" in sample:
            found.setdefault(sample["concept"], {}).setdefault(_name(sample), []).append(sample)
    return {c: [sorted(one, key=lambda s: s["turn"]) for one in own.values()] for c, own in found.items()}


def _name(sample: Mapping[str, Any]) -> str:
    """A dialogue's name: what the ids of its turns share, the number of the answer included."""
    asked, _, again = str(sample["id"]).partition("#")
    return f"{asked.rpartition('.')[0]}#{again}"


def by_turn(dialogues: Dialogues, axis: str) -> dict[int, dict[str, float]]:
    """turn -> concept -> mean rating over its dialogues, those that are rated."""
    found: dict[int, dict[str, float]] = {}
    for concept, own in dialogues.items():
        for turn in dict.fromkeys(sample["turn"] for one in own for sample in one):
            values = [v for one in own for s in one if s["turn"] == turn and (v := s["ratings"].get(axis)) is not None]
            if values:
                found.setdefault(turn, {})[concept] = math.fsum(values) / len(values)
    return dict(sorted(found.items()))


def slopes(dialogues: Dialogues, axis: str) -> dict[str, float]:
    """concept -> mean over its dialogues of the least-squares slope of a rating, a turn."""
    found = {}
    for concept, own in dialogues.items():
        each = [_slope([(s["turn"], s["ratings"].get(axis)) for s in one]) for one in own]
        if known := [value for value in each if value is not None]:
            found[concept] = math.fsum(known) / len(known)
    return found


def _slope(points: Iterable[tuple[int, float | None]]) -> float | None:
    """None where fewer than two turns are rated."""
    known = [(turn, value) for turn, value in points if value is not None]
    if len(known) < 2:
        return None
    turns, values = np.array(known, dtype=float).T
    turns = turns - turns.mean()
    return float(turns @ values / (turns @ turns))


def half_life(means: Sequence[float]) -> int | None:
    """The first turn at which a score `[turns]` is below half of its first; None where it never is, or begins at 0."""
    return next((turn for turn, value in enumerate(means, 1) if value < means[0] / 2), None)


def repeats(dialogues: Dialogues) -> dict[str, float]:
    """concept -> share of the pieces of `GRAM` words of a later turn that stood in an earlier one."""
    found = {}
    for concept, own in dialogues.items():
        shares = []
        for one in own:
            before: set[tuple[str, ...]] = set()
            for sample in one:
                words = sample.get("text", "").casefold().split()
                pieces = ngrams(words, GRAM)
                if before and pieces:
                    shares.append(sum(piece in before for piece in pieces) / len(pieces))
                before.update(pieces)
        if shares:
            found[concept] = math.fsum(shares) / len(shares)
    return found
