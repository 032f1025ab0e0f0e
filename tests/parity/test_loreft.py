"""LoReFT's edit against pyreft's: what it adds to a state, and to a prompt's first and last words."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peers import fixture, model

from bench import LowRank, Request, Span, Steering
from bench.backends.hf.backend import HFBackend

THEIRS = fixture("loreft")["values"]


def edits() -> dict[str, LowRank]:
    """By layer, with the peer's R, W and b."""
    span, found = Span("prompt", first=5, last=5), {}
    for layer, given in THEIRS["parameters"].items():
        rotation, weight, bias = (np.array(given[name], np.float32) for name in "RWb")
        found[layer] = LowRank(layer=int(layer), rotation=rotation, weight=weight, bias=bias, span=span)
    return found


def test_what_the_edit_adds_is_what_the_peer_adds() -> None:
    states = torch.tensor(THEIRS["states"])
    for layer, edit in edits().items():
        operands = {name: torch.from_numpy(value)[None] for name, value in edit.operands().items()}
        change = LowRank.change(states, operands, edit.flags())
        assert np.abs(change.numpy() - THEIRS["change"][layer]).max() < 1e-5


@pytest.mark.parametrize("kind", THEIRS["logprobs"])
def test_log_probabilities_under_edits_of_two_blocks_are_the_peers(
    kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lm = HFBackend(model(tmp_path_factory.mktemp(kind), kind), dtype="float32")
    steering = Steering(edits=tuple(edits().values()))
    for prompt, expected in zip(THEIRS["prompts"], THEIRS["logprobs"][kind], strict=True):
        rows = {}
        for name, steered in (("edited", steering), ("bare", Steering())):
            asks = [Request((("user", prompt),), steered, target=letter) for letter in "abcdefghij"]
            found = dict(lm.logprobs(asks))
            rows[name] = [found[i].total for i in range(len(asks))]
        assert rows["edited"] == pytest.approx(expected, abs=1e-4)
        assert rows["bare"] != pytest.approx(expected, abs=0.1)
