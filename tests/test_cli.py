"""The command line, held to its invariant: results on stdout, plan and progress on stderr, exit codes that tell.

Everything runs with the fake backend through the real commands; one run of three methods is shared by the
tests that only read it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bench import results, stats
from bench.cli.main import main
from bench.core import registry
from bench.core.errors import BenchError
from bench.core.paths import scratch
from bench.results import provenance

METHODS = ("none", "diffmean", "prompt")
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Place:
    """A cache and a results folder of its own, and the command line in it."""

    root: Path

    @property
    def env(self) -> dict[str, str]:
        return {"BENCH_CACHE": str(self.root / "cache"), "BENCH_RESULTS": str(self.root / "results")}

    def bench(self, *words: str, expect: int = 0, **env: str | None) -> Result:
        result = CliRunner().invoke(main, list(words), env=self.env | env)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == expect, result.stderr
        return result

    def run(self, *words: str, expect: int = 0) -> list[dict[str, Any]]:
        """The rows of `bench run --json` with the fake backend."""
        found = strict(self.bench("run", "--backend", "fake", "--json", *words, expect=expect).stdout)
        rows: list[dict[str, Any]] = found["runs"]
        return rows

    def subprocess(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "bench", *words]
        whole = {**os.environ, **self.env, **env}
        return subprocess.run(command, capture_output=True, text=True, env=whole, cwd=self.root, check=False)

    def lines(self) -> int:
        """Lines in every row file of the cache."""
        return sum(p.read_bytes().count(b"\n") for p in (self.root / "cache" / "rows").rglob("*.jsonl"))


def strict(text: str) -> Any:
    """JSON as every reader takes it: one document, no NaN or Infinity."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def record(row: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(row["path"]).read_text("utf-8"))
    return found


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, list[dict[str, Any]]]:
    """One finished run of three methods on four concepts; read it, do not write to it."""
    place = Place(tmp_path_factory.mktemp("shared"))
    return place, place.run("-m", ",".join(METHODS), "-n", "4")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, list[dict[str, Any]]]:
    """The same method under two protocols, in one results folder; read it, do not write to it."""
    place = Place(tmp_path_factory.mktemp("seeds"))
    return place, [place.run("-m", "prompt", "-n", "1", "--seed", seed)[0] for seed in ("0", "1")]


# Start


@pytest.mark.slow
def test_help_imports_nothing_heavy() -> None:
    heavy = "torch transformers scipy.stats sklearn pandas pyarrow matplotlib datasets huggingface_hub openai"
    script = f"""
import sys
from bench.cli import main
for words in (["--help"], ["run", "--help"], ["list", "-h"], ["report", "--help"], ["--version"]):
    try:
        main(words)
    except SystemExit as end:
        assert end.code == 0, words
print([name for name in "{heavy}".split() if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    for command in ("run", "list", "show", "compare", "report", "check", "models", "cache"):
        assert f"  {command} " in done.stdout
    assert "bench, version" in done.stdout


# list


def test_list_methods_has_its_shape(place: Place) -> None:
    rows = strict(place.bench("list", "methods", "--json").stdout)
    assert all(list(row) == ["name", "surface", "needs", "summary", "paper"] for row in rows)
    named = {row["name"]: row for row in rows}
    assert set(named) >= {"none", "random", "shuffled", "prompt", "diffmean", "prompt+diffmean"}
    assert named["diffmean"] == {
        "name": "diffmean",
        "surface": "activations",
        "needs": ["add", "view:texts"],
        "summary": "Difference of the mean activations of texts with and without the concept.",
        "paper": "arXiv:2501.17148",
    }
    assert named["prompt+diffmean"]["surface"] == "combination"
    assert named["prompt+diffmean"]["needs"] == ["add", "prompt", "view:texts"]
    assert all(row["summary"] for row in rows)
    assert strict(place.bench("list", "--json").stdout) == rows  # methods are the default


@pytest.mark.parametrize(
    ("what", "names"), [("tasks", {"axbench"}), ("judges", {"likelihood", "openai"}), ("backends", {"hf", "fake"})]
)
def test_list_names_what_is_registered(place: Place, what: str, names: set[str]) -> None:
    rows = strict(place.bench("list", what, "--json").stdout)
    assert {row["name"] for row in rows} >= names
    assert all(row["summary"] for row in rows)
    text = place.bench("list", what).stdout
    assert all(name in text for name in names)


@pytest.mark.slow
def test_list_runs(shared: tuple[Place, list[dict[str, Any]]], place: Place) -> None:
    done, rows = shared
    listed = strict(done.bench("list", "runs", "--json").stdout)
    assert sorted(row["path"] for row in listed) == sorted(row["path"] for row in rows)
    assert all(
        row["preset"] == "quick" and row["task"] == "axbench" and Path(row["path"]).parent.name == row["run"]
        for row in listed
    )
    assert strict(place.bench("list", "runs", "--json").stdout) == []
    assert place.bench("list", "runs").stderr == ""


def test_models_list(place: Place) -> None:
    rows = strict(place.bench("models", "list", "--json").stdout)
    default = next(row for row in rows if row["default"] == "yes")
    assert default["name"] == "SmolLM2-135M-Instruct"
    assert default["license"] == "Apache-2.0"
    assert default["cached"] == "no"  # this cache is empty
    assert strict(place.bench("list", "models", "--json").stdout) == rows


# run


@pytest.mark.slow
def test_run_json_is_one_document(shared: tuple[Place, list[dict[str, Any]]]) -> None:
    place, rows = shared
    assert [row["method"] for row in rows] == list(METHODS)
    for row in rows:
        assert {"method", "task", "model", "status", "metrics", "path"} <= set(row)
        assert (row["task"], row["model"], row["status"]) == ("axbench", "fake", "complete")
        assert row["metrics"] == record(row)["metrics"]
        assert {"concept", "instruction", "fluency", "overall", "overall_low", "concepts"} <= set(row["metrics"])
        assert Path(row["path"]).is_relative_to(place.root / "results" / "axbench" / "fake")


@pytest.mark.slow
def test_stdout_is_one_json_document_even_from_a_process(place: Place) -> None:
    """Nothing that a library prints may stand before or after it."""
    done = place.subprocess("run", "--backend", "fake", "-m", "none", "-n", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert strict(done.stdout)["runs"][0]["status"] == "complete"
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr


def test_run_json_holds_what_its_readers_need(shared: tuple[Place, list[dict[str, Any]]]) -> None:
    for row in shared[1]:
        data = record(row)
        assert {"version", "id", "group", "spec", "samples", "counts", "timings", "provenance", "refused"} <= set(data)
        assert len(data["concepts"]) == 4
        assert len(data["samples"]) == 4 * 3
        assert {s["concept"] for s in data["samples"]} == set(data["concepts"])
        for name, concept in data["concepts"].items():
            own = [s["ratings"]["fluency"] for s in data["samples"] if s["concept"] == name]
            assert concept["test"]["fluency"] == pytest.approx(sum(own) / 3, abs=1e-4)
            assert concept["picked"] in [{k: t[k] for k in ("candidate", "coefficient")} for t in concept["select"]]
        assert data["refused"]  # a fake run is never taken into results/
    assert len({record(row)["group"] for row in shared[1]}) == 1


def test_the_answers_that_settings_were_picked_by_are_kept_beside_the_run(
    shared: tuple[Place, list[dict[str, Any]]],
) -> None:
    for row in shared[1]:
        lines = [strict(line) for line in Path(row["path"]).with_name("trials.jsonl").read_text("utf-8").splitlines()]
        assert not {line["id"] for line in lines} & {s["id"] for s in record(row)["samples"]}
        for name, concept in record(row)["concepts"].items():
            for tried in concept["select"]:
                own = [t for t in lines if t["concept"] == name and all(t[k] == tried[k] for k in concept["picked"])]
                assert len(own) == tried["n"]
                mean = sum(t["ratings"]["fluency"] for t in own) / len(own)
                assert mean == pytest.approx(tried["fluency"], abs=1e-4)


def test_the_picked_setting_is_the_best_one_on_the_select_split(shared: tuple[Place, list[dict[str, Any]]]) -> None:
    picked = set()
    for row in shared[1]:
        for concept in record(row)["concepts"].values():
            best = max((t["overall"], t["concept"]) for t in concept["select"])
            chosen = next(t for t in concept["select"] if {k: t[k] for k in concept["picked"]} == concept["picked"])
            assert (chosen["overall"], chosen["concept"]) == best
            picked.add((row["method"], chosen["candidate"], chosen["coefficient"]))
    assert len(picked) > 4  # not always the first


@pytest.mark.slow
def test_a_second_identical_run_generates_and_rates_nothing(place: Place) -> None:
    words = ["-m", ",".join(METHODS), "-n", "2"]
    first = place.run(*words)
    lines, written = place.lines(), {row["path"]: Path(row["path"]).read_bytes() for row in first}
    again = place.bench("run", "--backend", "fake", "--json", *words)
    rows = strict(again.stdout)["runs"]
    assert [row["status"] for row in rows] == ["cached"] * 3
    assert [(row["path"], row["metrics"]) for row in rows] == [(row["path"], row["metrics"]) for row in first]
    assert "0 generations made now; 3 of 3 methods were done before" in again.stderr
    assert "nothing" in again.stderr
    assert place.lines() == lines
    assert {path: Path(path).read_bytes() for path in written} == written


@pytest.mark.slow
def test_without_its_run_json_a_run_is_scored_again_from_the_rows(place: Place) -> None:
    first = place.run("-m", "diffmean", "-n", "2")[0]
    lines, before = place.lines(), record(first)
    Path(first["path"]).unlink()
    again = place.bench("run", "--backend", "fake", "--json", "-m", "diffmean", "-n", "2")
    row = strict(again.stdout)["runs"][0]
    assert row["status"] == "complete"
    assert row["metrics"] == first["metrics"]
    assert record(row)["samples"] == before["samples"]
    assert "0 generations made now" in again.stderr
    assert place.lines() == lines


@pytest.mark.slow
def test_another_method_on_the_same_task_rates_only_its_own(place: Place) -> None:
    place.run("-m", "none", "-n", "2")
    second = place.bench("run", "--backend", "fake", "--json", "-m", "none,diffmean", "-n", "2")
    assert [row["status"] for row in strict(second.stdout)["runs"]] == ["cached", "complete"]
    assert f"{2 * (3 * 2 + 3)} generations made now; 1 of 2" in second.stderr


def ids(place: Place, *words: str) -> list[str]:
    """The identities of what a command line would run."""
    rows = strict(place.bench(*words, "--backend", "fake", "--dry-run", "--json").stdout)["runs"]
    return [f"{row['method']} {row['id']}" for row in rows]


def test_short_options_say_what_long_ones_say(place: Place) -> None:
    short = ids(place, "run", "-t", "axbench", "-m", "diffmean", "-m", "none", "-p", "diffmean.layer=1", "-n", "2")
    long = ("--task", "axbench", "--methods", "diffmean,none", "--set", "diffmean.layer=1", "--limit", "2")
    assert short == ids(place, "run", *long)
    for missing in (("-p", "diffmean.layer=2"), ("--limit", "3"), ("--seed", "1")):
        assert short[0] not in ids(place, "run", *long, *missing)


@pytest.mark.slow
def test_parameters_and_limits_reach_the_run(shared: tuple[Place, list[dict[str, Any]]], place: Place) -> None:
    data = record(place.run("-m", "diffmean", "-p", "diffmean.layer=1", "-n", "2")[0])
    assert data["spec"]["method_params"] == {"layer": 1}
    assert all(c["note"]["layer"] == 1 for c in data["concepts"].values())
    assert list(data["concepts"]) == list(record(shared[1][0])["concepts"])[:2]


def test_an_exclusion_can_be_given_to_m(place: Place) -> None:
    found = ids(place, "run", "-m", "none,diffmean,prompt", "-m", "-prompt", "-n", "1")
    assert [row.split()[0] for row in found] == ["none", "diffmean"]


@pytest.mark.slow
def test_results_go_to_stdout_and_the_rest_to_stderr(place: Place) -> None:
    done = place.bench("run", "--backend", "fake", "-m", "none,diffmean", "-n", "2")
    for text in ("rank", "diffmean", "Δ to", "bootstrap-t"):
        assert text in done.stdout
    for text in ("to do, at most", "results:", "generate (select)", "generations made now", "report:"):
        assert text not in done.stdout
        assert text in done.stderr
    assert "bootstrap-t" not in done.stderr
    with_json = place.bench("run", "--backend", "fake", "-m", "none,diffmean", "-n", "2", "--json")
    strict(with_json.stdout)
    assert "bootstrap-t" in with_json.stderr


@pytest.mark.slow
def test_the_results_option_stands_above_the_environment(place: Place) -> None:
    rows = place.run("-m", "none", "-n", "1", "--results", str(place.root / "mine" / "results"))
    assert Path(rows[0]["path"]).is_relative_to(place.root / "mine" / "results")
    assert (place.root / "mine" / "reports" / "leaderboard.md").is_file()
    assert not (place.root / "results").exists()


# Where a run goes when no folder is given


@pytest.mark.slow
def test_a_fake_run_goes_to_the_scratch_folder_and_says_why(place: Place) -> None:
    done = place.bench("run", "--backend", "fake", "--json", "-m", "none", "-n", "1", BENCH_RESULTS=None)
    row = strict(done.stdout)["runs"][0]
    assert Path(row["path"]).is_relative_to(scratch())
    for reason in ("preset quick", "the run is limited", "the fake backend has no model"):
        assert reason in done.stderr
        assert any(reason in text for text in record(row)["refused"])
    listed = strict(place.bench("list", "runs", "--json", BENCH_RESULTS=None).stdout)
    assert row["path"] in [r["path"] for r in listed]
    report = place.bench("report", "--scratch", "--out", str(place.root / "out"), BENCH_RESULTS=None)
    assert str(place.root / "out" / "leaderboard.md") in report.stdout


@pytest.mark.slow
def test_a_run_is_found_by_its_id_wherever_it_lies(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checked results first, the scratch folder second; ids too, not only names."""
    monkeypatch.setattr("bench.core.paths.default_results", lambda: place.root / "results")
    checked = place.run("-m", "diffmean", "-n", "1")[0]
    scratch = place.bench("run", "--backend", "fake", "--json", "-m", "none", "-n", "2", BENCH_RESULTS=None)
    for row in (strict(scratch.stdout)["runs"][0], checked):
        folder = Path(row["path"]).parent.name
        for name in (row["method"], folder, folder.rpartition("-")[2], folder.rpartition("-")[2][:6]):
            found = strict(place.bench("show", name, "--json", BENCH_RESULTS=None).stdout)
            assert found["id"] == record(row)["id"]


def _git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


def test_a_tree_is_dirty_by_its_code_and_not_by_its_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(provenance.ROOT / ".gitignore", tmp_path)
    for name in ("results/a/run.json", "bench/run.py", "a file.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    _git(tmp_path, "init", "-q")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-q", "-m", "all")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert len(provenance.commit() or "") == 40
    assert provenance.dirty() == []
    (tmp_path / "results" / "a" / "run.json").write_text("2")  # a run made again
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "new.md").write_text("new")
    assert provenance.dirty() == []
    (tmp_path / "bench" / "run.py").write_text("2")
    assert provenance.dirty() == ["bench/run.py"]
    (tmp_path / "a file.py").write_text("2")
    (tmp_path / "new.py").write_text("new")
    assert set(provenance.dirty()) == {"bench/run.py", "a file.py", "new.py"}


# show and compare


def test_show_prints_the_generations_behind_a_number(shared: tuple[Place, list[dict[str, Any]]]) -> None:
    place, rows = shared
    data = record(rows[1])
    text = " ".join(place.bench("show", "diffmean").stdout.split())
    assert "diffmean on axbench, fake (float32), preset quick, judge likelihood" in text
    for sample in data["samples"]:
        assert sample["text"] in text
        assert " ".join(sample["instruction"].split()) in text
        assert f"fluency {sample['ratings']['fluency']}" in text
    assert f"overall {data['metrics']['overall']}" in text


def test_what_a_model_wrote_is_shown_to_the_letter(shared: tuple[Place, list[dict[str, Any]]], tmp_path: Path) -> None:
    """Brackets are no markup of ours, and a word between colons is no picture."""
    data, wrote = record(shared[1][1]), "see [/b] and [red]that[/red], a:smile:b"
    data["samples"][0]["text"] = wrote
    path = tmp_path / "run.json"
    path.write_text(json.dumps(data))
    assert wrote in shared[0].bench("show", str(path)).stdout


def test_show_narrows_to_a_concept_and_a_number(shared: tuple[Place, list[dict[str, Any]]]) -> None:
    place, rows = shared
    data = record(rows[1])
    concept = list(data["concepts"])[2]
    found = strict(place.bench("show", "diffmean", "--concept", concept, "-n", "2", "--json").stdout)
    assert [s["concept"] for s in found["samples"]] == [concept] * 2
    assert found["metrics"] == data["metrics"]
    assert found["samples"] == [s for s in data["samples"] if s["concept"] == concept][:2]


def test_a_run_is_found_by_name_folder_id_and_path(shared: tuple[Place, list[dict[str, Any]]]) -> None:
    place, rows = shared
    path = Path(rows[2]["path"])
    run = record(rows[2])
    for name in ("prompt", path.parent.name, run["id"], run["id"][:7], str(path), str(path.parent)):
        assert strict(place.bench("show", name, "--json").stdout)["id"] == run["id"]


@pytest.mark.slow
def test_a_method_on_several_tasks_means_its_run_on_the_usual_one(one_model: Path) -> None:
    """So that the commands of the README hold in a checkout, whose results have more than one task."""
    runs = results.runs.load(one_model)
    both = [run for run in runs if run.method == "diffmean"]
    assert {run.data["spec"]["task"] for run in both} >= {"axbench", "axbench-detect"}
    assert results.lookup("diffmean", [one_model]).data["spec"]["task"] == "axbench"


def test_a_method_s_name_stands_above_the_beginning_of_an_id(
    shared: tuple[Place, list[dict[str, Any]]], tmp_path: Path
) -> None:
    """`caa` is hexadecimal as well."""
    for method, own in (("caa", "0123456789"), ("prompt", "caa3456789")):
        data = record(shared[1][0]) | {"id": own}
        path = tmp_path / "axbench" / "fake" / f"{method}-{own}" / "run.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(data | {"spec": data["spec"] | {"method": method}}))
    assert results.lookup("caa", [tmp_path]).method == "caa"
    assert results.lookup("caa3", [tmp_path]).method == "prompt"
    assert results.lookup("prompt-caa", [tmp_path]).method == "prompt"  # the beginning of a folder's name


def test_an_unknown_concept_is_refused_by_name(shared: tuple[Place, list[dict[str, Any]]]) -> None:
    refused = shared[0].bench("show", "diffmean", "--concept", "chanse", expect=2)
    assert "has no concept 'chanse': did you mean 'chance'?" in refused.stderr


def test_a_command_on_runs_that_is_given_none_takes_the_last_one_s_and_says_so(tmp_path: Path) -> None:
    place = Place(tmp_path)
    sample = ("judge", "sample", "-n", "3", "--out", str(tmp_path / "mine.csv"))
    assert "no run was made last in " in place.bench(*sample, expect=2).stderr
    place.run("-m", "caa", "-n", "1", "--seed", "3")  # an earlier one, which is not meant
    made = place.run("-m", "diffmean,prompt,none", "-n", "1")
    names = {Path(row["path"]).parent.name for row in made}
    told = place.bench(*sample).stderr
    assert told.startswith("of the last run, in ")
    assert all(name in told for name in names)
    assert "caa" not in told
    drawn = (tmp_path / "mine.key.csv").read_text("utf-8")
    assert "caa" not in drawn
    rated = strict(place.bench("judge", "--judge", "likelihood", "--json").stdout)["rated"]
    assert {row["run"] for row in rated} == names
    several = place.bench("capability", expect=2).stderr
    assert "the last run has 2 methods that are no control: name one of " in several
    assert "none-" not in several.splitlines()[-1]
    elsewhere = place.bench("overhead", "--results", str(tmp_path), expect=2).stderr
    assert f"no run was made last in {tmp_path}" in elsewhere


@pytest.mark.slow
def test_an_ambiguous_or_unknown_run_is_refused(seeds: tuple[Place, list[dict[str, Any]]]) -> None:
    place, _ = seeds
    assert place.bench("show", "prompt").exit_code == 0  # of the last run
    (place.root / "cache" / "last.json").unlink()
    several = place.bench("show", "prompt", expect=2)
    assert several.stdout == ""
    assert several.stderr.startswith("bench: 'prompt' is several runs, name one: prompt-")
    assert "(axbench, fake, quick, judge " in several.stderr
    unknown = place.bench("show", "promt", expect=2)
    assert unknown.stderr == f"bench: no run 'promt' in {place.root / 'results'}/: did you mean 'prompt'?\n"


def test_several_answers_and_fits_stand_in_the_run_and_a_replay_compares_itself(tmp_path: Path) -> None:
    place = Place(tmp_path)
    rows = place.run("-m", "prompt,diffmean", "-n", "2", "--set", "protocol.answers=3", "--set", "protocol.fits=2")
    prompt, vector = (record(row) for row in rows)
    for one in (prompt, vector):
        ids = [s["id"] for s in one["samples"]]
        assert len(ids) == len(set(ids)) == 2 * 3 * 3  # concepts, test prompts, answers
        assert {i.partition("#")[2] for i in ids} == {"", "1", "2"}
        again = [s["text"] for s in one["samples"] if s["id"].startswith(f"{s['concept']}/test/0")]
        assert len(set(again)) > 1  # each has noise of its own
        assert all(c["test"]["n"] == 9 for c in one["concepts"].values())
    assert all("prompts" in c for c in prompt["concepts"].values())
    assert not any("prompts" in c for c in vector["concepts"].values())
    shown = place.bench("show", "prompt").stdout
    (first,) = {json.dumps(c["prompts"][c["picked"]["candidate"]]) for c in list(prompt["concepts"].values())[:1]}
    assert next(iter(json.loads(first).values())).strip().splitlines()[0] in shown
    path = rows[1]["path"]
    done = place.bench("run", "--config", path, "--results", str(tmp_path / "again"))
    assert "0 of 18 texts differ" in done.stderr
    assert "overall" in done.stderr


def test_compare_is_paired_per_axis(shared: tuple[Place, list[dict[str, Any]]]) -> None:
    place, rows = shared
    found = strict(place.bench("compare", "diffmean", "none", "--json").stdout)
    one, two = record(rows[1]), record(rows[0])
    assert list(found) == one["axes"] == ["concept", "instruction", "fluency", "overall"]
    for axis, row in found.items():
        plain = stats.paired(*([s["ratings"][axis] for s in d["samples"]] for d in (one, two)))
        assert (row["mean"], row["n"]) == (pytest.approx(plain.mean), plain.n)  # of few concepts, questions count
        assert row["error"] >= plain.error - 1e-9  # never below what the answers' own noise leaves of it
        assert 0 <= row["wins"]["generation"]["low"] <= row["wins"]["generation"]["mean"] <= 1
        assert row["length"]["plain"] == pytest.approx(row["mean"], abs=1e-3)
        assert row["n"] == 4 * 3
    back = strict(place.bench("compare", "none", "diffmean", "--json").stdout)
    assert back["fluency"]["mean"] == pytest.approx(-found["fluency"]["mean"])
    assert found["fluency"]["mean"] != 0
    table = place.bench("compare", "diffmean", "none").stdout
    assert "diffmean minus none" in table
    assert "fluency" in table


@pytest.mark.slow
def test_comparing_runs_of_different_protocols_is_refused(seeds: tuple[Place, list[dict[str, Any]]]) -> None:
    place, rows = seeds
    done = place.bench("compare", *(Path(row["path"]).parent.name for row in rows), "--json", expect=2)
    assert done.stdout == ""
    assert done.stderr.endswith("bench: prompt and prompt cannot be compared: they differ in protocol\n")


@pytest.mark.slow
def test_comparing_on_one_question_is_still_json(place: Place) -> None:
    """No interval and no p exist there: null says so to any reader, NaN is not JSON."""
    place.run("-m", "diffmean,none", "-n", "1", "--set", "protocol.test=1")
    found = strict(place.bench("compare", "diffmean", "none", "--json").stdout)
    assert found["overall"]["p"] is None
    assert found["overall"]["n"] == 1
    assert place.bench("compare", "diffmean", "none").exit_code == 0


# cache


@pytest.mark.slow
def test_cache_path_size_and_clear(place: Place) -> None:
    assert place.bench("cache", "path").stdout == f"{place.root / 'cache'}\n"
    place.run("-m", "none", "-n", "1")
    sizes = place.bench("cache").stdout
    assert all(kind in sizes for kind in ("fits", "rows", "total"))
    assert place.bench("cache", "size").stdout == sizes
    kept = CliRunner().invoke(main, ["cache", "clear"], env=place.env, input="n\n")
    assert kept.exit_code == 0
    assert (place.root / "cache" / "rows").is_dir()
    assert place.bench("cache", "clear", "--yes").stdout == "cleared\n"
    assert sorted(path.name for path in (place.root / "cache").iterdir()) == ["CACHEDIR.TAG", "last.json"]
    assert place.bench("cache", "clear", "--yes").exit_code == 0  # twice is no error
    assert len(list((place.root / "results").rglob("run.json"))) == 1  # results are no cache


# report


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a report but those of its page, which `index.html` loads."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@pytest.mark.slow
def test_a_report_is_a_pure_function_of_the_results(shared: tuple[Place, list[dict[str, Any]]], tmp_path: Path) -> None:
    """In this process and in another, with another hash seed, folder, time and an empty cache."""
    place, _ = shared
    one = place.bench("report", "--out", str(tmp_path / "one"), "--json", BENCH_CACHE=str(tmp_path / "empty"))
    written = [Path(p) for p in strict(one.stdout)]
    done = place.subprocess("report", "--out", str(tmp_path / "two"), PYTHONHASHSEED="1", TZ="Asia/Tokyo")
    assert done.returncode == 0, done.stderr
    assert [Path(p).name for p in done.stdout.splitlines()] == [p.name for p in written]
    first, second = files(tmp_path / "one"), files(tmp_path / "two")
    assert sorted(p.name for p in written) == sorted(first)
    kinds = {kind: [Path(name).stem for name in first if name.endswith(kind)] for kind in (".png", ".svg", ".csv")}
    assert kinds[".png"] == kinds[".svg"] == [stem for stem in kinds[".csv"] if stem != "leaderboard"]
    assert {stem.rpartition("-")[2] for stem in kinds[".png"]} == {"forest", "coefficients", "optimism"}
    assert {name for name in first if name.startswith("leaderboard.")} == {
        f"leaderboard.{k}" for k in ("csv", "json", "md")
    }
    assert {name for name in first if first[name] != second[name]} == set()
    assert files(place.root / "reports") == first  # what `bench run` ended with
    pictures = [data for name, data in first.items() if name.endswith(".png")]
    assert all(data.startswith(b"\x89PNG") and len(data) > 5000 for data in pictures)
    assert pictures[0] != pictures[1]


@pytest.mark.slow
def test_a_report_says_what_the_runs_say(shared: tuple[Place, list[dict[str, Any]]], tmp_path: Path) -> None:
    import csv

    place, rows = shared
    place.bench("report", "--out", str(tmp_path))
    page = (tmp_path / "leaderboard.md").read_text("utf-8")
    for row in rows:
        metrics = row["metrics"]
        shown = f"{metrics['fluency']:.2f} [{metrics['fluency_low']:.2f}, {metrics['fluency_high']:.2f}]"
        assert any(shown in line for line in page.splitlines() if f"| {row['method']} |" in line)
    for name in files(tmp_path):
        if name.endswith(".png"):
            assert f"]({name})" in page
    table = list(csv.DictReader((tmp_path / "leaderboard.csv").read_text("utf-8").splitlines()))
    assert len(table) == 3 * 4
    for line in table:
        metrics = next(row["metrics"] for row in rows if row["method"] == line["method"])
        assert float(line["mean"]) == pytest.approx(metrics[line["axis"]], abs=1e-4)
        assert int(line["concepts"]) == 4 * 3  # of few concepts, questions count


def test_a_report_without_runs_is_refused(place: Place) -> None:
    done = place.bench("report", expect=2)
    assert done.stderr.startswith("bench: no runs in")
    assert not (place.root / "reports").exists()


@pytest.mark.slow
def test_runs_of_different_protocols_stand_in_different_tables(seeds: tuple[Place, list[dict[str, Any]]]) -> None:
    reports = seeds[0].root / "reports"
    assert (reports / "leaderboard.md").read_text("utf-8").count("## axbench (mini)") == 2
    assert len(list(reports.glob("axbench-*-forest.png"))) == 2


@pytest.mark.slow
def test_two_settings_of_a_method_stand_in_one_table_under_their_settings(place: Place) -> None:
    for layer in ("1", "2"):
        place.run("-m", "diffmean,none", "-n", "2", "-p", f"diffmean.layer={layer}")
    page = (place.root / "reports" / "leaderboard.md").read_text("utf-8")
    assert page.count("## axbench (mini)") == 1
    assert "| diffmean layer=1 |" in page
    assert "| diffmean layer=2 |" in page
    assert "| none |" in page


# Plugins, unsupported and failing methods


PLUGIN = """
from __future__ import annotations
from collections.abc import Sequence
from dataclasses import dataclass
import numpy as np
from bench import Add, Context, Fitted, Method, Steering, Train, method

@method("{name}", surface="activations", needs={needs}, views={views})
@dataclass(frozen=True)
class Mine(Method):
    '''A direction of ones.'''
    size: float = 1.0
    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        {body}
"""
ONES = "return [Fitted(Steering(edits=(Add(layer=1, value=np.full(8, self.size, np.float32)),)))]"


def plugin(
    folder: Path, name: str, body: str = ONES, needs: Sequence[str] = ("add",), views: Sequence[str] = ("texts",)
) -> str:
    path = folder / f"{name.replace('-', '_')}_plugin.py"
    path.write_text(PLUGIN.format(name=name, needs=list(needs), views=list(views), body=body))
    return str(path)


@pytest.mark.slow
def test_a_plugin_registers_a_method_and_runs_it_alone_and_combined(place: Place) -> None:
    path = plugin(place.root, "mine")
    words = ["-m", "mine,prompt+mine", "-n", "2", "-p", "mine.size=2"]
    one, both = place.run("--plugin", path, *words)
    assert (one["status"], both["status"]) == ("complete", "complete")
    assert record(one)["spec"]["method_params"] == {"size": 2.0}
    assert record(both)["spec"]["method_params"] == {"prompt": {}, "mine": {"size": 2.0}}
    assert all(sum(s["touched"]) > 0 for row in (one, both) for s in record(row)["samples"])
    listed = strict(place.bench("--plugin", path, "list", "methods", "--json").stdout)  # also before the command
    assert next(r for r in listed if r["name"] == "mine")["summary"] == "A direction of ones."


@pytest.mark.slow
def test_a_result_is_done_again_when_the_methods_code_changed_and_not_when_a_comment_did(place: Place) -> None:
    words = ["--plugin", plugin(place.root, "mine"), "-m", "mine", "-n", "1"]
    place.run(*words)

    def again(body: str) -> str:
        plugin(place.root, "mine", body)
        return str(place.run(*words)[0]["status"])

    assert again(ONES + "  # the same") == "cached"
    assert again(f'"""Other words."""; {ONES}') == "cached"
    assert again(ONES.replace("layer=1", "layer=2")) == "complete"


@pytest.mark.slow
def test_an_unsupported_method_is_a_row_that_says_why(place: Place) -> None:
    site = plugin(place.root, "at-site", needs=["add", "site:mlp"])
    view = plugin(place.root, "on-view")
    with Path(view).open("a", encoding="utf-8") as file:
        file.write('\nMine.views = frozenset({"videos"})\n')
    done = place.bench(
        *("run", "--backend", "fake", "--json", "--plugin", site, "--plugin", view),
        *("-m", "at-site,on-view,none", "-n", "1"),
    )
    one, two, none = strict(done.stdout)["runs"]
    assert (one["status"], one["reason"]) == ("unsupported", "backend fake cannot site:mlp")
    assert (two["status"], two["reason"]) == ("unsupported", "the data has no videos")
    assert one["path"] is None
    assert one["metrics"] == {}
    assert none["status"] == "complete"
    assert "at-site: unsupported: backend fake cannot site:mlp" in done.stderr
    assert [p.parent.name.split("-")[0] for p in (place.root / "results").rglob("run.json")] == ["none"]


FAILURES = {
    "raises": ("raise RuntimeError('boom\\nsecond line')", "fit: RuntimeError: boom"),
    "silent": ("raise ValueError", "fit: ValueError"),
    "brackets": ("raise RuntimeError('no [/path] of [shape]')", "fit: RuntimeError: no [/path] of [shape]"),
    "index": ("return [][0]", "fit: IndexError: list index out of range"),
    "empty": ("return []", "fit: its fit gave no candidate"),
    "nothing": ("return [Fitted()]", "fit: its fit has no steering, which this task needs"),
    "undeclared": (
        "return [Fitted(Steering(edits=(Add(layer=1, site='mlp', value=np.ones(8, np.float32)),)))]",
        "fit: backend fake cannot site:mlp",
    ),
    "infinite": (
        "return [Fitted(Steering(edits=(Add(layer=1, value=np.full(8, np.inf, np.float32)),)))]",
        "fit: ValueError: Add.value holds values that are not finite (shape (8,))",
    ),
}


@pytest.mark.slow
def test_a_failing_fit_fails_its_method_alone(place: Place) -> None:
    words = [word for name, (body, _) in FAILURES.items() for word in ("--plugin", plugin(place.root, name, body))]
    words += ["-m", f"none,{','.join(FAILURES)},prompt", "-n", "2"]
    none, *failed, prompt = place.run(*words, expect=1)
    assert (none["status"], prompt["status"]) == ("complete", "complete")
    for row, (name, (_, reason)) in zip(failed, FAILURES.items(), strict=True):
        assert (row["method"], row["status"], row["path"]) == (name, "failed", None)
        assert re.sub(r" \([\w-]+_plugin\.py:\d+\)$", "", row["reason"].strip()) == reason
    again = place.run(*words, expect=1)
    assert {row["status"] for row in again[1:-1]} == {"failed"}
    assert (again[0]["status"], again[-1]["status"]) == ("cached", "cached")


@pytest.mark.slow
def test_a_fit_that_lacks_a_file_of_its_own_fails_its_method_alone(place: Place) -> None:
    """An OSError of the method's is no failure of our disk: the others run on."""
    path = plugin(place.root, "reader", "open('/nowhere/vectors.npz')")
    none, reader = place.run("--plugin", path, "-m", "none,reader", "-n", "1", expect=1)
    assert none["status"] == "complete"
    assert reader["status"] == "failed"
    assert "FileNotFoundError" in reader["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("note", ["{'words': {1, 2}}", "{'vector': np.ones(3, complex)}"])
def test_a_fit_that_cannot_be_kept_fails_its_method_alone(place: Place, note: str) -> None:
    path = plugin(place.root, "odd", f"return [Fitted(Steering(), note={note})]")
    none, odd = place.run("--plugin", path, "-m", "none,odd", "-n", "1", expect=1)
    assert none["status"] == "complete"
    assert odd["status"] == "failed"
    assert odd["reason"]


@pytest.mark.slow
def test_a_fit_of_all_concepts_at_once_that_fails_says_why(place: Place) -> None:
    """`fit_all` may be a plain function as well as a generator; its own error is the one to show."""
    path = plugin(place.root, "eager", ONES)
    with Path(path).open("a") as file:
        file.write("\n    def fit_all(self, ctx, trains):\n        raise RuntimeError('all at once')\n")
    none, eager = place.run("--plugin", path, "-m", "none,eager", "-n", "2", expect=1)
    assert none["status"] == "complete"
    assert (eager["status"], eager["reason"]) == ("failed", "fit: RuntimeError: all at once (eager_plugin.py:17)")


UNBOUND = """
@dataclass(frozen=True)
class Unbound:
    def bind(self, lm, messages):
        raise RuntimeError("no vector for this prompt")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "steering",
    ["Steering(edits=(Add(layer=1, value=np.zeros(8, np.float32)),))", "Unbound()"],
    ids=["a vector of length 0", "a bind that raises"],
)
def test_a_steering_that_fails_when_it_is_applied_fails_its_method_alone(place: Place, steering: str) -> None:
    path = plugin(place.root, "late", f"return [Fitted({steering})]")
    with Path(path).open("a") as file:
        file.write(UNBOUND)
    none, late = place.run("--plugin", path, "-m", "none,late", "-n", "1", expect=1)
    assert none["status"] == "complete"
    assert late["status"] == "failed"
    assert late["reason"]


def test_fits_made_before_a_failure_are_kept(place: Place) -> None:
    log = place.root / "fitted"
    count = f"open({str(log)!r}, 'a').write(train.concept.id + chr(10))\n        "
    fail = "if ctx.layer(-1) and train.concept.id == 'exceptions': raise RuntimeError('no')\n        "
    words = ["-m", "mine", "-n", "3"]
    place.run("--plugin", plugin(place.root, "mine", count + fail + ONES), *words, expect=1)
    assert log.read_text().split() == ["chance", "cooking", "exceptions"]
    place.run("--plugin", plugin(place.root, "mine", count + fail + ONES), *words, expect=1)
    assert log.read_text().split()[3:] == ["exceptions"]


def test_a_name_belongs_to_one_class(place: Place) -> None:
    done = place.bench("run", "--plugin", plugin(place.root, "diffmean"), "-m", "none", expect=2)
    assert "'diffmean' is a shipped method: diffmean_plugin.py:8 needs another name" in done.stderr
    with pytest.raises(BenchError):
        registry.load_plugin(place.root / "nowhere.py")
