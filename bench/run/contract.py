"""The contract every method is held to, on a tiny random model: `bench check NAME` and the tests.

Invariant: a check returns what is wrong, or nothing; it never passes for lack of anything to look at.
"""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.backends import tiny
from bench.core.content import Array
from bench.core.errors import THEIRS, cause, traced
from bench.core.interfaces import Backend, Bound, Context, Detector, Fitted, Method, Prompted, ReadSite
from bench.core.naming import build_method
from bench.core.protocol import Budget
from bench.core.steering import Prompt, Steering
from bench.core.store import load_value, save_value
from bench.core.values import Activations, Choice, Concept, Example, Item, Pair, Request, Sampling, Train, Verdict
from bench.run.faults import files

BUDGET = Budget(sequences=16, tokens=96, epochs=1, trials=2)
SUBJECTS = ("sea", "sun", "road", "tree", "clock", "shoe", "lamp", "bird")
QUESTION = (("user", "What is in the box on the table?"),)


def example_train() -> Train:
    """A small concept with every view."""
    rows = [(f"Tell me of the {s}.", f"The {s} is like a ship on waves.", f"The {s} is quite plain.") for s in SUBJECTS]
    return Train(
        Concept("ships", "ships and sailing"),
        positives=tuple(Example(i, p) for i, p, _ in rows),
        negatives=tuple(Example(i, n) for i, _, n in rows),
        hard_negatives=(Example("Post it?", "Ship the parcel today."),),
        pairs=tuple(Pair(*row) for row in rows),
        choices=tuple(Choice(f"How is the {s}?", "It sails.", "It stands.") for s in SUBJECTS),
        personas=(("a sailor", "a clerk"), ("a captain", "a baker")),
        triggers=tuple(f"Where does the {s} of the ship go?" for s in SUBJECTS),
        others=tuple(f"How old is the {s}?" for s in SUBJECTS),
    )


class Planted(Context):
    """Activations made up around a known direction `axis` `[H]`: texts that show the concept are shifted
    along it, by an amount that varies (`spread`), so that means and main axes both have something to find."""

    width = 24
    axis: Array = np.eye(24)[3]
    shift = 20.0
    spread = 8.0

    def _pass(self, texts: Sequence[Prompted], layers: Sequence[int], tokens: int, site: ReadSite) -> list[Activations]:
        return [Activations({layer: self._states(text, layer) for layer in layers}, 10) for text in texts]

    def _states(self, text: Prompted, layer: int) -> Array:
        noise = self.rng("planted", text, layer).standard_normal((30, self.width))
        shift = self.rng("shift", text, layer).normal(self.shift, self.spread, (30, 1))
        states: Array = noise + (shift * self.axis if shows(text) else 0.0)
        return states


def shows(text: Prompted) -> bool:
    """Whether a text made from `example_train` shows its concept: by its answer, the option its letter
    names, or the persona it is asked to take."""
    words = ("ship", "sail", "captain")
    if isinstance(text, str):
        return any(word in text for word in words) and " not " not in text
    role, said = text[-1]
    asked = "\n".join(content for speaker, content in text if speaker != "assistant")
    if role == "assistant" and (letter := re.match(r"\(([AB])", said)):
        said = next(line for line in asked.splitlines() if line.startswith(f"({letter[1]})"))
        return any(word in said for word in words)
    return any(word in said for word in words) or any(word in asked for word in ("sailor", "captain"))


def check(name: str, kind: str = "llama", params: Mapping[str, Any] | None = None) -> dict[str, str]:
    """label -> what is wrong ("" when nothing is), for the registered method or combination `name` on a
    tiny random model of `kind`."""
    made = build_method(name, {name: params or {}})
    with tempfile.TemporaryDirectory() as folder:
        lm = tiny.engine(Path(folder) / "model", kind)
        fitted: list[Fitted] = []  # one fit serves every check but those of the fit itself
        steps: dict[str, Callable[[], str]] = {"it fits": lambda: _fits(made, lm, fitted)}
        steps["two fits are equal"] = lambda: _deterministic(made, lm, fitted)
        steps["c = 0 is the bare model under the same prompt"] = lambda: _zero(fitted, lm)
        steps["a batch equals its rows"] = lambda: _rows(fitted, lm)
        steps["its edits fire and change the output"] = lambda: _fires(fitted, lm) or _changes(made, fitted, lm)
        steps["save and load keep the digest"] = lambda: _saved(fitted, lm, Path(folder))
        if made.antisymmetric:
            steps["swapping positives and negatives flips it"] = lambda: _flips(made, lm)
        if made.recovers:
            steps["a planted direction is recovered"] = lambda: _recovers(made, lm)
        found: dict[str, str] = {}
        for label, step in steps.items():
            try:
                found[label] = step()
            except THEIRS as error:  # the method is third-party code: its failure is the finding
                found[label] = cause(error, files(made))
                traced(error)
            if label == "it fits" and found[label]:
                break
        return found


def context(lm: Backend) -> Context:
    return Context(lm, BUDGET, rate=_rate, trains=(example_train(),))


def _rate(items: Sequence[Item]) -> list[Verdict]:
    """A judge of the example's concept."""
    return [Verdict(2.0 if item.axis != "concept" or shows(item.text) else 0.0) for item in items]


def _fit(made: Method, lm: Backend) -> Sequence[Fitted]:
    return made.fit(context(lm), example_train())


def _steerings(fitted: Sequence[Fitted], lm: Backend) -> list[Steering]:
    bound = [c.steering.bind(lm, QUESTION) if isinstance(c.steering, Bound) else c.steering for c in fitted]
    return [s for s in bound if s is not None]


def _fits(made: Method, lm: Backend, found: list[Fitted]) -> str:
    given: Any = _fit(made, lm)
    rows = given if isinstance(given, Sequence) else [given]
    if strange := [type(row).__name__ for row in rows if not isinstance(row, Fitted)]:
        code = type(made).fit.__code__
        place = f"{Path(code.co_filename).name}:{code.co_firstlineno}"
        return f"fit must return a sequence of Fitted; this one has a {strange[0]} ({place})"
    if given is not rows:
        return f"fit must return a sequence of Fitted, not one by itself: [{type(given).__name__}(…)]"
    found.extend(given)
    if not found:
        return "the fit gave no candidate"
    for candidate in found:
        if candidate.steering is None and candidate.detector is None:
            return "a candidate has neither a steering nor a detector"
        if isinstance(candidate.steering, Steering) and (more := candidate.steering.needs - made.needs):
            return f"its steering needs {', '.join(sorted(more))}, which the class does not declare"
        if isinstance(candidate.detector, Detector):
            problem = _scores(candidate.detector, lm)
            if problem:
                return problem
    return ""


def _scores(detector: Detector, lm: Backend) -> str:
    texts = list(example_train().positives)
    scores = np.asarray(detector.score(context(lm), texts))
    if scores.shape != (len(texts),) or not np.isfinite(scores).all():
        return f"its detector gives shape {scores.shape} for {len(texts)} texts, or values that are not finite"
    return ""


def _deterministic(made: Method, lm: Backend, fitted: Sequence[Fitted]) -> str:
    again = _fit(made, lm)
    one, two = ([s.digest for s in _steerings(found, lm)] for found in (fitted, again))
    scores = [_scored_by(found, lm) for found in (fitted, again)]
    equal = one == two and scores[0] == scores[1]
    return "" if equal or not made.deterministic else "two fits on the same data differ"


def _scored_by(fitted: Sequence[Fitted], lm: Backend) -> list[list[float]]:
    """Scores of the example's texts by each candidate's detector."""
    ctx, train = context(lm), example_train()
    texts = [*train.positives, *train.negatives]
    return [[float(s) for s in c.detector.score(ctx, texts)] for c in fitted if c.detector is not None]


def _scored(lm: Backend, requests: Sequence[Request]) -> list[tuple[float, ...]]:
    found = dict(lm.logprobs(requests))
    return [found[i].logprobs for i in range(len(requests))]


def _zero(fitted: Sequence[Fitted], lm: Backend) -> str:
    for steering in _steerings(fitted, lm):
        off = Request(QUESTION, steering.scaled(0), target="A red ball.")
        prompt = steering.mix.against if steering.mix else steering.prompt
        bare = Request(prompt.apply(QUESTION), target="A red ball.")
        if _scored(lm, [off]) != _scored(lm, [bare]):
            return "the log-probabilities at c = 0 differ from the bare model's"
    return ""


def _rows(fitted: Sequence[Fitted], lm: Backend) -> str:
    for steering in _steerings(fitted, lm):
        asks = ["Why?", "What is in the box on the table next to the window?", "Tell me more."]
        strengths = (1.0, 2.0, 0.0)
        requests = [
            Request((("user", ask),), steering.scaled(c), target=target)
            for ask, c, target in zip(asks, strengths, ("Yes.", "It is a red ball.", "No"), strict=True)
        ]
        together, alone = _scored(lm, requests), [_scored(lm, [request])[0] for request in requests]
        worst = max(abs(a - b) for x, y in zip(together, alone, strict=True) for a, b in zip(x, y, strict=True))
        if worst > 1e-3:
            return f"log-probabilities in a batch differ from single rows by {worst:.2g} nats"
    return ""


def _fires(fitted: Sequence[Fitted], lm: Backend) -> str:
    for steering in _steerings(fitted, lm):
        if not steering.inside:
            continue
        sampling = Sampling(max_new_tokens=4, temperature=0)
        found = dict(lm.generate([Request(QUESTION, steering.scaled(4.0), sampling)]))[0]
        gated = [edit.gate is not None for edit in steering.edits]
        gated += [False] * (bool(steering.inserted) + bool(steering.mix))
        if any(n == 0 and not gate for n, gate in zip(found.positions_edited, gated, strict=True)):
            return f"positions edited per edit: {found.positions_edited}"
        bare = Request(steering.prompt.apply(QUESTION), target="A red ball.")
        partial = any(edit.partial for edit in steering.edits)
        if (
            not any(gated)
            and not partial
            and _scored(lm, [Request(QUESTION, steering.scaled(4.0), target="A red ball.")]) == _scored(lm, [bare])
        ):
            return "c = 4 leaves every log-probability as it was"
    return ""


def _changes(made: Method, fitted: Sequence[Fitted], lm: Backend) -> str:
    found = _steerings(fitted, lm)
    if found and made.surface != "control" and not any(s.inside or s.prompt != Prompt() for s in found):
        return "no candidate has an edit, a delta or a prompt"
    return ""


def _saved(fitted: Sequence[Fitted], lm: Backend, folder: Path) -> str:
    for candidate in fitted:
        save_value(folder / "fit.safetensors", candidate)
        again = load_value(folder / "fit.safetensors")
        if isinstance(candidate.steering, Steering) and again.steering.digest != candidate.steering.digest:
            return "a saved steering loads with another digest"
        if _scored_by([again], lm) != _scored_by([candidate], lm):
            return "a saved detector scores otherwise"
    return ""


def _vector(made: Method, ctx: Context, train: Train) -> Array:
    steering = made.fit(ctx, train)[0].steering
    if isinstance(steering, Bound):
        steering = steering.bind(ctx.lm, QUESTION)
    assert isinstance(steering, Steering)
    parts = [tensor.ravel() for edit in steering.edits for tensor in edit.tensors().values()]
    return np.concatenate(parts)


def _cosine(a: Array, b: Array) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _flips(made: Method, lm: Backend) -> str:
    train = example_train()
    personas = tuple((b, a) for a, b in train.personas)
    # Where personas make the contrast, the texts under them stay.
    swapped = (
        dataclasses.replace(train, personas=personas)
        if "personas" in made.views
        else dataclasses.replace(
            train,
            positives=train.negatives,
            negatives=train.positives,
            pairs=tuple(Pair(p.instruction, p.negative, p.positive) for p in train.pairs),
            choices=tuple(Choice(c.question, c.not_matching, c.matching) for c in train.choices),
            triggers=train.others,
            others=train.triggers,
        )
    )
    cosine = _cosine(_vector(made, context(lm), train), _vector(made, context(lm), swapped))
    return "" if cosine < -0.999 else f"cos(v, swapped v) = {cosine:.4f}, expected -1"


def _recovers(made: Method, lm: Backend) -> str:
    found = made.fit(Planted(lm, BUDGET, rate=_rate, trains=(example_train(),)), example_train())[0].steering
    assert isinstance(found, Steering)
    for edit in found.edits:
        value = next(iter(edit.tensors().values()))
        cosine = abs(_cosine(np.atleast_2d(value).mean(0), Planted.axis))
        if cosine < 0.99:
            return f"|cos| with the planted direction is {cosine:.3f} at layer {edit.layer}, expected above 0.99"
    return ""
