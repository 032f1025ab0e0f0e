"""Projections and floors against their papers' code: AlphaSteer's matrix, conceptors, activation capping."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import peers
import pytest

from bench import Budget, Context, Fitted, Scaled, Steering, build_method
from bench.backends.hf.backend import HFBackend
from methods.alphasteer import blind

ALPHASTEER = peers.fixture("alphasteer")["values"]
CONCEPTOR = peers.fixture("conceptor")["values"]
CAPPING = peers.fixture("capping")["values"]
STATES = 3 * np.random.default_rng(9).standard_normal((4, 32))
Fit = Callable[..., Fitted]


@pytest.fixture(scope="module", params=peers.KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, HFBackend]:
    return request.param, HFBackend(peers.model(tmp_path_factory.mktemp("m"), request.param), dtype="float32")


def fit(lm: HFBackend, name: str, **params: Any) -> tuple[Fitted, tuple[Scaled, ...]]:
    (found,) = build_method(name, {name: params}).fit(Context(lm, Budget(24, 512, 1, 1)), peers.train())
    assert isinstance(found.steering, Steering)
    edits = tuple(edit for edit in found.steering.edits if isinstance(edit, Scaled))
    assert len(edits) == len(found.steering.edits)
    return found, edits


@pytest.mark.parametrize("case", ALPHASTEER["given"])
def test_alphasteer_s_matrix_is_the_peers_and_has_rank_one(case: str) -> None:
    null, ridge = map(float, case.split())
    rng = np.random.default_rng(8)
    plus = rng.standard_normal((30, 12)) + 2 * np.eye(12)[0]
    minus = rng.standard_normal((40, 12)) * np.r_[np.full(4, 0.1), np.ones(8)]
    r = rng.standard_normal(12)
    # Theirs is in the states' own units, ours in those of what the projected states' mean eigenvalue is.
    axes = np.linalg.eigh(minus.T @ minus)[1][:, : int(null * 12)]
    relative = ridge / ((plus @ axes) ** 2).sum() * axes.shape[1]
    found = np.outer(blind(plus, minus, null, relative), r)
    assert np.abs(found - ALPHASTEER["given"][case]).max() < 1e-7


def test_alphasteer_reads_states_as_the_peer_s_matrix(model: tuple[str, HFBackend]) -> None:
    kind, lm = model
    theirs = ALPHASTEER["models"][kind]
    _, (edit,) = fit(lm, "alphasteer", layer=1, null=0.5, ridge=10 * 16 / theirs["trace"])
    reached = np.array(theirs["reached"])
    size = np.linalg.norm(reached)
    assert np.abs(edit.write[0] - reached / size).max() < 1e-4
    pushed = (peers.changed(edit, STATES) - STATES) * size
    assert pushed == pytest.approx(np.array(theirs["reads"]), abs=1e-4 * np.abs(theirs["reads"]).max())


@pytest.mark.parametrize("quota", CONCEPTOR["llama"])
def test_a_conceptor_of_our_quota_is_the_peers_of_its_aperture(model: tuple[str, HFBackend], quota: str) -> None:
    kind, lm = model
    theirs = CONCEPTOR[kind][quota]
    found, (edit,) = fit(lm, "conceptor", layer=1, quota=float(quota))
    assert found.note["quota"] == pytest.approx(theirs["trace"] / 32, abs=1e-5)
    projected = peers.changed(edit, STATES) / found.note["gain"]
    assert np.abs(STATES + 0.6 * projected - theirs["steered"]).max() < 1e-4
    assert np.abs(0.6 * projected).max() > 0.1


def test_capping_s_floor_is_the_peers_cap_turned_round(model: tuple[str, HFBackend]) -> None:
    kind, lm = model
    theirs = CAPPING["models"][kind]
    bare = peers.logprobs(lm, CAPPING["ask"], Steering(), CAPPING["targets"])
    for (percentile, expected), floors in zip(theirs["logprobs"].items(), theirs["floors"], strict=True):
        found, edits = fit(lm, "capping", layer="1:2", percentile=float(percentile))
        assert [float(edit.bias[0]) for edit in edits] == pytest.approx(floors, abs=1e-4)
        if percentile == "25":
            assert np.abs(peers.changed(edits[0], STATES) - theirs["capped"]).max() < 1e-4
        logs = peers.logprobs(lm, CAPPING["ask"], peers.everywhere(found.steering), CAPPING["targets"])
        assert logs == pytest.approx(expected, abs=1e-4)
    assert logs != pytest.approx(bare, abs=1e-2)
