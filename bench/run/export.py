"""The steerings behind a run's number, as files: each concept's picked candidate at its picked coefficient.

Invariant: a file holds what the test answers were made with, or there is none; nothing is fitted, measured
or generated here.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from bench import interchange, results
from bench.backends.models import Model
from bench.core.documents import read_json
from bench.core.errors import BenchError, UsageError, suggest
from bench.core.escape import name as file_name
from bench.core.interfaces import Context
from bench.core.paths import cache_root, data_root
from bench.core.settings import known
from bench.core.steering import Steering
from bench.core.store import write_over
from bench.interchange.files import adapter
from bench.judges.judging import judged_by
from bench.run.engines import HOSTED, make_backend, make_prompter
from bench.run.identity import code_of
from bench.run.plan import Options, from_file, make
from bench.run.steerings import Steerings
from bench.run.strength import Unmeasured
from bench.run.trials import Trial


def export(
    run: results.Run, form: str, concept: str = "", out: Path | None = None, force: bool = False
) -> list[dict[str, Any]]:
    """Write the steering of each concept of `run` (or of `concept`) as a file (`peft`: as a folder); what was
    written, by concept.

    `out` is the folder of the files, or the file where `concept` is given; default: named after the run,
    in the working folder. Nothing is written where one of them cannot be, or (without `force`) is there and another.
    """
    found, model = steerings(run, _concepts(run, concept))
    suffix = "" if form == "peft" else interchange.SUFFIX[form]  # peft's is a folder
    names = _named(found, suffix)
    base = run.path.parent.name
    paths = {name: (out or Path(base)) / file for name, file in names.items()}
    if concept:
        paths = {concept: out or Path(f"{base}-{names[concept]}")}
    hint = model_type(model)
    blocks = blocks_name(model) if form == "lm-eval" else ""
    files: dict[Path, bytes] = {}
    for name, steering in found.items():
        if form == "peft":
            files |= {paths[name] / file: content for file, content in adapter(steering, model.name).items()}
        else:
            files[paths[name]] = interchange.encode(steering, form, hint, blocks)
    write_over(files, force)
    rows = []
    for name in found:
        picked = run.data["concepts"][name]["picked"]
        rows.append({"concept": name, **picked, "digest": found[name].digest, "path": str(paths[name])})
    return rows


def _concepts(run: results.Run, concept: str) -> list[str]:
    """All concepts of a run, or the one that is named."""
    known = list(run.data["concepts"])
    if concept and concept not in known:
        raise UsageError(f"{run.path.parent.name} has no concept {concept!r}: {suggest(concept, known)}")
    return [concept] if concept else known


def every(run: results.Run) -> dict[str, tuple[str, bytes]]:
    """concept -> file name and content of its steering as safetensors; raises as `steerings`."""
    found, _ = steerings(run, list(run.data["concepts"]))
    names = _named(found, interchange.SUFFIX["safetensors"])
    return {name: (names[name], interchange.encode(one, "safetensors")) for name, one in found.items()}


def _named(concepts: Iterable[str], suffix: str) -> dict[str, str]:
    """concept -> the name of its file."""
    names = {name: file_name(name) + suffix for name in concepts}
    if len(set(names.values())) < len(names):
        raise BenchError("two concepts have names that give the same file; write one with --concept NAME --out FILE")
    return names


def caveat(run: results.Run, form: str) -> str:
    """What a user of the files must know: the formats hold no positions, and the run left out what every chat
    begins with."""
    if form not in ("gguf", "lm-eval") or run.data["spec"]["protocol"]["compat"]:
        return ""
    program = {"gguf": "llama.cpp", "lm-eval": "lm-eval (take 0.4.9.2 or later)"}[form]
    return f"{program} also steers the first token of a text and its template, which this run left out"


@dataclass(frozen=True)
class Strengths:
    """What stands behind a run's number, by concept: each steering at its coefficient."""

    steerings: Mapping[str, Steering]
    coefficients: Mapping[str, float]
    model: Model


def strengths(run: results.Run, concept: str = "", coefficient: float | None = None) -> Strengths:
    """The steering of every concept of a run, or of one, as picked, or at another coefficient in the run's unit: at 0
    nothing is edited, and a prompt stays; a steering that has no coefficient stays as it is otherwise.

    Raises UsageError for a concept that is none of the run's, and for a run of the fake engine; BenchError as
    `steerings` does.
    """
    concepts = _concepts(run, concept)
    if run.data["spec"]["backend"] == "fake":
        raise UsageError(f"{run.path.parent.name} was made by the fake backend: it has no model")
    found, model = steerings(run, concepts)
    coefficients, scaled = {}, {}
    for name, steering in found.items():
        picked = float(run.data["concepts"][name]["picked"]["coefficient"])
        if coefficient and not picked:
            raise UsageError(f"{run.path.parent.name} was picked at c = 0 for {name}: there is nothing to scale")
        c = picked if coefficient is None or (coefficient and not steering.scalable) else coefficient
        coefficients[name] = c
        scaled[name] = steering if c == picked else steering.scaled(c / picked if c else 0)
    return Strengths(scaled, coefficients, model)


def steerings(run: results.Run, concepts: Sequence[str]) -> tuple[dict[str, Steering], Model]:
    """concept -> the steering of its test answers, from what the cache keeps; and the run's model.

    Raises BenchError with the command to run where the fits or the measurements are not there.
    """
    if run.data["spec"]["backend"] == HOSTED:
        raise UsageError(f"{run.path.parent.name} asked a model behind an endpoint, of which nothing is here")
    plan = make(Options(**from_file(run.path)))
    if plan.task.kind != "steering":
        raise BenchError(f"task {plan.options.task} tests detectors: its runs have no steering")
    if plan.specs[0].id != run.data["id"]:
        raise BenchError(f"{run.path.parent.name} cannot be replayed: its model, data or protocol has changed since")
    method, spec = plan.methods[0], plan.specs[0]
    prompter, engine = spec.prompter, make_backend(plan.options.backend, plan.model, spec.dtype)
    judged = judged_by(plan.specs[0].judge, plan.judge, engine.fingerprint())
    context = Context(engine, plan.protocol.budget, plan.protocol.seed, compat=plan.protocol.compat)
    context.prompter = make_prompter(prompter, plan.purse)
    made = Steerings(context, plan.protocol, plan.task, cache_root(), judged, measures=False)
    code = code_of(method, type(plan.task), type(plan.judge), type(engine))
    if missing := made.fits.missing(method, prompter):
        raise _absent(f"the fit of {method.name} for {next(iter(missing))}", run, code)
    fits = made.fits.load(method, prompter)
    found = {}
    for one in (one for one in made.concepts if one.id in concepts):
        kept: Mapping[str, Any] = run.data["concepts"][one.id]
        trial = known(Trial, kept["picked"])
        candidate = fits[one.id].candidates[trial.candidate]
        if not isinstance(candidate.steering, Steering):
            raise BenchError(f"the steering of {method.name} depends on each prompt: there is no one file of it")
        try:
            found[one.id] = made.at(method, candidate.steering, one, candidate, trial.coefficient)
            same = made.strength.ratio(found[one.id], one) == kept["strength"]
        except Unmeasured as error:
            raise _absent(f"the unit of a coefficient for {one.id}", run, code) from error
        if not same:
            raise BenchError(f"{one.id}: c = {trial.coefficient:g} is another length now: run {_again(run, code)}")
    return found, plan.model


def _absent(what: str, run: results.Run, code: str) -> BenchError:
    return BenchError(f"{what} is not in the cache: run {_again(run, code)} first, then export the run it makes")


def _again(run: results.Run, code: str) -> str:
    """The command that makes the run anew; where nothing changed it would find this run done already."""
    words = ["bench", "run", "--config", str(run.path)]
    return shlex.join(words + (["--results", str(data_root() / "again" / "results")] if code == run.code else []))


class Typed(TypedDict):
    model_type: str


def model_type(model: Model) -> str:
    """The model type as transformers names it, which repeng writes as a file's hint."""
    path = model.path / "config.json"
    return str(read_json(path, Typed, "a model's configuration")["model_type"]) if path.is_file() else model.name


def blocks_name(model: Model) -> str:
    """Name of the list of blocks inside the base model; the weights stay where they are."""
    if not (model.path / "config.json").is_file():
        return "layers"
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from bench.backends.hf.modules import blocks

    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model.path))  # type: ignore[no-untyped-call]
    wanted = blocks(made)
    return str(next(name for name, module in made.base_model.named_modules() if module is wanted))
