"""ITI against honest_llama: which heads, which direction, how far, and what the model says under it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peers import cosine, fixture, model, train

from bench import Budget, Context, Request, Steering, build_method
from bench.backends.hf.backend import HFBackend

BUDGET = Budget(sequences=24, tokens=0, epochs=1, trials=1)
FOUND = fixture("iti")["values"]


@pytest.fixture(scope="module", params=FOUND["models"])
def peer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[HFBackend, dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp(request.param)
    return HFBackend(model(folder, request.param), dtype="float32"), FOUND["models"][request.param]


def fitted(lm: HFBackend, heads: int) -> tuple[Steering, dict[str, Any]]:
    (one,) = build_method("iti", {"iti": {"share": heads / 16}}).fit(Context(lm, BUDGET), train())
    assert isinstance(one.steering, Steering)
    return one.steering, dict(one.note)


def test_the_held_out_texts_are_those_the_peer_was_given() -> None:
    from methods.iti import _held_out

    lm: Any = None
    held = _held_out(np.repeat([1, 0], 12), Context(lm, BUDGET).rng("split", train().concept.id))
    assert np.flatnonzero(held).tolist() == FOUND["held"] + [12 + i for i in FOUND["held"]]


def test_heads_rank_by_the_accuracy_of_probes_on_raw_activations(peer: tuple[HFBackend, dict[str, Any]]) -> None:
    """All heads, in order; the peer's likelihoods part those of equal accuracy, as the method says that it does."""
    lm, theirs = peer
    _, note = fitted(lm, 16)
    accuracy, likelihood = theirs["accuracy"], theirs["likelihood"]
    assert note["heads"] == sorted(accuracy, key=lambda name: (-accuracy[name], -likelihood[name]))
    assert note["accuracy"] == pytest.approx(max(accuracy.values()), abs=1e-3)


def test_the_chosen_heads_push_the_projection_by_theta_and_sigma(peer: tuple[HFBackend, dict[str, Any]]) -> None:
    lm, theirs = peer
    steering, note = fitted(lm, len(theirs["heads"]))
    assert set(note["heads"]) == set(theirs["heads"])
    assert [str(edit.layer) for edit in steering.edits] == sorted(theirs["bias"])
    for edit in steering.edits:
        (value,) = edit.tensors().values()
        bias = np.array(theirs["bias"][str(edit.layer)])
        assert cosine(value, bias) > 1 - 1e-9
        assert np.abs(value - bias).max() < 1e-5 * np.abs(bias).max()
        weight = lm.output_projection(edit.layer)
        pushed = sum(
            weight[:, int(name.split(".")[1])] @ (head["sigma"] * np.array(head["theta"]))
            for name, head in theirs["heads"].items()
            if name.startswith(f"{edit.layer}.")
        )
        assert np.abs(value - pushed).max() < 1e-5 * np.abs(bias).max()


def test_log_probabilities_under_alpha_15_are_the_peers(peer: tuple[HFBackend, dict[str, Any]]) -> None:
    lm, theirs = peer
    steering, _ = fitted(lm, len(theirs["heads"]))
    for example, expected in zip(train().negatives, theirs["logprobs"], strict=False):
        prompt = example.messages[:1]
        asks = [Request(prompt, steering.scaled(15.0), target=letter) for letter in theirs["letters"]]
        found = dict(lm.logprobs(asks))
        ours = [found[i].total for i in range(len(asks))]
        assert ours == pytest.approx(expected, abs=1e-4)
        bare = dict(lm.logprobs([Request(prompt, None, target=theirs["letters"][0])]))[0].total
        assert abs(bare - expected[0]) > 1e-2
