"""A sparse dictionary's latents, the one that is picked, and the ways to steer with it, against AxBench's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peers
import pytest

from bench import Budget, Context, Example, Fitted, Request, Span, Steering
from bench.backends.hf.backend import HFBackend
from bench.core.naming import build_method
from methods._dictionary import released
from methods.sae import aurocs

GIVEN = peers.fixture("axbench_sae")["values"]
PARTS = {name: np.array(part, np.float32) for name, part in GIVEN["dictionary"].items()}
TEXT = Example("Where shall we meet?", "On the quay.")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sae") / "params.npz"
    np.savez(path, **PARTS)  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="module", params=peers.KINDS)
def read(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Context]:
    lm = HFBackend(peers.model(tmp_path_factory.mktemp(request.param), request.param), dtype="float32")
    return GIVEN[request.param], Context(lm, Budget(24, 0, 1, 1))


def fit(ctx: Context, release: Path, operator: str) -> Fitted:
    params = {"layer": 2, "release": str(release), "operator": operator}
    return build_method("sae", {"sae": params}).fit(ctx, peers.train())[0]


def test_latents_are_axbench_s(read: tuple[dict[str, Any], Context], release: Path) -> None:
    given, ctx = read
    states = ctx.read([TEXT.messages], 2)[0].values[2][: len(given["latents"])]
    found = released(str(release)).activations(states)
    np.testing.assert_allclose(found, given["latents"], atol=1e-4)
    assert 0.05 < (found > 0).mean() < 0.95


def test_the_latent_with_the_largest_auroc_is_picked(read: tuple[dict[str, Any], Context], release: Path) -> None:
    given, ctx = read
    train, dictionary = peers.train(), released(str(release))
    reads = ctx.read([e.messages for e in (*train.positives, *train.negatives)], 2)
    peaks = np.stack([dictionary.activations(read.values[2]).max(0) for read in reads])
    found = aurocs(peaks.astype(float).round(3), np.arange(24) < 12)  # texts that begin alike tie, but for rounding
    np.testing.assert_allclose(found, given["auroc"], atol=1e-8)
    note = fit(ctx, release, "add").note
    assert note["latent"] == given["latent"]
    assert note["auroc"] == pytest.approx(max(given["auroc"]), abs=0.01)
    assert note["max_activation"] == pytest.approx(given["max_activation"], abs=1e-4)


@pytest.mark.parametrize("operator", ["add", "clamp", "min-clamp"])
def test_a_latent_steers_as_in_axbench(read: tuple[dict[str, Any], Context], release: Path, operator: str) -> None:
    given, ctx = read
    steering = fit(ctx, release, operator).steering
    assert isinstance(steering, Steering)
    (edit,) = steering.edits
    raw = given["max_activation"] * float(np.linalg.norm(PARTS["W_dec"][given["latent"]]))
    strength = GIVEN["factor"] * (raw if operator == "add" else 1.0)
    everywhere = Steering(edits=(replace(edit, span=Span(sink=True)),)).scaled(strength)
    ((_, score),) = ctx.lm.logprobs([Request((("user", GIVEN["ask"]),), everywhere, target=GIVEN["target"])])
    np.testing.assert_allclose(score.logprobs, given["logprobs"][operator], atol=2e-4)
