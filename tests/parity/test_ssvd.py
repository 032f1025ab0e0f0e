"""SSVD against ESPnet's: what the turned and rescaled weight makes of an input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from peers import fixture, model, train

from bench import Budget, Context, RotationDelta, build_method
from bench.backends.hf.backend import HFBackend
from bench.training.trainer import Group, Recipe
from methods._trained import Trained

THEIRS = fixture("ssvd")["values"]
GATE = 0.5
"""What the peer's gate is at first."""


@pytest.mark.parametrize("name", THEIRS)
def test_the_changed_weight_is_the_peers(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    lm, expected = HFBackend(model(tmp_path_factory.mktemp("llama")), dtype="float32"), THEIRS[name]
    settings = {"layers": (1,), "modules": (name.rpartition(".")[2],), "share": 6 / 32, "strict": False}
    made = build_method("ssvd", {"ssvd": settings})
    assert isinstance(made, Trained)
    ctx = Context(lm, Budget(sequences=24, tokens=512, epochs=1, trials=1), trains=(train(),))
    change: Any = Group(ctx, "ssvd", [train()], made.form, made.goal, Recipe(0.01)).change
    u, s, _ = change.bases[0]
    sign = torch.sign(u[expected["row"]] * torch.tensor(expected["u"]))
    rng = np.random.default_rng(71)
    skew, shift = (torch.tensor(scale * rng.standard_normal(n)) for scale, n in ((0.15, 15), (0.8, 6)))
    i, j = torch.triu_indices(6, 6, 1)
    with torch.no_grad():
        change.skew[0].copy_((skew * sign[i] * sign[j])[None])
        change.shift[0].copy_((GATE * shift / s)[None])
    delta = change.delta(0, 0)
    assert isinstance(delta, RotationDelta)
    left, right = delta.factors()
    assert right is not None
    weight = lm.model.get_submodule(name).weight.numpy()
    x = rng.standard_normal((3, weight.shape[1]))
    assert np.abs(x @ (weight + left @ right).T - expected["y"]).max() < 2e-5
    assert np.abs(x @ weight.T - expected["y"]).max() > 0.1
