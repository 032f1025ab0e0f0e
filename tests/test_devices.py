"""Where a model is computed: the best device of the machine, or several; steered answers are the same everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import Add, Request, Sampling, Steering, UsageError
from bench.backends import devices, tiny
from bench.backends.hf.backend import HFBackend
from bench.backends.hf.hooks import Applied
from bench.backends.models import Model, dtype
from bench.core.deltas import LowRankDelta
from bench.core.edits import Gate
from bench.core.embeds import Embeds
from bench.run.plan import Options, from_file, make

PUSH = (np.random.default_rng(0).standard_normal(32) * 3).astype(np.float32)
STEERINGS = {
    "bare": None,
    "first block": Steering(edits=(Add(layer=0, value=PUSH),)),
    "gate below": Steering(edits=(Add(layer=3, value=PUSH, gate=Gate(1, PUSH, -1.0)),)),
    "inside a block": Steering(edits=(Add(layer=2, value=PUSH, site="mlp"),)),
    "weight": Steering(
        deltas=(
            LowRankDelta(
                module="model.layers.2.mlp.up_proj",
                down=np.ones((1, 32), np.float32),
                up=np.full((64, 1), 0.1, np.float32),
            ),
        )
    ),
    "soft prompt": Steering(embeds=(Embeds(np.stack([PUSH, -PUSH])),)),
}


@pytest.mark.parametrize(
    ("cuda", "mps", "kind", "number"),
    [
        (True, True, "cuda", "bfloat16"),
        (True, False, "cuda", "bfloat16"),
        (False, True, "mps", "float32"),
        (False, False, "cpu", None),
    ],
)
def test_the_best_device_is_taken_and_a_type_of_numbers_that_it_has(
    cuda: bool, mps: bool, kind: str, number: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr("bench.backends.models.fast", lambda: True)
    assert devices.best() == kind
    assert dtype("auto") == (number or "bfloat16")
    assert dtype("float16") == "float16"


def test_a_model_goes_to_the_mac_s_gpu_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []

    def moved(self: Any, device: Any) -> Any:
        taken.append(device)
        return self

    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    lm = tiny.engine(tmp_path / "model")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.nn.Module, "to", moved)
    _ = lm.model
    assert taken == ["mps"]


@pytest.fixture(scope="module", params=tiny.KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny.build(tmp_path_factory.mktemp("model"), request.param)


def parts(blocks: list[str], rest: str) -> dict[str, str]:
    own = dict.fromkeys(("model.embed_tokens", "lm_head", "model.norm"), rest) | {"model.rotary_emb": "cpu"}
    return own | {f"model.layers.{i}": place for i, place in enumerate(blocks)}


def answers(lm: HFBackend) -> list[Any]:
    requests = [
        Request((("user", f"{words} there?"),), steering, Sampling(8), seed=3)
        for steering in STEERINGS.values()
        for words in ("Who is", "What", "Who is")  # unequal lengths, and one prompt twice
    ]
    written, scored = dict(lm.generate(requests)), dict(lm.logprobs([replace(r, target=" Yes.") for r in requests]))
    found: list[Any] = [[written[i], scored[i]] for i in range(len(requests))]
    read = lm.activations(["Some words to read"], [0, 3])[0].values
    return [found, read[0], read[3], lm.output_projection(1), lm.gradients(["Some words to read"], 1, PUSH)[0]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "spread",
    [parts(["cpu", "disk", "cpu", "disk"], "cpu"), parts(["disk"] * 4, "disk"), "auto"],
    ids=["some blocks on the disk", "all on the disk", "auto"],
)
def test_a_model_in_several_places_answers_as_one_in_one_place(
    model: Model, spread: str | Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """accelerate brings each part to its device by hooks of its own, around those that steer; c = 0 among them."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    whole, split = (HFBackend(replace(model, device_map=to), dtype="float32") for to in ("", spread))
    assert devices.spread(split.model) is (spread != "auto")
    assert whole.fingerprint() == split.fingerprint()
    assert ("train" in whole.can, "train" in split.can) == (True, False)
    one, other = answers(whole), answers(split)
    assert one[0] == other[0]
    for a, b in zip(one[1:], other[1:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_what_steers_a_block_is_taken_to_its_device_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`meta` stands for a second device, which a test has not."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    lm = tiny.engine(tmp_path / "model")
    applied = Applied(lm.model, [STEERINGS["first block"]], [4], [0])
    fields = {"value": torch.ones(1, 32)}
    assert applied._beside(fields, torch.device("cpu")) is fields
    there = applied._beside(fields, torch.device("meta"))
    assert there["value"].device.type == "meta"
    assert applied._beside(fields, torch.device("meta")) is there


@pytest.mark.parametrize(
    ("params", "backend", "said"),
    [
        ({"model.device_map": "everywhere"}, "hf", "auto, balanced, balanced_low_0, sequential, or a table of modules"),
        ({"model.device_map": "auto"}, "fake", "for --backend hf, not for fake"),
        ({"model.layers": "3"}, "hf", "of a model there is device_map alone"),
    ],
)
def test_another_map_is_refused(params: dict[str, str], backend: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make(Options(methods=("none",), backend=backend, params=params))


def test_a_plan_spreads_its_model_and_leaves_out_what_trains(model: Model, tmp_path: Path) -> None:
    params = {"model.device_map": '{"": "cpu"}'}
    settings = tmp_path / "settings.toml"
    settings.write_text('[params.model.device_map]\n"model.layers.0" = 0\n"" = "cpu"\n\n[params.diffmean]\nlayer = 1\n')
    filed = from_file(settings)["params"]
    assert filed == {"model.device_map": {"model.layers.0": 0, "": "cpu"}, "diffmean.layer": 1}
    given = {"methods": ("none", "lora"), "model": str(model.path), "judge": "likelihood", "dtype": "float32"}
    plan, plain = make(Options(**given, params=params)), make(Options(**given))
    assert plan.model.device_map == {"": "cpu"}
    assert [spec.id for spec in plan.specs] == [spec.id for spec in plain.specs]
    assert plan.lacks == ("", "backend hf cannot train")
