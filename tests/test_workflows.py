"""What the workflows do outside the suite: a release is the version it is called, and the index trusts little of it."""

from __future__ import annotations

import os
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".github" / "workflows"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]


def workflow(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yml").read_text("utf-8"))
    return found


def steps(job: dict[str, Any], word: str) -> list[str]:
    """Of each step of a job: what it runs, or the action it uses."""
    return [step[word] for step in job["steps"] if word in step]


@pytest.mark.parametrize(("tag", "passes"), [(f"v{VERSION}", True), (VERSION, False), ("v99.0", False)])
def test_a_release_is_refused_under_another_version_s_tag(tag: str, passes: bool) -> None:
    build = workflow("release")["jobs"]["build"]
    (check,) = [text for text in steps(build, "run") if "GITHUB_REF_NAME" in text]
    env = os.environ | {"GITHUB_REF_NAME": tag}
    done = subprocess.run(["bash", "-euc", check], cwd=ROOT, env=env, capture_output=True, text=True)
    assert (done.returncode == 0) == passes, done.stdout + done.stderr
    assert passes or f"the tag is {tag}, and pyproject.toml has v{VERSION}" in done.stdout


def test_the_job_that_the_index_trusts_runs_nothing_of_its_own() -> None:
    made = workflow("release")
    publish = made["jobs"]["publish"]
    assert made["permissions"] == {"contents": "read"}
    assert "permissions" not in made["jobs"]["build"]
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["needs"] == "build"
    assert steps(publish, "run") == []
    assert len(publish["steps"]) == 2
    assert any("twine check --strict" in text for text in steps(made["jobs"]["build"], "run"))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yml")), ids=lambda path: path.stem)
def test_a_workflow_may_read_and_no_more_unless_a_job_says_so(path: Path) -> None:
    made = workflow(path.stem)
    assert made["permissions"] == {"contents": "read"}
    assert all("timeout-minutes" in job for name, job in made["jobs"].items() if steps(job, "run"))


def test_what_is_generated_from_the_results_is_not_kept_beside_them() -> None:
    """Two changes that add runs would meet in it; the workflows make it, and so does `make report`."""
    kept = subprocess.run(["git", "ls-files", "reports"], cwd=ROOT, capture_output=True, text=True)
    if kept.returncode:
        pytest.skip("not in a git checkout")
    assert kept.stdout == ""
    assert "/reports/" in (ROOT / ".gitignore").read_text("utf-8").splitlines()
    (published,) = [text for text in steps(workflow("site")["jobs"]["build"], "run") if "bench report" in text]
    assert "--results results --publish site/" in published
    held = steps(workflow("results")["jobs"]["check"], "run")
    assert [text for text in held if text.startswith("bench")] == [
        "bench check results",
        "bench report --results results",
    ]
