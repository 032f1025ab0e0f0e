"""Keys: whatever can change a result changes its key, and nothing else does.

Every field of every value that a key is made of is changed, one at a time; every definition that a key reaches is
changed at every place of its syntax; model folders and plugins' helpers are changed file by file.
"""

from __future__ import annotations

import ast
import copy
import dataclasses
import os
import random
import shutil
import sys
import tempfile
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bench.backends import tiny
from bench.backends.fake.backend import FakeBackend
from bench.backends.models import resolve
from bench.core import definitions
from bench.core.content import digest
from bench.core.definitions import Place, closure, code_digest
from bench.core.deltas import DenseDelta, LowRankDelta, RotationDelta
from bench.core.edits import Gate, Span
from bench.core.embeds import Embeds
from bench.core.errors import BenchError, UsageError
from bench.core.interfaces import Context, Judge, Method
from bench.core.kinds import Add, Cache, Clamp, LowRank, Project
from bench.core.naming import build_method
from bench.core.registry import build, get, load_plugin, table
from bench.core.steering import Mix, Prompt, Steering
from bench.core.store import Artefacts
from bench.core.values import Item, Request, Sampling
from bench.judges.judging import judged_by
from bench.run.contract import BUDGET, example_train
from bench.run.faults import definitions as of_method
from bench.run.fits import Fits
from bench.run.identity import RULES
from bench.run.trials import kept_as
from benchmarks.faults.counts import Count

H = 8
UNIT = np.eye(H, dtype=np.float32)[0]
HOST = {
    "openai": {"workers", "retries", "timeout", "price", "batch", "poll"},
    "embedding": {"batch"},
}
"""Fields of judges that say how a rating is got, and not what it is."""


# Values


def changed(value: Any, hint: Any = None) -> list[Any]:
    """Values of the same kind as `value`, none equal to it."""
    if typing.get_origin(hint) is Literal:
        return [one for one in typing.get_args(hint) if one != value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1, value + type(value)(3)]
    if isinstance(value, str):
        return [value + "x", value + " "]
    if isinstance(value, np.ndarray):
        found = [value.copy() for _ in range(2)]
        found[0].flat[0] += 1
        found[1].flat[-1] -= 0.5
        return [*found, np.concatenate([value, value])]
    if dataclasses.is_dataclass(value):
        return [other for _, other in variants(value)]
    if isinstance(value, tuple):
        inner = [(*value[:i], other, *value[i + 1 :]) for i, own in enumerate(value) for other in changed(own)]
        pair = len(value) == 2 and all(isinstance(part, str) for part in value)  # a message has two parts
        return [*inner, (*value, value[-1])] if value and not pair else inner
    return []


def variants(value: Any) -> Iterator[tuple[str, Any]]:
    """(field, the dataclass `value` with that field changed), for every field and every way in `changed` that the class
    allows."""
    hints = typing.get_type_hints(type(value))
    for field in dataclasses.fields(value):
        if not field.init:
            continue
        for other in changed(getattr(value, field.name), hints[field.name]):
            try:
                yield field.name, dataclasses.replace(value, **{field.name: other})
            except (ValueError, BenchError):
                continue  # refused where it enters, so that no key is asked of it


def steering() -> Steering:
    """Edits and deltas of many kinds, a mix and a soft prompt, at once."""
    gate = Gate(0, UNIT, 0.2, center=UNIT * 0)
    skew = np.array([[0, 0.3], [-0.3, 0]], np.float32)
    tall, pair = np.eye(H, 2, dtype=np.float32), np.ones(2, np.float32)
    edits = (
        Add(layer=1, value=np.stack([UNIT, 2 * UNIT]), span=Span("prompt", first=2), gate=gate),
        Project(layer=2, basis=UNIT[None]),
        Clamp(layer=2, read=UNIT, write=UNIT, target=3.0, at_least=True),
        LowRank(layer=3, rotation=UNIT[None], weight=UNIT[None], bias=np.ones(1, np.float32)),
    )
    deltas = (
        LowRankDelta(module="a", down=np.ones((1, H), np.float32), up=np.ones((H, 1), np.float32)),
        DenseDelta(module="b", change=np.ones((H, H), np.float32)),
        RotationDelta(module="c", u=tall, s=pair, v=tall, skew=skew, shift=0 * pair),
    )
    mix, soft = Mix(Prompt("Be brief.", "Now. "), 2.0), (Embeds(np.stack([UNIT, 2 * UNIT])),)
    return Steering(Prompt("Be kind.", "Please. ", " Thanks.", (("Hi", "Hello"),)), edits, deltas, mix, soft)


def requests() -> Iterator[tuple[str, Request]]:
    """(what was changed, request): the first is the plain one."""
    chat = (("system", "Hm."), ("user", "Who?"), ("assistant", "I."), ("user", "Why?"))
    plain = Request(chat, steering(), Sampling(), 7, "So")
    yield "nothing", plain
    for field, other in variants(plain):
        if field != "target":  # of an option, whose key has it beside
            yield f"Request.{field}", other
    kept = Cache(layer=1, value=UNIT)
    for field, other in [("nothing", kept), *variants(kept)]:
        yield f"Cache.{field}", dataclasses.replace(plain, steering=Steering(edits=(other,)))
    raw = Request("Once", Steering(Prompt(prefix="a ", suffix=" b")))
    yield "Request.prompt as text", raw
    for field, other in variants(Prompt(prefix="a ", suffix=" b")):
        if field in ("prefix", "suffix"):
            yield f"Prompt.{field} around a text", dataclasses.replace(raw, steering=Steering(other))


def answers() -> Count:
    """Keys of answers under every request: all are to differ."""
    found = [kept_as("engine", request) for _, request in requests()]
    wrong = len(found) - len(set(found))
    note = "a key that two requests share (edits of every kind, gates, spans, deltas, prompts, sampling, seed)"
    return Count("a field of a request or of its steering changed: the answer's key", len(found), wrong, note)


def fit_key(method: Method, **changes: Any) -> str:
    """The key of a method's fit of the example, with fields of what it is given changed."""
    given = {"train": example_train(), "budget": BUDGET, "seed": 0, "compat": "", "prompter": ""} | changes
    context = Context(FakeBackend(), given["budget"], given["seed"], compat=given["compat"])
    fits = Fits(context, Artefacts(Path()), {"c": given["train"]}, "steering", given.get("judge", "judge"))
    return fits.keys(method, given["prompter"])["c"]


def methods() -> Count:
    """Every field of every registered method, and of what a fit is given."""
    tried = wrong = 0
    for name, cls in table("method").items():
        inner = {"inner": build_method("diffmean", {})} if "inner" in {f.name for f in dataclasses.fields(cls)} else {}
        try:
            made = build("method", name, {}, **inner)
        except Exception:  # one that needs an argument has no default to change
            continue
        plain = fit_key(made)
        for field, other in variants(made):
            try:
                key = fit_key(other)
            except UsageError:  # a file of that name is not there
                continue
            tried, wrong = tried + 1, wrong + (key == plain)
            if key == plain:
                print(f"{name}.{field} is in no key", file=sys.stderr)
    made = build_method("diffmean", {})
    plain = fit_key(made)
    given = [{"train": other} for _, other in variants(example_train())]
    given = [one for one in given if not one["train"].prompts]  # a task's wordings are for prompts alone
    given += [{"budget": other} for _, other in variants(BUDGET)] + [{"seed": 1}, {"compat": "axbench"}]
    given += [{"prompter": "openai:x"}]
    for one in given:
        tried, wrong = tried + 1, wrong + (fit_key(made, **one) == plain)
    return Count("a field of a method, of its training texts or of its budget changed: the fit's key", tried, wrong)


def judges(model: Path) -> tuple[Count, Count]:
    """Every field of every registered judge that can be made here; settings of the host apart."""
    tried = wrong = still = moved = 0
    for name, cls in table("judge").items():
        needs = {"model": str(model)} if "model" in {f.name for f in dataclasses.fields(cls)} else {}
        try:
            made: Judge = build("judge", name, needs)
            plain = judged_by(name, made, "shard")
        except Exception:  # an engine that is not installed
            continue
        for field, other in variants(made):
            if field.startswith("_"):
                continue
            try:
                key = judged_by(name, other, "shard")
            except Exception:  # a model or a list of that name is not there
                continue
            if field in HOST.get(name, ()):
                still, moved = still + 1, moved + (key != plain)
            else:
                tried, wrong = tried + 1, wrong + (key == plain)
                if key == plain:
                    print(f"{name}.{field} is in no key", file=sys.stderr)
    item = Item("concept", example_train().concept, "Who?", "A ship.")
    judge = get("judge", "rules")()
    for _, other in variants(item):  # as a judge has it that leaves nothing of an item out
        same = digest(Judge.key(judge, item)) == digest(Judge.key(judge, other))
        tried, wrong = tried + 1, wrong + same
    return (
        Count("a field of a judge or of what it rates changed: the rating's key", tried, wrong),
        Count("a setting of the host changed (workers, retries, time-outs): the rating's key stays", still, moved),
    )


# Code


def roots() -> dict[str, tuple[Any, ...]]:
    """What has a key of its own, by name, and the definitions that it begins with."""
    found: dict[str, tuple[Any, ...]] = {"rules": RULES}
    for kind in ("task", "judge", "edit"):
        found |= {f"{kind} {name}": (cls,) for name, cls in table(kind).items()}
    for name in ("hf", "vllm", "fake", "openai"):
        engine = get("backend", name)
        found[f"backend {name}"] = (engine, *engine.kernels)
    for name, cls in table("method").items():
        try:
            found[f"method {name}"] = of_method(build("method", name, {}))
        except Exception:  # a method around another
            found[f"method {name}"] = (cls,)
    return found


def key_of(root: tuple[Any, ...]) -> str:
    """`code_digest`, without what it remembers."""
    return digest(sorted(map(str, closure(root).values())))


OWNERS = (ast.Constant, ast.BinOp, ast.AugAssign, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Name, ast.Attribute)
MORE = (ast.arg, ast.If, ast.While)


def says(node: ast.AST) -> bool:
    """Whether `alter` can make a node say something else."""
    if isinstance(node, ast.keyword):
        return bool(node.arg)
    if isinstance(node, ast.Call):
        return bool(node.args)
    if isinstance(node, ast.Return):
        return node.value is not None
    if isinstance(node, ast.IfExp):
        return ast.dump(node.body) != ast.dump(node.orelse)
    return isinstance(node, (*OWNERS, *MORE))


def alter(node: Any, rng: random.Random) -> None:
    """Change one node in place so that it says something else."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            node.value = not node.value
        elif isinstance(node.value, int | float):
            node.value += 1
        else:
            node.value = f"{node.value}x" if isinstance(node.value, str) else 0
    elif isinstance(node, ast.BinOp | ast.AugAssign):
        node.op = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
    elif isinstance(node, ast.UnaryOp):
        node.op = ast.UAdd() if not isinstance(node.op, ast.UAdd) else ast.USub()
    elif isinstance(node, ast.BoolOp):
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    elif isinstance(node, ast.Compare):
        node.ops[0] = ast.NotEq() if not isinstance(node.ops[0], ast.NotEq) else ast.Eq()
    elif isinstance(node, ast.Name):
        node.id += "_"
    elif isinstance(node, ast.Attribute):
        node.attr += "_"
    elif isinstance(node, ast.arg):
        node.arg += "_"
    elif isinstance(node, ast.keyword):
        node.arg = f"{node.arg}_"
    elif isinstance(node, ast.Call):
        node.args.pop(rng.randrange(len(node.args)))
    elif isinstance(node, ast.Return):
        node.value = None
    elif isinstance(node, ast.IfExp):
        node.body, node.orelse = node.orelse, node.body
    else:
        node.test = ast.UnaryOp(ast.Not(), node.test)


def docstrings(statement: ast.stmt) -> set[int]:
    """Constants of a definition that only tell the reader something."""
    said = [n for n in ast.walk(statement) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)]
    imports = [n for n in ast.walk(statement) if isinstance(n, ast.Import | ast.ImportFrom)]
    return {id(part) for node in (*said, *imports) for part in ast.walk(node)}


@contextmanager
def instead(place: Place, statements: list[ast.stmt]) -> Iterator[None]:
    """While a definition reads as `statements`."""
    module, name = place
    source = definitions.source(module)
    was, read = source.defines[name], source.read.pop(name, None)
    source.defines[name] = statements
    try:
        yield
    finally:
        source.defines[name] = was
        source.read.pop(name, None)
        if read is not None:
            source.read[name] = read


def places(statements: list[ast.stmt]) -> list[tuple[int, int]]:
    """(statement, node in the order of `ast.walk`) of all that can be altered."""
    found = []
    for i, statement in enumerate(statements):
        said = docstrings(statement)
        for k, node in enumerate(ast.walk(statement)):
            if id(node) not in said and says(node):
                found.append((i, k))
    return found


EVERY = 12


def code(scale: float, rng: random.Random) -> list[Count]:
    """Definitions changed at one in `EVERY` of their places, at least one each, and changed in what decides nothing;
    below a scale of .05 a part of the definitions."""
    wanted = roots()
    reach = {name: set(closure(root)) for name, root in wanted.items()}
    every = sorted(set().union(*reach.values()))
    before = {name: key_of(root) for name, root in wanted.items()}
    nearest = {place: min((n for n in reach if place in reach[n]), key=lambda n: len(reach[n])) for place in every}
    other = {place: [n for n in reach if place not in reach[n]] for place in every}
    tried = wrong = spread = spilt = still = moved = 0
    for place in rng.sample(every, round(min(1, 20 * scale) * len(every))):
        statements = definitions.source(place[0]).defines[place[1]]
        sites = places(statements)
        for at, k in rng.sample(sites, min(len(sites), max(1, round(scale * len(sites) / EVERY)))):
            new = copy.deepcopy(statements)
            alter(node := list(ast.walk(new[at]))[k], rng)
            try:
                compile(ast.unparse(new[at]), "<altered>", "exec")
            except SyntaxError:  # two arguments of one name, say
                continue
            name = nearest[place]
            with instead(place, new):
                tried, wrong = tried + 1, wrong + (same := key_of(wanted[name]) == before[name])
                if same:
                    print(f"{'.'.join(place)} has a {type(node).__name__} in no key", file=sys.stderr)
                if rng.random() < 0.1 and other[place]:
                    far = rng.choice(other[place])
                    spread, spilt = spread + 1, spilt + (spills := key_of(wanted[far]) != before[far])
                    if spills:
                        print(f"{'.'.join(place)} changes the key of {far}", file=sys.stderr)
        for new in harmless(statements):
            name = nearest[place]
            with instead(place, new):
                still, moved = still + 1, moved + (key_of(wanted[name]) != before[name])
    return [
        Count(f"a place of the {len(every):,} definitions that keys reach changed: the key", tried, wrong),
        Count("the same: a key that does not reach it stays", spread, spilt),
        Count("comments and line breaks, a docstring, an import put into a definition: the key stays", still, moved),
    ]


def harmless(statements: list[ast.stmt]) -> Iterator[list[ast.stmt]]:
    """The same definition as it would read after a change that says nothing."""
    text = "\n".join(map(ast.unparse, statements))
    yield ast.parse(text).body
    for inside in ("'Told otherwise.'", "import math"):
        new = copy.deepcopy(statements)
        own = [one for one in new if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
        for one in own:
            one.body.insert(0, ast.parse(inside).body[0])
        if own:
            yield new


# Files


def folders(model: Path, work: Path) -> list[Count]:
    """A model's folder changed file by file, with sizes and times kept."""
    extra = ("merges.txt", "vocab.txt", "added_tokens.json", "spiece.model", "source.spm", "qwen.tiktoken", "new.py")
    extra += ("chat_template.jinja", "additional_chat_templates/tools.jinja")
    told = ("README.md", "LICENSE", "plot.png", ".gitattributes", ".cache/x.json", "trainer_state.json")
    told += ("original/a.bin",)
    folder = work / "model"
    shutil.copytree(model, folder)
    for name in (*extra, *told):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"some text, as long as needed")
    plain = resolve(str(folder)).weights
    tried = wrong = still = moved = 0
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        was, stat = path.read_bytes(), path.stat()
        for how in range(3):
            flipped = bytearray(was)
            flipped[(0, len(was) // 2, -1)[how]] ^= 1
            path.write_bytes(bytes(flipped))
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
            other = resolve(str(folder)).weights
            if name in told:
                still, moved = still + 1, moved + (other != plain)
            else:
                tried, wrong = tried + 1, wrong + (other == plain)
        path.write_bytes(was)
    moved += resolve(str(Path(shutil.copytree(folder, work / "elsewhere")))).weights != plain
    return [
        Count("a bit of a file of a model's folder flipped, its size and time kept: the weights' digest", tried, wrong),
        Count("a document of the folder changed, or the folder moved: it stays", still + 1, moved),
    ]


HELPERS: Mapping[str, tuple[str, str]] = {
    "import helper": ("helper.py", "helper.F"),
    "import helper as h": ("helper.py", "h.F"),
    "from helper import F": ("helper.py", "F"),
    "from helper import *": ("helper.py", "F"),
    "from helpers.inner import F": ("helpers/inner.py", "F"),
    "import helpers.inner": ("helpers/inner.py", "helpers.inner.F"),
    "from middle import G as F": ("helper.py", "F"),
}
"""How a plugin takes what lies beside it: the file with the number, and the number's name."""


def helpers(work: Path) -> Count:
    """A number in a module beside a plugin's file changed, however that is imported."""
    tried = wrong = 0
    for i, (taken, (file, name)) in enumerate(HELPERS.items()):
        for where in ("top", "inside"):
            folder = work / f"plugin-{i}-{where}"
            (folder / "helpers").mkdir(parents=True)
            (folder / "middle.py").write_text("from helper import F as G\n")
            for other in ("helper.py", "helpers/inner.py"):
                (folder / other).write_text("UNIT = 1\n\n\ndef F():\n    return UNIT\n")
            if where == "inside" and "*" in taken:
                continue
            top, inner = (f"{taken}\n", "") if where == "top" else ("", f"    {taken}\n")
            path = folder / f"plugin_{i}.py"
            path.write_text(f"{top}\n\ndef scored():\n{inner}    return {name}()\n")
            sys.path.insert(0, str(folder))
            try:
                scored = load_plugin(path).scored
                keys = [code_of_text(scored)]
                (folder / file).write_text("UNIT = -3\n\n\ndef F():\n    return UNIT\n")
                os.utime(folder / file, ns=(1, 1))
                keys.append(code_of_text(scored))
                tried, wrong = tried + 1, wrong + (same := keys[0] == keys[1])
                if same:
                    print(f"a plugin's {taken!r} ({where}) is in no key", file=sys.stderr)
            finally:
                sys.path.remove(str(folder))
                for module in [m for m in sys.modules if m.split(".")[0] in ("helper", "helpers", "middle")]:
                    del sys.modules[module]
                definitions._found.cache_clear()
                definitions._bases.cache_clear()
    return Count("a number in a module beside a plugin changed: the key of what the plugin defines", tried, wrong)


def code_of_text(*defined: Callable[..., Any]) -> str:
    """`code_digest` of texts that change while the program runs."""
    definitions._digest.cache_clear()
    return code_digest(*defined)


def count(scale: float, seed: int) -> list[Count]:
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        os.environ["BENCH_CACHE"] = str(work / "cache")
        tiny.build(work / "tiny")
        return [
            answers(),
            methods(),
            *judges(work / "tiny"),
            *code(scale, rng),
            *folders(work / "tiny", work),
            helpers(work),
        ]


def wrong_of(counts: Iterable[Count]) -> list[str]:
    """The lines that have something wrong, for a test to show."""
    return [f"{one.what}: {one.wrong} of {one.tried}" for one in counts if one.wrong]
