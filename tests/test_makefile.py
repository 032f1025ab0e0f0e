"""The Makefile tells a visitor with an older Python what is needed, before it makes anything."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A make of one's own: under `make test` the outer one's variables would have it print the folders it enters and leaves.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
OLDER = """#!/bin/sh
if [ "$1" = --version ]; then echo Python 3.10.12; elif [ "$1" = -c ]; then echo False; else touch made; fi
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("target", ["run", "test", "quick", "vllm-cpu"])
def test_an_older_python_is_refused_before_anything_is_made(tmp_path: Path, target: str) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "requirements-vllm-cpu.txt"):
        shutil.copy(ROOT / name, tmp_path)
    older = tmp_path / "bin" / "python3"
    older.parent.mkdir()
    older.write_text(OLDER)
    older.chmod(0o755)
    before = sorted(tmp_path.iterdir())
    env = ENVIRONMENT | {"PATH": f"{older.parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["make", target], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode != 0
    assert "python3 will not do (Python 3.10.12): this needs Python 3.11 or later" in done.stderr.splitlines()[-1]
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_a_run_ends_with_where_bench_is(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    bench = tmp_path / ".venv" / "bin" / "bench"
    bench.parent.mkdir(parents=True)
    bench.write_text('#!/bin/sh\necho "$@"\n')
    bench.chmod(0o755)
    (tmp_path / ".venv" / ".run").touch()
    done = subprocess.run(["make", "run"], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    *_, run, told = done.stdout.splitlines()
    assert run == "run --methods all --task axbench"
    assert " . .venv/bin/activate " in told
