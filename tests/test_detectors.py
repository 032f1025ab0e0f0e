"""Methods that only detect, and the gradients two of them need, against finite differences and scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from bench.backends import tiny
from bench.backends.fake.backend import FakeBackend
from bench.backends.hf.backend import HFBackend
from bench.backends.hf.modules import blocks, first, with_first
from bench.core.content import Array
from bench.core.errors import BenchError, UsageError
from bench.core.interfaces import Backend, Context, Prompted
from bench.core.naming import build_method
from bench.core.protocol import Budget
from bench.core.store import load_value, save_value
from bench.core.values import Concept, Example, TargetScore, Train
from bench.run.contract import check, example_train
from bench.stats.detection import separation
from methods._attribution import AttributionDetector, classifier
from methods.bow import WordDetector
from methods.prompt_detect import PromptDetector

NAMES = ("bow", "prompt-detect", "ixg", "ig")
TEXTS: tuple[Prompted, ...] = (
    (("user", "Why?"), ("assistant", "No.")),
    (("user", "What lies in the box?"), ("assistant", "A red ball and a very long rope of hemp.")),
    "plain text",
    (("user", "Tell me more."), ("assistant", "The sea is wide.")),
)
TRAIN = example_train()
EXAMPLES = (*TRAIN.positives, *TRAIN.negatives)


def budget(tokens: int = 0) -> Budget:
    return Budget(16, tokens, 1, 2)


def fitted(name: str, ctx: Context, train: Train = TRAIN, **params: Any) -> Any:
    (found,) = build_method(name, {name: params}).fit(ctx, train)
    assert found.steering is None
    return found.detector


@pytest.mark.slow
@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_the_contract_holds_on_every_kind_of_model(name: str, kind: str) -> None:
    assert {label: problem for label, problem in check(name, kind).items() if problem} == {}


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_detector_scores_as_before(name: str, lm: HFBackend, tmp_path: Path) -> None:
    ctx = Context(lm, budget(48))
    detector = fitted(name, ctx)
    save_value(tmp_path / "fit.safetensors", detector)
    again = load_value(tmp_path / "fit.safetensors")
    assert type(again) is type(detector)
    assert np.array_equal(again.score(ctx, EXAMPLES), detector.score(ctx, EXAMPLES))


@pytest.mark.parametrize("name", NAMES)
def test_a_score_belongs_to_its_text(name: str, lm: HFBackend) -> None:
    ctx = Context(lm, budget(48))
    detector = fitted(name, ctx)
    together = detector.score(ctx, EXAMPLES)
    assert together.shape == (len(EXAMPLES),)
    assert detector.score(ctx, EXAMPLES[::-1])[::-1] == pytest.approx(together, rel=1e-3)
    assert detector.score(ctx, EXAMPLES[3:4]) == pytest.approx(together[3:4], rel=1e-3)
    assert len(np.unique(together.round(12))) > 1


# Gradients


def value(
    lm: HFBackend, text: Prompted, layer: int, readout: Array, rows: Array | None = None, tokens: int = 0
) -> tuple[float, Array]:
    """readout · h by a pass of its own, with `rows` `[T, H]` put in place of the block's; and the rows read."""
    (ids,), _, (skip,) = lm.chat.readable([text], tokens)
    found: dict[str, Any] = {}

    def put(_: Any, __: Any, output: Any) -> Any:
        x = first(output).clone()
        found["x"] = x[0, skip:].double().numpy()
        if rows is not None:
            x[0, skip:] = torch.as_tensor(rows)
        return with_first(output, x)

    def top(_: Any, __: Any, output: Any) -> None:
        found["h"] = first(output)[0, -1].double().numpy()

    modules = blocks(lm.model)
    handles = [modules[layer].register_forward_hook(put), modules[-1].register_forward_hook(top)]
    with torch.no_grad():
        lm.model(input_ids=torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return float(found["h"] @ readout), found["x"]


@pytest.fixture(scope="module")
def readout() -> Array:
    return np.random.default_rng(3).standard_normal(32)


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_gradients_are_finite_differences(any_lm: HFBackend, readout: Array, layer: int) -> None:
    rng = np.random.default_rng(0)
    for text, gradient in zip(TEXTS, any_lm.gradients(TEXTS, layer, readout), strict=True):
        _, x = value(any_lm, text, layer, readout)
        assert gradient.shape == x.shape
        step = rng.standard_normal(x.shape) * 1e-2 * np.abs(x).mean()
        up, down = (value(any_lm, text, layer, readout, x + sign * step)[0] for sign in (1, -1))
        assert (up - down) / 2 == pytest.approx(float((gradient * step).sum()), rel=2e-2, abs=2e-4 * abs(up))


def test_on_the_last_block_the_gradient_is_the_readout_at_the_last_token(any_lm: HFBackend, readout: Array) -> None:
    for gradient in any_lm.gradients(TEXTS, 3, readout):
        assert gradient[-1] == pytest.approx(readout, rel=1e-6)
        assert not gradient[:-1].any()


@pytest.mark.parametrize("at", [1.0, 0.3])
def test_a_batch_of_gradients_equals_its_rows(any_lm: HFBackend, readout: Array, at: float) -> None:
    base = np.random.default_rng(1).standard_normal(32)
    together = any_lm.gradients(TEXTS, 1, readout, [at], base)
    for text, gradient in zip(TEXTS, together, strict=True):
        (alone,) = any_lm.gradients([text], 1, readout, [at], base)
        assert np.abs(alone - gradient).max() < 1e-4 * np.abs(alone).max()


def test_gradients_have_the_rows_of_activations(lm: HFBackend, readout: Array) -> None:
    for tokens in (0, 5):
        reads = lm.activations(TEXTS, [1], tokens)
        found = lm.gradients(TEXTS, 1, readout, tokens=tokens)
        assert [g.shape for g in found] == [r.values[1].shape for r in reads]
        assert all(g.dtype == np.float32 for g in found)


def test_a_cut_text_ends_where_it_is_cut(lm: HFBackend, readout: Array) -> None:
    (cut,) = lm.gradients([TEXTS[1]], 1, readout, tokens=7)
    _, x = value(lm, TEXTS[1], 1, readout, tokens=7)
    step = np.random.default_rng(5).standard_normal(x.shape) * 1e-2 * np.abs(x).mean()
    up, down = (value(lm, TEXTS[1], 1, readout, x + sign * step, tokens=7)[0] for sign in (1, -1))
    assert (up - down) / 2 == pytest.approx(float((cut * step).sum()), rel=2e-2)


def test_a_gradient_on_the_way_is_that_of_the_mixed_states(lm: HFBackend, readout: Array) -> None:
    base, text = np.random.default_rng(1).standard_normal(32), TEXTS[1]
    _, x = value(lm, text, 1, readout)
    (gradient,) = lm.gradients([text], 1, readout, [0.25], base)
    mixed = base + 0.25 * (x - base)
    step = np.random.default_rng(2).standard_normal(x.shape) * 1e-2 * np.abs(mixed).mean()
    up, down = (value(lm, text, 1, readout, mixed + sign * step)[0] for sign in (1, -1))
    assert (up - down) / 2 == pytest.approx(float((gradient * step).sum()), rel=2e-2)


@pytest.mark.slow
def test_integrated_gradients_add_up_to_the_change_of_the_readout(any_lm: HFBackend, readout: Array) -> None:
    text, steps = TEXTS[3], 64
    base = np.concatenate([r.values[1] for r in any_lm.activations(TEXTS, [1])]).mean(0)
    end, x = value(any_lm, text, 1, readout)
    start, _ = value(any_lm, text, 1, readout, np.tile(base, (len(x), 1)))
    points = [(k + 0.5) / steps for k in range(steps)]
    (mean,) = any_lm.gradients([text], 1, readout, points, base)
    assert abs(end - start) > 0.1
    assert float(((x - base) * mean).sum()) == pytest.approx(end - start, rel=2e-2)


def test_gradients_leave_the_model_as_it_was(readout: Array, tmp_path: Path) -> None:
    lm = tiny.engine(tmp_path)
    (before,) = lm.activations([TEXTS[0]], [3])  # the weights load inside a pass without gradients
    (one,), (two,) = (lm.gradients([TEXTS[0]], 1, readout) for _ in range(2))
    assert np.array_equal(one, two)
    (after,) = lm.activations([TEXTS[0]], [3])
    assert np.array_equal(before.values[3], after.values[3])
    assert all(p.grad is None and not p.requires_grad for p in lm.model.parameters())
    with torch.inference_mode():
        assert np.array_equal(lm.gradients([TEXTS[0]], 1, readout)[0], one)
    for block in blocks(lm.model):
        assert not block._forward_hooks


def hooks(lm: HFBackend) -> list[int]:
    """How many hooks each block has; transformers leaves some of its own."""
    return [len(block._forward_hooks) + len(block._forward_pre_hooks) for block in blocks(lm.model)]


def test_gradients_refuse_what_does_not_fit(lm: HFBackend, readout: Array) -> None:
    before = hooks(lm)
    with pytest.raises(BenchError, match="needs the baseline"):
        lm.gradients(TEXTS, 1, readout, [0.5])
    with pytest.raises(BenchError, match=r"readout has shape \(31,\).* width 32"):
        lm.gradients(TEXTS, 1, readout[1:])
    with pytest.raises(BenchError, match=r"baseline has shape"):
        lm.gradients(TEXTS, 1, readout, [0.5], readout[1:])
    with pytest.raises(BenchError, match="layer 4: the model has 4 layers"):
        lm.gradients(TEXTS, 4, readout)
    assert hooks(lm) == before


def test_a_backend_without_gradients_says_so() -> None:
    class Plain(FakeBackend):
        gradients = Backend.gradients

    detector = fitted("ixg", ctx := Context(Plain(), budget()))
    with pytest.raises(BenchError, match="backend fake cannot take gradients"):
        detector.score(ctx, EXAMPLES)


# Attribution


@pytest.mark.parametrize("signed", [False, True])
def test_ixg_is_state_times_gradient(lm: HFBackend, signed: bool) -> None:
    ctx = Context(lm, budget(48))
    detector = fitted("ixg", ctx, signed=signed)
    assert isinstance(detector, AttributionDetector)
    assert detector.layer == 2
    chats = [e.messages for e in EXAMPLES]
    products = [
        read.values[2] * gradient
        for read, gradient in zip(
            lm.activations(chats, [2], 48), lm.gradients(chats, 2, detector.readout, tokens=48), strict=True
        )
    ]
    tokens = [p.sum(1) if signed else np.abs(p).sum(1) for p in products]
    assert detector.score(ctx, EXAMPLES) == pytest.approx(np.array([t.max() for t in tokens]), rel=1e-3)


def test_ig_counts_from_the_negatives_mean_and_averages_its_steps(lm: HFBackend) -> None:
    ctx = Context(lm, budget(48))
    detector = fitted("ig", ctx, steps=2, layer=1)
    base = ctx.tokens(TRAIN.negatives, 1).mean(0)
    assert detector.baseline == pytest.approx(base)
    chat = EXAMPLES[0].messages
    grads = [lm.gradients([chat], 1, detector.readout, [at], base, 48)[0] for at in (0.25, 0.75)]
    part = (ctx.read([chat], 1)[0].values[1] - base) * np.mean(grads, axis=0)
    assert detector.score(ctx, EXAMPLES[:1]) == pytest.approx([np.abs(part).sum(1).max()], rel=1e-3)


def test_the_classifier_reads_the_last_token_of_the_last_block(lm: HFBackend) -> None:
    ctx = Context(lm, budget())
    states = np.stack([r.values[3][-1] for r in lm.activations([e.messages for e in EXAMPLES], [3])])
    projected = states @ classifier(ctx, TRAIN, 1.0)
    assert projected[:8].min() > projected[8:].max()


def test_attribution_has_nothing_to_say_of_equal_classes(lm: HFBackend) -> None:
    same = Train(TRAIN.concept, TRAIN.positives[:1], TRAIN.positives[:1])
    for name in ("ixg", "ig"):
        with pytest.raises(BenchError, match="nothing separates"):
            fitted(name, Context(lm, budget()), same)


def test_ig_takes_at_least_one_step() -> None:
    with pytest.raises(UsageError, match="steps = 0"):
        build_method("ig", {"ig": {"steps": 0}})


# Words


def test_bow_is_the_pipeline_of_scikit_learn() -> None:
    texts = [f"{e.instruction}\n{e.response}" for e in EXAMPLES]
    pipeline = make_pipeline(CountVectorizer(), LogisticRegression(C=100.0, max_iter=1000))
    pipeline.fit(texts, np.repeat([1, 0], 8))
    ctx = Context(FakeBackend(), budget())
    detector = fitted("bow", ctx)
    assert isinstance(detector, WordDetector)
    new = [Example("Tell me of the ship.", "It sails; it sails well."), Example("", "Words unseen."), Example("", "")]
    shown = [*EXAMPLES, *new]
    asked = [*texts, *(f"{e.instruction}\n{e.response}" for e in new)]
    scores = detector.score(ctx, shown)
    assert scores == pytest.approx(pipeline.decision_function(asked), rel=1e-9, abs=1e-9)
    assert 1 / (1 + np.exp(-scores)) == pytest.approx(pipeline.predict_proba(asked)[:, 1])
    labels = [(e, "positive" if i < 8 else "negative") for i, e in enumerate(EXAMPLES)]
    assert separation(ctx, detector, labels)["auroc"] == 1.0


def test_bow_needs_words() -> None:
    silent = Train(Concept("c", "c"), (Example("", "!"),), (Example("", "?"),))
    with pytest.raises(BenchError, match="no word in the texts of concept c"):
        fitted("bow", Context(FakeBackend(), budget()), silent)


# Ratings


class Rater(FakeBackend):
    """Gives the digits 0, 1, 2 fixed probabilities, three tenths of the mass going elsewhere."""

    def logprobs(self, requests):  # type: ignore[no-untyped-def]
        self.calls += 1
        self.asked = [r.prompt[0][1] for r in requests]
        shares = {"0": 0.1, "1": 0.2, "2": 0.4}
        for i in reversed(range(len(requests))):
            yield i, TargetScore((float(np.log(shares[requests[i].target])),))


def test_prompt_detect_is_the_expected_digit_in_one_call() -> None:
    ctx = Context(lm := Rater(), budget())
    scores = fitted("prompt-detect", ctx).score(ctx, EXAMPLES)
    assert scores == pytest.approx(np.full(16, (0.2 + 2 * 0.4) / 0.7))
    assert lm.calls == 1
    assert len(lm.asked) == 3 * 16
    assert all(TRAIN.concept.text in q for q in lm.asked)
    assert EXAMPLES[0].response in lm.asked[0]
    assert EXAMPLES[0].instruction not in lm.asked[0]


@pytest.mark.parametrize(("tokens", "kept"), [(3, "one two three"), (0, "one two three four five")])
def test_prompt_detect_cuts_the_response(tokens: int, kept: str) -> None:
    ctx = Context(lm := Rater(), budget(tokens))
    PromptDetector("{passage}").score(ctx, [Example("q", "one two three four five")])
    assert f"\n{kept}\n" in lm.asked[0]
    assert "Description: {passage}\n" in lm.asked[0]


def test_prompt_detect_needs_no_training_text_and_asks_in_its_own_words() -> None:
    from bench.judges import likelihood, llm
    from methods import prompt, prompt_detect, prompt_engineered

    bare = Train(Concept("c", "a concept"), (), ())
    assert fitted("prompt-detect", Context(FakeBackend(), budget()), bare) == PromptDetector("a concept")

    def runs(text: str, n: int = 5) -> set[tuple[str, ...]]:
        words = text.lower().split()
        return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}

    lines = [part for p in prompt.LINES for part in (p.system, p.prefix, p.suffix)]
    others: Sequence[str] = [*lines, *llm.RUBRICS.values(), likelihood.NOTE, prompt_engineered.TASK]
    assert not any(runs(prompt_detect.QUESTION) & runs(other) for other in others)
