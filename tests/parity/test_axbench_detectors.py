"""Attributions to tokens, and bags of words, against AxBench's."""

from __future__ import annotations

from typing import Any

import numpy as np
import peers
import pytest

from bench import Budget, Context, Example
from bench.backends.fake.backend import FakeBackend
from bench.backends.hf.backend import HFBackend
from bench.core.content import Array
from bench.core.naming import build_method
from methods._attribution import AttributionDetector

GIVEN = peers.fixture("axbench_detectors")["values"]
READOUT = np.array(GIVEN["readout"], np.float32)
TEXTS = [Example(*row) for row in GIVEN["texts"]]
POINTS = tuple(k / GIVEN["steps"] for k in range(GIVEN["steps"]))
"""Where AxBench takes gradients on the way from the baseline."""


@pytest.fixture(scope="module", params=peers.KINDS)
def read(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Context]:
    lm = HFBackend(peers.model(tmp_path_factory.mktemp(request.param), request.param), dtype="float32")
    return GIVEN[request.param], Context(lm, Budget(24, 0, 1, 1))


def held(ctx: Context, expected: list[list[float]], points: tuple[float, ...], baseline: Array | None) -> None:
    """Attributions of every token, and the score of every text, are the peer's."""
    chats = [text.messages for text in TEXTS]
    gradients = ctx.lm.gradients(chats, 2, READOUT, points, baseline)
    origin = 0 if baseline is None else baseline
    for one, gradient, tokens in zip(ctx.read(chats, 2), gradients, expected, strict=True):
        np.testing.assert_allclose(np.abs((one.values[2] - origin) * gradient).sum(1), tokens, rtol=1e-4, atol=1e-4)
    scores = AttributionDetector(2, READOUT, points, baseline, False).score(ctx, TEXTS)
    np.testing.assert_allclose(scores, [max(tokens) for tokens in expected], rtol=1e-4)


def test_input_times_gradient_is_axbench_s(read: tuple[dict[str, Any], Context]) -> None:
    given, ctx = read
    held(ctx, given["ixg"], (1.0,), None)


def test_integrated_gradients_are_axbench_s_on_its_path(read: tuple[dict[str, Any], Context]) -> None:
    given, ctx = read
    held(ctx, given["ig"], POINTS, np.array(given["baseline"], np.float32))


def test_a_bag_of_words_gives_axbench_s_probability() -> None:
    ctx = Context(FakeBackend(), Budget(24, 0, 1, 1))
    detector = build_method("bow", {"bow": {}}).fit(ctx, peers.train())[0].detector
    assert detector is not None
    odds = detector.score(ctx, [Example(*row) for row in GIVEN["words"]["texts"]])
    np.testing.assert_allclose(1 / (1 + np.exp(-odds)), GIVEN["words"]["probability"], atol=1e-4)
