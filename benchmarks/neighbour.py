"""What a busy neighbour costs: products of the default model's shapes with threads that wait as torch has them wait,
asleep at once, and as `bench` has them, on a machine left alone and beside a program that keeps one core busy.

Each setting is a process of its own, for it is read when torch loads; they run in turns, in wall seconds, as waiting
is what is measured. `python -m benchmarks.neighbour` wants a machine that is quiet otherwise; two minutes.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.backends.threads import Clock, cores
from bench.core.store import write_json
from bench.results import provenance

TURNS = 5
WORK = """
import time, torch
from torch.nn.functional import linear
weights = [torch.randn(1536, 576) for _ in range(60)]
x = torch.randn(64, 576)
def work():
    for _ in range(8):
        for weight in weights:
            torch.nn.functional.silu(linear(x, weight)).sum()
work()
begun = time.monotonic()
work()
print(time.monotonic() - begun)
"""
READ = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
OWN = dict.fromkeys(READ) | {name: os.environ.get(name) for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
"""What `bench` has set when it was imported above."""
WAYS: dict[str, dict[str, str | None]] = {
    "torch": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "bench": OWN,
    "chosen beside a neighbour": OWN | {"OMP_NUM_THREADS": "1"},
}
"""What torch reads when it loads its threads; unset is torch's own."""


def once(way: dict[str, str | None]) -> float:
    env = {name: value for name, value in os.environ.items() if name not in READ}
    env |= {name: value for name, value in way.items() if value}
    return float(
        subprocess.run([sys.executable, "-c", WORK], env=env, capture_output=True, text=True, check=True).stdout
    )


def measured(neighbours: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    with ExitStack() as stack:
        for _ in range(neighbours):
            busy = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(busy.kill)
        for _ in range(TURNS):
            for name, way in WAYS.items():
                found[name].append(round(once(way), 3))
    return found


def main() -> None:
    begun = Clock.now()
    subprocess.run([sys.executable, "-c", "import time; time.sleep(3)"], check=True)
    others = begun.neighbours(Clock.now())
    quiet, beside = measured(0), measured(1)
    median = {name: (statistics.median(quiet[name]), statistics.median(beside[name])) for name in WAYS}
    found: dict[str, Any] = {
        "cores": len(cores()),
        "others_busy_at_the_start": round(others, 2),
        "seconds_quiet": quiet,
        "seconds_beside_a_neighbour": beside,
        "quiet_speed_kept_beside_a_neighbour": {
            "torch": round(median["torch"][0] / median["torch"][1], 3),
            "bench": round(median["bench"][0] / median["chosen beside a neighbour"][1], 3),
        },
        "quiet_over_torch": {name: round(median["torch"][0] / median[name][0], 3) for name in ("passive", "bench")},
    }
    print(json.dumps(found, indent=1))
    write_json(Path(__file__).with_suffix(".json"), found | {"provenance": provenance.provenance()})


if __name__ == "__main__":
    main()
