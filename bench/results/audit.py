"""`results/` as a checked dataset: every rule that a committed run is held to.

Invariant: a rule is a function from a run to what breaks it; nothing is repaired, and every finding names a
file. What a run says of itself (its id, its scores) is computed again, not believed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from bench import results
from bench.core import registry
from bench.core.content import digest
from bench.core.documents import read_json, read_toml
from bench.core.errors import BenchError, suggest
from bench.core.naming import build_method, names_in
from bench.core.shapes import Text
from bench.core.surfaces import PROMPTED, STEERED
from bench.results import hypotheses, ratings, second_judge, sidecars, validity
from bench.results.runs import Run, files
from bench.stats import detection

RETIRED = "retired.toml"
"""In the results folder: names of methods, tasks and judges that are no longer registered, with the reason."""
CONTROLS = {
    "steering": ("none", "random", "shuffled", "prompt"),
    "detector": ("random", "shuffled", "prompt-detect"),
}
ROLES = {"prompt": PROMPTED, "steering": STEERED, "combination": {"combination"}}
"""Surfaces that may stand in each role of a registration."""
NEAR = 1e-3
"""Ratings are kept to four digits, so that a mean may differ from its samples' by half of the last one."""
PLACE = re.compile(r"^(?:/[^/\s]|~/|[A-Za-z]:[\\/])|/(?:home|root|Users|tmp|workspace)/")
SPOKEN = ("text", "instruction", "said", "raw")
"""Fields of a sample that a model or a data set wrote: a path in them is what they talk about."""


@dataclass(frozen=True)
class Finding:
    """One thing wrong with one file, by its path below the results folder."""

    path: str
    problem: str


class Coded(TypedDict):
    """What runs and opinions have in common."""

    code: str


Problems = Iterator[tuple[str, str]]
"""(file beside run.json, what is wrong with it)"""


def check(root: Path) -> list[Finding]:
    """Everything wrong with a results folder, and with its archive."""
    found: list[Finding] = []
    runs: list[Run] = []
    try:
        retired = graveyard(root)
        validity.validations(root)
    except BenchError as error:
        return [Finding(RETIRED if RETIRED in str(error) else "judges", str(error))]
    for path in files(root):
        try:
            runs.append(results.read(path))
        except BenchError as error:
            found.append(Finding(_below(path, root), str(error)))
    for run in runs:
        found += of_run(run, root, retired)
    found += _keys(root)
    found += _registration(root)
    found += _references(root, runs)
    found += [Finding(_below(path, root), "is no file of a results folder") for path in _strays(root)]
    if (old := root / results.ARCHIVE).is_dir():
        found += [Finding(f"{old.name}/{one.path}", one.problem) for one in check(old)]
    return sorted([*found, *together(runs, root)], key=lambda f: (f.path, f.problem))


def of_run(run: Run, root: Path, retired: Mapping[str, Mapping[str, str]]) -> list[Finding]:
    """Everything wrong with one run and the files beside it."""
    found = []
    for rule in RULES:
        try:
            found += [Finding(_below(run.path.with_name(file), root), text) for file, text in rule(run, root, retired)]
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, StopIteration) as error:
            what = f"{(rule.__doc__ or rule.__name__).splitlines()[0].rstrip('.')}: {type(error).__name__} {error}"
            found.append(Finding(_below(run.path, root), f"lacks the shape of a run ({what})"))
    return found


def graveyard(root: Path) -> dict[str, dict[str, str]]:
    """kind -> name -> why it is registered no more."""
    path = root / RETIRED
    if not path.is_file():
        return {}
    remedy = 'write [method], [task] or [judge] tables of name = "reason"'
    kinds: dict[str, dict[str, str]] = read_toml(path, dict[str, dict[str, Text]], "a table of retired names", remedy)
    if strange := sorted(set(kinds) - set(registry.KINDS)):
        raise BenchError(f"{RETIRED}: {suggest(strange[0], registry.KINDS)}; {remedy}")
    return kinds


def _keys(root: Path) -> Iterator[Finding]:
    """Aliases of files that are not there, or have another key than the one that is said to be called otherwise."""
    try:
        known = results.aliases(root)
    except BenchError as error:
        yield Finding(results.KEYS, str(error))
        return
    for file, (was, _) in known.items():
        path = root / file
        try:
            kept = read_json(path, Coded, "a run or an opinion")["code"]
        except BenchError:
            kept = ""  # what is wrong with it is a finding of its own
        if kept != was:
            yield Finding(results.KEYS, f"{file} is not there, or was not written with the key {was}")


def _registration(root: Path) -> Iterator[Finding]:
    """Hypotheses that cannot be read, or name what is not registered or of another side."""
    try:
        named = hypotheses.read(root).get("tasks", {})
    except BenchError as error:
        yield Finding(hypotheses.FILE, str(error))
        return
    for task, methods in named.items():
        if task not in registry.table("task"):
            yield Finding(hypotheses.FILE, f"task {suggest(task, registry.table('task'))}")
        for role, given in methods.items():
            for name in [given] if isinstance(given, str) else given:
                try:
                    own = build_method(name, {}).surface
                except BenchError as error:
                    yield Finding(hypotheses.FILE, f"tasks.{task}: {error}")
                    continue
                if own not in ROLES[role]:
                    yield Finding(hypotheses.FILE, f"tasks.{task}: {name} ({own}) is named as {role}")


def _references(root: Path, runs: Sequence[Run]) -> Iterator[Finding]:
    """Readers' ratings whose answers lead nowhere, or to another text than the run has."""
    texts = {(run.data["id"], s["id"]): s.get("text") for run in runs for s in run.data["samples"]}
    for path in sorted((root / "judges").glob("*.csv")):
        if path.name.endswith(".key.csv"):
            continue
        name = f"judges/{path.name}"
        try:
            rows, key = ratings.read(path), ratings.read_key(ratings.key_of(path))
        except BenchError as error:
            yield Finding(name, str(error))
            continue
        if silent := sum(not row.reader for row in rows):
            yield Finding(name, f"{silent} rows do not say who rated them")
        for answer in dict.fromkeys(row.answer for row in rows):
            origin = key.get(answer.id)
            if origin is None or ratings.blind(origin.run, origin.sample) != answer.id:
                yield Finding(name, f"{answer.id} leads to no run and sample")
            elif texts.get((origin.run, origin.sample), answer.answer) != answer.answer:
                yield Finding(name, f"{answer.id}: run {origin.run} has another text for {origin.sample}")


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _strays(root: Path) -> list[Path]:
    """Files that belong to nothing."""
    own = {path.parent for path in files(root)}
    found = []
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        beside = ("run.json", results.TRIALS, sidecars.NAME, sidecars.CAPABILITY)
        known = path.parent in own and (path.name in beside or re.fullmatch(r"judged-.+\.json", path.name))
        known = known or (path.parent == root / "judges" and path.suffix in (".json", ".csv"))
        known = known or (path.parent == root and path.suffix == ".md")  # what its owner says of it
        known = known or path.is_relative_to(root / results.ARCHIVE)
        if not known and path not in (root / RETIRED, root / hypotheses.FILE, root / results.KEYS):
            found.append(path)
    return found


def _identity(run: Run, root: Path, retired: Mapping[str, Mapping[str, str]]) -> Problems:
    """Its folder, id and group follow from its spec."""
    spec, data = run.data["spec"], run.data
    if data["id"] != (own := digest(spec)[:10]):
        yield "run.json", f"its id is {data['id']}, and its spec gives {own}"
    group = digest(dict(spec) | {"method": "", "method_params": {}, "prompter": ""})[:10]
    if data["group"] != group:
        yield "run.json", f"its group is {data['group']}, and its spec gives {group}"
    place = f"{spec['task']}/{spec['model']}/{spec['method']}-{data['id']}"
    if _below(run.path.parent, root) != place:
        yield "run.json", f"lies in {_below(run.path.parent, root)}, and its spec says {place}"


def _names(run: Run, root: Path, retired: Mapping[str, Mapping[str, str]]) -> Problems:
    """Its method, task and judge are registered, or known to be retired."""
    spec = run.data["spec"]
    named = [("method", name) for name in names_in(spec["method"])] + [("task", spec["task"])]
    named += [("judge", spec["judge"].partition(":")[0])] if spec["judge"] else []
    for kind, name in named:
        if name not in registry.table(kind) and name not in retired.get(kind, {}):
            yield "run.json", f"{kind} {name!r} is not registered, and {RETIRED} does not say why"


def _admission(run: Run, root: Path, retired: Mapping[str, Mapping[str, str]]) -> Problems:
    """It is complete, unlimited, of a preset for results, and made by a clean tree."""
    data, rules = run.data, run.data["spec"]["protocol"]
    if data["status"] != "complete":
        yield "run.json", f"its status is {data['status']}"
    if data["refused"]:
        yield "run.json", f"it was refused: {'; '.join(data['refused'])}"
    if rules["preset"] not in ("standard", "paper"):
        yield "run.json", f"preset {rules['preset']} is for looking around"
    if own := data.get("asked", {}).get("protocol"):
        yield "run.json", f"its protocol is not the preset's: {', '.join(own)}"
    if rules["concepts"]:
        yield "run.json", f"it is limited to {rules['concepts']} concepts"
    if data["spec"]["backend"] == "fake":
        yield "run.json", "the fake backend has no model"
    yield from _provenance("run.json", data["provenance"])
    yield from _placed("run.json", data)


def _provenance(file: str, made: Mapping[str, Any]) -> Problems:
    if not made.get("commit"):
        yield file, "it names no commit"
    if made.get("dirty"):
        yield file, f"it was made with uncommitted changes: {', '.join(made['dirty'][:3])}"


def _placed(file: str, data: Mapping[str, Any]) -> Problems:
    """Folders of one machine that a file names, but for what samples talk about."""
    for where, text in _places({k: v for k, v in data.items() if k != "samples"}):
        yield file, f"{where} names a place on one machine: {text}"
    for sample in data.get("samples", ()):
        for where, text in _places(sample, sample=True):
            yield file, f"sample {sample['id']}, {where} names a place on one machine: {text}"


def _places(value: Any, where: str = "", sample: bool = False) -> Iterator[tuple[str, str]]:
    """(where, text) of every string that names a folder of one machine, but for what a `sample` talks about."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            if not (sample and key in SPOKEN):
                yield from _places(one, f"{where}.{key}" if where else str(key), key == "samples")
    elif isinstance(value, list):
        for one in value:
            yield from _places(one, where, sample)
    elif isinstance(value, str) and PLACE.search(value):
        yield where, value[:80]


def _scores(run: Run, root: Path, retired: Mapping[str, Mapping[str, str]]) -> Problems:
    """Its scores are those of its samples."""
    data = run.data
    ids = Counter(sample["id"] for sample in data["samples"])
    if twice := [name for name, n in ids.items() if n > 1]:
        yield "run.json", f"sample {twice[0]} stands {ids[twice[0]]} times"
    if strange := {s["concept"] for s in data["samples"]} - set(data["concepts"]):
        yield "run.json", f"samples of {sorted(strange)[0]!r}, which is none of its concepts"
    for name, concept in data["concepts"].items():
        rows = [s["ratings"] for s in data["samples"] if s["concept"] == name]
        for key, value in _means(rows, data["axes"]).items():
            if not _same(value, concept["test"][key]):
                yield "run.json", f"{name}: test {key} is {concept['test'][key]}, and its samples give {value}"
        settings = [{k: row[k] for k in ("candidate", "coefficient")} for row in concept["select"]]
        if settings and concept["picked"] not in settings:
            yield "run.json", f"{name}: the picked setting {concept['picked']} was not tried"
        if run.kind == "detector":
            yield from _aurocs(name, [s for s in data["samples"] if s["concept"] == name], concept["test"])
    for key, value in results.metrics(data).items():
        if not _same(value, data["metrics"][key]):
            yield "run.json", f"metric {key} is {data['metrics'][key]}, and its samples give {value}"
    missing = sum(s["ratings"].get("overall", 0) is None for s in data["samples"])
    if missing != data["counts"]["missing"]:
        yield "run.json", f"it counts {data['counts']['missing']} missing ratings, and its samples {missing}"


def _aurocs(name: str, samples: Sequence[Mapping[str, Any]], test: Mapping[str, Any]) -> Problems:
    """A detector's metrics again, from its raw scores; runs made before an axis was measured lack it."""
    found = detection.metrics(np.array([s["score"] for s in samples]), [s["label"] for s in samples])
    for axis, value in found.items():
        if axis in test and not _same(value, test[axis]):
            yield "run.json", f"{name}: {axis} is {test[axis]}, and the scores of its texts give {value:.4f}"


def _means(rows: Sequence[Mapping[str, float | None]], axes: Sequence[str]) -> dict[str, float | int | None]:
    """As `results.means`, from ratings that were written."""
    found: dict[str, float | int | None] = {}
    for axis in axes:
        known = [v for row in rows if (v := row.get(axis)) is not None]
        found[axis] = sum(known) / len(known) if known else None
    return found | {"n": len(rows), "missing": sum("overall" in row and row["overall"] is None for row in rows)}


def _same(one: float | None, two: float | None) -> bool:
    return one is two or (one is not None and two is not None and abs(one - two) <= NEAR)


def _opinions(run: Run, root: Path, retired: Mapping[str, Mapping[str, str]]) -> Problems:
    """Each judge's opinion beside it is of this run, and gives its own means."""
    ids = [s["id"] for s in run.data["samples"]]
    for path in sorted(run.path.parent.glob("judged-*.json")):
        try:
            said = second_judge.read(path)
        except BenchError as error:
            yield path.name, str(error)
            continue
        if said.data["run"] != run.data["id"]:
            yield path.name, f"belongs to run {said.data['run']}"
        if path != (own := second_judge.place(run, said.judge, said.data["judge_params"])):
            yield path.name, f"its judge and parameters give the name {own.name}"
        judge = registry.table("judge").get(said.judge.partition(":")[0])
        if judge is None and said.judge.partition(":")[0] not in retired.get("judge", {}):
            yield path.name, f"judge {said.judge!r} is not registered, and {RETIRED} does not say why"
        elif judge and said.independent and not judge.independent:
            yield path.name, f"it calls {said.judge} independent, which it is not"
        if [s["id"] for s in said.data["samples"]] != ids:
            yield path.name, "it rates other samples than the run has"
            continue
        ratings = {s["id"]: s["ratings"] for s in said.data["samples"]}
        for name, means in said.data["concepts"].items():
            rows = [ratings[s["id"]] for s in run.data["samples"] if s["concept"] == name]
            for key, value in _means(rows, run.data["axes"]).items():
                if not _same(value, means[key]):
                    yield path.name, f"{name}: {key} is {means[key]}, and its ratings give {value}"
        yield from _provenance(path.name, said.data["provenance"])
        yield from _placed(path.name, said.data)


def _trials(run: Run, root: Path, retired: Mapping[str, Mapping[str, str]]) -> Problems:
    """The answers its settings were picked by give the means it picked by."""
    path = run.path.with_name(results.TRIALS)
    if not path.is_file():
        return
    tried: dict[tuple[Any, ...], list[Mapping[str, float | None]]] = {}
    try:
        rows = results.trials(run)
    except BenchError as error:
        yield path.name, str(error)
        return
    for row in rows:
        tried.setdefault((row["concept"], row["candidate"], row["coefficient"]), []).append(row["ratings"])
        yield from _placed(path.name, {"samples": [row]})
    for name, concept in run.data["concepts"].items():
        for setting in concept["select"]:
            where = (name, setting["candidate"], setting["coefficient"])
            for key, value in _means(tried.pop(where, []), run.data["axes"]).items():
                if not _same(value, setting[key]):
                    yield (
                        path.name,
                        f"{name}, candidate {where[1]} at {where[2]:g}: {key} is {setting[key]} in run.json, "
                        f"and the answers give {value}",
                    )
    if tried:
        name, candidate, coefficient = next(iter(tried))
        yield path.name, f"{name}, candidate {candidate} at {coefficient:g} is no setting of run.json"


def _beside(run: Run, root: Path, retired: Mapping[str, Mapping[str, str]]) -> Problems:
    """Its costs and capability belong to it."""
    try:
        cost = sidecars.load(run)
        yield from _placed(sidecars.NAME, cost.data if cost else {})
    except BenchError as error:
        yield sidecars.NAME, str(error)
    path = run.path.with_name(sidecars.CAPABILITY)
    try:
        found = sidecars.capability(path)
        if found["entries"] and found["run"] != run.data["id"]:
            yield path.name, f"belongs to run {found['run']}"
        yield from _placed(path.name, found)
    except BenchError as error:
        yield path.name, str(error)


RULES: tuple[Callable[[Run, Path, Mapping[str, Mapping[str, str]]], Problems], ...] = (
    _identity,
    _names,
    _admission,
    _scores,
    _opinions,
    _trials,
    _beside,
)


def together(runs: Sequence[Run], root: Path) -> list[Finding]:
    """What is wrong with runs only beside each other: doubles, and tables without their controls."""
    found = []
    for key, alike in _by(runs, lambda run: digest(run.data["spec"])).items():
        if len(alike) > 1:
            others = ", ".join(_below(run.path.parent, root) for run in alike[1:])
            found.append(Finding(_below(alike[0].path, root), f"the same run (spec {key[:10]}) lies in {others} too"))
    for group, alike in _by(runs, lambda run: str(run.data["group"])).items():
        lacking = [name for name in CONTROLS[alike[0].kind] if name not in {run.method for run in alike}]
        if lacking:
            folder = _below(alike[0].path.parents[1], root)
            found.append(Finding(folder, f"the table of group {group} lacks its controls: {', '.join(lacking)}"))
    return found


def _by(runs: Sequence[Run], key: Callable[[Run], str]) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(key(run), []).append(run)
    return found
