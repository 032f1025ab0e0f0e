"""The published cell's command, rehearsed: AxBench's mode on its own data, a hosted judge, every method, and a kill.

What `docs/gpu.md` has for whoever holds the weights is run here as it stands there, but for the model (a tiny Gemma-2),
the judge's address (a server on this machine) and the length of answers.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import KEY
from stub_server import serving

from bench.backends import tiny
from bench.core.registry import table

SHORT = (
    *("-p", "protocol.sampling.max_new_tokens=6", "-p", "protocol.select=2", "-p", "protocol.test=2"),
    *("-p", "protocol.budget.tokens=320", "-p", "protocol.budget.sequences=6", "--coefficients", "0.4,2"),
    *("--damage", "1"),
    *("--effects", "related"),  # the others ask and read thousands of prompts more, of a byte each token
)
"""What makes it minutes: AxBench's epochs and batches stay."""


@pytest.mark.slow
def test_the_published_cell_runs_whole_and_goes_on_after_a_kill(axbench_folder: Path, tmp_path: Path) -> None:
    model = tiny.build(tmp_path / "gemma-2-2b-it", "gemma2")
    config = model.path / "config.json"  # a token is a byte here: many examples take room
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 1 << 15}))
    words = [sys.executable, "-m", "bench", "run", "-t", "axbench", "--compat", "axbench", "--preset", "paper"]
    words += ["-m", "all", "--data", str(axbench_folder), "--model", str(model.path), "--judge", "openai:gpt-4o-mini"]
    words += [*SHORT, "--results", str(tmp_path / "results"), "--json"]
    env = os.environ | {"BENCH_CACHE": str(tmp_path / "cache"), "OPENAI_API_KEY": KEY, "OMP_NUM_THREADS": "1"}
    with serving() as stub:
        env["OPENAI_BASE_URL"] = stub.url
        plan = json.loads(subprocess.run([*words, "--dry-run"], env=env, capture_output=True, check=True).stdout)
        assert {row["status"] for row in plan["runs"]} == {"todo"}
        assert plan["judging"]["dollars"] > 0
        with subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
            while len(stub.answered) < 300 and first.poll() is None:
                time.sleep(0.05)
            first.send_signal(signal.SIGKILL)
        asked, fits = len(stub.requests), {p.name for p in (tmp_path / "cache" / "fits").iterdir() if p.name[0] != "."}
        assert asked >= 300
        assert not list((tmp_path / "results").rglob("run.json"))
        done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert "is not known" not in done.stderr  # what a method does to plain answers can be read of each
        twice = len(stub.answered) - len(set(stub.answered))
    runs: list[dict[str, Any]] = json.loads(done.stdout)["runs"]
    assert {run["status"] for run in runs} == {"complete"}, [run for run in runs if run["status"] != "complete"]
    steering = {n for n, cls in table("method").items() if "steering" in cls.provides and not cls.named}
    ours = {name for name in steering if table("method")[name].__module__.startswith("methods.")}
    assert {run["method"].partition("(")[0] for run in runs} >= ours
    assert twice <= 8  # at most what was under way: a worker each
    assert fits <= {path.name for path in (tmp_path / "cache" / "fits").iterdir()}
    for run in runs:
        data = json.loads(Path(run["path"]).read_text("utf-8"))
        assert len(data["concepts"]) == 10
        assert data["spec"]["protocol"]["compat"] == "axbench"
        assert data["counts"]["unscored"] == 0
