"""What a run keeps of one method: its trials, its answers, and the record they become.

Invariant: a record is computed from a finished job alone; nothing here runs a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import results
from bench.core.blame import blamed
from bench.core.content import Message, plain
from bench.core.definitions import borrowed
from bench.core.errors import THEIRS, BenchError, StopRun, traced
from bench.core.interfaces import Method
from bench.core.protocol import RunSpec
from bench.core.steering import Steering
from bench.core.values import Completion, Concept, Request, Sample, Verdict
from bench.run.damage import LIMITS, Damage, at_most
from bench.run.faults import definitions, fault
from bench.run.fits import Kept
from bench.run.plan import Plan
from bench.run.specificity import concept_axis, others
from bench.run.strength import Strength
from bench.run.trials import Trial


@dataclass
class Job:
    """One method's way through the stages."""

    spec: RunSpec
    method: Method
    code: str
    status: str = "todo"
    reason: str = ""
    path: Path | None = None
    by_seed: list[dict[str, Kept]] = field(default_factory=list)
    """concept -> fit, for each seed that it was fitted with."""
    fitted_there: int = 0
    """Fits that workers made (`bench.run.cluster`) and that the progress has counted."""
    select: dict[str, dict[Trial, list[dict[str, Verdict]]]] = field(default_factory=dict)
    picked: dict[str, Trial] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    tried: list[dict[str, Any]] = field(default_factory=list)
    """Answers on the select split under every setting, for readers: they decide nothing after the pick."""
    tested: dict[str, list[dict[str, Verdict]]] = field(default_factory=dict)
    monitors: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """What each concept's vector foretold (`bench.run.monitor`)."""
    damage: dict[str, dict[Trial, Damage]] | None = None
    """concept -> what each setting tried does to plain answers, if they were read."""
    related: dict[str, float | None] = field(default_factory=dict)
    """sample -> how much of another concept its answer shows, if that was rated (`bench.run.specificity`)."""
    adverse: list[dict[str, Any]] = field(default_factory=list)
    """Answers to questions with an order against their concept, if they were asked."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds of detection, by concept."""
    verdicts: int = 0
    """Ratings asked for, on both splits."""
    unscored: int = 0
    """Those of them that are missing, and those that a later run may still get."""
    unanswered: int = 0
    answers: int = 0
    fresh: int = 0
    tokens: int = 0

    @contextmanager
    def guarded(self, stage: str) -> Iterator[None]:
        """A method is third-party code: its failure is its own and must not end the others.

        Nothing is written inside this context.
        """
        try:
            yield
        except StopRun:
            raise
        except THEIRS as error:
            self.status, self.reason = "failed", f"{stage}: {fault(error, self.method)}"
            traced(error)

    @property
    def fits(self) -> dict[str, Kept]:
        """The first fit of each concept: what settings are picked with."""
        return self.by_seed[0]

    def fit(self, concept: str, turn: int) -> Kept:
        """What an answer is written with: fits take turns, over the answers to a prompt and from prompt to prompt."""
        return self.by_seed[turn % len(self.by_seed)][concept]

    def clear(self) -> None:
        """Let go of fits, questions and answers: they are recorded, or will not be."""
        kept_of = (self.by_seed, self.select, self.rows, self.tried, self.tested, self.monitors)
        for kept in (*kept_of, self.related, self.adverse):
            kept.clear()
        self.damage = None

    def count(self, rated: Iterable[Verdict]) -> None:
        """Take the judge's verdicts on one answer into the counts."""
        for verdict in rated:
            self.verdicts += 1
            self.unscored += verdict.value is None
            self.unanswered += verdict.transient


@dataclass(frozen=True)
class Ask:
    """One question to the model: a sample under one setting of a job's method."""

    job: Job
    trial: Trial
    sample: Sample
    request: Request


class Said:
    """What was said in the turns of dialogues so far, by each job under each setting."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, Trial, str], tuple[Message, ...]] = {}

    def add(self, asks: Sequence[Ask], outputs: Sequence[Completion | None]) -> None:
        """Take in a turn's answers; one that is None is of a job that failed."""
        for ask, output in zip(asks, outputs, strict=True):
            if output:
                chat = (*ask.sample.messages, ("assistant", output.spoken or ""))
                self._kept[id(ask.job), ask.trial, ask.sample.id] = chat

    def chat(self, job: Job, trial: Trial, sample: str) -> tuple[Message, ...]:
        """The chat up to the answer to a sample, that answer at its end."""
        if (place := (id(job), trial, sample)) not in self._kept:
            raise BenchError(f"a sample goes on from {sample}, which was not asked in an earlier turn")
        return self._kept[place]


def record(job: Job, plan: Plan, strength: Strength, timings: Mapping[str, float]) -> dict[str, Any]:
    """Everything a reader needs: settings tried and picked, per-sample scores, test texts, costs."""
    axes = (*plan.task.axes, "overall")
    concepts = {}
    for concept in plan.task.concepts():
        name = concept.id
        pick = job.picked.get(name, Trial(0, 1.0))
        tried = [
            {"candidate": t.candidate, "coefficient": t.coefficient} | results.means(rows, axes)
            for t, rows in job.select.get(name, {}).items()
        ]
        fitted = job.fits[name]
        concepts[name] = {
            "text": concept.text,
            "genre": concept.genre,
            "picked": {"candidate": pick.candidate, "coefficient": pick.coefficient},
            "strength": _ratio(job, concept, pick, strength),
            "note": dict(fitted.candidates[pick.candidate].note),
            "fit_seconds": fitted.seconds,
            "detect_seconds": job.seconds.get(name),
            "layers": [_layers(candidate.steering) for candidate in fitted.candidates],
            **_prompts([candidate.steering for candidate in fitted.candidates]),
            "select": tried,
            "test": results.means(job.tested[name], axes),
            **({"monitor": dict(job.monitors[name])} if name in job.monitors else {}),
            **(_damage(job, concept, plan) if job.damage and name in job.damage else {}),
        }
    calibration: dict[str, Any] = {}
    if plan.task.rated:
        with blamed(f"judge {job.spec.judge}", type(plan.judge)):
            calibration = dict(plan.judge.report())
    plugins = borrowed(*definitions(job.method), type(plan.task), type(plan.judge))
    drawn = job.method.samples_per_prompt(plan.protocol.budget)
    unfinished = sum(row.get("thought") == "unfinished" for row in job.rows)
    counts = {
        "generations": job.answers,
        "generated_now": job.fresh,
        "tokens": job.tokens,
        "missing": sum(row["ratings"].get("overall", 0) is None for row in job.rows),
        "verdicts": job.verdicts,
        "unscored": job.unscored,
        "unanswered": job.unanswered,
        **({"unfinished": unfinished} if unfinished else {}),
    }
    return {
        "code": job.code,
        **({"plugins": plugins} if plugins else {}),
        "surface": job.method.surface,
        "validated": job.method.validated,
        **({"suppresses": True} if job.method.suppresses else {}),
        **({"draws": drawn} if drawn > 1 else {}),
        **({"withholds": sorted(plan.task.withholds)} if plan.task.withholds else {}),
        "concepts": concepts,
        "samples": job.rows,
        "counts": counts,
        "timings": dict(timings),
        **({"neutral": plan.reading} if job.damage is not None else {}),
        **_specificity(job, plan),
        "axes": list(axes),
        "scale": plan.task.scale,
        "source": plan.model.source,
        "asked": dict(plan.asked),
        "calibration": calibration,
        "uses": plan.task.kind,
    }


def _prompts(steerings: Sequence[Any]) -> dict[str, Any]:
    """What each candidate puts around a question: `system`, `prefix`, `suffix`, `shots`, those that are not empty."""
    shown = [
        {name: value for name, value in vars(one.prompt).items() if value} if isinstance(one, Steering) else {}
        for one in steerings
    ]
    return {"prompts": plain(shown)} if any(shown) else {}


def _layers(steering: Any) -> list[int]:
    """Blocks a candidate's edits act on; none for a prompt."""
    return sorted({edit.layer for edit in steering.edits}) if isinstance(steering, Steering) else []


def _damage(job: Job, concept: Concept, plan: Plan) -> dict[str, Any]:
    """What each setting does to plain answers, and the score where it may do so much and no more."""
    assert job.damage
    found, tried = job.damage[concept.id], job.select[concept.id]
    asked = sorted(plan.task.select(concept), key=lambda sample: sample.turn)  # as they were answered
    questions = [s.unit or s.cluster or s.question or s.id for s in asked]  # answers of one share its luck
    equal = {f"{limit:g}": at_most(tried, questions, found, limit, plan.protocol) for limit in LIMITS}
    each = [{"candidate": t.candidate, "coefficient": t.coefficient} | vars(damage) for t, damage in found.items()]
    return {"damage": each, "at_most": equal}


def _specificity(job: Job, plan: Plan) -> dict[str, Any]:
    """What the answers show of another concept, and what is left of their own under an order against it."""
    found: dict[str, Any] = {}
    if job.related:
        beside = {name: other.id for name, other in others(plan.task).items()}
        rated = {name: None if value is None else round(value, 4) for name, value in job.related.items()}
        found["related"] = {"key": plan.looked["related"], "others": beside, "ratings": rated}
    if job.adverse:
        found["adverse"] = {
            "key": plan.looked["adverse"],
            "axis": concept_axis(plan.task),
            "samples": list(job.adverse),
        }
    return {"specificity": found} if found else {}


def _ratio(job: Job, concept: Concept, pick: Trial, strength: Strength) -> float | None:
    candidate = job.fits[concept.id].candidates[pick.candidate]
    if not isinstance(candidate.steering, Steering):
        return None
    return strength.ratio(strength.at(candidate.steering, candidate, concept, pick.coefficient), concept)


def tried(ask: Ask, output: Completion, found: dict[str, Verdict]) -> dict[str, Any]:
    """An answer on the select split with the setting it was made under."""
    setting = {"candidate": ask.trial.candidate, "coefficient": ask.trial.coefficient}
    return setting | row(ask, output, found)


def row(ask: Ask, output: Completion, found: dict[str, Verdict]) -> dict[str, Any]:
    return {
        "id": ask.sample.id,
        "concept": ask.sample.concept.id,
        "instruction": ask.sample.instruction,
        "text": output.text if output.spoken is None else output.spoken,
        **({"thought": dropped} if (dropped := thought(output)) else {}),
        "tokens": output.tokens,
        "touched": list(output.positions_edited),
        **({"unit": ask.sample.unit} if ask.sample.unit else {}),
        **({"turn": ask.sample.turn} if ask.sample.turn else {}),
        **({"question": ask.sample.question} if ask.sample.question else {}),
        **({"cluster": ask.sample.cluster} if ask.sample.cluster else {}),
    } | ratings(found)


def thought(output: Completion) -> str:
    """What became of the thoughts in an answer: nothing ("" where there are none), `dropped`, or `unfinished`; an
    unfinished text stands in the record as it is."""
    if output.spoken is None:
        return "unfinished"
    return "" if output.spoken == output.text else "dropped"


REPLY = 400
"""Characters kept of a judge's reply: enough for a reason, not for an essay."""


def ratings(found: dict[str, Verdict]) -> dict[str, Any]:
    """Ratings by axis, why one is missing, and what the judge said or measured."""
    said = {axis: v.raw[:REPLY] for axis, v in found.items() if v.raw}
    return {
        "ratings": {axis: None if v.value is None else round(v.value, 4) for axis, v in found.items()},
        "reasons": {axis: v.reason for axis, v in found.items() if v.value is None},
        **({"said": said} if said else {}),
    }
