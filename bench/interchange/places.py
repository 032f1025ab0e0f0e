"""Where a steering's file lies: a path here, or `hf://OWNER/NAME[/PATH]` on the hub; a file, or a folder of them.

Invariant: in a folder the file of a concept has the concept's name, as `bench export` writes it, and another suffix.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from bench.core import hub
from bench.core.errors import BenchError, UsageError
from bench.core.escape import name as file_name
from bench.core.paths import expanded
from bench.interchange.files import SUFFIXES

SCHEME = "hf://"
"""Before a repository of the hub."""


def repository(url: str) -> tuple[str, str]:
    """`OWNER/NAME` and the path in it of `hf://OWNER/NAME[/PATH]`; raises UsageError for another address."""
    owner, _, rest = url.removeprefix(SCHEME).strip("/").partition("/")
    name, _, path = rest.partition("/")
    if not (owner and name):
        raise UsageError(f"{url} names no repository: write hf://OWNER/NAME, or hf://OWNER/NAME/PATH")
    return f"{owner}/{name}", path


def located(place: str) -> Path:
    """The file or folder that a user named; one on the hub is fetched, or taken from its client's cache."""
    return _fetched(place) if place.startswith(SCHEME) else expanded(place)


@cache
def _fetched(url: str) -> Path:
    repo, path = repository(url)
    below = f"{path}/" if path else ""
    patterns = [f"{below}*{suffix}" for suffix in SUFFIXES] + ([path] if path else [])
    found = hub.snapshot(repo, patterns) / path
    if not found.exists():
        raise UsageError(f"{repo} on the hub has no {path}")
    return found


def steering_files(folder: Path) -> list[Path]:
    """The files in a folder that may hold a steering, in order."""
    return sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())


def of_concept(folder: Path, concept: str) -> Path:
    """The file of a concept in a folder; raises BenchError, naming the concept, where none or several are its."""
    found = [path for path in steering_files(folder) if path.stem == file_name(concept)]
    if not found:
        raise BenchError(
            f"{folder.name} has no file for the concept {concept!r} ({file_name(concept)}.safetensors): "
            "--concept NAME runs one that has"
        )
    if len(found) > 1:
        raise BenchError(
            f"{folder.name} has several files for the concept {concept!r}: {', '.join(path.name for path in found)}"
        )
    return found[0]
