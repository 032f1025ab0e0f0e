"""A new kind of edit in a plugin file (docs/examples/edit_kind.py): hf runs it, vLLM refuses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bench
from bench.backends.hf.backend import HFBackend
from bench.backends.vllm.backend import VLLMBackend
from bench.core import registry
from bench.run import contract

PLUGIN = Path(__file__).resolve().parents[1] / "docs" / "examples" / "edit_kind.py"
TEXTS = [(f"What is {i}?", f"the sea and its {i} waves") for i in range(4)]
OTHERS = [(f"What is {i}?", f"a desk with {i} pens on it") for i in range(4)]


@pytest.fixture
def plugin() -> Any:
    return registry.load_plugin(PLUGIN)


def test_it_is_short() -> None:
    assert len(PLUGIN.read_text("utf-8").splitlines()) <= 60


def test_its_method_keeps_the_contract(plugin: Any) -> None:
    assert not any(contract.check("rotation").values())


@pytest.mark.slow
def test_hf_runs_it(plugin: Any, lm: HFBackend) -> None:
    fitted = bench.fit("rotation", lm, bench.contrast("the sea", TEXTS, OTHERS))
    ask = ["What is it?", "Where?"]
    bare, zero, turned = (bench.generate(lm, ask, steering) for steering in (None, fitted.at(0), fitted.at(2)))
    assert bare == zero
    assert bare != turned


def test_it_turns_and_keeps_the_length(plugin: Any) -> None:
    torch.manual_seed(0)
    h = torch.randn(5, 8)
    basis = torch.linalg.qr(torch.randn(8, 2))[0].T
    p = {"basis": basis.expand(5, 2, 8), "angle": torch.full((5,), np.pi / 2)}
    turned = h + plugin.Rotate.change(h, p, set())
    assert torch.allclose(turned.norm(dim=-1), h.norm(dim=-1), atol=1e-5)
    assert torch.allclose(turned @ basis[1], h @ basis[0], atol=1e-5)
    assert torch.allclose(turned @ basis[0], -(h @ basis[1]), atol=1e-5)


def test_a_file_holds_it_and_its_cost_is_told(plugin: Any, tmp_path: Path) -> None:
    steering = bench.Steering(edits=(plugin.Rotate(layer=1, basis=np.eye(2, 8, dtype=np.float32), angle=0.5),))
    bench.save(tmp_path / "turn.safetensors", steering)
    assert bench.load(tmp_path / "turn.safetensors").digest == steering.digest
    assert steering.edits[0].work().flops == 64


def test_vllm_does_not_know_it(plugin: Any) -> None:
    assert registry.get("method", "rotation").needs - VLLMBackend.can == {"rotate"}
