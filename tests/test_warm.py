"""A job that is done already: what an earlier command found out is not found out again, and nothing stale is taken."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from copied_tree import Tree
from page_cases import Recipe, write

from bench.report import renewal
from bench.report.page.build import stop
from bench.report.renewal import renewed

METHODS = (("prompt", "prompt"), ("diffmean", "activations"), ("none", "control"))
SCRIPT = """
import json, bench.core.definitions as d
from bench.core.registry import get
taken = []
closure = d.closure
d.closure = lambda *a: taken.append(1) or closure(*a)
print(json.dumps([d.code_digest(get("method", "diffmean")), len(taken)]))
"""


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, list[int]]:
    """Results, the folder of their report, and a list that grows with each time it is made."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    made: list[int] = []
    build = renewal.build

    def counted(*given: Any) -> list[Path]:
        made.append(1)
        return build(*given)

    monkeypatch.setattr(renewal, "build", counted)
    write(Recipe(METHODS, ("ocean", "sql", "music"), judged=False), tmp_path / "results")
    return tmp_path / "results", tmp_path / "reports", made


def test_a_report_is_made_again_where_its_results_or_its_files_changed_and_not_else(
    report: tuple[Path, Path, list[int]],
) -> None:
    results, out, made = report
    files = renewed(results, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    stop(out)  # nothing runs: nothing to be said
    assert renewed(results, out) == files
    assert len(made) == 1
    (out / "leaderboard.md").unlink()
    next((out / "page" / "data").rglob("*.js")).write_text("broken")
    renewed(results, out)
    assert len(made) == 2
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    run = next(results.rglob("run.json"))
    run.write_text(run.read_text("utf-8") + "\n", "utf-8")
    renewed(results, out)
    assert len(made) == 3
    (results / "judges").mkdir()
    (results / "judges" / "notes.txt").write_text("seen")
    renewed(results, out)
    assert len(made) == 4
    renewed(results, out)
    assert len(made) == 4


def test_code_is_digested_once_and_again_after_any_change_of_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a text that keeps its size and its time, too."""
    tree = Tree(tmp_path / "tree")
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    first, taken = tree.ask(SCRIPT)
    assert taken == 1
    assert tree.ask(SCRIPT) == [first, 0]
    path = tree.root / "methods" / "diffmean.py"
    text, stat = path.read_text("utf-8"), path.stat()
    path.write_text(text.replace(".mean(0)", ".mean(1)"), "utf-8")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other, taken = tree.ask(SCRIPT)
    assert taken == 1
    assert other != first
