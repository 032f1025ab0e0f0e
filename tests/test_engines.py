"""Which engine a run gets, what the plan says of it, and that tables never mix engines."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.backends import tiny
from bench.backends.vllm import backend
from bench.core.interfaces import Context, Fitted, Method
from bench.core.registry import method
from bench.core.steering import Steering
from bench.core.values import Train
from bench.run import plan
from bench.run.engines import make_backend
from bench.run.plan import Options, Plan

LONG = ["diffmean", "mean", "pca", "prompt"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build(tmp_path_factory.mktemp("llama")).path


def made(folder: Path, methods: Sequence[str], backend: str = "auto", **options: Any) -> Plan:
    return plan.make(Options(methods=tuple(methods), backend=backend, model=str(folder), dtype="float32", **options))


def adapter_method() -> None:
    @method("adapted", surface="weights", needs=["delta"])
    @dataclasses.dataclass(frozen=True)
    class Adapted(Method):
        def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
            return [Fitted(Steering())]


def test_auto_is_vllm_where_it_is_able_and_the_run_long_enough(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "unable", lambda: "")
    long = made(folder, LONG, preset="standard")
    assert {spec.backend for spec in long.specs} == {long.options.backend} == {"vllm"}
    short = made(folder, ["diffmean", "prompt"], limit=1)
    assert {spec.backend for spec in short.specs} == {"hf"}
    assert "do not pay for starting vLLM" in short.engine
    assert made(folder, ["diffmean"], backend="hf", preset="standard").engine == ""


def test_auto_says_why_it_is_not_vllm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "unable", lambda: "vLLM is not installed")
    assert made(folder, LONG, preset="standard").engine == "engine: hf (vLLM is not installed)"
    monkeypatch.setattr(backend, "unable", lambda: "")
    adapter_method()
    found = made(folder, ["adapted", "prompt"], preset="standard")
    assert found.options.backend == "hf"
    assert "delta" in found.engine


def test_a_plan_says_how_many_adapters_lora_needs(folder: Path) -> None:
    adapter_method()
    found = made(folder, ["adapted", "prompt"], backend="vllm")
    concepts = len(found.task.concepts())
    assert f"up to {3 * concepts:,}" in found.engine


def test_a_table_has_one_engine(folder: Path) -> None:
    one, two = (made(folder, ["none", "prompt"], backend=name) for name in ("hf", "vllm"))
    assert {spec.group for spec in one.specs}.isdisjoint(spec.group for spec in two.specs)
    assert {spec.id for spec in one.specs}.isdisjoint(spec.id for spec in two.specs)


@pytest.mark.skipif(bool(backend.unable()), reason=backend.unable())
def test_a_plans_engine_is_made_without_loading_anything(folder: Path) -> None:
    plan = made(folder, ["none"], backend="vllm")
    found = make_backend("vllm", plan.model, plan.specs[0].dtype)
    assert isinstance(found, backend.VLLMBackend)
    assert found._llm is None
    assert "model" not in vars(found.hf)
