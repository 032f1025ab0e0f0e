"""`bench data check`: the shipped set is clean, AxBench's own folders read, and every planted fault is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from conftest import SHARED as DEVELOPMENT

from bench.cli.main import main
from bench.data import layout
from bench.data.check import Report, check, place
from bench.data.layout import SHARED, TRAIN, Text, fold
from tasks import _axbench_data

GENRES = ("text", "math", "code")


def bench(*words: str) -> Result:
    result = CliRunner().invoke(main, list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A clean folder of two concepts, written as AxBench writes one."""
    texts = []
    for genre in GENRES:
        for k in range(4):
            ask = f"Train {genre} {k}?"
            texts.append(Text(TRAIN, 0, "train", SHARED, "negative", genre, ask, f"plain {genre} {k}"))
    for name, genre in (("0", "text"), ("1", "code")):
        for k in range(4):
            ask = f"Train {genre} {k}?"
            texts.append(Text(TRAIN, 0, "train", name, "positive", genre, ask, f"with {name} {k}"))
            for category in ("positive", "negative", "hard negative"):
                ask, answer = f"Test {genre} {category} {k}?", f"{category} {name} {k}"
                texts.append(Text(layout.EVALUATION, 0, "evaluation", name, category, genre, ask, answer))
    concepts = [{"concept": "the sea", "genre": "text"}, {"concept": "loops", "genre": "code", "ref": "x/1"}]
    layout.write(tmp_path / "made", concepts, texts)
    return tmp_path / "made"


def edit(folder: Path, file: str, change: Callable[[pd.DataFrame], Any]) -> None:
    frame = pd.read_parquet(folder / file)
    found = change(frame)
    (frame if found is None else found).to_parquet(folder / file, index=False)


def only(report: Report, kind: str) -> layout.Finding:
    found = [finding for finding in report.findings if finding.kind == kind]
    assert len(found) == 1, [str(f) for f in report.findings]
    return found[0]


def test_what_is_written_is_clean_and_reads_as_a_corpus(folder: Path) -> None:
    report = check(folder)
    assert report.findings == ()
    assert report.counts["1"] == {
        "concept": "loops",
        "genre": "code",
        "train positive": 4,
        "train negative": 4,
        "evaluation positive": 4,
        "evaluation negative": 4,
        "evaluation hard negative": 4,
        "questions": 12,
    }
    corpus = _axbench_data.load(str(folder), "")
    assert [(t.concept.text, t.concept.genre) for t in corpus.trains.values()] == [
        ("the sea", "text"),
        ("loops", "code"),
    ]
    assert len(corpus.trains["0"].others) == 4
    assert json.loads((folder / layout.METADATA).read_text().split("\n")[1])["ref"] == "x/1"


def test_the_shipped_set_is_clean() -> None:
    report = check(place("mini"))
    assert report.findings == ()
    assert len(report.counts) == 12
    result = bench("data", "check", "mini")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "mini: 0 errors, 0 warnings"
    assert "train positive: 24 for each concept" in result.stdout


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("concept10-2b-l10", ["duplicate response"]),  # two code answers say the same
        ("concept10-2b-l20", ["near train/test overlap"]),  # one test instruction differs from a training one in case
        ("conceptFD-2b-l20", []),
    ],
)
def test_axbench_s_own_folders_have_no_error(name: str, kinds: list[str]) -> None:
    origin = DEVELOPMENT / "axbench" / name
    if not origin.is_dir():
        pytest.skip("the AxBench development data is not beside this checkout")
    report = check(origin)
    assert not report.failed
    assert [finding.kind for finding in report.findings] == kinds
    assert {count["train positive"] for count in report.counts.values()} == {72}


def put(frame: pd.DataFrame, row: int, column: str, value: Any) -> None:
    frame.loc[row, column] = value


FAULTS: list[tuple[str, str, Callable[[pd.DataFrame], Any], str, int | None, str]] = [
    ("empty response", TRAIN, lambda f: put(f, 13, "output", " \n"), "error", 13, "concept 0 has an empty response"),
    ("schema", TRAIN, lambda f: put(f, 3, "input", None), "error", 3, "input is None, not a text"),
    (
        "schema",
        TRAIN,
        lambda f: put(f, 3, "category", "neg"),
        "error",
        3,
        "category is 'neg', none of 'positive', 'negative'",
    ),
    ("schema", TRAIN, lambda f: f.drop(columns=["concept_genre"]), "error", None, "it lacks the column concept_genre"),
    ("missing genre", TRAIN, lambda f: f[(f.concept_id != -1) | (f.concept_genre != "code")], "error", None, "'code'"),
    ("empty concept", TRAIN, lambda f: f[f.concept_id != 1], "error", None, "concept 1 ('loops') has no positive"),
    ("counts", TRAIN, lambda f: f.drop(index=12), "warning", None, "3 positive and 4 negative"),
    ("duplicate", TRAIN, lambda f: pd.concat([f, f[12:13]]), "warning", 20, "it repeats row 12 (concept 0, positive)"),
    (
        "near-duplicate",
        TRAIN,
        lambda f: pd.concat([f, f[12:13].assign(output="WITH  0\n0")]),
        "warning",
        20,
        "it repeats row 12",
    ),
    ("duplicate response", TRAIN, lambda f: put(f, 13, "output", "With 0 0"), "warning", 13, "that of row 12"),
    ("contradiction", TRAIN, lambda f: put(f, 12, "output", "plain text 0"), "error", 12, "a negative (generate/"),
    (
        "train/test overlap",
        layout.EVALUATION,
        lambda f: put(f, 4, "input", "Train text 2?"),
        "error",
        4,
        "a training instruction (generate/train_data.parquet row 2)",
    ),
    (
        "near train/test overlap",
        layout.EVALUATION,
        lambda f: put(f, 4, "input", "train  TEXT 2?"),
        "warning",
        4,
        "but for case and spaces",
    ),
    (
        "duplicate question",
        layout.EVALUATION,
        lambda f: put(f, 4, "input", "test text positive 0?"),
        "error",
        4,
        "asks row 0 again",
    ),
]


@pytest.mark.parametrize(("kind", "file", "change", "level", "row", "words"), FAULTS, ids=lambda v: str(v)[:24])
def test_a_planted_fault_is_found_with_its_file_and_row(
    folder: Path, kind: str, file: str, change: Callable[[pd.DataFrame], Any], level: str, row: int | None, words: str
) -> None:
    edit(folder, file, change)
    report = check(folder)
    found = [f for f in report.findings if f.kind == kind and words in f.text]
    assert len(found) == 1, [str(f) for f in report.findings]
    assert (found[0].level, found[0].file, found[0].row) == (level, file, row)
    result = bench("data", "check", str(folder), "--json")
    assert result.exit_code == (1 if report.failed else 0)
    assert vars(found[0]) in json.loads(result.stdout)["findings"]
    assert report.failed == any(f.level == "error" for f in report.findings)


def test_a_training_text_in_the_evaluation_is_one_error(folder: Path) -> None:
    def leak(frame: pd.DataFrame) -> None:
        frame.loc[0, ["input", "output"]] = ["Train text 1?", "with 0 1"]

    edit(folder, layout.EVALUATION, leak)
    assert only(check(folder), "train/test overlap").text.startswith("concept 0: the text is a training text")


def test_given_questions_are_checked_against_the_training_instructions(folder: Path) -> None:
    asked = [{"instruction": f"Asked {k}?"} for k in range(10)]
    asked[3] = {"instruction": "Train text 3?"}
    asked[7] = {"instruction": "asked  5?"}
    (folder / layout.ASKED).write_text(json.dumps(asked))
    report = check(folder)
    assert only(report, "train/test overlap").row == 3
    assert only(report, "duplicate question").row == 7
    assert report.failed
    (folder / layout.ASKED).write_text("[")
    assert only(check(folder), "schema").file == layout.ASKED


def test_metadata_that_is_not_whole_is_named_by_row(folder: Path) -> None:
    path = folder / layout.METADATA
    lines = path.read_text().split("\n")
    path.write_text("\n".join([lines[0], "{", json.dumps({"concept_id": 7, "concept": " "}), lines[0]]))
    report = check(folder)
    assert [(f.kind, f.row) for f in report.findings if f.file == layout.METADATA] == [
        ("schema", 1),
        ("empty concept", 2),
        ("schema", 3),
    ]
    assert "concept 7 (' ') has no positive training texts" in " ".join(map(str, report.findings))


def test_the_shipped_layout_is_checked_too(tmp_path: Path) -> None:
    mini = tmp_path / "mine"
    shutil.copytree(place("mini"), mini)
    path = mini / "concepts" / "ocean.json"
    data = json.loads(path.read_text("utf-8"))
    data["positives"][2] = ""
    path.write_text(json.dumps(data))
    genre = json.loads((mini / "genres" / "text.json").read_text("utf-8"))
    genre["evaluation"][4] = genre["train"][9]["instruction"]
    (mini / "genres" / "text.json").write_text(json.dumps(genre))
    report = check(mini)
    assert ("concepts/ocean.json", 2, "error") in {(f.file, f.row, f.level) for f in report.findings}
    leaks = [f for f in report.findings if f.kind == "train/test overlap"]
    assert {(f.file, f.row) for f in leaks} == {("genres/text.json", 4)}
    assert "--data mini" in report.findings[0].text  # no run reads a copy


def test_a_folder_that_is_not_there_is_a_usage_error() -> None:
    result = bench("data", "check", "/nowhere/data")
    assert result.exit_code == 2
    assert result.stderr == "bench: no folder /nowhere/data\n"


def test_a_folder_without_tables_says_so_once(tmp_path: Path) -> None:
    report = check(tmp_path)
    assert [(f.file, f.kind) for f in report.findings] == [(TRAIN, "schema"), (layout.EVALUATION, "schema")]


@pytest.mark.parametrize(("one", "two"), [("A  b\n", "a B"), ("ﬁne", "FINE"), ("straße", "STRASSE")])
def test_folding_joins_what_reads_the_same(one: str, two: str) -> None:
    assert fold(one) == fold(two)
