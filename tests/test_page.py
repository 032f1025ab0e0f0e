"""The page's files: what they hold, that data cannot leave its place in them, and that they are the same twice."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from page_cases import Recipe, price, write

from bench import results
from bench.core.errors import BenchError
from bench.report.build import build
from bench.report.page import encoding, samples, summary, write as write_page
from bench.report.page.build import BUILT, STATIC, stop
from bench.report.text import models as models_text
from bench.report.text.leaderboard import interval
from bench.report.text.verdict import LEADS, against, answers, headline, lead
from bench.results.models import side_by_side
from bench.results.runs import TRIALS, Run, Tried, read, trials
from bench.results.tables import Table, tables
from bench.results.verdict import VERDICTS

METHODS = (("diffmean", "activations"), ("prompt", "prompt"), ("caa", "activations"), ("none", "control"))
RECIPE = Recipe(METHODS, ("ocean", "sql", "music", "space", "dice", "kings"), tests=3, selects=2)


def value(path: Path) -> Any:
    """What a data file hands to the page: its one string, read as JavaScript and then as JSON."""
    call = r"""bench\.put\("[^"]+",JSON\.parse\('((?:[^'\\]|\\.)*)'\)\);\n"""
    found = re.fullmatch(call, path.read_text("ascii"))
    assert found, path
    read = re.sub(r"\\(u[0-9a-f]{4}|.)", lambda m: chr(int(m[1][1:], 16)) if m[1][1:] else m[1], found[1])
    return json.loads(read)


def put(name: str, tmp_path: Path, content: Any) -> Any:
    path = tmp_path / name
    path.write_bytes(encoding.script("a/b", content))
    return value(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results and the report of them; read it, do not write to it."""
    root = tmp_path_factory.mktemp("page")
    write(RECIPE, root / "results")
    build(root / "results", root / "reports")
    return root


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def first(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = value(place / "reports" / "page" / "data" / "overview.js")
    return found


def folder(place: Path) -> Path:
    return place / "reports" / "page" / "data" / first(place)["tables"][0]["key"]


@pytest.mark.parametrize(
    "text",
    [
        "</script><script>alert(1)</script>",
        "<!-- <script>",
        "it's \\' \\u003c \\",
        'a "quoted" \\" word',
        "line\u2028and\u2029paragraph\nnew\r\ttab\0nul",
        "日本語 😀",
        "\ud800 alone",
        "');alert(1);('",
    ],
)
def test_a_text_comes_back_from_its_script_and_cannot_leave_it(text: str, tmp_path: Path) -> None:
    content = {text: [text, {"__proto__": text}]}
    raw = encoding.script("a/b", content)
    assert not set(raw) & set(b"<>&")
    assert max(raw) < 128
    assert raw.count(b"\n") == 1
    assert put("x.js", tmp_path, content) == content


@pytest.mark.slow
def test_a_report_with_its_page_is_the_same_twice(place: Path, tmp_path: Path) -> None:
    build(place / "results", tmp_path / "reports")
    one, two = files(place / "reports"), files(tmp_path / "reports")
    assert {name for name in one.keys() | two.keys() if one.get(name) != two.get(name)} == set()
    assert {"index.html", "page/app.js", "page/data/overview.js"} <= set(one)


@pytest.mark.slow
def test_a_provisional_report_says_so_and_leaves_no_trace_of_it_in_the_last(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "reports"
    build(place / "results", out, to_come=2)
    early = files(out)
    said = "Provisional: 2 methods are still to come, and ranks and intervals may change."
    assert f"**{said}**" in (out / "leaderboard.md").read_text("utf-8").split("## ")[0]
    assert json.loads((out / "leaderboard.json").read_text("utf-8"))["to_come"] == 2
    built = value(out / "page" / "data" / "built.js")
    assert (built["live"], built["to_come"], built["said"]) == (True, 2, said)
    stop(out)
    assert value(out / "page" / "data" / "built.js") == built | {"live": False}
    build(place / "results", out)
    last = files(out)
    assert {name for name in last if last[name] != early[name]} == {"leaderboard.md", "leaderboard.json", BUILT}
    assert last == files(place / "reports")
    assert value(out / BUILT) == {"stamp": built["stamp"], "live": False, "to_come": 0, "said": ""}


def test_another_page_has_another_stamp(tmp_path: Path) -> None:
    stamps = set()
    for number, tests in enumerate((1, 2, 2)):
        write(Recipe(METHODS[:2], ("ocean", "sql"), tests=tests), tmp_path / str(number))
        write_page(tables(results.load(tmp_path / str(number))), tmp_path / "out", {}, {}, to_come=1)
        stamps.add(value(tmp_path / "out" / BUILT)["stamp"])
    assert len(stamps) == 2


@pytest.mark.slow
def test_every_script_and_style_of_the_page_is_written(place: Path) -> None:
    text = (place / "reports" / "index.html").read_text("utf-8")
    named = re.findall(r'(?:src|href)="(page/[^"]+)"', text)
    data = [f"page/data/{name}.js" for name in ("overview", "built")]
    assert sorted(named) == sorted([*(f"page/{name}" for name in STATIC), *data])
    assert all((place / "reports" / name).is_file() for name in named)
    assert "unsafe" not in text
    assert "http:" not in text
    assert "https:" not in text
    assert not re.search(r"<script(?![^>]* src=)|\son\w+=|\sstyle=", text)


def test_no_script_of_the_page_makes_markup_of_text(place: Path) -> None:
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|setTimeout\([\"'`]|fetch\("
    )
    for name in STATIC:
        assert not re.search(forbidden, (place / "reports" / "page" / name).read_text("utf-8")), name


def test_the_first_file_has_the_tables_and_no_answers(place: Path) -> None:
    found = first(place)
    (table,) = found["tables"]
    assert [row["name"] for row in table["rows"]] == [name for name, _ in METHODS]
    assert table["axes"] == ["overall", "concept", "instruction", "fluency"]
    assert all(len(row["scores"]) == 4 and row["scores"][0][1] <= row["scores"][0][0] for row in table["rows"])
    assert table["reference"] == "prompt"
    assert table["rows"][1]["delta"] is None
    assert table["answers"]
    assert not table["costs"]
    described = {one["name"]: one for one in found["methods"]}
    assert {"lora", "diffmean"} <= set(described)
    assert {"Equation", "Reproduction"} <= {label for label, _ in described["diffmean"]["parts"]}
    assert ["layer", "0.5"] in described["diffmean"]["fields"]
    texts = {s["text"] for run in results.load(place / "results") for s in run.data["samples"]}
    raw = (place / "reports" / "page" / "data" / "overview.js").read_text()
    assert not any(text in raw for text in texts)


def test_every_answer_is_in_the_one_file_the_index_names(place: Path) -> None:
    index = value(folder(place) / "index.js")
    methods = [row["name"] for row in first(place)["tables"][0]["rows"]]
    found: dict[tuple[str, str], list[Any]] = {}
    for concept, split, own, instruction, number, at in index["cases"]:
        for answer in value(folder(place) / f"{index['files'][number]}.js")["cases"][at]:
            found.setdefault((methods[answer[0]], samples.SPLITS[split]), []).append(
                (
                    own,
                    index["concepts"][concept][0],
                    index["instructions"][instruction],
                    answer[1],
                    answer[2],
                    answer[3],
                )
            )
    for run in results.load(place / "results"):
        kept = run.data["samples"]
        want = [
            (s["id"], s["concept"], s["instruction"], *run.data["concepts"][s["concept"]]["picked"].values(), s["text"])
            for s in kept
        ]
        assert sorted(found[run.method, "test"]) == sorted(want)
        rows = [json.loads(line) for line in run.path.with_name(results.TRIALS).read_text().splitlines()]
        want = [(r["id"], r["concept"], r["instruction"], r["candidate"], r["coefficient"], r["text"]) for r in rows]
        assert sorted(found[run.method, "select"]) == sorted(want)
    written = {p.stem for p in folder(place).glob("*.js")}
    assert written == {*index["files"], "index", *(row["file"] for row in first(place)["tables"][0]["rows"])}


def test_the_index_has_the_ratings_and_the_largest_gap_of_the_judges(place: Path) -> None:
    index = value(folder(place) / "index.js")
    width = len(METHODS)
    assert index["judges"] == ["likelihood", "second"]
    runs = {run.method: run for run in results.load(place / "results")}
    for i, case in enumerate(index["cases"]):
        answers = value(folder(place) / f"{index['files'][case[4]]}.js")["cases"][case[5]]
        for answer in answers:
            row, judged, picked = answer[0], answer[6], answer[7]
            if not picked:
                continue
            at = i * width + row
            assert index["first"][at] == round(100 * judged[0][1][0])
            if case[1] == 0:
                assert index["second"][at] == round(100 * judged[1][1][0])
                gaps = [abs(a - b) for a, b in zip(judged[0][1], judged[1][1], strict=True)]
                assert index["gap"][at] == round(100 * max(gaps))
            else:
                assert index["second"][at] is None
                assert len(judged) == 1
                pick = runs[METHODS[row][0]].data["concepts"][index["concepts"][case[0]][0]]["picked"]
                assert answer[2] == pick["coefficient"]


def test_answers_of_one_concept_are_read_from_the_disk_as_all_of_them_would_be(tmp_path: Path) -> None:
    (path,) = write(Recipe([("prompt", "prompt")], ["ocean", "café", "stone"], selects=3), tmp_path)
    lines = path.with_name(TRIALS).read_text().splitlines(keepends=True)
    mixed = "\n".join("".join(lines[i::3]) for i in range(3))  # no concept's lines stand together
    path.with_name(TRIALS).write_text(mixed)
    run = read(path)
    kept, tried = trials(run), Tried(run)
    assert len(kept) == len(lines)
    for concept in run.data["concepts"]:
        assert tried.of(concept) == [one for one in kept if one["concept"] == concept] != []
    assert tried.of("none such") == []


def test_a_file_of_answers_stays_small_whatever_the_table(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "ANSWERS", 9)
    (table,) = tables(results.load(place / "results"))
    parts = dict(samples.shards(table))
    index = parts.pop("index")
    sizes = [sum(len(case) for case in part["cases"]) for part in parts.values()]
    assert max(sizes) <= 9
    assert list(parts) == index["files"]
    assert len(parts) > 2 * len(RECIPE.concepts)
    assert sum(sizes) == sum(run.data["counts"]["generations"] for run in results.load(place / "results"))


def test_answers_come_with_what_stood_around_their_questions(tmp_path: Path) -> None:
    """Under the candidate that wrote them; and of an answer that is withheld there is no text."""
    paths = write(RECIPE, tmp_path)
    asked: dict[str, Any] = {"system": "Be brief.", "prefix": "", "suffix": " Now.", "shots": [["Hi?", "Ho."]]}
    for path in paths:
        data = json.loads(path.read_text())
        if data["spec"]["method"] == "prompt":
            for own in data["concepts"].values():
                own["prompts"] = [asked, {"system": "Another candidate's."}]
        if data["spec"]["method"] == "caa":
            hidden = [s["text"] for s in data["samples"]]
            data["samples"] = [
                {k: v for k, v in s.items() if k != "text"} | {"withheld": "0123456789abcdef first words"}
                for s in data["samples"]
            ]
        path.write_text(json.dumps(data))
    (table,) = tables(results.load(tmp_path))
    names = [row.name for row in table.rows]
    parts = dict(samples.shards(table))
    parts.pop("index")
    assert all(part["prompts"] == [[names.index("prompt"), 0, asked]] for part in parts.values())
    tested = {a[0] for name, part in parts.items() if "-test-" in name for case in part["cases"] for a in case}
    assert tested == {i for i, name in enumerate(names) if name != "caa"}
    assert hidden
    whole = json.dumps(parts)
    assert not any(text in whole for text in hidden)


@pytest.mark.slow
def test_an_earlier_page_s_data_goes_and_nothing_else_does(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "results", tmp_path / "results")
    build(tmp_path / "results", tmp_path / "reports")
    before = files(tmp_path / "reports")
    mine = tmp_path / "reports" / "page" / "data" / "mine.txt"
    mine.write_text("kept")
    gone = next(path for path in sorted((tmp_path / "results").glob("*/*/*")) if path.name.startswith("caa"))
    shutil.rmtree(gone)
    build(tmp_path / "results", tmp_path / "reports")
    after = files(tmp_path / "reports")
    assert len([name for name in before if "/run-" in name]) == 4
    assert len([name for name in after if "/run-" in name]) == 3
    assert mine.read_text() == "kept"
    other = Recipe(METHODS[:2], ("ocean", "sql"), task="axbench-suppress")
    shutil.rmtree(tmp_path / "results")
    write(other, tmp_path / "results")
    build(tmp_path / "results", tmp_path / "reports")
    assert len(list((tmp_path / "reports" / "page" / "data").glob("*/"))) == 1


@pytest.mark.slow
def test_trials_that_are_not_the_run_s_are_an_error(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "results", tmp_path / "results")
    path = sorted((tmp_path / "results").rglob(results.TRIALS))[0]
    good = path.read_text().splitlines()[0]
    for bad in ("{", "[]", good.replace('"concept": "ocean"', '"concept": "lake"'), good.replace('"id"', '"di"')):
        path.write_text(bad + "\n")
        with pytest.raises(BenchError, match=r"trials\.jsonl.* this run's answers.*delete it"):
            build(tmp_path / "results", tmp_path / "reports")


@pytest.mark.slow
def test_costs_have_columns_where_they_are_measured(place: Path, tmp_path: Path) -> None:
    for path, tokens in zip(write(RECIPE, tmp_path / "results"), (0, 120), strict=False):
        price(path, tokens, 1.02)
    build(tmp_path / "results", tmp_path / "reports")
    (table,) = first(tmp_path)["tables"]
    at = table["costs"].index("prompt tokens")
    assert [row["cost"] and row["cost"][at] for row in table["rows"]] == [["0", 0], ["120", 120], None, None]
    assert all(len(row["cost"]) == len(table["costs"]) for row in table["rows"] if row["cost"])


# Several models


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models on one task, of which the second lacks a method, and one of them on another task."""
    root = tmp_path_factory.mktemp("models") / "results"
    write(RECIPE, root)
    write(dataclasses.replace(RECIPE, model="other-model", methods=METHODS[1:]), root)
    write(dataclasses.replace(RECIPE, task="axbench-suppress"), root)
    return root


def test_methods_stand_beside_each_other_where_a_task_ran_on_several_models(models: Path) -> None:
    found = tables(results.load(models))
    (one,) = side_by_side(found)
    by_model = {t.spec["model"]: t for t in found if t.spec["task"] == "axbench"}
    assert one.columns == by_model
    assert list(one.columns) == ["other-model", "tiny-model"]
    assert set(one.rows) == {"diffmean", "prompt", "caa", "none"}
    assert set(one.rows["diffmean"]) == {"tiny-model"}
    for method, own in one.rows.items():
        for model, row in own.items():
            assert row is next(r for r in by_model[model].rows if r.name == method)
    assert side_by_side([t for t in found if t.spec["model"] == "tiny-model"]) == []


def test_of_a_model_the_table_that_answers_for_it_is_shown(models: Path) -> None:
    found = tables(results.load(models))
    (one,) = side_by_side(found)
    own = one.columns["tiny-model"]
    smaller = dataclasses.replace(own, group="another", rows=own.rows[:2])
    for order in ([*found, smaller], [smaller, *found]):
        (again,) = side_by_side(order)
        assert again.columns["tiny-model"] is own


def test_models_of_one_name_are_told_apart_by_their_weights(models: Path) -> None:
    (one,) = side_by_side(tables(results.load(models)))
    own = one.columns["tiny-model"]
    twin = dataclasses.replace(own, spec={**own.spec, "weights": "abcdef0123"})
    (found,) = side_by_side([own, twin])
    assert list(found.columns) == ["tiny-model ()", "tiny-model (abcdef)"]
    other = dataclasses.replace(own, spec={**own.spec, "judge": "another", "model": "third"})
    assert side_by_side([own, other]) == []  # what another judge said of another model


def test_the_leaderboard_has_a_table_of_methods_and_models(models: Path) -> None:
    found = side_by_side(tables(results.load(models)))
    lines = models_text.section(found)
    assert lines[0] == "## Methods across models"
    head = next(line for line in lines if line.startswith("| method"))
    assert [c.strip() for c in head.strip("|").split("|")] == [
        "method", "other-model", "other-model: Δ to its prompt", "tiny-model", "tiny-model: Δ to its prompt"
    ]  # fmt: skip
    row = next(line for line in lines if line.startswith("| diffmean"))
    best = next(r for r in found[0].columns["tiny-model"].rows if r.name == "diffmean")
    assert best.against
    assert [c.strip() for c in row.strip("|\n ").split("|")][1:] == [
        "", "", interval(best.estimates["overall"]), interval(best.against)
    ]  # fmt: skip
    assert "reference" in next(line for line in lines if line.startswith("| prompt "))
    assert models_text.section([]) == []


# What is claimed


def verdict(recipe: Recipe, root: Path) -> dict[str, Any]:
    write(recipe, root)
    (table,) = found = tables(results.load(root))
    return summary.verdict(table, answers(found))


CONCEPTS = tuple(f"concept-{i}" for i in range(12))


def test_every_method_is_claimed_where_both_judges_see_it(tmp_path: Path) -> None:
    found = verdict(Recipe(METHODS, CONCEPTS), tmp_path)
    assert found["claimed"][0].startswith("Better than prompt: diffmean (likelihood: p < .05")
    assert found["claimed"][1].startswith("prompt is better than caa (")
    assert found["claimed"][2] == "prompt is better than the controls none."
    assert found["open"] == []


def test_the_page_gives_the_answer_of_the_leaderboard(tmp_path: Path) -> None:
    found = verdict(Recipe(METHODS, CONCEPTS), tmp_path)
    (one,) = answers(tables(results.load(tmp_path)))
    assert found["word"].lower() == one.said == "undecided"
    assert "its twin did not run" in found["numbers"]
    assert "diffmean" in found["numbers"]
    assert interval(one.difference) in found["numbers"]


def test_the_answer_is_said_in_plain_words_before_any_table(tmp_path: Path) -> None:
    found = verdict(Recipe(METHODS, CONCEPTS), tmp_path / "results")
    assert found["text"] == "It is not settled whether steering or prompting works better."
    assert found["numbers"].startswith("On the test prompts diffmean (steering) scores ")
    build(tmp_path / "results", tmp_path / "reports")
    said = "On axbench it is not settled whether steering or prompting works better."
    assert first(tmp_path)["lead"] == said
    above, _, below = (tmp_path / "reports" / "leaderboard.md").read_text("utf-8").partition("| task |")
    assert f"**{said}**" in above
    titled = below[below.index("## axbench") :]
    assert titled.index("**Undecided.** It is not settled") < titled.index("| rank |")


def test_the_lead_names_each_task_once_by_what_is_said_of_it(tmp_path: Path) -> None:
    few = (METHODS[1], METHODS[2], METHODS[3])
    write(Recipe(METHODS, CONCEPTS), tmp_path)
    write(Recipe(few, CONCEPTS, task="axbench-suppress"), tmp_path)
    found = answers(tables(results.load(tmp_path)))
    assert [one.said for one in found] == ["undecided", "prompt"]
    assert lead(found) == (
        "On axbench it is not settled whether steering or prompting works better; "
        "on axbench-suppress prompting works better than steering."
    )
    assert lead([found[1], found[1]]) == "On axbench-suppress prompting works better than steering."
    assert lead([]) == "No table of this report compares steering with a prompt."
    assert set(VERDICTS) == set(LEADS)


def test_each_registered_steering_has_its_word(tmp_path: Path) -> None:
    """Where they differ, each verdict names its steering."""
    few = (METHODS[1], METHODS[2], METHODS[3])
    write(Recipe(METHODS, CONCEPTS), tmp_path)
    write(Recipe(few, CONCEPTS, task="axbench-suppress"), tmp_path)
    one, two = answers(tables(results.load(tmp_path)))
    two = dataclasses.replace(two, table=one.table)
    word, text, numbers = headline(one.table, [one, two])
    assert word == "It depends"
    assert text == (
        f"With {one.steering.name} it is not settled whether steering or prompting works better; "
        f"with {two.steering.name} prompting works better than steering."
    )
    assert numbers.count("On the test prompts") == 2
    assert lead([one, two]).startswith(f"On axbench ({one.steering.name}) it is not settled")
    assert headline(one.table, [one, one])[:2] == headline(one.table, [one])[:2]


@pytest.mark.slow
def test_detection_is_answered_in_words(committed_tables: list[Table]) -> None:
    table = next(t for t in committed_tables if t.kind == "detector")
    word, text, _ = headline(table, [])
    above, beaten, rest = against(table)
    assert word == "Not the prompt"
    assert text.startswith(f"{len(above)} of {len(above + beaten + rest)} methods detect better than asking the model")
    for mean, p, expected in ((0.1, 1.0, "Undecided"), (-0.1, 0.001, "Prompt"), (0.1, 0.001, "Not the prompt")):
        rows = [
            dataclasses.replace(row, p=p, against=dataclasses.replace(row.against, mean=mean)) if row.against else row
            for row in table.rows
        ]
        assert headline(dataclasses.replace(table, rows=tuple(rows)), [])[0] == expected


def test_why_a_table_has_no_answer_is_said(tmp_path: Path) -> None:
    write(Recipe(METHODS, CONCEPTS), tmp_path)
    (table,) = tables(results.load(tmp_path))
    bare = dataclasses.replace(table, rows=tuple(row for row in table.rows if not row.run.steered))
    assert "No steering method ran here" in headline(bare, [])[1]
    assert "A larger table" in headline(table, [])[1]
    for name, expected in (("truthfulqa", "Multiple choice"), ("ifeval", "what a setting costs, and is no target")):
        rows = tuple(dataclasses.replace(row, run=of_task(row.run, name)) for row in table.rows)
        assert expected in headline(dataclasses.replace(table, spec=table.spec | {"task": name}, rows=rows), [])[1]


def of_task(run: Run, task: str) -> Run:
    """The run as one of another task; of a choice no token is written."""
    none = {"tokens": 0} if task == "truthfulqa" else {}
    samples = [sample | none for sample in run.data["samples"]]
    return dataclasses.replace(run, data=run.data | {"spec": run.data["spec"] | {"task": task}, "samples": samples})


def test_prompting_is_the_answer_where_it_is_better(tmp_path: Path) -> None:
    found = verdict(Recipe((METHODS[1], METHODS[2], METHODS[3]), CONCEPTS), tmp_path)
    assert found["word"] == "Prompt"


def test_of_few_concepts_no_more_is_claimed_than_of_their_questions(tmp_path: Path) -> None:
    found = verdict(Recipe(METHODS[:2], CONCEPTS[:3]), tmp_path)
    assert found["word"] == "Undecided"
    (claimed,) = found["claimed"]
    assert claimed.startswith("Better than prompt: diffmean (")
    assert claimed.endswith("Known of further questions of these 3 concepts alone.")
    assert found["open"] == []


def test_nothing_is_claimed_on_one_judge_s_word(tmp_path: Path) -> None:
    found = verdict(Recipe(METHODS, CONCEPTS, judged=False), tmp_path)
    assert found["word"] == "Undecided"
    assert found["claimed"] == []
    assert "Only likelihood has rated" in found["open"][0]
    assert len(found["open"]) == 1


@pytest.mark.slow
def test_labels_claim_nothing_for_a_prompt_against_another(committed_tables: list[Table]) -> None:
    """Other prompts are no answer to whether the model is to be steered or prompted."""
    for table in (t for t in committed_tables if t.reference and not t.spec["judge"]):
        lists = summary.verdict(table, [])
        named = set(re.findall(r"[\w()+-]+", " ".join((*lists["claimed"], *lists["open"]))))
        steered = {row.name for row in table.rows if row.run.steered or row.run.surface == "detector"}
        assert named & steered or not steered
        assert named & {row.name for row in table.rows if row.run.prompted} <= {table.reference}


def test_a_table_too_small_to_see_anything_says_so(tmp_path: Path) -> None:
    write(Recipe(METHODS, CONCEPTS[:2]), tmp_path)
    (table,) = tables(results.load(tmp_path))
    seen = [
        summary.verdict(dataclasses.replace(table, detectable=smallest), None)["caveats"]
        for smallest in (None, 0.0, 0.3, 2.5)
    ]
    assert seen == [
        [],
        [],
        ["Differences to prompt below 0.30 may go unseen: the widest row would find that much in 4 of 5 repetitions."],
        ["6 questions are too few to tell any method from prompt."],
    ]


def test_without_a_prompt_there_is_no_question(tmp_path: Path) -> None:
    assert verdict(Recipe((METHODS[0], METHODS[3]), CONCEPTS), tmp_path)["word"] == "No claim"


def test_names_from_data_are_no_paths() -> None:
    rng = random.Random(0)
    for name in ("../../etc", "a/b", "", "<x>", "ü", "".join(map(chr, rng.sample(range(32, 3000), 40)))):
        assert re.fullmatch(r"[0-9a-f]{10}", encoding.key(name))
