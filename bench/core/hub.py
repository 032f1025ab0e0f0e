"""Files of the Hugging Face hub, through its own cache.

Invariant: a hub that does not answer, or answers with anything but what was asked, costs one line and a bounded wait,
and what is cached is used all the same.
"""

from __future__ import annotations

import textwrap
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from bench.core.errors import BenchError, UsageError, said

PATIENCE = 2.0
"""Seconds to wait for the hub; its client would ask six times, for half a minute."""
ANSWER = 10.0
"""Seconds of silence after which one request of the client ends; by itself it waits for a listing without end."""
STALLED = 30.0
"""Seconds without a byte after which the client's retries are not waited for any more."""
Kind = Literal["model", "dataset"]


def fetch(repo: str, name: str, kind: Kind = "model", revision: str = "") -> Path:
    """One file of a repository, at a revision (branch, tag or commit; default: its main branch)."""
    from huggingface_hub import hf_hub_download

    def ask(local: bool) -> str:
        return hf_hub_download(
            repo, name, repo_type=kind, revision=revision or None, etag_timeout=5, local_files_only=local
        )

    return _asked(ask, repo, kind, f"{repo}/{name}")


def snapshot(repo: str, patterns: Sequence[str], download: bool = True, kind: Kind = "model") -> Path:
    """The folder of a repository's files that match `patterns`; its client verifies and resumes."""
    from huggingface_hub import snapshot_download

    def ask(local: bool) -> str:
        return snapshot_download(
            repo, repo_type=kind, allow_patterns=list(patterns), local_files_only=local, etag_timeout=5
        )

    return _asked(ask, repo, kind, f"{kind} {repo}", download)


def send(repo: str, files: Mapping[str, bytes], message: str) -> str:
    """Commit files (path in the repository -> content) to a model repository, which is made where it is not there yet;
    the commit's address. Raises UsageError without a token, BenchError where the hub does not take them."""
    from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise UsageError(f"HF_HUB_OFFLINE is set: nothing can go to {repo}")
    if not get_token():
        raise UsageError(f"no token of the hub to write to {repo} with: run `hf auth login`, or set HF_TOKEN")
    added = [CommitOperationAdd(path_in_repo=path, path_or_fileobj=content) for path, content in files.items()]
    try:
        HfApi().create_repo(repo, exist_ok=True)
        return str(HfApi().create_commit(repo, added, commit_message=message).commit_url)
    except Exception as error:  # whatever the client makes of it
        raise BenchError(f"the hub did not take {repo}: {_reason(error)}") from error


def _asked(ask: Callable[[bool], str], repo: str, kind: Kind, what: str, download: bool = True) -> Path:
    """What `ask` finds, on the hub where that answers and `download` allows it, else in the client's cache."""
    refused: Exception | None = None
    if download and reachable():
        try:
            return Path(_watched(lambda: ask(False), repo, kind))
        except Exception as error:  # whatever the client makes of a hub that sends other things
            refused = error
    try:
        return Path(ask(True))
    except Exception as error:
        why = _reason(refused or error, download)
        raise BenchError(f"cannot fetch {what} from the hub: {why}; or give a folder that has it") from (
            refused or error
        )


def _watched(ask: Callable[[], str], repo: str, kind: Kind) -> str:
    """What `ask` gives; raises what it raises, or TimeoutError where nothing comes any more.

    The client runs in a thread that is left behind then: it asks again by itself, longer than anyone would wait.
    """
    from huggingface_hub import constants, get_session

    get_session().timeout = ANSWER
    blobs = Path(constants.HF_HUB_CACHE) / f"{kind}s--{repo.replace('/', '--')}" / "blobs"
    found: list[str] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(ask())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    before, since = -1, time.monotonic()
    while thread.is_alive():
        thread.join(0.5)
        if (now := _bytes(blobs)) != before:
            before, since = now, time.monotonic()
        elif time.monotonic() - since > STALLED:
            raise TimeoutError(f"it has sent nothing for {STALLED:g} s")
    if failed:
        raise failed[0]
    return found[0]


def _bytes(folder: Path) -> int:
    """Bytes of the files in a folder that others write to meanwhile."""
    try:
        return sum(path.stat().st_size for path in folder.iterdir())
    except OSError:
        return 0


def downloaded(folder: Path) -> tuple[Path, str]:
    """Where a repository's files lie in a folder that a user named, and its id `owner/name` where the folder is one of
    the hub client's own cache (`models--OWNER--NAME`, or `datasets--…`, or a snapshot in it); "" elsewhere.

    Of several snapshots the one that `refs/main` names; raises UsageError where it names none.
    """
    root = folder.parent.parent if folder.parent.name == "snapshots" else folder
    kind, _, repo = root.name.partition("--")
    if kind not in ("models", "datasets") or not (root / "snapshots").is_dir():
        return folder, ""
    if root == folder:
        found = sorted(place for place in (root / "snapshots").iterdir() if place.is_dir())
        main = root / "refs" / "main"
        told = main.read_text("utf-8", errors="replace").strip() if main.is_file() else ""
        chosen = [place for place in found if place.name == told or len(found) == 1]
        if not chosen:
            raise UsageError(f"{folder.name} holds {len(found)} snapshots: name one, {folder.name}/snapshots/REVISION")
        folder = chosen[0]
    return folder, repo.replace("--", "/", 1)


def reachable() -> bool:
    """Whether the hub answers in any way; HF_HUB_OFFLINE switches it off."""
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE and _reached(constants.ENDPOINT)


@cache
def _reached(endpoint: str) -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        return True  # it said something
    except (OSError, ValueError):
        return False
    return True


def _reason(error: Exception, asked: bool = True) -> str:
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    if isinstance(error, LocalEntryNotFoundError):
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "it does not answer"
        return f"{why}, and its cache has no copy" if asked else "its cache has no copy"
    return f"{type(error).__name__}: {textwrap.shorten(said(error), 140, placeholder=' …')}"
