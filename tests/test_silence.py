"""Reports of results that tell nothing say that, in every table, card, figure and file, and claim nothing on them."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from page_cases import Recipe, write
from test_page import value

from bench import results
from bench.cli.main import main
from bench.report.build import build
from bench.results import comparison
from bench.results.runs import load
from bench.results.tables import Table, tables
from bench.results.verdict import answers

ALL = (("prompt", "prompt"), ("diffmean", "activations"), ("shuffled", "control"), ("none", "control"))
SOME = ("ocean", "sql", "music", "space", "dice", "kings")
Change = Callable[[dict[str, Any]], None]


def rate(value: Callable[[dict[str, Any], str], float | None]) -> Change:
    """Every rating of a run by another rule of its sample and axis."""

    def change(data: dict[str, Any]) -> None:
        for sample in data["samples"]:
            sample["ratings"] = {axis: value(sample, axis) for axis in sample["ratings"]}
        for name, concept in data["concepts"].items():
            own = [s for s in data["samples"] if s["concept"] == name]
            for axis in data["axes"]:
                known = [s["ratings"][axis] for s in own if s["ratings"][axis] is not None]
                concept["test"][axis] = sum(known) / len(known) if known else None
        data["counts"]["missing"] = sum(s["ratings"]["overall"] is None for s in data["samples"])
        data["metrics"] = results.metrics(data)

    return change


def same(sample: dict[str, Any], axis: str) -> float:
    return 1.0


def none(sample: dict[str, Any], axis: str) -> None:
    return None


def tied(sample: dict[str, Any], axis: str) -> float:
    """By the question alone, whichever method answered."""
    return len(sample["id"]) % 3 / 2


def blind(sample: dict[str, Any], axis: str) -> float:
    return 0.0 if axis in ("concept", "overall") else tied(sample, axis)


def one_question(data: dict[str, Any]) -> None:
    """The first question of each concept alone."""
    data["samples"] = data["samples"][:1]


CASES: dict[str, tuple[Sequence[tuple[str, str]], Sequence[str], Change, str]] = {
    "one question": (ALL, SOME[:1], one_question, "one question is no sample"),
    "one method": (ALL[1:2], SOME, lambda data: None, "one method ran, and there is nothing to compare it with"),
    "one prompt": (ALL[:1], SOME, lambda data: None, "one method ran, and there is nothing to compare it with"),
    "all ties": (ALL, SOME, rate(tied), "all methods have the same score on every concept or question"),
    "a judge that sees no concept": (ALL, SOME, rate(blind), "judge likelihood gave every answer 0 for concept"),
    "a constant judge": (ALL, SOME, rate(same), "judge likelihood gave every answer the same ratings"),
    "no ratings": (ALL, SOME, rate(none), "judge likelihood gave no rating that could be read"),
}


def made(root: Path, methods: Sequence[tuple[str, str]], concepts: Sequence[str], change: Change) -> Path:
    for path in write(Recipe(methods, concepts, judged=False), root):
        data = json.loads(path.read_text("utf-8"))
        change(data)
        path.write_text(json.dumps(data), "utf-8")
    return root


@pytest.mark.parametrize("case", CASES)
def test_what_tells_nothing_is_said_to_tell_nothing_everywhere(case: str, tmp_path: Path) -> None:
    methods, concepts, change, why = CASES[case]
    root = made(tmp_path / "results", methods, concepts, change)
    (table,) = tables(load(root))
    assert why in table.silent
    assert answers([table]) == []
    silent(table)
    build(root, tmp_path / "reports")
    page = (tmp_path / "reports" / "leaderboard.md").read_text("utf-8")
    assert why in page.replace("\\", "")
    assert "Steer or prompt?" not in page
    assert not re.search(r"\d \[[-+.\d]+, [-+.\d]+\]", page), "an interval"
    (found,) = json.loads((tmp_path / "reports" / "leaderboard.json").read_text("utf-8"))["tables"]
    assert why in found["silent"]
    assert found["detectable"] is None
    with (tmp_path / "reports" / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    empty = ("rank", "rank_high", "low", "high", "delta", "delta_low", "p", "p_holm", "corrected")
    assert rows
    assert {row[name] for row in rows for name in empty} == {""}
    shown = value(tmp_path / "reports" / "page" / "data" / "overview.js")["tables"][0]
    assert shown["verdict"]["word"] == "No claim"
    assert why.lower() in shown["verdict"]["text"].lower()
    assert shown["verdict"]["claimed"] == []
    assert {row["rank"] for row in shown["rows"]} == {None}


def silent(table: Table) -> None:
    for row in table.rows:
        assert row.rank is None
        assert row.against is None
        assert row.corrected is None
        assert all(e.low != e.low and e.high != e.high for e in row.estimates.values())
    assert table.detectable is None
    assert not any(table.contrasts.values())


@pytest.mark.parametrize(
    "case", ["one question", "all ties", "a judge that sees no concept", "a constant judge", "no ratings"]
)
def test_a_comparison_of_what_tells_nothing_claims_nothing(case: str, tmp_path: Path) -> None:
    methods, concepts, change, _ = CASES[case]
    root = made(tmp_path / "results", methods, concepts, change)
    one, two = (next(run for run in load(root) if run.method == name) for name in ("diffmean", "prompt"))
    found = comparison.as_json(comparison.compare(one, two))["overall"]
    assert not (found["p"] or 1) < 0.05
    done = CliRunner().invoke(main, ["compare", "diffmean", "prompt", "--results", str(root)])
    assert done.exit_code == 0, done.output


def test_a_table_that_tells_nothing_does_not_answer_for_one_that_does(tmp_path: Path) -> None:
    found = tables(load(made(tmp_path, ALL, SOME, rate(tied))))
    found += tables(load(made(tmp_path / "other", ALL[:3], SOME, lambda data: None)))
    assert [len(table.rows) for table in found] == [4, 3]
    assert [one.table for one in answers(found)] == found[1:]


def test_where_some_tell_something_the_table_speaks(tmp_path: Path) -> None:
    (table,) = tables(load(made(tmp_path / "results", ALL, SOME, lambda data: None)))
    assert table.silent == ""
    assert all(row.rank for row in table.rows if row.run.surface != "control")


# Methods that changed nothing


def test_a_method_whose_answers_are_the_bare_model_s_is_flagged_everywhere(tmp_path: Path) -> None:
    root = tmp_path / "results"
    paths = {path.parent.name.rpartition("-")[0]: path for path in write(Recipe(ALL, SOME, judged=False), root)}
    bare, own = (json.loads(paths[name].read_text("utf-8")) for name in ("none", "diffmean"))
    own |= {"samples": bare["samples"]}
    for name, concept in own["concepts"].items():
        concept["test"] = bare["concepts"][name]["test"]
    paths["diffmean"].write_text(json.dumps(own), "utf-8")
    (table,) = tables(load(root))
    assert {row.name for row in table.rows if row.idle} == {"diffmean"}
    assert answers([table]) == []  # no other steering ran
    build(root, tmp_path / "reports")
    page = (tmp_path / "reports" / "leaderboard.md").read_text("utf-8")
    assert "activations, answers as none: nothing changed" in page
    assert "so that nothing was changed: diffmean." in page
    with (tmp_path / "reports" / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        assert {row["method"]: row["idle"] for row in csv.DictReader(file)} == {
            "prompt": "False", "diffmean": "True", "shuffled": "False", "none": "False",
        }  # fmt: skip
    found = json.loads((tmp_path / "reports" / "leaderboard.json").read_text("utf-8"))["tables"][0]
    assert {row["method"] for row in found["rows"] if row["idle"]} == {"diffmean"}
    overview = (tmp_path / "reports" / "page" / "data" / "overview.js").read_text("utf-8")
    assert "answers as none: nothing changed" in overview


def test_a_table_without_the_bare_model_or_a_control_says_so(tmp_path: Path) -> None:
    (table,) = tables(load(made(tmp_path / "results", ALL[:2], SOME, lambda data: None)))
    build(tmp_path / "results", tmp_path / "reports")
    page = (tmp_path / "reports" / "leaderboard.md").read_text("utf-8")
    assert "The bare model (none) did not run: whether a method does anything at all is not shown." in page
    (answer,) = answers([table])
    assert answer.said == "undecided"
    assert answer.reason.endswith(("a control did not run", "not beyond chance"))


def test_prompts_and_steering_that_tie_on_every_concept_are_not_equivalent(tmp_path: Path) -> None:
    """A floor, say: all three score 0, and one control does not."""

    def change(data: dict[str, Any]) -> None:
        if data["spec"]["method"] != "shuffled":
            rate(lambda sample, axis: 0.0)(data)

    (table,) = tables(load(made(tmp_path / "results", ALL, SOME, change)))
    (answer,) = answers([table])
    assert answer.said == "undecided"
    assert "do not tell the two apart" in answer.reason


def test_lengths_stand_beside_their_own_ratings_where_one_is_missing(tmp_path: Path) -> None:
    """The first question of each concept is rated in neither run: its length must not move up to the next one's."""
    root = made(tmp_path / "results", ALL[:2], SOME, lambda data: None)

    def gone(data: dict[str, Any]) -> None:
        for i, sample in enumerate(data["samples"]):
            sample["tokens"] = 10 + i % 3 * 7 + (data["spec"]["method"] == "prompt") * (i % 5)
        rate(lambda s, axis: None if s["id"].endswith("/0") else s["ratings"][axis])(data)

    for run in load(root):
        data = dict(run.data)
        gone(data)
        run.path.write_text(json.dumps(data), "utf-8")
    one, two = load(root)
    scores, lengths = (results.matched([one, two], axis) for axis in ("overall", "tokens"))
    assert scores.shape == lengths.shape == (2, 6, 3)
    for run, table in zip((one, two), lengths, strict=True):
        by_id = {s["id"]: s["tokens"] for s in run.data["samples"]}
        for concept, row in zip(SOME, table, strict=True):
            assert list(row) == [by_id[f"{concept}/test/{i}"] for i in range(3)]
