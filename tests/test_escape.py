"""Text of models, data and plugins shows as itself in Markdown, CSV and pages, and does nothing there."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import committed
from hypothesis import given, strategies as st

from bench.core.content import digest
from bench.core.escape import NUMBER, cell, csv_text, guarded, name, unguarded
from bench.measure import human_ratings
from bench.report.build import build
from bench.results.runs import Run, load

PAYLOADS = (
    "<script>alert(1)</script>",
    '=HYPERLINK("http://evil.example","x")',
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "a | b\n| c | d |",
    "`code` **bold** [x](javascript:alert(1)) ![i](http://evil.example/p.png)",
    "$\\frac{1}{0}$ <img src=x onerror=alert(1)>",
    "http://evil.example and www.evil.example",
    "\x1b[31mred\x07 \u202eabc \ud800",
)
FORMULA = ("=", "+", "-", "@", "\t", "\r")


@given(st.text())
def test_a_cell_is_one_line_without_anything_active(text: str) -> None:
    shown = cell(text)
    assert not re.search(r"[\x00-\x1f<>@]", shown)
    assert not re.search(r"(?<!\\)(?:\\\\)*[`|*\[\]]", re.sub(r"\\[`|*\[\]]", "", shown))
    assert "://" not in shown


def test_a_cell_leaves_what_names_are_made_of() -> None:
    for plain in ("prompt+diffmean", "cast(diffmean)", "axbench (mini) · SmolLM2-135M", "Δ to prompt", "0.3"):
        assert cell(plain) == plain
    assert cell("a|b_c <d>") == "a\\|b\\_c &lt;d&gt;"


@given(st.text())
def test_a_csv_cell_starts_no_formula_and_is_read_back(text: str) -> None:
    (row,) = csv.DictReader(io.StringIO(csv_text([{"a": text.replace("\0", ""), "b": 1}]), newline=""))
    assert not row["a"].lstrip(" ").startswith(FORMULA) or NUMBER.match(row["a"])


@given(st.text())
def test_a_guarded_text_is_read_back_as_it_was(text: str) -> None:
    assert unguarded(guarded(text)) == text
    assert not guarded(text).startswith(FORMULA) or NUMBER.match(text)


def test_hand_ratings_start_no_formula_and_come_back(tmp_path: Path) -> None:
    rows = [human_ratings.Rated(f"{i:x}", p, p, p, {"concept": 1.0}) for i, p in enumerate(PAYLOADS)]
    human_ratings.write(tmp_path / "r.csv", rows)
    with (tmp_path / "r.csv").open(newline="", encoding="utf-8", errors="surrogatepass") as file:
        assert not [v for row in csv.reader(file) for v in row if v.startswith(FORMULA)]
    assert human_ratings.read(tmp_path / "r.csv") == rows


def test_numbers_of_a_csv_stay_numbers() -> None:
    text = csv_text([{"x": -0.25, "y": None, "z": float("nan"), "w": "-0.5", "v": "+.5=", "n": 3}])
    assert text.splitlines()[1] == "-0.25,,,-0.5,'+.5=,3"


def test_a_file_s_name_stays_in_its_folder() -> None:
    assert name("../../etc/passwd") == "-..-etc-passwd"
    assert name("cast(diffmean)+x") == "cast(diffmean)+x"
    assert "/" not in name("a/b\\c:d")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Run]]:
    """Three committed runs whose method names, concepts and texts are payloads."""
    root = tmp_path_factory.mktemp("hostile") / "results"
    for i, method in enumerate(("prompt", "diffmean", "none")):
        path = committed(method) / "run.json"
        data: dict[str, Any] = json.loads(path.read_text("utf-8"))
        named = dict(zip(data["concepts"], PAYLOADS, strict=False))
        data["concepts"] = {named[k]: v | {"text": named[k]} for k, v in data["concepts"].items()}
        for k, sample in enumerate(data["samples"]):
            sample |= {"concept": named[sample["concept"]], "text": PAYLOADS[k % len(PAYLOADS)]}
            sample |= {"instruction": PAYLOADS[(k + 1) % len(PAYLOADS)], "said": {"concept": PAYLOADS[k % 5]}}
        if i:
            data["spec"]["method"] = PAYLOADS[(0, 7)[i - 1]] + PAYLOADS[(1, 8)[i - 1]]
            data["family"] = "=1+1"
        data["id"] = digest(data["spec"])[:10]
        out = root / "axbench" / "model" / f"run-{i}"
        out.mkdir(parents=True)
        (out / "run.json").write_text(json.dumps(data), "utf-8")
    return root, load(root)


def test_reports_of_hostile_runs_hold_no_markup_and_no_formula(hostile: tuple[Path, list[Run]], tmp_path: Path) -> None:
    written = build(hostile[0], tmp_path)
    assert {path.suffix for path in written} == {".md", ".csv", ".html", ".json", ".png", ".svg"}
    assert {path.parent for path in written} == {tmp_path}
    page = (tmp_path / "leaderboard.md").read_text("utf-8")
    assert "&lt;script&gt;" in page
    assert not re.search(r"<(script|img)", page)
    assert not re.search(r"(?<!\\)\]\(javascript|https?://", page)
    tables = [block.splitlines() for block in re.findall(r"(?:^\|.*\n)+", page, re.M)]
    assert tables
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    for path in written:
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8") as file:
                for row in csv.reader(file):
                    assert not [v for v in row if v.startswith(FORMULA) and not NUMBER.match(v)], path.name
        if path.suffix == ".svg":
            assert "<script" not in path.read_text("utf-8")
    json.loads((tmp_path / "leaderboard.json").read_text("utf-8"))
