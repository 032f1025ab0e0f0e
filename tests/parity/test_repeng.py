"""repeng's control vectors: found, written to files and applied, against its own code."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peers
import pytest
from gguf import GGUFReader

import methods.repeng
from bench import Add, Budget, Context, Request, Span, Steering, interchange
from bench.backends.hf.backend import HFBackend
from bench.core.content import Array
from bench.core.naming import build_method

GIVEN = peers.fixture("repeng")["values"]
LAYERS = (1, 2)
PAIRS = tuple(
    [(("user", asked), ("assistant", answer)) for (asked, _), answer in zip(peers.POSITIVES, answers, strict=True)]
    for answers in ([answer for _, answer in peers.POSITIVES], peers.PLAIN)
)


@pytest.fixture(scope="module", params=peers.KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], HFBackend]:
    lm = HFBackend(peers.model(tmp_path_factory.mktemp(request.param), request.param), dtype="float32")
    return GIVEN[request.param], lm


def vectors(given: dict[str, Any]) -> dict[int, Array]:
    return {layer: np.array(given["pca_center"][str(layer)], np.float32) for layer in LAYERS}


def added(given: dict[str, Any]) -> Steering:
    """The peer's vectors as it adds them: at every token."""
    return Steering(edits=tuple(Add(layer=k, value=v, span=Span(sink=True)) for k, v in vectors(given).items()))


@pytest.mark.parametrize("variant", ["pca_diff", "pca_center"])
def test_a_control_vector_is_repeng_s(
    model: tuple[dict[str, Any], HFBackend], variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, lm = model
    monkeypatch.setattr(methods.repeng, "stimuli", lambda ctx, train: PAIRS)
    train = replace(peers.train(), personas=(("a sailor", "a clerk"),))
    method = build_method("repeng", {"repeng": {"layer": "1:2", "variant": variant}})
    steering = method.fit(Context(lm, Budget(24, 0, 1, 1)), train)[0].steering
    assert isinstance(steering, Steering)
    assert [edit.layer for edit in steering.edits] == list(LAYERS)
    for edit in steering.edits:
        assert isinstance(edit, Add)
        assert peers.cosine(edit.value, given[variant][str(edit.layer)]) > 1 - 1e-9  # sign and all


def test_a_file_that_repeng_wrote_is_read_exactly(model: tuple[dict[str, Any], HFBackend], tmp_path: Path) -> None:
    (tmp_path / "v.gguf").write_bytes(base64.b64decode(model[0]["gguf"]))
    found = interchange.load(tmp_path / "v.gguf", sink=True)
    assert found.digest == added(model[0]).digest


def test_a_file_for_repeng_holds_what_its_own_does(model: tuple[dict[str, Any], HFBackend], tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs.gguf", tmp_path / "ours.gguf"
    theirs.write_bytes(base64.b64decode(model[0]["gguf"]))
    interchange.save(ours, added(model[0]), "gguf", hint=model[1].model.config.model_type)
    one, two = GGUFReader(theirs), GGUFReader(ours)
    assert {name: field.contents() for name, field in one.fields.items()} == {
        name: field.contents() for name, field in two.fields.items()
    }
    for a, b in zip(one.tensors, two.tensors, strict=True):
        assert (a.name, a.tensor_type) == (b.name, b.tensor_type)
        np.testing.assert_array_equal(a.data, b.data)


def test_its_control_model_gives_the_same_probabilities(model: tuple[dict[str, Any], HFBackend]) -> None:
    given, lm = model
    steering = added(given).scaled(1.5)
    requests = [Request((("user", GIVEN["ask"]),), steering, target=byte) for byte in GIVEN["targets"]]
    found = dict(lm.logprobs(requests))
    np.testing.assert_allclose([found[i].total for i in range(16)], given["logprobs"], atol=1e-4)
