"""The results folder as a dataset: find, admit, write and load runs.

Invariant: everything a report says is computed from `run.json` files alone; no model, no network.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from bench import stats
from bench.core.content import Array, digest, plain
from bench.core.documents import each_line, read_json, read_toml
from bench.core.errors import BenchError, UsageError, suggest
from bench.core.naming import build_method
from bench.core.paths import default_results, expanded, is_folder, scratch
from bench.core.protocol import ELSEWHERE, USUAL_TASK, RunSpec
from bench.core.store import Content, json_bytes, write_set
from bench.core.surfaces import PROMPTED, STEERED, surface_of
from bench.core.values import Verdict
from bench.results import provenance
from bench.results.hypotheses import carried
from bench.results.record import RUN, VERSION, Trial, rated

KEYS = "keys.toml"
"""In a results folder: files whose code key is called otherwise now, for code that changed while no number did."""
ARCHIVE = "archive"
"""In a results folder: runs that others replaced, as a results folder by itself: the first is read without it."""


@lru_cache(maxsize=16)
def _aliases(path: Path, _changed: int) -> dict[str, tuple[str, str]]:
    found = read_toml(path, dict[str, tuple[str, str]], "a table of FILE = [its key, what that is called now]")
    return {file: (was, now) for file, (was, now) in found.items()}


def aliases(root: Path) -> dict[str, tuple[str, str]]:
    """file below a results folder -> (the code key it was written with, what that is called now)."""
    path = root / KEYS
    return _aliases(path, path.stat().st_mtime_ns) if path.is_file() else {}


def code_key(path: Path, data: Mapping[str, Any]) -> str:
    """The key of the code that made a run or an opinion (a file in `ROOT/TASK/MODEL/RUN/`), as it is called now."""
    root = path.absolute().parents[min(3, len(path.absolute().parents) - 1)]
    was, now = aliases(root).get(path.absolute().relative_to(root).as_posix(), ("", ""))
    return now if was == data["code"] else str(data["code"])


def means(rows: Sequence[Mapping[str, Verdict]], axes: Iterable[str]) -> dict[str, Any]:
    """Mean of each axis over the rows that were rated; `n` rows, `missing` of them unrated."""
    found: dict[str, Any] = {}
    for axis in axes:
        values = [row[axis].value for row in rows if axis in row]
        known = [v for v in values if v is not None]
        found[axis] = round(math.fsum(known) / len(known), 6) if known else None
    return found | {"n": len(rows), "missing": sum("overall" in row and row["overall"].value is None for row in rows)}


def place(spec: RunSpec, root: Path) -> Path:
    return root / spec.task / spec.model / f"{spec.method}-{spec.id}" / "run.json"


def find(
    spec: RunSpec,
    code: str,
    folder: Path | None,
    reading: Mapping[str, Any] | None = None,
    looked: Mapping[str, str] | None = None,
) -> Path | None:
    """A finished run of this spec made by this code, if there is one; `reading` says which plain answers it read, and
    `looked` what it looked at beside the score (name -> key)."""
    for root in [folder] if folder else [default_results(), scratch()]:
        path = place(spec, root)
        try:
            if not path.is_file() or (run := read(path)).code != code or run.data["counts"].get("unanswered"):
                continue
            beside = {name: found["key"] for name, found in run.data.get("specificity", {}).items()}
            if reading in (None, run.data.get("neutral")) and (looked or {}).items() <= beside.items():
                return path
        except BenchError:
            continue  # a damaged run is made again
    return None


def refusals(spec: RunSpec, asked: Mapping[str, Any]) -> list[str]:
    """Why the checked results do not take a run; empty when they do. `asked` is as in a `Plan`."""
    reasons = []
    if own := asked.get("protocol"):
        reasons.append(f"its protocol is not the preset's ({', '.join(own)})")
    if spec.protocol.preset not in ("standard", "paper"):
        reasons.append(f"preset {spec.protocol.preset} is for looking around")
    if spec.protocol.concepts or spec.task_params.get("concept"):
        reasons.append("the run is limited")
    if spec.backend == "fake":
        reasons.append("the fake backend has no model")
    if spec.dtype == ELSEWHERE:
        reasons.append("an endpoint does not say which weights answer")
    if asked.get("trust_remote_code"):
        reasons.append("code of the model's own ran")
    if provenance.commit() is None:
        reasons.append("not in a git checkout")
    elif changed := provenance.dirty():
        reasons.append(f"the tree has uncommitted changes ({changed[0]}{' …' if len(changed) > 1 else ''})")
    return reasons


TRIALS = "trials.jsonl"
"""Beside `run.json`: the answers on the select split, one a line, for readers; no number rests on them."""


def write(record: dict[str, Any], spec: RunSpec, folder: Path | None, trials: Sequence[Mapping[str, Any]] = ()) -> Path:
    """Write `run.json`, atomically and last. Without `folder`, results/ or the scratch folder."""
    reasons = refusals(spec, record["asked"])
    if lost := record["counts"]["unanswered"]:
        reasons.append(f"{lost} ratings went unanswered; the same command asks again")
    root = folder or (scratch() if reasons else default_results())
    head = {"version": VERSION, "id": spec.id, "group": spec.group, "spec": plain(spec), "status": "complete"}
    data = head | record | {"refused": reasons, "provenance": provenance.provenance()}
    if named := carried(root, spec.task, spec.model):
        data["registered"] = named
    data["metrics"] = metrics(data)
    if not (reasons or folder):
        data = published(data) | {"samples": withheld(data["samples"], data)}
        trials = withheld(trials, data)
    path = place(spec, root)
    files: dict[Path, Content] = {path: json_bytes(data)}
    if trials:  # many more than run.json has: never all of them as text
        lines = (f"{json.dumps(row, allow_nan=False)}\n".encode() for row in trials)
        files = {path.with_name(TRIALS): lines} | files
    try:
        write_set(files)
    except OSError as error:
        raise BenchError(
            f"cannot write {spec.method} ({error.strerror}: {error.filename}); what was there is as it was, and the "
            "same command writes it"
        ) from error
    return path


def published(data: Mapping[str, Any]) -> dict[str, Any]:
    """A record with what its user named, but not where that lies on the machine: checked results are read by others."""

    def short(value: Any) -> Any:
        place = Path(os.path.expanduser(value)) if isinstance(value, str) and value else None
        return place.resolve().name if place and (place.is_absolute() or place.is_dir()) else value

    if not (asked := data.get("asked")):
        return dict(data)
    parameters = {name: short(value) for name, value in asked["task_params"].items()}
    return {**data, "asked": {"model": short(asked["model"]), "task_params": parameters}}


FIRST = 8
"""Words of an answer that is withheld which stay."""


def withheld(rows: Sequence[Mapping[str, Any]], data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Answers without the texts of those that a record `data` does not give to others (`Task.withholds`): their digest
    and first words are left."""

    def kept(row: Mapping[str, Any]) -> dict[str, Any]:
        if "text" not in row or not row["ratings"].keys() & set(data.get("withholds", ())):
            return dict(row)
        text, found = row["text"], {k: v for k, v in row.items() if k != "text"}
        return found | {"withheld": " ".join([digest(text), *text.split()[:FIRST]])}

    return [kept(row) for row in rows]


def metrics(data: Mapping[str, Any]) -> dict[str, float | int | None]:
    """Mean over concepts of each axis on the test split, with its 95 % interval."""
    found: dict[str, float | int | None] = {}
    for axis in data["axes"]:
        e = stats.estimate([v for v in units(data, axis).values() if v is not None])
        found[axis] = finite(e.mean)
        found |= {f"{axis}_low": finite(e.low), f"{axis}_high": finite(e.high)}
    return found | {"concepts": len(data["concepts"]), "missing": data["counts"]["missing"]}


FEW = 6
"""Concepts from which they are a sample to resample; of fewer, their questions are."""


def by_question(data: Mapping[str, Any]) -> bool:
    """Whether intervals of a run are over its questions because it has too few concepts: they speak of further
    questions of these concepts then, and of no other concept. A detector has a score for each concept alone."""
    uses = data.get("uses", "steering" if data["spec"]["judge"] else "detector")
    return len(data["concepts"]) < FEW and uses == "steering" and not any("unit" in row for row in data["samples"])


def question_of(sample: Mapping[str, Any]) -> str:
    """What a sample asks: equal for answers that share its luck."""
    return str(sample.get("cluster") or sample.get("question") or sample.get("instruction", sample["id"]))


def unit_names(data: Mapping[str, Any]) -> dict[str, str]:
    """sample -> the unit it belongs to, of those that intervals resample; empty where that is the concept."""
    if by_question(data):
        return {row["id"]: f"{row['concept']}: {question_of(row)}" for row in data["samples"]}
    return {row["id"]: row["unit"] for row in data["samples"] if "unit" in row}


def units(data: Mapping[str, Any], axis: str) -> dict[str, float | None]:
    """Test score of each unit that intervals resample: the concept, what the samples name instead, or their question
    where concepts are few."""
    names = unit_names(data)
    named = pooled((names[row["id"]], row["ratings"].get(axis)) for row in data["samples"] if row["id"] in names)
    return named or {name: c["test"][axis] for name, c in data["concepts"].items()}


def pooled(ratings: Iterable[tuple[str, float | None]]) -> dict[str, float | None]:
    """unit -> mean of its ratings from pairs of both; None where all of them are missing."""
    found: dict[str, list[float]] = {}
    for unit, value in ratings:
        found.setdefault(unit, []).extend([] if value is None else [value])
    return {unit: math.fsum(values) / len(values) if values else None for unit, values in found.items()}


def finite(value: float) -> float | None:
    """`value` to four digits; None where it is not known: JSON has no NaN."""
    return round(value, 4) if math.isfinite(value) else None


def _departures(given: Mapping[str, Any], usual: Mapping[str, Any]) -> list[str]:
    """`key=value` of what differs, with the part's name before it where there are several."""
    found = []
    for key, value in given.items():
        if isinstance(value, Mapping) and isinstance(usual.get(key), Mapping):
            found += [f"{key}.{each}" for each in _departures(value, usual[key])]
        elif value != usual.get(key):
            found.append(f"{key}={value}")
    return found


@dataclass(frozen=True)
class Run:
    """One loaded `run.json`."""

    path: Path
    data: Mapping[str, Any]

    @property
    def method(self) -> str:
        return str(self.data["spec"]["method"])

    @property
    def surface(self) -> str:
        return surface_of(self.data, self.method)

    @property
    def prompted(self) -> bool:
        """Whether it stands on the side that prompts."""
        return self.surface in PROMPTED

    @property
    def steered(self) -> bool:
        """Whether it stands on the side that steers."""
        return self.surface in STEERED

    @property
    def code(self) -> str:
        """The key of the code that made it."""
        return code_key(self.path, self.data)

    @property
    def kind(self) -> str:
        """What the method is used as: `steering`, or `detector`."""
        return str(self.data.get("uses", "steering" if self.data["spec"]["judge"] else "detector"))

    @property
    def samples_per_prompt(self) -> int:
        """Answers that are written to a question for the one that is kept."""
        return int(self.data.get("draws", 1))

    @property
    def settings(self) -> list[int]:
        """Settings rated on the select split, concept by concept; 0 where nothing is picked."""
        return [len(c.get("select") or ()) for c in self.data["concepts"].values()]

    @property
    def over_budget(self) -> bool:
        """Whether a pick was among more settings than the budget has trials."""
        return max(self.settings, default=0) > int(self.data["spec"]["protocol"]["budget"]["trials"])

    def prompt(self, concept: str, candidate: int | None = None) -> dict[str, Any]:
        """What stood around a concept's questions under a candidate, or under the picked setting; empty where nothing
        did."""
        own = self.data["concepts"][concept]
        prompts, at = own.get("prompts") or [], own["picked"]["candidate"] if candidate is None else candidate
        return dict(prompts[at]) if at < len(prompts) else {}

    @property
    def dialled(self) -> bool:
        """Whether settings of several strengths were tried."""
        return len({row["coefficient"] for c in self.data["concepts"].values() for row in c.get("select") or ()}) > 1

    @property
    def grid_end(self) -> str:
        """The end of the sweep at which most concepts' coefficients were picked: the best may lie beyond; else ""."""
        tried = sorted({row["coefficient"] for c in self.data["concepts"].values() for row in c.get("select") or ()})
        picked = [c["picked"]["coefficient"] for c in self.data["concepts"].values()]
        if len(tried) < 3:
            return ""
        ends = {"the weakest c": tried[0], "the strongest c": tried[-1]}
        return next((name for name, end in ends.items() if 2 * picked.count(end) > len(picked)), "")

    @cached_property
    def variant(self) -> str:
        """The method's name with the settings in which it departs from those registered: `diffmean layer=select`.

        A method of a plugin that is not installed is told apart by its id.
        """
        try:
            usual = plain(build_method(self.method, {}).params())
        except UsageError:
            return f"{self.method}-{self.data['id'][:4]}"
        return " ".join([self.method, *_departures(self.data["spec"]["method_params"], usual)])

    def scores(self, axis: str, split: str = "test") -> dict[str, float | None]:
        if split == "test":
            return units(self.data, axis)
        found: dict[str, float | None] = {}
        for name, c in self.data["concepts"].items():
            row = next(t for t in c["select"] if {k: t[k] for k in c["picked"]} == c["picked"])
            found[name] = row[axis]
        return found

    def optimism(self, axis: str, concepts: Iterable[str]) -> dict[str, float]:
        """concept -> how much higher the picked setting scored on the select split than on the test split."""
        chosen = self.scores(axis, "select")
        pairs = {name: (chosen[name], self.data["concepts"][name]["test"][axis]) for name in concepts}
        return {name: a - b for name, (a, b) in pairs.items() if a is not None and b is not None}

    def curve(self, axis: str) -> dict[float, dict[str, float]]:
        """coefficient -> concept -> score on the select split of the candidate that does best there (by overall), among
        those tried at all coefficients: the best of more would stand higher for that alone."""
        found: dict[float, dict[str, float]] = {}
        for name, c in self.data["concepts"].items():
            coefficients = dict.fromkeys(row["coefficient"] for row in c["select"])
            tried = Counter(row["candidate"] for row in c["select"])
            whole = {one for one, count in tried.items() if count == len(coefficients)} or set(tried)
            rows = [row for row in c["select"] if row["candidate"] in whole]
            for coefficient in coefficients:
                value = _at_best([row for row in rows if row["coefficient"] == coefficient], axis)
                if value is not None:
                    found.setdefault(coefficient, {})[name] = value
        return found

    def depths(self, axis: str) -> dict[int, dict[str, float]]:
        """layer -> concept -> score on the select split at the layer's best coefficient (by overall).

        Empty unless several candidates edit one layer each.
        """
        found: dict[int, dict[str, float]] = {}
        for name, c in self.data["concepts"].items():
            layers = c.get("layers", [])
            if len(layers) < 2 or any(len(edited) != 1 for edited in layers):
                return {}
            for i, (layer,) in enumerate(layers):
                value = _at_best([row for row in c["select"] if row["candidate"] == i], axis)
                if value is not None:
                    found.setdefault(layer, {})[name] = value
        return found


def _at_best(settings: Sequence[Mapping[str, Any]], axis: str) -> float | None:
    """`axis` under the setting with the highest overall score: parts of one setting, not the best of each part."""
    rated = [row for row in settings if row["overall"] is not None]
    return max(rated, key=lambda row: row["overall"])[axis] if rated else None


def read(path: Path) -> Run:
    """One `run.json`; a damaged one is an error, not a gap."""
    remedy = "move its folder away, or make it again with the command that made it"
    return Run(path, read_json(path, RUN, "a run of this program", remedy, halves=True))


def load(root: Path) -> list[Run]:
    """Every run below `root`, in a fixed order; raises BenchError where one cannot be read."""
    runs, damaged = survey(root)
    if damaged:
        raise damaged[0]
    return runs


def files(root: Path) -> list[Path]:
    """The run.json of every run of a results folder, in a fixed order."""
    return sorted(root.glob("*/*/*/run.json"))


def survey(root: Path) -> tuple[list[Run], list[BenchError]]:
    """The runs below `root` that can be read, in a fixed order, and why others cannot."""
    runs: list[Run] = []
    damaged: list[BenchError] = []
    for path in files(root):
        try:
            runs.append(read(path))
        except BenchError as error:
            damaged.append(error)
    return runs, damaged


def trials(run: Run) -> list[dict[str, Any]]:
    """The answers on the select split that were kept beside a run; none where they were not."""
    return [trial for _, trial in _tried(run)]


def _tried(run: Run) -> Iterator[tuple[int, dict[str, Any]]]:
    """(the byte at which its line begins, answer)."""
    path = run.path.with_name(TRIALS)
    concepts, scale = run.data["concepts"], run.data.get("scale", 2.0)

    def own(trial: Any) -> None:
        rated([trial], concepts, scale)

    if path.is_file():
        yield from each_line(path, Trial, "a list of this run's answers", "delete it, or run again", own)


class Tried:
    """As `trials`, asked for by concept: memory holds where the lines are."""

    def __init__(self, run: Run) -> None:
        self.path = run.path.with_name(TRIALS)
        self._places: dict[str, list[int]] = {}
        for place, trial in _tried(run):
            self._places.setdefault(trial["concept"], []).append(place)

    def of(self, concept: str) -> list[dict[str, Any]]:
        """In the order in which they were written."""
        if concept not in self._places:
            return []
        found = []
        with self.path.open("rb") as file:
            for place in self._places[concept]:
                file.seek(place)
                with suppress(ValueError):
                    found.append(json.loads(file.readline()))
        if [one.get("concept") for one in found if isinstance(one, dict)] != [concept] * len(self._places[concept]):
            raise BenchError(f"{self.path} changed while it was read: make the report again")
        return found


def lookup(name: str, roots: Sequence[Path]) -> Run:
    """A run by path, folder, method name, or id (or its beginning); the first root that has it."""
    given = expanded(name) / "run.json" if is_folder(name) else expanded(name)
    if given.is_file():
        return read(given)
    known: list[str] = []
    for root in roots:
        runs, damaged = survey(root)
        known += dict.fromkeys(run.method for run in runs)
        if found := meant(name, runs):
            return _only(name, found)
        if damaged:
            raise damaged[0]  # it may be the one that is meant
    where = " or ".join(dict.fromkeys(map(shortened, roots)))
    raise UsageError(f"no run {name!r} in {where}: {suggest(name, known) if known else 'it is empty'}")


def shortened(root: Path) -> str:
    """A folder as its user would name it from here."""
    path, here = root.absolute(), Path.cwd()
    return f"{path.relative_to(here) if path.is_relative_to(here) else path}/"


def chosen(name: str, runs: Sequence[Run]) -> Run:
    """The one of `runs` that a method's name, a run's folder or the beginning of an id means; raises UsageError."""
    if found := meant(name, runs):
        return _only(name, found)
    known = [*dict.fromkeys(run.method for run in runs), *(run.path.parent.name for run in runs)]
    raise UsageError(f"no run {name!r} among these: {suggest(name, known) if known else 'there is none'}")


def _only(name: str, found: Sequence[Run]) -> Run:
    if len(found) > 1:
        raise UsageError(f"{name!r} is several runs, name one: {', '.join(map(_told, found))}")
    return found[0]


def meant(name: str, runs: Sequence[Run]) -> list[Run]:
    """The runs a name may mean: of a method that ran on several tasks, the one on the task `bench run` takes.

    Of several there, the one in the largest table (a repeat or another model has fewer methods), under the registered
    settings.
    """
    if named := [run for run in runs if name in (run.method, run.path.parent.name)]:
        usual = [run for run in named if run.data["spec"]["task"] == USUAL_TASK]
        sizes = Counter(run.data["group"] for run in runs)
        most = max((sizes[run.data["group"]] for run in usual), default=0)
        first = [run for run in usual if sizes[run.data["group"]] == most]
        plain = [run for run in first if run.variant == run.method]
        return next((found for found in (usual, first, plain) if len(found) == 1), named)
    folders = [run for run in runs if name.startswith(f"{run.method}-") and run.path.parent.name.startswith(name)]
    return folders or [run for run in runs if run.data["id"].startswith(name)]


def _told(run: Run) -> str:
    """What tells a run from others of its method, its score as in the table that was printed of it."""
    spec, score, count = run.data["spec"], run.data["metrics"]["overall"], len(run.data["concepts"])
    task = " ".join(filter(None, (spec["task"], spec["task_params"].get("data"))))
    seed = f"seed {rules['seed']}, " if (rules := spec["protocol"])["seed"] else ""
    judge = f"judge {spec['judge']}, " if spec["judge"] else ""
    reached = "no score" if score is None else f"{score:.2f}"
    return (
        f"{run.path.parent.name} ({task}, {spec['model']}, {rules['preset']}, {seed}{judge}"
        f"{reached} on {count} concept{'' if count == 1 else 's'})"
    )


def matched(runs: Sequence[Run], axis: str, concepts: Iterable[str] | None = None) -> Array:
    """Ratings of the same generations `[runs, units, samples]`, or their `tokens`; NaN where there is none."""
    tables = []
    for run in runs:
        own = unit_names(run.data)
        rows: dict[str, dict[str, float]] = {name: {} for name in concepts or runs[0].scores("overall")}
        for s in run.data["samples"]:
            value = s.get("tokens") if axis == "tokens" else s["ratings"].get(axis)
            unit = own.get(s["id"], s["concept"])
            if unit in rows:  # one without a value has its place too, so that axes and lengths stand alike
                rows[unit][s["id"]] = np.nan if value is None else value
        tables.append(rows)
    ids = {name: sorted({i for rows in tables for i in rows[name]}) for name in tables[0]}
    found = np.full((len(runs), len(ids), max(map(len, ids.values()), default=0)), np.nan)
    for table, rows in zip(found, tables, strict=True):
        for line, name in zip(table, ids, strict=True):
            line[: len(ids[name])] = [rows[name].get(i, np.nan) for i in ids[name]]
    return found


def same_group(one: Run, two: Run) -> None:
    """Refuse to compare runs whose protocol, data, model, engine or judge differ."""
    if one.data["group"] == two.data["group"]:
        return
    a, b = one.data["spec"], two.data["spec"]
    names = [k for k in a if k not in ("method", "method_params", "prompter") and digest(a[k]) != digest(b.get(k))]
    raise UsageError(f"{one.method} and {two.method} cannot be compared: they differ in {', '.join(names)}")
