"""Text of models, data and plugins shows as itself in Markdown, CSV and names of files, and does nothing there."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from hypothesis import example, given, strategies as st
from payloads import FORMULA, PAYLOADS

from bench.core.escape import NUMBER, cell, csv_text, guarded, name, unguarded
from bench.results import ratings


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
@example("'=")
def test_a_guarded_text_is_read_back_as_it_was(text: str) -> None:
    assert unguarded(guarded(text)) == text
    assert not guarded(text).startswith(FORMULA) or NUMBER.match(text)


def test_hand_ratings_start_no_formula_and_come_back(tmp_path: Path) -> None:
    rows = [ratings.Rated(ratings.Answer(f"{i:x}", p, p, p), p, {"concept": 1.0}) for i, p in enumerate(PAYLOADS)]
    ratings.write(tmp_path / "r.csv", rows)
    with (tmp_path / "r.csv").open(newline="", encoding="utf-8", errors="surrogatepass") as file:
        assert not [v for row in csv.reader(file) for v in row if v.startswith(FORMULA)]
    assert ratings.read(tmp_path / "r.csv") == rows


def test_numbers_of_a_csv_stay_numbers() -> None:
    text = csv_text([{"x": -0.25, "y": None, "z": float("nan"), "w": "-0.5", "v": "+.5=", "n": 3}])
    assert text.splitlines()[1] == "-0.25,,,-0.5,'+.5=,3"


def test_a_file_s_name_stays_in_its_folder() -> None:
    assert name("../../etc/passwd") == "-..-etc-passwd"
    assert name("cast(diffmean)+x") == "cast(diffmean)+x"
    assert "/" not in name("a/b\\c:d")
