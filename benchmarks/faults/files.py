"""Files and folders that fail: cuts, flipped bits, full disks, vanished folders, signals, several processes.

What is said of rows is tried on rows that runs have written, of every kind.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from bench.core.content import digest
from bench.core.errors import BenchError
from bench.core.rows import Rows
from bench.core.store import Artefacts, load_value
from benchmarks.faults.counts import Count
from benchmarks.faults.kills import FAKE
from benchmarks.faults.places import Place, fresh, leftovers, results, rows, timed, wait, warm


def count(scale: float, seed: int) -> list[Count]:
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        warm(FAKE, root / "warm")
        place = Place(root / "whole", FAKE, results)
        place.root.mkdir()
        seconds = timed(place)
        kept = root / "whole" / "cache"
        expected = results(place.root), rows(place.root)[:2]
        (root / "empty").mkdir()
        return [
            cuts(kept, root, scale, rng),
            flips(kept, root, round(4000 * scale), rng),
            fits(kept, root, round(400 * scale), rng),
            *(
                disturbed(what, root, expected, max(1, round(times * scale)), disturb, seconds, rng)
                for what, times, disturb in (
                    ("2 to 4 processes at once, some killed", 10, together),
                    ("the cache deleted on the way", 8, without_cache),
                    ("the results deleted on the way", 8, without_results),
                    ("SIGINT or SIGTERM on the way", 24, signalled),
                    ("a full disk under the cache", 10, full("cache")),
                    ("a full disk under the results", 6, full("results")),
                    ("a cache that cannot be written", 2, read_only("cache")),
                    ("results that cannot be written", 2, read_only("results")),
                )
            ),
        ]


# Rows and fits


def _of(file: Path, whole: bytes) -> dict[str, str]:
    """What the store reads of a folder with this one file, which held `whole`; rows under other keys are `others`."""
    keys = dict.fromkeys(json.loads(line)["key"] for line in whole.splitlines())
    with redirect_stderr(StringIO()):
        read = Rows(file.parent)
        found = {key: digest(read.get(key)) for key in keys if key in read}
        others = len(read) - len(found)
    return found | ({"others": str(others)} if others else {})


def _shards(kept: Path, root: Path) -> Iterator[tuple[Path, bytes]]:
    """A copy of the first rows of every kind, as one file, and its bytes."""
    for kind in sorted((kept / "rows").iterdir()):
        source = next(kind.rglob("*.jsonl"))
        (root / kind.name).mkdir(exist_ok=True)
        whole = b"".join(source.read_bytes().splitlines(keepends=True)[:6])
        copy = root / kind.name / source.name
        copy.write_bytes(whole)
        yield copy, whole


def cuts(kept: Path, root: Path, scale: float, rng: random.Random) -> Count:
    """Every length of a file, or a share of them."""
    tried = wrong = 0
    for file, whole in _shards(kept, root / "empty"):
        expected = list(_of(file, whole).items())
        places = range(len(whole))
        for cut in places if scale >= 1 else rng.sample(places, round(len(whole) * scale)):
            file.write_bytes(whole[:cut])
            lines = whole[:cut].count(b"\n")
            found = list(_of(file, whole).items())
            wrong += found not in (expected[:lines], expected[: lines + 1])
            tried += 1
    return Count("a file of rows cut at every byte, of each kind", tried, wrong, "more than the torn row is lost")


def flips(kept: Path, root: Path, times: int, rng: random.Random) -> Count:
    shards = list(_shards(kept, root / "empty"))
    tried = wrong = 0
    for i in range(times):
        file, whole = shards[i % len(shards)]
        file.write_bytes(whole)
        expected = _of(file, whole)
        place = rng.randrange(len(whole))
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1 :])
        found = _of(file, whole)
        most = 2 if whole[place] == ord("\n") else 1
        wrong += not (found.items() <= expected.items() and len(found) >= len(expected) - most)
        tried += 1
    return Count("one flipped bit in rows", tried, wrong, "another row is believed, or more is lost")


def fits(kept: Path, root: Path, times: int, rng: random.Random) -> Count:
    artefacts = Artefacts(kept / "fits")
    keys = [path.parent.name for path in sorted((kept / "fits").glob("*/key.json"))]
    wrong = 0
    for _ in range(times):
        key = rng.choice(keys)
        expected = digest(load_value(artefacts.path(key) / "fit.safetensors"))
        file = artefacts.path(key) / rng.choice(["fit.safetensors", "key.json"])
        whole = file.read_bytes()
        place = rng.randrange(len(whole))
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1 :])
        try:
            if Artefacts(kept / "fits").has(key):
                wrong += digest(load_value(artefacts.path(key) / "fit.safetensors")) != expected
        except BenchError:
            wrong += 1
        file.write_bytes(whole)
    return Count(
        "one flipped bit in a fit",
        times,
        wrong,
        "another steering is believed, or an error",
    )


# Commands

Disturb = Callable[[Place, float, random.Random], list[str]]
"""Runs a place's command under a fault; what was wrong with how it ended."""


def disturbed(
    what: str, root: Path, expected: Any, times: int, disturb: Disturb, seconds: float, rng: random.Random
) -> Count:
    """The command under a fault, then the same command without it."""
    wrong, notes = 0, []
    for _ in range(times):
        with fresh(root / "empty", root / "place") as there:
            for path in there.iterdir():
                shutil.rmtree(path)
            place = Place(there, FAKE, results)
            found = disturb(place, seconds, rng)
            if code := place.run():
                found.append(f"the same command: rc {code}: {place.said()[-1:]}")
            elif results(there) != expected[0]:
                found.append("another result")
            counts, kept, _ = rows(there)
            if any(number > 1 for number in counts.values()):
                found.append("rows made twice")
            if not kept.items() <= expected[1][1].items():
                found.append("another row")
            if leftovers(there):
                found.append(f"left: {leftovers(there)[0]}")
            wrong += bool(found)
            notes += found
    note = "a traceback, no last line that says why, another result after the same command, rows twice, a part left"
    return Count(f"`bench run` with {what}", times, wrong, f"{note}{': ' + '; '.join(notes[:3]) if notes else ''}")


def _ended(place: Place, code: int, allowed: tuple[int, ...]) -> list[str]:
    said = place.said()
    if code not in allowed:
        return [f"rc {code}: {said[-1:]}"]
    return [] if code in (0, -signal.SIGKILL) or (said and said[-1].startswith("bench: ")) else [f"said {said[-1:]}"]


def together(place: Place, seconds: float, rng: random.Random) -> list[str]:
    pids = [place.start() for _ in range(rng.randint(2, 4))]
    doomed = pids[: rng.randint(0, len(pids) - 1)]
    for pid in doomed:
        time.sleep(rng.uniform(0, seconds / len(pids)))
        os.kill(pid, signal.SIGKILL)
    return [f"rc {code}" for pid in pids if (code := wait(pid)) and not (pid in doomed and code == -signal.SIGKILL)]


def without_cache(place: Place, seconds: float, rng: random.Random) -> list[str]:
    return _without(place, "cache", seconds, rng)


def without_results(place: Place, seconds: float, rng: random.Random) -> list[str]:
    return _without(place, "results", seconds, rng)


def _without(place: Place, folder: str, seconds: float, rng: random.Random) -> list[str]:
    pid = place.start()
    time.sleep(rng.uniform(0, seconds))
    shutil.rmtree(place.root / folder, ignore_errors=True)
    return _ended(place, wait(pid), (0, 1))


def signalled(place: Place, seconds: float, rng: random.Random) -> list[str]:
    number = rng.choice((signal.SIGINT, signal.SIGTERM))
    pid = place.start()
    time.sleep(rng.uniform(0.05, seconds))
    os.kill(pid, number)
    return _ended(place, wait(pid), (0, 128 + number, -number))  # before the program begins, or after it has ended


def full(folder: str) -> Disturb:
    def disturb(place: Place, seconds: float, rng: random.Random) -> list[str]:
        with mounted(place.root / folder, f"size={rng.randint(1, 90) * 4}k") as there:
            found = _ended(place, wait(place.start(calm=True)), (0, 1))
            shutil.copytree(there, place.root / "kept")
        shutil.rmtree(place.root / folder)
        (place.root / "kept").rename(place.root / folder)
        return found

    return disturb


def read_only(folder: str) -> Disturb:
    def disturb(place: Place, seconds: float, rng: random.Random) -> list[str]:
        with mounted(place.root / folder, "ro"):
            return _ended(place, wait(place.start(calm=True)), (1,))

    return disturb


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A file system of its own in memory; as root only."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
