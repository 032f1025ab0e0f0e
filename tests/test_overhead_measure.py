"""Costs measured on a tiny model, kept beside the runs, and shown by the command, the comparison and the report."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from bench import stored
from bench.backends import tiny
from bench.backends.hf.backend import HFBackend
from bench.backends.models import dtype
from bench.cli.main import main
from bench.core.errors import BenchError
from bench.core.interfaces import Context, Fitted
from bench.core.steering import Steering
from bench.core.values import Request, Sample, Sampling, Train
from bench.measure.meters import peak, tokens_through
from bench.measure.overhead import Settings, measure
from bench.overhead import exact
from bench.overhead.record import Spread
from bench.report.build import build
from bench.report.text.costs import repaid
from bench.results import sidecars
from bench.results.runs import Run, load
from bench.results.tables import tables
from bench.run.plan import Options, make
from bench.run.session import execute

METHODS = ("none", "caa", "prompt")
SETTINGS = Settings(tokens=6, batch=4, repeats=3, concepts=2)


def bench(*words: str, expect: int = 0) -> Result:
    done = CliRunner().invoke(main, list(words))
    assert done.exit_code == expect, done.output
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of three methods on a tiny model, with their costs measured by the command itself."""
    root = tmp_path_factory.mktemp("overhead")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_CACHE", str(root / "cache"))
        tiny.build(root / "model")
        plan = make(Options(methods=METHODS, model=str(root / "model"), limit=2, dtype="float32"))
        jobs = execute(plan, root / "results")
        assert [job.status for job in jobs] == ["complete"] * 3
        shutil.rmtree(root / "cache")  # what is missing is fitted again
        words = [str(path.parent) for path in sorted((root / "results").glob("*/*/*/run.json"))]
        amount = ["--tokens", "6", "--batch", "4", "--repeats", "3", "--concepts", "2"]
        bench("overhead", *words, "--measure", *amount, "--results", str(root / "results"))
        yield root / "results"


@pytest.fixture(scope="module")
def runs(folder: Path) -> dict[str, Run]:
    return {run.method: run for run in load(folder)}


@pytest.fixture(scope="module")
def costs(runs: dict[str, Run]) -> dict[str, sidecars.Overhead]:
    return {name: sidecars.required(run) for name, run in runs.items()}


@pytest.mark.slow
def test_both_sides_write_equally_much(costs: dict[str, sidecars.Overhead]) -> None:
    for one in costs.values():
        measured = one.data["measured"]
        assert measured["tokens"] == {"unsteered": [6] * 4, "steered": [6] * 4}
        assert [len(measured["seconds"][side]) for side in ("unsteered", "steered")] == [3, 3]


@pytest.mark.slow
def test_ratios_are_those_of_the_seconds(costs: dict[str, sidecars.Overhead]) -> None:
    for one in costs.values():
        seconds = one.data["measured"]["seconds"]
        pairs = list(zip(seconds["steered"], seconds["unsteered"], strict=True))
        assert one.ratio("time") == Spread.of([a / b for a, b in pairs])
        for state in ("cold", "warm"):
            sides = [seconds["first_token"][side][state] for side in ("steered", "unsteered")]
            assert one.ratio(f"first_token_{state}") == Spread.of([a / b for a, b in zip(*sides, strict=True)])


@pytest.mark.slow
def test_exact_costs_come_from_the_steering(costs: dict[str, sidecars.Overhead]) -> None:
    arch = costs["caa"].arch
    assert (arch.hidden, arch.layers, arch.kv_heads) == (32, 4, 2)
    assert costs["none"].extra == exact.Extra()
    assert costs["none"].flops(512) == costs["none"].request(64, 32) == 0
    pushed = exact.vector(arch)
    once = {"read": 0, "once": pushed.read}  # of the prompt, its last token alone
    assert costs["caa"].extra == dataclasses.replace(pushed, **once)
    assert costs["caa"].flops(512) == pytest.approx(exact.flops_percent(arch, pushed, 512))
    words = costs["prompt"].extra
    assert words.prompt_tokens > 10  # a line of text, a byte a token
    assert (words.decode, words.elements) == (0, 0)
    assert costs["prompt"].kv(512) == pytest.approx(100 * words.prompt_tokens / 512, rel=0.02)
    assert costs["prompt"].data["exact"]["request_ratio"] > costs["caa"].data["exact"]["request_ratio"] > 1


@pytest.mark.slow
def test_a_fit_costs_the_tokens_it_reads(costs: dict[str, sidecars.Overhead]) -> None:
    assert costs["none"].data["fit"]["tokens"] == costs["prompt"].data["fit"]["tokens"] == 0
    read = costs["caa"].data["fit"]["tokens"]
    assert read > 24 * 2 * 10  # two readings of each of the budget's questions
    assert costs["caa"].data["fit"]["seconds"] > costs["none"].data["fit"]["seconds"]
    for one in costs.values():
        assert one.data["fit"]["in_requests"] >= 0


@pytest.mark.slow
def test_a_local_judge_costs_tokens_and_no_money(costs: dict[str, sidecars.Overhead]) -> None:
    for one in costs.values():
        assert one.data["judge"]["tokens_per_answer"] > 6
        assert one.data["judge"]["cost"] == 0
        assert one.data["judge"]["answers"] > 0


@pytest.mark.slow
def test_the_engine_is_named(costs: dict[str, sidecars.Overhead]) -> None:
    engine = costs["none"].data["engine"]
    assert (engine["backend"], engine["dtype"]) == ("hf", dtype("auto"))  # bf16 where the processor has it
    assert engine["accelerator"] == torch.cuda.is_available()
    assert engine["device"]
    assert engine["provenance"]["versions"]["torch"]


def test_a_spread_larger_than_the_overhead_is_not_distinguishable() -> None:
    assert not Spread.of([0.9, 1.0, 1.1, 1.02]).distinguishable()
    assert Spread.of([0.9, 1.0, 1.1, 1.02]).text().startswith("not distinguishable (")
    assert Spread.of([1.5, 1.51, 1.49, 1.5]).text() == "+50.0 ± 0.2 %"
    assert Spread.of([0.8, 0.8, 0.8]).distinguishable()
    assert not Spread.of([0.8, 0.8, 0.8]).distinguishable(floor=0.3)
    assert Spread.of([1.0, 1.0, 1.4, 1.4]) == Spread(1.2, 0.4, 4)
    with pytest.raises(BenchError, match="two repeats"):
        Spread.of([1.0])


@pytest.mark.slow
def test_the_command_shows_what_is_kept(folder: Path, runs: dict[str, Run]) -> None:
    rows = json.loads(bench("overhead", "prompt", "caa", "--results", str(folder), "--json").stdout)
    assert [row["method"] for row in rows] == ["prompt", "caa"]
    assert rows[0]["flops_percent"] > rows[1]["flops_percent"] > 0
    assert set(rows[0]["time"]) == {"median", "spread", "n", "distinguishable"}
    text = bench("overhead", "prompt", "--results", str(folder)).stdout
    assert "tokens a second" not in text or torch.cuda.is_available()  # a processor shows ratios alone
    assert "only ratios" in text or torch.cuda.is_available()


@pytest.mark.slow
def test_comparing_shows_the_costs(folder: Path) -> None:
    found = json.loads(bench("compare", "prompt", "caa", "--results", str(folder), "--json").stdout)
    assert [row["method"] for row in found["cost"]] == ["prompt", "caa"]
    assert "first token, cold" in bench("compare", "prompt", "caa", "--results", str(folder)).stdout


@pytest.mark.slow
def test_the_report_has_the_costs_and_the_same_bytes_twice(folder: Path, tmp_path: Path) -> None:
    first, second = (build(folder, tmp_path / name) for name in ("one", "two"))
    assert [p.name for p in first] == [p.name for p in second]
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes()
    kinds = {p.name.rsplit("-", 1)[1] for p in first if "-" in p.name}
    assert {"pareto.png", "pareto.csv", "overhead.png", "overhead.csv"} <= kinds
    page = (tmp_path / "one" / "leaderboard.md").read_text("utf-8")
    section = page.split("What each method costs:")[1]
    assert all(f"| {name} |" in section for name in METHODS)
    assert "repaid against prompt" in section
    rows = next(p for p in first if p.name.endswith("pareto.csv")).read_text("utf-8").splitlines()
    assert len(rows) == 1 + len(METHODS)
    best = [row.split(",") for row in rows[1:]]
    head = rows[0].split(",")
    cheapest = next(row for row in best if row[0] == "none")
    assert cheapest[head.index("token_flops_percent")] == "0"
    assert cheapest[head.index("best_by_token")] == "yes"  # nothing is cheaper
    lines = next(p for p in first if p.name.endswith("overhead.csv")).read_text("utf-8").splitlines()
    assert {"prompt, 50 tokens", "prompt, 100 tokens", "prompt, 400 tokens"} <= {
        line.split('"')[1] for line in lines[1:] if '"' in line
    }


@pytest.mark.slow
def test_a_report_without_costs_has_no_table_of_them(folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "results"
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns(sidecars.NAME))
    written = build(bare, tmp_path / "reports")
    assert "What each method costs" not in (tmp_path / "reports" / "leaderboard.md").read_text("utf-8")
    assert not [p for p in written if "pareto" in p.name]
    done = bench("overhead", "prompt", "--results", str(bare), expect=2)
    assert "add --measure" in done.stderr


@pytest.mark.slow
def test_a_damaged_or_foreign_record_is_an_error(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "results"
    shutil.copytree(folder, own)
    one, two = (run.path.parent for run in load(own)[:2])
    shutil.copy(one / sidecars.NAME, two / sidecars.NAME)
    with pytest.raises(BenchError, match="is not a record of"):
        [sidecars.load(run) for run in load(own)]
    (two / sidecars.NAME).write_text("{")
    with pytest.raises(BenchError, match="is not a record of"):
        build(own, tmp_path / "reports")


def fake(costs: dict[str, sidecars.Overhead], name: str, time: float, fit: float) -> sidecars.Overhead:
    data = dict(costs[name].data)
    data["measured"] = {**data["measured"], "time": {"median": time, "spread": 0.01, "n": 3}}
    data["fit"] = {**data["fit"], "in_requests": fit}
    return sidecars.Overhead(data)


@pytest.mark.slow
def test_a_fit_is_repaid_by_faster_answers(costs: dict[str, sidecars.Overhead]) -> None:
    def against(time: float) -> str:
        found = {"caa": fake(costs, "caa", time, 12.0), "prompt": fake(costs, "prompt", 1.5, 2.0)}
        return repaid(found, "caa", "prompt")

    assert against(1.1) == "25 requests"  # (12 - 2) / (1.5 - 1.1)
    assert against(1.499) == "not distinguishable"
    assert against(1.9) == "never"


# The meters


def test_tokens_are_counted_without_padding(lm: HFBackend) -> None:
    texts = ["a short one", "and one that is a good deal longer than the other"]
    lengths = [len(lm.encode(text)) for text in texts]
    with tokens_through(lm) as count:
        lm.activations(texts, [1])
        assert count() == sum(lengths)
        found = dict(lm.generate([Request(text, sampling=Sampling(5, temperature=0)) for text in texts]))
        longest = max(c.tokens for c in found.values())
        assert count() == 2 * sum(lengths) + 2 * (longest - 1)  # the last token written is not read
    before = count()
    lm.activations(texts, [1])
    assert count() == before


def test_a_peak_is_what_a_call_takes() -> None:
    small = peak(lambda: bytearray(1))
    large = peak(lambda: bytearray(200 * 2**20))
    if small is None or large is None or torch.cuda.is_available():
        pytest.skip("the high-water mark of a process cannot be reset here")
    assert 190 * 2**20 < large - small < 260 * 2**20


def test_endless_answers_reach_their_length(lm: HFBackend) -> None:
    """Some seed ends early; endless, it does not, and the text before the end stays."""
    requests = [Request("x", sampling=Sampling(40, top_k=0, temperature=3.0), seed=seed) for seed in range(24)]
    ended = dict(lm.generate(requests))
    assert any(c.finish == "stop" for c in ended.values())
    lm.endless = True
    try:
        found = dict(lm.generate(requests))
    finally:
        lm.endless = False
    assert {c.tokens for c in found.values()} == {40}
    whole = {i: c.text.rstrip("\N{REPLACEMENT CHARACTER}") for i, c in ended.items()}  # a character cut in its bytes
    assert all(found[i].text.startswith(text) for i, text in whole.items())


# Methods that answer several times, or bind to each prompt


@stored
@dataclass(frozen=True)
class Thrice:
    n: int = 3

    def pick(self, ctx: Context, sample: Sample, answers: Sequence[str]) -> int:
        assert len(answers) == 3
        return 1


@pytest.mark.slow
def test_drawing_several_answers_multiplies_the_cost(
    runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from methods.none import Bare

    def fit(self: Any, ctx: Context, train: Train) -> Sequence[Fitted]:
        return [Fitted(Steering(), chooser=Thrice())]  # each answer is drawn three times, or `pick` says so

    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(Bare, "fit", fit)
    found = measure(runs["none"], SETTINGS)
    assert found["exact"]["draws"] == 3
    assert found["exact"]["request_ratio"] == 3
    one = sidecars.Overhead({**found, "method": "none"})
    assert one.flops(512) == pytest.approx(200)


@pytest.mark.slow
def test_binding_to_a_prompt_is_counted(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    model = str(load(folder)[0].data["asked"]["model"])
    made = make(Options(methods=("repe-contrast",), model=model, limit=1, dtype="float32"))
    jobs = execute(made, tmp_path / "results")
    assert jobs[0].status == "complete"
    run = load(tmp_path / "results")[0]
    found = measure(run, Settings(tokens=4, batch=2, repeats=2, concepts=1))
    extra = exact.Extra(**found["exact"]["extra"])
    arch = sidecars.Overhead({**found, "method": "repe-contrast"}).arch
    assert extra.once > exact.prefill_flops(arch, 100)  # it reads the prompt twice more


@pytest.mark.slow
def test_a_fit_s_own_texts_end_where_they_end(
    runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What a fit writes is kept under the run's key: it must be what the run itself would get."""
    from methods.none import Bare

    seen = []

    def fit(self: Any, ctx: Context, train: Train) -> Sequence[Fitted]:
        seen.append(ctx.lm.endless)  # type: ignore[attr-defined]
        return [Fitted(Steering())]

    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(Bare, "fit", fit)
    measure(runs["none"], Settings(tokens=3, batch=2, repeats=2, concepts=2))
    assert seen == [False, False]


@pytest.mark.slow
def test_a_method_that_fails_does_not_end_the_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from methods.none import Bare

    def fit(self: Any, ctx: Context, train: Train) -> Sequence[Fitted]:
        raise ValueError("broken")

    own = tmp_path / "results"
    shutil.copytree(folder, own, ignore=shutil.ignore_patterns(sidecars.NAME))
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(Bare, "fit", fit)
    amount = ["--tokens", "3", "--batch", "2", "--repeats", "2", "--concepts", "1"]
    done = bench("overhead", "none", "prompt", "--results", str(own), "--measure", *amount, "--json", expect=1)
    assert [row["method"] for row in json.loads(done.stdout)] == ["prompt"]
    assert "ValueError: broken" in done.stderr


@pytest.mark.slow
def test_detection_runs_have_nothing_to_measure() -> None:
    root = Path(__file__).resolve().parents[1] / "results"
    run = next(run for run in load(root) if not run.data["spec"]["judge"])
    with pytest.raises(BenchError, match="no steering"):
        measure(run, SETTINGS)
    assert all(sidecars.load(row.run) is None for table in tables([run]) for row in table.rows)


def test_runs_of_a_multiple_choice_say_why_they_are_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    rows = "question,matching,not_matching\n" + "".join(f"Question {i}?,Yes {i}.,No {i}.\n" for i in range(12))
    for name in ("train", "test"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{name}.csv").write_text(rows.replace("Question", f"{name} question"), "utf-8")
    (job,) = execute(make(Options(("none",), "behaviour", backend="fake", data=str(tmp_path / "data"))), tmp_path / "r")
    assert job.status == "complete"
    (run,) = load(tmp_path / "r")
    with pytest.raises(BenchError, match="has its options scored"):
        measure(run, SETTINGS)
