"""A leaderboard on a terminal: names and numbers whole, whatever the width."""

from __future__ import annotations

import io
import os
import time

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
    monkeypatch.setattr(console, "AT_ONCE", 0.05)
    monkeypatch.setattr(console, "EVERY", 0.3)
    with console.progress("generate", 100, lambda: (7.5, "token 3 of 4 in 10 answers")) as advance:
        advance(40)  # kept already
        time.sleep(0.1)
        advance(10)
        time.sleep(0.3)
    told, *_, last = [line for line in capsys.readouterr().err.splitlines() if line.startswith("generate")]
    assert told == "generate: 50/100, token 3 of 4 in 10 answers, about 1 s left"  # 17.5 in .3 s, 42.5 to come
    assert last.startswith("generate: 50/100 in ")


def test_a_stage_of_which_nothing_is_done_is_not_silent(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nor while an engine that starts has the process's stderr."""
    monkeypatch.setattr(console, "EVERY", 0.05)
    with console.progress("fit", 3):
        aside = os.dup(2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        time.sleep(0.3)
        os.dup2(aside, 2)
        os.close(aside)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("fit")]
    assert lines.count("fit: 0/3, 0 s so far") >= 3
    assert console.EVERY < 5  # seconds, as promised


def test_whoever_reads_progress_may_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "EVERY", 0.01)

    def gone() -> tuple[float, str]:
        raise BrokenPipeError

    with console.progress("fit", 3, gone) as advance:
        time.sleep(0.05)
        advance(3)
