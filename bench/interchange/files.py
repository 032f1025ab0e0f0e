"""Steerings in the files of other programs: GGUF control vectors, lm-eval's `.pt`, plain tensors by layer.

Invariant: `load` gives what `save` was given, fp32 exact; what a format cannot hold is refused before a
byte is written. Only ours, `.safetensors`, holds every steering.

Every format counts blocks from 0 and adds at a block's output, as `Add.layer` does. None of the others
holds positions: their programs add at every token, where `Span()` leaves out the first (an attention sink) and
what else every chat begins with; `load` gives `Span(sink=sink)`.
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from safetensors import SafetensorError, safe_open

from bench.core import adapter_folder
from bench.core.content import Array
from bench.core.deltas import LowRankDelta
from bench.core.documents import read_json
from bench.core.edits import Edit, Span
from bench.core.errors import BenchError, UsageError, suggest
from bench.core.kinds import Add, Clamp
from bench.core.steering import Prompt, Steering
from bench.core.store import load_value, pack, write_whole

SUFFIX = {"safetensors": ".safetensors", "gguf": ".gguf", "lm-eval": ".pt", "json": ".json"}
"""Formats that are written, and the suffix of their files."""
READABLE = (*SUFFIX, "steering-vectors")
_GUESS = {".gguf": "gguf", ".safetensors": "safetensors", ".pt": "lm-eval", ".pth": "lm-eval", ".json": "json"}
SUFFIXES = tuple(_GUESS)
"""Of files that may hold a steering."""


def save(path: Path | str, steering: Steering, format: str = "", hint: str = "", blocks: str = "layers") -> None:
    """Write `steering` as a whole file, in the format `format`, else that of its suffix; raises as `encode`."""
    write_whole(Path(path), encode(steering, format or guess(Path(path)), hint, blocks))


def encode(steering: Steering, form: str, hint: str = "", blocks: str = "layers") -> bytes:
    """The bytes of a file of `steering`.

    `hint` is the model type a GGUF file names; `blocks` the name of the list of blocks inside the model's
    base model, which lm-eval looks up (`layers` in Llama, `h` in GPT-2). Raises BenchError, naming the
    part, for what `form` cannot hold.
    """
    if _known(form, SUFFIX) == "gguf":
        return _gguf(steering, hint)
    if form == "json":
        return _prompt_json(steering)
    return pack(steering) if form == "safetensors" else _lm_eval(steering, blocks)


def load(path: Path | str, format: str = "", sink: bool = False, layer: int | None = None) -> Steering:
    """The steering in `path`; `format` is guessed from the suffix.

    `steering-vectors` is a mapping from layer to vector, in a `.pt` or `.safetensors` file: that library
    has no format of its own, so its users save `vector.layer_activations`, or a dict that holds it. A layer
    below 0 counts from the end, and stays as it is. Layers whose vector is zero are left out. A file of one bare
    vector says of no layer, so that `layer` has to.
    """
    path = Path(path)
    form = _known(format or guess(path), READABLE)
    if not path.is_file():
        raise UsageError(f"no file {path}")
    try:
        if form == "gguf":
            return _added(_read_gguf(path), sink, path)
        if form == "json":
            return _read_prompt_json(path)
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                ours = "value" in (file.metadata() or {})
                tensors = {} if ours else {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return _ours(path) if ours else _added(_by_layer(tensors, layer), sink, path)
        found = _unpickled(path)
        if form == "lm-eval" and all(isinstance(v, Mapping) and "action" in v for v in found.values()):
            return _read_lm_eval(found, sink, path)
        return _added(_by_layer(found, layer), sink, path)
    except (SafetensorError, ValueError, TypeError, KeyError, IndexError) as error:
        raise BenchError(f"{path.name} is not a {form} steering: {str(error).partition(chr(10))[0]}") from error


def _prompt_json(steering: Steering) -> bytes:
    """A prompt as text that anyone can read: system, prefix and suffix of the question, example turns."""
    if steering.inside:
        raise BenchError("json holds prompts alone, and this steering changes the model too: take safetensors")
    prompt = steering.prompt
    data = {"system": prompt.system, "prefix": prompt.prefix, "suffix": prompt.suffix, "shots": prompt.shots}
    return (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")


class PromptFile(TypedDict):
    """A prompt as `_prompt_json` writes it."""

    system: str
    prefix: str
    suffix: str
    shots: list[tuple[str, str]]


def _read_prompt_json(path: Path) -> Steering:
    data = read_json(path, PromptFile, "a json steering")
    texts = {name: data[name] for name in ("system", "prefix", "suffix")}
    return Steering(Prompt(**texts, shots=tuple((user, answer) for user, answer in data["shots"])))


def _ours(path: Path) -> Steering:
    found = load_value(path)
    if not isinstance(found, Steering):
        raise BenchError(f"{path.name} holds a {type(found).__name__}, not a Steering")
    return found


def guess(path: Path) -> str:
    """The format a file's suffix stands for."""
    if path.suffix not in _GUESS:
        raise UsageError(f"{path.name}: which format is {path.suffix or 'this'}? Give one of {', '.join(READABLE)}")
    return _GUESS[path.suffix]


def _known(form: str, forms: Any) -> str:
    if form not in forms:
        raise UsageError(f"unknown format {form!r}: {suggest(form, forms)}")
    return form


def adapter(steering: Steering, base: str) -> dict[str, bytes]:
    """File name -> content of `steering` as a peft folder for the model `base`; raises as `encode`."""
    parts = {"a mix of two prompts": steering.mixing is not None, "a prompt edit": steering.prompt != Prompt()}
    parts["a soft prompt"] = bool(steering.embeds)
    parts |= {f"a {type(edit).__name__} edit at layer {edit.layer}": True for edit in steering.edits}
    parts |= {f"a {type(d).__name__} of {d.module}": not isinstance(d, LowRankDelta) for d in steering.deltas}
    for part, present in parts.items():
        if present:
            raise _refuse(part, "peft")
    if not steering.deltas:
        raise BenchError("peft holds low-rank weight changes, and this steering has none")
    return adapter_folder.encode(steering.deltas, base)


# What a format cannot hold


def _refuse(part: str, form: str) -> BenchError:
    return BenchError(f"{form} cannot hold {part}; --format safetensors can")


def _check(steering: Steering, form: str, kinds: tuple[type[Edit], ...]) -> None:
    """Refuse all but `kinds` of edits on the residual stream of every row at every position."""
    parts = {"a mix of two prompts": steering.mixing is not None, "a prompt edit": steering.prompt != Prompt()}
    parts |= {"a weight delta": bool(steering.deltas), "a soft prompt": bool(steering.embeds)}
    for edit in steering.edits:
        where = f" ({type(edit).__name__} at layer {edit.layer})"
        parts |= {
            f"a gate{where}": edit.gate is not None,
            f"an edit of the {edit.site} output{where}": edit.site != "resid",
            f"the span {edit.span.part!r}{where}": edit.span.part != "all" or edit.span.offset > 0,
            f"this edit{where}": not isinstance(edit, kinds),
        }
        if isinstance(edit, Add):
            parts |= {f"one vector per position{where}": edit.value.ndim != 1}
            parts |= {f"a signed vector{where}": edit.signed, f"a norm-keeping vector{where}": edit.keep_norm}
    for part, present in parts.items():
        if present:
            raise _refuse(part, form)
    if not steering.edits:
        raise BenchError(f"there is no vector to write as {form}: the steering changes nothing inside the model")


def _vectors(steering: Steering) -> dict[int, Array]:
    """layer -> `[H]`, several added vectors at one layer summed."""
    found: dict[int, Array] = {}
    for edit in steering.edits:
        if isinstance(edit, Add):
            found[edit.layer] = found.get(edit.layer, np.float32(0)) + edit.value.astype(np.float32)
    return dict(sorted(found.items()))


# GGUF


def _gguf(steering: Steering, hint: str) -> bytes:
    """A control vector as repeng and llama.cpp keep it: `direction.N`, F32, one per block.

    llama.cpp adds `direction.N` to the output of block N counted from 0 (`build_cvec` after the block's
    last residual sum), and repeng to `layers[N]`, from what it read at `hidden_states[N + 1]`: N is
    `Add.layer`. llama.cpp has no place for block 0 and rejects a file that holds `direction.0`.
    """
    from gguf import GGUFWriter

    _check(steering, "gguf", (Add,))
    vectors = _vectors(steering)
    if 0 in vectors:
        raise _refuse("a vector at the output of block 0 (llama.cpp rejects direction.0)", "gguf")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vector.gguf"
        writer = GGUFWriter(path, "controlvector")
        writer.add_string("controlvector.model_hint", hint)
        writer.add_uint32("controlvector.layer_count", len(vectors))
        for layer, vector in vectors.items():
            writer.add_tensor(f"direction.{layer}", np.ascontiguousarray(vector))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def _read_gguf(path: Path) -> dict[int, Array]:
    from gguf import GGUFReader

    reader = GGUFReader(path)
    field = reader.get_field("general.architecture")
    if field is None or (kind := field.contents()) != "controlvector":
        raise ValueError(f"it holds {'no architecture' if field is None else kind!r}, not a control vector")
    names = {tensor.name: tensor for tensor in reader.tensors if tensor.name.startswith("direction.")}
    for name, tensor in names.items():
        if tensor.tensor_type.name not in ("F32", "F16"):
            raise ValueError(f"{name} is {tensor.tensor_type.name}, not F32")
    return {int(name.partition(".")[2]): np.array(tensor.data, np.float32) for name, tensor in names.items()}


# lm-eval


def _lm_eval(steering: Steering, blocks: str) -> bytes:
    """What `lm_eval --model steered` takes as `steer_path`: module name -> one action on its output.

    `add` is h + coefficient · vector. `clamp` is h + (coefficient - h·d) d with d the unit vector. Version
    0.4.9.2 or later: before, a file with several layers added its last vector at each of them.
    """
    import torch

    _check(steering, "lm-eval", (Add, Clamp))
    actions = {layer: ("add", vector, 1.0) for layer, vector in _vectors(steering).items()}
    for clamp in (edit for edit in steering.edits if isinstance(edit, Clamp)):
        if clamp.layer in actions:
            raise _refuse(f"a Clamp beside another edit (layer {clamp.layer})", "lm-eval")
        actions[clamp.layer] = ("clamp", *_clamped(clamp))
    content = {
        f"{blocks}.{layer}": {
            "steering_vector": torch.from_numpy(np.array(vector, np.float32)),
            "steering_coefficient": value,
            "action": action,
            "bias": None,
            "head_index": None,
        }
        for layer, (action, vector, value) in sorted(actions.items())
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _clamped(edit: Clamp) -> tuple[Array, float]:
    """Unit direction and value of a Clamp that sets the coordinate h·d, whatever it was."""
    norm = float(np.linalg.norm(edit.read))
    if edit.at_least or edit.threshold != -np.inf or not np.allclose(edit.write * norm**2, edit.read, rtol=1e-4):
        part = "a Clamp with a threshold, a lower bound, or a write that is not read / ‖read‖²"
        raise _refuse(f"{part} (layer {edit.layer})", "lm-eval")
    return edit.read / np.float32(norm), (edit.target - edit.bias) / norm


def _read_lm_eval(found: Mapping[str, Mapping[str, Any]], sink: bool, path: Path) -> Steering:
    edits: list[Edit] = []
    added: dict[int, Array] = {}
    for name, entry in found.items():
        place = re.fullmatch(r"(?:.*\.)?(?:layers|h|blocks|block)\.(\d+)", name)
        if not place or entry.get("head_index") is not None:
            what = f"{name!r} is not a block" if not place else f"{name!r} steers one attention head"
            raise ValueError(f"{what}: only whole blocks are read")
        layer, vector = int(place[1]), _array(entry["steering_vector"])
        value, bias = float(entry.get("steering_coefficient", 1.0)), entry.get("bias")
        if entry["action"] == "add" and bias is None:
            added[layer] = vector * np.float32(value)
        elif entry["action"] == "clamp":
            unit = vector / np.linalg.norm(vector)
            shift = 0.0 if bias is None else -float(_array(bias) @ unit)
            clamp = Clamp(layer=layer, read=unit, write=unit, target=value, bias=shift, threshold=-np.inf)
            edits.append(dataclasses.replace(clamp, span=Span(sink=sink)))
        else:
            raise ValueError(f"{name!r} has action {entry['action']!r}{' with a bias' if bias is not None else ''}")
    if added:
        edits += _added(added, sink, path).edits
    return Steering(edits=tuple(sorted(edits, key=lambda edit: edit.layer)))


# Tensors by layer


def _unpickled(path: Path) -> Mapping[Any, Any]:
    """A `.pt` file's mapping; only tensors and plain containers are built, no code of the file runs."""
    import pickle

    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError("it is damaged, or holds more than tensors (save a dict of them)") from error
    if isinstance(found, torch.Tensor):
        return {"": found}
    if not isinstance(found, Mapping) or not found:
        raise ValueError(f"it holds a {type(found).__name__}, not a mapping from layer to vector")
    return found


def _by_layer(found: Mapping[Any, Any], layer: int | None) -> dict[int, Array]:
    """layer -> `[H]` of a mapping whose keys are integers, or names that end in one; of one vector at the `layer` that
    a user names."""
    if layer is not None:
        if len(found) != 1:
            raise ValueError(f"it holds {len(found)} tensors, and layer = {layer} is where one vector goes")
        return {layer: _array(next(iter(found.values())))}
    if "layer_activations" in found:
        if (kind := found.get("layer_type", "decoder_block")) != "decoder_block":
            raise ValueError(f"its layer_type is {kind!r}: only decoder_block is read")
        found = found["layer_activations"]
    layers: dict[int, Array] = {}
    for name, value in found.items():
        number = re.search(r"(?:^|[._])(-?\d+)$", str(name))
        if not number:
            bare = "it does not say at which layer: add -p imported.layer=N" if len(found) == 1 else ""
            raise ValueError(bare or f"{name!r} is not a layer")
        if (at := int(number[1])) in layers:
            raise ValueError(f"layer {at} is there twice")
        layers[at] = _array(value)
    return layers


def _array(value: Any) -> Array:
    """A tensor of any float type as `[H]` in fp32; leading axes of length 1 go."""
    import torch

    if not isinstance(value, torch.Tensor) or value.numel() != value.shape[-1]:
        shape = tuple(getattr(value, "shape", ()))
        raise ValueError(f"expected a vector [H], found a {type(value).__name__} {shape}")
    vector: Array = value.detach().float().reshape(-1).numpy().copy()
    return vector


def _added(vectors: Mapping[int, Array], sink: bool, path: Path) -> Steering:
    kept = {layer: vector for layer, vector in sorted(vectors.items()) if np.any(vector)}
    if not kept:
        raise BenchError(f"{path.name} holds no vector that is not zero")
    if strange := [layer for layer, vector in kept.items() if not np.isfinite(vector).all()]:
        raise BenchError(f"{path.name} holds values that are no numbers, at layer {strange[0]}")
    return Steering(edits=tuple(Add(layer=layer, value=v, span=Span(sink=sink)) for layer, v in kept.items()))
