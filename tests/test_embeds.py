"""A soft prompt: read as the words whose embeddings it has, by any row of any batch, counted, kept and priced."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_cases import group, letters, margin, small

import bench
from bench.backends.hf.backend import HFBackend
from bench.backends.hf.hooks import Applied
from bench.backends.hosted.backend import OpenAIBackend
from bench.backends.vllm.backend import VLLMBackend
from bench.core.content import Message
from bench.core.edits import Span
from bench.core.embeds import Embeds
from bench.core.errors import BenchError, UsageError
from bench.core.interfaces import Context, Fitted
from bench.core.kinds import Add
from bench.core.naming import build_method
from bench.core.protocol import protocol
from bench.core.rows import Rows
from bench.core.steering import Mix, Prompt, Steering
from bench.core.values import Request, Sampling
from bench.interchange.files import adapter, encode
from bench.overhead.edits import extra
from bench.run.contract import BUDGET, example_train
from bench.run.steering_contract import misshapen
from bench.run.strength import Strength
from bench.run.trials import kept_as, trials

RNG = np.random.default_rng(0)
WORDS = "Say the sea. "
ASKS = ("What is it?", "Tell me where the old house by the river stands.", "Why?")
DRAWN = Sampling(8, 1.0)


def ask(text: str) -> tuple[Message, ...]:
    return (("user", text),)


def drawn(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


def embedded(lm: HFBackend, text: str) -> Steering:
    """The words as a soft prompt."""
    with torch.no_grad():
        values = lm.model.get_input_embeddings()(torch.tensor(lm.chat.continued(text)))
    return Steering(embeds=(Embeds(values.numpy()),))


def soft(lm: HFBackend, size: int) -> Steering:
    return Steering(embeds=(Embeds(drawn(size, lm.width)),))


def scores(lm: HFBackend, requests: list[Request]) -> list[tuple[float, ...]]:
    found = dict(lm.logprobs([replace(one, target=" a small house") for one in requests]))
    return [found[i].logprobs for i in range(len(requests))]


def test_the_embeddings_of_words_are_read_as_the_words(any_lm: HFBackend) -> None:
    steering = embedded(any_lm, WORDS)
    own = [Request(ask(text), steering, DRAWN, i) for i, text in enumerate(ASKS)]
    said = [Request(ask(WORDS + text), None, DRAWN, i) for i, text in enumerate(ASKS)]
    assert np.allclose(np.concatenate(scores(any_lm, own)), np.concatenate(scores(any_lm, said)), atol=1e-5)
    answers, plain = dict(any_lm.generate(own)), dict(any_lm.generate(said))
    for i in range(len(ASKS)):
        assert (answers[i].text, answers[i].prompt_tokens) == (plain[i].text, plain[i].prompt_tokens)
        assert answers[i].positions_edited == (len(any_lm.chat.continued(WORDS)),)


def test_it_stands_after_a_chat_s_own_system_message_begins(lm: HFBackend) -> None:
    """Where all chats with a system message of their own begin alike, not where the default one ends."""
    own = Request((("system", "Be brief."), ("user", "Why?")), embedded(lm, WORDS))
    said = Request((("system", WORDS + "Be brief."), ("user", "Why?")))
    raw, told = Request("Once upon a time", embedded(lm, WORDS)), Request("O" + WORDS + "nce upon a time")
    for one, other in ((own, said), (raw, told)):
        assert np.allclose(scores(lm, [one]), scores(lm, [other]), atol=1e-5)


def test_an_empty_one_and_coefficient_0_are_the_bare_model(lm: HFBackend) -> None:
    bare = scores(lm, [Request(ask(ASKS[0]))])
    steering = soft(lm, 4)
    for still in (soft(lm, 0), steering.scaled(0)):
        assert scores(lm, [Request(ask(ASKS[0]), still)]) == bare
    assert steering.scaled(0.3).digest == steering.scaled(2).digest == steering.digest
    strength = Strength(Context(lm, BUDGET), protocol("quick"), {}, Rows(None))
    concept = example_train().concept
    assert strength.at(steering, Fitted(steering), concept, 0).digest == Steering().digest
    assert strength.at(steering, Fitted(steering), concept, 1).digest == steering.digest
    assert [trial.coefficient for trial in trials([Fitted(steering)], protocol("quick"))] == [1.0]


def test_a_batch_equals_its_rows(any_lm: HFBackend) -> None:
    vector = Add(layer=2, value=drawn(any_lm.width), span=Span("prompt", first=2))
    steerings = [soft(any_lm, 3), None, soft(any_lm, 7), soft(any_lm, 3).merged(soft(any_lm, 2)), Steering()]
    steerings += [replace(soft(any_lm, 3), edits=(vector,)), Steering(edits=(vector,))]
    requests = [Request(ask(text), s, DRAWN, i) for i, text in enumerate(ASKS[:2]) for s in [*steerings, *steerings]]
    together, found = dict(any_lm.generate(requests)), scores(any_lm, requests)
    for i, request in enumerate(requests):
        [(_, alone)] = any_lm.generate([request])
        assert together[i] == alone, i
        assert np.allclose(found[i], scores(any_lm, [request])[0], atol=1e-5), i
    bare = [i for i, request in enumerate(requests) if request.steering is None]
    assert [found[i] for i in bare] == scores(any_lm, [requests[i] for i in bare])


def test_its_rows_are_tokens_of_the_prompt(lm: HFBackend) -> None:
    """What edits the first of them edits the soft prompt, and what edits the prompt, it too."""
    spans = [Span("prompt", first=n) for n in (2, 0)]
    both = [replace(soft(lm, 5), edits=(Add(layer=1, value=drawn(lm.width), span=span),)) for span in spans]
    plain = Request(ask(ASKS[0]), Steering(edits=both[1].edits), Sampling(2))
    one, two, own = (dict(lm.generate([r]))[0] for r in (*(replace(plain, steering=s) for s in both), plain))
    assert one.positions_edited == (2, 5)
    assert two.positions_edited == (own.positions_edited[0] + 5, 5)
    assert two.prompt_tokens == own.prompt_tokens + 5


def test_it_moves_predictions_as_it_scores(lm: HFBackend) -> None:
    target = " a small house"
    requests = [Request(ask(ASKS[1]), s, target=target) for s in (soft(lm, 4), embedded(lm, WORDS))]
    requests.append(Request(ask(ASKS[1]), Steering(Prompt(prefix=WORDS)), target=target))
    moved = dict(lm.diverge(requests))
    assert moved[1].kl == pytest.approx(moved[2].kl, abs=1e-4)
    assert moved[0].kl > 1e-3
    assert moved[0].steered == pytest.approx(sum(scores(lm, requests[:1])[0]), abs=1e-3)


def test_one_that_does_not_reach_the_model_is_an_error(lm: HFBackend) -> None:
    applied = Applied(lm.model, [soft(lm, 5)], [3], [0])
    with torch.no_grad(), applied:
        lm.model(input_ids=torch.tensor([[65] * 3]))
    with pytest.raises(BenchError, match="5 tokens: 2 were put"):
        applied.positions_edited(0, 1)


def test_a_file_keeps_it_and_keys_tell_it_apart(lm: HFBackend, tmp_path: Path) -> None:
    steering = replace(soft(lm, 3), prompt=Prompt(prefix="Hm. "))
    bench.save(tmp_path / "kept.safetensors", steering)
    assert bench.load(tmp_path / "kept.safetensors").digest == steering.digest
    keys = {kept_as("engine", Request(ask("Why?"), s)) for s in (steering, soft(lm, 3), steering.scaled(0), None)}
    assert len(keys) == 4


def test_what_cannot_hold_it_says_so(lm: HFBackend) -> None:
    steering = soft(lm, 3)
    assert steering.needs - VLLMBackend.can == steering.needs - OpenAIBackend.can == {"embeds"}
    for form in ("json", "gguf", "lm-eval"):
        with pytest.raises(BenchError, match=r"soft prompt|changes the model too"):
            encode(steering, form)
    with pytest.raises(BenchError, match="peft cannot hold a soft prompt"):
        adapter(steering, "tiny")
    with pytest.raises(BenchError, match="no opposite"):
        steering.negated()
    with pytest.raises(ValueError, match=r"must be \[n, H\]"):
        Embeds(drawn(4))
    assert "embeddings have 32" in misshapen(Steering(embeds=(Embeds(drawn(2, 5)),)), lm)


def test_it_costs_what_a_prompt_of_as_many_tokens_does(lm: HFBackend) -> None:
    found = extra(soft(lm, 6), prompt_tokens=4)
    assert (found.prompt_tokens, found.decode, found.read, found.once, found.moved) == (10, 0, 0, 0, 0)
    assert found.elements == found.held == 6 * lm.width


def test_training_begins_at_its_words(any_lm: HFBackend) -> None:
    train = letters()
    words = f"Say {train.concept.text}. "
    size = len(any_lm.chat.continued(words))
    made = group(any_lm, small("soft", size=size), trains=[train])
    asks = [Request((("user", words + e.instruction),), target=e.response) for e in train.positives]
    plain = dict(any_lm.logprobs(asks))
    own = [Request(e.messages[:1], made.change.steering(0), target=e.response) for e in train.positives]
    found = dict(any_lm.logprobs(own))
    each = range(len(asks))
    assert [found[i].total for i in each] == pytest.approx([plain[i].total for i in each], abs=1e-3)
    longer = group(any_lm, small("soft", size=size + 2), trains=[train]).change.steering(0).embeds[0].values
    assert np.array_equal(longer[:2], longer[size:])


def test_it_learns_to_write_the_concept(lm: HFBackend) -> None:
    train, held = letters(count=8), letters(seed=5)
    (one,) = group(lm, small("soft", size=20, opening=""), trains=[train], rate=0.3, epochs=8).fit()
    assert one.note["loss_last"] < one.note["loss_first"] - 0.05  # type: ignore[operator]
    assert margin(lm, one.change.steering(0), held) > margin(lm, None, held) + 0.15


def test_its_method_has_one_strength_and_no_opposite() -> None:
    made = build_method("soft-prompt", {})
    assert made.needs == {"embeds", "train"}
    assert made.one_way
    with pytest.raises(UsageError, match="one strength"):
        build_method("soft-prompt", {"soft-prompt": {"factors": (0.5,)}})
    with pytest.raises(UsageError, match="no opposite, and cannot be taken out"):
        build_method("soft-prompt", {"soft-prompt": {"objective": "reps"}})
    crossed = build_method("lora", {"lora": {"parametrisation": "soft"}})
    assert (crossed.needs, crossed.one_way) == (made.needs, True)


def test_a_mix_weighs_it_against_the_bare_model(any_lm: HFBackend) -> None:
    """A dial for a soft prompt: it stands in the first stream alone, as the words that it is made of would."""
    own, said = replace(embedded(any_lm, WORDS), mix=Mix(alpha=2.0)), Steering(Prompt(prefix=WORDS), mix=Mix(alpha=2.0))
    asks = [[Request(ask(text), s, DRAWN, i) for i, text in enumerate(ASKS)] for s in (own, said)]
    found, wanted = (scores(any_lm, requests) for requests in asks)
    assert np.allclose(np.concatenate(found), np.concatenate(wanted), atol=1e-4)
    answers, plain = (dict(any_lm.generate(requests)) for requests in asks)
    for i in range(len(ASKS)):
        assert answers[i].text == plain[i].text
        assert answers[i].positions_edited == (own.inserted, *plain[i].positions_edited)
    target = " a small house"
    moved = dict(any_lm.diverge([replace(requests[0], target=target) for requests in asks]))
    assert moved[0].kl == pytest.approx(moved[1].kl, abs=1e-3)
    bare, near = (scores(any_lm, [Request(ask(ASKS[0]), own.scaled(c))])[0] for c in (0, 1e-5))
    assert bare == scores(any_lm, [Request(ask(ASKS[0]))])[0]
    assert np.allclose(near, bare, atol=1e-3)
