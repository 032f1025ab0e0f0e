"""From flags and configuration to `RunSpec`s, with their cost, before any model is loaded.

Invariant: the rows and tokens a plan prints are the ones a run may spend; a name, field or value that
does not exist is refused here.
"""

from __future__ import annotations

import dataclasses
import math
import os
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from bench.backends.devices import MAPS
from bench.backends.hosted.backend import OpenAIBackend
from bench.backends.models import DEFAULT, TRUST, Model, dtype, resolve
from bench.core import registry
from bench.core.blame import blamed, defined
from bench.core.content import digest, plain
from bench.core.definitions import code_digest
from bench.core.documents import parsed, read_json, read_toml
from bench.core.errors import THEIRS, BenchError, UsageError, suggest, traced
from bench.core.interfaces import Backend, Judge, Method, Task
from bench.core.money import SpendingLimit
from bench.core.naming import build_method, names_in, select
from bench.core.paths import expanded, is_folder
from bench.core.protocol import ELSEWHERE, USUAL_TASK, Protocol, RunSpec, protocol, usual_judge
from bench.core.settings import cast
from bench.core.values import Example
from bench.data.check import SHIPPED
from bench.data.neutral import neutral
from bench.judges.english import unread
from bench.results.record import Asked as AskedFor, Plain, Plugin, Spec
from bench.run import effects, specificity
from bench.run.damage import TEXTS, at_most, summed
from bench.run.engines import EXECUTORS, HOSTED, hosted, make_backend, make_prompter, unable
from bench.run.faults import definitions, fault, files
from bench.run.spending import spend, trials
from bench.run.support import blocks_of, unsupported
from bench.run.task_contract import untyped
from bench.run.views import ASKED, lacking, offered


@dataclass(frozen=True)
class Options:
    """What a user asks for; the command line and a TOML or run.json file both fill it."""

    methods: tuple[str, ...] = ("all",)
    task: str = USUAL_TASK
    model: str = DEFAULT
    judge: str = field(default_factory=usual_judge)
    backend: str = "hf"
    dtype: str = "auto"
    preset: str = "quick"
    strength: str = "norm"
    compat: str = ""
    seed: int = 0
    limit: int = 0
    concept: str = ""
    """The only concept of the task's data to ask about."""
    prompter: str = ""
    data: str = ""
    max_cost: float = 0.0
    """Dollars that hosted models may cost; 0: no limit."""
    max_unscored: float = 0.02
    """Share of ratings that may be missing. On a scale of 2, so many can move a mean by 0.04 at most."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """`name.field` to value, for methods, tasks, judges, the `protocol`, the `chat` template and the `model`
    alike."""
    coefficients: tuple[float, ...] = ()
    """Instead of the preset's: short for `protocol.coefficients`."""
    trust_remote_code: bool = False
    """Whether Python code in the model's folder may run; the command line alone can say so."""
    executor: str = "local"
    """Who runs the model: this process, or workers of a Ray cluster (`ray`)."""
    ray_address: str = ""
    """Of the cluster to join, which could run any code here; the command line alone can name it. None: one of this
    machine's own."""
    workers: int = 0
    """How many workers; 0: one for each device of the cluster."""
    damage: int = -1
    """Plain answers to read under every setting, for what it does where nobody asked; -1: the preset's."""
    effects: tuple[str, ...] = ()
    """What to look at beside the score, by name (`bench.run.effects`); without one: what the preset does."""
    include: str = ""
    """Folder of the user's own lm-eval tasks."""


@dataclass(frozen=True)
class Plan:
    """Specs with the live objects they name; nothing has touched a model yet."""

    options: Options
    model: Model
    task: Task
    judge: Judge
    methods: tuple[Method, ...]
    specs: tuple[RunSpec, ...]
    asked: Mapping[str, Any]
    """Model, judge and task parameters as the user named them: folders, which identities leave out."""
    purse: SpendingLimit = field(default_factory=SpendingLimit)
    """What a hosted model, the judge and the prompter may spend together."""
    engine: str = ""
    """What the reader of a plan should know of its engine: why it was chosen, what it will hold."""
    lacks: tuple[str, ...] = ()
    """Why each method cannot run; "" where it can."""
    faults: tuple[str, ...] = ()
    """What each method's own code ends in before anything is run; "" where nothing."""
    unheard: str = ""
    """What a judge of English alone cannot read of the task; "" where nothing."""

    @property
    def protocol(self) -> Protocol:
        return self.specs[0].protocol

    @cached_property
    def neutral_texts(self) -> list[Example]:
        """Plain answers that are read under every setting; none where the engine cannot."""
        wanted = TEXTS[self.protocol.preset] if self.options.damage < 0 else self.options.damage
        engine = registry.get("backend", self.options.backend)
        every = neutral() if wanted and self.task.kind == "steering" and engine.diverge is not Backend.diverge else []
        return [every[i * len(every) // wanted] for i in range(wanted)] if every else []  # of all kinds that are there

    @cached_property
    def reading(self) -> dict[str, Any]:
        """How many those are, and the digest of them and of what sums them up."""
        texts = self.neutral_texts
        return {"texts": len(texts), "digest": digest(texts, code_digest(summed, at_most))}

    @property
    def effects(self) -> tuple[str, ...]:
        """What is looked at beside the score, at picked settings."""
        steering = self.task.kind == "steering"
        return effects.wanted(self.options.effects, self.protocol.preset) if steering else ()

    @cached_property
    def looked(self) -> dict[str, str]:
        """`related` and `adverse` among them, where the task has what is asked -> what decides each besides the run."""
        return {name: specificity.key(name) for name in specificity.able(self.task, self.effects)}

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """lm-eval's tasks among them; none where it cannot be asked (`bench.run.effects.unable`)."""
        found = effects.tasks_of(self.effects)
        return found if found and not effects.unable(self.options.backend) else ()

    @cached_property
    def target(self) -> Backend:
        """The engine of the model under test; no weights are loaded yet."""
        return make_backend(self.options.backend, self.model, self.specs[0].dtype, self.purse)

    @property
    def sent(self) -> dict[str, str]:
        """`model`, `judge` and `prompter` -> the model and address that texts of this run are sent to; those that ask
        one."""
        prompter = make_prompter(self.options.prompter, self.purse)
        found = {"judge": self.judge.where if self.task.rated else "", "prompter": prompter.where if prompter else ""}
        if isinstance(target := self.target, OpenAIBackend):
            found["model"] = target.where
        return {role: where for role, where in found.items() if where}

    def ready(self) -> None:
        """Raise where its engine, its judge or its prompter lacks a package or a key: nothing could be made."""
        from bench.backends.vllm import backend as vllm

        if self.options.backend == "vllm" and (why := vllm.unable()):
            raise UsageError(f"backend vllm: {why}")
        if why := unable(self.options.executor):
            raise UsageError(f"--executor {self.options.executor}: {why}")
        if prompter := make_prompter(self.options.prompter, self.purse):
            _ = prompter.client
        if isinstance(target := self.target, OpenAIBackend):
            _ = target.client
        if self.task.rated:
            self.judge.check()


def make(options: Options) -> Plan:
    """Check everything that can be checked without loading weights, and build the specs."""
    given = _by_owner(options.params)
    settings = ({"coefficients": options.coefficients} if options.coefficients else {}) | given.pop("protocol", {})
    chat = {name: _word(value) for name, value in given.pop("chat", {}).items()}
    device_map = _device_map(given.pop("model", {}), options.backend)
    if device_map and options.executor != "local":
        raise UsageError(f"-p model.device_map spreads a model in this process: not for --executor {options.executor}")
    rules = protocol(options.preset, options.strength, options.compat, options.seed, options.limit, settings)
    asking = registry.get("task", options.task)
    if options.backend == HOSTED and (asking.kind != "steering" or asking.multiple_choice):
        raise UsageError(f"task {options.task} reads a model's own numbers, and --backend {HOSTED} gives answers alone")
    names = select(options.methods, asking.kind, asking.multiple_choice)
    own = {name: value for name in ("data", "concept") if (value := getattr(options, name))}
    task_params = given.pop(options.task, {}) | own
    if options.concept and options.limit:
        raise UsageError("--concept names one concept, and --limit a number of them: give one of the two")
    if options.concept and "concept" not in {f.name for f in dataclasses.fields(asking)}:
        raise UsageError(f"--concept: task {options.task} does not take one concept of its data")
    asked: dict[str, Any] = {"model": options.model, "judge": options.judge, "task_params": dict(task_params)}
    if options.trust_remote_code:
        asked["trust_remote_code"] = True
    if settings:
        asked["protocol"] = {name: plain(attrgetter(name)(rules)) for name in settings}
    if chat:
        asked["chat"] = chat
    if not 0 <= options.max_cost < math.inf or not 0 <= options.max_unscored <= 1:
        raise UsageError("max_cost is in dollars, at least 0, and max_unscored a share from 0 to 1")
    if options.executor not in EXECUTORS:
        raise UsageError(f"unknown executor {options.executor!r}: {suggest(options.executor, EXECUTORS)}")
    if not -1 <= options.damage <= (most := len(neutral())):
        raise UsageError(f"damage = {options.damage}: from 0 to {most} plain answers, or -1 for the preset's")
    if options.include and not Path(options.include).is_dir():
        raise UsageError(f"include = {options.include}: no folder of lm-eval tasks there")
    if options.workers < 0 or (options.executor == "local" and (options.workers or options.ray_address)):
        raise UsageError("--workers and --ray-address are for --executor ray, and workers are 0 or more")
    if options.backend != "auto":
        registry.get("backend", options.backend)
    if options.backend == HOSTED:
        if options.executor != "local":
            raise UsageError(f"--executor {options.executor} is for models that run here: not for --backend {HOSTED}")
        number = ELSEWHERE
    else:
        number = dtype("float32" if options.backend == "fake" and options.dtype == "auto" else options.dtype)
    if options.prompter and not (options.prompter.startswith("openai:") and options.prompter != "openai:"):
        raise UsageError(f"unknown prompter {options.prompter!r}: give openai:MODEL")
    judge_name, _, argument = options.judge.partition(":")
    judge_params = given.pop(judge_name, {})
    named = tuple(build_method(name, given) for name in names)
    modes = [_under(made, rules.compat) for made in named]
    methods = tuple(made for made, _, _ in modes)
    if unknown := sorted(set(given) - {part for name in names for part in names_in(name)}):
        known = {part for name in names for part in names_in(name)} | {options.task, judge_name}
        raise UsageError(f"-p {unknown[0]}.…: {unknown[0]!r} is not part of this run: {suggest(unknown[0], known)}")
    purse = SpendingLimit(options.max_cost)
    with blamed(f"judge {judge_name}", registry.get("judge", judge_name)):
        judge = registry.build("judge", judge_name, judge_params | ({"model": argument} if argument else {}))
        judge.fund(purse)
        digest(dict(judge.fingerprint()))
    make_prompter(options.prompter, purse)  # refuses one that has no price under a limit
    data = str(task_params.get("data", "mini"))
    if data != "mini" and is_folder(f"{data}/genres") and asking.__module__.startswith("tasks."):
        raise UsageError(f"{data}: {SHIPPED}")
    with blamed(f"task {options.task}", asking):
        try:
            task = registry.build("task", options.task, task_params, protocol=rules)
            problem = untyped(task)
        except UsageError as error:
            raise UsageError(f"{error}{_instead(data)}") from error
        if problem:
            raise BenchError(f"task {options.task}: {problem} ({defined(asking)})")
        unheard = unread(options.judge, task)
    usual = {
        f.name for f in dataclasses.fields(task) if getattr(task, f.name) == f.default
    }  # said or not, the same run
    rules = task.protocol  # a task may be asked for another amount of training data
    faults = tuple(wrong or _fault(made, rules, task) for made, (_, _, wrong) in zip(methods, modes, strict=True))
    options, engine = _engine(options, [m for m, wrong in zip(methods, faults, strict=True) if not wrong], rules, task)
    trust = options.trust_remote_code
    if options.backend == HOSTED:
        if judge.reads_target and (task.rated or any(made.uses_judge for made in methods)):
            raise UsageError(f"judge {judge_name} reads the model under test, which --backend {HOSTED} does not show")
        model = hosted(options.model, chat)
    elif options.backend == "fake":
        model = Model("fake", Path(), "fake", "fake").told(chat)
    else:
        model = replace(resolve(options.model, trust=trust).told(chat), device_map=device_map)
    trains = [task.train(concept) for concept in task.concepts()]
    lacked = frozenset[str]().union(*(lacking(train, task) for train in trains))
    written = lacked & ASKED.keys()  # views that a prompter writes
    contents = task.digest  # once, not for each method
    specs = tuple(
        RunSpec(
            method=made.name,
            task=options.task,
            model=model.slug,
            judge=f"{judge_name}:{_nameless(argument)}".rstrip(":") if task.rated else "",
            protocol=rules,
            method_params=made.params(),
            task_params={k: _nameless(v) for k, v in task_params.items() if k not in usual},
            judge_params=dict(judge.fingerprint()) if task.rated else {},
            prompter=options.prompter
            if any(part.uses_prompter for part in made.family_tree) or made.views & written
            else "",
            backend=options.backend,
            dtype=number,
            weights=model.weights,
            data=contents,
        )
        for made in named
    )
    plan = Plan(options, model, task, judge, methods, specs, asked, purse, engine, faults=faults, unheard=unheard)
    if vain := [name for name in options.effects if name in effects.RATED and name not in plan.looked]:
        raise UsageError(
            f"effects {','.join(vain)}: no judge rates a concept of task {options.task}"
            if not specificity.concept_axis(task)
            else f"effects {','.join(vain)}: there is no other concept in this run"
        )
    if options.effects and effects.tasks_of(plan.effects) and (why := effects.unable(options.backend)):
        raise UsageError(f"effects {','.join(effects.tasks_of(plan.effects))}: {why}")
    backend, offers = plan.target, offered(task, trains)
    blocks = blocks_of(model, backend)
    lacks = (
        why or ("" if wrong else unsupported(made, task, rules, backend, offers, blocks))
        for (made, why, _), wrong in zip(modes, faults, strict=True)
    )
    return replace(plan, lacks=tuple(lacks))


def _instead(data: str) -> str:
    """What makes a folder of the file that a user named as data, where no task reads it as it is."""
    if not os.path.isfile(expanded(data)):  # a name of any length may be given
        return ""
    return f"; {data} is a file: bench data import {data} --concept TEXT --out FOLDER makes a folder of it"


def _under(made: Method, compat: str) -> tuple[Method, str, str]:
    """A method as a mode has it; or as it is, with why the mode cannot have it, or with what its own code ends in."""
    try:
        return made.under(compat), "", ""
    except (UsageError, ValueError) as error:
        return (made, "", fault(error, made)) if files(made) else (made, str(error), "")
    except THEIRS as error:
        traced(error)
        return made, "", fault(error, made)


def _fault(made: Method, rules: Protocol, task: Task) -> str:
    """What a method ends in where it is asked what it would spend, and what decides it; "" where in nothing."""
    try:
        spend(made, rules, task)
        digest(made.params())
        code_digest(*definitions(made))
    except THEIRS as error:
        traced(error)
        return fault(error, made)
    return ""


WORTH_AN_ENGINE = 75_000
"""New tokens from which starting vLLM (most of a minute) pays on two cores (`benchmarks/engines.py`)."""


def _engine(options: Options, methods: Sequence[Method], rules: Protocol, task: Task) -> tuple[Options, str]:
    """The options with the engine `auto` stands for, and a line on it."""
    if options.backend not in ("auto", "vllm"):
        return options, ""
    from bench.backends.vllm.backend import VLLMBackend, unable

    needs = frozenset[str]().union(*(made.needs for made in methods))
    tokens = sum(spend(made, rules, task).tokens for made in methods)
    if options.backend == "vllm":
        adapted = [made for made in methods if "delta" in made.needs]
        adapters = sum(trials(made, rules) for made in adapted) * len(task.concepts())
        held = f", an adapter for each coefficient of a weight delta: up to {adapters:,}" if adapted else ""
        return options, f"engine: vllm{held}"
    if task.kind == "detector":
        reason = "detection reads activations"
    elif lacking := sorted(needs - (VLLMBackend.can - {"delta"})):
        reason = f"{', '.join(lacking)} may ask for more than vLLM applies"
    elif tokens < WORTH_AN_ENGINE:
        reason = f"{tokens:,} new tokens do not pay for starting vLLM"
    else:
        reason = unable()
    name = "hf" if reason else "vllm"
    return replace(options, backend=name), f"engine: {name} ({reason or 'able, and the run is long enough'})"


def _word(value: Any) -> Any:
    """An argument of a chat template: a number, a truth, or else a text."""
    try:
        return parsed(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


def _device_map(given: Mapping[str, Any], backend: str) -> str | Mapping[str, Any]:
    """How `model.device_map` spreads the model: a way of accelerate's, or a table of modules and devices; "" where it
    does not."""
    if unknown := sorted(set(given) - {"device_map"}):
        raise UsageError(f"-p model.{unknown[0]}: of a model there is device_map alone to be set")
    found = _word(given.get("device_map", ""))
    if found and backend != "hf":
        raise UsageError(f"-p model.device_map is for --backend hf, not for {backend}")
    if not (found == "" or isinstance(found, dict) or found in MAPS):
        raise UsageError(f"model.device_map = {found!r}: {', '.join(MAPS)}, or a table of modules and devices (JSON)")
    spread: str | Mapping[str, Any] = found
    return spread


def _nameless(value: Any) -> Any:
    """A folder by its own name: where it lies on one machine is no part of an identity."""
    folder = Path(os.path.expanduser(value)) if isinstance(value, str) and value else None
    return folder.resolve().name if folder and folder.is_dir() else value


def _by_owner(params: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    owners: dict[str, dict[str, Any]] = {}
    for key, value in params.items():
        # A method around another has a dot in its name; a protocol has fields with fields.
        owner, dot, name = key.partition(".") if key.startswith("protocol.") else key.rpartition(".")
        if not dot or not owner or not name:
            raise UsageError(f"-p {key}: write name.field=value, as in diffmean.layer=12")
        owners.setdefault(owner, {})[name] = value
    return owners


def from_file(path: Path) -> dict[str, Any]:
    """Options from a TOML file or a past `run.json`, by field name."""
    if path.suffix == ".json":
        found = read_json(path, Replayed, "a run that can be made again", error=UsageError)
        _refuse_unplugged(found)
        return _from_run(found)
    found = read_toml(path, dict[str, Any], "a configuration", error=UsageError)
    hints = typing.get_type_hints(Options)
    if unknown := sorted(set(found) - set(hints)):
        raise UsageError(f"{path.name}: unknown setting {unknown[0]!r}: {suggest(unknown[0], hints)}")
    for name, flag in {"trust_remote_code": TRUST, "ray_address": "--ray-address"}.items():  # either lets code run
        if name in found:
            raise UsageError(f"{path.name}: {name} is no setting of a file: say {flag} yourself")
    tables = found.pop("params", {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise UsageError(f"{path.name}: params holds one table per name, as in [params.diffmean]")
    for name, value in found.items():
        if isinstance(value, str) and hints[name] is int:  # text is for the command line
            raise UsageError(f"{path.name}: {name} = {value!r} is not a number")
    options = {name: cast(value, hints[name], f"{path.name}: {name}") for name, value in found.items()}
    return options | {"params": dict(_flat(tables))}


TABLES = ("model.device_map",)
"""Settings whose value may be a table."""


def _flat(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """(`name.field`, value) of tables within tables."""
    for key, value in table.items():
        if isinstance(value, dict) and f"{above}{key}" not in TABLES:
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


ADDRESS = frozenset({"url", "uri", "address", "host", "port", "endpoint", "server", "proxy"})
TRANSPORT = ADDRESS | {"key", "secret", "headers", "price", "workers", "timeout", "retries", "batch", "poll"}
"""Words in the names of a judge's fields that say where and how it is asked, and not what it says. A past run's are not
taken: whoever wrote its file would choose where the key of whoever replays it is sent."""


class Replayed(TypedDict):
    """What of a `run.json` says how it was made."""

    spec: Spec
    asked: NotRequired[AskedFor]
    neutral: NotRequired[Plain]
    plugins: NotRequired[list[Plugin]]


def _refuse_unplugged(run: Mapping[str, Any]) -> None:
    """Raise where a part of a run is a plugin's that is not loaded, with the files that it was made with."""
    spec = run["spec"]
    parts = [("method", name) for name in names_in(spec["method"])]
    parts += [("task", spec["task"]), ("judge", spec["judge"].partition(":")[0])]
    files = [plugin["name"] for plugin in run.get("plugins", ())]
    for kind, name in parts:
        if name and name not in registry.table(kind):
            made = f"the run was made with {', '.join(files)}" if files else "if a plugin brought it"
            raise UsageError(f"no {kind} {name!r} here: --plugin FILE ({made})")


def _from_run(data: Mapping[str, Any]) -> dict[str, Any]:
    """The options that made a run, from a list of what may be taken; folders are those its user named."""
    spec = data["spec"]
    asked = data.get("asked") or {"model": spec["model"], "task_params": {}}
    rules, judge = spec["protocol"], spec["judge"].partition(":")[0]
    fields = {f.name for f in dataclasses.fields(registry.get("judge", judge)) if f.init} if judge else set()
    owned = {f"{spec['task']}.{k}": v for k, v in (spec["task_params"] | asked["task_params"]).items()}
    fields = {name for name in fields if not TRANSPORT & set(name.split("_"))}
    owned |= {f"{judge}.{k}": v for k, v in spec["judge_params"].items() if k in fields}
    several = len(names_in(spec["method"])) > 1
    parts = spec["method_params"] if several else {spec["method"]: spec["method_params"]}
    if odd := [part for part, values in parts.items() if not isinstance(values, dict)]:
        raise UsageError(f"spec.method_params.{odd[0]} holds no table of values")
    owned |= {f"{part}.{k}": v for part, values in parts.items() for k, v in values.items()}
    owned |= {f"{part}.{k}": v for part in ("protocol", "chat") for k, v in asked.get(part, {}).items()}
    for name in ("answers", "fits"):  # runs of before there were several have neither
        if rules.get(name, 1) != getattr(protocol(rules["preset"], compat=rules["compat"]), name):
            owned[f"protocol.{name}"] = rules.get(name, 1)
    return {
        "methods": (spec["method"],),
        "model": asked["model"],
        **{k: spec[k] for k in ("task", "judge", "backend", "dtype", "prompter") if spec[k] or k != "judge"},
        **({"judge": asked["judge"]} if spec["judge"] and "judge" in asked else {}),
        **{k: rules[k] for k in ("preset", "strength", "compat", "seed")},
        "limit": rules["concepts"],
        "damage": data["neutral"]["texts"] if "neutral" in data else 0,
        "params": owned,
    }
