"""Bad input and bad luck: one line that says what, where and what to do; the right exit code; nothing half-written.

Names that do not exist, data that is not whole, a disk that is full, a network that is not there, files that
are damaged. A traceback is a failure of every test here.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from bench.cli.main import main
from bench.data.check import place

RUN = ("run", "--backend", "fake", "-n", "2")


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BENCH_RESULTS", str(tmp_path / "results"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def bench(*words: str) -> Result:
    result = CliRunner().invoke(main, list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception  # a user would see a traceback
    return result


def refused(words: tuple[str, ...], code: int, *parts: str) -> str:
    """`bench WORDS` ends with `code` and one `bench:` line that holds `parts`; returns the line."""
    result = bench(*words)
    lines = [line for line in result.stderr.splitlines() if line.startswith("bench:")]
    assert result.exit_code == code, result.output
    assert len(lines) == 1, result.stderr
    assert result.stderr.endswith(lines[0] + "\n")  # and nothing after it
    assert result.stdout == ""
    for part in parts:
        assert part in lines[0]
    return lines[0]


def below(folder: Path) -> list[str]:
    """Every file below `folder`."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


# Names and values


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("-m", "difmean"), ["unknown method 'difmean'", "did you mean 'diffmean'?"]),
        (("-m", "prompt+difmean"), ["did you mean 'diffmean'?"]),
        (("-m", "zzz*"), ["no method matches 'zzz*'"]),
        (("-t", "axbensh"), ["unknown task 'axbensh'", "did you mean 'axbench'?"]),
        (("--judge", "likelyhood"), ["unknown judge 'likelyhood'", "did you mean 'likelihood'?"]),
        (("--judge", "openai"), ["openai:MODEL"]),
        (("--judge", "likelihood:x"), ["judge 'likelihood' has no field 'model'"]),
        (("--backend", "fakee"), ["unknown backend 'fakee'", "did you mean 'fake'?"]),
        (("--backend", "hf", "--model", "nosuch"), ["unknown model 'nosuch'", "SmolLM2-135M-Instruct"]),
        (("--backend", "hf", "--model", "./nowhere/model"), ["unknown model './nowhere/model'"]),
        (("--preset", "standart"), ["unknown preset 'standart'", "did you mean 'standard'?"]),
        (("--strength", "iso"), ["unknown strength 'iso'", "norm"]),
        (("--compat", "axbensh"), ["unknown compatibility mode 'axbensh'", "axbench"]),
        (("--dtype", "float8"), ["unknown dtype 'float8'", "float32"]),
        (("--data", "concept11"), ["unknown data 'concept11'", "concept10"]),
        (("--data", __file__), [f"unknown data '{__file__}'", f"bench data import {__file__} --concept TEXT"]),
        (("--data", str(place("mini"))), ["the shipped set is laid out so", "--data mini"]),
        (("--prompter", "gpt-4o-mini", "-m", "prompt-engineered"), ["unknown prompter", "openai:MODEL"]),
        (("-p", "diffmean.layr=2"), ["has no field 'layr'", "did you mean 'layer'?"]),
        (("-p", "difmean.layer=2"), ["did you mean 'diffmean'?"]),
        (("-p", "diffmean.layer=middle"), ["layer = 'middle' is not an index, a depth from 0 to 1"]),
        (("-p", "diffmean.layer"), ["-p diffmean.layer: write name.field=value"]),
        (("-p", "layer=2"), ["write name.field=value"]),
        (("-p", "axbench.protocol=quick"), ["axbench.protocol"]),
        (("-m", "lat", "-p", "lat.orient=maybe"), ["lat.orient = 'maybe' is not true or false"]),
        (("--config", "/nowhere/run.toml"), ["nowhere/run.toml cannot be read: No such file or directory"]),
        (("prompt", "none"), ["bench run takes no 'prompt' by itself: methods are named by -m prompt,none"]),
        (("--plugin", "/nowhere/mine.py"), ["no plugin file /nowhere/mine.py"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_word_is_named_with_the_nearest_right_one(
    tmp_path: Path, words: tuple[str, ...], parts: list[str]
) -> None:
    refused((*RUN, "-m", "diffmean", *words), 2, *parts)
    assert not (tmp_path / "results").exists()
    assert not (tmp_path / "cache" / "rows").exists()


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (("show", "nosuch"), 2, "/results/: it is empty"),
        (("compare", "one", "two"), 2, "no run 'one'"),
        (("report",), 2, "no runs in"),
        (("check", "difmean"), 2, "did you mean 'diffmean'?"),
        (("models", "fetch", "nosuch"), 2, "unknown model 'nosuch'"),
        (("models", "path"), 1, "run: bench models fetch SmolLM2-135M-Instruct"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_the_other_commands_refuse_in_one_line_too(words: tuple[str, ...], code: int, part: str) -> None:
    refused(words, code, part)


@pytest.mark.slow
def test_a_layer_the_model_lacks_is_told_before_the_run_with_the_layers_there_are(tmp_path: Path) -> None:
    done = bench(*RUN, "-m", "diffmean,none", "-p", "diffmean.layer=99", "--json")
    assert done.exit_code == 0
    failed, none = json.loads(done.stdout)["runs"]
    assert failed["status"] == "unsupported"
    assert failed["reason"] == "layer 99 does not exist: the model has layers 0 to 3"
    assert "diffmean: unsupported: layer 99 does not exist" in done.stderr
    assert none["status"] == "complete"
    assert sorted(Path(name).name for name in below(tmp_path / "results")) == ["run.json", "trials.jsonl"]
    for layer in ("-5", "1.0", "-0.5", "4"):
        done = bench(*RUN, "-m", "diffmean", "-p", f"diffmean.layer={layer}", "--json")
        assert done.exit_code == 2
        assert "does not exist" in json.loads(done.stdout)["runs"][0]["reason"]


def test_a_parameter_that_json_cannot_hold_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    words = (*RUN, "-m", "prompt-engineered", "-p", "prompt-engineered.temperature=nan")
    refused(words, 2, "prompt-engineered.temperature")
    assert not (tmp_path / "cache" / "rows").exists()


@pytest.mark.slow
def test_a_judge_without_a_key_is_said_to_lack_one(tmp_path: Path) -> None:
    refused((*RUN, "-m", "none", "--judge", "openai:some-model"), 2, "OPENAI_API_KEY", "OPENAI_BASE_URL")
    assert not (tmp_path / "results").exists()


PLUGINS = {
    "a syntax error": "def f(:\n    pass\n",
    "a missing import": "import nosuchmodule\n",
    "an error of its own": "raise ValueError('two\\nlines')\n",
    "a class that is no dataclass": (
        "from bench import Fitted, Method, method\n"
        "@method('plain', surface='activations')\n"
        "class Plain(Method):\n"
        "    def fit(self, ctx, train):\n"
        "        return [Fitted()]\n"
    ),
    "an abstract class": (
        "from dataclasses import dataclass\n"
        "from bench import Method, method\n"
        "@method('plain', surface='activations')\n"
        "@dataclass(frozen=True)\n"
        "class Plain(Method):\n"
        "    layer: int = 1\n"
    ),
}


@pytest.mark.parametrize("what", PLUGINS)
def test_a_plugin_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path, what: str) -> None:
    path = tmp_path / "broken_plugin.py"
    path.write_text(PLUGINS[what])
    name = "none" if what.split()[-1] not in ("dataclass", "class") else "plain"
    refused((*RUN, "--plugin", str(path), "-m", name), 2, "plain" if name == "plain" else "broken_plugin.py")


# Data in AxBench's layout


def rows(concept: int, category: str, count: int, genre: str = "text", kind: str = "train") -> list[dict[str, Any]]:
    texts = {
        "positive": f"All about subject {concept}, again and again",
        "negative": "Plain words of no subject at all",
    }
    return [
        {
            "input": f"{kind} question {concept} {category} {i}?",
            "output": f"{texts.get(category, 'Nearly the subject but not')}, number {i} of them.",
            "output_concept": f"subject {concept}" if concept >= 0 else "EEEEE",
            "concept_genre": genre,
            "category": category,
            "dataset_category": "instruction",
            "concept_id": concept,
        }
        for i in range(count)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small whole folder: three concepts, the last of another genre."""
    genres = {0: "text", 1: "text", 2: "code"}
    train = [row for k, genre in genres.items() for row in rows(k, "positive", 8, genre)]
    train += rows(-1, "negative", 8, "text") + rows(-2, "negative", 8, "code")
    held = [
        row
        for k, genre in genres.items()
        for category in ("positive", "negative", "hard negative")
        for row in rows(k, category, 3, genre, "held")
    ]
    folder = tmp_path / "axbench-folder"
    for part in ("generate", "inference"):
        (folder / part).mkdir(parents=True)
    pd.DataFrame(train).to_parquet(folder / "generate" / "train_data.parquet")
    pd.DataFrame(held).to_parquet(folder / "inference" / "latent_eval_data.parquet")
    lines = [json.dumps({"concept_id": k, "concept": f"the subject called {k}", "ref": "x"}) for k in genres]
    (folder / "generate" / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def edit(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_parquet(path)).to_parquet(path)


TRAIN, HELD = Path("generate", "train_data.parquet"), Path("inference", "latent_eval_data.parquet")


@pytest.mark.slow
def test_a_whole_folder_runs(folder: Path) -> None:
    done = bench("run", "--backend", "fake", "-m", "none,diffmean,prompt", "--data", str(folder), "--json")
    assert done.exit_code == 0, done.stderr
    runs = json.loads(done.stdout)["runs"]
    assert [run["status"] for run in runs] == ["complete"] * 3
    train = set(pd.read_parquet(folder / TRAIN).input)
    held = pd.read_parquet(folder / HELD)
    for run in runs:
        data = json.loads(Path(run["path"]).read_text("utf-8"))
        assert [c["text"] for c in data["concepts"].values()] == [f"the subject called {k}" for k in range(3)]
        assert [c["genre"] for c in data["concepts"].values()] == ["text", "text", "code"]
        for sample in data["samples"]:
            own = set(held[held.concept_id == int(sample["concept"])].input)
            assert sample["instruction"] in own - train
    again = bench("run", "--config", runs[0]["path"], "--json")  # a replay finds the folder again
    assert json.loads(again.stdout)["runs"][0]["status"] == "cached"


@pytest.mark.slow
def test_without_metadata_the_table_names_the_concepts(folder: Path) -> None:
    (folder / "generate" / "metadata.jsonl").unlink()
    done = bench(*RUN, "-m", "none", "--data", str(folder), "--json")
    assert done.exit_code == 0, done.stderr
    data = json.loads(Path(json.loads(done.stdout)["runs"][0]["path"]).read_text("utf-8"))
    assert [c["text"] for c in data["concepts"].values()] == ["subject 0", "subject 1"]


@pytest.mark.slow
def test_alpaca_eval_beside_it_is_asked_instead(folder: Path) -> None:
    asked = [f"Alpaca question {i}?" for i in range(12)]
    (folder / "alpaca_eval.json").write_text(json.dumps([{"instruction": text} for text in asked]))
    done = bench(*RUN, "-m", "none", "--data", str(folder), "--json")
    assert done.exit_code == 0, done.stderr
    data = json.loads(Path(json.loads(done.stdout)["runs"][0]["path"]).read_text("utf-8"))
    drawn = list(pd.Series(asked).sample(10, random_state=1))  # AxBench's own draw for concept 1
    assert [s["instruction"] for s in data["samples"] if s["concept"] == "1"] == drawn[5:8]


def unlink(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def change(name: Path, how: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    return lambda folder: edit(folder / name, how)


BROKEN: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "no training table": (
        unlink(str(TRAIN)),
        ["generate/train_data.parquet: there is no such file", "AxBench's layout"],
    ),
    "no evaluation table": (unlink(str(HELD)), ["inference/latent_eval_data.parquet: there is no such file"]),
    "a column is missing": (
        change(TRAIN, lambda t: t.drop(columns="output")),
        ["train_data.parquet: it lacks the column output"],
    ),
    "two columns are missing": (
        change(HELD, lambda t: t.drop(columns=["category", "input"])),
        ["latent_eval_data.parquet: it lacks the columns input, category"],
    ),
    "a concept has no positives": (
        change(TRAIN, lambda t: t[t.concept_id != 1]),
        ["concept 1 ('the subject called 1') has no positive training texts"],
    ),
    "a genre has no negatives": (
        change(TRAIN, lambda t: t[t.concept_id != -2]),
        ["concept 2", "has no negative training texts"],
    ),
    "a concept has too few instructions": (
        change(HELD, lambda t: t[(t.concept_id != 1) | (t.category == "positive")]),
        ["concept 1 ('the subject called 1') has 3 evaluation instructions"],
    ),
    "a training instruction is asked again": (
        write("alpaca_eval.json", json.dumps([{"instruction": f"train question 0 positive {i}?"} for i in range(10)])),
        ["alpaca_eval.json row 0: concept 0: the instruction is a training instruction"],
    ),
    "no concept at all": (
        lambda folder: (
            (folder / "generate" / "metadata.jsonl").unlink(),
            edit(folder / TRAIN, lambda t: t[t.category == "negative"]),
        ),
        ["concept"],
    ),
    "the table is not a table": (write(str(TRAIN), "not parquet"), ["train_data.parquet"]),
    "the metadata is torn": (write("generate/metadata.jsonl", '{"concept_id": 0, "conc'), ["metadata.jsonl"]),
    "the metadata lacks a field": (write("generate/metadata.jsonl", '{"id": 0}\n'), ["metadata.jsonl"]),
    "fewer instructions than are drawn": (
        write("alpaca_eval.json", json.dumps([{"instruction": f"Question {i}?"} for i in range(6)])),
        ["alpaca_eval.json"],
    ),
    "the instructions are of another form": (write("alpaca_eval.json", '["Question?"]'), ["alpaca_eval.json"]),
    "a number is no number": (
        change(TRAIN, lambda t: t.assign(concept_id=t.concept_id + 0.7)),
        ["generate/train_data.parquet row 0: concept_id is 0.7, which is no whole number"],
    ),
    "a number is a truth": (
        change(TRAIN, lambda t: t.assign(concept_id=t.concept_id > 0)),
        ["concept_id is False, not a number"],
    ),
    "texts are bytes": (change(TRAIN, lambda t: t.assign(output=b"x")), ["row 0: output is b'x', not a text"]),
    "texts are lists": (
        change(TRAIN, lambda t: t.assign(output=[["x"]] * len(t))),
        ["row 0: output is ['x'], not a text"],
    ),
    "an unknown category": (
        change(TRAIN, lambda t: t.assign(category=["other", *t.category[1:]])),
        ["row 0: category is 'other', none of 'positive', 'negative'"],
    ),
    "all answers are empty": (change(TRAIN, lambda t: t.assign(output=" ")), ["has an empty response", "more)"]),
    "positives are negatives": (
        change(TRAIN, lambda t: t.assign(output="the same")),
        ["concept 0", "has no positive training text that is not a negative one too"],
    ),
    "a concept is blank": (
        write("generate/metadata.jsonl", '{"concept_id": 0, "concept": " "}\n'),
        ["generate/metadata.jsonl row 0: concept 0 has no text"],
    ),
    "a concept is null": (
        write("generate/metadata.jsonl", '{"concept_id": 0, "concept": null}\n'),
        ["generate/metadata.jsonl row 0: not a concept: concept is None, not a text"],
    ),
    "a training instruction is asked in capitals": (
        write("alpaca_eval.json", json.dumps([{"instruction": f"TRAIN question 0  positive {i}?"} for i in range(10)])),
        ["alpaca_eval.json row 0: concept 0: but for case and spaces its instruction is a training instruction"],
    ),
    "a question is asked twice but for a space": (
        write("alpaca_eval.json", json.dumps([{"instruction": f"Q {i // 2}?{' ' * (i % 2)}"} for i in range(20)])),
        ["alpaca_eval.json row 1: it asks row 0 again: selection and test may share it"],
    ),
    "a text is missing": (
        change(TRAIN, lambda t: t.assign(output=[None, *t.output[1:]])),
        ["generate/train_data.parquet row 0: output is None, not a text"],
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_folder_that_is_not_whole_is_refused(tmp_path: Path, folder: Path, what: str) -> None:
    spoil, parts = BROKEN[what]
    spoil(folder)
    refused(("run", "--backend", "fake", "-m", "none", "--data", str(folder)), 1, *parts)
    assert not (tmp_path / "results").exists()
    assert not (tmp_path / "cache" / "rows").exists()


def test_a_folder_without_anything_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused((*RUN, "--data", str(tmp_path / "empty")), 1, "AxBench's layout")


# Models


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    words = ("run", "-m", "none", "--model", str(folder))
    refused(words, 2, "without config.json")
    (folder / "config.json").write_text("{}")
    refused(words, 1, "holds no weights")
    (folder / "model.safetensors").write_bytes(b"x")
    refused((*words, "--dtype", "float8"), 2, "unknown dtype 'float8'")
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_weights_that_are_cut_off_are_refused_in_one_line(tmp_path: Path) -> None:
    """As an interrupted copy leaves them."""
    from bench.backends import tiny

    folder = tiny.build(tmp_path / "cut-model").path
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    refused(("run", "-m", "none", "-n", "1", "--model", str(folder), "--dtype", "float32"), 1, "cut-model")
    assert not (tmp_path / "results").exists()


# No network


@pytest.mark.slow
@pytest.mark.parametrize("words", [("--data", "concept10"), ("--backend", "hf", "--model", "nobody/nothing")])
def test_without_a_network_it_says_what_could_not_be_fetched(tmp_path: Path, words: tuple[str, ...]) -> None:
    """In a process of its own: the hub client reads its environment when it is imported."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    command = [sys.executable, "-m", "bench", "run", "--backend", "fake", "-m", "none", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("bench: cannot fetch ")
    assert done.stderr.count("\n") == 1
    assert "the hub" in done.stderr
    assert not (tmp_path / "results").exists()


# No disk space


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may grow above `size` bytes: writes fail half-way, as on a full disk, in real system calls."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def outcome(folder: Path) -> dict[str, Any]:
    """What decides the numbers of every run below `folder`."""
    found = {}
    for path in folder.rglob("run.json"):
        data = json.loads(path.read_text("utf-8"))
        concepts = {k: {n: v for n, v in c.items() if n != "fit_seconds"} for k, c in data["concepts"].items()}
        found[data["spec"]["method"]] = (data["id"], data["metrics"], data["samples"], concepts)
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_CACHE", str(root / "cache"))
        assert bench(*RUN, "-m", "none,diffmean", "--results", str(root / "results")).exit_code == 0
    return outcome(root / "results")


@pytest.mark.slow
@pytest.mark.parametrize(("size", "where"), [(600, "fit"), (4000, "judge"), (2500, "generate")])
def test_a_disk_that_fills_up_ends_in_one_line_and_the_same_command_resumes(
    tmp_path: Path, undisturbed: dict[str, Any], size: int, where: str
) -> None:
    if where != "judge":  # the judge's calibration comes first: here it is stored before
        assert bench(*RUN, "-m", "none").exit_code == 0
    rows, fits = tmp_path / "cache" / "rows", tmp_path / "cache" / "fits"
    stored = {path: path.read_bytes() for path in rows.rglob("*.jsonl")}
    words = (*RUN, "-m", "none,diffmean")
    with full_disk(size):
        refused(words, 1, "File too large")
    assert not list((tmp_path / "results").rglob("diffmean-*"))
    reached = {path.relative_to(rows).parts[0] for path in rows.rglob("*.jsonl") if path not in stored}
    expected = {"fit": set(), "judge": {"evidence"}, "generate": {"units", "generations"}}
    assert reached == expected[where], "it went on when the disk was full, or was stopped elsewhere"
    assert {path: path.read_bytes() for path in stored} == stored
    for path in fits.glob("[!.]*"):
        assert (path / "key.json").is_file(), f"{path.name} is not whole"
    assert bench(*words).exit_code == 0
    assert outcome(tmp_path / "results") == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("how", ["while writing", "while syncing"])
def test_a_run_json_that_does_not_fit_is_not_there_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    words = (*RUN, "-m", "none")
    assert bench(*words, "--results", str(tmp_path / "elsewhere" / "results")).exit_code == 0  # every row is stored
    reason = "File too large" if how == "while writing" else os.strerror(errno.ENOSPC)
    if how == "while writing":
        with full_disk(3000):
            refused(words, 1, "cannot write none", reason, "the same command writes it")
    else:
        with monkeypatch.context() as patch:

            def full(descriptor: int) -> None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            patch.setattr(os, "fsync", full)
            refused(words, 1, "cannot write none", reason, "the same command writes it")
    assert below(tmp_path / "results") == []  # neither run.json nor a temporary file
    done = bench(*words, "--json")
    assert json.loads(done.stdout)["runs"][0]["status"] == "complete"
    assert "0 generations made now" in done.stderr


@pytest.mark.slow
def test_a_report_that_does_not_fit_leaves_the_old_one_whole(tmp_path: Path) -> None:
    """100 bytes stop the table, 5000 a picture."""
    assert bench(*RUN, "-m", "none").exit_code == 0
    reports = tmp_path / "reports"
    before = {name: (reports / name).read_bytes() for name in below(reports)}
    assert {Path(name).suffix for name in before} >= {".csv", ".html", ".json", ".md", ".png", ".svg"}
    for size in (100, 5000):
        with full_disk(size):
            refused(("report",), 1, "File too large")
        left = {name: (reports / name).read_bytes() for name in below(reports)}
        assert sorted(left) == sorted(before), "a temporary file stays"
        assert [name for name in before if left[name] != before[name]] == []


@pytest.mark.slow
def test_a_results_folder_that_cannot_be_one_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a regular file")
    words = (*RUN, "-m", "none", "--results", str(tmp_path / "file" / "results"))
    refused(words, 1, "none", "Not a directory")
    assert (tmp_path / "file").read_text() == "a regular file"
    done = bench(*RUN, "-m", "none")
    assert done.exit_code == 0
    assert "0 generations made now" in done.stderr  # what was generated before is not lost


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("a regular file")
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "file" / "cache"))
    refused((*RUN, "-m", "diffmean"), 1, "Not a directory")
    assert not (tmp_path / "results").exists()


# Damaged files


DAMAGE = {
    "torn": '{"version": 1, "spec": {"met',
    "empty": "",
    "another shape": "[]",
    "another version": '{"version": 99}',
    "without its parts": '{"version": 1, "id": "abc"}',
    "not text": "\udcff\udcfe",
}


def damaged(root: Path, what: str, name: str = "damaged-0123456789") -> Path:
    path = root / "axbench" / "fake" / name / "run.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(DAMAGE[what].encode("utf-8", "surrogateescape"))
    return path


@pytest.mark.parametrize("what", DAMAGE)
@pytest.mark.parametrize("command", ["report", "list", "show", "show by path", "compare"])
def test_a_damaged_run_is_named_and_nothing_is_reported_over_it(tmp_path: Path, what: str, command: str) -> None:
    path = damaged(tmp_path / "results", what)
    words = {
        "report": ("report",),
        "list": ("list", "runs"),
        "show": ("show", "damaged"),
        "show by path": ("show", str(path)),
        "compare": ("compare", "damaged", "other"),
    }[command]
    refused(words, 1, "damaged-0123456789/run.json")
    assert not (tmp_path / "reports").exists()


@pytest.mark.slow
@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_result_of_its_own_is_made_again(tmp_path: Path, what: str) -> None:
    planned = json.loads(bench(*RUN, "-m", "none", "--dry-run", "--json").stdout)["runs"][0]
    damaged(tmp_path / "results", what, f"none-{planned['id']}")
    done = bench(*RUN, "-m", "none", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["runs"][0]["status"] == "complete"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fit.safetensors", "key.json"])
def test_a_damaged_fit_ends_in_no_traceback_and_in_no_wrong_number(
    tmp_path: Path, undisturbed: dict[str, Any], name: str
) -> None:
    """Made again, or named in one line: both are right; a result from half a fit is not."""
    assert bench(*RUN, "-m", "diffmean", "--results", str(tmp_path / "elsewhere" / "results")).exit_code == 0
    for path in (tmp_path / "cache" / "fits").glob(f"*/{name}"):
        path.write_bytes(path.read_bytes()[:20])
    done = bench(*RUN, "-m", "diffmean")
    assert done.exit_code in (0, 1)
    for method, found in outcome(tmp_path / "results").items():
        assert found == undisturbed[method]
    assert done.exit_code == 0 or "fit" in done.stderr


def test_a_run_beside_a_damaged_one_still_tells_its_outcome(tmp_path: Path) -> None:
    """What was asked for is complete and written; that no report can be made of the folder is a line more."""
    damaged(tmp_path / "results", "another version")
    done = bench(*RUN, "-m", "none", "--json")
    assert json.loads(done.stdout)["runs"][0]["status"] == "complete"
    assert "damaged-0123456789/run.json" in done.stderr


# Values of options and fields


@pytest.mark.parametrize(
    "words",
    [
        ("run", "--seed", "-1"),
        ("run", "--max-cost", "nan"),
        ("run", "--max-unscored", "inf"),
        ("run", "-n", "1" + "0" * 30),
        ("judge", "sample", "none", "--out", "x.csv", "--seed", "-1"),
        ("power", "a", "b", "--alpha", "nan"),
        ("power", "a", "b", "-d", "nan"),
        ("capability", "a", "--coefficient", "inf"),
    ],
)
def test_an_option_takes_numbers_that_mean_something(words: tuple[str, ...]) -> None:
    result = bench(*words)
    assert result.exit_code == 2
    assert "Invalid value for" in result.stderr


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("prompt-best-of-n.n=99999999999999999999", "is not a whole number"),
        ("prompt-best-of-n.n=5000", "2 to 1000 answers"),
        ("lora.rank=0", "is not from 1 to 1e+06"),
        ("lora.rate=-1", "is not from 1e-12 to 1e+06"),
        ("iti.share=2", "is not from 0 to 1"),
        ("protocol.answers=1000000000", "at least 1, at most 1000"),
        ("prompt-engineered.temperature=-1", "is not from 0"),
    ],
)
def test_a_field_takes_numbers_that_mean_something(field: str, said: str) -> None:
    method = "none" if field.startswith("protocol") else field.partition(".")[0]
    refused((*RUN, "-m", method, "--dry-run", "-p", field), 2, said)


@pytest.mark.parametrize("option", ["--model", "--data"])
def test_the_home_of_a_user_who_is_not_there_is_told(option: str) -> None:
    refused((*RUN, "-m", "none", "--backend", "hf", option, "~nosuchuser/x"), 2, "~nosuchuser/x")


# Packages


def test_a_package_that_cannot_be_imported_is_named_and_left_out(tmp_path: Path) -> None:
    """In a process of its own: entry points are looked up once."""
    folder = tmp_path / "site" / "broken_steering-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-steering\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[bench.methods]\nmine = broken_steering:Mine\n")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "bench", "list", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert "diffmean" in [row["name"] for row in json.loads(done.stdout)]
    said = "bench: package broken-steering is left out: its method mine cannot be loaded: ModuleNotFoundError: "
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1


# One file damaged among others


@pytest.mark.slow
def test_a_damaged_run_keeps_no_other_from_being_listed_and_shown(tmp_path: Path) -> None:
    assert bench(*RUN, "-m", "none,diffmean").exit_code == 0
    path = next((tmp_path / "results").rglob("diffmean-*/run.json"))
    data = json.loads(path.read_text("utf-8"))
    data["samples"][0]["ratings"]["overall"] = 7.5
    path.write_text(json.dumps(data))
    said = f"{path.parent.name}/run.json is not a run of this program: samples.0.ratings.overall is 7.5"
    listed = bench("list", "runs")
    assert listed.exit_code == 1
    assert "none-" in listed.stdout
    assert said in listed.stderr
    assert bench("show", "none").exit_code == 0
    for words in (("report",), ("show", "diffmean"), ("compare", "none", "diffmean")):
        refused(words, 1, said)


@pytest.mark.slow
@pytest.mark.parametrize("gone", ["instruction", "text", "tokens", "touched", "reasons"])
def test_an_answer_is_shown_without_what_its_run_does_not_hold(tmp_path: Path, gone: str) -> None:
    assert bench(*RUN, "-m", "none,diffmean").exit_code == 0
    path = next((tmp_path / "results").rglob("diffmean-*/run.json"))
    data = json.loads(path.read_text("utf-8"))
    row = data["samples"][0]
    row.pop(gone, None)
    path.write_text(json.dumps(data))
    for words in (("show", "diffmean"), ("show", "diffmean", "--sample", row["id"]), ("report",)):
        assert bench(*words).exit_code == 0, words
