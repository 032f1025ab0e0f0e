"""Commands in places of their own: run in forked children that can be killed, and what they leave behind.

Invariant: what is read back is read apart from the program's own readers, so that a mistake there shows.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PLACES = ("fsync", "replace", "rename", "fstat", "mkdir", "open", "lstat")
"""Functions of `os` before or after a call of which a child may be killed."""
LEFT = ("*.part", ".part-*")
"""Names of what no finished command may leave."""


@dataclass(frozen=True)
class Place:
    """A folder with its cache and results, and one command that is run in it."""

    root: Path
    words: tuple[str, ...]
    snapshot: Callable[[Path], Any]
    """What the command is for, without times: equal after a kill and without."""

    def start(self, die: tuple[int, bool] | None = None, calm: bool = False) -> int:
        """The command in a child; `die` is the call of `PLACES` at which it is killed, and whether after it.

        `calm`: it does not look first whether the disk has room.
        """
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            return pid
        try:
            os.setpgid(0, 0)
            os.environ.update(BENCH_CACHE=str(self.root / "cache"), BENCH_RESULTS=str(self.root / "results"))
            os.environ["BENCH_JUDGE"] = "likelihood"
            for name, number in (("stdout", 1), ("stderr", 2)):
                os.dup2(os.open(self.root / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
            os.chdir(self.root)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            calls = _counted(die)
            if calm:
                setattr(sys.modules["bench.run.session"], "check_disk", lambda rows, folders: None)  # noqa: B010
            from bench.cli.main import main

            code = 0
            try:
                main(list(self.words))
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
            sys.stdout.flush()
            sys.stderr.flush()
            if not calm:
                (self.root / "calls").write_text(str(calls[0]))
            os._exit(code)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(99)

    def run(self) -> int:
        return wait(self.start())

    def said(self) -> list[str]:
        return (self.root / "stderr").read_text("utf-8", "replace").splitlines()


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _counted(die: tuple[int, bool] | None) -> list[int]:
    """Count the calls of `PLACES`, and kill this process before or after one of them."""
    calls = [0]
    real = {name: getattr(os, name) for name in PLACES}

    def counting(name: str) -> Callable[..., Any]:
        def call(*args: Any, **fields: Any) -> Any:
            calls[0] += 1
            now = die is not None and calls[0] == die[0]
            if now and die and not die[1]:
                os.kill(os.getpid(), signal.SIGKILL)
            found = real[name](*args, **fields)
            if now:
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        return call

    for name in PLACES:
        setattr(os, name, counting(name))
    return calls


def warm(words: Sequence[str], root: Path) -> None:
    """Import what a command needs, once, so that its forks begin at once."""
    import matplotlib.pyplot
    import pandas
    import scipy.stats
    import sklearn.linear_model
    import torch
    import transformers

    from bench.cli.main import main

    torch.set_num_threads(1)
    assert all((matplotlib.pyplot, pandas, scipy.stats, sklearn.linear_model, transformers))
    os.environ.update(BENCH_CACHE=str(root / "cache"), BENCH_RESULTS=str(root / "results"), BENCH_JUDGE="likelihood")
    quiet = contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO())
    with quiet[0], quiet[1], contextlib.suppress(SystemExit):
        main([*words, "--dry-run"])


# What is left


def rows(root: Path) -> tuple[Counter[tuple[str, str]], dict[tuple[str, str], str], int]:
    """Every row below a folder: how often each key of each shard is there, the rows, and the torn lines."""
    counts: Counter[tuple[str, str]] = Counter()
    found: dict[tuple[str, str], str] = {}
    torn = 0
    for path in sorted([*(root / "cache" / "rows").rglob("*.jsonl"), *(root / "out" / "replies").glob("*.jsonl")]):
        shard = path.parent.relative_to(root).as_posix()
        if {"spending", "checksums"} & set(path.parts):  # a row a process, and one a file of this place
            continue
        *lines, last = path.read_bytes().split(b"\n")
        torn += last != b""
        for line in lines:
            try:
                record = json.loads(line)
                key = shard, record["key"]
            except (ValueError, KeyError):
                torn += 1
                continue
            counts[key] += 1
            found[key] = json.dumps(record["row"], sort_keys=True)
    return counts, found, torn


def leftovers(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for name in LEFT for path in root.rglob(name))


def results(root: Path) -> Any:
    """Every run and what lies beside it, without times."""
    found: dict[str, Any] = {}
    for path in sorted((root / "results").rglob("*")):
        if path.is_dir():
            continue
        name = path.relative_to(root).as_posix()
        if path.suffix != ".json":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
            continue
        data = json.loads(path.read_text("utf-8"))
        # `probe` is what this process saw of the model: where every row is there already, none is loaded.
        for own in ("timings", "provenance", "refused", "probe"):
            data.pop(own, None)
        for concept in data.get("concepts", {}).values():
            if isinstance(concept, dict):
                concept.pop("fit_seconds", None)
        if isinstance(data.get("counts"), dict):
            data["counts"].pop("generated_now", None)
        found[name] = json.dumps(data, sort_keys=True)
    return found


def files(folder: str) -> Callable[[Path], Any]:
    """Every file of a folder by its bytes, rows apart."""

    def snapshot(root: Path) -> Any:
        return {
            path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted((root / folder).rglob("*"))
            if path.is_file() and path.suffix != ".jsonl" and not path.name.startswith(".claims")
        }

    return snapshot


@contextlib.contextmanager
def fresh(made: Path, root: Path) -> Iterator[Path]:
    """A copy of a prepared place, taken away afterwards."""
    shutil.copytree(made, root, symlinks=True)
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def timed(place: Place) -> float:
    """Seconds that an undisturbed command takes."""
    begun = time.monotonic()
    if code := place.run():
        raise RuntimeError(f"{' '.join(place.words)} ended with {code}: {place.said()[-1:]}")
    return time.monotonic() - begun
