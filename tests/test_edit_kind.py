"""A new kind of edit in a plugin file (docs/examples/edit_kind.py): hf runs it, vLLM refuses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bench
from bench import Fitted, Steering
from bench.backends.hf.backend import HFBackend
from bench.backends.vllm.backend import VLLMBackend
from bench.core import registry
from bench.core.protocol import protocol
from bench.run import contract
from bench.run.trials import trials

PLUGIN = Path(__file__).resolve().parents[1] / "docs" / "examples" / "edit_kind.py"
TEXTS = [(f"What is {i}?", f"the sea and its {i} waves") for i in range(4)]
OTHERS = [(f"What is {i}?", f"a desk with {i} pens on it") for i in range(4)]


@pytest.fixture
def plugin() -> Any:
    return registry.load_plugin(PLUGIN)


def test_it_is_short() -> None:
    assert len(PLUGIN.read_text("utf-8").splitlines()) <= 60


def test_its_method_keeps_the_contract(plugin: Any) -> None:
    assert not any(contract.check("centers").values())


@pytest.mark.slow
def test_hf_runs_it(plugin: Any, lm: HFBackend) -> None:
    fitted = bench.fit("centers", lm, bench.contrast("the sea", TEXTS, OTHERS))
    ask = ["What is it?", "Where?"]
    bare, zero, turned = (bench.generate(lm, ask, steering) for steering in (None, fitted.at(0), fitted.at(2)))
    assert bare == zero
    assert bare != turned


def test_each_token_goes_to_the_centre_nearest_to_it(plugin: Any) -> None:
    centers = torch.tensor([[4.0, 0.0], [0.0, 4.0]])
    h = torch.tensor([[3.0, 1.0], [1.0, 2.0]])
    p = {"centers": centers.expand(2, 2, 2), "strength": torch.tensor([1.0, 0.5])}
    assert torch.equal(h + plugin.Attract.change(h, p, set()), torch.tensor([[4.0, 0.0], [0.5, 3.0]]))


def test_it_is_tried_at_fractions(plugin: Any) -> None:
    edit = plugin.Attract(layer=1, centers=np.eye(2, 8, dtype=np.float32))
    rules = protocol("standard")
    tried = trials([Fitted(Steering(edits=(edit,)))], rules)
    assert [trial.coefficient for trial in tried] == [0.2, 0.4, 0.6, 0.8, 1.0]
    own = protocol("standard", settings={"coefficients": (-1.0, 0.0, 2.0)})
    assert [trial.coefficient for trial in trials([Fitted(Steering(edits=(edit,)))], own)] == [-1.0, 0.0, 2.0]


def test_a_file_holds_it_and_its_cost_is_told(plugin: Any, tmp_path: Path) -> None:
    steering = Steering(edits=(plugin.Attract(layer=1, centers=np.eye(2, 8, dtype=np.float32), strength=0.5),))
    bench.save(tmp_path / "drawn.safetensors", steering)
    assert bench.load(tmp_path / "drawn.safetensors").digest == steering.digest
    assert steering.edits[0].work().flops == 48


def test_vllm_does_not_know_it(plugin: Any) -> None:
    assert registry.get("method", "centers").needs - VLLMBackend.can == {"attract"}
