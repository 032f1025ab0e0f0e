"""The program from Python: load a model, fit a method, generate, run a benchmark. What a notebook or a script calls.

Invariant: a fit and its coefficients mean here what they mean in a run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bench.backends.models import DEFAULT, dtype as number_type, resolve
from bench.core.content import Message, digest
from bench.core.errors import BenchError, UsageError, suggest
from bench.core.interfaces import Backend, Bound, Context, Fitted, Method, Task
from bench.core.naming import build_method, names_in
from bench.core.protocol import USUAL_TASK, protocol
from bench.core.registry import build, get
from bench.core.rows import Rows
from bench.core.steering import Steering
from bench.core.values import Advance, Concept, Example, Pair, Request, Sampling, Train
from bench.results import Results, read
from bench.run.fits import given, lacks
from bench.run.plan import Options, make
from bench.run.session import execute, silent
from bench.run.strength import Strength


def load_model(name: str = DEFAULT, *, backend: str = "hf", dtype: str = "auto") -> Backend:
    """A model by hub id, folder or packaged name, ready to generate and to be fitted on.

    `backend` is `hf` or `vllm`; `dtype` as for transformers. The weights load on first use. Raises UsageError for
    a name that can be no model, BenchError where it cannot be had.
    """
    if backend not in ("hf", "vllm"):
        raise UsageError(f"backend {backend!r} cannot steer: use hf or vllm")
    made: Backend = get("backend", backend)(resolve(name), number_type(dtype))
    return made


def load_task(name: str = USUAL_TASK, *, preset: str = "quick", limit: int = 0, **params: Any) -> Task:
    """A task with its data: `load_task().train(concept)` is what a method is fitted on.

    `params` are fields of the task (`data="concept10"`); `limit` leaves only the first so many concepts.
    Raises UsageError for an unknown name or field, BenchError where the data cannot be read.
    """
    made: Task = build("task", name, params, protocol=protocol(preset, limit=limit))
    return made


def contrast(concept: str, positives: Sequence[tuple[str, str]], negatives: Sequence[tuple[str, str]]) -> Train:
    """Training data of one's own: (instruction, response) pairs that show `concept`, and such that do not.

    Instructions that are answered on both sides are contrast pairs too, for the methods that learn from those.
    Raises UsageError for a row that is no pair.
    """
    for row in (*positives, *negatives):
        if isinstance(row, str) or len(row) != 2:
            raise UsageError(f"{row!r} is no pair of an instruction and a response")
    with_it, without = (tuple(Example(*row) for row in rows) for rows in (positives, negatives))
    answers = {e.instruction: e.response for e in without}
    pairs = [Pair(e.instruction, e.response, answers[e.instruction]) for e in with_it if e.instruction in answers]
    return Train(Concept(digest(concept)[:8], concept), with_it, without, pairs=tuple(pairs))


@dataclass(frozen=True)
class Fit:
    """A fitted method on one concept, whose steering is taken at any strength."""

    method: Method
    model: Backend
    train: Train
    candidates: tuple[Fitted, ...]
    strength: Strength

    def at(self, c: float, prompt: str | Sequence[Message] = "", candidate: int = 0) -> Steering:
        """The steering at coefficient `c`, in the unit of the protocol; c = 0 is the bare model.

        `prompt` is what will be asked, for methods whose steering depends on it; `candidate` one of `candidates`,
        where the method leaves a choice (`layer="select"`). Raises BenchError for a method that gives a detector
        alone.
        """
        if not 0 <= candidate < len(self.candidates):
            raise UsageError(f"candidate {candidate}: {self.method.name} has {len(self.candidates)}, counted from 0")
        chosen = self.candidates[candidate]
        steering = chosen.steering
        if isinstance(steering, Bound):
            if not prompt:
                raise BenchError(f"the steering of {self.method.name} depends on the prompt: fitted.at(c, prompt)")
            steering = steering.bind(self.model, _chat(prompt))
        if steering is None:
            raise BenchError(f"{self.method.name} gives a detector and no steering")
        return self.strength.at(steering, chosen, self.train.concept, c)


def fit(
    method: str | Method,
    model: Backend,
    train: Train,
    *,
    preset: str = "standard",
    strength: str = "norm",
    seed: int = 0,
    **params: Any,
) -> Fit:
    """Fit a registered method (`diffmean`, `cast(diffmean)`, a `Method` of one's own) on one concept.

    `preset` sets its budget (training rows, epochs), `strength` the unit of coefficients, `params` its fields
    (`layer=12`). Raises UsageError for unknown names, BenchError where the model or the data lack what it needs.
    """
    if isinstance(method, str):
        if params and len(names_in(method)) > 1:
            raise UsageError(f"{method} is several methods: give a Method (bench.build_method) in place of {params}")
        method = build_method(method, {method: params})
    elif params:
        raise UsageError(f"{method.name} has its fields already: {', '.join(params)}")
    if reason := lacks(method, model, train.views):
        raise BenchError(f"{method.name}: {reason}")
    if method.uses_judge or method.needs_all_concepts:
        what = "asks the judge" if method.uses_judge else "learns from all concepts of a task"
        raise BenchError(f"{method.name} {what} while it is fitted: use bench.run")
    rules = protocol(preset, strength, seed=seed)
    train = train.limited(rules.budget.sequences)
    context = Context(model, rules.budget, rules.seed, trains=(train,))
    candidates = tuple(method.fit(context, given(method, train, suppresses=False)))
    return Fit(method, model, train, candidates, Strength(context, rules, {train.concept.id: train}, Rows(None)))


def generate(
    model: Backend,
    prompts: Sequence[str | Sequence[Message]],
    steering: Steering | Sequence[Steering | None] | None = None,
    *,
    sampling: Sampling | None = None,
    seed: int = 0,
) -> list[str]:
    """Answers to `prompts` (questions, or chats of (role, text)), in order, under one steering or one for each.

    The noise of an answer depends on `seed` and its place alone, so that answers under different steerings differ
    by the steering. Raises UsageError where steerings and prompts do not match in number, BenchError for a layer or
    a module that the model lacks, and for an edit that reached no position.
    """
    if isinstance(prompts, str):
        raise UsageError("prompts is one text: give a list, [prompt]")
    one = [steering] * len(prompts) if steering is None or isinstance(steering, Steering) else list(steering)
    if len(one) != len(prompts):
        raise UsageError(f"{len(one)} steerings for {len(prompts)} prompts: give one, or one for each")
    requests = [
        Request(_chat(prompt), each, sampling or Sampling(), seed + i)
        for i, (prompt, each) in enumerate(zip(prompts, one, strict=True))
    ]
    found = dict(model.generate(requests))
    return [found[i].text for i in range(len(requests))]


def run(
    methods: str | Sequence[str] = "all",
    task: str = USUAL_TASK,
    *,
    results: Path | str | None = None,
    progress: bool = True,
    **options: Any,
) -> Results:
    """What `bench run` does, with the same names: `run("diffmean,prompt,none", limit=2)`.

    `options` are the fields of `bench.run.plan.Options` (`model`, `judge`, `preset`, `limit`, `params`, …). What is
    done is not done again. `results` is the folder for the runs; default: results/ of a checkout, else the scratch
    folder. Methods that could not run are in the `reasons` of what is returned. Raises UsageError for unknown names and
    values, BenchError where the judge, the model or the data cannot be had.
    """
    known = {f.name for f in fields(Options)}
    if unknown := sorted(set(options) - known):
        raise UsageError(f"unknown option {unknown[0]!r}: {suggest(unknown[0], known)}")
    wanted = (methods,) if isinstance(methods, str) else tuple(methods)
    plan = make(Options(methods=wanted, task=task, **options))
    jobs = execute(plan, Path(results) if results else None, _bar if progress else silent)
    reasons = {job.spec.method: f"{job.status}: {job.reason}" for job in jobs if job.reason}
    return Results([read(job.path) for job in jobs if job.path], reasons)


@contextmanager
def _bar(stage: str, total: int) -> Iterator[Advance]:
    """A bar for each stage, in a notebook and on a terminal."""
    from tqdm import tqdm

    with tqdm(total=total, desc=stage, leave=False) as bar:

        def advance(steps: int) -> None:
            bar.update(steps)

        yield advance


def _chat(prompt: str | Sequence[Message]) -> tuple[Message, ...]:
    return (("user", prompt),) if isinstance(prompt, str) else tuple(prompt)
