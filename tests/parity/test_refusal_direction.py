"""The refusal direction against its paper's code: candidates, what adding one does, and which is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peers
import pytest

from bench import Add, Array, Budget, Context, Example, Steering, Train, build_method
from bench.backends.hf.backend import HFBackend
from methods.refusal_direction import RefusalDirection

GIVEN = peers.fixture("refusal_direction")["values"]
METHOD = build_method("refusal-direction", {"refusal-direction": {"step": 1}})
assert isinstance(METHOD, RefusalDirection)
SCORED = [kind for kind in peers.KINDS if GIVEN["models"][kind]["tables"]]


def train() -> Train:
    """Twelve texts a side, of which four are held out, their answers cut to one length."""
    plus, minus = (tuple(Example(a, b[: GIVEN["cut"]]) for a, b in s) for s in (peers.POSITIVES, peers.NEGATIVES))
    return Train(peers.train().concept, positives=plus, negatives=minus)


@pytest.mark.parametrize("kind", peers.KINDS)
def test_the_candidates_are_the_peers_mean_differences(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, seen = HFBackend(peers.model(tmp_path, kind), dtype="float32"), dict[int, Array]()

    def tried(self: Any, ctx: Context, vectors: dict[int, Array], held: Any) -> Array:
        seen.update(vectors)
        return np.ones((len(vectors), 3))

    monkeypatch.setattr(RefusalDirection, "_tried", tried)
    METHOD.fit(Context(lm, Budget(24, 512, 1, 1)), train())
    assert list(seen) == [0, 1, 2]
    assert np.abs(np.stack(list(seen.values())) - GIVEN["models"][kind]["directions"]).max() < 1e-5


@pytest.mark.parametrize("kind", SCORED)
def test_adding_a_candidate_induces_what_the_peers_does(tmp_path: Path, kind: str) -> None:
    lm, theirs = HFBackend(peers.model(tmp_path, kind), dtype="float32"), GIVEN["models"][kind]
    ways = [Steering()] + [
        peers.everywhere(Steering(edits=(Add(layer=layer, value=np.array(value, np.float32)),)))
        for layer, value in enumerate(theirs["directions"])
    ]
    for byte, table in theirs["tables"].items():
        logs = np.array([[peers.logprobs(lm, ask, way, [byte])[0] for ask in GIVEN["asked"]] for way in ways])
        found = (logs - np.log1p(-np.exp(logs))).mean(1)
        assert found == pytest.approx([table["bare"], *table["steering_score"][1:]], abs=1e-4)


@pytest.mark.parametrize("kind", SCORED)
def test_of_the_peers_scores_the_same_layers_pass_and_the_same_is_chosen(kind: str) -> None:
    for table in GIVEN["models"][kind]["tables"].values():
        induce = np.array(table["steering_score"]) - table["bare"]
        tried = np.stack([induce, table["refusal_score"], table["kl_div_score"]], 1)[:3]
        for threshold, (pick, passed) in table["picks"].items():
            method = build_method("refusal-direction", {"refusal-direction": {"harm": float(threshold)}})
            assert isinstance(method, RefusalDirection)
            note = method._chosen({layer: np.eye(4, dtype=np.float32)[layer] for layer in range(3)}, tried).note
            assert note["passed"] == passed
            if passed:
                assert note["layer"] == pick
