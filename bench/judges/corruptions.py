"""Ways a text breaks, for calibrating and validating judges.

Invariant: deterministic in the text; each result keeps about the text's length.
"""

from __future__ import annotations

import numpy as np

from bench.core.content import digest


def words_shuffled(text: str) -> str:
    """The same words in random order."""
    words = text.split()
    order = np.random.default_rng(int(digest(text), 16)).permutation(len(words))
    return " ".join(words[i] for i in order)


def looped(text: str) -> str:
    """The first words again and again, as collapsed decoding does."""
    words = text.split()
    period = 1 + int(digest(text), 16) % 6
    return " ".join(words[i % min(period, len(words))] for i in range(len(words)))


def truncated(text: str) -> str:
    """Every word cut to a piece of itself, as text does whose tokens come apart."""
    return " ".join(word[: max(1, (len(word) + 1) // 2)] for word in text.split())


CORRUPTIONS = {"words_shuffled": words_shuffled, "looped": looped, "truncated": truncated}
