"""The Hugging Face hub through its own cache: asked once whether it answers, and never waited for."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path
from typing import Any

import faulty_hub
import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from bench import BenchError, UsageError
from bench.core import hub


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What is asked of a hub that refuses connections, and how its client is called."""
    found: dict[str, list[Any]] = {"hub": [], "client": []}

    def opened(request: urllib.request.Request, timeout: float) -> None:
        found["hub"].append((request.full_url, timeout))
        raise urllib.error.URLError("refused")

    def client(repo: str, name: str, **options: Any) -> str:
        found["client"].append((repo, name, options["revision"], options["local_files_only"]))
        if name == "lost.json":
            raise LocalEntryNotFoundError("a long text\nof several lines")
        return f"/cache/{name}"

    hub._reached.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(urllib.request, "urlopen", opened)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", client)
    return found


def test_a_hub_that_does_not_answer_is_asked_once_and_its_cache_is_used(asked: dict[str, list[Any]]) -> None:
    for name in ("one.parquet", "two.parquet"):
        assert hub.fetch("owner/repo", name, "dataset", "abc") == Path(f"/cache/{name}")
    assert len(asked["hub"]) == 1
    assert asked["hub"][0][1] <= 2
    assert asked["client"] == [("owner/repo", f"{n}.parquet", "abc", True) for n in ("one", "two")]


def test_what_is_in_no_cache_is_an_error_of_one_line(asked: dict[str, list[Any]]) -> None:
    with pytest.raises(BenchError, match=r"^cannot fetch owner/repo/lost.json from the hub: it does not answer"):
        hub.fetch("owner/repo", "lost.json")


def test_a_hub_that_answers_in_any_way_is_asked_for_files(
    asked: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(request: urllib.request.Request, timeout: float) -> None:
        raise urllib.error.HTTPError(request.full_url, 405, "no HEAD here", Message(), None)

    monkeypatch.setattr(urllib.request, "urlopen", refused)
    hub.fetch("owner/repo", "one.parquet")
    assert asked["client"] == [("owner/repo", "one.parquet", None, False)]


def test_offline_mode_asks_nothing(asked: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.fetch("owner/repo", "one.parquet")
    assert asked["hub"] == []
    assert asked["client"][0][3] is True


def test_a_hub_that_misbehaves_costs_one_line_and_a_bounded_wait(tmp_path: Path) -> None:
    """Reset, close, garbage, half a body, another's JSON, silence: on the listing of a model and on one file."""
    command = [sys.executable, str(Path(faulty_hub.__file__)), str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line.split(": ", 2) for line in done.stdout.splitlines()]
    assert [way for way, *_ in lines] == [way for way in faulty_hub.WAYS for _ in range(2)]
    for way, seconds, told in lines:
        assert told.startswith(("cannot fetch model owner/model from", "cannot fetch owner/data/a.parquet from")), way
        assert float(seconds) < 20, way


def test_a_file_in_the_cache_is_used_where_the_hub_misbehaves(
    asked: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def client(repo: str, name: str, **options: Any) -> str:
        if not options["local_files_only"]:
            raise KeyError("id")
        return f"/cache/{name}"

    monkeypatch.setattr(hub, "reachable", lambda: True)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", client)
    assert hub.fetch("owner/repo", "one.json") == Path("/cache/one.json")


def test_a_download_folder_of_the_client_is_read_as_it_is(tmp_path: Path) -> None:
    root = tmp_path / "models--owner--a-model"
    for name in ("abc", "def"):
        (root / "snapshots" / name).mkdir(parents=True)
    assert hub.downloaded(root / "snapshots" / "abc") == (root / "snapshots" / "abc", "owner/a-model")
    with pytest.raises(UsageError, match=r"models--owner--a-model holds 2 snapshots: name one"):
        hub.downloaded(root)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("def")
    assert hub.downloaded(root) == (root / "snapshots" / "def", "owner/a-model")
    assert hub.downloaded(tmp_path) == (tmp_path, "")


def test_what_the_client_says_is_cut_between_words() -> None:
    line = "The client said a great deal about an address that it had been given. " * 4
    shown = hub._reason(ValueError(line + "\nand more"))
    assert shown.startswith("ValueError: The client")
    assert len(shown) < 160
    assert shown.removesuffix(" …").split()[-1] in line.split()
