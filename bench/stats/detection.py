"""Concept detection: how well a detector tells labelled texts apart (AxBench's Axis C).

Invariant: hard negatives are reported on their own axes, not dropped; a threshold is never chosen on them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.core.content import Array
from bench.core.interfaces import Context, Detector
from bench.core.values import Example
from bench.stats.intervals import auroc

RARE = 99
"""Negatives to a positive where a concept is rare: it shows in 1 % of texts."""
HARD = "hard negative"
AGAINST = {"auroc": "negative", "hard_auroc": HARD}
"""Axis -> what positives are told from."""
Labels = Sequence[str] | Array
"""Per text: positive, negative, hard negative, or other (a negative of another concept)."""


def separation(ctx: Context, detector: Detector, labelled: Sequence[tuple[Example, str]]) -> dict[str, float]:
    """Every metric of a detector on labelled texts."""
    scores = np.asarray(detector.score(ctx, [text for text, _ in labelled]), dtype=float)
    return metrics(scores, [kind for _, kind in labelled])


def metrics(scores: Array, labels: Labels) -> dict[str, float]:
    """AUROC of positives against negatives, and against hard negatives alone (`hard_auroc`; left out where
    there are none), with the metrics of `thresholds`."""
    kinds = np.asarray(labels)
    sides = {axis: np.isin(kinds, ("positive", other)) for axis, other in AGAINST.items() if (kinds == other).any()}
    return {axis: auroc(scores[own], kinds[own] == "positive") for axis, own in sides.items()} | thresholds(
        scores, kinds
    )


def thresholds(scores: Array, labels: Labels) -> dict[str, float]:
    """What a detector is worth once it must decide.

    `f1`: the best F1 of positives among negatives. `f1_hard`: F1 at the lowest such threshold with hard
    negatives among the texts, as AxBench reports it. `f1_rare`: the best where the concept shows in 1 % of
    texts; negatives, those of other concepts too, are weighted up to that. `hard_accuracy`: at the threshold
    with the largest TPR - FPR on positives and negatives, the mean of the accuracies on positives and on
    hard negatives. Without hard negatives `f1_hard` and `hard_accuracy` are left out.
    """
    kinds = np.asarray(labels)
    easy, all_of_them = np.isin(kinds, ("positive", "negative")), kinds != HARD
    f1, lowest = best_f1(scores[easy], kinds[easy] == "positive")
    found = {"f1": f1}
    positive = kinds[all_of_them] == "positive"
    weight = RARE * positive.sum() / max(1, (~positive).sum())
    found["f1_rare"] = best_f1(scores[all_of_them], positive, weight)[0]
    if (kinds == HARD).any():
        told, own = scores >= lowest, kinds != "other"
        hits = (told & (kinds == "positive")).sum()
        found["f1_hard"] = float(2 * hits / ((kinds == "positive").sum() + (told & own).sum()))
        cut = youden(scores[easy], kinds[easy] == "positive")
        parts = (scores[kinds == "positive"] >= cut).mean(), (scores[kinds == HARD] < cut).mean()
        found["hard_accuracy"] = float(np.mean(parts))
    return found


def best_f1(scores: Array, positive: Array, weight: float = 1.0) -> tuple[float, float]:
    """Largest F1 over all thresholds and the lowest threshold that has it, a text being predicted from the
    threshold on; each negative counts `weight` times."""
    cuts, true, false = _counts(scores, positive)
    found = 2 * true / (positive.sum() + true + weight * false)
    return float(found.max()), float(cuts[np.flatnonzero(found == found.max())[-1]])


def youden(scores: Array, positive: Array) -> float:
    """The threshold with the largest TPR - FPR; infinite where none is better than predicting nothing."""
    cuts, true, false = _counts(scores, positive)
    gain = true / positive.sum() - false / (~positive).sum()
    return float(cuts[gain.argmax()]) if gain.max() > 0 else np.inf


def _counts(scores: Array, positive: Array) -> tuple[Array, Array, Array]:
    """Distinct scores from the highest down, and how many positives and negatives lie at or above each."""
    cuts, place = np.unique(-scores, return_inverse=True)
    true, false = (np.bincount(place[side], minlength=len(cuts)).cumsum() for side in (positive, ~positive))
    return -cuts, true, false


def placements(scores: Array, positive: Array) -> Array:
    """For each text the share of the other class it lies on the right side of `[N]`, ties half.

    Their mean over either class, and so over all, is the AUROC: per-text values whose mean is the
    score of the concept (DeLong's structural components).
    """
    above = np.sign(scores[positive][:, None] - scores[~positive][None, :]) / 2 + 0.5
    found = np.empty(len(scores))
    found[positive], found[~positive] = above.mean(1), above.mean(0)
    return found
