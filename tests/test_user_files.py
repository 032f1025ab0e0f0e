"""What a user has stays: commands write over and delete what bench made, and name what it did not."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bench.cli.main import ended_by_signals, main, told
from bench.core.definitions import code_digest
from bench.core.errors import BenchError, UsageError
from bench.core.paths import FILES, KINDS, TAG, cache_root, mark_cache, scratch
from bench.core.registry import get
from bench.core.store import write_json
from bench.results.last import last, remember
from bench.run import speed


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BENCH_RESULTS", str(tmp_path / "results"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def bench(*words: str, expect: int = 0) -> Result:
    done = CliRunner().invoke(main, list(words))
    assert done.exit_code == expect, done.output
    assert "Traceback" not in done.output
    return done


def made(root: Path, *kinds: str) -> Path:
    """A cache with a file in each folder."""
    for kind in kinds:
        (root / kind / "in").mkdir(parents=True)
        (root / kind / "in" / "file.jsonl").write_text("x")
    return root


# The cache


def test_clearing_takes_what_can_be_made_anew_and_no_result(home: Path) -> None:
    mark_cache()
    made(home / "cache", "rows", "fits", "own")
    made(scratch().parent, "results")
    (home / "cache" / "rates.json").write_text("{}")
    done = bench("cache", "clear", "--yes")
    assert [line.split()[0] for line in done.stderr.splitlines()[1:]] == ["fits", "rows", "total"]
    assert sorted(os.listdir(home / "cache")) == [TAG, "own", "rates.json"]
    assert (scratch() / "in" / "file.jsonl").is_file()
    assert "'scratch' is not one of" in " ".join(bench("cache", "clear", "scratch", "--yes", expect=2).stderr.split())
    assert "nothing to clear" in bench("cache", "clear", "--yes").stderr


def test_results_in_an_older_cache_move_out_of_it_once(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made(home / "cache", "scratch/results", "scratch/reports", "rows")
    (home / "data").mkdir()
    monkeypatch.setenv("BENCH_DATA", str(home / "data"))
    assert scratch() == home / "data" / "results"
    assert f"results are now in {home / 'data'} (were in {home / 'cache' / 'scratch'})" in capsys.readouterr().err
    assert sorted(os.listdir(home / "data")) == ["reports", "results"]
    assert (home / "data" / "results" / "in" / "file.jsonl").is_file()
    assert os.listdir(home / "cache" / "scratch") == []
    made(home / "cache", "scratch/results/of an older version")  # nothing is put over anything
    assert scratch() == home / "data" / "results"
    assert capsys.readouterr().err == ""
    assert (home / "cache" / "scratch" / "results" / "of an older version").is_dir()


def test_the_last_run_is_found_where_an_older_cache_s_results_moved_to(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(home / "cache", "scratch/results")
    (home / "data").mkdir()
    monkeypatch.setenv("BENCH_DATA", str(home / "data"))
    remember(home / "cache" / "scratch" / "results", ["abc"])
    for _ in range(2):
        found = last()
        assert found is not None
        assert found.root == home / "data" / "results"
        assert found.groups == ("abc",)


def test_a_kind_that_is_named_goes_alone(home: Path) -> None:
    mark_cache()
    made(home / "cache", "rows", "fits")
    bench("cache", "clear", "rows", "--yes")
    assert sorted(os.listdir(home / "cache")) == [TAG, "fits"]


@pytest.mark.parametrize("foreign", ["thesis.tex", ""])
def test_a_folder_that_bench_did_not_make_is_not_cleared(home: Path, foreign: str) -> None:
    made(home / "cache", "models", "logs")
    if foreign:
        made(home / "cache", "rows/generations")  # bench has been there too
        (home / "cache" / foreign).touch()
        mark_cache()
    said = bench("cache", "clear", "--yes", expect=2).stderr
    assert "is not a cache that bench made" in said
    assert foreign in said
    assert (home / "cache" / "models" / "in" / "file.jsonl").is_file()


def test_a_cache_of_a_version_without_the_mark_is_cleared(home: Path) -> None:
    made(home / "cache", "rows/generations", "checksums")
    bench("cache", "clear", "--yes")
    assert os.listdir(home / "cache") == []


def test_what_cannot_be_deleted_is_named(home: Path) -> None:
    mark_cache()
    made(home / "elsewhere", "rows")
    (home / "cache" / "rows").symlink_to(home / "elsewhere" / "rows")
    done = bench("cache", "clear", "--yes", expect=1)
    assert done.stdout == "not all is cleared\n"
    assert f"not deleted: {home / 'cache' / 'rows'} is a link" in done.stderr
    assert (home / "elsewhere" / "rows" / "in" / "file.jsonl").is_file()


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_variable_names_no_folder(home: Path, monkeypatch: pytest.MonkeyPatch, empty: str) -> None:
    monkeypatch.setenv("BENCH_CACHE", empty)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "user"))
    monkeypatch.setenv("BENCH_RESULTS", "")
    assert cache_root() == home / "user" / "steer-or-prompt"
    assert "no runs" in bench("report", "--scratch", expect=2).stderr


@pytest.mark.parametrize("words", [["cache", "path"], ["cache", "clear", "--yes"], ["list", "runs"]])
def test_a_home_folder_of_nobody_is_one_line(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.setenv("BENCH_CACHE", "~nosuchuser/x")
    assert bench(*words, expect=2).stderr == "bench: ~nosuchuser/x: there is no such home folder\n"


def test_a_home_folder_of_nobody_is_one_line_in_options(home: Path) -> None:
    for words in (["data", "check", "~nosuchuser/x"], ["run", "--model", "~nosuchuser/x", "--dry-run"]):
        said = bench(*words, expect=2).stderr
        assert said.startswith("bench: ")
        assert "~nosuchuser/x" in said
        assert len(said.splitlines()) == 1


@pytest.mark.parametrize("text", ["{", "[]", '{"generate": "fast"}', '{"generate": NaN}', "\x00", '{"generate": -1}'])
def test_damaged_rates_are_none(home: Path, text: str) -> None:
    (home / "cache").mkdir()
    (home / "cache" / "rates.json").write_text(text)
    assert speed.rates() == speed.RATES


# Files that a user names


def test_a_report_writes_over_no_file_of_the_user(home: Path) -> None:
    bench("run", "--backend", "fake", "-m", "none", "-n", "1")
    for name in ("index.html", "leaderboard.md", "leaderboard.csv", "leaderboard.json"):
        own = home / name.replace(".", "-") / name
        write_json(own, "my own")
        for words in (["--out", str(own.parent)], ["--publish", str(own.parent)]):
            assert f"{own} is there and was not made by bench report" in bench("report", *words, expect=2).stderr
        assert os.listdir(own.parent) == [name]
    bench("report", "--out", str(home / "index-html"), "--force")
    bench("report", "--out", str(home / "index-html"), "--publish", str(home / "site"))
    bench("report", "--out", str(home / "index-html"), "--publish", str(home / "site"))
    (home / "reports" / "leaderboard.md").write_text("my own")
    done = bench("run", "--backend", "fake", "-m", "none", "-n", "1")  # the run is there; its report is not the point
    assert "no report: " in done.stderr
    assert (home / "reports" / "leaderboard.md").read_text() == "my own"


def test_results_that_lie_together_have_a_report_each(home: Path) -> None:
    bench("run", "--backend", "fake", "-m", "none", "-n", "1")
    first = (home / "reports" / "leaderboard.json").read_bytes()
    bench("run", "--backend", "fake", "-m", "none,prompt", "-n", "1", "--results", str(home / "again"))
    assert (home / "reports" / "leaderboard.json").read_bytes() == first
    assert b"prompt" in (home / "again-reports" / "leaderboard.md").read_bytes()
    done = bench("report", "--results", str(home / "again"))
    assert f"2 runs in {home / 'again'}" in " ".join(done.stderr.split())
    assert str(home / "again-reports" / "index.html") in done.stdout


def test_a_figure_is_written_over_an_earlier_one_alone(home: Path) -> None:
    words = ("overhead", "--model", "llama-2-7b", "--figure", "fig")
    (home / "fig.svg").write_text("drawn by hand")
    assert "fig.svg is there and holds something else" in bench(*words, expect=2).stderr
    assert sorted(path.name for path in home.glob("fig*")) == ["fig.svg"]
    bench(*words, "--force")
    bench(*words, "--rank", "16")
    (home / "fig.csv").write_text("mine")
    bench(*words, expect=2)
    assert (home / "fig.csv").read_text() == "mine"


def test_a_sample_is_not_drawn_over_ratings_or_their_key(home: Path) -> None:
    bench("run", "--backend", "fake", "-m", "none", "-n", "1")
    for name in ("ratings.csv", "ratings.key.csv"):
        (home / name).write_text("mine")
        assert f"{name} exists" in bench("judge", "sample", "none", "--out", "ratings.csv", expect=2).stderr
        (home / name).unlink()


def test_a_failed_write_leaves_the_old_run_whole(home: Path) -> None:
    """A limit on a file's size stands for a full disk: the answers would still go, run.json does not."""
    resource = pytest.importorskip("resource")
    words = ("run", "--backend", "fake", "-m", "none,prompt", "-n", "2")
    bench(*words)
    folder = next((home / "results").glob("*/*/prompt-*"))
    (folder / "run.json").write_text("{")  # damaged: it is made again, of the rows
    trials = (folder / "trials.jsonl").read_bytes()
    (folder / "trials.jsonl").write_bytes(trials + b"\n")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(trials) + 10, before[1]))
        said = bench(*words, expect=1).stderr.splitlines()[-1]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert said.startswith("bench: cannot write prompt (File too large: ")
    assert sorted(os.listdir(folder)) == ["run.json", "trials.jsonl"]
    assert (folder / "trials.jsonl").read_bytes() == trials + b"\n"
    bench(*words)
    assert (folder / "trials.jsonl").read_bytes() == trials


# Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_a_library_turns_into_its_own_error_is_one_line(number: signal.Signals) -> None:
    def interrupted() -> None:
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        except KeyboardInterrupt:
            raise ImportError("Could not import this") from None

    before = signal.signal(number, signal.default_int_handler)  # a shell's background job inherits it ignored
    try:
        with ended_by_signals() as came:
            with pytest.raises(ImportError) as error:
                interrupted()
            line, code = told(error.value, came) or ("", 0)
    finally:
        signal.signal(number, before)
    assert code == 128 + number
    assert line.endswith("; the same command resumes")
    assert told(error.value, []) is None  # without a signal it is a mistake, and shown as one


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_signals() as came:
            os.kill(os.getpid(), signal.SIGHUP)
        assert came == []
    finally:
        signal.signal(signal.SIGHUP, before)


def test_errors_have_their_line_and_code() -> None:
    assert told(BenchError("x"), []) == ("x", 1)
    assert told(UsageError("x"), []) == ("x", 2)
    assert told(OSError(28, "No space left on device", "/full"), []) == (
        "No space left on device (/full); nothing half-written",
        1,
    )


def test_every_folder_of_the_cache_is_one_that_clearing_knows() -> None:
    root = Path(__file__).resolve().parents[1] / "bench"
    texts = [path.read_text("utf-8") for path in root.rglob("*.py")]
    named = {name for text in texts for name in re.findall(r'cache_root\(\) / "([^"]+)"', text)}
    assert named >= {"models", "rows", "fits"}
    assert named <= {*KINDS, *FILES}


LISTED = ["-m", "steer_or_prompt", "list", "tasks", "--json"]
PLUGIN = """from dataclasses import dataclass
from bench import task
from tasks.axbench import AxBench

@task("mine")
@dataclass(frozen=True)
class Mine(AxBench):
    pass
"""


@pytest.mark.parametrize("theirs", ["tasks.py", "methods.py", "tasks/__init__.py", "methods/__init__.py", "bench.py"])
def test_what_the_user_has_under_the_name_of_a_shipped_package_hides_nothing(theirs: str, tmp_path: Path) -> None:
    """In the working folder and first on the path, as of a notebook, celery's `tasks.py`, or Frappe's `bench`."""
    (tmp_path / theirs).parent.mkdir(exist_ok=True)
    (tmp_path / theirs).write_text("raise ImportError('not meant for this program')")
    (tmp_path / "mine.py").write_text(PLUGIN)
    root = Path(__file__).resolve().parents[1]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(root)])}
    words = [*LISTED, "--plugin", "mine.py"]
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {"axbench", "mine"} <= {row["name"] for row in json.loads(done.stdout)}


def test_a_module_of_the_user_s_stays_what_it_was_to_the_user(tmp_path: Path) -> None:
    """As in a notebook that imported it first, or does so later; the code of what is shipped keeps its digest."""
    for name in ("tasks", "methods"):
        (tmp_path / f"{name}.py").write_text("mine = 1")
    code = """
import tasks
from bench.core.definitions import code_digest
from bench.core.registry import get
shipped = [get("method", "probe"), get("task", "axbench")]
import methods
print(tasks.mine, methods.mine, code_digest(*shipped))
"""
    root = Path(__file__).resolve().parents[1]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(root)])}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["1", "1", code_digest(get("method", "probe"), get("task", "axbench"))], done.stderr
