"""`bench submit`: nothing is written while a rule is broken; then the files lie as the repository wants them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from test_audit import MODEL, change, folder, sources

from bench.cli.main import main


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for source in sources():
        shutil.copytree(source, tmp_path / "results" / MODEL / source.name)
    return tmp_path / "results"


def submit(root: Path, *words: str) -> Any:
    out = root.parent / "out"
    return CliRunner().invoke(main, ["submit", *words, "--out", str(out), "--results", str(root)])


def test_a_good_run_gives_its_files_and_a_text(root: Path) -> None:
    done = submit(root, "diffmean", "none")
    assert done.exit_code == 0, done.output
    out = root.parent / "out"
    written = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    runs = {p.relative_to(root.parent).as_posix() for m in ("diffmean", "none") for p in folder(root, m).iterdir()}
    assert written == runs | {"PULL_REQUEST.md"}
    for file in runs:
        assert (out / file).read_bytes() == (root.parent / file).read_bytes()
    text = (out / "PULL_REQUEST.md").read_text("utf-8")
    assert "# Results: diffmean, none" in text
    assert f"bench run --config '{(MODEL / folder(root).name).as_posix()}" not in text
    assert f"bench run --config 'results/{(MODEL / folder(root).name).as_posix()}/run.json'" in text
    assert "| diffmean | axbench |" in text
    assert "| random |" not in text
    assert str(root.parent) not in text


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("opinion", "no independent judge has rated it: bench judge"),
        ("control", "lacks its controls: random"),
        ("place", "names a place on one machine"),
        ("dirty", "made with uncommitted changes"),
        ("score", "and its samples give"),
    ],
)
def test_a_broken_rule_stands_in_the_way(root: Path, what: str, said: str) -> None:
    run = folder(root) / "run.json"
    if what == "opinion":
        next(run.parent.glob("judged-*.json")).unlink()
    elif what == "control":
        shutil.rmtree(folder(root, "random"))
    elif what == "place":
        change(run, lambda d: d["provenance"].update(python="/home/me/python"))
    elif what == "dirty":
        change(run, lambda d: d["provenance"].update(dirty=["x.py"]))
    else:
        change(run, lambda d: d["samples"][0]["ratings"].update(overall=1.9))
    done = submit(root, "diffmean")
    assert done.exit_code == 1
    assert said in done.stdout
    assert "nothing was written" in done.stderr
    assert not (root.parent / "out").exists()


def test_what_its_user_named_is_published_without_where_it_lies(root: Path) -> None:
    """As in a run that was written to a folder of one's own."""
    run = folder(root) / "run.json"
    change(run, lambda d: d["asked"].update(model="/home/me/weights", task_params={"data": "/home/me/concepts"}))
    done = submit(root, "diffmean")
    assert done.exit_code == 0, done.output
    written = json.loads((root.parent / "out" / "results" / run.relative_to(root)).read_text("utf-8"))
    assert written["asked"] == {"model": "weights", "task_params": {"data": "concepts"}}
    assert {k: v for k, v in written.items() if k != "asked"} == {
        k: v for k, v in json.loads(run.read_text("utf-8")).items() if k != "asked"
    }


def test_controls_may_lie_in_the_results_already_or_come_along(root: Path) -> None:
    """A run made elsewhere is judged beside the results it is meant for."""
    other = root.parent / "elsewhere" / "results"
    own = other / MODEL / folder(root).name
    shutil.copytree(folder(root), own)
    shutil.rmtree(folder(root))
    done = submit(root, str(own))
    assert done.exit_code == 0, done.output
    assert (root.parent / "out" / "results" / MODEL / own.name / "run.json").is_file()


def test_a_full_folder_is_left_alone(root: Path) -> None:
    out = root.parent / "out"
    out.mkdir()
    (out / "mine").write_text("kept")
    done = submit(root, "diffmean")
    assert done.exit_code == 2
    assert "is not empty" in done.stderr
    assert [p.name for p in out.iterdir()] == ["mine"]


def test_json_has_files_or_findings(root: Path) -> None:
    told = json.loads(submit(root, "diffmean", "--json").stdout)
    assert told["findings"] == []
    assert any(file.endswith("/run.json") for file in told["files"])
    assert submit(root, "no-such-run").exit_code == 2
