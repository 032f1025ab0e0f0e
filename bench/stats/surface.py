"""What the surface of a text says without any model: how much of it is not said twice.

Invariant: pure functions of texts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """The runs of `n` tokens, in order."""
    return list(zip(*(tokens[k:] for k in range(n)), strict=False))


def distinct(texts: Sequence[str], n: int) -> float | None:
    """Mean over texts of distinct n-grams of words over all of them; None where no text has n words."""
    shares = []
    for words in (text.casefold().split() for text in texts):
        if grams := ngrams(words, n):
            shares.append(len(set(grams)) / len(grams))
    return float(np.mean(shares)) if shares else None


def repeated(tokens: Sequence[str], n: int) -> float:
    """Share of the runs of `n` tokens that occurred before."""
    runs = ngrams(tokens, n)
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
