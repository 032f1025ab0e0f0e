"""Velocity fields against their papers' code: ODESteer's classifier, K-Steering's gradient, FLAS's flow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peers
import pytest

from bench import Array, Budget, ConceptFlow, Context, Edit, NetworkField, Steering, build_method
from bench.backends.hf.backend import HFBackend
from methods.k_steering import KSteering
from methods.odesteer import ODESteer

ODE = peers.fixture("odesteer")["values"]
K = peers.fixture("k_steering")["values"]
FLAS = peers.fixture("flas")["values"]
BUDGET = Budget(sequences=24, tokens=512, epochs=1, trials=1)


def directions(edit: Edit, states: Array) -> Array:
    """Which way a field of unit speed points at states, by a short step."""
    found: Array = (peers.changed(edit.scaled(0.01), states) - np.float32(states)) / 0.01
    return found


def ode(**params: Any) -> ODESteer:
    method = build_method("odesteer", {"odesteer": params})
    assert isinstance(method, ODESteer)
    return method


def test_a_classifier_of_given_states_leads_where_the_peers_does() -> None:
    rng, theirs = np.random.default_rng(12), ODE["given"]
    plus = rng.standard_normal((30, 8)) + 0.8 * np.eye(8)[0]
    minus = rng.standard_normal((30, 8)) * np.r_[2, np.ones(7)]
    states = 2 * rng.standard_normal((6, 8))
    x, y = np.concatenate([minus, plus]), np.repeat([0, 1], 30)
    one, _ = ode(steps=1).field(0, x, y, rng)
    assert np.abs(directions(one, states) - theirs["field"]).max() < 1e-4
    ten, _ = ode(steps=10).field(0, x, y, rng)
    for length, steered in theirs["steered"].items():
        assert np.abs(peers.changed(ten.scaled(float(length)), states) - steered).max() < 5e-5


@pytest.mark.parametrize("kind", peers.KINDS)
def test_odesteer_of_a_model_leads_where_the_peers_does(tmp_path: Path, kind: str) -> None:
    lm, theirs = HFBackend(peers.model(tmp_path, kind), dtype="float32"), ODE["models"][kind]
    states = 3 * np.random.default_rng(9).standard_normal((4, 32))
    (found,) = ode(layer=1, states="last").fit(Context(lm, BUDGET), peers.train())
    assert isinstance(found.steering, Steering)
    (edit,) = found.steering.edits
    moved = peers.changed(edit.scaled(3.0), states)
    assert np.abs(moved - theirs["steered"]).max() < 5e-5
    for ours, its in zip(moved - states, np.array(theirs["steered"]) - states, strict=True):
        assert peers.cosine(ours, its) > 1 - 1e-8


@pytest.mark.parametrize("case", K["cases"])
def test_k_steering_steps_where_the_peer_s_gradient_points(case: dict[str, Any]) -> None:
    rng = np.random.default_rng(13)
    shapes = ((16, 10), (16,), (16, 16), (16,), (3, 16), (3,))
    drawn = [rng.standard_normal(shape) / (shape[-1] ** 0.5 if len(shape) > 1 else 2) for shape in shapes]
    first, first_bias, second, second_bias, last, _ = (part.astype(np.float32) for part in drawn)
    states = (2 * rng.standard_normal((2, 4, 10))).reshape(-1, 10).astype(np.float32)
    edit = NetworkField(
        layer=0,
        first=first,
        first_bias=first_bias,
        second=second,
        second_bias=second_bias,
        last=last[case["target"]] - last[case["avoid"]].sum(0),
    )
    found = peers.changed(edit, states) - states
    for theirs in (np.array(case[name]) for name in ("alone", "in a pass")):  # a share of the pass's length there
        assert np.abs(found - theirs / np.linalg.norm(theirs, axis=1, keepdims=True)).max() < 2e-5


def test_k_steering_s_classifier_learns_what_the_peer_s_does() -> None:
    rng, theirs = np.random.default_rng(17), K["trained"]
    x = np.concatenate([rng.standard_normal((30, 10)), rng.standard_normal((30, 10)) + 0.8]) * np.linspace(0.5, 3, 10)
    method = build_method("k-steering", {"k-steering": {"width": 16, "epochs": 60}})
    assert isinstance(method, KSteering)
    edit, note = method.field(0, x, np.repeat([0, 1], 30), np.random.default_rng(18))
    assert note["accuracy"] == pytest.approx(theirs["right"], abs=1e-4)
    steps = np.array(theirs["step"]) / x.std(0)  # theirs is of standardised samples
    assert np.abs(directions(edit, x[::10]) - steps / np.linalg.norm(steps, axis=1, keepdims=True)).max() < 1e-4


@pytest.mark.parametrize("kind", FLAS["models"])
def test_a_flow_in_the_peer_s_weights_moves_states_alike(tmp_path: Path, kind: str) -> None:
    from safetensors.numpy import save_file

    lm, theirs = HFBackend(peers.model(tmp_path / "model", kind), dtype="float32"), FLAS["models"][kind]
    rng, weights = np.random.default_rng(14), {}
    for name, shape in theirs["shapes"].items():
        drawn = rng.standard_normal(tuple(shape))
        weights[name] = (drawn / shape[-1] ** 0.5 if len(shape) > 1 else 0.3 * drawn).astype(np.float32)
    save_file(weights, tmp_path / "flow.safetensors")
    method = build_method(
        "imported", {"imported": {"path": str(tmp_path / "flow.safetensors"), "layer": 1, "sink": True}}
    )
    (found,) = method.fit(Context(lm, BUDGET), peers.train())
    assert isinstance(found.steering, Steering)
    (edit,) = found.steering.edits
    assert isinstance(edit, ConceptFlow)
    assert np.abs(edit.condition[:, :4] - theirs["concept"]).max() < 2e-5
    states = 2 * np.random.default_rng(15).standard_normal((3, 32))
    moved = peers.changed(edit.scaled(1.5), states)
    assert np.abs(moved - theirs["moved"]).max() < 1e-4
    assert np.abs(moved - states).max() > 0.1
    for time in (0.5, 1.5):
        logs = peers.logprobs(lm, FLAS["ask"], found.steering.scaled(time), FLAS["targets"])
        assert logs == pytest.approx(theirs[f"logprobs {time}"], abs=2e-4)
