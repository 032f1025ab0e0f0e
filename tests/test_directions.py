"""The direction methods, held to their papers' equations: what is read, with which sign, and where it is written.

States are read by hand from tiny models, past the code under test, or made up around a planted direction.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sklearn.metrics import roc_auc_score

import methods.cast
from bench.backends import tiny
from bench.backends.fake.backend import FakeBackend
from bench.backends.hf.backend import HFBackend
from bench.backends.hf.hooks import Applied
from bench.backends.hf.modules import attention_output, blocks, first
from bench.backends.models import resolve
from bench.cli.main import main
from bench.core.content import Array, Message
from bench.core.edits import Gate, Span
from bench.core.errors import BenchError, UsageError
from bench.core.interfaces import Context, Fitted, Method
from bench.core.kinds import Add, Project
from bench.core.naming import build_method
from bench.core.protocol import Budget, protocol
from bench.core.rows import Rows
from bench.core.steering import Steering
from bench.core.store import Artefacts
from bench.core.values import Activations, Completion, Example, Item, Request, Sampling, TargetScore, Train, Verdict
from bench.run.contract import BUDGET, Planted, example_train, shows
from bench.run.fits import Fits
from bench.run.strength import Strength
from methods._directions import DirectionMethod
from methods._personas import chat, stimuli
from methods.caa import CAA
from methods.cast import Cast, _similarity
from methods.persona import Persona
from methods.probe import Probe, _renormalised
from methods.repe_contrast import Contrast

TRAIN = example_train()
SWAPPED = replace(TRAIN, personas=tuple((b, a) for a, b in TRAIN.personas))
LONG = "What is in the box on the table next to the old window over there?"
GREEDY = Sampling(max_new_tokens=5, temperature=0)
EXAMPLES = (*TRAIN.positives, *TRAIN.negatives)


def ask(text: str) -> tuple[Message, ...]:
    return (("user", text),)


def fit(name: str, ctx: Context, train: Train = TRAIN, **params: Any) -> Sequence[Fitted]:
    return build_method(name, {name: params}).fit(ctx, train)


def steering(name: str, ctx: Context, train: Train = TRAIN, **params: Any) -> Steering:
    found = fit(name, ctx, train, **params)[0].steering
    assert isinstance(found, Steering)
    return found


def added(found: Steering) -> list[Add]:
    edits = [edit for edit in found.edits if isinstance(edit, Add)]
    assert len(edits) == len(found.edits)
    return edits


def cosine(a: Array, b: Array) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def states(lm: HFBackend, text: tuple[Message, ...] | str, layer: int) -> Array:
    """Outputs of block `layer` `[T, H]` at every token of a chat or text, from the model itself."""
    tail = text[-1][1] if not isinstance(text, str) and text[-1][0] == "assistant" else ""
    ids = lm.encode(text[:-1] if tail else text, tail)
    with torch.no_grad():
        output = lm.model(torch.tensor([ids]), output_hidden_states=True)
    hidden: Array = output.hidden_states[layer + 1][0].numpy()
    return hidden


def batch(
    lm: HFBackend, chats: Sequence[tuple[Message, ...]], steerings: Sequence[Steering], layer: int
) -> tuple[list[Array], list[Array]]:
    """Per row of a left-padded batch, the outputs of block `layer` and the logits, padding cut off."""
    rows = [lm.encode(chat) for chat in chats]
    inputs, pads = lm.batches.pad(rows)
    seen: list[Array] = []
    with torch.no_grad(), Applied(lm.model, steerings, list(map(len, rows)), pads, lm.template_prefix):
        # Registered after the edits' own hooks, so it sees what the next block sees.
        handle = blocks(lm.model)[layer].register_forward_hook(
            lambda _, __, output: seen.append(first(output).numpy().copy())
        )
        logits = lm.model(**inputs).logits.numpy()
        handle.remove()
    return [seen[0][i, pad:] for i, pad in enumerate(pads)], [logits[i, pad:] for i, pad in enumerate(pads)]


def changes(lm: HFBackend, chats: Sequence[tuple[Message, ...]], steerings: Sequence[Steering], layer: int) -> Any:
    """Per row what the steerings change in the outputs of block `layer`, and in the logits."""
    bare, on = (batch(lm, chats, each, layer) for each in ([Steering()] * len(chats), steerings))
    return tuple([b - a for a, b in zip(one, two, strict=True)] for one, two in zip(bare, on, strict=True))


# Stimuli, repeng and RepE


class Constant(Planted):
    """Every positive persona shifts its state by the same amount."""

    width, shift, spread = 256, 400.0, 0.0
    axis: Array = np.eye(256)[7]


def test_repeng_s_own_default_loses_a_constant_shift_and_the_centred_pairs_find_it() -> None:
    for seed in range(3):
        ctx = Constant(FakeBackend(), BUDGET, seed)
        lost, found = (added(steering("repeng", ctx, variant=v)) for v in ("pca_diff", "pca_center"))
        assert [edit.layer for edit in found] == [1, 2]
        assert max(abs(cosine(edit.value, Constant.axis)) for edit in lost) < 0.2
        assert min(cosine(edit.value, Constant.axis) for edit in found) > 0.99


@pytest.mark.parametrize("name", ["repe", "repeng"])
def test_swapped_personas_flip_a_control_vector(name: str) -> None:
    for ctx in (Planted(FakeBackend(), BUDGET), Constant(FakeBackend(), BUDGET)):
        there, back = (added(steering(name, ctx, train)) for train in (TRAIN, SWAPPED))
        for one, two in zip(there, back, strict=True):
            assert cosine(one.value, ctx.axis) > 0.99
            np.testing.assert_allclose(two.value, -one.value, atol=1e-5)


def test_repe_finds_a_constant_shift_because_its_pairs_are_shuffled() -> None:
    assert min(cosine(e.value, Constant.axis) for e in added(steering("repe", Constant(FakeBackend(), BUDGET)))) > 0.99


def test_stimuli_differ_in_the_persona_alone_and_end_alike(lm: HFBackend) -> None:
    ctx = Context(lm, BUDGET)
    plus, minus = stimuli(ctx, TRAIN)
    assert len(plus) == len(minus) == BUDGET.sequences // 2
    asked = {example.instruction: example.response for example in TRAIN.negatives}
    for i, (one, two) in enumerate(zip(plus, minus, strict=True)):
        positive, negative = TRAIN.personas[i % 2]
        assert one[0][1].replace(positive, "P") == two[0][1].replace(negative, "P")  # type: ignore[index]
        assert one[1] == two[1]  # the same beginning of an answer
        question = next(q for q in asked if q in one[0][1])  # type: ignore[operator]
        assert asked[question].startswith(one[1][1])  # type: ignore[arg-type]
        # The state at the last token is read, however long the chat is.
        np.testing.assert_allclose(ctx.last([one], 1)[1][0], states(lm, one, 1)[-1], atol=1e-6)
    assert stimuli(ctx, TRAIN) == (plus, minus)


def test_an_empty_training_answer_leaves_the_persona_to_be_read() -> None:
    silent = replace(TRAIN, negatives=tuple(Example(e.instruction, "") for e in TRAIN.negatives))
    plus, _ = stimuli(Context(FakeBackend(), BUDGET), silent)
    assert {len(one) for one in plus} == {1}


def test_repe_s_operators() -> None:
    ctx = Planted(FakeBackend(), BUDGET)
    linear, piecewise = (added(steering("repe", ctx, operator=o)) for o in ("linear", "piecewise"))
    assert not any(edit.signed for edit in linear)
    assert all(edit.signed for edit in piecewise)
    projection = steering("repe", ctx, operator="projection").edits
    for one, two, three in zip(linear, piecewise, projection, strict=True):
        assert isinstance(three, Project)
        assert one.layer == two.layer == three.layer
        np.testing.assert_array_equal(one.value, two.value)
        np.testing.assert_array_equal(one.value, three.basis[0])
    with pytest.raises(UsageError, match="operator"):
        build_method("repe", {"repe": {"operator": "cubic"}})


def test_repe_projects_once_and_for_all(lm: HFBackend) -> None:
    once = steering("repe", Context(lm, BUDGET), layer="1:1", operator="projection")
    (edit,) = once.edits
    assert isinstance(edit, Project)
    chats = [ask("Why?"), ask(LONG)]
    one, two = (batch(lm, chats, [s] * 2, 1)[0] for s in (once, once.merged(once)))
    for i, row in enumerate(one):
        np.testing.assert_allclose(row, two[i], atol=1e-5)
        assert np.abs(row[lm.template_prefix :] @ edit.basis[0]).max() < 1e-4  # nothing of it is left


def test_repe_s_piecewise_operator_pushes_each_state_the_way_it_leans(lm: HFBackend) -> None:
    found = steering("repe", Context(lm, BUDGET), layer=1, operator="piecewise").scaled(0.5)
    (edit,) = added(found)
    bare, _ = batch(lm, [ask(LONG)], [Steering()], 1)
    (change,), _ = changes(lm, [ask(LONG)], [found], 1)
    expected = np.sign(bare[0] @ edit.value)[:, None] * edit.value
    begin = lm.template_prefix
    np.testing.assert_allclose(change[begin:], expected[begin:], atol=1e-5)
    assert len(set(np.sign(bare[0][begin:] @ edit.value))) == 2  # both sides were there


# Layers


def test_a_span_of_layers_is_edited_together() -> None:
    ctx = Planted(FakeBackend(), BUDGET)
    for name in ("repe", "repeng", "repe-contrast", "caa", "actadd", "mean", "persona"):
        ctx.rate = lambda items: [Verdict(None)] * len(items)
        (found,) = fit(name, ctx, layer="1:2")
        made = found.steering
        layers = made.layers if isinstance(made, Contrast) else tuple(e.layer for e in made.edits)  # type: ignore[union-attr]
        assert layers == (1, 2)
    (found,) = fit("mean", ctx, layer="-3:0.99")
    assert found.note["layers"] == [1, 2, 3]


@pytest.mark.parametrize("name", ["repe", "repeng", "repe-contrast", "caa", "actadd", "mean", "ablate"])
def test_select_tries_distinct_layers_one_for_each_judged_trial(name: str) -> None:
    for trials in (1, 2, 3, 4):
        ctx = Planted(FakeBackend(), replace(BUDGET, trials=trials))
        found = fit(name, ctx, layer="select")
        assert len(found) == trials == build_method(name, {name: {"layer": "select"}}).candidates(ctx.budget)
        if name != "ablate":  # which reads one layer and edits all
            made = [f.steering for f in found]
            layers = [m.layers if isinstance(m, Contrast) else tuple(e.layer for e in m.edits) for m in made]  # type: ignore[union-attr]
            assert len(set(layers)) == trials
            assert {len(together) for together in layers} == {1}
    more = Planted(FakeBackend(), replace(BUDGET, trials=9))  # than the model has blocks
    assert len(fit(name, more, layer="select")) == 4


def test_a_layer_that_means_nothing_is_refused() -> None:
    ctx = Context(FakeBackend(), BUDGET)
    assert ctx.depths("0.25:0.75") == [(1, 2, 3)]
    assert ctx.depths("-2:-1") == [(2, 3)]
    for spec, match in {
        "2:1": "is empty: 2 lies above 1",
        "1:9": "layer 9 does not exist",
        "-5:1": "layer -5 does not exist",
        "0.5:1.0": "layer 1.0 does not exist",
        "1.2.3:2": "an index, a depth",
        "deep": "an index, a depth",
    }.items():
        with pytest.raises(BenchError, match=match):
            ctx.depths(spec)
    with pytest.raises(UsageError, match="is not an index"):
        build_method("repe", {"repe": {"layer": "deep"}})


# RepE's contrast vector


def test_a_contrast_vector_lands_on_the_last_prompt_tokens_in_order(lm: HFBackend) -> None:
    last, layer, chats = 4, 1, [ask("Why not now?"), ask(LONG)]
    (fitted,) = fit("repe-contrast", Context(lm, BUDGET), layer=layer, last=last)
    assert isinstance(fitted.steering, Contrast)
    bound = [fitted.steering.bind(lm, c) for c in chats]
    change, logits = changes(lm, chats, bound, layer)
    for i, c in enumerate(chats):
        plus, minus = (states(lm, chat(persona, c[0][1]), layer)[-last:] for persona in TRAIN.personas[0])
        rows = plus - minus
        np.testing.assert_allclose(added(bound[i])[0].value, rows, atol=1e-6)
        np.testing.assert_allclose(change[i][-last:], rows, atol=1e-6)
        assert np.abs(rows[1:] - rows[:-1]).max(1).min() > 1e-4  # another order would show
        assert not change[i][:-last].any()
        assert not logits[i][:-last].any()
    assert bound[0].digest != bound[1].digest
    found = dict(lm.generate([Request(c, s, GREEDY) for c, s in zip(chats, bound, strict=True)]))
    assert [found[i].positions_edited for i in range(2)] == [(last,), (last,)]


def test_swapped_personas_flip_a_contrast_vector(lm: HFBackend) -> None:
    one, two = (Contrast(personas, (1, 2), 8).bind(lm, ask(LONG)) for personas in (("a", "b b"), ("b b", "a")))
    for here, there in zip(added(one), added(two), strict=True):
        np.testing.assert_allclose(here.value, -there.value, atol=1e-5)
    with pytest.raises(BenchError, match="the same states at layer 1"):
        Contrast(("a clerk", "a clerk"), (1,), 8).bind(lm, ask(LONG))


# ActAdd


def test_actadd_adds_its_rows_to_the_first_words_of_the_user(lm: HFBackend) -> None:
    pair = {"positive": "Love of {concept}", "negative": "Hate"}
    (fitted,) = fit("actadd", Context(lm, BUDGET), layer=1, **pair)
    found = fitted.steering
    assert isinstance(found, Steering)
    texts = ("Love of ships and sailing", "Hate")
    plus, minus = (states(lm, "\n" + text, 1)[1:] for text in texts)
    assert [len(plus), len(minus)] == [len(text) for text in texts]  # one token a byte
    padded = np.concatenate([minus, np.repeat(minus[-1:], len(plus) - len(minus), 0)])
    rows, expected, chats = len(plus), plus - padded, [ask(LONG), ask(LONG + " Tell me more.")]
    assert fitted.note["rows"] == rows
    change, logits = changes(lm, chats, [found.scaled(0.5)] * 2, 1)
    ids = lm.encode(chats[0])
    assert lm.tokenizer.decode(ids[lm.template_prefix : lm.template_prefix + rows]) == LONG[:rows]
    for i in range(2):
        np.testing.assert_allclose(change[i][lm.template_prefix : lm.template_prefix + rows], 0.5 * expected, atol=1e-6)
        assert not change[i][: lm.template_prefix].any()
        assert not change[i][lm.template_prefix + rows :].any()
        assert not logits[i][: lm.template_prefix].any()  # what stands before cannot see it
        assert logits[i][-1].any()  # what stands after does


def test_actadd_is_silent_while_decoding(lm: HFBackend) -> None:
    (fitted,) = fit("actadd", Context(lm, BUDGET))
    rows = fitted.note["rows"]
    asks = (LONG, "Why?")
    done = dict(lm.generate([Request(ask(a), fitted.steering, GREEDY) for a in asks]))  # type: ignore[arg-type]
    assert done[0].tokens > 1
    assert done[0].positions_edited == (rows,)
    assert done[1].positions_edited == (done[1].prompt_tokens - lm.template_prefix,)  # a prompt shorter than the pair


def test_actadd_refuses_a_pair_of_equals(lm: HFBackend) -> None:
    with pytest.raises(BenchError, match="nothing to add"):
        fit("actadd", Context(lm, BUDGET), positive="On {concept}", negative="On {concept}")


def test_swapping_actadd_s_pair_flips_it(lm: HFBackend) -> None:
    ctx, pair = Context(lm, BUDGET), ("Love of it", "Hate")
    one, two = (added(steering("actadd", ctx, positive=a, negative=b))[0] for a, b in (pair, pair[::-1]))
    np.testing.assert_allclose(one.value, -two.value, atol=1e-5)


# CAA


def test_caa_reads_the_letter_and_asks_in_both_orders(any_lm: HFBackend) -> None:
    chats = CAA().texts(TRAIN)
    assert len(chats) == 4 * len(TRAIN.choices)
    letters = [any_lm.tokenizer.decode(any_lm.encode(c[:-1], c[-1][1])[-1:]) for c in chats]  # type: ignore[arg-type]
    assert letters == ["A", "B", "B", "A"] * len(TRAIN.choices)
    for i, text in enumerate(chats):
        choice = TRAIN.choices[i // 4]
        named = next(line for line in text[0][1].splitlines() if line.startswith(f"({letters[i]})"))  # type: ignore[union-attr]
        assert named[4:] == (choice.not_matching if i % 2 else choice.matching)
    expected = np.mean([states(any_lm, c, 1)[-1] * (-1) ** i for i, c in enumerate(chats)], axis=0) * 2  # type: ignore[arg-type]
    (edit,) = added(steering("caa", Context(any_lm, BUDGET), layer=1))
    np.testing.assert_allclose(edit.value, expected / np.linalg.norm(expected), atol=1e-4)


def test_caa_is_no_letter_minus_the_other() -> None:
    """States that know the letter alone leave nothing."""

    class Letters(Context):
        def _pass(self, texts, layers, tokens, site):  # type: ignore[no-untyped-def]
            return [Activations({k: np.full((3, 8), float(t[-1][1] == "(A")) for k in layers}) for t in texts]

    with pytest.raises(BenchError, match="nothing separates"):
        fit("caa", Letters(FakeBackend(), BUDGET))


@pytest.mark.parametrize("name", ["caa", "persona", "iti"])
def test_prompts_are_read_as_before_until_their_last_token(name: str, lm: HFBackend) -> None:
    ctx = Context(lm, BUDGET, rate=lambda items: [Verdict(None)] * len(items))
    found, chats = steering(name, ctx).scaled(4.0), [ask("Why?"), ask(LONG)]
    assert {edit.span for edit in found.edits} == {Span("generation")}
    change, logits = changes(lm, chats, [found] * 2, 3)
    for row, scores in zip(change, logits, strict=True):
        assert not row[:-1].any()
        assert not scores[:-1].any()
        assert scores[-1].any()
    done = dict(lm.generate([Request(chats[0], found, GREEDY)]))[0]
    assert set(done.positions_edited) == {done.tokens}  # the last prompt token, and all but the last one written


# The mean, and ablation


def test_the_mean_is_that_of_all_texts(lm: HFBackend) -> None:
    (edit,) = added(steering("mean", Context(lm, replace(BUDGET, tokens=0)), layer=1))
    rows = np.concatenate([states(lm, e.messages, 1)[lm.template_prefix :] for e in EXAMPLES])
    assert cosine(edit.value, rows.mean(0)) > 1 - 1e-5


def test_ablation_leaves_nothing_of_its_direction_after_any_block(lm: HFBackend) -> None:
    ctx = Context(lm, BUDGET)
    found = steering("ablate", ctx, layer=1)
    (diff,) = added(steering("diffmean", ctx, layer=1))
    assert [edit.layer for edit in found.edits] == [0, 1, 2, 3]
    for layer in range(4):
        (after,), _ = batch(lm, [ask(LONG)], [found], layer)
        (half,), _ = batch(lm, [ask(LONG)], [found.scaled(0.5)], layer)
        assert np.abs(after[lm.template_prefix :] @ diff.value).max() < 1e-4
        assert np.abs(half[lm.template_prefix :] @ diff.value).max() > 1e-2


# ITI


def head_states(ctx: Context, lm: HFBackend) -> tuple[dict[int, Array], Array]:
    y = np.repeat([True, False], [len(TRAIN.positives), len(TRAIN.negatives)])
    return ctx.last([e.messages for e in EXAMPLES], range(lm.layers), "heads"), y


def baked_equals_hook(lm: HFBackend, heads: int, width: int) -> None:
    ctx = Context(lm, BUDGET)
    (fitted,) = fit("iti", ctx, share=0.3)
    made = fitted.steering
    assert isinstance(made, Steering)
    everywhere = Steering(edits=tuple(replace(edit, span=Span(sink=True)) for edit in made.edits)).scaled(5.0)
    z, y = head_states(ctx, lm)
    assert z[0].shape == (len(y), heads * width)
    shifts = {layer: np.zeros(heads * width, np.float32) for layer in range(lm.layers)}
    assert len(fitted.note["heads"]) == round(0.3 * heads * lm.layers)
    for name in fitted.note["heads"]:
        layer, head = map(int, name.split("."))
        own = slice(head * width, (head + 1) * width)
        theta = z[layer][y, own].mean(0) - z[layer][~y, own].mean(0)
        theta /= np.linalg.norm(theta)
        shifts[layer][own] = 5.0 * theta * (z[layer][:, own] @ theta).std()

    def shifted(layer: int) -> Callable[..., Any]:
        return lambda _, args: (args[0] + torch.from_numpy(shifts[layer]),)

    chats = [ask("Why?"), ask(LONG)]
    _, baked = batch(lm, chats, [everywhere] * 2, 3)
    handles = [
        attention_output(block).register_forward_pre_hook(shifted(i)) for i, block in enumerate(blocks(lm.model))
    ]
    try:
        _, hooked = batch(lm, chats, [Steering()] * 2, 3)
    finally:
        for handle in handles:
            handle.remove()
    _, bare = batch(lm, chats, [Steering()] * 2, 3)
    for one, two, three in zip(baked, hooked, bare, strict=True):
        assert np.abs(one - two).max() < 1e-5 * np.abs(two).max()
        assert np.abs(one - three).max() > 1e-2


def test_iti_s_bias_is_a_push_of_the_heads_before_the_projection(any_lm: HFBackend) -> None:
    baked_equals_hook(any_lm, 4, 8)


def test_iti_takes_the_width_of_a_head_from_the_configuration(tmp_path: Path) -> None:
    """Gemma's heads are together wider than its residual stream."""
    from transformers import AutoConfig, AutoModelForCausalLM

    tiny.build(tmp_path, "gemma2")
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(tmp_path, head_dim=16)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)  # type: ignore[no-untyped-call]
    lm = HFBackend(resolve(str(tmp_path)), dtype="float32")
    assert lm.output_projection(0).shape == (32, 4, 16)
    baked_equals_hook(lm, 4, 16)


class Heads(Context):
    """Heads of which some tell the texts apart, in so many of their dimensions."""

    known: ClassVar[dict[str, int]] = {}

    def _pass(self, texts, layers, tokens, site):  # type: ignore[no-untyped-def]
        assert site == "heads"
        return [Activations({layer: self._heads(text, layer) for layer in layers}) for text in texts]

    def _heads(self, text: Any, layer: int) -> Array:
        found = self.rng("heads", text, layer).standard_normal((5, 8))
        for name, dimensions in self.known.items():
            place, head = map(int, name.split("."))
            if place == layer and shows(text):
                found[-1, 4 * head : 4 * head + dimensions] += 8
        return found


@pytest.mark.parametrize(("known", "top"), [({"2.1": 1}, "2.1"), ({"0.0": 1, "1.0": 1, "3.1": 4}, "3.1")])
def test_iti_ranks_a_planted_head_first(known: dict[str, int], top: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Heads, "known", known)
    ships, plain = (tuple(Example(f"Say {i}.", text) for i in range(40)) for text in ("A ship.", "A lamp."))
    train, ctx = replace(TRAIN, positives=ships, negatives=plain), Heads(FakeBackend(), BUDGET)
    (one,) = fit("iti", ctx, train)
    # Of several heads that never err the surest is first, not the shallowest.
    assert one.note == {"heads": [top], "accuracy": 1.0}
    (each,) = fit("iti", ctx, train, share=len(known) / 8)
    assert set(each.note["heads"]) == set(known)
    layer, head = map(int, top.split("."))
    (edit,) = added(one.steering)  # type: ignore[arg-type]
    assert (edit.layer, edit.site) == (layer, "attn")
    z = ctx.last([e.messages for e in (*ships, *plain)], layer, "heads")[layer][:, 4 * head : 4 * head + 4]
    theta = z[:40].mean(0) - z[40:].mean(0)
    expected = ctx.lm.output_projection(layer)[:, head] @ theta * (z @ theta).std() / (theta @ theta)
    np.testing.assert_allclose(edit.value, expected, rtol=1e-4)
    assert cosine(theta, np.arange(4) < known[top]) > 0.95


# CAST


def gated(found: Steering, gate: Gate | None) -> Steering:
    return Steering(found.prompt, tuple(replace(edit, gate=gate) for edit in found.edits))


def scores(lm: HFBackend, requests: Sequence[Request]) -> list[TargetScore]:
    found = dict(lm.logprobs(requests))
    return [found[i] for i in range(len(requests))]


@pytest.fixture(scope="module")
def conditional(lm: HFBackend) -> Steering:
    return steering("cast", Context(lm, BUDGET)).scaled(6.0)


def test_in_a_mixed_batch_what_does_not_trigger_is_the_bare_model(lm: HFBackend, conditional: Steering) -> None:
    asks = [ask(text) for text in (*TRAIN.triggers, *TRAIN.others)]
    zero = Steering(edits=(Add(layer=1, value=np.zeros(32, np.float32)),))
    plain = gated(conditional, None)
    on, off, all_on = (
        scores(lm, [Request(a, s, target="A red ball.") for a in asks]) for s in (conditional, zero, plain)
    )
    fired = [bool(s.positions_edited[0]) for s in on]
    assert set(fired) == {True, False}
    bare = scores(lm, [Request(a, target="A red ball.") for a in asks])
    for i, fires in enumerate(fired):
        assert on[i].logprobs == (all_on[i] if fires else off[i]).logprobs  # bit for bit
        assert off[i].logprobs == pytest.approx(bare[i].logprobs, abs=1e-4)
        if fires:
            assert on[i].logprobs != pytest.approx(off[i].logprobs, abs=1e-3)
    texts = [
        [c.text for _, c in sorted(lm.generate([Request(a, s, GREEDY, seed=3) for a in asks]), key=lambda x: x[0])]
        for s in (conditional, None, plain)
    ]
    for i, fires in enumerate(fired):
        assert texts[0][i] == texts[2 if fires else 1][i]
    assert texts[1] != texts[2]


def test_a_threshold_below_everything_is_plain_steering_and_one_above_it_the_bare_model(
    lm: HFBackend, conditional: Steering
) -> None:
    gate = conditional.edits[0].gate
    assert gate is not None
    always, never = (gated(conditional, replace(gate, threshold=t, above=True)) for t in (-2.0, 2.0))
    zero = Steering(edits=(Add(layer=1, value=np.zeros(32, np.float32)),))
    for one, two in ((always, gated(conditional, None)), (never, zero)):
        here, there = (
            [s.logprobs for s in scores(lm, [Request(ask(a), s, target="A red ball.") for a in ("Why?", LONG)])]
            for s in (one, two)
        )
        assert here == there


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cast", "cosine"])
def test_the_gate_measures_what_the_fit_measured(kind: str, any_lm: HFBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx, fitted, choose = Context(any_lm, BUDGET), [], methods.cast._threshold
    monkeypatch.setattr(methods.cast, "_threshold", lambda s, y: choose(fitted.append(s) or s, y))
    found = steering("cast", ctx, similarity=kind)
    gate = found.edits[0].gate
    assert gate is not None
    pooled = [
        states(any_lm, ask(t), gate.layer)[any_lm.template_prefix :].mean(0) for t in (*TRAIN.triggers, *TRAIN.others)
    ]
    by_hand = _similarity(np.stack(pooled), gate.direction, gate.center)
    assert min(np.abs(by_hand - s).max() for s in fitted) < 1e-5  # over every token of the user's turn
    assert gate.layer <= found.edits[0].layer
    assert (gate.center is None) == (kind == "cast")
    asks = [ask(text) for text in (*TRAIN.triggers[:2], *TRAIN.others[:2], LONG[:30])]
    means = np.stack([states(any_lm, a, gate.layer)[any_lm.template_prefix :].mean(0) for a in asks])
    np.testing.assert_allclose(means, [r.values[gate.layer].mean(0) for r in ctx.read(asks, gate.layer)], atol=1e-5)
    for a, s in zip(asks, _similarity(means, gate.direction, gate.center), strict=True):
        near = [replace(gate, threshold=float(s) + d, above=above) for d in (-1e-4, 1e-4) for above in (True, False)]
        rows = [Request(ask(LONG), Steering(), target="A")]  # padded beside another prompt
        rows += [Request(a, gated(found, g), target="A") for g in near]
        assert [bool(t.positions_edited[0]) for t in scores(any_lm, rows)[1:]] == [True, False, False, True]


def test_the_condition_s_own_f1_is_what_its_gate_does(lm: HFBackend) -> None:
    (fitted,) = fit("cast", Context(lm, BUDGET))
    assert isinstance(fitted.steering, Steering)
    asks = (*TRAIN.triggers, *TRAIN.others)
    found = scores(lm, [Request(ask(a), fitted.steering, target="A") for a in asks])
    fires, wanted = np.array([bool(s.positions_edited[0]) for s in found]), np.arange(16) < 8
    assert fitted.note["condition_f1"] == round(2 * (fires & wanted).sum() / (fires.sum() + 8), 3)
    assert fitted.note["condition_layer"] < lm.layers // 2


def test_cast_is_named_after_what_it_wraps() -> None:
    made = build_method("cast(caa)", {})
    assert made.name == "cast(caa)"
    assert made.views == {"texts", "conditions", "choices"}
    assert made.needs == {"add", "gate"}
    assert made.params() == {"cast": {"similarity": "cast"}, "caa": {"layer": 0.5}}
    assert build_method("cast", {}).name == "cast(diffmean)"
    assert build_method("cast(repe)", {}).needs == {"add", "project", "gate"}
    assert build_method("cast(iti)", {}).needs == {"add", "site:attn", "gate"}
    both = build_method("cast(prompt+diffmean)", {})
    assert both.params() == {"cast": {"similarity": "cast"}, "prompt": {}, "diffmean": {"layer": 0.5}}


def test_a_judged_method_stays_judged_under_a_gate(tmp_path: Path) -> None:
    made = build_method("cast(persona)", {})
    assert made.uses_judge
    assert not build_method("cast", {}).uses_judge
    ctx = Context(FakeBackend(), BUDGET)
    keys = [Fits(ctx, Artefacts(tmp_path), {"ships": TRAIN}, "steering", judge).keys(made, "") for judge in "ab"]
    assert keys[0] != keys[1]


def test_a_prompt_and_a_gated_vector_merge(lm: HFBackend) -> None:
    ctx = Context(lm, BUDGET)
    both = build_method("prompt+cast(diffmean)", {})
    assert both.needs == {"prompt", "add", "gate"}
    (fitted,) = both.fit(ctx, TRAIN)
    made = fitted.steering
    assert isinstance(made, Steering)
    assert made.prompt == steering("prompt", ctx).prompt
    assert made.edits[0].gate is not None
    assert made.internal_digest == steering("cast", ctx).internal_digest
    assert (made.scaled(0).prompt, made.scaled(0).edits) == (made.prompt, ())


def test_cast_needs_edits_to_put_under_its_gate() -> None:
    with pytest.raises(BenchError, match=r"^prompt has no activation edits alone: nothing to put under a gate$"):
        build_method("cast(prompt)", {}).fit(Context(FakeBackend(), BUDGET), TRAIN)
    with pytest.raises(BenchError, match=r"^repe-contrast has no activation edits alone"):
        build_method("cast(repe-contrast)", {}).fit(Context(FakeBackend(), BUDGET), TRAIN)


@dataclass(frozen=True)
class Inside(Method):
    """Adds to what the attention of one block writes."""

    at: int = 2
    name: ClassVar[str] = "inside"
    needs: ClassVar[frozenset[str]] = frozenset({"add", "site:attn"})

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        return [Fitted(Steering(edits=(Add(layer=self.at, site="attn", value=np.full(32, 2, np.float32)),)))]


def test_a_condition_is_read_before_what_it_decides(lm: HFBackend) -> None:
    """The attention of a block writes before the block's own output is there to be read."""
    ctx = Context(lm, BUDGET)
    for at in (1, 2):
        (fitted,) = Cast(Inside(at)).fit(ctx, TRAIN)
        made = fitted.steering
        assert isinstance(made, Steering)
        gate = made.edits[0].gate
        assert gate is not None
        assert gate.layer < at
        found = scores(lm, [Request(ask(a), made, target="A") for a in (*TRAIN.triggers, *TRAIN.others)])
        assert {bool(s.positions_edited[0]) for s in found} == {True, False}
    with pytest.raises(BenchError, match="inside edits inside block 0: no block before it"):
        Cast(Inside(0)).fit(ctx, TRAIN)


# Persona vectors


class Speaker(FakeBackend):
    """Answers in the persona it is asked for, with the number of its request."""

    def generate(self, requests):  # type: ignore[no-untyped-def]
        self.requests = list(requests)
        for i in reversed(range(len(requests))):
            words = "A ship sails" if any(w in requests[i].prompt[0][1] for w in ("sailor", "captain")) else "It stands"
            yield i, Completion(f"{words} {i}.", 5, 10)


class Spy(Planted):
    """Remembers which texts were read."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.seen: list[str] = []

    def _pass(self, texts, layers, tokens, site):  # type: ignore[no-untyped-def]
        self.seen += [text[-1][1] for text in texts]
        return super()._pass(texts, layers, tokens, site)


def number(item: Item) -> int:
    return int(item.text.rstrip(".").split()[-1])


SPOILED: dict[tuple[int, str], float | None] = {
    (0, "concept"): None,  # unreadable ratings never count as good
    (3, "concept"): None,
    (4, "fluency"): None,
    (7, "fluency"): None,
    (8, "concept"): 0.9,  # the concept is not in the answer that should have it
    (11, "concept"): 1.0,  # or is in the other
    (12, "fluency"): 0.5,
    (15, "fluency"): 0.5,
}
"""Ratings by request: pair k asks 2k in persona, 2k + 1 out of it."""


def spoiling(items: Sequence[Item]) -> list[Verdict]:
    def rate(item: Item) -> float | None:
        good = 2.0 if item.axis == "fluency" or "ship" in item.text else 0.0
        return SPOILED.get((number(item), item.axis), good)

    return [Verdict(rate(item)) for item in items]


def test_a_persona_is_fitted_on_the_answers_that_survive() -> None:
    ctx = Spy(Speaker(), Budget(40, 96, 1, 2), rate=spoiling)
    (fitted,) = fit("persona", ctx)
    assert {k: fitted.note[k] for k in ("survived", "rollouts", "fallback")} == {
        "survived": 2,
        "rollouts": 10,
        "fallback": True,
    }
    assert set(ctx.seen) == {e.response for e in EXAMPLES}
    ctx = Spy(Speaker(), Budget(40, 96, 1, 2), rate=spoiling)
    (fitted,) = fit("persona", ctx, least=2)
    assert {k: fitted.note[k] for k in ("survived", "rollouts", "fallback")} == {
        "survived": 2,
        "rollouts": 10,
        "fallback": False,
    }
    assert sorted(ctx.seen) == ["A ship sails 16.", "A ship sails 18.", "It stands 17.", "It stands 19."]
    assert cosine(added(fitted.steering)[0].value, Planted.axis) > 0.99  # type: ignore[arg-type]


def test_persona_rollouts_are_asked_in_pairs() -> None:
    rated: list[Item] = []

    def rate(items: Sequence[Item]) -> list[Verdict]:
        rated.extend(items)
        return spoiling(items)

    ctx = Spy(Speaker(), Budget(40, 96, 1, 2), rate=rate)
    fit("persona", ctx)
    assert len(rated) == Persona().fit_ratings(ctx.budget)
    requests = ctx.lm.requests  # type: ignore[attr-defined]
    assert (len(requests), 32 * len(requests)) == Persona().prompt_writing_cost(ctx.budget)
    questions = {e.instruction for e in TRAIN.negatives}
    for k in range(0, len(requests), 2):
        plus, minus = requests[k : k + 2]
        assert plus.seed == minus.seed
        (asked,) = (q for q in questions if plus.prompt == chat(TRAIN.personas[k // 2 % 2][0], q))
        assert minus.prompt == chat(TRAIN.personas[k // 2 % 2][1], asked)
        assert (plus.steering, plus.sampling.max_new_tokens) == (None, 32)
    assert len({r.seed for r in requests}) == len(requests) // 2


@pytest.mark.parametrize("value", [None, 0.0, 2.0])
def test_a_judge_that_lets_no_answer_through_leaves_the_training_texts(value: float | None) -> None:
    ctx = Spy(Speaker(), BUDGET, rate=lambda items: [Verdict(value)] * len(items))
    (fitted,) = fit("persona", ctx)
    assert {k: fitted.note[k] for k in ("survived", "rollouts", "fallback")} == {
        "survived": 0,
        "rollouts": 4,
        "fallback": True,
    }
    (plain,) = DirectionMethod.fit(Persona(), ctx, TRAIN)
    assert fitted.steering.digest == plain.steering.digest  # type: ignore[union-attr]


def test_persona_needs_a_judge() -> None:
    with pytest.raises(BenchError, match="there is none"):
        fit("persona", Context(FakeBackend(), BUDGET))


def test_concepts_fitted_together_are_fitted_as_alone() -> None:
    other = replace(TRAIN, concept=replace(TRAIN.concept, id="other"), negatives=TRAIN.negatives[:3])
    made = Persona(least=1)

    def rate(items: Sequence[Item]) -> list[Verdict]:
        return [Verdict(2.0 if i.axis != "concept" or "ship" in i.text else 0.0) for i in items]

    class Steady(Speaker):
        def generate(self, requests):  # type: ignore[no-untyped-def]
            for i, done in super().generate(requests):
                yield i, replace(done, text=done.text.rsplit(" ", 1)[0] + f" {requests[i].seed % 97}.")

    trains = [TRAIN, other]
    together = [f[0] for f in made.fit_all(Planted(Steady(), BUDGET, rate=rate), trains)]
    alone = [made.fit(Planted(Steady(), BUDGET, rate=rate), train)[0] for train in trains]
    assert [f.steering.digest for f in together] == [f.steering.digest for f in alone]  # type: ignore[union-attr]
    assert together[0].note["survived"] == 4


def test_a_persona_vector_is_read_over_the_answer_alone(lm: HFBackend) -> None:
    found = Persona().vector(Context(lm, replace(BUDGET, tokens=0)), TRAIN, 1)
    means = []
    for side in (TRAIN.positives, TRAIN.negatives):
        answers = [states(lm, e.messages, 1)[len(lm.encode(e.messages[:1])) :] for e in side]
        means.append(np.mean([rows.mean(0) for rows in answers], axis=0))
    np.testing.assert_allclose(found, means[0] - means[1], atol=1e-6)


# AxBench's probe


def test_axbench_s_probe_keeps_unit_norm_and_tells_the_classes_apart() -> None:
    ctx = Planted(FakeBackend(), replace(BUDGET, epochs=100))
    made = Probe(variant="axbench")
    one, two = made.vector(ctx, TRAIN, 1), made.vector(ctx, TRAIN, 1)
    assert np.linalg.norm(one) == pytest.approx(1, abs=0.02)
    assert np.array_equal(one, two)
    other = Planted(FakeBackend(), replace(BUDGET, epochs=100), seed=1)
    assert not np.array_equal(one, made.vector(other, TRAIN, 1))
    means = [np.mean(ctx.tokens(side, 1) @ one) for side in (TRAIN.positives, TRAIN.negatives)]
    assert means[0] > 5 > abs(means[1])
    (fitted,) = fit("probe", ctx, variant="axbench")
    assert fitted.detector is not None
    rated = fitted.detector.score(ctx, EXAMPLES)
    assert rated[:8].min() > rated[8:].max()


def test_an_epoch_of_axbench_s_probe_sees_every_text_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths, epochs = [3] * 30, 3
    labels = np.repeat(np.arange(30), 3) / 64  # which text a token is from
    batches: list[list[float]] = []
    loss = torch.nn.functional.binary_cross_entropy_with_logits

    def spy(logits: Any, wanted: Any) -> Any:
        batches.append(wanted.tolist())
        return loss(logits, wanted)

    monkeypatch.setattr(torch.nn.functional, "binary_cross_entropy_with_logits", spy)
    x = np.random.default_rng(0).standard_normal((90, 8))
    _renormalised(x, labels, lengths, epochs, np.random.default_rng(1))
    assert [len(b) for b in batches] == [36, 36, 18] * epochs
    seen = [[label for b in batches[3 * e : 3 * e + 3] for label in b] for e in range(epochs)]
    for epoch in seen:
        assert sorted(epoch) == labels.tolist()
    assert seen[0] != seen[1]


# Strength


def test_pushes_at_several_layers_are_together_as_long_as_one(lm: HFBackend, tmp_path: Path) -> None:
    ctx = Context(lm, BUDGET)
    scale = Strength(ctx, replace(protocol("quick"), budget=BUDGET), {TRAIN.concept.id: TRAIN}, Rows(tmp_path))
    median = {k: float(np.median(np.linalg.norm(ctx.tokens(TRAIN.negatives, k), axis=1))) for k in range(4)}
    assert len({round(v, 3) for v in median.values()}) == 4

    def length(edit: Add) -> float:
        return float(np.linalg.norm(edit.value, axis=-1).mean()) / median[edit.layer]

    for name, params in {
        "repe": {"layer": "0:3"},
        "repeng": {},
        "iti": {"share": 0.5},
        "actadd": {"layer": "1:2"},
        "caa": {"layer": 1},
    }.items():
        (candidate,) = fit(name, ctx, **params)
        made = candidate.steering
        assert isinstance(made, Steering)
        for c in (0.5, -0.2):
            edits = added(scale.at(made, candidate, TRAIN.concept, c))
            assert sum(length(edit) for edit in edits) == pytest.approx(abs(c), rel=1e-4)
            assert all(np.sign(c) * (e.value * o.value).sum() > 0 for e, o in zip(edits, added(made), strict=True))
    one, two = Add(layer=1, value=np.eye(32, dtype=np.float32)[0]), Add(layer=3, value=np.full(32, 3.0, np.float32))
    uneven = Steering(edits=(one, two))
    edits = added(scaled := scale.at(uneven, Fitted(uneven), TRAIN.concept, 0.4))
    ratio = np.linalg.norm(edits[1].value) / np.linalg.norm(edits[0].value)
    assert ratio == pytest.approx(3 * 32**0.5, rel=1e-5)
    assert scale.ratio(scaled, TRAIN.concept) == pytest.approx(0.4, abs=1e-4)
    assert scale.at(uneven, Fitted(uneven), TRAIN.concept, 0.0).edits == ()


# Concept detection, from the command line


def bench(root: Path, *words: str, expect: int = 0) -> Any:
    env = {"BENCH_CACHE": str(root / "cache"), "BENCH_RESULTS": str(root / "results")}
    done = CliRunner().invoke(main, list(words), env=env)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == expect, done.stderr
    return done


@pytest.mark.slow
def test_axbench_detect_scores_detectors_from_the_command_line(axbench_folder: Path, tmp_path: Path) -> None:
    command = ["run", "-t", "axbench-detect", "--data", str(axbench_folder), "-m", "diffmean,bow,random,prompt"]
    command += ["--backend", "fake", "--preset", "standard", "-n", "2", "--json"]
    rows = json.loads(bench(tmp_path, *command, "--results", str(tmp_path / "results")).stdout)["runs"]
    *detectors, prompt = rows
    assert prompt["status"] == "unsupported"
    assert prompt["reason"] == "it gives no detector, which task axbench-detect needs"
    for row in detectors:
        data = json.loads(Path(row["path"]).read_text("utf-8"))
        assert (data["spec"]["judge"], data["counts"]["generations"], len(data["concepts"])) == ("", 0, 2)
        found = []
        for name, concept in data["concepts"].items():
            own = [s for s in data["samples"] if s["concept"] == name]
            assert {s["label"] for s in own} == {"positive", "negative", "hard negative", "other"}
            every = [s for s in own if s["label"] != "other"]
            easy = [s for s in every if s["label"] != "hard negative"]
            hard = [s for s in every if s["label"] != "negative"]
            aucs = {
                axis: roc_auc_score([s["label"] == "positive" for s in kept], [s["score"] for s in kept])
                for axis, kept in (("overall", easy), ("auroc", easy), ("hard_auroc", hard))
            }
            assert {axis: concept["test"][axis] for axis in aucs} == pytest.approx(aucs, abs=2e-4)
            found.append(aucs["overall"])
        assert data["metrics"]["overall"] == pytest.approx(np.mean(found), abs=2e-4)
    best = {row["method"]: row["metrics"]["overall"] for row in detectors}
    assert best["bow"] > 0.9  # the fake model knows nothing: words do
    assert max(abs(best[name] - 0.5) for name in ("diffmean", "random")) < 0.2
    bench(tmp_path, "report", "--results", str(tmp_path / "results"), "--out", str(tmp_path / "out"))
    page = (tmp_path / "out" / "leaderboard.md").read_text("utf-8")
    assert "| hard\\_auroc |" in page
    assert "| bow |" in page
    assert "judge" not in page.lower()
    assert "median residual norms" not in page


@pytest.mark.slow
def test_a_combination_under_a_gate_runs_again_from_its_own_record(tmp_path: Path) -> None:
    words = ["run", "-m", "cast(prompt+diffmean)", "--backend", "fake", "-n", "1", "--json"]
    (row,) = json.loads(bench(tmp_path, *words).stdout)["runs"]
    assert (row["method"], row["status"]) == ("cast(prompt+diffmean)", "complete")
    (again,) = json.loads(bench(tmp_path, "run", "--config", row["path"], "--json").stdout)["runs"]
    assert (again["status"], again["path"]) == ("cached", row["path"])


@pytest.mark.slow
def test_a_gate_over_nothing_fails_its_method_in_one_line(tmp_path: Path) -> None:
    words = ["run", "-m", "cast(prompt),none", "--backend", "fake", "-n", "1", "--json"]
    failed, none = json.loads(bench(tmp_path, *words, expect=1).stdout)["runs"]
    assert (failed["status"], none["status"]) == ("failed", "complete")
    assert failed["reason"] == "fit: prompt has no activation edits alone: nothing to put under a gate"


def test_a_piecewise_push_has_no_negative_side() -> None:
    push = Add(layer=1, value=np.ones(4, np.float32), signed=True)
    assert push.scaled(2).value.tolist() == [2] * 4
    with pytest.raises(ValueError, match="no negative coefficient"):
        push.scaled(-1)


def test_a_detection_task_refuses_what_it_cannot_pick_and_data_without_labels(
    tmp_path: Path, axbench_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    words = ["run", "-t", "axbench-detect", "--backend", "fake", "-n", "1", "--json", "--results", str(tmp_path / "r")]
    several = [*words, "--data", str(axbench_folder), "-m", "diffmean", "-p", "diffmean.layer=select"]
    (row,) = json.loads(CliRunner().invoke(main, several).stdout)["runs"]
    assert (row["status"], "name one layer" in row["reason"]) == ("failed", True)
    bare = CliRunner().invoke(main, [*words, "--data", "mini", "-m", "diffmean"])
    assert (bare.exit_code, "has no labelled evaluation texts" in bare.stderr) == (2, True)
