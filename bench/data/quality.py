"""How good made data are: what was left out, how long texts are, whether the concept shows in the words.

Invariant: computed from the texts alone; what cannot be measured is None.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.data.layout import SHARED, Text, fold


@dataclass(frozen=True)
class Answer:
    """One written text: the row it became, and how the generator ended it; `why` is empty where it is kept."""

    text: Text
    why: str
    cut: bool

    @property
    def part(self) -> str:
        return f"{self.text.split} {self.text.category}"


def report(answers: Sequence[Answer], concepts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Shares of each part's answers, lengths in words, and each concept's separability."""
    parts = {part: _part([a for a in answers if a.part == part]) for part in dict.fromkeys(a.part for a in answers)}
    kept = [a.text for a in answers if not a.why]
    own = {str(i): _concept(kept, str(i), one) for i, one in enumerate(concepts)}
    return {"parts": parts, "concepts": own}


def _part(answers: Sequence[Answer]) -> dict[str, Any]:
    kept = [a for a in answers if not a.why]
    left = Counter(a.why for a in answers if a.why)
    seen = Counter((a.text.concept, fold(a.text.response)) for a in kept)
    words = [len(a.text.response.split()) for a in kept]
    low, middle, high = (int(q) for q in np.percentile(words, (10, 50, 90))) if words else (None, None, None)
    return {
        "asked": len(answers),
        "kept": len(kept),
        "empty": _share(left["empty"], len(answers)),
        "refused": _share(left["refused"], len(answers)),
        "truncated": _share(sum(a.cut for a in kept), len(kept)),
        "duplicate": _share(sum(n - 1 for n in seen.values()), len(kept)),
        "words": {"p10": low, "median": middle, "p90": high},
    }


def _share(count: int, total: int) -> float | None:
    return round(count / total, 4) if total else None


def _concept(texts: Sequence[Text], name: str, one: Mapping[str, Any]) -> dict[str, Any]:
    shared = [t for t in texts if t.concept == SHARED and t.genre == one["genre"]]
    own = [t for t in texts if t.concept == name]
    train = [t for t in own if t.split == "train"], shared
    tested = tuple(
        [t for t in own if t.split == "evaluation" and t.category == c]
        for c in ("positive", "negative", "hard negative")
    )
    return {
        "concept": one["concept"],
        "genre": one["genre"],
        "auroc_train": separability(*train),
        "auroc_evaluation": separability(*train, tested[0], tested[1]),
        "auroc_hard": separability(*train, tested[0], tested[2]),
    }


def separability(
    positives: Sequence[Text],
    negatives: Sequence[Text],
    held_positives: Sequence[Text] | None = None,
    held_negatives: Sequence[Text] | None = None,
) -> float | None:
    """AUROC of a logistic regression on bags of words: on held texts, else cross-validated.

    None where a class has fewer than two texts (or one, among the held): nothing can be said.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline

    if min(len(positives), len(negatives)) < 2:
        return None
    texts = [t.response for t in (*positives, *negatives)]
    labels = np.array([1] * len(positives) + [0] * len(negatives))
    model = make_pipeline(CountVectorizer(token_pattern=r"\w+", binary=True), LogisticRegression(max_iter=1000))
    if held_positives is None or held_negatives is None:
        folds = StratifiedKFold(min(5, len(positives), len(negatives)), shuffle=True, random_state=0)
        scores = cross_val_predict(model, texts, labels, cv=folds, method="decision_function")
        return round(float(roc_auc_score(labels, scores)), 4)
    if not (held_positives and held_negatives):
        return None
    scores = model.fit(texts, labels).decision_function([t.response for t in (*held_positives, *held_negatives)])
    held = [1] * len(held_positives) + [0] * len(held_negatives)
    return round(float(roc_auc_score(held, scores)), 4)


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """A report for a person."""
    yield f"{'part':24} {'asked':>6} {'kept':>6} {'empty':>6} {'refused':>8} {'cut':>6} {'twice':>6}   words 10/50/90 %"
    for part, row in found["parts"].items():
        shares = [
            f"{row[k]:.0%}" if row[k] is not None else "-" for k in ("empty", "refused", "truncated", "duplicate")
        ]
        spread = " / ".join(str(v) if v is not None else "-" for v in row["words"].values())
        left = f"{part:24} {row['asked']:6} {row['kept']:6}"
        yield f"{left} {shares[0]:>6} {shares[1]:>8} {shares[2]:>6} {shares[3]:>6}   {spread}"
    yield "positives against negatives by their words alone, AUROC (training texts, evaluation, hard negatives):"
    for name, row in found["concepts"].items():
        values = [row[k] for k in ("auroc_train", "auroc_evaluation", "auroc_hard")]
        yield f"  {name} {row['concept']}: " + ", ".join("-" if v is None else f"{v:.2f}" for v in values)
    yield f"{found['requests']} replies, {found['tokens']} tokens written; the folder has " + ", ".join(
        f"{count} {level}" for level, count in found["check"].items()
    )
