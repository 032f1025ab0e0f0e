"""Threads: how many, and that those which wait leave their core to others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.backends.threads import Clock, busy, free
from bench.core.machine import cores

SHOWS = "import bench, torch; torch.ones(9).sum()"


@pytest.mark.skipif(sys.platform != "linux", reason="torch brings another OpenMP elsewhere, which says it otherwise")
@pytest.mark.parametrize(("said", "policy", "spins"), [("", "PASSIVE", "3000"), ("ACTIVE", "ACTIVE", "30000000000")])
def test_threads_that_wait_hardly_spin_unless_told_to(said: str, policy: str, spins: str) -> None:
    # vLLM preloads the library into processes that its own starts, and then it is read before bench is.
    left = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "LD_PRELOAD")
    env = {name: value for name, value in os.environ.items() if name not in left}
    env |= {"OMP_DISPLAY_ENV": "verbose"} | ({"OMP_WAIT_POLICY": said} if said else {})
    shown = subprocess.run([sys.executable, "-c", SHOWS], env=env, capture_output=True, text=True, check=True).stderr
    assert f"OMP_WAIT_POLICY = '{policy}'" in shown
    assert f"GOMP_SPINCOUNT = '{spins}'" in shown


@pytest.mark.parametrize(
    ("most", "count", "others", "threads"),
    [(2, 2, 0.0, 2), (2, 2, 0.4, 2), (2, 2, 1.0, 1), (2, 2, 3.0, 1), (32, 64, 1.0, 32), (32, 64, 40.0, 24)],
)
def test_a_thread_for_each_core_that_others_leave(most: int, count: int, others: float, threads: int) -> None:
    assert free(most, count, others) == threads


def test_what_a_core_has_done_is_read_without_its_idle_time(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 100 20 30 5000 600 7 8 35 4 0\ncpu1 1 1 1 1 1 1 1 1 0 0\nintr 5\n")
    assert busy(stat, [0]) == 200 / os.sysconf("SC_CLK_TCK")
    assert busy(stat, [0, 1]) == 206 / os.sysconf("SC_CLK_TCK")
    assert busy(tmp_path / "none", [0]) is None


def test_neighbours_are_what_is_not_this_process() -> None:
    begun = Clock(0.0, 1.0, 50.0)
    assert begun.neighbours(Clock(4.0, 3.0, 58.0)) == pytest.approx(1.5)
    assert begun.neighbours(Clock(4.0, 5.0, 53.0)) == 0.0
    assert begun.neighbours(Clock(0.1, 1.0, 51.0)) == 0.0, "too short to tell"
    assert begun.neighbours(Clock(4.0, 3.0, None)) == 0.0


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say what a core did")
def test_a_busy_neighbour_is_seen() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as neighbour:
        try:
            begun = Clock.now()
            subprocess.run([sys.executable, "-c", "import time; time.sleep(1)"], check=True)
            assert begun.neighbours(Clock.now()) > 0.2
        finally:
            neighbour.kill()
    assert len(cores()) >= 1
