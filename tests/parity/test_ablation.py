"""Directional ablation against its paper's code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import peers
import pytest

from bench import Budget, Context, Project, Steering, build_method
from bench.backends.hf.backend import HFBackend

GIVEN = peers.fixture("ablation")["values"]


@pytest.mark.parametrize("kind", peers.KINDS)
def test_a_direction_is_taken_out_as_the_peer_does(tmp_path: Path, kind: str) -> None:
    lm, theirs = HFBackend(peers.model(tmp_path, kind), dtype="float32"), GIVEN["models"][kind]
    (found,) = build_method("ablate", {"ablate": {"layer": 1}}).fit(Context(lm, Budget(24, 512, 1, 1)), peers.train())
    assert isinstance(found.steering, Steering)
    states = 3 * np.random.default_rng(9).standard_normal((4, 32))
    assert np.abs(peers.changed(found.steering.edits[0], states) - theirs["ablated"]).max() < 5e-5
    logs = peers.logprobs(lm, GIVEN["ask"], peers.everywhere(found.steering), GIVEN["targets"])
    assert logs == pytest.approx(theirs["logprobs"], abs=1e-4)
    bare = peers.logprobs(lm, GIVEN["ask"], Steering(), GIVEN["targets"])
    assert logs != pytest.approx(bare, abs=1e-2)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_every_write_can_be_ablated_as_the_peer_does(tmp_path: Path, kind: str) -> None:
    lm, theirs = HFBackend(peers.model(tmp_path, kind), dtype="float32"), GIVEN["models"][kind]
    (found,) = build_method("ablate", {"ablate": {"layer": 1}}).fit(Context(lm, Budget(24, 512, 1, 1)), peers.train())
    assert isinstance(found.steering, Steering)
    edits = [edit for edit in found.steering.edits if isinstance(edit, Project)]
    parts = Steering(edits=tuple(replace(edit, site=site) for edit in edits for site in ("attn", "mlp", "resid")))
    logs = peers.logprobs(lm, GIVEN["ask"], peers.everywhere(parts), GIVEN["targets"])
    assert logs == pytest.approx(theirs["logprobs of every write"], abs=1e-4)
    assert logs != pytest.approx(theirs["logprobs"], abs=1e-2)
