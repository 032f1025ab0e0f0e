"""How much of a latent's own words a model writes, against the paper's code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import peers
import pytest

from bench import Budget, Context
from bench.backends.hf.backend import HFBackend
from methods._dictionary import Dictionary
from methods._output_scores import output_scores

SCORES = peers.fixture("sae_output")["values"]["models"]


def dictionary() -> Dictionary:
    """24 latents, of which the later write the less."""
    rng = np.random.default_rng(16)
    shapes = ((24, 32), (24, 32), (24,), (32,))
    encoder, decoder, bias, center = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True) * np.linspace(1, 12, 24, dtype=np.float32)[:, None]
    threshold = np.abs(rng.standard_normal(24)).astype(np.float32) / 4
    return Dictionary(encoder / 6, decoder, bias, threshold, center, {})


@pytest.mark.parametrize("kind", peers.KINDS)
def test_every_latent_has_the_peers_score(tmp_path: Path, kind: str) -> None:
    lm = HFBackend(peers.model(tmp_path, kind), dtype="float32")
    for layer, theirs in SCORES[kind].items():
        found = output_scores(Context(lm, Budget(24, 512, 1, 1)), dictionary(), range(24), int(layer))
        assert found == pytest.approx(theirs, abs=1e-5)
        assert max(found) > 2 * min(found)
