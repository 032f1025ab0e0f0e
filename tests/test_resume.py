"""Resume, held to its promise: the same command again, after any death, gives what an undisturbed run gives.

Processes are killed with SIGKILL at random times and at every point where a file gets its final name; then
the same command runs to its end. Nothing finished is paid for twice, and nothing half-written is read.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.core.registry import table
from bench.core.store import load_value
from bench.run.fits import Kept

METHODS = ("none", "diffmean", "prompt")
CONCEPTS = 4
CALLS = CONCEPTS * ((2 + 3) + (3 * 2 + 3) + (3 * 2 + 3))
"""Generations of the run under test: a setting or three on two select prompts, the pick on three test prompts."""

SERVER = """
# Imports everything once, then runs each command in a forked child, so that a death costs no start-up.
import contextlib, io, json, os, signal, sys, time
import matplotlib.pyplot, scipy.stats, sklearn.linear_model, sklearn.metrics, torch
import bench.report.build, bench.run.session, bench.cli.run
from bench.backends.fake.backend import FakeBackend
from bench.cli import main

generate = FakeBackend.generate
with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit):
    main(["run", "--backend", "fake", "-m", "none,diffmean,prompt", "--dry-run"])  # reads the code and the data


def child(job):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits it ignored
    os.environ.update(job["env"])
    for stream, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(job[stream], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    calls = os.open(job["calls"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def slow(self, requests):
        for i, request in enumerate(requests):
            os.write(calls, b"x")
            time.sleep(job["delay"])
            for _, completion in generate(self, [request]):
                yield i, completion

    FakeBackend.generate = slow
    if job["die"]:
        name, when, count = job["die"]
        real, seen = getattr(os, name), [0]

        def dying(*args, **kwargs):
            seen[0] += 1
            if seen[0] == count and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            found = real(*args, **kwargs)
            if seen[0] == count:
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        setattr(os, name, dying)
    main(job["words"])


for line in sys.stdin:
    job = json.loads(line)
    if "wait" in job:
        print(os.waitstatus_to_exitcode(os.waitpid(job["wait"], 0)[1]), flush=True)
        continue
    pid = os.fork()
    if pid == 0:
        try:
            child(job)
        except SystemExit as end:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code or 0)
        os._exit(99)
    print(pid, flush=True)
"""


class Server:
    """Runs `bench` in children that can be killed."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", SERVER]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, job: dict[str, Any]) -> int:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def wait(self, pid: int) -> int:
        return self.ask({"wait": pid})


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server()
    yield made
    assert made.process.stdin
    made.process.stdin.close()
    made.process.wait(30)


@dataclass(frozen=True)
class Place:
    """One cache with its results, and the command under test in it."""

    server: Server
    root: Path

    def start(self, delay: float = 0.0, die: tuple[str, str, int] | None = None, tag: str = "0") -> int:
        self.root.mkdir(exist_ok=True)
        env = {"BENCH_CACHE": str(self.root / "cache"), "BENCH_RESULTS": str(self.root / "results")}
        words = ["run", "--backend", "fake", "-m", ",".join(METHODS), "-n", str(CONCEPTS), "--json"]
        files = {name: str(self.root / f"{name}-{tag}") for name in ("out", "err")}
        calls = str(self.root / "calls")
        return self.server.ask({"env": env, "words": words, "delay": delay, "die": die, "calls": calls} | files)

    def finish(self) -> None:
        code = self.server.wait(self.start())
        assert code == 0, (self.root / "err-0").read_text()
        rows = json.loads((self.root / "out-0").read_text())["runs"]
        assert all(row["status"] in ("complete", "cached") for row in rows)

    def calls(self) -> int:
        """How often the model was asked, over all attempts."""
        path = self.root / "calls"
        return path.stat().st_size if path.is_file() else 0

    def rows(self, kind: str) -> tuple[list[tuple[str, Any]], int]:
        """Every whole line under `rows/KIND`, read apart from the store, and the number of torn ones."""
        whole, torn = [], 0
        for path in sorted((self.root / "cache" / "rows" / kind).rglob("*.jsonl")):
            for i, line in enumerate(lines := path.read_bytes().split(b"\n")):
                if i == len(lines) - 1:
                    torn += line != b""
                    continue
                record = json.loads(line)  # only the end of a file may be torn
                whole.append((record["key"], record["row"]))
        return whole, torn

    def outcome(self) -> dict[str, Any]:
        """What decides every number; timings, the tree and this attempt's own work left out."""
        found = {}
        for path in (self.root / "results").rglob("run.json"):
            data = json.loads(path.read_text("utf-8"))
            for concept in data["concepts"].values():
                concept.pop("fit_seconds")
            for own in ("timings", "provenance", "refused"):  # the tree may change while a test runs
                data.pop(own)
            data["counts"].pop("generated_now")
            found[data["spec"]["method"]] = data
        return found

    def check_fits(self) -> None:
        """Every folder under a final name is whole."""
        table("method")  # their types
        folders = [p for p in (self.root / "cache" / "fits").glob("*") if not p.name.startswith(".")]
        for folder in folders:
            assert json.loads((folder / "key.json").read_text())["method"] in METHODS
            fit = load_value(folder / "fit.safetensors")
            assert isinstance(fit, Kept)
            assert fit.candidates


@pytest.fixture(scope="module")
def undisturbed(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(server, tmp_path_factory.mktemp("undisturbed"))
    place.finish()
    return place


@pytest.fixture
def place(server: Server, tmp_path: Path) -> Place:
    return Place(server, tmp_path / "place")


def same(place: Place, undisturbed: Place, deaths: int, in_flight: int = 1) -> None:
    """`place` ended where `undisturbed` did, and paid for no more than what was under way at each death."""
    assert place.outcome() == undisturbed.outcome()
    assert set(place.outcome()) == set(METHODS)
    for kind in ("generations", "judgements", "evidence", "units"):
        rows, torn = place.rows(kind)
        expected, _ = undisturbed.rows(kind)
        counts = Counter(key for key, _ in rows)
        assert [key for key, count in counts.items() if count > 1] == [], f"{kind} were made twice"
        assert dict(rows) == dict(expected)
        assert torn <= deaths
    unique = len(place.rows("generations")[0])
    assert unique <= place.calls() <= unique + deaths * in_flight
    place.check_fits()


@pytest.mark.slow
def test_an_undisturbed_run_asks_once_for_every_answer(undisturbed: Place) -> None:
    rows, torn = undisturbed.rows("generations")
    assert len(rows) == CALLS == undisturbed.calls()
    assert torn == 0
    assert set(undisturbed.outcome()) == set(METHODS)
    undisturbed.check_fits()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_random_times_it_ends_as_if_nothing_had_happened(place: Place, undisturbed: Place, seed: int) -> None:
    rng, deaths = random.Random(seed), 0
    for _ in range(6):
        pid = place.start(delay=0.005)
        time.sleep(rng.uniform(0.05, 0.6))
        os.kill(pid, signal.SIGKILL)  # a child that has ended waits to be collected, so the id is still its own
        deaths += place.server.wait(pid) == -signal.SIGKILL
        place.check_fits()
        for path in (place.root / "results").rglob("run.json"):
            assert json.loads(path.read_text("utf-8"))["status"] == "complete"
    assert deaths >= 3
    place.finish()
    same(place, undisturbed, deaths)


@pytest.mark.slow
def test_killed_again_and_again_while_generating_it_still_gets_there(place: Place, undisturbed: Place) -> None:
    """Killed a few answers further each time: what one attempt answered, the next one has."""
    rng, deaths = random.Random(4), 0
    while place.calls() < CALLS and deaths < 40:
        before, goal = place.calls(), place.calls() + rng.randint(10, 40)
        pid = place.start(delay=0.004)
        until = time.monotonic() + 20
        while place.calls() < min(goal, CALLS) and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.006))
        os.kill(pid, signal.SIGKILL)
        deaths += place.server.wait(pid) == -signal.SIGKILL
        assert place.calls() > before
    assert deaths >= 3
    place.finish()
    same(place, undisturbed, deaths)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsync", "replace", "rename"])
def test_killed_where_a_file_gets_its_name_it_is_whole_or_not_there(
    place: Place, undisturbed: Place, name: str
) -> None:
    """Right before or after the n-th such call of an attempt: for a fit's key, its folder, a run.json, a report."""
    deaths = 0
    for count, when in ((1, "before"), (2, "after"), (8, "before"), (2, "after")):
        code = place.server.wait(place.start(die=(name, when, count)))
        deaths += code == -signal.SIGKILL
        assert code in (0, -signal.SIGKILL), (place.root / "err-0").read_text()
        place.check_fits()
        for path in (place.root / "results").rglob("run.json"):
            assert json.loads(path.read_text("utf-8"))["status"] == "complete"
        if code == 0:
            break
    assert deaths >= 2
    place.finish()
    same(place, undisturbed, deaths)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "said"),
    [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "ended by SIGTERM")],
)
def test_ended_by_a_person_or_a_machine_it_says_how_to_go_on(
    place: Place, undisturbed: Place, number: signal.Signals, said: str
) -> None:
    pid = place.start(delay=0.01)
    until = time.monotonic() + 20
    while place.calls() < 10 and time.monotonic() < until:
        time.sleep(0.002)
    os.kill(pid, number)
    assert place.server.wait(pid) == 128 + number
    lines = (place.root / "err-0").read_text().splitlines()
    assert lines[-1] == f"bench: {said}; the same command resumes"
    assert "Traceback" not in "".join(lines)
    assert (place.root / "out-0").read_text() == ""
    assert place.calls() < CALLS
    place.finish()
    same(place, undisturbed, deaths=1)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_processes_on_one_cache_share_the_work(place: Place, undisturbed: Place, killed: int) -> None:
    """Three at once, one of which may be killed on its way: nothing is asked twice but what that one had under way."""
    tags = ("0", "1", "2")
    pids = [place.start(delay=0.004, tag=tag) for tag in tags]
    if killed:
        until = time.monotonic() + 20
        while place.calls() < 20 and time.monotonic() < until:
            time.sleep(0.002)
        os.kill(pids[0], signal.SIGKILL)
    for i, (tag, pid) in enumerate(zip(tags, pids, strict=True)):
        assert place.server.wait(pid) == (-signal.SIGKILL if i < killed else 0), (place.root / f"err-{tag}").read_text()
    same(place, undisturbed, killed)
    before = place.calls()
    place.finish()
    assert place.calls() == before
