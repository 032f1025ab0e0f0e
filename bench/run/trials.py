"""What a model is asked under each setting of a method, and which setting is picked.

Invariant: pure functions of protocol, sample and ratings. They decide numbers, so every result's key covers them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from bench.core.content import Message, digest
from bench.core.definitions import code_digest
from bench.core.interfaces import Fitted, Method
from bench.core.protocol import Protocol
from bench.core.spoken import UNFINISHED
from bench.core.steering import Mix, Prompt, Steering
from bench.core.values import Request, Sample, Sampling, Verdict
from bench.results.runs import means


@dataclass(frozen=True)
class Trial:
    """One setting of a method on one concept: which candidate, at which coefficient."""

    candidate: int
    coefficient: float


def trials(candidates: Sequence[Fitted], rules: Protocol) -> list[Trial]:
    """Every candidate at every coefficient; one that has nothing to scale (a prompt) is tried once."""
    return [Trial(i, c) for i, candidate in enumerate(candidates) for c in _coefficients(candidate, rules)]


def _coefficients(candidate: Fitted, rules: Protocol) -> tuple[float, ...]:
    """What a candidate is tried at: its own list, the protocol's, or as many fractions or alphas where it knows no
    other unit."""
    steering = candidate.steering
    if _fixed(steering, rules):
        return (1.0,)
    if candidate.coefficients:
        return candidate.coefficients
    if not rules.usual or not isinstance(steering, Steering) or steering.deltas:
        return rules.coefficients
    many = len(rules.coefficients)
    if steering.mix and not steering.edits:
        return Mix.tried[:many]
    fractions = tuple(round((i + 1) / many, 4) for i in range(many))
    return fractions if all(edit.unit == "fraction" for edit in steering.edits) else rules.coefficients


def _fixed(steering: Any, rules: Protocol) -> bool:
    """Whether a steering has one strength: a prompt, and in AxBench's mode what it trains without a factor (LoRA,
    LoReFT, SFT)."""
    if not isinstance(steering, Steering):
        return False
    learnt = all(edit.unit == "trained" and edit.need in LEARNT for edit in steering.edits)
    return not steering.scalable or (rules.compat == "axbench" and not steering.mix and learnt)


LEARNT = ("lowrank", "scaled")
"""Kinds that training gives one strength."""


def best(tried: dict[Trial, list[dict[str, Verdict]]], rules: Protocol) -> Trial:
    """The setting with the highest mean overall score; ties go to the concept score, then the first. AxBench's mode
    takes the first at once."""

    def select_score(rows: list[dict[str, Verdict]]) -> tuple[float, ...]:
        axes = ("overall",) if rules.compat == "axbench" else ("overall", next(iter(rows[0])))
        found = means(rows, axes)
        return tuple(-1.0 if found[axis] is None else found[axis] for axis in axes)

    return max(tried, key=lambda trial: select_score(tried[trial]))


def request(sample: Sample, steering: Steering, rules: Protocol) -> Request:
    """One question under one steering, which a plain-text prompt takes in as text."""
    seed = seed_of(sample, rules)
    if not sample.raw:
        settled = len(sample.messages) - 1 if sample.settled else 0
        return Request(sample.messages, steering, rules.sampling, seed, settled=settled, turns=sample.prompted)
    text = plain_text(sample, steering.prompt)
    if not steering.mix:
        return Request(text, replace(steering, prompt=Prompt()), rules.sampling, seed)
    mix = replace(steering.mix, against=Prompt(prefix=plain_text(sample, steering.mix.against)))
    return Request("", replace(steering, prompt=Prompt(prefix=text), mix=mix), rules.sampling, seed)


def continued(sample: Sample, chat: Sequence[Message]) -> Sample:
    """A later turn of a dialogue with the chat that it goes on from."""
    return replace(sample, messages=(*chat, *sample.messages))


def repeats(method: Method, sample: Sample, rules: Protocol) -> int:
    """How often a test sample is asked: once for each answer wanted, or, where nothing is drawn at random, for each
    fit."""
    return rules.answers if sample.kind == "generate" else fits(method, rules)


def fits(method: Method, rules: Protocol) -> int:
    """Fits of a method on a concept: several where training has chance in it."""
    return rules.fits if any(method.training(rules.budget)) else 1


def repeated(sample: Sample, k: int) -> Sample:
    """A sample asked once more: its id tells the answers apart, and gives each its own noise."""
    if not k:
        return sample
    follows = f"{sample.follows}{AGAIN}{k}" if sample.follows else ""
    return replace(sample, id=f"{sample.id}{AGAIN}{k}", follows=follows)


AGAIN = "#"
"""Between a sample's id and the number of a further answer to it."""


def drawn(asked: Request, samples: int) -> list[Request]:
    """The same question so many times, each with noise of its own."""
    return [replace(asked, seed=(asked.seed + k) % 2**63) for k in range(samples)]


def options(sample: Sample, asked: Request) -> list[Request]:
    """A multiple choice as one request for each option, whose log-probability is wanted."""
    lead = " " if sample.raw else ""  # after plain text an answer begins with a space
    return [replace(asked, target=lead + option, sampling=Sampling(), seed=0) for option in sample.options]


def kept_as(engine: str, request: Request) -> str:
    """Key of the answer to a request by an engine (its fingerprint): all that decides the text, and nothing else."""
    steering = request.steering or Steering()
    prompt, edit = request.prompt, steering.prompt
    asked = edit.prefix + prompt + edit.suffix if isinstance(prompt, str) else edit.apply(prompt, request.turns)
    second: tuple[Any, ...] = ()
    if steering.mixing:  # the other stream is asked something else
        other = steering.mixing.against
        second = (
            other.prefix + prompt + other.suffix if isinstance(prompt, str) else other.apply(prompt, request.turns),
        )
    parts = [steering.internal_digest, asked, *second, request.prefill, request.sampling, request.seed]
    if request.settled and steering.edits:
        parts.append(request.settled)
    return digest(engine, code_digest(*steering.kinds), *parts)


def seed_of(sample: Sample, rules: Protocol) -> int:
    """The same noise for every method: differences between methods are differences of steering."""
    return _noise(rules.seed, sample.id, sample.instruction)


@lru_cache(maxsize=2**16)
def _noise(seed: int, sample: str, instruction: str) -> int:
    return int(digest(seed, sample, instruction), 16) % 2**63


def ruled(found: dict[str, Verdict], rules: Protocol) -> dict[str, Verdict]:
    """AxBench's reference scores an unreadable rating 0; outside its mode it stays missing."""
    if rules.compat != "axbench" or found["overall"].value is not None:
        return found
    if any(verdict.transient or verdict.reason == UNFINISHED for verdict in found.values()):
        return found  # there was no reply to read, or no answer to rate
    return {axis: v if v.value is not None else Verdict(0.0, v.raw, v.reason) for axis, v in found.items()}


def plain_text(sample: Sample, prompt: Prompt) -> str:
    """A sample's plain-text prompt under a prompt edit: system text and examples stand before it."""
    from jinja2 import Template

    *before, (_, asked) = prompt.apply(sample.messages)
    turns = {"system": "{}\n\n", "user": "Q: {}\n", "assistant": "A: {}\n\n"}
    lead = "".join(turns[role].format(content) for role, content in before)
    asked_in: str = Template(sample.raw, keep_trailing_newline=True).render(question=asked)
    return lead + asked_in
