"""Prompts on a model behind an endpoint: what can be asked is asked once and paid for, the rest is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from stub_server import Reply, Stub, answer, refusal, well

from bench.cli.main import main

pytestmark = pytest.mark.slow


def bench(*words: str) -> Result:
    result = CliRunner().invoke(main, list(words))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def asked(*words: str, model: str = "served-model", task: str = "constraints") -> Result:
    return bench("run", "-t", task, "-n", "2", "--backend", "openai", "--model", model, "--json", *words)


def made(result: Result) -> dict[str, dict[str, Any]]:
    """method -> its run.json, of those that ran."""
    assert result.exit_code == 0, result.output
    paths = [Path(row["path"]) for row in json.loads(result.stdout)["runs"] if row["path"]]
    return {run["spec"]["method"]: run for run in (json.loads(path.read_text("utf-8")) for path in paths)}


def echo(number: int, prompt: str) -> Reply:
    return answer(f"Well: {prompt[-40:]}")


def test_prompts_run_and_what_steers_is_unsupported(stub: Stub, tmp_path: Path) -> None:
    stub.behave = echo
    words = ("-m", "none,prompt,prompt-search,diffmean", "--results", str(tmp_path / "results"))
    result = asked(*words)
    runs = made(result)
    assert "diffmean: unsupported: backend openai cannot add" in result.stderr
    assert "prompt-search: unsupported: backend openai cannot score" in result.stderr
    assert "model: texts go to served-model at http://127.0.0.1" in result.stderr
    assert sorted(runs) == ["none", "prompt"]
    for run in runs.values():
        assert run["spec"]["backend"] == "openai"
        assert run["spec"]["dtype"] == "hosted"
        assert run["spec"]["model"] == "served-model"
        assert "an endpoint does not say which weights answer" in run["refused"]
    spent = runs["prompt"]["answering"]["ever"]
    assert spent["answers"] == len(stub.requests)
    assert spent["prompt_tokens"] == 5 * len(stub.requests)
    sent = [message["content"] for request in stub.requests for message in request["messages"]]
    for found in runs["prompt"]["concepts"].values():
        stated = found["prompts"][found["picked"]["candidate"]]
        assert all(any(words.strip() in content for content in sent) for words in stated.values())
    for sample in runs["none"]["samples"]:
        assert sample["text"] == f"Well: {sample['instruction'][-40:]}"
    before = len(stub.requests)
    again = asked(*words)
    assert again.exit_code == 0
    assert len(stub.requests) == before


def test_another_endpoint_or_model_is_another_run(stub: Stub, tmp_path: Path) -> None:
    stub.behave = echo
    words = ("-m", "none", "--results", str(tmp_path / "results"))
    ids = {made(asked(*words, model=name))["none"]["id"] for name in ("served-model", "openai:served-model", "other")}
    assert len(ids) == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("-t", "axbench-detect"), "task axbench-detect reads a model's own numbers"),
        (
            (
                "-t",
                "truthfulqa",
            ),
            "task truthfulqa reads a model's own numbers",
        ),
        (("-t", "axbench", "--judge", "likelihood"), "judge likelihood reads the model under test"),
        (("-t", "constraints", "-p", "chat.tools=1"), "an endpoint has a chat template of its own"),
        (("-t", "constraints", "--max-cost", "1"), "no price is known for the model served-model"),
        (("-t", "constraints", "--executor", "ray"), "--executor ray is for models that run here"),
        (("-t", "constraints", "-m", "prompt-gepa", "--judge", "likelihood"), "judge likelihood reads the model"),
    ],
)
def test_what_an_endpoint_does_not_show_is_refused_before_it_is_asked(
    stub: Stub, words: tuple[str, ...], told: str
) -> None:
    result = bench("run", "-n", "1", "-m", "none", "--backend", "openai", "--model", "served-model", *words)
    assert result.exit_code == 2
    assert told in result.stderr
    assert not stub.requests
    assert not stub.probed


def test_a_model_must_be_named(stub: Stub) -> None:
    result = bench("run", "-n", "1", "-m", "none", "-t", "constraints", "--backend", "openai")
    assert result.exit_code == 2
    assert "name it, as in --model" in result.stderr


def test_a_model_that_is_not_there_ends_the_run_before_anything_is_fitted(stub: Stub, tmp_path: Path) -> None:
    stub.first = refusal(404, "no such model", "model_not_found")
    result = asked("-m", "none", "--results", str(tmp_path / "results"))
    assert result.exit_code == 1
    assert "no such model" in result.stderr
    assert not stub.requests


def test_money_is_limited_for_the_model_under_test_too(stub: Stub, tmp_path: Path) -> None:
    stub.behave = echo
    words = ("-m", "none,prompt", "--max-cost", "0.0001", "--results", str(tmp_path / "results"))
    result = asked(*words, model="gpt-4o")
    assert result.exit_code == 1
    assert "--max-cost $0.0001 could be exceeded by the next request to gpt-4o" in result.stderr


def test_a_plan_says_what_is_asked_and_asks_nothing(stub: Stub) -> None:
    result = asked("-m", "none,prompt", "--dry-run")
    assert result.exit_code == 0, result.output
    plan: dict[str, Any] = json.loads(result.stdout)
    assert plan["backend"] == "openai"
    assert f"model: at most {plan['total']['generations']:,} requests" in result.stderr
    assert not stub.requests
    assert not stub.probed


def test_no_steering_file_is_written_of_such_a_run(stub: Stub, tmp_path: Path) -> None:
    stub.behave = echo
    asked("-m", "prompt", "--results", str(tmp_path / "results"))
    for command in (("export", "prompt", "--out", str(tmp_path / "out")), ("capability", "prompt")):
        result = bench(*command, "--results", str(tmp_path / "results"))
        assert result.exit_code == 2, (command, result.output)
        assert "asked a model behind an endpoint" in result.stderr


def test_a_hosted_judge_rates_what_a_hosted_model_wrote(stub: Stub, tmp_path: Path) -> None:
    stub.behave = lambda number, prompt: (
        well(number, prompt) if prompt.startswith("You grade") else echo(number, prompt)
    )
    words = ("-m", "none,prompt", "--judge", "openai:m", "--results", str(tmp_path / "results"))
    runs = made(asked(*words, task="axbench"))
    assert {run["spec"]["judge"] for run in runs.values()} == {"openai:m"}
    assert all(run["counts"]["unscored"] == 0 for run in runs.values())
    assert runs["prompt"]["judging"]["ever"]["answers"] > 0
