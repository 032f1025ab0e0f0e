"""A change of what attention keeps of a prompt token: as made by hand, in any batch, scored as it is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batch_cases import watch_reads
from transformers import DynamicCache

import bench
from bench.backends import tiny
from bench.backends.hf.backend import HFBackend
from bench.backends.hf.below import Below
from bench.backends.hosted.backend import OpenAIBackend
from bench.backends.vllm.backend import VLLMBackend
from bench.core.content import Message
from bench.core.edits import Gate, Span
from bench.core.embeds import Embeds
from bench.core.errors import BenchError
from bench.core.interfaces import Context, Fitted
from bench.core.kinds import Add, Cache
from bench.core.naming import build_method
from bench.core.protocol import protocol
from bench.core.rows import Rows
from bench.core.steering import Mix, Prompt, Steering
from bench.core.values import Request, Sampling
from bench.overhead.edits import extra
from bench.run.contract import BUDGET, context, example_train
from bench.run.steering_contract import misshapen
from bench.run.strength import TRAINED, Strength
from bench.run.trials import kept_as

RNG = np.random.default_rng(0)
ASKS = ("What is it?", "Tell me where the old house by the river stands, and who lives in it.", "Why?")
DRAWN = Sampling(8, 1.0)
G = 16
"""Numbers of two key-value heads of the tiny models."""


def ask(text: str) -> tuple[Message, ...]:
    return (("user", text),)


def drawn(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


def kept(*layers: int, strength: float = 1.0, **more: Any) -> Steering:
    return Steering(edits=tuple(Cache(layer=k, value=6 * drawn(G), strength=strength, **more) for k in layers))


def scores(lm: HFBackend, requests: list[Request], target: str = " a small house") -> list[tuple[float, ...]]:
    found = dict(lm.logprobs([replace(one, target=target) for one in requests]))
    return [found[i].logprobs for i in range(len(requests))]


@torch.no_grad()
def by_hand(lm: HFBackend, prompt: list[int], steering: Steering, more: list[int]) -> torch.Tensor:
    """Logits `[1 + len(more), V]` from the last prompt token on, the cache changed between plain passes."""
    found: Any = DynamicCache()
    logits = []
    for entry, part in (("", prompt[:-2]), ("before", prompt[-2:-1]), ("last", prompt[-1:])):
        logits = [lm.model(input_ids=torch.tensor([part]), past_key_values=found, use_cache=True).logits[0]]
        was = found.layers[0].values.clone()
        for edit in steering.edits:
            assert isinstance(edit, Cache)
            if edit.entry == entry:
                states = getattr(found.layers[edit.layer], edit.site)
                states[0, :, -1] += edit.strength * torch.as_tensor(edit.value).view(states.shape[1], states.shape[3])
        assert torch.equal(found.layers[0].values, was)
    if more:
        logits.append(lm.model(input_ids=torch.tensor([more]), past_key_values=found, use_cache=True).logits[0])
    return torch.cat(logits)


@pytest.mark.parametrize("entry", ["last", "before"])
@pytest.mark.parametrize("site", ["values", "keys"])
def test_it_is_what_a_hand_would_do_to_the_cache(any_lm: HFBackend, site: str, entry: str) -> None:
    steering = kept(1, 2, 3, site=site, entry=entry, strength=0.7)
    prompt, target = any_lm.encode(ask(ASKS[1])), any_lm.chat.continued(" a small house")
    logits = by_hand(any_lm, prompt, steering, target[:-1]).log_softmax(-1)
    wanted = logits[range(len(target)), target].tolist()
    request = Request(ask(ASKS[1]), steering, Sampling(6, temperature=0))
    found, bare = (scores(any_lm, [replace(request, steering=s)])[0] for s in (steering, None))
    assert np.allclose(found, wanted, atol=1e-4)
    assert not np.allclose(found[1:], bare[1:], atol=1e-3)
    assert (found[0] == pytest.approx(bare[0], abs=1e-5)) == (entry == "last")
    written: list[int] = []
    for _ in range(6):
        written.append(int(by_hand(any_lm, prompt, steering, written)[-1].argmax()))
    [(_, answer)] = any_lm.generate([request])
    assert answer.text == any_lm.chat.text(written[: answer.tokens])
    assert answer.positions_edited == (1, 1, 1)
    [(_, scored)] = any_lm.score([prompt], [written[: answer.tokens]], [request])
    assert scored.greedy
    assert scored.positions_edited == (1, 1, 1)


def test_a_model_whose_blocks_all_have_windows_shows_its_cache(tmp_path: Path) -> None:
    """Mamba, which has no attention, says so."""
    lm = tiny.engine(tmp_path / "mistral", "mistral")
    steering, prompt = kept(1, 2), lm.encode(ask(ASKS[0]))
    target = lm.chat.continued(" a small house")
    wanted = by_hand(lm, prompt, steering, target[:-1]).log_softmax(-1)[range(len(target)), target].tolist()
    assert np.allclose(scores(lm, [Request(ask(ASKS[0]), steering)])[0], wanted, atol=1e-4)
    [(_, answer)] = lm.generate([Request(ask(ASKS[0]), steering, Sampling(1, temperature=0))])
    assert answer.positions_edited == (1, 1)
    assert lm.size(1, "values") == lm.size(1, "keys") == G
    with pytest.raises(BenchError, match="MambaForCausalLM: block 1 keeps no keys and values of its own"):
        tiny.engine(tmp_path / "mamba", "mamba").size(1, "values")


def test_a_batch_equals_its_rows(any_lm: HFBackend) -> None:
    add = Add(layer=2, value=drawn(any_lm.width), span=Span("generation"))
    soft = Steering(embeds=(Embeds(drawn(3, any_lm.width)),))
    gated = Steering(edits=(replace(add, gate=Gate(1, drawn(any_lm.width), -1.0)),))  # always open
    steerings = [kept(1, 2), kept(1, 2, strength=-2), kept(3, entry="before"), None, kept(1, site="keys"), soft]
    steerings += [kept(2).merged(kept(2, entry="before")), kept(1, site="keys", entry="before").merged(soft)]
    steerings += [Steering(edits=(*kept(1).edits, add)), kept(1).merged(soft), Steering(edits=(add,)), gated]
    mixed = Steering(Prompt(prefix="Hm. "), mix=Mix(alpha=1.5))
    steerings += [kept(1, 2).merged(mixed), kept(1, entry="before").merged(soft).merged(mixed), mixed]
    steerings += [kept(1, 2).merged(gated), Steering(edits=(*kept(1, entry="before").edits, add))]
    requests = [
        Request(ask(text), s, DRAWN, i) for i, text in enumerate(ASKS[:2]) for s in [*steerings, *steerings[:4]]
    ]
    together, found = dict(any_lm.generate(requests)), scores(any_lm, requests)
    for i, request in enumerate(requests):
        [(_, alone)] = any_lm.generate([request])
        assert together[i] == alone, i
        assert np.allclose(found[i], scores(any_lm, [request])[0], atol=1e-4), i
    assert together[6].positions_edited == (1, 1)
    for i, before in ((8, (1,)), (15, (1, 1)), (16, (1,))):
        assert together[i].positions_edited == (*before, together[i].tokens)
    bare = [i for i, request in enumerate(requests) if request.steering is None]
    assert [found[i] for i in bare] == scores(any_lm, [requests[i] for i in bare])


@pytest.mark.parametrize("entry", ["last", "before"])
def test_equal_prompts_are_read_once_for_all_strengths(
    lm: HFBackend, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    own = kept(1, 2, entry=entry)
    requests = [Request(ask(text), own.scaled(c), DRAWN, 7) for text in ASKS for c in (0.5, 1, 2, 4)]
    assert lm.below.holds(lm.layers - 1)
    batches = watch_reads(monkeypatch)
    together = dict(lm.generate(requests))
    assert batches == [(lm.layers - 1, len(ASKS))]
    monkeypatch.setattr(Below, "shared", lambda *_: None)
    assert dict(lm.generate(requests)) == together


def test_at_0_it_is_the_bare_model_and_near_0_almost(any_lm: HFBackend) -> None:
    steering, bare = kept(1, 2, 3), scores(any_lm, [Request(ask(ASKS[0]))])
    assert scores(any_lm, [Request(ask(ASKS[0]), steering.scaled(0))]) == bare
    near = scores(any_lm, [Request(ask(ASKS[0]), steering.scaled(1e-4))])
    assert np.allclose(near, bare, atol=1e-3)
    assert steering.negated().digest == steering.scaled(-1).digest


def test_its_divergence_is_that_of_its_scores(any_lm: HFBackend) -> None:
    target = " a small house"
    steerings = (kept(1, 2), kept(1, entry="before"), None)
    requests = [Request(ask(text), s, target=target) for text in ASKS for s in steerings]
    moved = dict(any_lm.diverge(requests))
    for i, request in enumerate(requests):
        assert moved[i].steered == pytest.approx(sum(scores(any_lm, [request])[0]), abs=1e-3)
        assert (moved[i].kl > 1e-4) == (request.steering is not None)


def test_what_it_has_no_place_in_is_refused(lm: HFBackend) -> None:
    value = drawn(G)
    for more in ({"span": Span("prompt")}, {"gate": Gate(0, drawn(32), 0.1)}, {"site": "resid"}):
        with pytest.raises(ValueError, match="no span, no gate"):
            Cache(layer=2, value=value, **more)
    gated = Add(layer=2, value=drawn(32), gate=Gate(0, drawn(32), 0.1))
    with pytest.raises(ValueError, match="a gate reads a whole prompt at once"):
        kept(1, entry="before").merged(Steering(edits=(gated,)))
    with pytest.raises(BenchError, match="one token"):
        list(lm.write([[65]], [Request("", kept(1, entry="before"))]))
    with pytest.raises(BenchError, match="one token"):
        list(lm.score([[65]], [[66, 67]], [Request("", kept(1, entry="before"))]))
    for engine in (VLLMBackend, OpenAIBackend):
        assert kept(1).needs - engine.can == {"cache", "site:values"}
    assert "of 16 values" in misshapen(Steering(edits=(Cache(layer=1, value=drawn(5)),)), lm)
    assert misshapen(kept(1), lm) == ""


def test_a_file_keeps_it_and_keys_tell_it_apart(tmp_path: Path) -> None:
    steering = kept(1, 2)
    bench.save(tmp_path / "kept.safetensors", steering)
    assert bench.load(tmp_path / "kept.safetensors").digest == steering.digest
    one = Cache(layer=1, value=drawn(G))
    others = [Steering(edits=(part,)) for part in (one, replace(one, site="keys"), replace(one, entry="before"))]
    keys = {kept_as("engine", Request(ask("Why?"), s)) for s in (steering, steering.scaled(2), *others, None)}
    assert len(keys) == 6


def test_it_costs_one_addition_a_request() -> None:
    found = extra(kept(1, 2), length=20)
    assert (found.once, found.elements, found.held) == (2 * G, 2 * G, 2 * G)
    assert (found.prompt_tokens, found.decode, found.read, found.moved) == (0, 0, 0, 0)


def test_its_own_strength_lies_amid_the_coefficients(lm: HFBackend) -> None:
    steering, concept = kept(1), example_train().concept
    strength = Strength(Context(lm, BUDGET), protocol("quick"), {}, Rows(None))
    (edit,) = strength.at(steering, Fitted(steering), concept, TRAINED).edits
    assert edit.strength == pytest.approx(1)  # type: ignore[attr-defined]


def test_what_is_kept_is_read_as_the_model_keeps_it(any_lm: HFBackend) -> None:
    texts = [(("user", ASKS[1]), ("assistant", "By the mill.")), ask(ASKS[0])]
    for site in ("keys", "values"):
        found = any_lm.activations(texts, [1, 3], site=site)
        for text, read in zip(texts, found, strict=True):
            ids, begin = any_lm.chat.readable([text], 0)[0][0], any_lm.chat.readable([text], 0)[2][0]
            own = DynamicCache()
            with torch.no_grad():
                any_lm.model(input_ids=torch.tensor([ids]), past_key_values=own, use_cache=True)
            for layer in (1, 3):
                states = getattr(own.layers[layer], site)[0].transpose(0, 1).flatten(1)
                assert np.allclose(read.values[layer], states[begin:].numpy(), atol=1e-5)


def test_means_are_of_answers_as_they_are_read(any_lm: HFBackend) -> None:
    ctx = context(any_lm)
    texts = [example.messages for example in example_train().positives] * 5
    long = (("user", "Why? " * 40), ("assistant", "So."))
    means = ctx.means([*texts, long], [1, 3], "values")
    for layer in (1, 3):
        reads = ctx.read([*texts, long], layer, "values")
        wanted = [read.values[layer][read.response :].mean(0) for read in reads[:-1]]
        assert np.allclose(means[layer], np.stack([*wanted, reads[-1].values[layer][-1]]), atol=1e-5)


def test_its_method_moves_every_block_but_the_first(lm: HFBackend) -> None:
    made = build_method("cache-steering", {})
    (fitted,) = made.fit(context(lm), example_train())
    assert isinstance(fitted.steering, Steering)
    assert [(edit.layer, edit.site) for edit in fitted.steering.edits] == [(k, "values") for k in (1, 2, 3)]
    (both,) = build_method("cache-steering", {"cache-steering": {"keys": 0.2}}).fit(context(lm), example_train())
    assert isinstance(both.steering, Steering)
    strengths = {edit.site: edit.strength for edit in both.steering.edits if isinstance(edit, Cache)}
    assert strengths == {"values": 6.0, "keys": pytest.approx(1.2)}
