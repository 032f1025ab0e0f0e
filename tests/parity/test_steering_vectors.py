"""CAA, and vectors of its users' library, against that library's own code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peers
import pytest
import torch

from bench import Add, Budget, Choice, Context, Request, Steering, interchange
from bench.backends.hf.backend import HFBackend
from bench.core.naming import build_method

GIVEN = peers.fixture("steering_vectors")["values"]
TRAIN = replace(peers.train(), choices=tuple(Choice(*row) for row in GIVEN["choices"]))


@pytest.fixture(scope="module", params=peers.KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], HFBackend]:
    lm = HFBackend(peers.model(tmp_path_factory.mktemp(request.param), request.param), dtype="float32")
    return GIVEN[request.param], lm


def fit(lm: HFBackend, layer: int) -> tuple[Steering, float]:
    (found,) = build_method("caa", {"caa": {"layer": layer}}).fit(Context(lm, Budget(24, 0, 1, 1)), TRAIN)
    assert isinstance(found.steering, Steering)
    return found.steering, found.note["raw_norm"]


def logprobs(lm: HFBackend, steering: Steering) -> tuple[float, ...]:
    ((_, score),) = lm.logprobs([Request((("user", GIVEN["ask"]),), steering, target=GIVEN["target"])])
    return score.logprobs


@pytest.mark.parametrize("layer", [1, 2])
def test_caa_s_vector_is_the_library_s_with_its_length(model: tuple[dict[str, Any], HFBackend], layer: int) -> None:
    given, lm = model
    steering, norm = fit(lm, layer)
    (edit,) = steering.edits
    assert isinstance(edit, Add)
    assert peers.cosine(edit.value, given["vectors"][str(layer)]) > 1 - 1e-9
    np.testing.assert_allclose(norm * edit.value, given["vectors"][str(layer)], atol=1e-4)


def test_caa_steers_an_answer_as_the_library_does(model: tuple[dict[str, Any], HFBackend]) -> None:
    given, lm = model
    steering, norm = fit(lm, 2)
    found = logprobs(lm, steering.scaled(GIVEN["multiplier"] * norm))
    np.testing.assert_allclose(found, given["answer"], atol=1e-4)


def test_a_file_of_its_activations_steers_as_they_do(model: tuple[dict[str, Any], HFBackend], tmp_path: Path) -> None:
    given, lm = model
    torch.save({2: torch.tensor(given["vectors"]["2"])}, tmp_path / "v.pt")
    steering = interchange.load(tmp_path / "v.pt", "steering-vectors", sink=True)
    np.testing.assert_allclose(logprobs(lm, steering.scaled(GIVEN["multiplier"])), given["everywhere"], atol=1e-4)
