"""What a detector scores and how that is measured, against AxBench's inference and evaluators."""

from __future__ import annotations

from typing import Any

import numpy as np
import peers
import pytest

from bench import Budget, Context, Example
from bench.backends.hf.backend import HFBackend
from bench.core.naming import build_method
from bench.stats.detection import metrics, separation
from methods._directions import DirectionDetector

GIVEN = peers.fixture("axbench_detection")["values"]
SETS = peers.fixture("axbench_detection_metrics")["values"]


@pytest.fixture(scope="module", params=peers.KINDS)
def read(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Context]:
    lm = HFBackend(peers.model(tmp_path_factory.mktemp(request.param), request.param), dtype="float32")
    return GIVEN["scores"][request.param], Context(lm, Budget(24, 0, 1, 1))


def test_diffmean_s_scores_are_axbench_s(read: tuple[dict[str, Any], Context]) -> None:
    expected, ctx = read
    detector = build_method("diffmean", {"diffmean": {"layer": 2}}).fit(ctx, peers.train())[0].detector
    assert isinstance(detector, DirectionDetector)
    texts = [Example(asked, said) for asked, said, _ in GIVEN["texts"]]
    reads = ctx.read([text.messages for text in texts], 2)
    for one, tokens in zip(reads, expected["tokens"], strict=True):
        np.testing.assert_allclose(one.values[2] @ detector.weight + detector.bias, tokens, atol=1e-3)
    np.testing.assert_allclose(detector.score(ctx, texts), expected["max"], atol=1e-3)
    labelled = list(zip(texts, [label for *_, label in GIVEN["texts"]], strict=True))
    assert separation(ctx, detector, labelled)["auroc"] == pytest.approx(expected["auroc"], abs=1e-9)


@pytest.mark.parametrize("given", SETS)
def test_metrics_are_axbench_s_ties_or_not(given: dict[str, Any]) -> None:
    counts = {"positive": given["positives"], "negative": given["negatives"], "hard negative": given["hard"]}
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    found = metrics(np.array(given["scores"]), kinds)
    for axis in ("auroc", "f1", "f1_hard"):
        assert found[axis] == pytest.approx(given[axis], abs=1e-8), axis
    # AxBench leaves a concept out where no threshold is better than predicting nothing; nothing told apart is .5.
    assert found["hard_accuracy"] == pytest.approx(given.get("hard_accuracy", 0.5), abs=1e-8)
