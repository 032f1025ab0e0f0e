"""Linear-AcT and Mean-AcT against their code: the fitted map, its mask, and the states it carries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peers
import pytest

from bench import Array, Budget, Context, Diagonal, Steering, build_method
from bench.backends.fake.backend import FakeBackend
from bench.backends.hf.backend import HFBackend
from methods.linear_act import LinearAcT

BUDGET = Budget(sequences=24, tokens=512, epochs=1, trials=1)
ACT = peers.fixture("act")["values"]
_RNG = np.random.default_rng(7)
SOURCE, TARGET = 2 * _RNG.standard_normal((20, 10)) + 1, _RNG.gamma(2, 1.5, (20, 10)) - 1
STATES = (3 * _RNG.standard_normal((8, 10))).astype(np.float32)


def built(name: str, **params: Any) -> LinearAcT:
    method = build_method(name, {name: {"trust": 0, **params}})
    assert isinstance(method, LinearAcT)
    return method


def map_of_samples(name: str, mask: bool, monkeypatch: pytest.MonkeyPatch) -> Diagonal:
    """What a method makes of the given samples in place of the texts' mean states."""
    train = peers.train()
    sides: dict[int, Array] = {id(train.negatives): SOURCE, id(train.positives): TARGET}
    monkeypatch.setattr(LinearAcT, "_means", staticmethod(lambda ctx, texts, *rest: sides[id(texts)]))
    return built(name, mask=mask).map(Context(FakeBackend(), BUDGET), train, 1)


@pytest.mark.parametrize("case", ACT["carried"])
def test_the_map_of_given_samples_is_the_peers(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, strength, mask = case.split()
    edit = map_of_samples(name, bool(int(mask)), monkeypatch)
    if name == "linear-act":
        assert np.abs(edit.gain - ACT["gain"]).max() < 1e-5
        assert np.abs(edit.shift - ACT["shift"]).max() < 1e-5
    found = peers.changed(edit.scaled(float(strength)), STATES)
    assert np.abs(found - ACT["carried"][case]).max() < 2e-5
    assert np.abs(found - STATES).max() > 0.3
    if int(mask):
        assert (found == STATES).any()


@pytest.mark.parametrize("kind", peers.KINDS)
def test_the_maps_of_a_model_carry_its_states_alike(tmp_path: Path, kind: str) -> None:
    lm, theirs = HFBackend(peers.model(tmp_path, kind), dtype="float32"), ACT["models"][kind]
    bare = peers.logprobs(lm, ACT["ask"], Steering(), ACT["targets"])
    for name in ("linear-act", "mean-act"):
        (found,) = built(name, layer="1:2").fit(Context(lm, BUDGET), peers.train())
        assert isinstance(found.steering, Steering)
        (edit, _) = found.steering.edits
        if name == "linear-act":
            assert isinstance(edit, Diagonal)
            assert edit.low is not None
            for field in ("gain", "shift", "low"):
                assert np.abs(getattr(edit, field) - theirs[field]).max() < 1e-4, field
        for strength in (0.5, 1.0):
            steering = peers.everywhere(found.steering).scaled(strength)
            logs = peers.logprobs(lm, ACT["ask"], steering, ACT["targets"])
            assert logs == pytest.approx(theirs[f"{name} {strength}"], abs=2e-4)
            assert logs != pytest.approx(bare, abs=1e-2)
