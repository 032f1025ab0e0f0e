"""Fine-tuning of every weight against AxBench's: the loss of a text, and its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from peers import cosine, fixture, model, train

from bench import Budget, Context, build_method
from bench.backends.hf.backend import HFBackend
from bench.training.trainer import Group, Recipe
from methods._trained import Trained

THEIRS = fixture("sft")["values"]


def test_losses_and_gradients_are_the_peers(tmp_path_factory: pytest.TempPathFactory) -> None:
    lm = HFBackend(model(tmp_path_factory.mktemp("llama")), dtype="float32")
    made = build_method("sft", {})
    assert isinstance(made, Trained)
    ctx = Context(lm, Budget(sequences=24, tokens=512, epochs=1, trials=1), trains=(train(),))
    group = Group(ctx, "sft", [train()], made.form, made.goal, Recipe(0.01))
    loss, _ = group._loss([(0, item) for item in group.items[0][:3]], {0: 3}, 0.0)
    assert loss.tolist() == pytest.approx(THEIRS["loss"], rel=1e-5)
    loss.mean().backward()  # type: ignore[no-untyped-call]
    change: Any = group.change
    places = [name for name, _, _ in change.places]
    for name, expected in THEIRS["gradient"].items():
        gradient = change.full[places.index(name)].grad[0].numpy()
        assert cosine(gradient[:4], expected) > 1 - 1e-9
        assert np.linalg.norm(gradient) == pytest.approx(THEIRS["norm"][name], rel=1e-5)
