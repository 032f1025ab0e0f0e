"""Two runs side by side, one answer of a run, and a report as a site."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import committed

from bench.cli.main import main
from bench.report.build import publish
from bench.results import comparison
from bench.results.runs import TRIALS, Run, read

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def runs() -> dict[str, Run]:
    return {method: read(committed(method) / "run.json") for method in ("diffmean", "prompt", "none")}


def bench(*words: str) -> Any:
    return CliRunner().invoke(main, [*words, "--results", str(ROOT / "results")])


def name(runs: dict[str, Run], method: str) -> str:
    return str(runs[method].path.parent)


@pytest.mark.slow
def test_the_command_says_what_the_comparison_finds(runs: dict[str, Run]) -> None:
    done = bench("compare", name(runs, "diffmean"), name(runs, "prompt"), "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    axes = comparison.compare(runs["diffmean"], runs["prompt"])
    assert set(told) - {"cost"} == set(axes)
    for axis, found in axes.items():
        assert told[axis]["mean"] == pytest.approx(found.difference.mean)


def test_one_answer_with_every_judge_s_word(runs: dict[str, Run]) -> None:
    run = runs["diffmean"]
    sample = run.data["samples"][3]
    shown = bench("show", name(runs, "diffmean"), "--sample", sample["id"])
    assert shown.exit_code == 0
    flat = " ".join(shown.stdout.split())
    assert " ".join(sample["text"].split()) in flat
    assert "embedding: concept" in flat
    told = json.loads(bench("show", name(runs, "diffmean"), "--sample", sample["id"], "--json").stdout)
    assert told["answers"] == [dict(sample)]
    assert told["split"] == "test"
    assert told["opinions"]["embedding"]["id"] == sample["id"]
    wrong = bench("show", name(runs, "diffmean"), "--sample", sample["id"] + "x")
    assert wrong.exit_code == 2
    assert sample["id"] in wrong.stderr


def test_a_question_of_the_select_split_is_shown_under_every_setting(runs: dict[str, Run], tmp_path: Path) -> None:
    own = tmp_path / "results" / "axbench" / "m" / "diffmean-x"
    own.mkdir(parents=True)
    (own / "run.json").write_bytes(runs["diffmean"].path.read_bytes())
    base = {"concept": "ocean", "instruction": "Say it.", "tokens": 3, "touched": [3], "reasons": {}}
    rows = [
        base | {"id": "ocean/select/0", "candidate": 0, "coefficient": c, "text": f"said at {c} \x1b[31m"}
        | {"ratings": {"overall": 1.0}, "said": {"overall": "because"}}
        for c in (0.1, 0.2)
    ]  # fmt: skip
    (own / TRIALS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["show", str(own), "--sample", "ocean/select/0", "--results", str(tmp_path / "results")]
    shown = CliRunner().invoke(main, command).stdout
    assert re.search(r"c=0\.1 .*said at 0\.1.*c=0\.2 .*said at 0\.2", shown, re.DOTALL)
    assert "likelihood on overall: because" in shown
    assert "\x1b[31m" not in shown
    told = json.loads(CliRunner().invoke(main, [*command, "--json"]).stdout)
    assert (told["split"], len(told["answers"])) == ("select", 2)


def test_a_published_report_is_a_site_with_a_front_page(tmp_path: Path) -> None:
    out, site = tmp_path / "reports", tmp_path / "site"
    out.mkdir()
    for file in ("leaderboard.md", "a<b.svg", "a<b.png"):
        (out / file).write_text(file)
    front = publish([out / "leaderboard.md", out / "a<b.svg", out / "a<b.png"], out, site)
    assert {p.name for p in site.iterdir()} == {"index.html", ".nojekyll", "leaderboard.md", "a<b.svg", "a<b.png"}
    assert 'src="a&lt;b.svg"' in front.read_text("utf-8")
    (out / "index.html").write_text("the page")
    for file in ("app.js", "data/overview.js", "data/new/index.js"):
        (out / "page" / file).parent.mkdir(parents=True, exist_ok=True)
        (out / "page" / file).write_text("1")
    (site / "page" / "data" / "old").mkdir(parents=True)
    (site / "page" / "data" / "old" / "index.js").write_text("of a table that is gone")
    publish([out / "index.html"], out, site)  # what `build` returns of the page
    assert front.read_text("utf-8") == "the page"
    found = {p.relative_to(site / "page").as_posix() for p in (site / "page").rglob("*.js")}
    assert found == {"app.js", "data/overview.js", "data/new/index.js"}
