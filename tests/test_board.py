"""A leaderboard on a terminal: names and numbers whole, whatever the width."""

from __future__ import annotations

import io

import pytest
from page_cases import Recipe, write

from bench import results
from bench.cli import board, console
from bench.cli.console import Console
from bench.report.text import leaderboard
from bench.results.tables import Table, tables

METHODS = [("diffmean", "activations"), ("prompt", "prompt"), ("shuffled(conceptor)", "control"), ("none", "control")]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    root = tmp_path_factory.mktemp("board")
    write(Recipe(METHODS, ["ocean", "café", "stone", "music", "dice", "kings"]), root)
    (found,) = tables(results.load(root))
    return found


def printed(table: Table, width: int) -> str:
    file = io.StringIO()
    board.show(table, Console(file=file, width=width))
    return file.getvalue()


@pytest.mark.parametrize("width", [80, 100, 130, 160, 240])
def test_names_and_numbers_are_whole_at_every_width(table: Table, width: int) -> None:
    text = printed(table, width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    heads = leaderboard.headings(table)
    for row in table.rows:
        cells = dict(zip(heads, leaderboard.cells(table, row), strict=True))
        for head in ("rank", "method", "overall", f"Δ to {table.reference}"):
            assert f" {cells[head]} " in text


def test_what_has_no_room_is_named_and_a_wide_terminal_shows_all(table: Table) -> None:
    heads = leaderboard.headings(table)
    narrow, wide = printed(table, 80), printed(table, 240)
    assert "Too narrow here for surface, concept, instruction, fluency" in " ".join(narrow.split())
    assert "Too narrow" not in wide
    assert all(head in wide for head in heads)


def test_the_reading_columns_go_first_and_the_comparison_stays() -> None:
    heads, rows = ["rank", "method", "surface", "overall", "axis", "c"], [["1", "m", "long word", "0.5", "0.25", "1"]]
    assert board.fitting(heads, rows, ["axis", "surface"], 200) == [0, 1, 2, 3, 4, 5]
    assert board.fitting(heads, rows, ["axis", "surface"], 46) == [0, 1, 2, 3, 5]
    assert board.fitting(heads, rows, ["axis", "surface"], 30) == [0, 1, 3, 5]


def test_a_long_stage_says_how_far_it_is_where_there_is_no_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.progress("generate", 100) as advance:
        advance(40)  # kept already
        now[0] += 16.0
        advance(1)  # a model was loaded
        for _ in range(5):
            now[0] += 4.0
            advance(10)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("generate")]
    assert lines == [
        "generate: 41/100",  # 59 more at 1 in 16 s it will not take
        "generate: 71/100, about 12 s left",  # 30 in 12 s, and not 71
        "generate: 91/100 in 36 s",
    ]
