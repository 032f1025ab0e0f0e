"""Killed commands: `kill -9` at random points, then the same command again.

A kill falls at a random time of the command's whole length, or right before or after a random one of its calls that
open, rename, make or sync a file.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.faults.counts import Count
from benchmarks.faults.places import Place, files, fresh, leftovers, results, rows, timed, wait, warm

EACH = 5
"""Kills of one place, one after the other, before the command may end."""
LIMITS = ("-p", "protocol.budget.tokens=400", "-p", "protocol.budget.sequences=8", "--coefficients", "0.3,1")
QUICK = ("-p", "protocol.sampling.max_new_tokens=12", "-p", "likelihood.texts=4", "-p", "likelihood.words=8")
TRAINED = ("run", "-m", "none,diffmean,prompt-persona,repe,reft-r1,lora", "-n", "1", "--model", "model")
TRAINED += ("--dtype", "float32", *LIMITS, *QUICK)
FAKE = ("run", "--backend", "fake", "-m", "none,diffmean,prompt,random", "-n", "3")
JUDGE = ("judge", "rate", "all", "--judge", "rules", "--judge", "likelihood", "-p", "likelihood.texts=4")
REPORT = ("report", "--out", "reports")
DATA = ("data", "make", "--concepts", "c.csv", "--instructions", "asked.json", "--generator", "hf:model")
DATA += ("--out", "out", "--per-concept", "6", "--evaluation", "7", "--hard", "2", "--tokens", "12")


def count(scale: float, seed: int) -> list[Count]:
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        warm(FAKE, root / "warm")
        bare, judged = root / "bare", root / "judged"
        prepare(bare)
        shutil.copytree(bare, judged)
        timed(Place(judged, TRAINED, results))
        kinds: list[tuple[str, Path, tuple[str, ...], Callable[[Path], Any], int]] = [
            ("`bench run`, a tiny model, trained methods and persona views", bare, TRAINED, results, 40),
            ("`bench run`, the engine without a model", bare, FAKE, results, 50),
            ("`bench judge rate`, two judges", judged, JUDGE, results, 40),
            ("`bench report`", judged, REPORT, files("reports"), 40),
            ("`bench data make`, a tiny model", bare, DATA, files("out"), 40),
        ]
        return [
            killed(what, made, words, snapshot, max(EACH, round(kills * scale)), rng, root)
            for what, made, words, snapshot, kills in kinds
        ]


def prepare(root: Path) -> None:
    """A tiny model, and what `bench data make` is given."""
    from bench.backends import tiny
    from bench.data.layout import GENRES

    root.mkdir()
    os.environ["BENCH_CACHE"] = str(root / "cache")
    tiny.build(root / "model")
    (root / "c.csv").write_text("concept,genre\nthe sea,text\n")
    asked = [{"instruction": f"Question {k} about {g} things?", "genre": g} for g in GENRES for k in range(30)]
    (root / "asked.json").write_text(json.dumps(asked))


def killed(
    what: str,
    made: Path,
    words: tuple[str, ...],
    snapshot: Callable[[Path], Any],
    kills: int,
    rng: random.Random,
    root: Path,
) -> Count:
    """Kill a command so often, `EACH` times a place, and hold its end to that of an undisturbed one."""
    with fresh(made, root / "whole") as whole:
        place = Place(whole, words, snapshot)
        seconds = timed(place)
        calls = int((whole / "calls").read_text())
        expected, (counts, kept, _) = snapshot(whole), rows(whole)
        if again := [key for key, number in counts.items() if number > 1]:
            raise RuntimeError(f"an undisturbed {what} made {len(again)} rows twice")
    tried, wrong, notes = 0, 0, []
    while tried < kills:  # a command that has ended before its kill counts for nothing
        with fresh(made, root / "killed") as there:
            place, deaths = Place(there, words, snapshot), 0
            for _ in range(min(EACH, kills - tried)):
                if rng.random() < 0.5:
                    ended = wait(place.start((rng.randrange(1, calls + 1), rng.random() < 0.5)))
                else:
                    pid = place.start()
                    time.sleep(rng.uniform(0, seconds))
                    os.kill(pid, signal.SIGKILL)
                    ended = wait(pid)
                deaths += ended == -signal.SIGKILL
                if ended not in (0, -signal.SIGKILL):
                    raise RuntimeError(f"{what} ended with {ended}: {place.said()[-1:]}")
            tried += deaths
            found = faults(place, deaths, expected, kept, what)
            wrong += bool(found)
            notes += found
    note = "results or files differ, a row is lost, made twice or another, a torn line more than a kill, a part is left"
    return Count(f"`kill -9` of {what}", tried, wrong, f"{note}{': ' + '; '.join(notes[:3]) if notes else ''}")


def faults(place: Place, deaths: int, expected: Any, kept: dict[tuple[str, str], str], what: str) -> list[str]:
    """What is not as after an undisturbed command, once the same command has run to its end."""
    if code := place.run():
        return [f"rc {code}: {' '.join(place.said()[-1:])}"]
    counts, found, torn = rows(place.root)
    now = place.snapshot(place.root)
    checks: dict[str, bool] = {
        f"another result: {[name for name in {*now, *expected} if now.get(name) != expected.get(name)][:2]}": now
        != expected,
        "rows made twice": any(number > 1 for number in counts.values()),
        "rows differ": found != kept,
        "torn lines": torn > deaths,
        f"left: {leftovers(place.root)[:2]}": bool(leftovers(place.root)),
    }
    return [name for name, bad in checks.items() if bad]
