"""What a run of many rows may cost: named once, asked once, and first what is there soon."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.cli import run
from bench.cli.main import main
from bench.core import content
from bench.core.interfaces import Context, Method
from bench.core.protocol import Budget
from bench.core.registry import get
from bench.core.values import Example, Train
from bench.judges.likelihood import Likelihood
from bench.report.build import build
from bench.report.page.build import BUILT
from bench.results.runs import TRIALS
from bench.run import session
from bench.run.jobs import Job
from bench.run.plan import Options, Plan, make
from bench.run.session import execute


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def plan(methods: str, **given: Any) -> Plan:
    return make(Options((methods,), backend="fake", judge="likelihood", **given))


@pytest.mark.parametrize("strength", ["norm", "max-act"])
def test_training_texts_are_digested_as_often_whatever_is_asked_of_them(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strength: str
) -> None:
    """Per concept and method, and not per question: five times the coefficients digest no text more."""
    seen: list[int] = []
    fields, counted = content._fields, Counter[str]()

    def counting(kind: type) -> tuple[str, ...] | None:
        counted[kind.__name__] += 1
        return fields(kind)

    monkeypatch.setattr(content, "_fields", counting)
    for coefficients in ((0.1, 0.2), tuple(i / 20 for i in range(1, 11))):
        counted.clear()
        made = plan("diffmean", limit=2, strength=strength, coefficients=coefficients)
        execute(made, tmp_path / str(len(coefficients)))
        seen.append(counted[Example.__name__])
    assert seen[1] <= seen[0]


# The order in which methods are worked on


def training(self: Method, budget: Budget) -> tuple[int, int]:
    return 1, 1


@pytest.fixture
def mean_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake engine trains nothing: `mean` says that it does."""
    monkeypatch.setattr(get("method", "mean"), "training", training)


def made_of(jobs: Sequence[Job]) -> dict[str, Any]:
    """What runs hold, but for times, and what was made now."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            left_out = {"timings", "provenance", "fit_seconds", "generated_now"}
            return {key: timeless(each) for key, each in value.items() if key not in left_out}
        return [timeless(each) for each in value] if isinstance(value, list) else value

    found: dict[str, Any] = {}
    for job in jobs:
        assert job.path is not None
        found[job.spec.method] = timeless(json.loads(job.path.read_text())), (job.path.parent / TRIALS).read_text()
    return found


@pytest.mark.usefixtures("mean_trains")
def test_methods_without_training_come_first_and_no_result_depends_on_it(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, str]] = []
    stages: list[str] = []

    @contextmanager
    def progress(stage: str, total: int) -> Iterator[Callable[[int], None]]:
        done: list[int] = []
        yield done.append
        stages.append(stage)
        assert sum(done) == total

    def early(jobs: Sequence[Job]) -> None:
        seen.append({job.spec.method: job.status for job in jobs})
        assert all(job.path and job.path.is_file() for job in jobs if job.status == "complete")

    methods, results = "mean,none,diffmean,prompt", tmp_path / "results"
    waves = execute(plan(methods, limit=3), results, progress, early)
    assert seen == [{"mean": "todo", "none": "complete", "diffmean": "complete", "prompt": "complete"}]
    assert stages[:3] == ["calibrate the judge", "1 of 2, fit", "1 of 2, generate (select)"]
    assert stages[-1] == "2 of 2, judge (test)"
    assert not any(job.rows or job.tried or job.select or job.tested for job in waves)
    expected = made_of(waves)
    for size, count in ((10, 4), (10**9, 2)):
        monkeypatch.setattr(session, "TOGETHER", size)
        monkeypatch.setenv("BENCH_CACHE", str(tmp_path / str(size)))
        stages.clear()
        assert made_of(execute(plan(methods, limit=3), tmp_path / f"results {size}", progress)) == expected
        apart = "concepts 3 to 3 of 3, " if size == 10 else ""
        assert stages[-1] == f"{count} of {count}, {apart}judge (test)"
    monkeypatch.setattr(Likelihood, "whole", True, raising=False)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "whole"))
    stages.clear()
    assert made_of(execute(plan(methods, limit=3), tmp_path / "at once", progress)) == expected
    assert [stage for stage in stages if "fit" in stage] == ["fit"]


@pytest.mark.usefixtures("mean_trains", "cache")
def test_of_many_methods_what_a_table_rests_on_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []

    def early(jobs: Sequence[Job]) -> None:
        seen.append({job.spec.method for job in jobs if job.status == "complete"})

    monkeypatch.setattr(session, "SOON", 1)
    execute(plan("mean,actadd,caa,none,diffmean,prompt", limit=2), tmp_path / "results", early=early)
    assert seen == [{"none"}, {"none", "actadd", "caa", "diffmean", "prompt"}]


@pytest.mark.usefixtures("mean_trains", "cache")
def test_what_was_recorded_before_training_stays_when_that_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Method, ctx: Context, train: Train) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(get("method", "mean"), "fit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            execute(plan("mean,none,diffmean", limit=2), tmp_path / "results")
    seen: list[list[Job]] = []
    jobs = execute(plan("mean,none,diffmean", limit=2), tmp_path / "results", early=seen.append)
    assert seen == []  # nothing new to show
    assert [job.status for job in jobs] == ["complete", "cached", "cached"]


@pytest.mark.usefixtures("mean_trains", "cache")
def test_a_provisional_table_is_on_stderr_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--backend", "fake", "-n", "2", "--results", str(tmp_path / "results")]
    main([*words, "-m", "mean,none,diffmean"], standalone_mode=False)
    shown = capsys.readouterr()
    provisional = shown.err.index("provisional: 1 method still to come")
    assert "provisional: axbench" in shown.err[:provisional]
    assert "provisional" not in shown.out
    assert " mean " in shown.out
    so_far = shown.err.index("report so far")
    assert provisional < so_far < shown.err.index("report: ")
    assert "Provisional" not in (tmp_path / "reports" / "leaderboard.md").read_text("utf-8")


@pytest.mark.usefixtures("mean_trains", "cache")
def test_a_report_of_an_interrupted_run_waits_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Method, ctx: Context, train: Train) -> None:
        seen.append((tmp_path / "reports" / BUILT).read_text())
        raise KeyboardInterrupt

    seen: list[str] = []
    monkeypatch.setattr(get("method", "mean"), "fit", interrupted)
    words = ["run", "--backend", "fake", "-n", "2", "--results", str(tmp_path / "results"), "-m", "mean,none,diffmean"]
    assert main(words, standalone_mode=False) == 130
    assert '"live":true' in seen[0]
    assert (tmp_path / "reports" / BUILT).read_text() == seen[0].replace('"live":true', '"live":false')
    assert "**Provisional: 1 method is" in (tmp_path / "reports" / "leaderboard.md").read_text("utf-8")


@pytest.mark.usefixtures("mean_trains", "cache")
def test_a_provisional_report_that_fails_stops_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(results: Path, out: Path, to_come: int = 0) -> list[Path]:
        if to_come:
            raise ZeroDivisionError("no picture")
        return build(results, out)

    monkeypatch.setattr(run, "build", failing)
    words = ["run", "--backend", "fake", "-n", "2", "--results", str(tmp_path / "results"), "-m", "mean,none,diffmean"]
    main(words, standalone_mode=False)
    shown = capsys.readouterr()
    assert "no provisional report: ZeroDivisionError: no picture" in shown.err
    assert " mean " in shown.out
    assert (tmp_path / "reports" / "index.html").is_file()
