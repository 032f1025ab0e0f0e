"""What a run's files hold, as types: `run.json`, a line of `trials.jsonl`, an opinion, a cost, a validation.

Invariant: a file that is held to these can be reported without a further look. A field that no number and no table
rests on is left free: `note`, `calibration`, what later versions add.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from bench.core.shapes import Count, Misfit, Range, Text

Ratings = dict[str, float | None]
"""By axis; None where a rating is missing."""
Name = Text
"""Of a method, a task, a model: it becomes a part of a path."""
Positive = Annotated[float, Range(1e-9)]


class Setting(TypedDict):
    """A candidate of a fit, at a strength."""

    candidate: Count
    coefficient: float


class Sample(TypedDict):
    """One test question: what was answered or scored, and what it was given."""

    id: Name
    concept: str
    ratings: Ratings
    instruction: NotRequired[str]
    text: NotRequired[str]
    withheld: NotRequired[str]
    tokens: NotRequired[Count]
    touched: NotRequired[list[int]]
    unit: NotRequired[str]
    turn: NotRequired[Annotated[int, Range(1)]]
    cluster: NotRequired[str]
    question: NotRequired[str]
    reasons: NotRequired[dict[str, str]]
    said: NotRequired[dict[str, str]]
    label: NotRequired[str]
    score: NotRequired[float]


class Trial(Sample, Setting):
    """One select question under one setting."""


class Stated(TypedDict):
    """What a candidate puts around a question."""

    system: NotRequired[str]
    prefix: NotRequired[str]
    suffix: NotRequired[str]
    shots: NotRequired[list[tuple[str, str]]]


class Reading(TypedDict):
    """What a vector foretells of the bare model's answers (`bench.run.monitor`)."""

    r: float | None
    within: float | None
    n: Count
    projections: list[float]
    ratings: list[float | None]
    kinds: list[str]


class Damaged(Setting):
    """What a setting does to plain answers, in nats a token (`bench.run.damage`)."""

    kl: float
    surprise: float


class Plain(TypedDict):
    """The plain answers that were read."""

    texts: Annotated[int, Range(1)]
    digest: Name


class Found(TypedDict):
    """One concept of a run."""

    text: str
    picked: Setting
    select: list[dict[str, float | None]] | None
    """What was tried, each with its setting and its mean on every axis."""
    test: dict[str, float | None]
    genre: NotRequired[str]
    strength: NotRequired[float | None]
    note: NotRequired[dict[str, Any]]
    fit_seconds: NotRequired[float | None]
    detect_seconds: NotRequired[float | None]
    layers: NotRequired[list[list[int]]]
    prompts: NotRequired[list[Stated]]
    monitor: NotRequired[Reading | None]
    damage: NotRequired[list[Damaged]]
    at_most: NotRequired[dict[str, float | None]]
    """KL a token -> the mean on the select split, each question under the setting of so little damage that is best on
    the others; None where none is so mild."""


class Related(TypedDict):
    """What test answers show of another concept (`bench.run.specificity`)."""

    key: Name
    others: dict[str, str]
    """concept -> the other that its answers were rated for."""
    ratings: Ratings
    """By sample."""


class Adverse(TypedDict):
    """Answers to the first test questions, each by its id, with an order against their concept."""

    key: Name
    axis: Name
    samples: list[Sample]


class Specificity(TypedDict):
    related: NotRequired[Related]
    adverse: NotRequired[Adverse]


class Drawing(TypedDict):
    max_new_tokens: Count
    temperature: float
    top_k: Count


class Spent(TypedDict):
    sequences: Count
    tokens: Count
    epochs: Count
    trials: Count


class Rules(TypedDict):
    """A protocol."""

    preset: Literal["quick", "standard", "paper"]
    coefficients: list[float]
    select: Count
    test: Count
    sampling: Drawing
    budget: Spent
    strength: str
    compat: str
    seed: int
    concepts: Count
    answers: NotRequired[Count]
    fits: NotRequired[Count]


class Spec(TypedDict):
    """The identity of a run."""

    method: Name
    task: Name
    model: Name
    judge: str
    protocol: Rules
    method_params: dict[str, Any]
    task_params: dict[str, Any]
    judge_params: dict[str, Any]
    prompter: str
    backend: Name
    dtype: str
    weights: str
    data: str


class Counts(TypedDict):
    missing: Count
    generations: NotRequired[Count]
    generated_now: NotRequired[Count]
    tokens: NotRequired[Count]
    verdicts: NotRequired[Count]
    unscored: NotRequired[Count]
    unanswered: NotRequired[Count]


class Asked(TypedDict):
    """What the user named."""

    model: Name
    task_params: dict[str, Any]
    judge: NotRequired[str]
    protocol: NotRequired[dict[str, Any]]


class Registered(TypedDict):
    prompt: Name
    margin: Positive
    steering: list[Name]
    combination: NotRequired[str]


class Made(TypedDict):
    """Where a file was made."""

    commit: str | None
    dirty: list[str]
    versions: dict[str, str | None]
    hardware: dict[str, Any]


class Plugin(TypedDict):
    """A file of third parties that decides a run."""

    name: str
    digest: str


class RunRecord(TypedDict):
    """A `run.json`."""

    version: Literal[1]
    id: Name
    group: Name
    spec: Spec
    axes: list[Name]
    concepts: dict[str, Found]
    samples: list[Sample]
    counts: Counts
    metrics: dict[str, float | None]
    code: str
    surface: NotRequired[Name]
    family: NotRequired[Name]
    """In records of 0.1.0, in place of `surface`."""
    plugins: NotRequired[list[Plugin]]
    validated: bool
    status: NotRequired[str]
    scale: NotRequired[Positive]
    uses: NotRequired[Literal["steering", "detector"]]
    draws: NotRequired[Annotated[int, Range(1)]]
    suppresses: NotRequired[bool]
    withholds: NotRequired[list[Name]]
    source: NotRequired[str]
    neutral: NotRequired[Plain]
    specificity: NotRequired[Specificity]
    timings: NotRequired[dict[str, float]]
    calibration: NotRequired[dict[str, Any]]
    asked: NotRequired[Asked]
    refused: NotRequired[list[str]]
    provenance: NotRequired[Made]
    executor: NotRequired[dict[str, Any]]
    registered: NotRequired[Registered | None]


class OpinionRecord(TypedDict):
    """A `judged-*.json`."""

    version: Literal[1]
    run: Name
    id: Name
    judge: Name
    judge_params: dict[str, Any]
    independent: bool
    calibration: dict[str, Any]
    samples: list[Rated]
    concepts: dict[str, dict[str, float | None]]
    code: str
    missing: Count
    unanswered: NotRequired[Count]
    provenance: NotRequired[Made]


class Rated(TypedDict):
    """One answer as another judge rated it."""

    id: Name
    ratings: Ratings
    reasons: NotRequired[dict[str, str]]
    said: NotRequired[dict[str, str]]


class Spreading(TypedDict):
    """`bench.overhead.record.Spread`."""

    median: float
    spread: float
    n: Count


class Extra(TypedDict):
    """`bench.overhead.exact.Extra`."""

    prompt_tokens: NotRequired[Annotated[float, Range(0)]]
    decode: NotRequired[Count]
    read: NotRequired[Count]
    once: NotRequired[Count]
    elements: NotRequired[Count]
    held: NotRequired[Count]
    moved: NotRequired[Count]


class Exact(TypedDict):
    extra: Extra
    draws: Annotated[int, Range(1, 10**6)]
    own_tokens: Annotated[float, Range(0)]
    artefact_bytes: Count


class Turns(TypedDict):
    """Seconds of the repeats."""

    unsteered: list[float]
    steered: list[float]


class Measured(TypedDict):
    time: NotRequired[Spreading | None]
    first_token_cold: NotRequired[Spreading | None]
    first_token_warm: NotRequired[Spreading | None]
    memory: NotRequired[Spreading | None]
    seconds: dict[str, Any]
    tokens: NotRequired[dict[str, list[Count]]]


class FitCost(TypedDict):
    seconds: float | None
    tokens: Count | None
    in_requests: NotRequired[float | None]


class JudgeCost(TypedDict):
    tokens_per_answer: float | None
    cost: float | None
    answers: NotRequired[Count]


class Engine(TypedDict):
    backend: str
    dtype: str
    device: str
    accelerator: bool
    threads: Count
    provenance: Made


class Load(TypedDict):
    """What was asked for while a cost was measured."""

    tokens: Count
    batch: Count
    repeats: Count


class OverheadRecord(TypedDict):
    """An `overhead.json`."""

    version: Literal[1]
    run: Name
    method: Name
    model: str
    engine: Engine
    settings: Load
    config: dict[str, Any]
    exact: Exact
    measured: Measured
    fit: FitCost
    judge: JudgeCost


class Effect(TypedDict):
    """One entry of a `capability.json`."""

    kind: Literal["side-effects", "lm-eval"]
    concept: str
    coefficient: float
    numbers: dict[str, Any]


class CapabilityRecord(TypedDict):
    """A `capability.json`."""

    run: Name
    entries: dict[str, Effect]


class Gate(TypedDict):
    tasks: dict[str, bool]
    lines: NotRequired[list[dict[str, Any]]]


class Bias(TypedDict):
    """Judge minus readers in one surface, with its interval."""

    bias: float | None
    low: float | None
    high: float | None


class ValidityRecord(TypedDict):
    """A table of `ROOT/judges/`."""

    judge: Name
    axes: dict[str, Any]
    data: str
    judge_params: dict[str, Any]
    gate: NotRequired[Gate]
    models: NotRequired[list[str]]
    runs: NotRequired[list[str]]
    surfaces: NotRequired[dict[str, dict[str, Bias]]]


VERSION = 1
"""Of the files of a run that this program writes and reads."""


def agrees(data: Mapping[str, Any]) -> None:
    """Raise `Misfit` where the parts of a `run.json` of its shape contradict each other."""
    axes, concepts, scale = data["axes"], data["concepts"], data.get("scale", 2.0)
    if "overall" not in axes:
        raise Misfit("has no overall", "axes")
    if lacking := [axis for axis in axes if axis not in data["metrics"]]:
        raise Misfit(f"lacks {lacking[0]}", "metrics")
    for name, found in concepts.items():
        settings = found["select"] or []
        for place, means in (("test", found["test"]), *((f"select.{i}", row) for i, row in enumerate(settings))):
            for axis in axes:
                within(means, axis, scale, ("concepts", name, place))
        for i, row in enumerate(settings):
            if type(row.get("candidate")) is not int or row.get("coefficient") is None:
                raise Misfit("does not say which setting it is", "concepts", name, f"select.{i}")
        picked = found["picked"]
        if settings and not any({key: row[key] for key in picked} == picked for row in settings):
            raise Misfit("is none of the settings that were tried", "concepts", name, "picked")
        if damage := found.get("damage"):
            if any(
                all({k: one[k] for k in picked} != {k: row[k] for k in picked} for row in settings) for one in damage
            ):
                raise Misfit("is of none of the settings that were tried", "concepts", name, "damage")
            if "neutral" not in data:
                raise Misfit("does not say which plain answers were read", "neutral")
        for limit in (equal := found.get("at_most", {})):
            if not re.fullmatch(r"\d+(\.\d+)?", limit):
                raise Misfit(f"is {limit!r}, which is no number", "concepts", name, "at_most")
            within(equal, limit, scale, ("concepts", name, "at_most"))
    rated(data["samples"], concepts, scale)
    looked = data.get("specificity", {})
    rated(looked.get("adverse", {}).get("samples", ()), concepts, scale)
    for name in (own := looked.get("related", {}).get("ratings", {})):
        within(own, name, scale, ("specificity", "related", "ratings"))


def opined(data: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    """Raise `Misfit` where an opinion of its shape does not cover the run that it is of."""
    scale = run.get("scale", 2.0)
    if lacking := [name for name in run["concepts"] if name not in data["concepts"]]:
        raise Misfit(f"lacks {lacking[0]}", "concepts")
    for name, means in data["concepts"].items():
        for axis in run["axes"]:
            within(means, axis, scale, ("concepts", name))
    for i, sample in enumerate(data["samples"]):
        for axis in sample["ratings"]:
            within(sample["ratings"], axis, scale, ("samples", str(i), "ratings"))


def rated(samples: Iterable[Mapping[str, Any]], concepts: Mapping[str, Any], scale: float) -> None:
    """Raise `Misfit` for a sample of no known concept, or with a rating that is not on the scale."""
    for i, sample in enumerate(samples):
        if sample["concept"] not in concepts:
            raise Misfit(f"is {sample['concept']!r}, which is none of its concepts", "samples", str(i), "concept")
        for axis in sample["ratings"]:
            within(sample["ratings"], axis, scale, ("samples", str(i), "ratings"))


def within(means: Mapping[str, Any], axis: str, scale: float, place: tuple[str, ...]) -> None:
    """Raise `Misfit` for a mean or a rating that is not there, or not on the scale."""
    if axis not in means:
        raise Misfit(f"lacks {axis}", *place)
    if (value := means[axis]) is not None and not -1e-9 <= value <= scale + 1e-3:
        raise Misfit(f"is {value}, which is not from 0 to {scale:g}", *place, axis)


RUN = Annotated[RunRecord, agrees]
"""A `run.json` that does not contradict itself."""
