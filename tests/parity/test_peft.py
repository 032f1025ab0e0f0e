"""LoRA, DoRA and PiSSA against peft: where they start, what they compute, their gradients, and the folder they are
saved to."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peers import cosine, fixture, model, train
from safetensors.torch import load

from bench import Budget, Context, Request, build_method
from bench.backends.hf.backend import HFBackend
from bench.interchange.files import adapter
from bench.training.trainer import Group, Recipe
from methods._trained import Trained

THEIRS = fixture("peft")["values"]
BUDGET = Budget(sequences=24, tokens=512, epochs=1, trials=1)
SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {"alpha": 8.0, "rslora": False},
    "lora rs": {"alpha": 8.0, "rslora": True},
    "dora": {"alpha": 4.0, "rslora": False},
    "pissa": {"alpha": 2.0},
}


@pytest.fixture(scope="module", params=THEIRS["models"])
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HFBackend:
    return HFBackend(model(tmp_path_factory.mktemp(request.param), request.param), dtype="float32")


def group(lm: HFBackend, variant: str, rank: int = 2) -> Group:
    """The method's own change of the modules that the peer adapted."""
    name, texts = variant.split(" ")[0], train()
    made = build_method(name, {name: {"layers": (1, 2), "rank": rank, **SETTINGS[variant]}})
    assert isinstance(made, Trained)
    return Group(Context(lm, BUDGET, trains=(texts,)), name, [texts], made.form, made.goal, Recipe(0.01))


def peer(lm: HFBackend, variant: str) -> dict[str, Any]:
    found: dict[str, Any] = THEIRS["models"][lm.model.config.model_type][variant]
    return found


def fill(made: Group, variant: str) -> None:
    """Give every module the parameters that the peer was given."""
    change: Any = made.change
    rng = np.random.default_rng(31)
    with torch.no_grad():
        for _, k in sorted((name, k) for k, (name, _, _) in enumerate(change.places)):
            down, up = change.down[k][0], change.up[k][0]
            if variant == "pissa":
                down.mul_(torch.tensor(1 + 0.5 * rng.standard_normal((2, 1))))
                up.mul_(torch.tensor(1 + 0.5 * rng.standard_normal((1, 2))))
                continue
            down.copy_(torch.tensor(rng.standard_normal(down.shape) / np.sqrt(down.shape[1])))
            up.copy_(torch.tensor(0.2 * rng.standard_normal(up.shape)))
            if variant == "dora":
                magnitude = change.magnitude[k][0]
                magnitude.mul_(torch.tensor(1 + 0.2 * rng.standard_normal(magnitude.shape)))


def places(made: Group) -> dict[str, int]:
    change: Any = made.change
    return {name: k for k, (name, _, _) in enumerate(change.places)}


def test_the_scaling_is_pefts(lm: HFBackend) -> None:
    for variant in SETTINGS:
        change: Any = group(lm, variant).change
        assert change.scaling == pytest.approx(peer(lm, variant)["scaling"])


def test_adapters_start_where_pefts_do(lm: HFBackend) -> None:
    made = group(lm, "lora", rank=512)
    change: Any = made.change
    for name, k in places(made).items():
        assert float(change.down[k].detach().abs().max()) == pytest.approx(THEIRS["bound"][name], rel=1e-3)
        assert not change.up[k].any()
    if lm.model.config.model_type != "llama":
        return
    made = group(lm, "dora")
    change = made.change
    for name, start in peer(lm, "dora")["init"].items():
        assert change.magnitude[places(made)[name]][0].tolist() == pytest.approx(start["m"], abs=1e-6)
    made = group(lm, "pissa")
    change = made.change
    for name, start in peer(lm, "pissa")["init"].items():
        k = places(made)[name]
        for ours, theirs in ((change.down[k][0], start["A"]), (change.up[k][0].T, np.transpose(start["B"]))):
            sign = np.sign((ours.detach().numpy() * theirs).sum(1))[:, None]
            assert np.abs(sign * ours.detach().numpy() - theirs).max() < 1e-5


@pytest.mark.parametrize("variant", SETTINGS)
def test_loss_and_log_probabilities_are_pefts(lm: HFBackend, variant: str) -> None:
    made, expected = group(lm, variant), peer(lm, variant)
    fill(made, variant)
    items = made.items[0][:3]
    loss, _ = made._loss([(0, item) for item in items], {0: 3}, 0.0)
    assert loss.tolist() == pytest.approx(expected["loss"], rel=1e-5)
    steering = made.change.steering(0)
    example = train().positives[0]
    (_, score) = next(iter(lm.logprobs([Request(example.messages[:1], steering, target=example.response)])))
    assert list(score.logprobs) == pytest.approx(expected["tokens"], abs=1e-4)


@pytest.mark.parametrize("variant", SETTINGS)
def test_gradients_are_pefts(lm: HFBackend, variant: str) -> None:
    if lm.model.config.model_type != "llama":
        pytest.skip("the peer's gradients are of llama")
    made, expected = group(lm, variant), peer(lm, variant)
    change: Any = made.change
    starts = {name: change.down[k][0].detach().clone().numpy() for name, k in places(made).items()}
    fill(made, variant)
    loss, _ = made._loss([(0, item) for item in made.items[0][:3]], {0: 3}, 0.0)
    loss.mean().backward()  # type: ignore[no-untyped-call]
    for name, gradient in expected["gradient"].items():
        k = places(made)[name]
        sign = np.ones((2, 1))
        if variant == "pissa":
            sign = np.sign((starts[name] * expected["init"][name]["A"]).sum(1))[:, None]
        pairs = [(sign * change.down[k].grad[0].numpy(), gradient["A"])]
        pairs += [(sign.T * change.up[k].grad[0].numpy(), gradient["B"])]
        if variant == "dora":
            pairs += [(change.magnitude[k].grad[0].numpy(), gradient["m"])]
        for ours, theirs in pairs:
            assert cosine(ours, theirs) > 1 - 1e-11
            assert np.linalg.norm(ours) == pytest.approx(np.linalg.norm(theirs), rel=1e-4)


@pytest.mark.parametrize("variant", ["lora", "lora rs", "pissa"])
def test_the_exported_folder_is_one_that_peft_saves_and_reads(lm: HFBackend, variant: str, tmp_path: Path) -> None:
    made, expected = group(lm, variant), peer(lm, variant)
    fill(made, variant)
    files = adapter(made.change.steering(0), "tiny")
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    if "saved" in expected:
        tensors = load(files["adapter_model.safetensors"])
        rank = 4 if variant == "pissa" else 2  # on the whole base, PiSSA is a change of twice the rank
        shapes = {name: [rank if n == 2 else n for n in shape] for name, shape in expected["saved"].items()}
        assert {name: list(tensor.shape) for name, tensor in tensors.items()} == shapes
    peft = pytest.importorskip("peft")
    adapted = peft.PeftModel.from_pretrained(copy.deepcopy(lm.model), tmp_path)
    example = train().positives[0]
    prompt, ids = lm.encode(example.messages[:1]), lm.encode(example.messages[:1], example.response)
    with torch.no_grad():
        logits = adapted(torch.tensor([ids])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    tokens = logits.gather(1, torch.tensor(ids[len(prompt) :])[:, None])[:, 0]
    assert tokens.tolist() == pytest.approx(expected["tokens"], abs=1e-4)
