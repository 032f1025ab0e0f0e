"""Runs in others' formats: every task's run is taken by the format's own validator or reader, missing ratings are no
numbers, and withheld texts are nowhere."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import yaml
from click.testing import CliRunner
from conftest import committed
from test_tasks import DATA, NAMES

from bench import interchange
from bench.cli.main import main
from bench.core.content import digest
from bench.report.formats import every_eval_files, hub_files, inspect_files
from bench.report.formats.told import Told
from bench.results.runs import Run, read
from bench.run.plan import Options, make
from bench.run.session import execute


@pytest.fixture
def fresh(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """A tiny run of a task on the fake engine."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tasks.refusal.TOLD", 0.0)  # the judge without a key does not tell refusals

    def run(task: str, method: str = "random") -> Run:
        data = str(request.getfixturevalue(DATA[task])) if DATA[task] else ""
        options = Options(methods=(method,), task=task, backend="fake", data=data, preset="quick", limit=2)
        (job,) = execute(make(options), tmp_path / "results")
        assert job.path, job.reason
        return read(job.path)

    return run


@pytest.fixture(scope="module")
def prompted() -> Run:
    """A committed run of the default model; read it, do not write to it."""
    return read(committed("prompt") / "run.json")


def changed(run: Run, tmp_path: Path, **values: Any) -> Run:
    """A run whose record says something else."""
    path = tmp_path / run.path.parent.name / "run.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(dict(run.data) | values), "utf-8")
    return Run(path, json.loads(path.read_text("utf-8")))


def told(files: Mapping[str, bytes]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The aggregate of Every Eval Ever's files, and its rows."""
    aggregate = json.loads(next(content for name, content in files.items() if name.endswith(".json")))
    lines = next((content for name, content in files.items() if name.endswith(".jsonl")), b"")
    return aggregate, [json.loads(line) for line in lines.decode().splitlines()]


def validated(files: Mapping[str, bytes], root: Path) -> None:
    """Hold files to Every Eval Ever's own validator, warnings too; skip where it is not installed."""
    validate = pytest.importorskip(
        "every_eval_ever.validator.validate",
        reason="pip install --no-deps --ignore-requires-python every-eval-ever (as `make test` does)",
    )
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    assert validate.main(["--format", "json", *(str(root / name) for name in files)]) == 0


# Every Eval Ever


@pytest.mark.slow
@pytest.mark.parametrize("task", NAMES)
def test_every_eval_ever_takes_a_run_of_every_task(task: str, fresh: Callable[..., Run], tmp_path: Path) -> None:
    run = fresh(task)
    files = every_eval_files(run)
    aggregate, rows = told(files)
    assert {r["evaluation_result_id"] for r in aggregate["evaluation_results"]} == {
        axis for axis in run.data["axes"] if run.data["metrics"][axis] is not None
    }
    rated = [s for s in run.data["samples"] if s["ratings"].get("overall") is not None]
    assert [(row["sample_id"], row["evaluation"]["score"]) for row in rows] == [
        (s["id"], s["ratings"]["overall"]) for s in rated
    ]
    validated(files, tmp_path / "store")


def test_a_result_has_the_score_the_interval_and_the_bounds_of_the_record(prompted: Run, tmp_path: Path) -> None:
    files = every_eval_files(prompted)
    aggregate, rows = told(files)
    assert aggregate["model_info"]["id"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert aggregate["model_info"]["name"] == "SmolLM2-135M-Instruct + prompt"
    assert aggregate["eval_library"] == {
        "name": "steer-or-prompt",
        "version": "0.1.0",
        "additional_details": aggregate["eval_library"]["additional_details"],
    }
    found = {r["evaluation_result_id"]: r for r in aggregate["evaluation_results"]}
    metrics = prompted.data["metrics"]
    for axis, result in found.items():
        interval = result["score_details"]["uncertainty"]["confidence_interval"]
        assert result["score_details"]["score"] == metrics[axis]
        assert interval["lower"] == max(metrics[f"{axis}_low"], 0)
        assert interval["upper"] == min(metrics[f"{axis}_high"], 2)
        assert (result["metric_config"]["min_score"], result["metric_config"]["max_score"]) == (0, 2)
    one = prompted.data["samples"][0]
    assert rows[0]["input"]["raw"] == one["instruction"]
    assert rows[0]["output"]["raw"] == [one["text"]]
    assert all(row["evaluation"]["is_correct"] == (row["evaluation"]["score"] >= 1) for row in rows)
    assert next(iter(files)).split("/")[:4] == [
        "data", "steer-or-prompt-axbench", "HuggingFaceTB", "SmolLM2-135M-Instruct"
    ]  # fmt: skip
    validated(files, tmp_path)


def test_the_same_run_gives_the_same_files_and_another_code_others(prompted: Run, tmp_path: Path) -> None:
    assert every_eval_files(prompted) == every_eval_files(prompted)
    other = changed(prompted, tmp_path, code="0" * 24)
    assert every_eval_files(prompted).keys().isdisjoint(every_eval_files(other))


def test_a_missing_rating_is_a_row_less(prompted: Run, tmp_path: Path) -> None:
    samples = [dict(s) for s in prompted.data["samples"]]
    samples[0] = samples[0] | {"ratings": samples[0]["ratings"] | {"overall": None}, "reasons": {"overall": "no"}}
    metrics = dict(prompted.data["metrics"]) | {"fluency": None, "fluency_low": None, "overall_low": None}
    run = changed(prompted, tmp_path, samples=samples, metrics=metrics)
    files = every_eval_files(run)
    aggregate, rows = told(files)
    assert len(rows) == len(samples) - 1
    found = {r["evaluation_result_id"]: r["score_details"]["uncertainty"] for r in aggregate["evaluation_results"]}
    assert "fluency" not in found
    assert "confidence_interval" not in found["overall"]
    validated(files, tmp_path / "store")


def test_a_run_without_a_rating_has_no_rows(prompted: Run, tmp_path: Path) -> None:
    samples = [dict(s) | {"ratings": dict.fromkeys(s["ratings"])} for s in prompted.data["samples"]]
    files = every_eval_files(changed(prompted, tmp_path, samples=samples))
    assert [name.rpartition(".")[2] for name in files] == ["json"]
    validated(files, tmp_path / "store")


def test_a_judge_that_is_a_language_model_is_named_as_one(prompted: Run, tmp_path: Path) -> None:
    run = changed(prompted, tmp_path, spec=dict(prompted.data["spec"]) | {"judge": "openai:gpt-4o-mini"})
    files = every_eval_files(run)
    scoring = told(files)[0]["evaluation_results"][0]["metric_config"]["llm_scoring"]
    assert scoring["judges"][0]["model_info"]["id"] == "openai/gpt-4o-mini"
    validated(files, tmp_path / "store")


def test_data_of_the_hub_is_named_as_its_data_set(prompted: Run, tmp_path: Path) -> None:
    run = changed(prompted, tmp_path, spec=dict(prompted.data["spec"]) | {"task_params": {"data": "concept500"}})
    files = every_eval_files(run)
    source = told(files)[0]["evaluation_results"][0]["source_data"]
    assert (source["source_type"], source["hf_repo"]) == ("hf_dataset", "pyvene/axbench-concept500")
    validated(files, tmp_path / "store")


@pytest.mark.parametrize(
    ("source", "asked", "expected"),
    [
        ("hub revision abc", "google/SmolLM3", "google/SmolLM3"),
        ("local folder", "google/SmolLM3", "local/SmolLM3"),
        ("hub revision abc", "/data/models--google--SmolLM3", "local/SmolLM3"),
    ],
)
def test_a_model_is_named_by_its_id_where_it_has_one(
    source: str, asked: str, expected: str, prompted: Run, tmp_path: Path
) -> None:
    spec = dict(prompted.data["spec"]) | {"model": "SmolLM3"}
    run = changed(prompted, tmp_path, spec=spec, source=source, asked={"model": asked, "task_params": {}})
    assert Told(run).model == expected


def test_a_dialogue_is_rows_that_hold_what_was_said_before(fresh: Callable[..., Run]) -> None:
    run = fresh("persistence", "prompt")
    _, rows = told(every_eval_files(run))
    last = max(rows, key=lambda row: row["evaluation"]["num_turns"])
    texts = {s["id"]: s for s in run.data["samples"]}
    base = last["sample_id"].rpartition(".")[0]
    turns = last["evaluation"]["num_turns"]
    expected = [
        t for k in range(1, turns + 1) for t in (texts[f"{base}.{k}"]["instruction"], texts[f"{base}.{k}"]["text"])
    ]
    assert turns > 1
    assert [m["content"] for m in last["messages"]] == expected
    assert last["output"] is None


@pytest.mark.parametrize(
    ("asked", "address", "expected"),
    [
        ("gpt-4o-mini", "", "openai/gpt-4o-mini"),
        ("openai:gpt-4o-mini", "", "openai/gpt-4o-mini"),
        ("meta-llama/Llama-3.1-8B-Instruct", "host.example/v1", "meta-llama/Llama-3.1-8B-Instruct"),
        ("served-model", "host.example/v1", "unknown/served-model"),
    ],
)
def test_a_hosted_model_is_whose_its_server_says(
    prompted: Run, tmp_path: Path, asked: str, address: str, expected: str
) -> None:
    name = asked.removeprefix("openai:")
    spec = dict(prompted.data["spec"]) | {"backend": "openai", "model": name.split("/")[-1], "dtype": "hosted"}
    spec["weights"] = digest("endpoint", name, address)
    run = changed(prompted, tmp_path, spec=spec, source="endpoint", asked={"model": asked, "task_params": {}})
    assert Told(run).model == expected
    aggregate, _ = told(every_eval_files(run))
    assert aggregate["model_info"]["developer"] == expected.partition("/")[0]
    assert aggregate["model_info"]["additional_details"]["model_availability"] == "unknown"
    assert logged(run, tmp_path).eval.model == f"openai/{expected}"


# What is not given to others


def test_what_a_dialogue_says_of_a_withheld_turn_is_in_no_export(fresh: Callable[..., Run], tmp_path: Path) -> None:
    """Nor in the later turns, whose questions hold it."""
    made = fresh("persistence", "prompt")
    axis = next(axis for axis in made.data["axes"] if axis != "overall")
    run = changed(made, tmp_path, withholds=[axis])
    hidden = [s["text"] for s in run.data["samples"] if axis in s["ratings"]]
    assert len(hidden) > 2
    exports = {
        "eee": b"".join(every_eval_files(run).values()).decode(),
        "inspect": logged(run, tmp_path).model_dump_json(),
    }
    for format, content in exports.items():
        assert not [text for text in hidden if json.dumps(text)[1:-1] in content], format
        assert digest(hidden[0]) in content


def test_a_withheld_answer_is_in_no_export(fresh: Callable[..., Run], tmp_path: Path) -> None:
    run = changed(fresh("refusal", "prompt"), tmp_path, withholds=["efficacy"])  # as with others' harmful requests
    harmful = [s for s in run.data["samples"] if s["ratings"].keys() & set(run.data["withholds"])]
    assert harmful
    content = b"".join(every_eval_files(run).values()).decode()
    assert all(json.dumps(s["text"])[1:-1] not in content for s in harmful)
    _, rows = told(every_eval_files(run))
    row = next(row for row in rows if row["sample_id"] == harmful[0]["id"])
    assert row["output"] == {"raw": []}
    assert row["metadata"]["withheld"].startswith(digest(harmful[0]["text"]))


def test_a_withheld_answer_is_in_no_log(fresh: Callable[..., Run], tmp_path: Path) -> None:
    run = changed(fresh("refusal", "prompt"), tmp_path, withholds=["efficacy"])
    shown = {sample.id: sample for sample in logged(run, tmp_path).samples}
    for s in run.data["samples"]:
        hidden = bool(s["ratings"].keys() & set(run.data["withholds"]))
        assert (shown[s["id"]].output.completion == s["text"]) is not hidden
        assert (s["text"] in shown[s["id"]].model_dump_json()) is not hidden


# Inspect


def logged(run: Run, folder: Path) -> Any:
    """The log of a run as Inspect reads it."""
    reading = pytest.importorskip("inspect_ai.log", reason="Inspect is not installed: pip install '.[dev]'")
    ((name, content),) = inspect_files(run).items()
    (folder / name).write_bytes(content)
    return reading.read_eval_log(folder / name)


@pytest.mark.slow
@pytest.mark.parametrize("task", NAMES)
def test_inspect_reads_a_run_of_every_task(task: str, fresh: Callable[..., Run], tmp_path: Path) -> None:
    run = fresh(task)
    log = logged(run, tmp_path)
    shown = {sample.id: sample for sample in log.samples}
    assert (log.status, log.eval.run_id, log.eval.task) == ("success", run.data["id"], f"steer-or-prompt/{task}")
    assert {s.name: s.metrics["mean"].value for s in log.results.scores} == {
        axis: mean for axis in run.data["axes"] if (mean := run.data["metrics"][axis]) is not None
    }
    for sample in run.data["samples"]:
        rated = {axis: value for axis, value in sample["ratings"].items() if value is not None}
        value = shown[sample["id"]].scores[run.kind].value
        assert value == rated if rated else math.isnan(value)
    assert all("text" not in s or shown[s["id"]].output.completion == s["text"] for s in run.data["samples"])


def test_a_log_reads_back_as_it_was_written_and_is_written_alike(prompted: Run, tmp_path: Path) -> None:
    log = logged(prompted, tmp_path)
    import inspect_ai.log as inspect

    inspect.write_eval_log(log, tmp_path / "again.eval")
    again = inspect.read_eval_log(tmp_path / "again.eval")
    apart = {"location", "etag"}
    assert again.model_dump(exclude=apart) == log.model_dump(exclude=apart)
    assert inspect_files(prompted) == inspect_files(prompted)
    assert log.eval.created.endswith("+00:00")


def test_a_missing_rating_is_no_number_in_a_log(prompted: Run, tmp_path: Path) -> None:
    samples = [dict(s) for s in prompted.data["samples"][:2]]
    samples[0] |= {"ratings": dict(samples[0]["ratings"]) | {"fluency": None}, "reasons": {"fluency": "no word"}}
    samples[1] |= {"ratings": dict.fromkeys(samples[1]["ratings"])}
    log = logged(changed(prompted, tmp_path, samples=samples), tmp_path)
    first, second = (sample.scores["steering"] for sample in log.samples)
    assert first.value.keys() == {"concept", "instruction", "overall"}
    assert "fluency: no word" in first.explanation
    assert isinstance(second.value, float)
    assert math.isnan(second.value)
    assert {s.name: (s.scored_samples, s.unscored_samples) for s in log.results.scores}["fluency"] == (0, 2)


def test_a_log_shows_the_prompt_that_stood_around_a_question(fresh: Callable[..., Run], tmp_path: Path) -> None:
    run = fresh("axbench", "prompt")
    sample = logged(run, tmp_path).samples[0]
    stated = run.prompt(sample.metadata["concept"])
    shown = "\n".join(message.text for message in sample.messages)
    assert stated
    assert all(text in shown for key, text in stated.items() if key != "shots")


def test_a_viewer_has_the_answer_its_tokens_and_the_overall_score_first(prompted: Run, tmp_path: Path) -> None:
    """`inspect view` shows an answer where its score has it, and the first few scores in its heading."""
    log = logged(prompted, tmp_path)
    assert log.results.scores[0].name == "overall"
    for sample, own in zip(log.samples, prompted.data["samples"], strict=True):
        score = sample.scores["steering"]
        assert next(iter(score.value)) == "overall"
        assert score.answer == own["text"]
        assert [usage.output_tokens for usage in sample.model_usage.values()] == [own["tokens"]]


# The hub


@pytest.fixture
def steered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of a vector on the fake engine, whose fits are in the cache."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    (job,) = execute(make(Options(("diffmean",), backend="fake", limit=2)), tmp_path / "results")
    assert job.path, job.reason
    return read(job.path)


def test_a_folder_for_the_hub_holds_card_results_and_steerings(steered: Run, tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    bench("export", str(steered.path), "--format", "hub", "--out", str(folder))
    concepts = steered.data["concepts"]
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {"README.md", ".eval_results/steer-or-prompt.yaml", *(f"{name}.safetensors" for name in concepts)}
    for name in concepts:
        assert interchange.of_concept(folder, name).suffix == ".safetensors"
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    metrics, scale = steered.data["metrics"], steered.data["scale"]
    assert {r.metric_type: r.metric_value for r in card.data.eval_results} == {
        axis: metrics[axis] for axis in steered.data["axes"]
    }
    assert (card.data.library_name, card.data.get("base_model")) == ("steer-or-prompt", None)
    low, high = max(metrics["overall_low"], 0), min(metrics["overall_high"], scale)
    assert f"{low:.2f} to {high:.2f}" in card.text
    assert "-p imported.path=hf://OWNER/NAME" in card.text
    entries = huggingface_hub.parse_eval_result_entries(
        yaml.safe_load((folder / ".eval_results" / "steer-or-prompt.yaml").read_text("utf-8"))
    )
    assert {e.task_id: e.value for e in entries} == {f"axbench_{axis}": metrics[axis] for axis in steered.data["axes"]}


def test_a_card_names_the_bare_model_and_no_file_that_is_not_there(prompted: Run) -> None:
    card = huggingface_hub.ModelCard(hub_files(prompted, {})["README.md"].decode())
    assert card.data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert "There are no steering files here" in card.text
    assert ".safetensors" not in card.text


@pytest.mark.slow
@pytest.mark.parametrize("task", NAMES)
def test_a_run_of_every_task_has_a_card(task: str, fresh: Callable[..., Run]) -> None:
    run = fresh(task)
    files = hub_files(run, {})
    card = huggingface_hub.ModelCard(files["README.md"].decode())
    assert {r.metric_type for r in card.data.eval_results} == {
        axis for axis in run.data["axes"] if run.data["metrics"][axis] is not None
    }
    assert all(s["text"] not in card.content for s in run.data["samples"] if "text" in s)


def test_without_the_cache_the_card_goes_alone_and_the_command_says_why(
    steered: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "empty"))
    result = bench("export", str(steered.path), "--format", "hub", "--out", str(tmp_path / "repo"))
    assert "without the steerings: the fit of diffmean" in result.stderr
    assert not list((tmp_path / "repo").glob("*.safetensors"))


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, set[str]]]:
    """What a hub that takes everything was sent."""
    found: list[tuple[str, set[str]]] = []

    class Api:
        def create_repo(self, repo: str, exist_ok: bool) -> None:
            assert exist_ok

        def create_commit(self, repo: str, added: list[Any], commit_message: str) -> Any:
            found.append((repo, {one.path_in_repo for one in added}))
            return SimpleNamespace(commit_url=f"https://hub/{repo}/commit/1")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_x")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return found


def test_a_run_is_sent_to_the_hub_only_when_its_user_says_so(
    steered: Run, taken: list[tuple[str, set[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("export", str(steered.path), "--format", "hub", "--out", "hf://me/vectors")
    assert (
        "go to hf://me/vectors, which is public unless you made it private; say --yes"
        in bench(*command, expect=2).stderr
    )
    assert taken == []
    result = bench(*command, "--yes")
    assert "sent: https://hub/me/vectors/commit/1" in result.stderr
    ((repo, files),) = taken
    assert repo == "me/vectors"
    assert {"README.md", *(f"{name}.safetensors" for name in steered.data["concepts"])} < files
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert "hf auth login" in bench(*command, "--yes", expect=2).stderr
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in bench(*command, "--yes", expect=2).stderr
    assert len(taken) == 1


def test_other_formats_and_parts_of_a_repository_are_refused(prompted: Run) -> None:
    command = ("export", str(prompted.path), "--format")
    assert "hf:// is for --format hub" in bench(*command, "eee", "--out", "hf://me/v", expect=2).stderr
    assert "hf://me/v" in bench(*command, "hub", "--out", "hf://me/v/sub", expect=2).stderr
    assert "names no repository" in bench(*command, "hub", "--out", "hf://me", expect=2).stderr


# The command


def bench(*words: str, expect: int = 0, **env: str) -> Any:
    result = CliRunner().invoke(main, list(words), env=env)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == expect, result.stderr
    return result


def test_the_command_writes_the_files_and_again_the_same(prompted: Run, tmp_path: Path) -> None:
    command = ("export", str(prompted.path), "--format", "eee", "--out", str(tmp_path))
    rows = json.loads(bench(*command, "--json").stdout)
    assert {Path(row["path"]).relative_to(tmp_path).as_posix() for row in rows} == every_eval_files(prompted).keys()
    assert bench(*command).stdout.splitlines() == [row["path"] for row in rows]
    told = bench(*command, "--concept", "cooking", expect=2).stderr
    assert "--concept is for steerings" in told


def test_without_inspect_the_extra_is_named(prompted: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "inspect_ai.log", None)
    assert (
        "pip install 'steer-or-prompt[inspect]'"
        in bench("export", str(prompted.path), "--format", "inspect", expect=2).stderr
    )
