"""What a setting does to plain answers: exact where nothing is changed, kept by the run, shown beside the score."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bench import results
from bench.backends import tiny
from bench.cli.main import main
from bench.core.errors import UsageError
from bench.core.protocol import protocol
from bench.core.values import Divergence, Verdict
from bench.results import damage as kept
from bench.run.damage import LIMITS, Damage, at_most, summed
from bench.run.plan import Options, make
from bench.run.session import execute
from bench.run.trials import Trial

RULES = protocol("quick")
MILD, MIDDLE, STRONG = (Trial(0, c) for c in (0.1, 0.2, 0.4))
DAMAGE = {MILD: Damage(0.05, 0.01), MIDDLE: Damage(0.2, 0.1), STRONG: Damage(2.0, 1.0)}


def rated(*scores: float | None) -> list[dict[str, Verdict]]:
    return [{"concept": Verdict(score), "overall": Verdict(score)} for score in scores]


def bench(*words: str) -> Result:
    found = CliRunner().invoke(main, list(words))
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found


def test_a_mean_is_of_tokens_not_of_answers() -> None:
    assert summed([Divergence(1, 1.0, -3.0, -2.0), Divergence(3, 1.0, -3.0, -4.0)]) == Damage(0.5, 0.0)


def test_no_question_chooses_the_setting_it_is_answered_under() -> None:
    # What is best for the one question is chosen by the other, where it is worst.
    tried = {MILD: rated(2.0, 0.0), MIDDLE: rated(0.0, 2.0)}
    assert at_most(tried, "ab", DAMAGE, 1.0, RULES) == 0.0
    tried = {MILD: rated(1.0, 1.0, 1.0), MIDDLE: rated(0.0, 2.0, 1.8), STRONG: rated(2.0, 2.0, 2.0)}
    # Without the first question the middle one is best; without another the mild one, which is so much or stands first.
    assert at_most(tried, "abc", DAMAGE, 1.0, RULES) == pytest.approx((0.0 + 1.0 + 1.0) / 3, abs=1e-4)
    assert at_most(tried, "abc", DAMAGE, 9.0, RULES) == 2.0
    assert at_most(tried, "abc", DAMAGE, 0.1, RULES) == 1.0
    # Rows of one question go together: the two that like the middle one cannot choose it for each other.
    tried = {MILD: rated(1.0, 1.0, 1.0), MIDDLE: rated(2.0, 2.0, 0.0)}
    assert at_most(tried, "aab", DAMAGE, 1.0, RULES) == pytest.approx((1.0 + 1.0 + 0.0) / 3, abs=1e-4)


def test_what_is_not_known_is_not_made_up() -> None:
    assert at_most({STRONG: rated(2.0, 2.0)}, "ab", DAMAGE, 1.0, RULES) is None  # nothing so mild
    assert at_most({MILD: rated(2.0)}, "a", DAMAGE, 1.0, RULES) is None  # one question cannot choose for itself
    assert at_most({MILD: rated(2.0, 1.0)}, "ab", {}, 1.0, RULES) is None  # not read
    assert at_most({MILD: rated(None, None)}, "ab", DAMAGE, 1.0, RULES) is None
    assert at_most({MILD: rated(2.0, None, 1.0)}, "abc", DAMAGE, 1.0, RULES) == 1.5
    assert at_most({MILD: rated(2.0, 1.0)}, "aa", DAMAGE, 1.0, RULES) is None  # of one question twice


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a tiny model that read four plain answers under each setting."""
    root = tmp_path_factory.mktemp("damage")
    tiny.build(root / "model")
    options = Options(
        ("none", "random", "prompt", "prompt-best-of-n"), model=str(root / "model"), dtype="float32", limit=2, damage=4,
        judge="likelihood",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_CACHE", str(root / "cache"))
        jobs = execute(make(options), root / "results")
    assert [job.reason for job in jobs] == [""] * 4
    return root / "results"


@pytest.mark.slow
def test_a_run_keeps_what_each_setting_did_to_plain_answers(folder: Path) -> None:
    runs = {run.method: run for run in results.load(folder)}
    for concept in runs["none"].data["concepts"].values():
        assert [(one["kl"], one["surprise"]) for one in concept["damage"]] == [(0.0, 0.0)]
    for concept in runs["random"].data["concepts"].values():
        kls = [one["kl"] for one in concept["damage"]]
        assert [one["coefficient"] for one in concept["damage"]] == list(RULES.coefficients)
        assert 0 < kls[0] < kls[-1]  # a longer push moves more
    assert all(kl > 0 for kl in kept.picked(runs["prompt"], "kl").values())
    assert kept.picked(runs["random"], "kl").keys() == runs["random"].data["concepts"].keys()
    assert runs["prompt"].data["neutral"]["texts"] == 4
    assert not any(
        "damage" in found for found in runs["prompt-best-of-n"].data["concepts"].values()
    )  # keeps one of several


@pytest.mark.slow
def test_who_may_do_no_more_does_nothing(folder: Path) -> None:
    runs = {run.method: run for run in results.load(folder)}
    bare, other = runs["none"], runs["random"]
    limit = f"{LIMITS[0]:g}"
    for own in other.data["concepts"].values():
        for one in own["damage"]:
            one["kl"] += 1
        own["at_most"] = {**own["at_most"], limit: None}
    assert kept.at_most(other, limit, bare) == kept.at_most(bare, limit, None)
    assert kept.at_most(other, limit, None) == {}  # not known, and not left out
    assert (kept.mild(other, limit), kept.mild(bare, limit)) == (0.0, 1.0)
    kls = [kl for kl, _ in kept.curve(other)]
    assert kls == sorted(kls)
    assert len(kls) == len(RULES.coefficients)


@pytest.mark.slow
def test_the_report_shows_damage_and_scores_at_equal_damage(folder: Path, tmp_path: Path) -> None:
    assert bench("report", "--results", str(folder), "--out", str(tmp_path / "out")).exit_code == 0
    text = (tmp_path / "out" / "leaderboard.md").read_text("utf-8")
    assert "(of the first fit) does to 4 plain answers" in text
    assert "With no more than so much damage" in text
    shown = bench("show", "random", "--results", str(folder)).output
    assert "KL: 0." in shown
    assert "does to 4 plain answers" in " ".join(shown.split())
    assert any("damage" in path.name for path in (tmp_path / "out").glob("*.csv"))


@pytest.mark.slow
def test_a_run_that_reads_no_plain_answers_says_nothing_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    words = ("run", "-m", "none,diffmean", "--backend", "fake", "--limit", "2", "--results", str(tmp_path / "results"))
    assert bench(*words).exit_code == 0
    record = json.loads(next((tmp_path / "results").rglob("run.json")).read_text())
    assert "neutral" not in record
    assert not any("damage" in concept for concept in record["concepts"].values())
    assert "plain answers" not in (tmp_path / "reports" / "leaderboard.md").read_text("utf-8")
    again = bench(*words, "--damage", "3", "--dry-run")
    assert "to do" in again.stderr  # what was not read is
    assert "3 plain answers are read under each setting" in again.stderr


@pytest.mark.slow
def test_a_done_run_is_done_when_its_plain_answers_were_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    options = {"methods": ("none", "prompt-best-of-n"), "backend": "fake", "limit": 2, "judge": "likelihood"}

    def states(damage: int) -> list[str]:
        return [job.status for job in execute(make(Options(**options, damage=damage)), tmp_path / "results")]  # type: ignore[arg-type]

    assert states(0) == ["complete", "complete"]
    assert states(2) == ["complete", "complete"]
    assert states(2) == states(0) == ["cached", "cached"]
    assert states(3) == ["complete", "complete"]


@pytest.mark.slow
def test_what_cannot_be_read_costs_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench.backends.fake.backend import FakeBackend

    def broken(self: FakeBackend, requests: object) -> object:
        raise ValueError("no logits")

    monkeypatch.setattr(FakeBackend, "diverge", broken)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    options = Options(("none", "diffmean"), backend="fake", limit=2, damage=2, judge="likelihood")
    jobs = execute(make(options), tmp_path / "results")
    assert [job.status for job in jobs] == ["complete", "complete"]
    assert "what diffmean does to plain answers is not known: ValueError: no logits" in capsys.readouterr().err


def test_the_preset_says_how_many_and_a_user_may(axbench_folder: Path) -> None:
    def count(**given: object) -> int:
        return len(make(Options(("none",), backend="fake", **given)).neutral_texts)  # type: ignore[arg-type]

    assert (count(), count(preset="standard"), count(preset="paper")) == (0, 8, 16)
    assert (count(damage=5), count(preset="paper", damage=0)) == (5, 0)
    detect = {"methods": ("diffmean",), "task": "axbench-detect", "data": str(axbench_folder)}
    assert make(Options(backend="fake", preset="paper", **detect)).neutral_texts == []
    with pytest.raises(UsageError, match="damage = 1000: from 0 to 30"):
        make(Options(("none",), backend="fake", damage=1000))
