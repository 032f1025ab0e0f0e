"""CAST's condition against its code, and ActAdd's pair of prompts against another's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from peers import fixture, model, train

from bench import Add, Budget, Context, Gate, Request, Steering, build_method, similarity
from bench.backends.hf.backend import HFBackend

BUDGET = Budget(sequences=24, tokens=512, epochs=1, trials=1)
CAST = fixture("cast")["values"]
ACTADD = fixture("actadd")["values"]


@pytest.fixture(scope="module", params=CAST["models"])
def gated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[HFBackend, dict[str, Any]]:
    lm = HFBackend(model(tmp_path_factory.mktemp(request.param), request.param), dtype="float32")
    return lm, CAST["models"][request.param]


def array(values: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array(values, np.float32)


def logprobs(lm: HFBackend, prompt: str, steering: Steering, letters: str) -> tuple[list[float], bool]:
    """Of one letter after a chat, and whether any position was steered."""
    found = dict(lm.logprobs([Request((("user", prompt),), steering, target=letter) for letter in letters]))
    return [found[i].total for i in range(len(letters))], any(found[0].positions_edited)


def test_the_similarity_of_a_prompt_is_the_peers(gated: tuple[HFBackend, dict[str, Any]]) -> None:
    lm, theirs = gated
    ctx = Context(lm, BUDGET)
    reads = ctx.read([(("user", prompt),) for prompt in CAST["prompts"]], 1)
    means = torch.from_numpy(np.stack([read.values[1].mean(0) for read in reads]))
    found = similarity(means, torch.from_numpy(array(CAST["direction"])))
    assert found.tolist() == pytest.approx(theirs["similarity"], abs=1e-6)


@pytest.mark.parametrize("above", [True, False])
def test_a_gate_fires_where_the_peers_does(gated: tuple[HFBackend, dict[str, Any]], above: bool) -> None:
    lm, theirs = gated
    gate = Gate(1, array(CAST["direction"]), theirs["threshold"], above)
    steering = Steering(edits=(Add(layer=2, value=array(CAST["vector"]), gate=gate),))
    for k, prompt in enumerate(CAST["prompts"]):
        logs, fired = logprobs(lm, prompt, steering, "abcde")
        assert fired == theirs["above" if above else "below"][k]
        bare, _ = logprobs(lm, prompt, Steering(), "abcde")
        if above:
            assert logs == pytest.approx(theirs["logprobs"][k], abs=1e-4)
        assert (logs != pytest.approx(bare, abs=1e-2)) == fired


@pytest.mark.parametrize("kind", ACTADD["models"])
def test_actadd_reads_and_adds_a_pair_as_the_peer(tmp_path_factory: pytest.TempPathFactory, kind: str) -> None:
    lm, theirs = HFBackend(model(tmp_path_factory.mktemp(kind), kind), dtype="float32"), ACTADD["models"][kind]
    positive, negative = ACTADD["pair"]
    made = build_method("actadd", {"actadd": {"layer": 1, "positive": positive, "negative": negative}})
    (fitted,) = made.fit(Context(lm, BUDGET), train())
    assert isinstance(fitted.steering, Steering)
    (edit,) = fitted.steering.edits
    assert isinstance(edit, Add)
    assert np.abs(edit.value - np.array(theirs["rows"])).max() < 1e-5
    for prompt, expected in zip(ACTADD["prompts"], theirs["logprobs"], strict=True):
        logs, _ = logprobs(lm, prompt, fitted.steering.scaled(2.0), "abcdefghij")
        assert logs == pytest.approx(expected, abs=1e-4)
        bare, _ = logprobs(lm, prompt, Steering(), "abcdefghij")
        assert logs != pytest.approx(bare, abs=1e-2)
