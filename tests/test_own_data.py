"""Own examples in one file, to a verdict with an interval that says what it speaks of."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from bench.cli.main import main
from bench.core.errors import UsageError
from bench.core.protocol import protocol
from bench.core.registry import build
from bench.data import own

ROWS = [{"prompt": f"What of {i}?", "good": f"It is {i}, dear.", "bad": f"{i}."} for i in range(20)]
WISH = "warm words"


def bench(place: Path, *words: str, expect: int = 0) -> Result:
    found = CliRunner().invoke(main, list(words), env={"BENCH_CACHE": str(place / "cache"), "BENCH_RESULTS": None})
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == expect, found.stderr
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    bench(tmp_path, "data", "import", str(tmp_path / "own.jsonl"), "--concept", WISH, "--out", str(tmp_path / "own"))
    return tmp_path / "own"


def test_every_format_gives_the_same_concepts(tmp_path: Path) -> None:
    frame = pd.DataFrame(ROWS)
    frame.to_csv(tmp_path / "own.csv", index=False)
    frame.to_parquet(tmp_path / "own.parquet")
    (tmp_path / "own.json").write_text(json.dumps(ROWS))
    letters = [{"question": r["prompt"], "A": r["bad"], "B": r["good"], "answer": "(b)"} for r in ROWS]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in letters))
    found = [own.concepts(own.rows(str(path)), WISH) for path in sorted(tmp_path.glob("own.*"))]
    assert len(found) == 4
    assert all(one == found[0] for one in found)
    (one,) = found[0]
    assert (one.name, one.answers, one.tests) == ("warm-words", 10, 10)
    assert {a["question"] for part in ("answers", "tests") for a in one.row[part]} == {r["prompt"] for r in ROWS}


def test_a_data_set_on_the_disk_and_one_of_the_hub_s_cache_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `datasets` writes them: several files, several splits, and what it computed since."""
    datasets = pytest.importorskip("datasets", reason="the extra eval is not installed")
    made = datasets.Dataset.from_list(ROWS)
    made.save_to_disk(tmp_path / "shards", num_shards=3)
    datasets.load_from_disk(tmp_path / "shards").filter(lambda row: "1" in row["prompt"])
    assert list((tmp_path / "shards").glob("cache-*.arrow"))
    split = {"train": made.select(range(15)), "test": made.select(range(15, 20))}
    datasets.DatasetDict(split).save_to_disk(tmp_path / "splits")
    held = tmp_path / "hub" / "datasets--me--warm"
    (held / "refs").mkdir(parents=True)
    (held / "refs" / "main").write_text("abc")
    made.to_parquet(held / "snapshots" / "abc" / "data" / "train.parquet")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for source in (str(tmp_path / "shards"), str(tmp_path / "splits"), "me/warm", "hf://datasets/me/warm"):
        given = own.rows(source)
        assert sorted(row["prompt"] for _, row in given) == sorted(row["prompt"] for row in ROWS), source
        (one,) = own.concepts(given, WISH)
        assert (one.answers, one.tests) == (10, 10)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (ROWS[0], "example 21 asks what own.jsonl example 1 asks"),
        ({"prompt": "New?", "good": "Yes."}, "example 21 has a good answer alone"),
        ({"prompt": "New?", "good": "Yes.", "bad": "yes."}, "example 21: its good and its bad answer are the same"),
        ({"good": "Yes.", "bad": "No."}, "example 21 has no prompt"),
        ({"prompt": "New?", "A": "Yes.", "B": "No.", "answer": "C"}, "must say which is good, A or B"),
    ],
)
def test_a_row_that_is_none_is_refused_by_its_number(tmp_path: Path, row: dict[str, str], said: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in [*ROWS, row]))
    with pytest.raises(UsageError, match=said):
        own.concepts(own.rows(str(path)), WISH)


def test_all_tasks_read_the_folder_that_the_check_passes(folder: Path) -> None:
    assert "0 errors, 0 warnings" in bench(folder.parent, "data", "check", str(folder)).stdout
    for name in ("axbench", "axbench-detect", "behaviour", "behaviour-open"):
        made = build("task", name, {"data": str(folder)}, protocol=protocol("quick", settings={"select": 5, "test": 5}))
        (concept,) = made.concepts()
        assert concept.text == WISH
        train = made.train(concept)
        assert len(train.pairs) == len(train.choices) == 10
        learnt = {pair.instruction for pair in train.pairs}
        asked = [s.instruction for s in (*made.select(concept), *made.test(concept))]
        assert asked
        assert not any(question in text for question in learnt for text in asked)


def test_one_concept_of_several_is_run(folder: Path) -> None:
    row = json.loads((folder / "warm-words.json").read_text()) | {"concept": "cold words"}
    (folder / "cold.json").write_text(json.dumps(row))
    words = ("run", "--backend", "fake", "--data", str(folder), "-m", "none", "--dry-run", "--json")
    whole, one = (json.loads(bench(folder.parent, *words, *more).stdout) for more in ((), ("--concept", "cold")))
    assert whole["total"]["generations"] == 2 * one["total"]["generations"]
    assert "no concept 'cool'" in bench(folder.parent, *words, "--concept", "cool", expect=2).stderr


def test_twenty_examples_to_an_interval_that_says_its_scope(folder: Path) -> None:
    place = folder.parent
    more = ("-m", "prompt,diffmean,none", "-p", "protocol.test=5")
    bench(place, "run", "--backend", "fake", "--data", str(folder), *more, "--judge", "likelihood")
    shown = bench(place, "show", "diffmean", "--json")
    assert "is of the last run: preset quick, in " in shown.stderr
    metrics = json.loads(shown.stdout)["metrics"]
    assert metrics["fluency_low"] is not None
    assert metrics["fluency_low"] <= metrics["fluency"] <= metrics["fluency_high"]
    assert "this speaks of further questions of it alone" in bench(place, "compare", "diffmean", "prompt").stdout
    written = bench(place, "report", "--out", str(place / "page"))
    assert "where the last run went" in written.stderr
    (table,) = json.loads((place / "page" / "leaderboard.json").read_text())["tables"]
    assert table["unit"] == "question"
    assert len(table["units"]) == 5
    assert any("5 questions, of 1 concept" in note for note in table["notes"])
