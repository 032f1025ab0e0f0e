"""Imports go one way down: the contract of pyproject.toml holds, and it would notice a way up."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def linted(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": str(folder)})


def test_folders_import_downward_and_without_circles() -> None:
    told = linted(ROOT)
    assert told.returncode == 0, told.stdout
    assert "2 kept, 0 broken" in told.stdout


def test_an_upward_import_is_noticed(tmp_path: Path) -> None:
    for name in ("bench", "methods", "tasks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "bench" / "core" / "errors.py").open("a", encoding="utf-8") as file:
        file.write("\nfrom bench.run.plan import Options\n")
    told = linted(tmp_path)
    assert told.returncode == 1
    assert "bench.core is not allowed to import bench.run" in told.stdout


def test_only_the_face_lies_flat() -> None:
    flat = {path.name for path in (ROOT / "bench").iterdir() if path.is_file()}
    assert flat == {"__init__.py", "__init__.pyi", "__main__.py", "py.typed"}
