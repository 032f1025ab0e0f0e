"""Measure one run's method beside the bare model: time, first token, memory, fitting, judging.

Invariant: steered and unsteered answer the same requests with equally many tokens, in turns, in one process;
what is reported is their ratio. Nothing here changes a run: fits it lacks are made again under the same keys.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.core.errors import THEIRS, BenchError, cause, traced
from bench.core.index import Place
from bench.core.interfaces import Backend, Bound, Context, Fitted
from bench.core.registry import get, plugin_files
from bench.core.rows import Rows
from bench.core.steering import Steering
from bench.core.store import Artefacts, pack
from bench.core.values import Completion, Concept, Item, Request, Sample, Sampling, Verdict
from bench.measure.meters import peak, tokens_through
from bench.overhead.config import KEYS, architecture, complete, known
from bench.overhead.edits import extra
from bench.overhead.exact import Architecture, Extra, prefill_flops, request_flops
from bench.overhead.record import Spread
from bench.results import provenance
from bench.results.runs import Run
from bench.results.sidecars import store
from bench.run.plan import Options, from_file, make
from bench.run.session import Session, silent


@dataclass(frozen=True)
class Settings:
    """How much is measured: `batch` requests of `tokens` new tokens, `repeats` times each way.

    The requests are spread over the first `concepts` concepts. `dtype` is the engine's, not the run's: what a
    steering costs depends on its shape.
    """

    tokens: int = 48
    batch: int = 4
    repeats: int = 7
    concepts: int = 2
    dtype: str = "auto"


@dataclass(frozen=True)
class Row:
    """One request of the measurement: a question, and the steering of its concept."""

    sample: Sample
    concept: Concept
    candidate: Fitted
    steering: Steering | Bound
    coefficient: float
    seed: int


@dataclass
class Rig:
    """A session with the steerings of one run, ready to answer with and without them."""

    session: Session
    rows: list[Row]

    @property
    def lm(self) -> Backend:
        return self.session.backend

    def request(self, row: Row, tokens: int, steered: bool) -> Request:
        """Binding a steering to its prompt is part of answering, and is timed with it."""
        sampling = dataclasses.replace(self.session.rules.sampling, max_new_tokens=tokens)
        if not steered:
            return Request(row.sample.messages, None, sampling, row.seed)
        steering = row.steering
        if isinstance(steering, Bound):
            bound = steering.bind(self.lm, row.sample.messages)
            method = self.session.plan.methods[0]
            steering = self.session.steerings.at(method, bound, row.concept, row.candidate, row.coefficient)
        return Request(row.sample.messages, steering, sampling, row.seed)

    def answer(self, rows: Sequence[Row], tokens: int, steered: bool) -> tuple[float, list[Completion]]:
        """Seconds to answer `rows`, and the answers; where a method draws several, the one it keeps."""
        begun = time.perf_counter()
        requests, owners = [], []
        for i, row in enumerate(rows):
            one = self.request(row, tokens, steered)
            draws = row.candidate.chooser.n if steered and row.candidate.chooser else 1
            requests += [dataclasses.replace(one, seed=(one.seed + k) % 2**63) for k in range(draws)]
            owners += [i] * draws
        found = dict(self.lm.generate(requests))
        kept = []
        for i, row in enumerate(rows):
            own = [found[k] for k, owner in enumerate(owners) if owner == i]
            pick = 0
            if steered and row.candidate.chooser:
                pick = row.candidate.chooser.pick(self.session.context, row.sample, [a.spoken or "" for a in own])
            kept.append(own[pick])
        return time.perf_counter() - begun, kept

    def peak(self, tokens: int, steered: bool) -> int | None:
        """Largest memory while all rows are answered."""
        return peak(lambda: self.answer(self.rows, tokens, steered))


def measure(run: Run, settings: Settings, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """What a run's method costs on this machine; the record that `record.store` keeps beside it.

    Raises BenchError for a run without steering or without written answers, or a backend that cannot make
    answers equally long.
    """
    task = run.data["spec"]["task"]
    if get("task", task).kind == "detector":
        raise BenchError(f"task {task} tests detectors: its runs have no steering to measure")
    plan = make(Options(**{**from_file(run.path), "dtype": settings.dtype}))
    if any(sample.kind != "generate" for concept in plan.task.concepts() for sample in plan.task.test(concept)):
        raise BenchError(f"task {task} has its options scored: its runs write no answers to measure")
    session = Session(plan, None, silent)
    lm: Any = session.backend
    if not hasattr(lm, "endless"):
        raise BenchError(f"backend {lm.name} cannot make answers equally long: nothing to compare")
    local = not plan.options.judge.startswith("openai:")
    try:
        warm_up(lm)
        say(f"{run.method}: fit")
        rows, fit = _fitted(run, session, settings, local)
        rig = Rig(session, rows)
        lm.endless = True  # not before: what a fit writes is kept, and ends where it ends
        say(f"{run.method}: first tokens")
        first = first_tokens(rig)
        say(f"{run.method}: {settings.repeats} repeats of {settings.batch} × {settings.tokens} tokens, both ways")
        seconds, answers = in_turns(rig, settings)
        arch, config = _architecture(run, lm)
        found = _exact(rig, arch, answers, settings)
        memory = {side: [rig.peak(settings.tokens, side == "steered") for _ in range(3)] for side in SIDES}
        lm.endless = False
        say(f"{run.method}: judge")
        judged = _judged(run, session, rows, answers["steered"]) if local else _asked(run)
    finally:
        lm.endless = False
        for kept in (session.answers.rows, session.evidence, session.judgements):
            kept.close()
    bare = float(np.median(seconds["unsteered"])) / len(rows)
    if fit["seconds"] is not None:
        fit["in_requests"] = round(fit["seconds"] / bare, 3)
    return {
        "engine": _engine(session, lm),
        "settings": dataclasses.asdict(settings),
        "model": str(run.data["spec"]["model"]),
        "config": config,
        "exact": found,
        "measured": {
            **_ratios(seconds, first, memory),
            "seconds": {**seconds, "first_token": first},
            "memory_bytes": memory,
            "tokens": {side: [a.tokens for a in answers[side]] for side in SIDES},
        },
        "fit": fit,
        "judge": judged,
    }


SIDES = ("unsteered", "steered")


def _fitted(run: Run, session: Session, settings: Settings, local: bool) -> tuple[list[Row], dict[str, Any]]:
    """The rows to answer, and what one fit costs alone: from nothing, with an empty cache."""
    plan = session.plan
    concepts = session.concepts[: settings.concepts]
    prompter, method = plan.specs[0].prompter, plan.methods[0]
    keys = session.fits.keys(method, prompter)
    if method.uses_judge:
        session.judge.prepare(session.backend, session.evidence, session.calibration)
    cost: dict[str, Any] = {"seconds": None, "tokens": None}
    if local and not prompter:  # else a fit would be paid for again
        with tempfile.TemporaryDirectory() as folder, tokens_through(session.backend) as count:
            context = Context(session.backend, plan.protocol.budget, plan.protocol.seed)
            context.rate, context.compat = session.context.rate, session.context.compat
            alone = dataclasses.replace(session.fits, context=context, artefacts=Artefacts(Path(folder)))
            begun = time.perf_counter()
            packed = next(alone.fit(method, [concepts[0].id]))
            cost = {"seconds": round(time.perf_counter() - begun, 4), "tokens": count()}
        session.fits.store(method, concepts[0].id, keys[concepts[0].id], packed)
    for concept in concepts:
        if not session.fits.artefacts.has(keys[concept.id]):
            packed = next(session.fits.fit(method, [concept.id]))
            session.fits.store(method, concept.id, keys[concept.id], packed)
    fits = {c.id: session.fits.kept(keys[c.id]) for c in concepts}
    rows = []
    for i in range(settings.batch):
        concept = concepts[i % len(concepts)]
        picked = run.data["concepts"][concept.id]["picked"]
        candidate = fits[concept.id].candidates[picked["candidate"]]
        steering: Any = candidate.steering
        if isinstance(steering, Steering):
            steering = session.steerings.at(method, steering, concept, candidate, picked["coefficient"])
        samples = list(session.task.test(concept))
        sample = samples[i // len(concepts) % len(samples)]
        rows.append(Row(sample, concept, candidate, steering, picked["coefficient"], i))
    return rows, cost


def warm_up(lm: Backend) -> None:
    """Loads the weights and answers a question that is not asked again, so that nothing measured pays for it."""
    sampling = Sampling(4, temperature=0)
    list(lm.generate([Request((("user", "Name a colour, a river and a bird."),), None, sampling)]))


def first_tokens(rig: Rig) -> dict[str, dict[str, list[float]]]:
    """Seconds to the first token of each distinct question alone: asked for the first time, then again.

    The first time nothing of the question or of its steering prompt is cached; the second time an engine
    with a prefix cache has it. Which side goes first changes from row to row.
    """
    found: dict[str, dict[str, list[float]]] = {side: {"cold": [], "warm": []} for side in SIDES}
    distinct = {row.sample.id: row for row in rig.rows}
    for i, row in enumerate(distinct.values()):
        for side in SIDES if i % 2 else SIDES[::-1]:
            for state in ("cold", "warm"):
                found[side][state].append(rig.answer([row], 1, side == "steered")[0])
    return found


def in_turns(rig: Rig, settings: Settings) -> tuple[dict[str, list[float]], dict[str, list[Completion]]]:
    """Seconds of each repeat, the sides in turns and each first in every other repeat."""
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    answers: dict[str, list[Completion]] = {}
    for repeat in range(-1, settings.repeats):  # the first only warms
        for side in SIDES if repeat % 2 else SIDES[::-1]:
            spent, answers[side] = rig.answer(rig.rows, settings.tokens, side == "steered")
            if repeat >= 0:
                seconds[side].append(round(spent, 6))
    if uneven := {a.tokens for own in answers.values() for a in own} - {settings.tokens}:
        raise BenchError(f"answers have {sorted(uneven)} tokens instead of {settings.tokens}: they cannot be compared")
    return seconds, answers


def _ratios(
    seconds: dict[str, list[float]], first: dict[str, dict[str, list[float]]], memory: dict[str, list[int | None]]
) -> dict[str, Any]:
    def ratio(steered: Sequence[float], bare: Sequence[float]) -> dict[str, Any]:
        return dataclasses.asdict(Spread.of([a / b for a, b in zip(steered, bare, strict=True)]))

    found = {"time": ratio(seconds["steered"], seconds["unsteered"])}
    for state in ("cold", "warm"):
        sides = [first[side][state] for side in SIDES[::-1]]
        if len(sides[0]) > 1:
            found[f"first_token_{state}"] = ratio(*sides)
    peaks = [[v for v in memory[side] if v is not None] for side in SIDES[::-1]]
    if all(len(own) > 1 for own in peaks):
        found["memory"] = ratio(*peaks)
    return found


def _exact(rig: Rig, arch: Architecture, answers: dict[str, list[Completion]], settings: Settings) -> dict[str, Any]:
    """The cost of the steerings themselves, the mean over the rows, and the time ratio it would predict."""
    found: list[Extra] = []
    expected: list[tuple[int, int]] = []
    sizes = []
    for row, bare, own in zip(rig.rows, answers["unsteered"], answers["steered"], strict=True):
        steering = rig.request(row, settings.tokens, True).steering
        assert steering is not None
        added = own.prompt_tokens - bare.prompt_tokens
        one = extra(steering, added - steering.inserted, bare.prompt_tokens)
        if mix := steering.mixing:
            read = rig.lm.count(mix.against.apply(row.sample.messages))
            one = dataclasses.replace(one, against=read - bare.prompt_tokens)
        if isinstance(row.steering, Bound):
            with tokens_through(rig.lm) as count:
                row.steering.bind(rig.lm, row.sample.messages)
                read = count() or 0
            one = dataclasses.replace(one, once=one.once + read * prefill_flops(arch, 1))
        draws = row.candidate.chooser.n if row.candidate.chooser else 1
        asked = bare.prompt_tokens, settings.tokens
        expected.append((draws * request_flops(arch, one, *asked), request_flops(arch, Extra(), *asked)))
        found.append(one)
        sizes.append(len(pack(row.candidate.steering)))
    names = [f.name for f in dataclasses.fields(Extra)]
    mean = {name: float(np.mean([getattr(e, name) for e in found])) for name in names}
    return {
        "extra": {k: round(v, 2) if k in PARTS else round(v) for k, v in mean.items()},
        "draws": draws,
        "own_tokens": round(float(np.mean([a.prompt_tokens for a in answers["unsteered"]])), 2),
        "artefact_bytes": round(float(np.mean(sizes))),
        "request_ratio": round(sum(a for a, _ in expected) / sum(b for _, b in expected), 5),
    }


PARTS = ("prompt_tokens", "against", "streams")
"""What of an `Extra` is kept with its fraction: a mean of a few."""


def _judged(run: Run, session: Session, rows: Sequence[Row], answers: Sequence[Completion]) -> dict[str, Any]:
    """Tokens the local judge reads per answer; a model of one's own costs no money."""
    names = {row.concept.id for row in rows}
    trains = [train for train in session.calibration if train.concept.id in names] or session.calibration
    session.judge.prepare(session.backend, session.evidence, trains)
    session.judge.prepare(session.backend, _Aside(session.evidence.folder), trains)

    def rate(items: Sequence[Item]) -> list[Verdict]:
        found = dict(session.judge.rate(items))
        return [found[i] for i in range(len(items))]

    with tokens_through(session.backend) as count:
        session.task.score([row.sample for row in rows], list(answers), rate)
        total = count()
    per = None if total is None else round(total / len(rows), 1)
    return {"tokens_per_answer": per, "answers": run.data["counts"]["generations"], "cost": 0.0}


class _Aside(Rows):
    """What is kept in a folder; what is added stays in memory, so that the same answer costs as much again."""

    def _append(self, line: bytes) -> Place:
        return self._remember(line)


def _asked(run: Run) -> dict[str, Any]:
    """What the run itself kept of a judge that is paid for; None where it kept nothing."""
    counts = run.data["counts"]
    total = counts.get("judge_tokens")
    per = None if total is None else round(total / max(1, counts["generations"]), 1)
    return {"tokens_per_answer": per, "answers": counts["generations"], "cost": counts.get("judge_cost")}


def _architecture(run: Run, lm: Any) -> tuple[Architecture, dict[str, Any]]:
    """Dimensions of the model at hand, and the configuration they come from."""
    name = str(run.data["spec"]["model"])
    found = complete(lm.model.config.to_dict()) if hasattr(lm, "model") else {}
    config = {key: found[key] for key in KEYS if key in found}
    arch = architecture(config, name) if config else known(name)
    if arch is None:
        raise BenchError(f"the dimensions of {name} are not known")
    return arch, config


def _engine(session: Session, lm: Any) -> dict[str, Any]:
    import torch

    hardware = provenance.hardware()
    return {
        "backend": lm.name,
        "dtype": session.plan.specs[0].dtype,
        "device": hardware.get("accelerator") or hardware.get("processor") or hardware["machine"],
        "accelerator": "accelerator" in hardware,
        "threads": torch.get_num_threads(),
        "provenance": provenance.provenance(),
    }


def renew(runs: Sequence[Run], settings: Settings, say: Callable[[str], None]) -> list[str]:
    """Measure each run and keep its record beside it; returns why some could not be."""
    failed = []
    for run in runs:
        found: dict[str, Any] = {}
        try:
            found = measure(run, settings, say)
        except THEIRS as error:  # a method is others' code: its failure must not end the rest
            failed.append(f"{run.path.parent.name}: {cause(error, plugin_files())}")
            say(failed[-1])
            traced(error)
        if found:
            store(run, found)
    return failed
