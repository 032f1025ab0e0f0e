"""Rotations of states against their papers' code: angular steering's plane and angle, spherical steering's arc."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peers
import pytest

from bench import Budget, Context, Rotate, Steering, build_method
from bench.backends.hf.backend import HFBackend
from methods.angular import orthogonal

ANGULAR = peers.fixture("angular")["values"]
SPHERICAL = peers.fixture("spherical")["values"]
_RNG = np.random.default_rng(5)
STATES = 3 * _RNG.standard_normal((8, 12)).astype(np.float32)
FIRST, SECOND = _RNG.standard_normal((2, 12)).astype(np.float32)
FIRST /= np.linalg.norm(FIRST)
BASIS = np.stack([FIRST, orthogonal(SECOND, FIRST)])


def fitted(lm: HFBackend, name: str, **params: Any) -> Steering:
    (found,) = build_method(name, {name: params}).fit(Context(lm, Budget(24, 512, 1, 1)), peers.train())
    assert isinstance(found.steering, Steering)
    return found.steering


@pytest.mark.parametrize("case", ANGULAR["turned"])
def test_angular_turns_a_state_where_the_peer_does(case: str) -> None:
    angle, adaptive = map(int, case.split())
    edit = Rotate(layer=0, basis=BASIS, angle=math.radians(angle), when="aligned" if adaptive else "always")
    turned = peers.changed(edit, STATES)
    assert np.abs(turned - ANGULAR["turned"][case]).max() < 2e-5
    assert np.abs(turned - STATES).max() > 1


@pytest.mark.parametrize("kind", peers.KINDS)
def test_angular_finds_the_plane_and_steers_the_model_alike(tmp_path: Path, kind: str) -> None:
    lm, theirs = HFBackend(peers.model(tmp_path, kind), dtype="float32"), ANGULAR["models"][kind]
    given = np.random.default_rng(6).standard_normal((2, 32))
    for adaptive in (False, True):
        found = fitted(lm, "angular", layer=1, layers=("1:2",), angle=60, adaptive=adaptive)
        assert [edit.layer for edit in found.edits] == [1, 2]
        (basis,) = {id(edit.basis): edit.basis for edit in found.edits if isinstance(edit, Rotate)}.values()
        assert np.abs(given @ basis.T @ basis - theirs["plane"]).max() < 2e-5
        turned = np.array([math.cos(math.pi / 3), math.sin(math.pi / 3)]) @ basis
        assert np.abs(turned - theirs["turned"]).max() < 1e-5
        logs = peers.logprobs(lm, ANGULAR["ask"], peers.everywhere(found), ANGULAR["targets"])
        assert logs == pytest.approx(theirs[f"logprobs {int(adaptive)}"], abs=1e-4)


@pytest.mark.parametrize("case", SPHERICAL["moved"])
def test_spherical_moves_the_states_the_peer_moves_as_far(case: str) -> None:
    kappa, alpha, beta = map(float, case.split())
    edit = Rotate(layer=0, basis=BASIS, mode="towards", when="confident", kappa=kappa, beta=beta, strength=alpha)
    found, theirs = peers.changed(edit, STATES), SPHERICAL["moved"][case]
    assert np.abs(found - theirs["states"]).max() < 2e-5
    assert (found != STATES).any(1).tolist() == theirs["moved"]


@pytest.mark.parametrize("kind", peers.KINDS)
def test_spherical_finds_the_prototype_and_steers_the_model_alike(tmp_path: Path, kind: str) -> None:
    lm, theirs = HFBackend(peers.model(tmp_path, kind), dtype="float32"), SPHERICAL["models"][kind]
    found = fitted(lm, "spherical", layer=1, states="last").scaled(0.7)
    (edit,) = found.edits
    assert isinstance(edit, Rotate)
    assert np.abs(edit.basis[0] - theirs["prototype"]).max() < 1e-5
    away = replace(found, edits=(replace(edit, basis=-edit.basis),))
    bare = peers.logprobs(lm, SPHERICAL["ask"], Steering(), SPHERICAL["targets"])
    moved = 0.0
    for sign, steering in ((1, found), (-1, away)):
        logs = peers.logprobs(lm, SPHERICAL["ask"], steering, SPHERICAL["targets"])
        assert logs == pytest.approx(theirs[f"logprobs {sign}"], abs=1e-4)
        moved = max(moved, float(np.abs(np.subtract(logs, bare)).max()))
    assert moved > 0.01
