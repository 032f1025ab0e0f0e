"""The rating a model gives when asked: the mean over its possible replies, not one sampled reply."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench import Array, Backend, Request


def expected(lm: Backend, questions: Sequence[str], replies: Sequence[str]) -> Array:
    """Σ_k k p_k / Σ_k p_k `[len(questions)]`, p_k the probability of reply k to a question."""
    requests = [Request((("user", question),), target=reply) for question in questions for reply in replies]
    found = dict(lm.logprobs(requests))
    logs = np.array([found[i].total for i in range(len(requests))]).reshape(len(questions), len(replies))
    shares = np.exp(logs - logs.max(1, keepdims=True))
    rating: Array = shares @ np.arange(len(replies)) / shares.sum(1)
    return rating
