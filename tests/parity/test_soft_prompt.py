"""A soft prompt against peft's prompt tuning: where it starts, what it computes, its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import peers
import pytest
import torch

from bench import Budget, Context, Request, Sampling, build_method
from bench.backends.hf.backend import HFBackend
from bench.training.trainer import Group, Recipe
from methods._trained import Trained

THEIRS = peers.fixture("soft_prompt")["values"]["models"]


@pytest.fixture(scope="module", params=THEIRS)
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HFBackend:
    return HFBackend(peers.model(tmp_path_factory.mktemp(request.param), request.param), dtype="float32")


def group(lm: HFBackend, **params: Any) -> Group:
    texts, made = peers.train(), build_method("soft-prompt", {"soft-prompt": params})
    assert isinstance(made, Trained)
    ctx = Context(lm, Budget(24, 512, 1, 1), trains=(texts,))
    return Group(ctx, "soft-prompt", [texts], made.form, made.goal, Recipe(0.01))


def test_rows_start_where_pefts_do(lm: HFBackend) -> None:
    for opening, theirs in THEIRS[lm.model.config.model_type]["start"].items():  # one is cut, one said again
        change: Any = group(lm, size=20, opening=opening).change
        assert np.abs(change.vectors()[0, :, :3].detach().numpy() - theirs).max() < 1e-5


def test_given_rows_have_pefts_loss_gradient_and_answers(lm: HFBackend) -> None:
    made, theirs = group(lm, size=5), THEIRS[lm.model.config.model_type]
    change: Any = made.change
    rows = 0.7 * np.random.default_rng(32).standard_normal((5, 32))
    rows *= 5 if lm.model.config.model_type == "gemma2" else 1
    with torch.no_grad():
        change.weight[0].copy_(torch.from_numpy(rows / change.unit))
    loss, _ = made._loss([(0, item) for item in made.items[0][:3]], {0: 3}, 0.0)
    assert loss.tolist() == pytest.approx(theirs["loss"], rel=1e-5)
    loss.mean().backward()  # type: ignore[no-untyped-call]
    gradient = change.weight.grad[0].numpy() / change.unit
    assert peers.cosine(gradient, theirs["gradient"]) > 1 - 1e-9
    assert np.linalg.norm(gradient) == pytest.approx(np.linalg.norm(theirs["gradient"]), rel=1e-4)
    steering, example = change.steering(0), peers.train().positives[0]
    (_, score) = next(iter(lm.logprobs([Request(example.messages[:1], steering, target=example.response)])))
    assert list(score.logprobs) == pytest.approx(theirs["tokens"], abs=1e-4)
    ((_, written),) = lm.generate([Request(example.messages[:1], steering, Sampling(12, 0.0))])
    assert written.text == lm.chat.text(theirs["written"])
