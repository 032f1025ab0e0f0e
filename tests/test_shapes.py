"""The seven hard shapes the API must hold, each end to end on a tiny model.

ActAdd's prompt-front matrix, a CAST gate, LoReFT on first and last prompt tokens, an SSVD rotation with
its own scaling, a hypernetwork bound per prompt, a detector without steering, multiple choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from bench.backends.hf.backend import HFBackend
from bench.core.content import Array, Message
from bench.core.deltas import LowRankDelta, RotationDelta
from bench.core.edits import Edit, Gate, Span
from bench.core.interfaces import Backend, Context, Fitted, Method
from bench.core.kinds import Add, LowRank
from bench.core.steering import Steering
from bench.core.values import Concept, Example, Request, Sample, Sampling, Train
from bench.run.contract import BUDGET, example_train

LAYER, H = 1, 32
GREEDY = Sampling(max_new_tokens=6, temperature=0)
RNG = np.random.default_rng(0)


def ask(text: str) -> tuple[Message, ...]:
    return (("user", text),)


def probabilities(
    lm: Backend, steering: Steering | None, prompt: str = "What is it?", target: str = "A red ball."
) -> Array:
    found = dict(lm.logprobs([Request(ask(prompt), steering, target=target)]))
    return np.array(found[0].logprobs)


def residuals(lm: HFBackend, steering: Steering, prompt: str, layer: int = LAYER) -> tuple[Array, Array, int]:
    """Outputs of block `layer` `[T, H]` without and with `steering`, over prompt and target, and the
    prompt's length: read by hand, past the code under test."""
    from bench.backends.hf.hooks import Applied
    from bench.backends.hf.modules import first

    ids = lm.encode(ask(prompt))
    rows = torch.tensor([ids + lm.encode("A red ball.")])
    seen: list[Array] = []
    for value in (Steering(), steering):
        with torch.no_grad(), Applied(lm.model, [value], [len(ids)], [0], lm.template_prefix):
            # Registered after the edit's own hook, so it sees what the next block sees.
            handle = lm.model.model.layers[layer].register_forward_hook(
                lambda _, __, output: seen.append(first(output)[0].numpy().copy())
            )
            lm.model(input_ids=rows)
            handle.remove()
    return seen[0], seen[1], len(ids)


def test_actadd_adds_a_matrix_to_the_front_of_the_prompt(lm: HFBackend) -> None:
    matrix = RNG.standard_normal((3, H)).astype(np.float32)
    steering = Steering(edits=(Add(layer=LAYER, value=matrix, span=Span("prompt", first=3, offset=4, sink=True)),))
    bare, steered, _ = residuals(lm, steering, "What is it?")
    change = steered - bare
    np.testing.assert_allclose(change[4:7], matrix, atol=1e-5)
    assert not change[:4].any()
    assert not change[7:].any()
    completion = dict(lm.generate([Request(ask("What is it?"), steering, GREEDY)]))[0]
    assert completion.positions_edited == (3,)  # the prompt pass alone; decoding touches nothing


def test_a_cast_gate_fires_on_its_prompts_and_leaves_the_others_bit_for_bit(lm: HFBackend) -> None:
    texts = ["Tell me about ships at sea", "Add two and two"]
    means = [lm.activations([ask(t)], [0])[0].values[0].mean(0) for t in texts]
    middle = (means[0] + means[1]) / 2
    gate = Gate(0, (means[0] - means[1]).astype(np.float32), 0.0, similarity="cosine", center=middle)
    edit = Add(layer=LAYER, value=RNG.standard_normal(H).astype(np.float32) * 5, gate=gate)
    gated, plain = Steering(edits=(edit,)), Steering(edits=(Add(layer=LAYER, value=edit.value),))
    rows = [Request(ask(t), s, target="A red ball.") for t in texts for s in (gated, plain, Steering())]
    found = dict(lm.logprobs(rows))
    scores = [found[i].logprobs for i in range(len(rows))]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)  # triggered: as ungated steering
    assert scores[0] != pytest.approx(scores[2], abs=1e-2)
    assert found[3].positions_edited == (0,)
    assert found[0].positions_edited[0] > 0
    # Untriggered: in one batch with steered rows its bits are those of the same batch without steering.
    never = Gate(0, gate.direction, 2.0)
    off = [
        Request(r.prompt, Steering(edits=(Add(layer=LAYER, value=edit.value, gate=never),)), target=r.target)
        for r in rows
    ]
    zero = [
        Request(r.prompt, Steering(edits=(Add(layer=LAYER, value=np.zeros(H, np.float32)),)), target=r.target)
        for r in rows
    ]
    assert [s.logprobs for _, s in sorted(lm.logprobs(off))] == [s.logprobs for _, s in sorted(lm.logprobs(zero))]


def test_loreft_edits_first_and_last_prompt_tokens_within_its_row_space(lm: HFBackend) -> None:
    basis = np.linalg.qr(RNG.standard_normal((H, 2)))[0].T.astype(np.float32)
    weight, bias = RNG.standard_normal((2, H)).astype(np.float32), np.ones(2, np.float32)
    edit = LowRank(layer=LAYER, rotation=basis, weight=weight, bias=bias, span=Span("prompt", first=2, last=3))
    bare, steered, prompt = residuals(lm, Steering(edits=(edit,)), "What is it?")
    change = steered - bare
    positions_edited = [i for i in range(len(change)) if change[i].any()]
    begin = lm.template_prefix
    assert positions_edited == [begin, begin + 1, prompt - 3, prompt - 2, prompt - 1]
    np.testing.assert_allclose(change @ basis.T @ basis, change, atol=1e-4)
    expected = (bare[begin] @ (weight - basis).T + bias) @ basis
    np.testing.assert_allclose(change[begin], expected, atol=1e-4)
    identity = LowRank(layer=LAYER, rotation=basis, weight=basis, bias=np.zeros(2, np.float32))
    np.testing.assert_allclose(probabilities(lm, Steering(edits=(identity,))), probabilities(lm, None), atol=1e-4)


def test_an_ssvd_rotation_scales_its_generator(lm: HFBackend) -> None:
    name = "model.layers.1.mlp.down_proj"
    weight = lm.model.get_submodule(name).weight.detach().numpy()
    u, s, vt = np.linalg.svd(weight, full_matrices=False)
    k = 6
    skew = np.triu(RNG.standard_normal((k, k)), 1).astype(np.float32) * 0.3
    delta = RotationDelta(
        module=name, u=u[:, :k], s=s[:k], v=vt[:k].T, skew=skew - skew.T, shift=np.zeros(k, np.float32)
    )
    steering = Steering(deltas=(delta,))
    half = steering.scaled(0.5).deltas[0]
    assert isinstance(half, RotationDelta)
    np.testing.assert_allclose(half.skew, delta.skew / 2)

    def rotation(c: float) -> Any:
        part = delta.scaled(c)
        return np.diag(1 / part.s) @ (part.core() + np.diag(part.s))

    np.testing.assert_allclose(rotation(1) @ rotation(-1), np.eye(k), atol=1e-4)
    assert not np.allclose(delta.scaled(0.5).core(), 0.5 * delta.core(), atol=1e-3)  # not a multiple
    # Against the same change written into the weights, in a batch with other strengths.
    found = dict(lm.logprobs([Request(ask("What?"), steering.scaled(c), target="A ball.") for c in (1.0, -0.7, 0.0)]))
    for row, c in enumerate((1.0, -0.7, 0.0)):
        module = lm.model.get_submodule(name)
        kept = module.weight.detach().clone()
        change = torch.from_numpy(u[:, :k] @ delta.scaled(c).core() @ vt[:k]) if c else torch.zeros_like(kept)
        with torch.no_grad():
            module.weight.copy_(kept + change)
        merged = probabilities(lm, None, "What?", "A ball.")
        with torch.no_grad():
            module.weight.copy_(kept)
        np.testing.assert_allclose(found[row].logprobs, merged, atol=1e-4)


@dataclass(frozen=True)
class Hyper:
    """A hypernetwork in small: the vector depends on the prompt through the model's own activations."""

    layer: int
    matrix: Array

    def bind(self, lm: Backend, messages: tuple[Message, ...]) -> Steering:
        state = lm.activations([messages], [self.layer])[0].values[self.layer][-1]
        return Steering(edits=(Add(layer=self.layer, value=(self.matrix @ state).astype(np.float32)),))


def test_a_hypernetwork_binds_to_each_prompt(lm: HFBackend) -> None:
    hyper = Hyper(LAYER, RNG.standard_normal((H, H)).astype(np.float32))
    fitted = Fitted(hyper)
    assert not isinstance(fitted.steering, Steering)
    one, two = (hyper.bind(lm, ask(text)) for text in ("Tell me of ships", "Add two numbers"))
    assert one.digest != two.digest
    assert one.digest == hyper.bind(lm, ask("Tell me of ships")).digest
    found = dict(
        lm.generate([Request(ask("Tell me of ships"), one, GREEDY), Request(ask("Add two numbers"), two, GREEDY)])
    )
    assert all(found[i].positions_edited[0] > 0 for i in range(2))


@dataclass(frozen=True)
class Words:
    """A bag-of-words detector: no layer, no steering."""

    vocabulary: tuple[str, ...]

    def score(self, ctx: Context, texts: Sequence[Example]) -> Array:
        return np.array([sum(w in self.vocabulary for w in t.response.lower().split()) for t in texts], float)


class BagOfWords(Method):
    """Detection without a model."""

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        def words(rows: Sequence[Example]) -> set[str]:
            return {w for e in rows for w in e.response.lower().split()}

        return [Fitted(detector=Words(tuple(sorted(words(train.positives) - words(train.negatives)))))]


def test_a_bag_of_words_detects_without_steering(lm: HFBackend) -> None:
    train = example_train()
    fitted = BagOfWords().fit(Context(lm, BUDGET), train)[0]
    assert fitted.steering is None
    assert fitted.detector is not None
    scores = fitted.detector.score(Context(lm, BUDGET), [*train.positives, *train.negatives])
    assert scores[: len(train.positives)].min() > scores[len(train.positives) :].max()


def test_multiple_choice_prefers_the_option_the_steering_favours(lm: HFBackend) -> None:
    sample = Sample("q1", Concept("truth", "true answers"), "test", "choices", ask("Which is it?"), ("abc", "xyz"))

    def pick(steering: Steering | None) -> tuple[int, list[float]]:
        requests = [Request(sample.messages, steering, target=option) for option in sample.options]
        found = dict(lm.logprobs(requests))
        totals = [found[i].total for i in range(len(requests))]
        return int(np.argmax(totals)), totals

    # The direction in which the output head prefers the first letter of one option to the other's.
    head = lm.model.get_output_embeddings().weight.detach().numpy()
    a, x = (lm.encode(text)[0] for text in ("a", "x"))
    toward = (head[a] - head[x]).astype(np.float32)
    toward *= 40 / np.linalg.norm(toward)
    edits: tuple[Edit, ...] = (Add(layer=3, value=toward, span=Span("generation")),)
    (one, low), (two, high) = pick(Steering(edits=edits).scaled(-1)), pick(Steering(edits=edits))
    assert (one, two) == (1, 0)
    assert high[0] - high[1] > pick(None)[1][0] - pick(None)[1][1] > low[0] - low[1]


def test_the_options_of_a_steered_question_share_its_row_and_stay_what_they_are_alone(lm: HFBackend) -> None:
    v = RNG.standard_normal(H).astype(np.float32)
    gate = Gate(0, lm.activations([ask("Which is it?")], [0])[0].values[0].mean(0), -2.0)
    down, up = (RNG.standard_normal(s).astype(np.float32) for s in ((2, H), (H, 2)))
    delta = LowRankDelta(module=f"model.layers.{LAYER}.self_attn.o_proj", down=down, up=up)
    steerings = [
        None,
        Steering(edits=(Add(layer=LAYER, value=v), Add(layer=2, value=v, span=Span("response")))),
        Steering(edits=(Add(layer=LAYER, value=v, gate=gate, span=Span("generation")),)),
        Steering(deltas=(delta,)),
    ]
    targets = ("x", "A red ball.", "Blue, as I would say it")
    requests = [Request(ask("Which is it?"), s, target=t) for t in targets for s in steerings]
    passes = []
    handle = lm.model.get_decoder().register_forward_pre_hook(lambda *_: passes.append(1))
    together = [score for _, score in sorted(lm.logprobs(requests), key=lambda pair: pair[0])]
    handle.remove()
    assert len(passes) == 1  # a row for each steering, its options side by side
    for request, score in zip(requests, together, strict=True):
        (alone,) = [s for _, s in lm.logprobs([request])]
        assert score.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
        assert score.positions_edited == alone.positions_edited
        ids = len(lm.encode(request.prompt)), len(lm.encode(request.target))
        if request.steering is steerings[1]:
            assert score.positions_edited == (
                sum(ids) - lm.template_prefix - 1,
                ids[1] - 1,
            )  # all but the header; the last token decides nothing
        if request.steering is steerings[2]:
            assert score.positions_edited == (ids[1],)
