"""Losses over pairs against the peers': DPO, IPO and SimPO of AxBench's trainer, BiPO of its own repository."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from peers import cosine, fixture, model, train

from bench import Budget, Context
from bench.backends.hf.backend import HFBackend
from bench.training.objectives.all import objectives
from bench.training.objectives.base import Objective
from bench.training.objectives.log_probabilities import BiPO
from bench.training.parametrisations import Vector
from bench.training.trainer import Group, Recipe

THEIRS = fixture("preference_losses")["values"]
BUDGET = Budget(sequences=24, tokens=512, epochs=1, trials=1)


class Signed(BiPO):
    """BiPO with the sign that it is given."""

    sign = 1.0

    def signs(self, rng: np.random.Generator, count: int, reference: bool) -> list[float]:
        return [self.sign] * count


class Turned(Signed):
    sign = -1.0


GOALS: dict[str, Objective] = {name: objectives()[name]() for name in ("dpo", "ipo", "simpo")}
GOALS |= {"bipo +1": Signed(), "bipo -1": Turned()}


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> HFBackend:
    return HFBackend(model(tmp_path_factory.mktemp("llama")), dtype="float32")


@pytest.mark.parametrize("name", THEIRS["losses"])
def test_the_loss_of_each_pair_and_its_gradient_are_the_peers(lm: HFBackend, name: str) -> None:
    shared = train()
    texts = replace(shared, pairs=shared.pairs[:6])
    form = Vector(layer=THEIRS["layer"])
    made = Group(Context(lm, BUDGET, trains=(texts,)), "case", [texts], form, GOALS[name], Recipe(0.1))
    change: Any = made.change
    with torch.no_grad():
        change.weight.copy_(torch.tensor(THEIRS["vector"])[None] / change.unit)
    items = [(0, item) for item in made.items[0]]
    loss, _ = made._loss(items, {0: len(items)}, 0.0)
    expected = THEIRS["losses"][name]
    assert loss.tolist() == pytest.approx(expected["loss"], rel=1e-4, abs=1e-5)
    loss.mean().backward()  # type: ignore[no-untyped-call]
    gradient = (change.weight.grad / change.unit)[0].numpy()
    assert cosine(gradient, expected["gradient"]) > 1 - 1e-9
    assert np.linalg.norm(gradient) == pytest.approx(np.linalg.norm(expected["gradient"]), rel=1e-5)
