"""An experiment tracker follows a run: what it is told, what it is never told, and that it can fail."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench.cli import tracking
from bench.cli.main import main
from bench.results.runs import load

STUB = """
calls = []
def init(**options): calls.append(("init", options)); print("welcome to a service")
def log(numbers): calls.append(("log", numbers))
def finish(): calls.append(("finish", {}))
"""
COMMAND = ("run", "-m", "diffmean,none", "--backend", "fake", "--judge", "likelihood", "-n", "2", "--json")


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A package called trackio that keeps what it is told."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "trackio.py").write_text(STUB)
    monkeypatch.syspath_prepend(str(tmp_path / "path"))
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    yield importlib.import_module("trackio")
    sys.modules.pop("trackio", None)


def run(tmp_path: Path, *words: str, expect: int = 0) -> Any:
    env = {"BENCH_CACHE": str(tmp_path / "cache"), "BENCH_RESULTS": str(tmp_path / "results")}
    result = CliRunner().invoke(main, [*COMMAND, *words], env=env)
    assert result.exit_code == expect, result.stderr
    return result


def test_a_tracker_is_told_stages_and_every_method_s_numbers(service: Any, tmp_path: Path) -> None:
    result = run(tmp_path, "--track", "trackio")
    assert len(json.loads(result.stdout)["runs"]) == 2  # what the service prints goes elsewhere
    runs = {one.path.parent.name: one for one in load(tmp_path / "results")}
    begun = [options for kind, options in service.calls if kind == "init"]
    assert begun[0]["name"] == "stages"
    assert {one["name"] for one in begun[1:]} == runs.keys()
    assert len({(one["project"], one["group"]) for one in begun}) == 1
    assert {"seconds/fit"} in [set(numbers) for kind, numbers in service.calls if kind == "log"]
    told = dict(zip([one["name"] for one in begun[1:]], [n for k, n in service.calls if k == "log"][-2:], strict=True))
    for name, numbers in told.items():
        metrics = runs[name].data["metrics"]
        assert numbers["test/overall"] == metrics["overall"]
        assert numbers.get("test/overall_low") == max(metrics["overall_low"], 0)
        assert numbers.get("test/overall_high") == min(metrics["overall_high"], 2)
        tried = {
            f"select/overall@{row['coefficient']:g}"
            for c in runs[name].data["concepts"].values()
            for row in c["select"]
        }
        assert {key for key in numbers if key.startswith("select/")} == tried
    assert [kind for kind, _ in service.calls].count("finish") == 3


def test_a_tracker_is_told_no_text(service: Any, tmp_path: Path) -> None:
    run(tmp_path, "--track", "trackio")
    said = json.dumps(service.calls)
    samples = [s for one in load(tmp_path / "results") for s in one.data["samples"]]
    assert samples
    assert not any(s["text"] in said or s["instruction"] in said for s in samples)


@pytest.mark.parametrize("part", ["init", "log", "finish"])
def test_a_tracker_that_fails_is_named_once_and_the_run_is_done(
    part: str, service: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such project")

    monkeypatch.setattr(service, part, broken)
    result = run(tmp_path, "--track", "trackio")
    assert result.stderr.count("goes on without trackio: RuntimeError: no such project") == 1
    assert {row["status"] for row in json.loads(result.stdout)["runs"]} == {"complete"}


def test_a_tracker_that_is_not_installed_is_named_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    assert "pip install 'steer-or-prompt[wandb]'" in run(tmp_path, "--track", "wandb", expect=2).stderr
    assert not (tmp_path / "results").exists()
