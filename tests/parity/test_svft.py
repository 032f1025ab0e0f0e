"""SVFT against its code: the pattern of M, and what the changed weight makes of an input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from peers import fixture, model, train

from bench import Budget, Context, LowRankDelta, build_method
from bench.backends.hf.backend import HFBackend
from bench.training.trainer import Group, Recipe
from methods._trained import Trained

THEIRS = fixture("svft")["values"]
GATE = 0.5
"""What the peer's gate is at first."""


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> HFBackend:
    return HFBackend(model(tmp_path_factory.mktemp("llama")), dtype="float32")


@pytest.mark.parametrize("case", THEIRS)
def test_the_pattern_and_the_changed_weight_are_the_peers(lm: HFBackend, case: str) -> None:
    (name, variant), expected = case.split(" "), THEIRS[case]
    settings = {"layers": (1,), "rank": 0, "band": 2, "variant": variant}
    made = build_method("svft", {"svft": settings})
    assert isinstance(made, Trained)
    ctx = Context(lm, Budget(sequences=24, tokens=512, epochs=1, trials=1), trains=(train(),))
    group = Group(ctx, "svft", [train()], made.form, made.goal, Recipe(0.01))
    change: Any = group.change
    k = [place for place, _, _ in change.places].index(name)
    rows, columns = change.pattern[k]
    assert (rows * 32 + columns).tolist() == expected["entries"]
    u, s, _ = change.bases[k]
    sign = torch.sign(u[expected["row"]] * torch.tensor(expected["u"]))
    entries = torch.tensor(0.2 * np.random.default_rng(17).standard_normal(len(rows)))
    with torch.no_grad():
        change.core[k].copy_((GATE * entries * sign[rows] * sign[columns] / s.mean())[None])
    delta = change.delta(k, 0)
    assert isinstance(delta, LowRankDelta)
    weight = lm.model.get_submodule(name).weight.numpy()
    x = np.random.default_rng(3).standard_normal((3, weight.shape[1]))
    assert np.abs(x @ (weight + delta.up @ delta.down).T - expected["y"]).max() < 2e-5
    assert np.abs(x @ weight.T - expected["y"]).max() > 0.1
