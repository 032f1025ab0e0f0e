"""Representation engineering: reading vectors, control operators and contrast vectors, against the paper's own code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peers
import pytest

import methods.repe
import methods.repe_contrast
from bench import Add, Budget, Context, Message, Request, Span, Steering
from bench.backends.hf.backend import HFBackend
from bench.core.content import Array
from bench.core.naming import build_method
from methods.repe_contrast import Contrast

GIVEN = peers.fixture("repe")["values"]
ASKED = (("user", GIVEN["ask"]),)
PAIRS = tuple(
    [(("user", asked), ("assistant", answer)) for (asked, _), answer in zip(peers.POSITIVES, answers, strict=True)][:11]
    for answers in ([answer for _, answer in peers.POSITIVES], peers.PLAIN)
)
TRAIN = replace(peers.train(), personas=(("a sailor", "a clerk"),))


class Order:
    """Which of a pair comes first, as the peer was given it."""

    def permutation(self, signs: Array) -> Array:
        found = np.array(GIVEN["signs"], float)
        np.testing.assert_array_equal(np.sort(found), np.sort(signs))
        return found


class Ordered(Context):
    """A context whose only random choice is the peer's."""

    def rng(self, *salt: object) -> Any:
        return Order()


@pytest.fixture(scope="module", params=peers.KINDS)
def read(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Context]:
    lm = HFBackend(peers.model(tmp_path_factory.mktemp(request.param), request.param), dtype="float32")
    return GIVEN[request.param], Ordered(lm, Budget(24, 0, 1, 1))


@pytest.fixture(autouse=True)
def pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods.repe, "stimuli", lambda ctx, train: PAIRS)


def fit(ctx: Context, **params: Any) -> list[Add]:
    steering = build_method("repe", {"repe": params}).fit(ctx, TRAIN)[0].steering
    assert isinstance(steering, Steering)
    found = [edit for edit in steering.edits if isinstance(edit, Add)]
    assert len(found) == len(steering.edits)
    return found


def next_byte(ctx: Context, steering: Steering) -> Array:
    """Log-probabilities of the bytes that the peer was asked for."""
    found = dict(ctx.lm.logprobs([Request(ASKED, steering, target=byte) for byte in GIVEN["targets"]]))
    return np.array([found[i].total for i in range(len(found))])


def test_a_reading_vector_is_repe_s_with_its_sign(read: tuple[dict[str, Any], Context]) -> None:
    given, ctx = read
    edits = fit(ctx, layer="1:2")
    assert [edit.layer for edit in edits] == [1, 2]
    for edit in edits:
        assert peers.cosine(edit.value, given["directions"][str(edit.layer)]) > 1 - 1e-9


@pytest.mark.parametrize("operator", ["linear", "piecewise"])
def test_an_operator_changes_a_state_as_repe_s_does(read: tuple[dict[str, Any], Context], operator: str) -> None:
    given, ctx = read
    (edit,) = fit(ctx, layer=2, operator=operator)
    everywhere = Steering(edits=(replace(edit, span=Span(sink=True)),)).scaled(1.5)
    np.testing.assert_allclose(next_byte(ctx, everywhere), given["logprobs"][operator], atol=2e-4)


@pytest.mark.parametrize("layer", [1, 2])
def test_a_contrast_vector_steers_as_repe_s(layer: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chat(persona: str, instruction: str) -> tuple[Message, ...]:
        return (("user", f"As {persona}. {instruction}"),)

    monkeypatch.setattr(methods.repe_contrast, "chat", chat)
    given = GIVEN["contrast"]
    ctx = Context(HFBackend(peers.model(tmp_path), dtype="float32"), Budget(24, 0, 1, 1))
    method = build_method("repe-contrast", {"repe-contrast": {"layer": layer, "last": given["last"]}})
    contrast = method.fit(ctx, replace(TRAIN, personas=(tuple(given["personas"]),)))[0].steering
    assert isinstance(contrast, Contrast)
    found = next_byte(ctx, contrast.bind(ctx.lm, ASKED).scaled(given["alpha"]))
    np.testing.assert_allclose(found, given["logprobs"][str(layer)], atol=1e-4)
