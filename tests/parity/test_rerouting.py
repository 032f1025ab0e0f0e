"""Losses over hidden states against their codes: circuit breakers' rerouting, and LoRRA's distance from its target."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from peers import fixture, model, train

from bench import Budget, Context, Train
from bench.backends.hf.backend import HFBackend
from bench.training.objectives.base import Objective
from bench.training.objectives.representations import LoRRA, Reroute
from bench.training.parametrisations import LoRA
from bench.training.trainer import Group, Recipe

BUDGET = Budget(sequences=24, tokens=512, epochs=1, trials=1)
BREAKER = fixture("circuit_breaker")["values"]
LORRA = fixture("lorra")["values"]


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> HFBackend:
    return HFBackend(model(tmp_path_factory.mktemp("llama")), dtype="float32")


def adapted(lm: HFBackend, modules: tuple[str, ...], goal: Objective, texts: Train, compat: str = "") -> Group:
    """Blocks 0 and 1 with the parameters that the peer was given."""
    form = LoRA(layers=(0, 1), modules=modules, rank=2, alpha=2.0, rslora=False)
    made = Group(Context(lm, BUDGET, trains=(texts,), compat=compat), "case", [texts], form, goal, Recipe(0.01))
    change: Any = made.change
    rng = np.random.default_rng(41)
    with torch.no_grad():
        for _, k in sorted((name, k) for k, (name, _, _) in enumerate(change.places)):
            down, up = change.down[k][0], change.up[k][0]
            down.copy_(torch.tensor(rng.standard_normal(down.shape) / np.sqrt(down.shape[1])))
            up.copy_(torch.tensor(0.3 * rng.standard_normal(up.shape)))
    return made


def losses(made: Group, done: float) -> list[float]:
    items = [(0, item) for item in made.items[0]]
    with torch.no_grad():
        loss, _ = made._loss(items, {0: len(items)}, done)
    found: list[float] = loss.tolist()
    return found


def test_rerouting_is_the_peers_at_every_stage_of_training(lm: HFBackend) -> None:
    shared = train()
    texts = replace(shared, positives=shared.positives[:6], negatives=shared.negatives[:6])
    made = adapted(lm, ("o_proj", "down_proj"), Reroute(targets=(0.25, 0.5)), texts, compat="axbench")
    for k, done in enumerate(BREAKER["done"]):
        expected = [row[k] for row in BREAKER["loss"]]
        assert losses(made, done) == pytest.approx(expected, rel=1e-5)


def test_lorras_distance_from_its_target_is_the_peers(lm: HFBackend) -> None:
    shared = train()
    texts = replace(shared, negatives=shared.negatives[:6], personas=tuple(map(tuple, LORRA["personas"])))
    goal = LoRRA(contrast=LORRA["contrast"], targets=(0.25, 0.5))
    made = adapted(lm, ("q_proj", "v_proj"), goal, texts)
    expected = [float(np.mean([layer["relative"] for layer in item.values()])) for item in LORRA["items"]]
    assert losses(made, 0.0) == pytest.approx(expected, rel=1e-4)
