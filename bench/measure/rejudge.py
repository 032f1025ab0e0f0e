"""Rate a run's kept test answers again with another judge; nothing is generated.

Invariant: the judge is calibrated on the training texts the run itself used, and what it says is
written whole, beside `run.json`, under its own identity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench import results
from bench.backends.models import DEFAULT
from bench.core.definitions import code_digest
from bench.core.errors import BenchError, UsageError
from bench.core.interfaces import Task
from bench.core.money import SpendingLimit
from bench.core.protocol import Budget, Protocol
from bench.core.registry import build
from bench.core.settings import known
from bench.core.store import write_json
from bench.core.values import Advance, Completion, Sample, Sampling
from bench.judges.english import unread
from bench.judges.instrument import Instrument
from bench.results import provenance, second_judge
from bench.results.record import VERSION
from bench.results.runs import Run, unit_names
from bench.results.second_judge import JudgeRatings
from bench.results.tables import labels
from bench.run import jobs
from bench.run.task_contract import examined, scored
from bench.run.trials import AGAIN, repeated
from bench.stats import agreement
from bench.stats.intervals import Estimate

Voice = Run | JudgeRatings
"""A run speaks for its own judge, an opinion for another."""


def rulebook(spec: Mapping[str, Any]) -> Protocol:
    """The protocol of a run's spec, as an object."""
    kept = dict(spec["protocol"])
    parts = {"sampling": Sampling, "budget": Budget}
    for name, cls in parts.items():
        kept[name] = known(cls, kept[name])
    return known(Protocol, kept | {"coefficients": tuple(kept["coefficients"])})


def task_of(run: Run) -> Task:
    """The task of a run, over the data it used; refused where that data has changed."""
    spec = run.data["spec"]
    asked = dict(run.data.get("asked", {}).get("task_params", spec["task_params"]))
    task: Task = build("task", spec["task"], asked, protocol=rulebook(spec))
    if task.digest != spec["data"]:
        raise BenchError(f"{run.path.parent.name}: its data is not the data at hand; its concepts cannot be calibrated")
    return task


def has_texts(run: Run) -> bool:
    return bool(run.data["spec"]["judge"]) and all("text" in s for s in run.data["samples"])


def rejudge(
    runs: Sequence[Run],
    judge: str,
    params: dict[str, Any] | None = None,
    advance: Advance = lambda steps: None,
    purse: SpendingLimit | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[JudgeRatings]:
    """What `judge` says of each run, made now or found, and paid from `purse`; runs on the same data share a
    calibration. `say` is told of concepts in a language that it cannot read."""
    if silent := [run.path.parent.name for run in runs if not has_texts(run)]:
        raise UsageError(f"{silent[0]} keeps no generations to rate")
    made: dict[str, JudgeRatings] = {}
    for (model, dtype, *_, sequences), own in _alike(runs).items():
        with Instrument(judge, model, dtype, params, purse) as instrument:
            code = code_digest(type(instrument.judge))
            prepared = False
            for run in own:
                path = second_judge.place(run, judge, instrument.judge.fingerprint())
                if path.is_file() and _settled(second_judge.beside(run, path), code):
                    advance(len(run.data["samples"]))
                else:
                    task = task_of(run)
                    if not prepared:
                        if warning := unread(judge, task):
                            say(warning)
                        instrument.prepare([train.limited(sequences) for train in task.calibration()])
                        examined(task, judge, instrument.rate)
                        prepared = True
                    write_json(path, _record(run, task, instrument, code))
                    advance(len(run.data["samples"]))
                made[run.data["id"]] = second_judge.beside(run, path)
    return [made[run.data["id"]] for run in runs]


def _settled(opinion: JudgeRatings, code: str) -> bool:
    """Whether asking again would change nothing: the same code said it, and no rating went unanswered."""
    return bool(opinion.code == code and not opinion.data.get("unanswered"))


def _alike(runs: Sequence[Run]) -> dict[tuple[str, str, str, str, int, int], list[Run]]:
    """Runs by what one judge serves: the model and number type that it may read, and what it is calibrated on."""
    found: dict[tuple[str, str, str, str, int, int], list[Run]] = {}
    for run in runs:
        spec, model = run.data["spec"], str(run.data.get("asked", {}).get("model", DEFAULT))
        rules = rulebook(spec)
        place = (model, spec["dtype"], spec["task"], spec["data"], rules.concepts, rules.budget.sequences)
        found.setdefault(place, []).append(run)
    return found


def _record(run: Run, task: Task, instrument: Instrument, code: str) -> dict[str, Any]:
    rows = run.data["samples"]
    samples = asked_of(run, task)
    outputs = [Completion(s["text"], s["tokens"], 0) for s in rows]
    verdicts = scored(task, samples, outputs, instrument.rate)
    axes = (*task.axes, "overall")
    concepts = {
        name: results.means([v for v, s in zip(verdicts, rows, strict=True) if s["concept"] == name], axes)
        for name in run.data["concepts"]
    }
    params = dict(instrument.judge.fingerprint())
    own_model = getattr(instrument.judge, "model", "") in (
        run.data["spec"]["model"],
        run.data.get("asked", {}).get("model"),
    )
    return {
        "version": VERSION,
        "run": run.data["id"],
        "id": second_judge.identity(instrument.name, params),
        "judge": instrument.name,
        "judge_params": params,
        "independent": instrument.judge.independent and not own_model,
        "code": code,
        "calibration": dict(instrument.judge.report()),
        "concepts": concepts,
        "samples": [{"id": s["id"]} | jobs.ratings(v) for s, v in zip(rows, verdicts, strict=True)],
        "missing": sum(v["overall"].value is None for v in verdicts),
        "unanswered": sum(v.transient for row in verdicts for v in row.values()),
        "provenance": provenance.provenance(),
    }


def asked_of(run: Run, task: Task) -> list[Sample]:
    """What the task asked for each kept answer of a run, in order; refused where it asks something else now."""
    asked = {sample.id: sample for concept in task.concepts() for sample in task.test(concept)}
    found = []
    for kept in run.data["samples"]:
        name, _, again = kept["id"].rpartition(AGAIN) if AGAIN in kept["id"] else (kept["id"], "", "0")
        if name not in asked or asked[name].instruction != kept["instruction"]:
            raise BenchError(f"{run.path.parent.name}: sample {kept['id']} is not what its task asks now")
        found.append(repeated(asked[name], int(again)))
    return found


def side_by_side(runs: Sequence[Run], one: Sequence[Voice], two: Sequence[Voice]) -> dict[str, Any]:
    """Agreement of two judges on the samples of `runs` per axis, and whom each favours, as JSON.

    Each judge is given by what it said of each run, in the order of `runs`.
    """
    axes = [axis for axis in runs[0].data["axes"] if all(axis in run.data["axes"] for run in runs)]
    found: dict[str, Any] = {"judges": [speaker(one[0]), speaker(two[0])], "agreement": {}, "prompt_bias": {}}
    for axis in axes:
        rows = []
        for run, a, b in zip(runs, one, two, strict=True):
            first, second = (_ratings(voice, axis) for voice in (a, b))
            units = unit_names(run.data)
            rows += [
                (first[s["id"]], second[s["id"]], units.get(s["id"], s["concept"]))
                for s in run.data["samples"]
                if s["id"] in first and s["id"] in second
            ]
        if rows:
            both = agreement.agree(*zip(*rows, strict=True))
            figures = {name: _estimate(getattr(both, name)) for name in ("kappa", "spearman", "alpha")}
            found["agreement"][axis] = figures | {"n": both.n}
    names = labels(runs)
    surfaces = {name: run.surface for name, run in zip(names, runs, strict=True)}
    for axis in axes:
        own, other = (
            {name: _known(run, voice, axis) for name, run, voice in zip(names, runs, voices, strict=True)}
            for voices in (one, two)
        )
        e = agreement.interaction(own, other, surfaces)
        if not math.isnan(e.mean):
            flagged = math.isfinite(e.low) and not e.low <= 0 <= e.high
            found["prompt_bias"][axis] = _estimate(e) | {"flagged": flagged}
    return found


def speaker(voice: Voice) -> str:
    return voice.judge if isinstance(voice, JudgeRatings) else str(voice.data["spec"]["judge"])


def _ratings(voice: Voice, axis: str) -> dict[str, float]:
    """sample -> rating, those that are not missing."""
    return {s["id"]: s["ratings"][axis] for s in voice.data["samples"] if s["ratings"].get(axis) is not None}


def _known(run: Run, voice: Voice, axis: str) -> dict[str, float]:
    """unit -> score, those that are not missing."""
    found = voice.units(run, axis) if isinstance(voice, JudgeRatings) else voice.scores(axis)
    return {name: value for name, value in found.items() if value is not None}


def _estimate(e: Estimate) -> dict[str, Any]:
    return {k: results.finite(getattr(e, k)) for k in ("mean", "low", "high")} | {"concepts": e.n}
