"""A past run that somebody else wrote: what is taken from it, and what is asked before anything is sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stub_server import Stub, bench, one_line, records, run, serving

from bench.run.plan import Options, from_file, make


@pytest.fixture
def past(stub: Stub, tmp_path: Path) -> Path:
    """The file of a run that a hosted judge rated, to be altered; its result is not kept."""
    (row,) = json.loads(run(concepts=1).stdout)["runs"]
    path = tmp_path / "shared" / "run.json"
    path.parent.mkdir()
    Path(row["path"]).rename(path)
    stub.requests.clear()
    for rows in (tmp_path / "cache" / "rows").rglob("*.jsonl"):
        rows.unlink()
    return path


def altered(path: Path, **params: Any) -> Path:
    data = json.loads(path.read_text("utf-8"))
    data["spec"]["judge_params"] |= params
    path.write_text(json.dumps(data), "utf-8")
    return path


FOREIGN = {
    "base_url": "http://127.0.0.1:9/v1",
    "address": "http://127.0.0.1:9/v1",
    "price": [0.0, 0.0],
    "workers": 64,
    "timeout": 1e9,
    "retries": 99,
    "batch": True,
    "poll": 1.0,
    "model": "another-model",
}


def test_where_a_key_is_sent_and_what_it_costs_is_not_taken_from_a_file(past: Path) -> None:
    taken = from_file(altered(past, **FOREIGN))["params"]
    assert {name for name in taken if name.startswith("openai.")} == {
        "openai.model",
        "openai.temperature",
        "openai.tokens",
        "openai.weighted",
    }
    judge = make(Options(**from_file(past))).judge
    assert judge.where.startswith("judge-model at ")  # the command line's form of the name stands above the field
    assert ":9/" not in judge.where


def test_nothing_is_sent_before_the_one_who_replays_says_so(past: Path, stub: Stub) -> None:
    with serving() as thief:
        done = bench("run", "--config", str(altered(past, base_url=thief.url)))
        assert done.exit_code == 2
        last = done.stderr.splitlines()[-1]
        assert last.startswith("bench: run.json names the judge judge-model at http://127.0.0.1")
        assert stub.url in last
        assert "say --yes, or name it yourself (--judge)" in last
        assert stub.requests == thief.requests == []
        records(bench("run", "--config", str(past), "--yes", "--json"))
        assert stub.requests
        assert thief.requests == []


def test_a_judge_that_the_command_line_names_is_not_asked_about(past: Path, stub: Stub) -> None:
    records(bench("run", "--config", str(past), "--judge", "openai:judge-model", "--json"))
    assert stub.requests


def test_a_writer_of_prompts_is_asked_about_too(stub: Stub, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    words = ("run", "--backend", "fake", "-m", "prompt-engineered", "-n", "1", "--judge", "rules", "--json")
    (row,) = json.loads(bench(*words, "--prompter", "openai:writer").stdout)["runs"]
    Path(row["path"]).rename(path)
    stub.requests.clear()
    done = bench("run", "--config", str(path))
    assert done.exit_code == 2
    assert "names the prompter writer at http://127.0.0.1" in done.stderr.splitlines()[-1]
    assert stub.requests == []


def test_an_address_in_a_settings_file_is_asked_about(stub: Stub, tmp_path: Path) -> None:
    with serving() as other:
        path = tmp_path / "run.toml"
        path.write_text(
            'methods = ["none"]\nbackend = "fake"\nlimit = 1\njudge = "openai:judge-model"\n'
            f'[params.openai]\nbase_url = "{other.url}"\n'
        )
        done = bench("run", "--config", str(path))
        assert done.exit_code == 2
        assert other.url in done.stderr.splitlines()[-1]
        assert other.requests == []
        assert bench("run", "--config", str(path), "--yes").exit_code == 0
        assert other.requests


def test_an_address_on_the_command_line_is_the_user_s_own(past: Path, stub: Stub) -> None:
    words = ("--judge", "openai:judge-model", "-p", "openai.base_url=http://127.0.0.1:9/v1", "-p", "openai.retries=0")
    one_line(bench("run", "--config", str(past), *words), "127.0.0.1:9")
    assert stub.requests == []
