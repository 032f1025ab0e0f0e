"""Rating kept answers again: beside the run, once, comparable; and what may be claimed on two opinions."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner, Result
from conftest import committed

from bench.cli.judges import find
from bench.cli.main import main
from bench.core import paths, registry
from bench.core.errors import BenchError
from bench.core.interfaces import Judge
from bench.core.values import Item, Verdict
from bench.measure.rejudge import side_by_side
from bench.report.build import build
from bench.report.section import Grid
from bench.report.text import opinions as claims
from bench.results import second_judge, validity
from bench.results.record import VERSION
from bench.results.runs import Run, load
from bench.results.second_judge import JudgeRatings
from bench.results.tables import tables
from bench.stats.intervals import Estimate

METHODS = ("diffmean", "prompt", "prompt+diffmean", "random")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Four committed runs without their opinions, in a folder of their own."""
    for source in map(committed, METHODS):
        folder = tmp_path / "results" / source.relative_to(source.parents[2])
        folder.mkdir(parents=True)
        shutil.copy(source / "run.json", folder)
    return tmp_path / "results"


def bench(results: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["judge", *words, "--results", str(results)])


def opinion(run: Run, shift: Mapping[str, float], judge: str = "other", independent: bool = True) -> JudgeRatings:
    """An opinion that adds to each method's ratings, written beside the run."""
    add = shift.get(run.method, 0.0)

    def moved(values: Mapping[str, Any]) -> dict[str, Any]:
        return {k: min(max(v + add, 0.0), 2.0) if isinstance(v, float) else v for k, v in values.items()}

    data = {
        "version": VERSION,
        "run": run.data["id"],
        "id": "x",
        "judge": judge,
        "judge_params": {},
        "independent": independent,
        "code": "",
        "calibration": {},
        "concepts": {name: moved(c["test"]) for name, c in run.data["concepts"].items()},
        "samples": [{"id": s["id"], "ratings": moved(s["ratings"]), "reasons": {}} for s in run.data["samples"]],
        "missing": 0,
    }
    path = second_judge.place(run, judge, {})
    path.write_text(json.dumps(data))
    return second_judge.read(path)


@pytest.mark.slow
def test_rules_rate_kept_answers_once_and_leave_the_run_alone(results: Path) -> None:
    """Concepts of the mini set are no rules: every rating is missing, and says why."""
    before = {p: p.read_bytes() for p in results.rglob("run.json")}
    done = bench(results, "diffmean", "--judge", "rules", "--json")
    assert done.exit_code == 0, done.output
    row = json.loads(done.stdout)["rated"][0]
    kept = json.loads(Path(row["path"]).read_text("utf-8"))
    assert row["missing"] == kept["missing"] == len(kept["samples"]) == 72
    assert all(s["ratings"]["overall"] is None and "no rule" in s["reasons"]["concept"] for s in kept["samples"])
    assert kept["independent"] is True
    stamp = Path(row["path"]).stat().st_mtime_ns
    assert bench(results, "diffmean", "--judge", "rules").exit_code == 0
    assert Path(row["path"]).stat().st_mtime_ns == stamp
    assert {p: p.read_bytes() for p in results.rglob("run.json")} == before


@pytest.mark.slow
def test_all_and_a_group_name_every_run_with_answers(results: Path) -> None:
    group = load(results)[0].data["group"]
    for name in ("all", group[:6]):
        done = bench(results, name, "--judge", "rules", "--json")
        assert done.exit_code == 0, done.output
        assert len(json.loads(done.stdout)["rated"]) == len(METHODS)


def test_a_group_is_found_in_the_scratch_folder_too(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report on runs that the checked results refuse names their group to be rated."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(paths, "default_results", lambda: tmp_path / "checked")
    paths.scratch().parent.mkdir(parents=True)
    results.rename(paths.scratch())
    (known, *_) = load(paths.scratch())
    found = find([known.data["group"]], None)
    assert {run.path for run in found} == {run.path for run in load(paths.scratch())}


@pytest.mark.slow
def test_the_judge_to_ask_is_another_than_the_table_s(results: Path) -> None:
    for judge, other in (("likelihood", "embedding"), ("embedding", "openai:MODEL")):
        for path in results.rglob("run.json"):
            data = json.loads(path.read_text("utf-8"))
            data["spec"]["judge"] = judge
            path.write_text(json.dumps(data))
        (table,) = tables(load(results))
        assert claims.asking(table) == f"bench judge {table.group} --judge {other}"
        (section,) = claims.second(table, None)
        (line,) = section.parts
        assert claims.asking(table) in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing", "--judge", "rules"], "no run 'nothing'"),
        (["diffmean", "--judge", "rule"], "did you mean 'rules'"),
        (["diffmean", "--judge", "rules", "-p", "embedding.words=3"], "embedding"),
        (["diffmean", "--judge", "embedding", "-p", "words=3"], "judge.field=value"),
        (["diffmean", "--judge", "embedding", "-p", "embedding.word=3"], "did you mean 'words'"),
        (["diffmean", "--judge", "rules", "--judge", "embedding", "-p", "embedding.word=3"], "did you mean 'words'"),
        (["validate", "--judge", "rules"], "no labelled evaluation texts"),
        (["sample", "diffmean", "--n", "500", "--out", "x.csv"], "hold 72"),
    ],
)
def test_wrong_words_are_usage_errors(
    results: Path, words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = bench(results, *words)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert not list(results.rglob("judged-*"))


@pytest.mark.slow
def test_changed_data_is_refused(results: Path) -> None:
    path = next(results.rglob("diffmean-*/run.json"))
    data = json.loads(path.read_text("utf-8"))
    data["spec"]["data"] = "0" * 24
    path.write_text(json.dumps(data))
    done = bench(results, "diffmean", "--judge", "rules")
    assert done.exit_code == 1
    assert "its data is not the data at hand" in done.stderr


@pytest.mark.slow
def test_a_drawn_file_is_never_written_over(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "hand.csv"
    words = ["sample", "diffmean", "prompt", "-n", "10", "--out", str(out)]
    assert bench(results, *words).exit_code == 0
    kept = out.read_bytes()
    assert bench(results, *words).exit_code == 2
    assert out.read_bytes() == kept


@pytest.mark.slow
def test_equal_judges_agree_and_favour_nobody(results: Path) -> None:
    runs = load(results)
    found = side_by_side(runs, runs, [opinion(run, {}) for run in runs])
    assert found["judges"] == ["likelihood", "other"]
    for e in found["agreement"].values():
        assert [e[k]["mean"] for k in ("kappa", "spearman", "alpha")] == [1, 1, 1]
        assert e["n"] == 72 * len(METHODS)
    assert found["prompt_bias"]["overall"]["mean"] == 0
    assert not found["prompt_bias"]["overall"]["flagged"]


@pytest.mark.slow
def test_a_judge_that_favours_prompts_is_flagged(results: Path) -> None:
    runs = load(results)
    fair = [opinion(run, {"prompt": -0.5}) for run in runs]
    found = side_by_side(runs, runs, fair)["prompt_bias"]["overall"]
    assert found["mean"] == pytest.approx(0.5, abs=0.05)  # a rating falls to 0 at most
    assert found["flagged"]


@pytest.mark.slow
def test_no_claim_without_a_second_opinion(results: Path) -> None:
    table = tables(load(results))[0]
    (section,) = claims.second(table, second_judge.second(table))
    assert "no second opinion" in section.heading
    assert "better" not in str(section.parts)


@pytest.mark.slow
def test_a_judge_that_is_not_independent_gives_no_second_opinion(results: Path) -> None:
    runs = load(results)
    for run in runs:
        opinion(run, {}, independent=False)
    assert second_judge.second(tables(runs)[0]) is None


@pytest.mark.slow
def test_claims_need_agreement_in_sign(results: Path) -> None:
    """The second judge turns diffmean around and leaves random where it was; one run it never saw."""
    runs = load(results)
    against = next(row.against for row in tables(runs)[0].rows if row.name == "diffmean")
    assert against is not None
    for run in runs:
        if run.method != "prompt+diffmean":
            opinion(run, {"diffmean": -1.5 if against.mean > 0 else 1.5})
    table = tables(runs)[0]
    found = second_judge.second(table)
    assert found is not None
    states = {c.name: c.state for c in found.comparisons}
    assert states == {"diffmean": "disputed", "random": "agreed", "prompt+diffmean": "no second opinion"}
    text = "\n".join(claims.claims(table, found))
    assert "prompt is better than random: both judges agree" in text
    assert "Disputed, the judges differ in sign, nothing is claimed: diffmean" in text
    assert "No second opinion, nothing is claimed: prompt+diffmean" in text


@pytest.mark.slow
def test_a_judge_asked_again_is_no_second_opinion_and_hides_none(results: Path) -> None:
    for run in load(results):
        opinion(run, {}, judge=run.data["spec"]["judge"])
    (table,) = tables(load(results))
    assert second_judge.second(table) is None
    for run in load(results):
        opinion(run, {})
    found = second_judge.second(table)
    assert found is not None
    assert found.judge == "other"


def halves(data: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Where a record has ratings: of its samples, and the means of its concepts."""
    return [*(("ratings", s) for s in data["samples"]), *(("test", c) for c in data["concepts"].values())]


@pytest.mark.slow
def test_opinions_are_compared_by_the_units_that_a_run_resamples(results: Path) -> None:
    """Where a question is the unit, concept means of an opinion would pair with nothing."""
    for path in results.rglob("run.json"):
        data = json.loads(path.read_text("utf-8"))
        for sample in data["samples"]:
            sample["unit"] = sample["id"]
        # In the lower half of the scale, so that half a point more is still on it.
        for means in (data["metrics"], *(part[k] for k, part in halves(data))):
            means.update({k: v / 2 for k, v in means.items() if isinstance(v, float)})
        path.write_text(json.dumps(data))
    for run in load(results):
        opinion(run, {"prompt": 0.5})
    (table,) = tables(load(results))
    found = second_judge.second(table)
    assert found is not None
    assert {c.state for c in found.comparisons} <= {"agreed", "disputed"}
    assert all(c.second and c.second.n == len(table.concepts) == 72 for c in found.comparisons)
    assert all(c.second and c.second.mean == pytest.approx(c.first.mean - 0.5) for c in found.comparisons)
    runs = load(results)
    compared = side_by_side(runs, runs, [opinion(run, {"prompt": 0.5}) for run in runs])
    assert compared["agreement"]["overall"]["spearman"]["concepts"] == 72
    assert compared["prompt_bias"]["overall"]["mean"] == pytest.approx(-0.5)


@pytest.mark.slow
def test_the_report_shows_the_section_and_is_stable(results: Path, tmp_path: Path) -> None:
    for run in load(results):
        opinion(run, {})
    pages = []
    for name in ("one", "two"):
        build(results, tmp_path / name)
        pages.append((tmp_path / name / "leaderboard.md").read_bytes())
    assert pages[0] == pages[1]
    text = pages[0].decode()
    assert "Prompting against steering, method minus prompt (overall), by two judges:" in text
    assert "Validity of judge likelihood" in text


@pytest.mark.slow
@pytest.mark.parametrize("content", ["{", "[]", '{"version": 9}', '{"version": 1, "run": "x"}'])
def test_a_damaged_opinion_is_an_error(results: Path, content: str) -> None:
    run = load(results)[0]
    (run.path.parent / "judged-other-1.json").write_text(content)
    with pytest.raises(BenchError, match=r"judged-other-1\.json is not a judge's opinion"):
        second_judge.of(run)


@pytest.mark.slow
def test_an_opinion_of_another_run_is_an_error(results: Path) -> None:
    one, two = load(results)[:2]
    shutil.copy(opinion(one, {}).path, two.path.parent)
    with pytest.raises(BenchError, match="belongs to run"):
        second_judge.of(two)


def test_validity_belongs_to_a_judge_with_its_settings(tmp_path: Path) -> None:
    (tmp_path / "judges").mkdir()
    table = {"judge": "likelihood", "axes": {"concept": {"negative": {"auroc": 0.9, "low": 0.8, "high": 1, "n": 7}}}}
    path = tmp_path / "judges" / "likelihood-x.json"
    path.write_text(json.dumps(table | {"data": "x", "judge_params": {"texts": 12}}))
    assert len(validity.validity([tmp_path], "likelihood", {"texts": 12})) == 1
    assert validity.validity([tmp_path], "likelihood", {"texts": 9}) == []
    (section,) = claims.validity(validity.validity([tmp_path], "likelihood", {"texts": 12}), "likelihood")
    assert section.parts == (Grid(("data", "concept: negative", "missing"), (("x", "0.900 [0.800, 1.000]", "0"),)),)
    path.write_text("{}")
    with pytest.raises(BenchError, match="is not a judge's validation"):
        validity.validity([tmp_path], "likelihood", {})


def test_every_table_of_readers_has_a_say_and_a_run_s_own_corrects_it() -> None:
    """A judge may rank where each sample of that model passed; the correction is of a run's own answers first."""

    def read(model: str, run: str, bias: float, **passed: bool) -> dict[str, Any]:
        e = {"bias": bias, "low": bias - 0.1, "high": bias + 0.1, "n": 9, "concepts": 9}
        return {"models": [model], "runs": [run], "gate": {"tasks": passed}, "surfaces": {"axbench": {"prompt": e}}}

    old, new = (
        read("small", "a", 0.2, overall=True, axbench=True, persona=False),
        read("small", "b", 0.5, overall=False, axbench=False),
    )
    other = read("large", "c", 0.0, overall=False, axbench=True)
    assert validity.may_rank([], "axbench", "small") is None
    assert validity.may_rank([old], "axbench", "small") is True
    assert validity.may_rank([old, other, new], "axbench", "small") is False
    assert validity.may_rank([old, new], "persona", "small") is False
    assert validity.may_rank([old, new], "new", "small") is False  # by the three axes together, of both
    assert validity.may_rank([old, other], "axbench", "large") is True
    assert validity.may_rank([old, other], "axbench", "unread") is True
    mean = Estimate(1.0, 0.9, 1.1, 12)

    def bias(run: str, model: str = "small", surface: str = "prompt") -> float | None:
        found = validity.corrected(mean, [old, new, other], "axbench", model, surface, run)
        return None if found is None else round(1.0 - found.mean, 6)

    assert [bias("a"), bias("b"), bias("z"), bias("c", "large")] == [0.2, 0.5, 0.2, 0.0]
    assert bias("a", "unread") is None
    assert bias("a", surface="weights") is None
    new["surfaces"] = {}  # a sample without that surface leaves it to the others
    assert bias("b") == 0.2


def echo(rated: Callable[[Item], Verdict]) -> None:
    """Registers the judge `echo`, independent and uncalibrated, which gives what `rated` says."""

    @registry.judge("echo")
    @dataclass
    class Echo(Judge):
        independent: ClassVar[bool] = True

        def fingerprint(self) -> Mapping[str, Any]:
            return {}

        def key(self, item: Item) -> Any:
            return item.axis, item.concept.id, item.instruction, item.text

        def rate(self, items: Sequence[Item]) -> Iterator[tuple[int, Verdict]]:
            yield from ((i, rated(item)) for i, item in enumerate(items))


@pytest.mark.slow
def test_ratings_that_went_unanswered_are_asked_for_again(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    asked: list[Item] = []

    def rated(item: Item) -> Verdict:
        asked.append(item)
        return Verdict(None, reason="timed out", transient=True) if len(asked) <= 2 else Verdict(1.0)

    echo(rated)
    first, second, third = (bench(results, "diffmean", "--judge", "echo", "--json") for _ in range(3))
    assert (first.exit_code, second.exit_code, third.exit_code) == (0, 0, 0), first.output
    assert "2 ratings went unanswered; the same command asks for them again" in first.stderr
    assert [json.loads(done.stdout)["rated"][0]["missing"] > 0 for done in (first, second, third)] == [
        True,
        False,
        False,
    ]
    assert "unanswered" not in second.stderr
    assert len(asked) == len({(item.axis, item.concept.id, item.instruction, item.text) for item in asked}) + 2


@pytest.mark.slow
@pytest.mark.parametrize("task", ["axbench-suppress", "axbench-attack"])
def test_an_answer_is_rated_on_the_plain_question_its_task_keeps(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was asked has the wish or the attack in it; the instruction axis is about the question before that."""
    asked: list[Item] = []

    def rated(item: Item) -> Verdict:
        asked.append(item)
        return Verdict(1.0)

    echo(rated)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BENCH_RESULTS", str(tmp_path / "results"))
    words = ["run", "-t", task, "-m", "prompt", "-n", "2", "--backend", "fake"]
    assert CliRunner().invoke(main, words).exit_code == 0
    done = bench(tmp_path / "results", "prompt", "--judge", "echo", "--json")
    assert done.exit_code == 0, done.output
    (run,) = load(tmp_path / "results")
    answered = {s["text"]: s["instruction"] for s in run.data["samples"]}
    rated = [item for item in asked if item.axis == "instruction"]
    assert rated
    assert all(item.instruction and item.instruction != answered[item.text] for item in rated)
    assert all(item.instruction.rstrip(".") in answered[item.text] for item in rated)


def test_a_wheel_brings_the_checked_tables_and_a_folder_s_own_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(__file__).parents[1]
    wheel = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert root / wheel["sources"]["results/judges"] == validity.SHIPPED / "judges"
    assert "results/judges" in wheel["only-include"]
    shipped = [t for t in validity.validations(root / "results") if t["judge"] == "ensemble"]
    table = shipped[0]
    asked = [tmp_path / "none"], "ensemble", table["judge_params"]
    assert validity.validity(*asked) == []  # a checkout has them among its results
    monkeypatch.setattr(validity, "SHIPPED", root / "results")
    assert validity.validity(*asked) == shipped
    own = tmp_path / "none" / "judges" / "mine.json"
    own.parent.mkdir(parents=True)
    own.write_text(json.dumps({**table, "data": "mine"}))
    assert [one["data"] for one in validity.validity(*asked)] == ["mine"]
