"""The kinds of edit: what each adds, that it fades with its strength, and that a batch of many equals its rows."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batch_cases import equals_its_rows, requests_under

import bench
from bench.backends.hf.backend import HFBackend
from bench.core.edits import Edit, Span
from bench.core.kinds import Add, Diagonal, LowRank, Project, Rotate, Scaled
from bench.core.steering import Steering

H = 16
RNG = np.random.default_rng(0)
BASIS = np.linalg.qr(RNG.normal(size=(H, 4)))[0].T.astype(np.float32)


def drawn(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


def scaled(activation: Any = "linear", rows: int = 2, **values: Any) -> Scaled:
    parts = {"read": drawn(rows, H), "write": drawn(rows, H), "bias": drawn(rows)} | values
    return Scaled(layer=1, activation=activation, **parts)


KINDS: dict[str, Edit] = {
    **{name: scaled(name) for name in ("linear", "relu", "tanh", "sigmoid", "softplus", "softmax")},
    "diagonal": Diagonal(layer=1, gain=drawn(H), shift=drawn(H)),
    "masked": Diagonal(
        layer=1, gain=drawn(H), shift=drawn(H), low=-np.ones(H, np.float32), high=np.ones(H, np.float32)
    ),
    "target": Rotate(layer=1, basis=BASIS[:2], angle=2.0),
    "offset": Rotate(layer=1, basis=BASIS[:2], angle=2.0, mode="offset"),
    "aligned": Rotate(layer=1, basis=BASIS[:2], angle=2.0, when="aligned"),
    "towards": Rotate(layer=1, basis=BASIS[:2], mode="towards"),
    "confident": Rotate(layer=1, basis=BASIS[:2], mode="towards", when="confident", kappa=5.0, beta=-0.2),
}


def changed(edit: Edit, h: torch.Tensor) -> torch.Tensor:
    """States `[N, H]` after the edit."""
    p = {name: torch.as_tensor(value)[None] for name, value in edit.operands().items()}
    return h + edit.change(h, p, edit.flags())


@pytest.fixture
def h() -> torch.Tensor:
    return torch.as_tensor(3 * drawn(50, H))


@pytest.mark.parametrize("name", KINDS)
def test_it_fades_with_its_strength(name: str, h: torch.Tensor) -> None:
    whole, little = (float((changed(KINDS[name].scaled(c), h) - h).norm()) for c in (1.0, 1e-4))
    assert 0 < little < 1e-3 * max(1.0, whole)


@pytest.mark.parametrize("name", KINDS)
def test_a_file_keeps_it(name: str, tmp_path: Path) -> None:
    steering = Steering(edits=(KINDS[name],))
    bench.save(tmp_path / "kept.safetensors", steering)
    assert bench.load(tmp_path / "kept.safetensors").digest == steering.digest


def test_one_form_holds_the_others(h: torch.Tensor) -> None:
    none = np.zeros(2, np.float32)
    project = Project(layer=1, basis=BASIS[:2])
    same = scaled(read=-BASIS[:2], write=BASIS[:2], bias=none)
    assert torch.allclose(changed(same, h), changed(project, h), atol=1e-5)
    weight, bias = drawn(2, H), drawn(2)
    reft = LowRank(layer=1, rotation=BASIS[:2], weight=weight, bias=bias)
    same = scaled(read=weight - BASIS[:2], write=BASIS[:2], bias=bias)
    assert torch.allclose(changed(same, h), changed(reft, h), atol=1e-4)
    add = Add(layer=1, value=BASIS[0])
    same = scaled("sigmoid", 1, read=np.zeros((1, H), np.float32), write=BASIS[:1], bias=np.full(1, 40, np.float32))
    assert torch.allclose(changed(same, h), changed(add, h), atol=1e-6)


def test_relu_holds_a_floor(h: torch.Tensor) -> None:
    v, floor = BASIS[:1], 0.7
    capped = changed(scaled("relu", 1, read=-v, write=v, bias=np.full(1, floor, np.float32)), h)
    before, after = (states @ torch.as_tensor(v[0]) for states in (h, capped))
    assert torch.allclose(after, before.clamp(min=floor), atol=1e-5)


def test_a_rotation_keeps_lengths_and_reaches_its_angle(h: torch.Tensor) -> None:
    one, two = torch.as_tensor(BASIS[:2])
    for name in ("target", "offset", "aligned", "towards", "confident"):
        for c in (-0.5, 0.3, 1.0, 2.0):
            turned = changed(KINDS[name].scaled(c), h)
            assert torch.allclose(turned.norm(dim=-1), h.norm(dim=-1), rtol=1e-5), (name, c)
    reached = changed(KINDS["target"], h)
    assert torch.allclose(torch.atan2(reached @ two, reached @ one), torch.tensor(2.0), atol=1e-5)
    assert torch.allclose(reached @ torch.as_tensor(BASIS[2]), h @ torch.as_tensor(BASIS[2]), atol=1e-5)
    there = changed(KINDS["towards"], h)
    assert torch.allclose(there @ one, h.norm(dim=-1), rtol=1e-5)
    kept = h @ one <= 0
    assert torch.equal(changed(KINDS["aligned"], h)[kept], h[kept])


def test_a_state_that_points_straight_away_turns_along_the_second_row() -> None:
    one, two = torch.as_tensor(BASIS[:2])
    half = changed(KINDS["towards"].scaled(0.5), -2 * one[None])
    assert torch.allclose(half, 2 * two[None], atol=1e-5)
    assert torch.equal(changed(KINDS["towards"], one[None]), one[None])


@pytest.mark.parametrize("name", ["target", "towards", "confident"])
def test_a_negated_rotation_leads_every_state_away(name: str, h: torch.Tensor) -> None:
    one = torch.as_tensor(BASIS[0])
    edit = replace(KINDS[name], angle=0.0)
    before = h @ one
    after = changed(edit.negated(), h) @ one
    assert bool((after <= before + 1e-4).all())
    assert float(after.mean()) < float(before.mean()) - 0.1
    back = changed(edit.negated().negated(), h)
    assert torch.allclose(back, changed(edit, h), atol=1e-4)


def test_the_gate_of_a_rotation_opens_where_a_state_points_away(h: torch.Tensor) -> None:
    one = torch.as_tensor(BASIS[0])
    cosine = h @ one / h.norm(dim=-1)
    moved = (changed(KINDS["confident"], h) - h).norm(dim=-1) > 0
    assert torch.equal(moved, -torch.tanh(5 * cosine) > -0.2)


def test_a_map_holds_only_where_its_source_was_seen(h: torch.Tensor) -> None:
    moved = changed(KINDS["masked"], h) != h
    assert torch.equal(moved, (h > -1) & (h < 1))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"read and write \[k, H\]"):
        scaled(bias=drawn(3))
    with pytest.raises(ValueError, match="low and high together"):
        Diagonal(layer=1, gain=drawn(H), shift=drawn(H), low=drawn(H))
    with pytest.raises(ValueError, match="two orthonormal rows"):
        Rotate(layer=1, basis=2 * BASIS[:2])
    with pytest.raises(ValueError, match="below 1"):
        Rotate(layer=1, basis=BASIS[:2], beta=1.0)


def wide(edit: Edit, size: int) -> Edit:
    """The same kind of edit on states of another width, at a small strength."""
    values: dict[str, Any] = {
        name: np.linalg.qr(drawn(size, 2))[0].T if name == "basis" else drawn(*value.shape[:-1], size)
        for name, value in edit.tensors().items()
        if name != "bias"
    }
    if "high" in values:
        values["high"] = np.abs(values["high"])
        values["low"] = -values["high"]
    return replace(edit, **values).scaled(0.3)


@pytest.mark.slow
def test_a_batch_of_all_kinds_equals_its_rows(lm: HFBackend) -> None:
    edits = [
        replace(wide(edit, lm.width), span=Span(part)) for part in ("all", "generation") for edit in KINDS.values()
    ]
    equals_its_rows(lm, requests_under(edits))


def test_the_angle_counts_from_the_first_row_to_the_second() -> None:
    one, two = torch.as_tensor(BASIS[:2])
    quarter = Rotate(layer=1, basis=BASIS[:2], angle=math.pi / 2, mode="offset")
    assert torch.allclose(changed(quarter, 3 * one[None]), 3 * two[None], atol=1e-5)
