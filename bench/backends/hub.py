"""Files of the Hugging Face hub, through its own cache.

Invariant: a hub that does not answer costs one short question a process, and what is cached is used all the same.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from bench.core.errors import BenchError

PATIENCE = 2.0
"""Seconds to wait for the hub; its client would ask six times, for half a minute."""


def fetch(repo: str, name: str, kind: Literal["model", "dataset"] = "model", revision: str = "") -> Path:
    """One file of a repository, at a revision (branch, tag or commit; default: its main branch)."""
    from huggingface_hub import hf_hub_download

    try:
        found = hf_hub_download(
            repo, name, repo_type=kind, revision=revision or None, etag_timeout=5, local_files_only=not reachable()
        )
    except (OSError, ValueError) as error:
        raise BenchError(f"cannot fetch {repo}/{name} from the hub: {_reason(error)}") from error
    return Path(found)


def snapshot(repo: str, patterns: Sequence[str], download: bool = True) -> Path:
    """The folder of a repository's files that match `patterns`; its client verifies and resumes."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    local = not (download and reachable())
    try:
        return Path(snapshot_download(repo, allow_patterns=list(patterns), local_files_only=local, etag_timeout=5))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise BenchError(f"cannot fetch model {repo} from the hub: {_reason(error, download)}") from error


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
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:140] if str(error).strip() else ''}"
