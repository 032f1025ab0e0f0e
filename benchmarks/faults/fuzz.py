"""Bad input.

Files of every kind with bytes changed, values changed and parts cut; and every option of every command with values
that mean nothing. A trial runs the real command (or the reader) in a forked process, offline, in a folder of its own,
under a time limit. Right is an answer, or an error of the program's own; anything else is a traceback that a user
would see.

What once failed is kept in `tests/fixtures/corpus/`, one small file a case, and tried again by `tests/test_fuzz.py`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import random
import select
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.faults.counts import Count

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT / "tests" / "fixtures" / "corpus"
LIMIT = 60
"""Seconds a trial may take: a hundred times what the slowest one does."""
RARE = 60
"""One in so many trials with a damaged file builds a report."""
BATCH = 250
"""Trials that one forked process makes, so that what one leaves behind does not reach all the others."""


@dataclass(frozen=True)
class Case:
    """One input: a file of the world (a pattern that one matches; `""`: none) with this content, and what is run."""

    kind: str
    file: str
    content: str
    """In base64."""
    words: tuple[str, ...]
    """A command line, or `read NAME` for a reader of `READERS`."""

    @property
    def name(self) -> str:
        return f"{self.kind}-{hashlib.sha256(repr(self).encode()).hexdigest()[:10]}"


# The world that is tried: a small results folder, data sets, configurations and vectors, all of them right


def build(root: Path) -> None:
    """Make the right files below `root`, which is the working folder of every trial."""
    import numpy as np

    from bench.core.kinds import Add
    from bench.core.steering import Steering
    from bench.core.store import pack
    from bench.interchange import save

    root.mkdir(parents=True)
    os.chdir(root)
    axbench(root / "axbench")
    for words in (
        ["run", "--backend", "fake", "-m", "none,diffmean,prompt,prompt+diffmean", "-n", "2"],
        ["run", "--backend", "fake", "-t", "axbench-detect", "-m", "diffmean,random", "--data", "axbench"],
        ["judge", "rate", "none", "diffmean", "--judge", "rules"],
    ):
        outcome = invoke([*words, "--results", "results"])
        if outcome or (words[0] == "judge" and not list(root.glob("results/axbench/*/*/judged-*.json"))):
            raise SystemExit(f"the world cannot be made: {outcome}")
    measured(root)
    (one,) = root.glob("results/axbench/*/none-*")
    shutil.copytree(one, root / "few" / one.relative_to(root / "results"))
    vector = Steering(edits=(Add(layer=1, value=np.ones(8, np.float32)),))
    for name in ("vector.gguf", "vector.pt", "vector.safetensors"):
        save(root / name, vector)
    Path("ours.safetensors").write_bytes(pack(vector))
    save(root / "prompt.json", Steering())
    for part in ("train", "test"):
        rows = "".join(f'Would you {part} {i}?,"Yes, {i}.",No {i}.\n' for i in range(12))
        write(root / "behaviours" / "power" / f"{part}.csv", f"question,matching,not_matching\n{rows}")
    head = "Category,Question,Best Answer,Correct Answers,Incorrect Answers,Best Incorrect Answer\n"
    lines = [f"T{i % 3},Q{i}?,Yes {i},Yes {i}; Sure {i},No {i}; Never {i},No {i}" for i in range(36)]
    write(root / "truthful" / "TruthfulQA.csv", head + "\n".join(lines) + "\n")
    options = [
        {
            "question": f"Q{i}?",
            "mc1_targets": {f"Yes {i}": 1, f"No {i}": 0},
            "mc2_targets": {f"Yes {i}": 1, f"No {i}": 0},
        }
        for i in range(36)
    ]
    write(root / "truthful" / "mc_task.json", json.dumps(options))
    write(
        root / "traits" / "flattery.json",
        json.dumps(
            {
                "trait": "flattering the user",
                "personas": {"positive": ["a courtier"], "negative": ["a critic"]},
                "answers": [{"question": f"A{i}?", "positive": "Great.", "negative": "Poor."} for i in range(6)],
                "questions": [f"B{i}?" for i in range(8)],
            }
        ),
    )
    write(root / "concepts.csv", "concept,genre,ref\nthe sea,text,\nsorting lists,code,http://a.b\n")
    write(root / "instructions.json", json.dumps([{"instruction": "Say it.", "genre": "text"}, "Tell me."]))
    write(root / "run.toml", 'methods = ["none"]\nbackend = "fake"\nlimit = 1\n[params.diffmean]\nlayer = 1\n')
    config = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config |= {"vocab_size": 100, "intermediate_size": 128, "num_key_value_heads": 2, "max_position_embeddings": 64}
    write(root / "model" / "config.json", json.dumps(config))
    write(root / "model" / "model.safetensors", "x")
    write(root / "results" / "hypotheses.toml", HYPOTHESES)
    write(root / "results" / "retired.toml", '[method]\nold = "it was wrong"\n')
    write(root / "results" / "keys.toml", '"axbench/fake/none-0/run.json" = ["a", "b"]\n')
    ratings = "id,concept,instruction,answer,concept_rating,instruction_rating,fluency_rating,reader\n"
    key = "id,run,sample,task,model,method,surface,coefficient\n"
    for i in range(4):
        ratings += f"id{i},the sea,Say it {i}.,Waves {i}.,{i % 3},1,2,ann\n"
        key += f"id{i},r{i},s{i},axbench,m,none,control,0\n"
    write(root / "results" / "judges" / "reference.csv", ratings)
    write(root / "results" / "judges" / "reference.key.csv", key)
    validity = {"judge": "rules", "axes": {}, "data": "mini", "judge_params": {}, "models": ["fake"]}
    validity |= {"gate": {"tasks": {"overall": True}}, "surfaces": {"axbench": {"activations": BIAS}}}
    write(root / "results" / "judges" / "rules-mini.json", json.dumps(validity))
    write(root / "cache" / "rates.json", '{"generate": 100.0}')


HYPOTHESES = 'margin = 0.1\nmodels = ["fake"]\n[tasks.axbench]\nprompt = "prompt"\ndirection = "diffmean"\n'
BIAS = {"bias": 0.1, "low": 0.0, "high": 0.2}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def measured(root: Path) -> None:
    """A cost and side effects beside a run, with made-up numbers."""
    (path,) = root.glob("results/axbench/*/diffmean-*/run.json")
    run = json.loads(path.read_text())["id"]
    spread = {"median": 1.1, "spread": 0.1, "n": 5}
    made = json.loads(path.read_text())["provenance"]
    cost = {
        "version": 1,
        "run": run,
        "method": "diffmean",
        "model": "tiny",
        "engine": {"backend": "hf", "dtype": "float32", "device": "a chip", "accelerator": False, "threads": 1}
        | {"provenance": made},
        "settings": {"tokens": 4, "batch": 2, "repeats": 5},
        "config": {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        | {"vocab_size": 100, "intermediate_size": 128},
        "exact": {"extra": {"prompt_tokens": 0, "decode": 64}, "draws": 1, "own_tokens": 9.0, "artefact_bytes": 128},
        "measured": dict.fromkeys(("time", "first_token_cold", "first_token_warm", "memory"), spread)
        | {"seconds": {"unsteered": [1.0], "steered": [1.1]}},
        "fit": {"seconds": 1.0, "tokens": 3, "in_requests": 2.0},
        "judge": {"tokens_per_answer": 3.0, "cost": None, "answers": 2},
    }
    write(path.with_name("overhead.json"), json.dumps(cost))
    entry = {"kind": "side-effects", "concept": "ocean", "coefficient": 0.2, "numbers": {"kl": 0.1}}
    write(path.with_name("capability.json"), json.dumps({"version": 1, "run": run, "entries": {"a": entry}}))


def axbench(folder: Path) -> None:
    """A whole small folder in AxBench's layout."""
    import pandas as pd

    def rows(concept: int, category: str, kind: str) -> list[dict[str, Any]]:
        about = {"positive": f"All about {concept}", "negative": "Plain words"}.get(category, "Nearly it")
        return [
            {
                "input": f"{kind} question {concept} {category} {i}?",
                "output": f"{about}, {kind} {i}.",
                "output_concept": f"subject {concept}",
                "concept_genre": "text",
                "category": category,
                "dataset_category": "instruction",
                "concept_id": concept,
            }
            for i in range(6)
        ]

    train = [*rows(0, "positive", "train"), *rows(1, "positive", "train"), *rows(-1, "negative", "train")]
    held = [row for k in (0, 1) for c in ("positive", "negative", "hard negative") for row in rows(k, c, "held")]
    for file, table in (("generate/train_data.parquet", train), ("inference/latent_eval_data.parquet", held)):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(table).to_parquet(folder / file)
    lines = [json.dumps({"concept_id": k, "concept": f"the subject {k}", "ref": "x"}) for k in (0, 1)]
    write(folder / "generate" / "metadata.jsonl", "\n".join(lines) + "\n")
    asked = [{"instruction": f"Alpaca {i}?"} for i in range(12)]
    write(folder / "alpaca_eval.json", json.dumps(asked))


DRY = ("run", "--backend", "fake", "-m", "none", "--dry-run")
RESULTS = (
    ("report", "--results", "results", "--out", "out"),
    ("show", "diffmean", "--results", "results"),
    ("list", "runs", "--results", "results"),
    ("compare", "diffmean", "none", "--results", "results"),
    ("check", "results", "--results", "results"),
)
PLACES: dict[str, tuple[tuple[str, ...], ...]] = {
    "results/axbench/fake/diffmean-*/run.json": (
        *RESULTS,
        ("judge", "rate", "diffmean", "--judge", "rules", "--results", "results"),
        ("export", "diffmean", "--results", "results", "--out", "out"),
        ("run", "--config", "FILE", "--dry-run"),
        ("show", "FILE"),
        ("power", "diffmean", "none", "--results", "results"),
    ),
    "results/axbench-detect/fake/diffmean-*/run.json": RESULTS[:1] + RESULTS[3:],
    "results/axbench/fake/diffmean-*/trials.jsonl": (*RESULTS[:1], *RESULTS[4:]),
    "results/axbench/fake/diffmean-*/judged-*.json": (
        *RESULTS[:1],
        *RESULTS[4:],
        ("judge", "rate", "diffmean", "--judge", "rules", "--results", "results"),
    ),
    "results/axbench/fake/diffmean-*/overhead.json": (
        *RESULTS[:1],
        *RESULTS[3:],
        ("overhead", "diffmean", "--results", "results"),
    ),
    "results/axbench/fake/diffmean-*/capability.json": RESULTS[4:],
    "results/judges/rules-mini.json": (*RESULTS[:1], *RESULTS[4:]),
    "results/judges/reference.csv": (*RESULTS[4:], ("read", "ratings")),
    "results/judges/reference.key.csv": (*RESULTS[4:], ("read", "key")),
    "results/hypotheses.toml": (*RESULTS[4:], (*DRY, "--results", "results")),
    "results/retired.toml": RESULTS[4:],
    "results/keys.toml": (*RESULTS[:1], *RESULTS[4:]),
    "axbench/generate/train_data.parquet": (("data", "check", "axbench"), (*DRY, "--data", "axbench")),
    "axbench/inference/latent_eval_data.parquet": (
        ("data", "check", "axbench"),
        ("run", "--backend", "fake", "-t", "axbench-detect", "-m", "diffmean", "--dry-run", "--data", "axbench"),
    ),
    "axbench/generate/metadata.jsonl": (("data", "check", "axbench"), (*DRY, "--data", "axbench")),
    "axbench/alpaca_eval.json": (("data", "check", "axbench"), (*DRY, "--data", "axbench")),
    "behaviours/power/train.csv": ((*DRY, "-t", "behaviour", "--data", "behaviours"),),
    "truthful/TruthfulQA.csv": ((*DRY, "-t", "truthfulqa", "--data", "truthful"),),
    "truthful/mc_task.json": ((*DRY, "-t", "truthfulqa", "--data", "truthful"),),
    "traits/flattery.json": ((*DRY, "-t", "persona", "--data", "traits"),),
    "concepts.csv": (("read", "concepts"),),
    "instructions.json": (("read", "instructions"),),
    "run.toml": (("run", "--config", "run.toml", "--dry-run"),),
    "model/config.json": (
        ("overhead", "--config", "model/config.json"),
        ("read", "blocks"),
        ("run", "-m", "none", "--model", "model", "--dry-run"),
    ),
    "cache/rates.json": (DRY,),
    "vector.gguf": (("read", "vector"),),
    "vector.pt": (("read", "vector"),),
    "vector.safetensors": (("read", "vector"),),
    "ours.safetensors": (("read", "vector"),),
    "prompt.json": (("read", "vector"),),
}
"""Files of the world, and what reads each: command lines (`FILE` is the file itself), or `read NAME`."""


def readers() -> dict[str, Callable[[Path], object]]:
    """Readers that no short command reaches."""
    from bench import interchange
    from bench.backends.fake.backend import FakeBackend
    from bench.backends.models import Model
    from bench.data.make import read_concepts, read_instructions
    from bench.results import ratings
    from bench.run.support import blocks_of

    return {
        "vector": interchange.load,
        "concepts": read_concepts,
        "instructions": read_instructions,
        "ratings": ratings.read,
        "key": ratings.read_key,
        "blocks": lambda path: blocks_of(Model("m", path.parent, "", ""), FakeBackend()),
    }


# What is done to a file

HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 0.5, -0.5, 1e300, -1e300, 10**30, 2**63, "", "x", "1", "nan", "../..", "\ud800",
    "\x00", "\x1b[31m", "[/b]", "é" * 300, [], {}, [None], [[]], {"": None}, {"x": {}}, [0, "x"], "\u2028",
)  # fmt: skip
RAW = ("NaN", "Infinity", "-Infinity", "1e999", "1" * 5000, "-0", '"\\ud800"', "[" * 3000 + "]" * 3000, '{"a":' * 3000)
"""JSON, or nearly, that no value of Python writes."""


def bent(content: bytes, rng: random.Random) -> bytes:
    """Some bytes flipped, cut, doubled, or put in another place."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at, how = rng.randrange(len(data) + 1), rng.randrange(6)
        span = rng.choice((1, 4, 64, 512))
        if how == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            data[at : at + span] = b""
        elif how == 2:
            data[at:at] = bytes(rng.randrange(256) for _ in range(min(span, 16)))
        elif how == 3:
            data[at:at] = data[at : at + span]
        elif how == 4:
            del data[at:]
        else:
            data[at : at + 1] = rng.choice((b"\x00", b"\xff", b'"', b"{", b"[", b",", b"\n", b"\r", b"-", b"9", b"="))
    return bytes(data)


def misshapen(text: str, rng: random.Random) -> str:
    """JSON with one value at one place that has no business there, or a place less or a double one."""
    value = json.loads(text)
    places = list(walked(value))
    # Each depth as often as any other: the many leaves of lists would be all that is ever changed.
    depth = rng.choice(sorted({len(place) for place in places}))
    place = rng.choice([one for one in places if len(one) == depth])
    how = rng.randrange(10)
    if not place:
        return rng.choice(RAW) if how < 3 else json.dumps(rng.choice(HOSTILE))
    parent = value
    for step in place[:-1]:
        parent = parent[step]
    if how == 0:
        del parent[place[-1]]
    elif how == 1 and isinstance(parent, dict):
        parent[rng.choice(("", "\u2028", "../x", "\x00", "[/b]"))] = parent.pop(place[-1])
    elif how == 2 and isinstance(parent, list):
        parent.append(parent[place[-1]])
    elif how == 3:
        parent[place[-1]] = "@raw@"
        return json.dumps(value).replace('"@raw@"', rng.choice(RAW), 1)
    else:
        parent[place[-1]] = rng.choice(HOSTILE)
    return json.dumps(value)


def walked(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every value within a value, itself first; of a long list the first few."""
    yield place
    if isinstance(value, dict):
        for key, one in value.items():
            yield from walked(one, (*place, key))
    elif isinstance(value, list):
        for i, one in enumerate(value[:4]):
            yield from walked(one, (*place, i))


CELLS: tuple[Any, ...] = (None, b"\xff", "", " ", "x", 0, -1, 0.5, True, float("nan"), 10**12, ["x"], {"x": 1})


def retabled(content: bytes, rng: random.Random) -> bytes:
    """A parquet table with a cell, a column or its rows changed, or with text that is no UTF-8."""
    import pyarrow as pa
    from pyarrow import parquet

    table = parquet.read_table(io.BytesIO(content))
    columns = {name: table[name].to_pylist() for name in table.column_names}
    name = rng.choice(list(columns))
    how = rng.randrange(6)
    if how == 0 or not columns[name]:
        del columns[name]
    elif how == 1:
        columns[name] = [rng.choice(CELLS)] * len(columns[name])
    elif how == 2:
        length = rng.choice((0, 1, 5))
        columns = {key: own[:length] for key, own in columns.items()}
    elif how == 3:
        row = rng.randrange(len(columns[name]))
        for other in (key for key in columns if key != name):
            columns[other][row] = columns[other][row - 1]
    else:
        value = rng.choice(CELLS)
        columns[name][rng.randrange(len(columns[name]))] = value
    arrays = {}
    for key, own in columns.items():
        try:
            arrays[key] = pa.array(own)
        except (pa.ArrowException, TypeError):
            arrays[key] = pa.array([None if v is None else str(v) for v in own])
    if how == 5 and name in arrays and pa.types.is_string(arrays[name].type):
        raw = pa.array([b"\xff\xfe" + str(v).encode() for v in columns[name]], pa.binary())
        arrays[name] = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())
    made = io.BytesIO()
    parquet.write_table(pa.table(arrays), made)
    return made.getvalue()


def recut(text: str, rng: random.Random) -> str:
    """A CSV with a cell less or more, a quote left open, a column renamed, or a hostile cell."""
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    cells = lines[at].split(",")
    how, place = rng.randrange(7), rng.randrange(len(cells))
    if how == 0:
        del cells[place]
    elif how == 1:
        cells.insert(place, "x")
    elif how == 2:
        cells[place] = '"' + cells[place]
    elif how == 3:
        cells = []
    else:
        cells[place] = rng.choice(("", " ", "nan", "inf", "-1", "3", "1e999", "\x00", "=1+1", "x" * 140_000, "\udcff"))
    lines[at] = ",".join(cells)
    return "\n".join(lines)


def changed(file: str, content: bytes, rng: random.Random) -> bytes:
    """A file with something wrong in it, in the manner of its kind or of any."""
    if not content:
        return bytes(rng.randrange(256) for _ in range(16))
    kind = rng.random()
    if kind < 0.4 and not file.endswith(".parquet"):
        return bent(content, rng)
    if file.endswith(".parquet"):
        return retabled(content, rng) if kind < 0.8 else bent(content, rng)
    if file.endswith(".json"):
        return misshapen(content.decode(), rng).encode("utf-8", "surrogatepass")
    if file.endswith(".jsonl"):
        lines = content.decode().rstrip("\n").split("\n")
        at = rng.randrange(len(lines))
        lines[at] = misshapen(lines[at], rng)
        return "\n".join(lines).encode("utf-8", "surrogatepass")
    if file.endswith(".csv"):
        return recut(content.decode(), rng).encode("utf-8", "surrogateescape")
    if file.endswith(".toml"):
        lines = content.decode().split("\n")
        at = rng.randrange(len(lines))
        words = ("nan", "inf", "-1", '""', "[]", "{}", "true", "9" * 40, '"x"', "1979-05-27", "[[]]", '{"" = {}}')
        lines[at] = f"{lines[at].partition('=')[0]}= {rng.choice(words)}"
        return "\n".join(lines).encode()
    return bent(content, rng)


# Options

VALUES = (
    "nan", "inf", "-inf", "-1", "0", "1e999", str(10**30), "99999999999999999999", "", " ", "[/b]", "~nosuchuser/x",
    "\x1b[31m\x07", "x" * 5000, "\udcff", "no/such/thing", ".", "..", "/", "a:b", "rules", "openai:", "hf:", "*", "-",
    "none", "none,none", "diffmean+", "+", "x=y", "x.y=z", "diffmean.layer=", "{", "é\u2028", "true", "0.5", ",",
    "fake:1:2:3", "%s%n", "${HOME}", "\n", "--", "1,nan", "0,0",
)  # fmt: skip
BASES: dict[str, tuple[str, ...]] = {
    "run": (*DRY, "-n", "1"),
    "show": ("show", "diffmean"),
    "compare": ("compare", "diffmean", "none"),
    "report": ("report", "--results", "few"),
    "check": ("check", "results"),
    "export": ("export", "diffmean"),
    "power": ("power", "diffmean", "none"),
    "overhead": ("overhead", "--model", "SmolLM2-135M-Instruct"),
    "capability": ("capability", "diffmean"),
    "list": ("list",),
    "models": ("models", "list"),
    "cache": ("cache", "size"),
    "judge rate": ("judge", "rate", "diffmean", "--judge", "rules"),
    "judge validate": ("judge", "validate", "--judge", "rules", "-n", "1"),
    "judge sample": ("judge", "sample", "diffmean", "--out", "drawn.csv"),
    "data check": ("data", "check", "axbench"),
    "data make": ("data", "make", "--concepts", "concepts.csv", "--generator", "fake", "--out", "made"),
}
"""A right command line of each command, which an option is added to."""
LEFT_OUT = {"docs": "it renews the checkout's own files"}
CONSUMED = ("--measure",)
"""Flags that start hours of work."""


def commands(group: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every command of the program with its words: found on the command itself, so that a new one is there."""
    if not isinstance(group, click.Group):
        yield " ".join(path), group
        return
    context = click.Context(group)
    for name in group.list_commands(context):
        one = group.get_command(context, name)
        if one is not None:
            yield from commands(one, (*path, name))


def options() -> list[tuple[str, ...]]:
    """Every parameter of every command with every hostile value, as command lines."""
    from bench.cli.main import main

    found: list[tuple[str, ...]] = []
    for name, command in commands(main):
        if name in LEFT_OUT:
            continue
        base = BASES.get(name, tuple(name.split()))
        for parameter in command.params:
            if isinstance(parameter, click.Argument):
                words = tuple(name.split())
                rest = base[len(words) + 1 :]
                found += [(*words, value, *rest) for value in VALUES]
            elif isinstance(parameter, click.Option) and not parameter.is_flag:
                found += [(*base, parameter.opts[0], value) for value in VALUES]
                found.append((*base, parameter.opts[0]))
                found.append((*base, *(parameter.opts[0], "1") * 2))
            elif parameter.opts[0] not in CONSUMED:
                found.append((*base, parameter.opts[0]))
    return found


def fields() -> list[tuple[str, ...]]:
    """Every field of every method, task, judge and of the protocol with every hostile value, as dry runs."""
    import dataclasses

    from bench.core import registry
    from bench.core.protocol import PRESETS

    found: list[tuple[str, ...]] = []
    base = ("run", "--backend", "fake", "-n", "1", "--dry-run")
    for kind in ("method", "task", "judge"):
        for name, cls in registry.table(kind).items():
            own = {
                "method": ("-m", name),
                "task": ("-t", name, "-m", "none"),
                "judge": ("-m", "none", "--judge", name + (":m" if name in ("openai", "hf", "vllm") else "")),
            }[kind]
            for field in (f.name for f in dataclasses.fields(cls) if f.init and f.name != "protocol"):
                found += [(*base, *own, "-p", f"{name}.{field}={value}") for value in VALUES]
    rules = PRESETS["quick"]
    nested = {"sampling": rules.sampling, "budget": rules.budget}
    names = [f.name for f in dataclasses.fields(rules) if f.name not in nested]
    names += [f"{part}.{f.name}" for part, value in nested.items() for f in dataclasses.fields(value)]
    found += [(*base, "-m", "none,diffmean,prompt", "-p", f"protocol.{name}={v}") for name in names for v in VALUES]
    return found


# A trial


class Hang(BaseException):
    """A trial took longer than it may. No `Exception`: the program must not take it for one of a method."""


def invoke(words: Sequence[str]) -> str:
    """What a command line raised that it should not have; "" where it ended as the program's commands end."""
    from bench.cli.main import main

    told, said = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(said):
            main.main([*words], prog_name="bench", standalone_mode=False)
    except (SystemExit, click.exceptions.Exit, click.ClickException, click.Abort):
        pass
    return "it prints a traceback" if "Traceback (most recent" in said.getvalue() else ""


def attempt(case: Case) -> str:
    """What is wrong with what a case came to: the innermost line of a traceback, or a hang; else ""."""
    from bench.core.errors import BenchError

    def late(number: int, frame: Any) -> None:
        raise Hang

    path = next(Path().glob(case.file)) if case.file else None  # a run's folder has another id under other code
    before = path.read_bytes() if path else b""
    words = [str(path) if word == "FILE" else word for word in case.words]
    signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT)
    try:
        if path:
            path.write_bytes(base64.b64decode(case.content))
        if words[0] == "read":
            readers()[words[1]](path or Path())
            return ""
        return invoke(words)
    except BenchError:
        return ""
    except Hang:
        return f"it hangs: longer than {LIMIT} s"
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if str(ROOT) in frame.filename]
        last = (own or frames)[-1]
        return f"{type(error).__name__}: {str(error)[:100]} ({Path(last.filename).name}:{last.lineno})"
    finally:
        signal.alarm(0)
        if path:
            path.write_bytes(before)
        for folder in ("out", "made"):
            shutil.rmtree(folder, ignore_errors=True)


def tried(cases: Sequence[Case]) -> Iterator[tuple[Case, str]]:
    """Each case with what was wrong; in forked processes, so that one that dies or hangs in C ends alone."""
    at = 0
    while at < len(cases):
        batch = cases[at : at + BATCH]
        reading, writing = os.pipe()
        if not (child := os.fork()):
            os.close(reading)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            with os.fdopen(writing, "w") as lines, open(os.devnull, "w") as null:
                os.dup2(null.fileno(), 1)
                os.dup2(null.fileno(), 2)
                for case in batch:
                    lines.write(json.dumps(attempt(case)) + "\n")
                    lines.flush()
                os._exit(0)
        os.close(writing)
        done, rest = 0, b""
        while done < len(batch):
            ready, _, _ = select.select([reading], [], [], 2 * LIMIT)
            part = os.read(reading, 65536) if ready else b""
            if not part:
                os.kill(child, signal.SIGKILL)
                yield batch[done], "it hangs in a library, or the process dies"
                done += 1
                break
            *whole, rest = (rest + part).split(b"\n")
            for line in whole:
                yield batch[done], json.loads(line)
                done += 1
        os.close(reading)
        os.waitpid(child, 0)
        at += done


@contextlib.contextmanager
def surroundings(root: Path) -> Iterator[None]:
    """A world in `root/world`, offline, without keys; afterwards all is as it was before."""
    before, folder = dict(os.environ), Path.cwd()
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        os.environ.pop(name, None)
    os.environ |= {
        "BENCH_CACHE": str(root / "world" / "cache"),
        "BENCH_RESULTS": "results",
        "HF_HUB_OFFLINE": "1",
        "PIP_NO_INDEX": "1",
        "BENCH_JUDGE": "likelihood",
        "HOME": str(root),
        "COLUMNS": "160",
    }
    try:
        build(root / "world")
        _ = readers(), options()  # what forked processes share is imported before them
        yield
    finally:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(before)


def files(rng: random.Random, count: int) -> Iterator[Case]:
    """`count` cases of damaged files, each place and each command that reads it in turn."""
    # A report draws figures for seconds, where the others take hundredths of one.
    places = [(file, words) for file, several in PLACES.items() for words in several if words[0] != "report"]
    rare = [(file, words) for file, several in PLACES.items() for words in several if words[0] == "report"]
    contents = {file: next(Path().glob(file)).read_bytes() for file in PLACES}
    for i in range(count):
        file, words = rare[i // RARE % len(rare)] if i % RARE == 0 else places[i % len(places)]
        made = changed(file, contents[file], rng)
        kind = "run.json" if file.endswith("run.json") else file.rpartition(".")[2]
        yield Case(kind, file, base64.b64encode(made).decode(), words)


def count(scale: float, seed: int) -> list[Count]:
    """`scale` 1: some 14,000 inputs."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as temporary, surroundings(Path(temporary)):
        cases = list(files(rng, round(6500 * scale)))
        lines = [("options", words) for words in options()] + [("fields", words) for words in fields()]
        wanted = min(len(lines), round(7500 * scale))
        cases += [Case(kind, "", "", words) for kind, words in rng.sample(lines, wanted)]
        tries, wrong, seen = Counter[str](), Counter[str](), Counter[str]()
        for case, reason in tried(cases):
            tries[case.kind] += 1
            if reason:
                wrong[case.kind] += 1
                seen[f"{case.kind}: {reason}"] += 1
                keep(case, reason)
        for reason, times in seen.most_common():
            print(f"{times:5} {reason}")
    told = {
        "run.json": "damaged `run.json`",
        "options": "every option of every command",
        "fields": "`-p`: every field of every method, task, judge, protocol",
    }
    note = "a traceback, or no end within a minute"
    return [
        Count(told.get(kind, f"damaged `.{kind}` files"), n, wrong[kind], note) for kind, n in sorted(tries.items())
    ]


def keep(case: Case, reason: str) -> None:
    """Put a case that failed into the corpus, where it is not too large to be kept."""
    path = CORPUS / f"{case.name}.json"
    if len(case.content) < 100_000:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(case) | {"failed": reason}, indent=1) + "\n")


def kept() -> list[Case]:
    """The cases of the corpus."""
    found = [json.loads(path.read_text("utf-8")) for path in sorted(CORPUS.glob("*.json"))]
    return [Case(one["kind"], one["file"], one["content"], tuple(one["words"])) for one in found]


if __name__ == "__main__":
    started = time.monotonic()
    for one in count(float(os.environ.get("SCALE", "0.05")), 0):
        print(one)
    print(f"{time.monotonic() - started:.0f} s")
