"""What a run did to plain answers, as a reader of its record sees it.

Invariant: numbers stand beside each other only where they are of the same plain answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bench.results.runs import Run


def picked(run: Run, name: str) -> dict[str, float]:
    """concept -> `kl` or `surprise` of the picked setting, where it was read."""
    found = {}
    for concept, own in run.data["concepts"].items():
        for one in own.get("damage", ()):
            if all(one[part] == own["picked"][part] for part in ("candidate", "coefficient")):
                found[concept] = float(one[name])
    return found


def limits(run: Run) -> list[str]:
    """Values of KL at which its scores are known, as they are written in its record, the smallest first."""
    known = {limit for own in run.data["concepts"].values() for limit in own.get("at_most", {})}
    return sorted(known, key=float)


def at_most(run: Run, limit: str, bare: Run | None) -> dict[str, float]:
    """concept -> select score with no more than so much damage. Where no setting is so mild that is the bare model's:
    who may do no more does nothing. Empty where that is not known."""
    found: dict[str, float | None] = {}
    for concept, own in run.data["concepts"].items():
        if own.get("damage"):
            does = own if _mild(own, limit) or bare is None else bare.data["concepts"].get(concept, {})
            found[concept] = does.get("at_most", {}).get(limit) if _mild(own, limit) or bare else None
    if any(value is None for value in found.values()):
        return {}
    return {concept: float(value) for concept, value in found.items() if value is not None}


def mild(run: Run, limit: str) -> float:
    """Share of the concepts in which some setting is so mild."""
    own = [_mild(found, limit) for found in run.data["concepts"].values() if found.get("damage")]
    return sum(own) / len(own) if own else 0.0


def _mild(concept: Mapping[str, Any], limit: str) -> bool:
    return any(one["kl"] <= float(limit) for one in concept["damage"])


def curve(run: Run) -> list[tuple[float, float]]:
    """(mean KL, mean overall select score) over concepts of each strength tried, the mildest first, with the candidate
    that was picked; of a method without a dial the one point of its picks. Strengths that not all concepts were tried
    at are left out."""
    points: dict[float, list[tuple[float, float]]] = {}
    concepts = [own for own in run.data["concepts"].values() if own.get("damage")]
    for own in concepts:
        scores = {(row["candidate"], row["coefficient"]): row["overall"] for row in own["select"] or ()}
        for one in own["damage"]:
            score = scores.get((one["candidate"], one["coefficient"]))
            if one["candidate"] == own["picked"]["candidate"] and score is not None:
                points.setdefault(one["coefficient"], []).append((one["kl"], score))
    whole = [np.mean(each, axis=0) for each in points.values() if len(each) == len(concepts)]
    return sorted((float(kl), float(score)) for kl, score in whole)


def same(runs: Sequence[Run]) -> list[Run]:
    """Those of them that read the plain answers that most read."""
    of = [run.data["neutral"]["digest"] for run in runs if "neutral" in run.data]
    usual = max(of, key=of.count, default=None)
    return [run for run in runs if "neutral" in run.data and run.data["neutral"]["digest"] == usual]
