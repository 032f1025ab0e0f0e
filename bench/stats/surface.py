"""What the surface of a text says without any model: how much of it is not said twice.

Invariant: pure functions of texts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def distinct(texts: Sequence[str], n: int) -> float | None:
    """Mean over texts of distinct n-grams of words over all of them; None where no text has n words."""
    shares = []
    for words in (text.casefold().split() for text in texts):
        grams = list(zip(*(words[k:] for k in range(n)), strict=False))
        if grams:
            shares.append(len(set(grams)) / len(grams))
    return float(np.mean(shares)) if shares else None
