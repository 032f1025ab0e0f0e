"""Several processes that make the rows of one store, some of them killed on their way."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

from bench.core.rows import Rows


def worker(folder: Path, keys: list[str], seed: int, closes: bool) -> None:
    """Puts what of `keys` is its own, and writes down that it did."""
    rows = Rows(folder)
    random.Random(seed).shuffle(keys)
    for mine in rows.portions(keys):
        for key in mine:
            with (folder / "made").open("ab", buffering=0) as file:
                file.write(f"{key}\n".encode())
            rows.put(key, key * 2)
    assert all(rows.get(key) == key * 2 for key in keys)
    if closes:
        rows.close()


def made_once(folder: Path, count: int, killed: int, closes: bool) -> None:
    """Four make `count` rows, `killed` of which may be killed: those have made a row without having put it, at most."""
    keys, pids = [str(i) for i in range(count)], []
    for seed in range(4):
        pid = os.fork()
        if pid == 0:
            try:
                worker(folder, keys, seed, closes)
            except BaseException:
                os._exit(1)
            os._exit(0)
        pids.append(pid)
    for pid in pids[:killed]:
        while not (folder / "made").exists():
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.05))
        os.kill(pid, signal.SIGKILL)
    ends = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert ends[killed:] == [0] * (4 - killed)
    made = (folder / "made").read_text().split()
    assert set(made) == set(keys)
    assert len(made) <= len(keys) + killed
    read = Rows(folder)
    assert [read.get(key) for key in keys] == [key * 2 for key in keys]
    assert len(read) == len(keys)
