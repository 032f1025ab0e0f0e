"""What several tests hold of a batch: that it equals its rows, and how much of its prompts is read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bench.backends.hf.backend import HFBackend
from bench.backends.hf.below import Below
from bench.core.edits import Edit
from bench.core.steering import Steering
from bench.core.values import Request, Sampling

TEXTS = ("What is it?", "Tell me where the old house by the river stands.", "Why?")


def requests_under(edits: Sequence[Edit]) -> list[Request]:
    """A request under each of the edits, and a bare one."""
    found = [
        Request((("user", TEXTS[i % 3]),), Steering(edits=(edit,)), Sampling(6), i) for i, edit in enumerate(edits)
    ]
    return [*found, Request((("user", TEXTS[0]),), None, Sampling(6), 99)]


def equals_its_rows(lm: HFBackend, requests: Sequence[Request]) -> None:
    """Answers, positions and scores of the requests together are those of each alone."""
    together = dict(lm.generate(requests))
    for i, request in enumerate(requests):
        [(_, alone)] = lm.generate([request])
        assert together[i].text == alone.text, i
        assert together[i].positions_edited == alone.positions_edited
    scored = [replace(request, target=" a small house") for request in requests]
    found = dict(lm.logprobs(scored))
    for i, request in enumerate(scored):
        [(_, own)] = lm.logprobs([request])
        assert np.allclose(found[i].logprobs, own.logprobs, atol=1e-4), i


def watch_reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Of each batch to come: the last block that its prompts are read once up to, and how many are."""
    batches: list[tuple[int, int]] = []
    read = Below.read_once

    def watched(self: Below, inputs: Any, which: Any, until: int, keep: Any) -> Any:
        batches.append((until, 0 if which is None else max(which) + 1))
        return read(self, inputs, which, until, keep)

    monkeypatch.setattr(Below, "read_once", watched)
    return batches
