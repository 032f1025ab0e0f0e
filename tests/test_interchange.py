"""Steerings in other programs' files: what is written, read back and refused, and whether it steers alike."""

from __future__ import annotations

import json
import pickle
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import gguf
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.numpy import load_file
from safetensors.torch import save_file

from bench import interchange, results
from bench.backends.fake.backend import FakeBackend
from bench.backends.hf.backend import HFBackend
from bench.backends.hf.modules import first, with_first
from bench.backends.models import Model
from bench.cli.export import RECORDS
from bench.cli.main import main
from bench.core import hub, registry
from bench.core.content import digest
from bench.core.deltas import LowRankDelta
from bench.core.edits import Gate, Span
from bench.core.errors import BenchError, UsageError
from bench.core.interfaces import Context
from bench.core.kinds import Add, Clamp, Project
from bench.core.naming import build_method
from bench.core.steering import Prompt, Steering
from bench.core.values import Request
from bench.run import plan
from bench.run.contract import BUDGET, QUESTION, check, example_train
from bench.run.export import blocks_name, model_type
from bench.run.session import execute
from methods._directions import DirectionDetector

TARGET = "A red ball."


def vector(seed: int, width: int = 32, size: float = 3.0) -> np.ndarray:  # type: ignore[type-arg]
    v = np.random.default_rng(seed).standard_normal(width).astype(np.float32)
    return v / np.linalg.norm(v) * np.float32(size)


def added(*layers: int, sink: bool = False) -> Steering:
    return Steering(edits=tuple(Add(layer=k, value=vector(k), span=Span(sink=sink)) for k in layers))


def scores(lm: HFBackend, *steerings: Steering | None) -> list[tuple[float, ...]]:
    found = dict(lm.logprobs([Request(QUESTION, s, target=TARGET) for s in steerings]))
    return [found[i].logprobs for i in range(len(steerings))]


# GGUF


def test_a_gguf_file_has_the_keys_and_types_llama_cpp_reads(tmp_path: Path) -> None:
    path = tmp_path / "v.gguf"
    interchange.save(path, added(1, 3), "gguf", hint="llama")
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert fields == {
        "general.architecture": "controlvector",
        "controlvector.model_hint": "llama",
        "controlvector.layer_count": 2,
    }
    assert reader.fields["controlvector.layer_count"].types == [gguf.GGUFValueType.UINT32]
    assert [t.name for t in reader.tensors] == ["direction.1", "direction.3"]
    for tensor, layer in zip(reader.tensors, (1, 3), strict=True):
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        assert list(tensor.shape) == [32]
        assert np.array_equal(tensor.data, vector(layer))


VECTORS = [form for form in interchange.SUFFIX if form != "json"]
"""Formats that hold vectors; json holds prompts."""


def test_a_prompt_is_text_that_anyone_can_read(tmp_path: Path) -> None:
    prompt = Prompt("Be brief.", "First: ", " (in one line)", (("Hi.", "Hello."),))
    interchange.save(tmp_path / "p.json", Steering(prompt))
    assert json.loads((tmp_path / "p.json").read_text("utf-8"))["system"] == "Be brief."
    assert interchange.load(tmp_path / "p.json").prompt == prompt
    with pytest.raises(BenchError, match="json holds prompts alone"):
        interchange.save(tmp_path / "v.json", added(1))
    (tmp_path / "odd.json").write_text('{"system": 1, "prefix": "", "suffix": "", "shots": []}', "utf-8")
    with pytest.raises(BenchError, match="is not a json steering"):
        interchange.load(tmp_path / "odd.json")


@pytest.mark.parametrize("form", VECTORS)
def test_a_file_reads_back_exactly_and_is_written_alike(form: str, tmp_path: Path) -> None:
    path, steering = tmp_path / f"v{interchange.SUFFIX[form]}", added(1, 3)
    interchange.save(path, steering, form)
    assert interchange.load(path).digest == steering.digest
    content = path.read_bytes()
    interchange.save(path, steering, form)
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("form", ["gguf", "lm-eval"])
def test_vectors_at_one_layer_are_summed(form: str, tmp_path: Path) -> None:
    path, one = tmp_path / f"v{interchange.SUFFIX[form]}", added(2)
    interchange.save(path, one.merged(added(1)).merged(Steering(edits=(Add(layer=2, value=vector(9)),))), form)
    edits = interchange.load(path).edits
    assert [e.layer for e in edits] == [1, 2]
    assert isinstance(edits[1], Add)
    assert np.array_equal(edits[1].value, vector(2) + vector(9))


def test_only_safetensors_holds_everything(tmp_path: Path) -> None:
    basis = np.eye(32, dtype=np.float32)[:2]
    whole = Steering(Prompt("Be kind."), (Project(layer=0, basis=basis, span=Span("response")),), ())
    interchange.save(tmp_path / "v.safetensors", whole, "safetensors")
    assert interchange.load(tmp_path / "v.safetensors").digest == whole.digest
    assert interchange.load(tmp_path / "v.safetensors").prompt == whole.prompt


# Steering alike


@pytest.mark.parametrize("sink", [False, True])
@pytest.mark.parametrize("form", VECTORS)
def test_an_exported_vector_steers_as_before(lm: HFBackend, form: str, sink: bool, tmp_path: Path) -> None:
    path, steering = tmp_path / f"v{interchange.SUFFIX[form]}", added(1, 2, sink=sink)
    interchange.save(path, steering, form)
    bare, ours, theirs = scores(lm, None, steering, interchange.load(path, sink=sink))
    assert ours == theirs != bare


def test_minus_one_times_the_opposite_vector_is_the_vector(lm: HFBackend, tmp_path: Path) -> None:
    opposite = added(1, 2).scaled(-1)
    interchange.save(tmp_path / "v.gguf", opposite, "gguf")
    read = interchange.load(tmp_path / "v.gguf")
    assert read.scaled(-1).digest == added(1, 2).digest
    one, two, other = scores(lm, read.scaled(-1), added(1, 2), read)
    assert one == two != other


@pytest.mark.parametrize("kind", ["add", "clamp"])
def test_lm_eval_s_documented_rule_on_the_named_modules_gives_our_numbers(
    lm: HFBackend, kind: str, tmp_path: Path
) -> None:
    """Its `steered` model hooks the modules of the base model that the file names, and edits all positions."""
    read = vector(7, size=0.5)
    clamp = Clamp(layer=2, read=read, write=read * 4, target=1.5, bias=0.25, threshold=-np.inf, span=Span(sink=True))
    steering = added(1, 2, sink=True) if kind == "add" else Steering(edits=(clamp,))
    blocks = blocks_name(lm.source)
    interchange.save(tmp_path / "v.pt", steering, "lm-eval", blocks=blocks)
    content = torch.load(tmp_path / "v.pt", weights_only=True)
    modules = dict(lm.model.base_model.named_modules())
    expected, bare = scores(lm, steering, None)

    def hook(entry: dict[str, Any]) -> Any:
        v, c = entry["steering_vector"], entry["steering_coefficient"]
        d = v / v.norm()
        edits = {"add": lambda h: h + c * v, "clamp": lambda h: h + (c - (h @ d)[..., None]) * d}
        return lambda module, inputs, output: with_first(output, edits[entry["action"]](first(output)))

    handles = [modules[name].register_forward_hook(hook(entry)) for name, entry in content.items()]
    try:
        found = scores(lm, None)[0]
    finally:
        for handle in handles:
            handle.remove()
    assert found == pytest.approx(expected, abs=1e-4)
    assert found != pytest.approx(bare, abs=1e-2)
    again = scores(lm, interchange.load(tmp_path / "v.pt", sink=True))[0]
    assert again == pytest.approx(expected, abs=1e-4)


def test_lm_eval_finds_the_entries_it_documents(tmp_path: Path) -> None:
    interchange.save(tmp_path / "v.pt", added(0, 3), "lm-eval", blocks="h")
    content = torch.load(tmp_path / "v.pt", weights_only=True)
    assert list(content) == ["h.0", "h.3"]
    entry = content["h.3"]
    assert torch.equal(entry.pop("steering_vector"), torch.from_numpy(vector(3)))
    assert entry == {"steering_coefficient": 1.0, "action": "add", "bias": None, "head_index": None}


# Refused


V = vector(0)
GATE = Gate(0, V, 0.5)
DELTA = LowRankDelta(module="model.layers.1.mlp.up_proj", down=V[None], up=V[:, None])
PARTS: list[tuple[str, Steering]] = [
    ("a prompt edit", added(1).merged(Steering(Prompt("Be kind.")))),
    ("a weight delta", Steering(deltas=(DELTA,))),
    ("a gate (Add at layer 1)", Steering(edits=(Add(layer=1, value=V, gate=GATE),))),
    ("an edit of the mlp output (Add at layer 1)", Steering(edits=(Add(layer=1, value=V, site="mlp"),))),
    ("the span 'response' (Add at layer 1)", Steering(edits=(Add(layer=1, value=V, span=Span("response")),))),
    ("the span 'all' (Add at layer 1)", Steering(edits=(Add(layer=1, value=V, span=Span(offset=2)),))),
    ("this edit (Project at layer 1)", Steering(edits=(Project(layer=1, basis=np.eye(32)[:1]),))),
    ("one vector per position (Add at layer 1)", Steering(edits=(Add(layer=1, value=np.stack([V, V])),))),
    ("a signed vector (Add at layer 1)", Steering(edits=(Add(layer=1, value=V, signed=True),))),
    ("a norm-keeping vector (Add at layer 1)", Steering(edits=(Add(layer=1, value=V, keep_norm=True),))),
]
CLAMP = Clamp(layer=1, read=V, write=V, target=1.0)
ONLY = [
    ("gguf", "a vector at the output of block 0", added(0)),
    ("gguf", "this edit (Clamp at layer 1)", Steering(edits=(CLAMP,))),
    ("lm-eval", "a Clamp with a threshold", Steering(edits=(CLAMP,))),
    ("lm-eval", "a Clamp beside another edit (layer 1)", added(1).merged(Steering(edits=(CLAMP,)))),
]
REFUSED = [(form, part, s) for form in ("gguf", "lm-eval") for part, s in PARTS] + ONLY


@pytest.mark.parametrize(("form", "part", "steering"), REFUSED, ids=[f"{f}: {p}" for f, p, _ in REFUSED])
def test_what_a_format_cannot_hold_is_named_and_nothing_is_written(
    form: str, part: str, steering: Steering, tmp_path: Path
) -> None:
    with pytest.raises(BenchError) as caught:
        interchange.save(tmp_path / "out" / "v", steering, form)
    message = str(caught.value)
    assert message.startswith(f"{form} cannot hold {part}")
    assert "--format safetensors can" in message
    assert "\n" not in message
    assert not (tmp_path / "out").exists()


def test_an_empty_steering_is_no_vector(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="there is no vector to write as gguf"):
        interchange.save(tmp_path / "v.gguf", Steering(), "gguf")


def test_formats_are_those_the_command_offers() -> None:
    offered = next(p for p in main.get_command(click.Context(main), "export").params if p.name == "form").type
    # peft's is a folder, which `adapter` writes; the others are of runs (`bench.report.formats`)
    assert set(offered.choices) == {*interchange.SUFFIX, "peft", *RECORDS, "hub"}  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="did you mean 'gguf'"):
        interchange.encode(added(1), "ggufs")


# Others' files


def test_a_mapping_from_layer_to_vector_is_read(tmp_path: Path) -> None:
    tensors = {k: torch.from_numpy(vector(k)).bfloat16() for k in (1, 2)}
    expected = [(k, tensors[k].float().numpy()) for k in (1, 2)]
    wrapped = {"layer_activations": {k: v[None] for k, v in tensors.items()}, "layer_type": "decoder_block"}
    torch.save(tensors | {3: torch.zeros(32)}, tmp_path / "plain.pt")
    torch.save(wrapped, tmp_path / "wrapped.pt")
    save_file({f"layers.{k}": v for k, v in tensors.items()}, tmp_path / "named.safetensors")
    for name in ("plain.pt", "wrapped.pt", "named.safetensors"):
        for form in ("", "steering-vectors"):
            edits = interchange.load(tmp_path / name, form).edits
            assert [e.layer for e in edits] == [1, 2]
            for edit, (_, value) in zip(edits, expected, strict=True):
                assert isinstance(edit, Add)
                assert np.array_equal(edit.value, value)
                assert edit.span == Span()


def test_lm_eval_s_coefficient_scales_the_vector_and_a_bias_moves_the_clamp(tmp_path: Path) -> None:
    v, b = torch.from_numpy(vector(1)), torch.from_numpy(vector(2))
    entries = {
        "model.layers.3": {"action": "add", "steering_vector": v, "steering_coefficient": -2.0},
        "model.layers.4": {"action": "clamp", "steering_vector": v, "steering_coefficient": 2.0, "bias": b},
    }
    torch.save(entries, tmp_path / "v.pt")
    one, two = interchange.load(tmp_path / "v.pt").edits
    assert isinstance(one, Add)
    assert np.array_equal(one.value, -2 * vector(1))
    assert isinstance(two, Clamp)
    unit = vector(1) / np.linalg.norm(vector(1))
    assert np.allclose(two.read, unit)
    assert two.target - two.bias == pytest.approx(2.0 + float(vector(2) @ unit), rel=1e-5)


class Boom:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("ran"),)


DAMAGED: list[tuple[str, Any, str]] = [
    ("v.pt", {"layers.1.mlp": {"action": "add", "steering_vector": torch.ones(4)}}, "is not a block"),
    ("v.pt", {"layers.1": {"action": "add", "steering_vector": torch.ones(4), "head_index": 2}}, "one attention head"),
    ("v.pt", {"layers.1": {"action": "turn", "steering_vector": torch.ones(4)}}, "action 'turn'"),
    ("v.pt", {"mean": torch.ones(4)}, "it does not say at which layer: add -p imported.layer=N"),
    ("v.pt", {1: torch.ones(4), "layer.1": torch.ones(4)}, "layer 1 is there twice"),
    ("v.pt", {1: torch.ones(2, 4)}, r"expected a vector \[H\], found a Tensor \(2, 4\)"),
    ("v.pt", {1: torch.zeros(4)}, "no vector that is not zero"),
    ("v.pt", {"layer_activations": {1: torch.ones(4)}, "layer_type": "mlp"}, "only decoder_block is read"),
    ("v.pt", torch.ones(4), "does not say at which layer"),
    ("v.pt", Boom(), "damaged, or holds more than tensors"),
    ("v.pt", b"not a zip", "damaged, or holds more than tensors"),
    ("v.gguf", b"not a gguf file", "not a gguf steering"),
    ("v.gguf", "", "not a gguf steering"),
    ("v.safetensors", b"nothing", "not a safetensors steering"),
    ("v.npy", b"", "which format is .npy"),
]


@pytest.mark.parametrize(("name", "content", "message"), DAMAGED, ids=[m for _, _, m in DAMAGED])
def test_a_file_that_is_no_steering_is_one_line(
    name: str, content: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    if isinstance(content, bytes | str):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    else:
        torch.save(content, path, pickle_module=pickle)
    with pytest.raises(BenchError, match=message) as caught:
        interchange.load(path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_model_in_gguf_is_no_control_vector(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("direction.1", V)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(BenchError, match="'llama', not a control vector"):
        interchange.load(tmp_path / "m.gguf")


# The method


def test_an_imported_file_keeps_the_contract(tmp_path: Path) -> None:
    interchange.save(tmp_path / "v.gguf", added(1, 2), "gguf")
    found = check("imported", params={"path": str(tmp_path / "v.gguf")})
    assert len(found) >= 6
    assert {label: problem for label, problem in found.items() if problem} == {}


def test_an_imported_vector_steers_and_detects_where_the_file_says(lm: HFBackend, tmp_path: Path) -> None:
    interchange.save(tmp_path / "v.gguf", added(1, 2, 3), "gguf")
    (fitted,) = build_method("imported", {"imported": {"path": str(tmp_path / "v.gguf")}}).fit(
        Context(lm, BUDGET), example_train()
    )
    assert isinstance(fitted.steering, Steering)
    assert fitted.steering.digest == added(1, 2, 3).digest
    assert isinstance(fitted.detector, DirectionDetector)
    assert fitted.detector.layer == 2
    assert np.allclose(fitted.detector.weight * 3, vector(2), atol=1e-5)
    torch.save({-1: torch.from_numpy(V)}, tmp_path / "last.pt")
    (fitted,) = build_method("imported", {"imported": {"path": str(tmp_path / "last.pt")}}).fit(
        Context(lm, BUDGET), example_train()
    )
    assert isinstance(fitted.steering, Steering)
    assert fitted.steering.edits[0].layer == 3


@pytest.mark.parametrize(
    ("steering", "message"),
    [
        (Steering(edits=(Add(layer=1, value=V[:5]),)), "vectors of 5 values, the model 8"),
        (Steering(edits=(Add(layer=4, value=V[:8]),)), "layer 4 does not exist: the model has layers 0 to 3"),
        (None, "no file is given"),
    ],
)
def test_a_file_for_another_model_is_refused(steering: Steering | None, message: str, tmp_path: Path) -> None:
    params = {}
    if steering:
        interchange.save(tmp_path / "v.gguf", steering, "gguf")
        params = {"path": str(tmp_path / "v.gguf")}
    with pytest.raises(BenchError, match=message):
        build_method("imported", {"imported": params}).fit(Context(FakeBackend(), BUDGET), example_train())


def test_the_identity_of_an_import_is_the_file_s_name_and_content(tmp_path: Path) -> None:
    def params(path: Path, **more: str) -> dict[str, Any]:
        return build_method("imported", {"imported": {"path": str(path)} | more}).params()

    here, there = tmp_path / "v.gguf", tmp_path / "elsewhere" / "v.gguf"
    interchange.save(here, added(1), "gguf")
    interchange.save(there, added(1), "gguf")
    first_params = params(here)
    assert first_params == params(there) == params(here, sha256=first_params["sha256"])
    assert first_params["path"] == "v.gguf"
    interchange.save(here, added(2), "gguf")
    assert params(here)["sha256"] != first_params["sha256"]
    with pytest.raises(UsageError, match="not the file of that run"):
        params(here, sha256=first_params["sha256"])
    with pytest.raises(UsageError, match="is no file here: name it with -p imported"):
        params(tmp_path / "gone.gguf")


# The command


@dataclass(frozen=True)
class Place:
    """A cache and a results folder of its own, and the command line in it."""

    root: Path

    def bench(self, *words: str, expect: int = 0) -> Result:
        env = {"BENCH_CACHE": str(self.root / "cache"), "BENCH_RESULTS": str(self.root / "results")}
        result = CliRunner().invoke(main, list(words), env=env)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == expect, result.stderr
        return result

    def run(self, methods: str, params: dict[str, Any] | None = None, **options: Any) -> dict[str, results.Run]:
        """What `bench run` keeps, without the report it draws."""
        wanted = plan.Options((methods,), backend="fake", limit=2, params=params or {}, **options)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("BENCH_CACHE", str(self.root / "cache"))
            jobs = execute(plan.make(wanted), self.root / "results")
        return {job.spec.method: results.read(job.path) for job in jobs if job.path}

    def export(self, *words: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.bench("export", "--json", *words).stdout)
        return found


METHODS = "diffmean,prompt,prompt+diffmean,none"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, dict[str, results.Run]]:
    """One finished run of a few methods on two concepts; read it, do not write to it."""
    place = Place(tmp_path_factory.mktemp("shared"))
    return place, place.run(METHODS, {"diffmean.layer": "1:2"})


def norms(place: Place, run: results.Run, layers: Sequence[int]) -> dict[str, list[float]]:
    """concept -> median norm of the fake backend's activations of the negative texts, by layer."""
    made = plan.make(plan.Options(**plan.from_file(run.path)))
    ctx = Context(FakeBackend(), made.protocol.budget)
    found = {}
    for concept in made.task.concepts():
        train = made.task.train(concept).limited(made.protocol.budget.sequences)
        lengths = [np.linalg.norm(ctx.tokens(train.negatives, layer), axis=1) for layer in layers]
        found[concept.id] = [float(np.median(values)) for values in lengths]
    return found


@pytest.mark.parametrize("form", VECTORS)
def test_exported_vectors_have_the_length_the_test_answers_were_made_with(
    shared: tuple[Place, dict[str, results.Run]], form: str, tmp_path: Path
) -> None:
    place, runs = shared
    run = runs["diffmean"]
    rows = place.export("diffmean", "--format", form, "--out", str(tmp_path / "out"))
    assert [row["concept"] for row in rows] == list(run.data["concepts"])
    assert {p.name for p in (tmp_path / "out").iterdir()} == {f"{n}{interchange.SUFFIX[form]}" for n in names(run)}
    for row in rows:
        picked = run.data["concepts"][row["concept"]]["picked"]
        assert {k: row[k] for k in picked} == picked
        edits = interchange.load(Path(row["path"])).edits
        assert [edit.layer for edit in edits] == [1, 2]
        units = norms(place, run, (1, 2))[row["concept"]]
        lengths = [float(np.linalg.norm(edit.value)) for edit in edits if isinstance(edit, Add)]
        pushes = [length / unit for length, unit in zip(lengths, units, strict=True)]
        assert min(pushes) > 0
        assert sum(pushes) == pytest.approx(picked["coefficient"], rel=1e-5)  # two layers share the push


@pytest.mark.parametrize("method", METHODS.split(","))
def test_the_exported_steering_gives_the_run_s_test_answers(
    shared: tuple[Place, dict[str, results.Run]], method: str, tmp_path: Path
) -> None:
    """The fake backend's words depend on every bit of a steering."""
    place, runs = shared
    made = plan.make(plan.Options(**plan.from_file(runs[method].path)))
    found = {row["concept"]: Path(row["path"]) for row in place.export(method, "--out", str(tmp_path))}
    requests = [
        Request(
            sample.messages,
            interchange.load(found[concept.id]),
            made.protocol.sampling,
            int(digest(made.protocol.seed, sample.id, sample.instruction), 16) % 2**63,
        )
        for concept in made.task.concepts()
        for sample in made.task.test(concept)
    ]
    answers = dict(FakeBackend().generate(requests))
    texts = [answers[i].text for i in range(len(requests))]
    assert texts == [sample["text"] for sample in runs[method].data["samples"]]


def names(run: results.Run) -> list[str]:
    return list(run.data["concepts"])


def test_one_concept_is_one_file(shared: tuple[Place, dict[str, results.Run]], tmp_path: Path) -> None:
    place, runs = shared
    name = names(runs["diffmean"])[1]
    shown = place.bench(
        "export", str(runs["diffmean"].path), "--format", "gguf", "--concept", name, "--out", str(tmp_path / "one.gguf")
    )
    assert shown.stdout == f"{tmp_path / 'one.gguf'}\n"
    assert (
        shown.stderr
        == "bench: llama.cpp also steers the first token of a text and its template, which this run left out\n"
    )
    assert interchange.load(tmp_path / "one.gguf").needs == {"add"}
    assert place.bench("export", "diffmean", "--out", str(tmp_path / "all")).stderr == ""
    wrong = place.bench("export", "diffmean", "--concept", name[:-1], "--out", str(tmp_path / "x"), expect=2)
    assert f"did you mean {name!r}" in wrong.stderr


def test_files_go_to_the_working_folder_under_the_run_s_name(
    shared: tuple[Place, dict[str, results.Run]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, runs = shared
    monkeypatch.chdir(tmp_path)
    base, name = runs["prompt"].path.parent.name, names(runs["prompt"])[0]
    assert {row["path"] for row in place.export("prompt")} == {f"{base}/{n}.safetensors" for n in names(runs["prompt"])}
    assert place.export("prompt", "--concept", name)[0]["path"] == f"{base}-{name}.safetensors"
    assert interchange.load(tmp_path / base / f"{name}.safetensors").needs == {"prompt"}


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("prompt", "gguf cannot hold a prompt edit; --format safetensors can"),
        ("prompt+diffmean", "gguf cannot hold a prompt edit; --format safetensors can"),
        ("none", "there is no vector to write as gguf"),
    ],
)
def test_a_run_that_a_format_cannot_hold_writes_nothing(
    shared: tuple[Place, dict[str, results.Run]], method: str, message: str, tmp_path: Path
) -> None:
    place, _ = shared
    refused = place.bench("export", method, "--format", "gguf", "--out", str(tmp_path / "out"), expect=1)
    assert message in refused.stderr
    assert refused.stdout == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_without_the_cache_the_command_that_fills_it_is_named_and_does(tmp_path: Path) -> None:
    place = Place(tmp_path)
    before = place.run("diffmean")["diffmean"]
    kept = {row["concept"]: row["digest"] for row in place.export("diffmean", "--out", str(tmp_path / "a"))}
    for gone in ("rows/units", "fits"):
        shutil.rmtree(tmp_path / "cache" / gone)
        refused = place.bench("export", "diffmean", "--out", str(tmp_path / "b"), expect=1).stderr
        assert "not in the cache: run bench run --config" in refused
        assert refused.count("\n") == 1
        assert not (tmp_path / "b").exists()
    command = shlex.split(refused.split(": run ")[1].split(" first")[0])
    assert command[:4] == ["bench", "run", "--config", str(before.path)]
    place.bench(*command[1:])
    again = place.export("diffmean", "--out", str(tmp_path / "b"))
    assert {row["concept"]: row["digest"] for row in again} == kept


def test_what_changed_since_is_not_exported(tmp_path: Path) -> None:
    place = Place(tmp_path)
    run = place.run("diffmean")["diffmean"]
    data = json.loads(run.path.read_text())
    name = next(iter(data["concepts"]))
    data["concepts"][name]["strength"] += 0.1
    run.path.write_text(json.dumps(data))
    assert "is another length now" in place.bench("export", "diffmean", expect=1).stderr
    data["id"] = "f" * len(data["id"])
    run.path.write_text(json.dumps(data))
    assert "cannot be replayed" in place.bench("export", "ffff", expect=1).stderr


def test_an_exported_file_runs_as_a_method_and_replays_where_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path)
    source = place.run("diffmean")["diffmean"]
    name = names(source)[0]
    file = tmp_path / "files" / "v.gguf"
    place.bench("export", "diffmean", "--format", "gguf", "--concept", name, "--out", str(file))
    run = place.run("imported", {"imported.path": str(file)})["imported"]
    assert run.data["spec"]["method_params"]["path"] == "v.gguf"
    assert [c["note"]["layers"] for c in run.data["concepts"].values()] == [[2]] * 2
    lost = place.bench("run", "--config", str(run.path), "--dry-run", "--json", expect=2)
    assert "is no file here: name it with -p imported.path=FILE" in lost.stderr
    words = ["run", "--config", str(run.path), "--dry-run", "--json"]
    again = json.loads(place.bench(*words, "-p", f"imported.path={file}").stdout)["runs"][0]
    assert (again["id"], again["cached"]) == (run.data["id"], True)
    monkeypatch.chdir(file.parent)
    assert json.loads(place.bench(*words).stdout)["runs"][0]["cached"]
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert "not the file of that run" in place.bench(*words, expect=2).stderr


def test_an_exported_folder_runs_each_concept_with_its_own_file(
    shared: tuple[Place, dict[str, results.Run]], tmp_path: Path
) -> None:
    rows = {row["concept"]: row["path"] for row in shared[0].export("diffmean", "--out", str(tmp_path / "vectors"))}
    again = Place(tmp_path / "again")
    (run,) = again.run("imported", {"imported.path": str(tmp_path / "vectors")}).values()
    assert run.data["spec"]["method_params"]["path"] == "vectors"
    for name, path in rows.items():
        norms = [float(np.linalg.norm(e.value)) for e in interchange.load(path).edits if isinstance(e, Add)]
        assert run.data["concepts"][name]["note"]["raw_norms"] == pytest.approx(norms)
    first, second = rows
    Path(rows[second]).unlink()
    other = Place(tmp_path / "other")
    wanted = plan.Options(("imported",), backend="fake", limit=2, params={"imported.path": str(tmp_path / "vectors")})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
        (job,) = execute(plan.make(wanted), other.root / "results")
        assert job.status == "failed"
        assert f"vectors has no file for the concept {second!r}" in job.reason
        wanted = plan.Options(("imported",), backend="fake", concept=first, params=wanted.params)
        (job,) = execute(plan.make(wanted), other.root / "results")
        assert job.status == "complete", job.reason


def test_the_identity_of_a_folder_is_its_name_and_its_files(tmp_path: Path) -> None:
    def params(path: Path, **given: Any) -> dict[str, Any]:
        return build_method("imported", {"imported": {"path": str(path)} | given}).params()

    here, there = tmp_path / "v", tmp_path / "elsewhere" / "v"
    for folder in (here, there):
        for name in ("one", "two"):
            interchange.save(folder / f"{name}.safetensors", added(1))
    (there / "README.md").write_text("words")
    first = params(here)
    assert first == params(there) == params(here, sha256=first["sha256"])
    interchange.save(here / "two.safetensors", added(2))
    assert params(here)["sha256"] != first["sha256"]
    with pytest.raises(UsageError, match="not the file of that run"):
        params(here, sha256=first["sha256"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="is no file here"):
        params(tmp_path / "empty")


def test_two_files_of_one_concept_are_refused(tmp_path: Path) -> None:
    for suffix in (".gguf", ".safetensors"):
        interchange.save(tmp_path / f"one{suffix}", added(1))
    with pytest.raises(BenchError, match=r"several files for the concept 'one': one\.gguf, one\.safetensors"):
        interchange.of_concept(tmp_path, "one")


def test_a_repository_of_the_hub_is_fetched_and_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, list[str]]] = []

    def snapshot(repo: str, patterns: Sequence[str]) -> Path:
        asked.append((repo, list(patterns)))
        return tmp_path

    monkeypatch.setattr(hub, "snapshot", snapshot)
    interchange.save(tmp_path / "sub" / "one.safetensors", added(1))
    file = interchange.located("hf://owner/name/sub/one.safetensors")
    assert interchange.load(file).digest == added(1).digest
    assert interchange.of_concept(interchange.located("hf://owner/name/sub"), "one") == file
    assert asked[0][0] == "owner/name"
    assert "sub/*.safetensors" in asked[1][1]
    made = build_method("imported", {"imported": {"path": "hf://owner/name/sub"}})
    assert made.params()["path"] == "sub"
    with pytest.raises(UsageError, match="owner/name on the hub has no gone"):
        interchange.located("hf://owner/name/gone")
    with pytest.raises(UsageError, match="names no repository"):
        interchange.located("hf://owner")


def test_a_model_without_files_has_a_name_for_its_type(lm: HFBackend) -> None:
    assert model_type(lm.source) == "llama"
    assert blocks_name(lm.source) == "layers"
    fake = Model("fake", Path(), "fake", "fake")
    assert (model_type(fake), blocks_name(fake)) == ("fake", "layers")


def test_the_reference_s_mode_steers_the_first_token_too(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.run("diffmean", compat="axbench")
    shown = place.bench("export", "diffmean", "--format", "gguf", "--out", str(tmp_path / "out"))
    assert shown.stderr == ""


def test_a_detector_s_run_has_no_steering(
    shared: tuple[Place, dict[str, results.Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry.get("task", "axbench"), "kind", "detector")
    assert "tests detectors: its runs have no steering" in shared[0].bench("export", "diffmean", expect=1).stderr


ADAPTER = '''
from dataclasses import dataclass

import numpy as np

from bench import Fitted, LowRankDelta, Method, Steering, method


@method("adapter", surface="weights", needs=["delta"])
@dataclass(frozen=True)
class Adapter(Method):
    """A low-rank change."""

    def fit(self, ctx, train):
        down, up = np.ones((2, 8), np.float32), np.ones((8, 2), np.float32)
        return [Fitted(Steering(deltas=(LowRankDelta(module="model.layers.0.mlp.down_proj", down=down, up=up),)))]
'''


def test_an_adapter_is_exported_as_a_folder_at_the_strength_of_the_test_answers(tmp_path: Path) -> None:
    plugin = tmp_path / "adapter_method.py"
    plugin.write_text(ADAPTER)
    registry.load_plugin(plugin)
    place = Place(tmp_path)
    run = place.run("adapter")["adapter"]
    rows = place.export("adapter", "--format", "peft", "--out", str(tmp_path / "out"))
    assert [row["concept"] for row in rows] == list(run.data["concepts"])
    for row in rows:
        folder = Path(row["path"])
        assert {p.name for p in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
        config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        assert (config["r"], config["lora_alpha"], config["peft_type"]) == (2, 2, "LORA")
        tensors = load_file(folder / "adapter_model.safetensors")
        name = "base_model.model.model.layers.0.mlp.down_proj.lora_"
        change = tensors[f"{name}B.weight"] @ tensors[f"{name}A.weight"]
        assert np.allclose(change, 2 * row["coefficient"] / 0.3)
    refused = place.bench("export", "adapter", "--format", "gguf", "--out", str(tmp_path / "no"), expect=1)
    assert "gguf cannot hold a weight delta" in refused.stderr


def test_a_file_of_one_bare_vector_is_read_at_the_layer_that_is_named(tmp_path: Path) -> None:
    vector = torch.arange(1.0, 5.0)
    torch.save(vector, tmp_path / "bare.pt")
    torch.save({"direction": vector[None]}, tmp_path / "named.pth")
    save_file({"vector": vector}, tmp_path / "one.safetensors")
    torch.save({0: vector, 1: vector}, tmp_path / "two.pt")
    for name in ("bare.pt", "named.pth", "one.safetensors"):
        with pytest.raises(BenchError, match=r"add -p imported.layer=N"):
            interchange.load(tmp_path / name)
        (edit,) = interchange.load(tmp_path / name, layer=3).edits
        assert isinstance(edit, Add)
        assert (edit.layer, edit.value.tolist()) == (3, vector.tolist())
    with pytest.raises(BenchError, match="it holds 2 tensors, and layer = 3 is where one vector goes"):
        interchange.load(tmp_path / "two.pt", layer=3)
    torch.save(vector * float("nan"), tmp_path / "nan.pt")
    with pytest.raises(BenchError, match=r"nan.pt holds values that are no numbers, at layer 3"):
        interchange.load(tmp_path / "nan.pt", layer=3)
