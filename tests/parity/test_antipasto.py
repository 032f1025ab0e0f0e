"""AntiPaSTO against its code: the adapter at both signs and at half, and the three terms of its loss."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from peers import fixture, model, train

from bench import Budget, Context
from bench.backends.hf.backend import HFBackend
from bench.core.deltas import RotationDelta
from bench.training.objectives.representations import AntiPaSTO
from bench.training.parametrisations import Rotation
from bench.training.trainer import Group, Recipe

THEIRS = fixture("antipasto")["values"]
BUDGET = Budget(sequences=12, tokens=512, epochs=1, trials=1)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Group:
    """Six pairs under the peer's personas, and the change with the peer's bases and parameters."""
    lm = HFBackend(model(tmp_path_factory.mktemp("llama")), dtype="float32")
    shared = train()
    texts = replace(shared, negatives=shared.negatives[:6], personas=tuple(map(tuple, THEIRS["personas"])))
    ctx = Context(lm, BUDGET, trains=(texts,), compat="axbench")  # which bounds the entries, as the peer does
    form = Rotation(layers=(1,), modules=("o_proj",), rank=6, angle=math.pi / 4)
    made = Group(ctx, "case", [texts], form, AntiPaSTO(kappa=0.01), Recipe(0.01))
    change: Any = made.change
    bases = [torch.tensor(THEIRS[name]) for name in "usv"]
    change.bases[0] = tuple(basis[None] for basis in bases)
    raw = torch.tensor(THEIRS["rotation"])
    half = (raw - raw.T) / 2
    with torch.no_grad():
        i, j = torch.triu_indices(6, 6, 1)
        change.skew[0].copy_(half[i, j][None])
        change.shift[0].copy_((torch.tensor(THEIRS["delta_s"]) / bases[1])[None])
    return made


def test_the_adapter_gives_the_peers_output_at_every_factor(adapted: Group) -> None:
    (delta,) = adapted.change.steering(0).deltas
    assert isinstance(delta, RotationDelta)
    weight = adapted.ctx.lm.module.model.layers[1].self_attn.o_proj.weight.numpy()
    x = np.array(THEIRS["x"])
    for factor, expected in THEIRS["forward"].items():
        left, right = delta.scaled(float(factor)).factors()
        assert right is not None
        assert np.abs(x @ (weight + left @ right).T - expected).max() < 1e-5
        assert np.abs(x @ weight.T - expected).max() > 0.1


def terms(made: Group, done: float, monkeypatch: pytest.MonkeyPatch) -> tuple[list[float], dict[str, list[float]]]:
    """The loss of each pair, and what its coherence and its order give."""
    found: dict[str, list[float]] = {}

    def kept(name: str, real: Any) -> Any:
        def spy(self: AntiPaSTO, *given: Any) -> torch.Tensor:
            term: torch.Tensor = real(self, *given)
            found[name] = term.tolist()
            return term

        return spy

    for name in ("_coherence", "_order"):
        monkeypatch.setattr(AntiPaSTO, name, kept(name, getattr(AntiPaSTO, name)))
    items = [(0, item) for item in made.items[0]]
    with torch.no_grad():
        loss, _ = made._loss(items, {0: len(items)}, done)
        return loss.tolist(), found


def test_the_terms_of_its_loss_are_the_peers(adapted: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, found = terms(adapted, 1.0, monkeypatch)
    assert found["_coherence"] == pytest.approx(THEIRS["coherence"], rel=1e-4)
    assert found["_order"] == pytest.approx(THEIRS["order"], rel=1e-5)
    projection = np.array(whole) - found["_coherence"] - found["_order"]
    assert projection == pytest.approx(THEIRS["projection"], rel=2e-4)  # the peer adds 1e-6 to its variances
    first, _ = terms(adapted, 0.0, monkeypatch)
    assert first == pytest.approx(THEIRS["projection_first"], rel=2e-4)


def test_the_orders_margin_is_of_the_bare_models_entropy(adapted: Group) -> None:
    """Not of how unlikely the texts are, which would be another margin by far."""
    wished = [item[0] for item in adapted.items[0]]
    with torch.no_grad():
        passed = adapted.texts.run(wished, None)
    p = passed.logits.softmax(-1)
    entropy = -(p * p.log()).sum(-1)
    mean = [float(entropy[passed.row == k].mean()) for k in range(len(wished))]
    assert mean == pytest.approx(THEIRS["entropy"], abs=1e-5)
    unlikely = [-float(passed.tokens[passed.row == k].mean()) for k in range(len(wished))]
    gap = [0.5 * (math.sqrt(a) - math.sqrt(b)) for a, b in zip(unlikely, mean, strict=True)]
    assert min(gap) > 0.05
