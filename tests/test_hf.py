"""The HF backend: each row its own steering, positions that padding cannot move, and no trace left."""

from __future__ import annotations

import copy
import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy
import torch
from transformers import AttentionInterface

from bench.backends import tiny
from bench.backends.hf import attention, cache, linear, memory
from bench.backends.hf.backend import HFBackend
from bench.backends.hf.hooks import Applied
from bench.backends.hf.modules import Enough, first
from bench.backends.hf.sampling import Draw, gumbel
from bench.backends.hf.scoring import reads_trees
from bench.backends.models import Model
from bench.core.content import Array, Message
from bench.core.deltas import DenseDelta, LowRankDelta
from bench.core.edits import Span
from bench.core.errors import BenchError
from bench.core.interfaces import Backend
from bench.core.kinds import Add, Clamp, Project
from bench.core.steering import Prompt, Steering
from bench.core.values import Request, Sampling

RNG = np.random.default_rng(1)
H = 32
DRAWN = Sampling(max_new_tokens=12, temperature=1.0, top_k=50)
GREEDY = Sampling(max_new_tokens=8, temperature=0)
ASKS = ("Why?", "What is in the box on the table next to the old window?", "Tell me more about it, please.")


def ask(text: str) -> tuple[Message, ...]:
    return (("user", text),)


def add(size: float = 6.0, layer: int = 1, span: Span | None = None, seed: int = 0) -> Steering:
    value = np.random.default_rng(seed).standard_normal(H).astype(np.float32)
    return Steering(edits=(Add(layer=layer, value=value * size / np.linalg.norm(value), span=span or Span()),))


def texts(lm: Backend, requests: list[Request]) -> list[str]:
    found = dict(lm.generate(requests))
    return [found[i].text for i in range(len(requests))]


def scores(lm: Backend, requests: list[Request]) -> list[tuple[float, ...]]:
    found = dict(lm.logprobs(requests))
    return [found[i].logprobs for i in range(len(requests))]


def hooks(lm: HFBackend) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lm.model.modules())


def every_kind() -> list[Steering]:
    basis = np.linalg.qr(RNG.standard_normal((H, 2)))[0].T.astype(np.float32)
    unit = basis[0]
    factors = (RNG.standard_normal((2, H)).astype(np.float32), RNG.standard_normal((H, 2)).astype(np.float32))
    name = "model.layers.2.self_attn.o_proj"
    return [
        add(),
        Steering(edits=(Add(layer=1, value=unit * 4, signed=True, keep_norm=True),)),
        Steering(edits=(Add(layer=2, value=unit * 4, site="attn"), Add(layer=2, value=unit, site="mlp"))),
        Steering(edits=(Project(layer=1, basis=basis),)),
        Steering(edits=(Clamp(layer=1, read=unit, write=unit, target=5.0, at_least=True),)),
        Steering(deltas=(LowRankDelta(module=name, down=factors[0], up=factors[1]),)),
        Steering(deltas=(DenseDelta(module=name, change=factors[1] @ factors[0]),)),
        Steering(Prompt(system="Be brief.", shots=(("Hi", "Hello."),)), add().edits),
    ]


@pytest.mark.slow
def test_c_0_is_the_bare_model_under_the_same_prompt(any_lm: HFBackend) -> None:
    for steering in every_kind():
        off = [Request(ask(a), steering.scaled(0), DRAWN, seed=3, target="A ball.") for a in ASKS]
        bare = [Request(steering.prompt.apply(ask(a)), None, DRAWN, seed=3, target="A ball.") for a in ASKS]
        assert scores(any_lm, off) == scores(any_lm, bare)
        assert texts(any_lm, off) == texts(any_lm, bare)


def test_an_unsteered_row_keeps_its_bits_in_a_batch_with_steered_rows(lm: HFBackend) -> None:
    zero, other = (Steering(edits=(Add(layer=layer, value=np.zeros(H, np.float32)),)) for layer in (1, 0))
    for steering in every_kind():
        # Two steerings each time: requests of equal steering share a row, and bits hold for one shape of a batch.
        mixed, alone = [steering, zero], [other, zero]
        with_steered = scores(lm, [Request(ask(ASKS[0]), s, target="A ball.") for s in mixed])
        without = scores(lm, [Request(ask(ASKS[0]), s, target="A ball.") for s in alone])
        if steering.prompt == Prompt():  # equal lengths: the same batch shape, so bits may be compared
            assert with_steered[1] == without[1]
        assert with_steered[0] != pytest.approx(without[0], abs=1e-3)


@pytest.mark.slow
def test_a_batch_equals_its_rows(any_lm: HFBackend) -> None:
    requests = [
        Request(ask(a), steering, DRAWN, seed=i, target="It is a red ball.")
        for i, (a, steering) in enumerate((a, s) for s in [None, *every_kind()] for a in ASKS)
    ]
    together, alone = scores(any_lm, requests), [scores(any_lm, [r])[0] for r in requests]
    for one, two in zip(together, alone, strict=True):
        assert one == pytest.approx(two, abs=1e-4)
    assert texts(any_lm, requests) == [texts(any_lm, [r])[0] for r in requests]


def test_left_padding_equals_none(any_lm: HFBackend) -> None:
    short, long = (Request(ask(a), add(), GREEDY) for a in (ASKS[0], ASKS[1]))
    assert texts(any_lm, [short, long]) == [texts(any_lm, [r])[0] for r in (short, long)]
    padded = any_lm.activations([ask(a) for a in ASKS], [0, 2])
    for a, read in zip(ASKS, padded, strict=True):
        single = any_lm.activations([ask(a)], [0, 2])[0]
        for layer in (0, 2):
            np.testing.assert_allclose(read.values[layer], single.values[layer], atol=1e-4)


def test_activations_are_block_outputs_without_the_shared_header(lm: HFBackend) -> None:
    messages = (("user", "What is it?"), ("assistant", "A ball."))
    read = lm.activations([messages], [1])[0]
    ids = lm.encode(messages[:1], "A ball.")
    with torch.no_grad():
        states = lm.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    assert lm.tokenizer.decode(ids[lm.template_prefix :]).startswith("What")
    np.testing.assert_allclose(read.values[1], states[2][0, lm.template_prefix :].numpy(), atol=1e-5)
    assert lm.tokenizer.decode(ids[lm.template_prefix + read.response :]) == "A ball."


def test_reading_stops_after_the_deepest_wanted_block(lm: HFBackend) -> None:
    ran: list[int] = []
    handles = [
        layer.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, layer in enumerate(lm.model.model.layers)
    ]
    lm.activations([ask("What is it?")], [1])
    for handle in handles:
        handle.remove()
    assert ran in ([0], [0, 1])  # block 1's own last hook may not run: its reader ended the pass


def test_padding_and_the_header_are_neither_read_nor_steered(lm: HFBackend) -> None:
    rows = [lm.encode(ask(a)) for a in ASKS]
    inputs, pads = lm.batches.pad(rows)
    seen: list[Array] = []
    for steering in (Steering(edits=(Add(layer=1, value=np.zeros(H, np.float32)),)), add()):
        with torch.no_grad(), Applied(lm.model, [steering] * 3, list(map(len, rows)), pads, lm.template_prefix):
            handle = lm.model.model.layers[1].register_forward_hook(
                lambda _, __, o: seen.append(first(o).numpy().copy())
            )
            lm.model(**inputs)
            handle.remove()
    moved = np.abs(seen[1] - seen[0]).max(-1) > 0
    for row, pad in enumerate(pads):
        begin = pad + lm.template_prefix
        assert not moved[row, :begin].any()
        assert moved[row, begin:].all()


@pytest.mark.parametrize(
    ("span", "prompt", "response"),
    [
        (Span(), "words", 0),
        (Span(sink=True), "whole", 0),
        (Span("prompt"), "words", None),
        (Span("prompt", first=2, last=1), "3", None),
        (Span("response"), "0", 0),
        (Span("generation"), "0", 1),
    ],
)
def test_touched_positions_follow_the_span(lm: HFBackend, span: Span, prompt: str, response: int | None) -> None:
    """Edits begin after what every chat shares; the last token of an answer is drawn and never run."""
    asked = [ask(a) for a in ASKS]
    found = dict(lm.generate([Request(a, add(0.5, span=span), GREEDY) for a in asked]))
    for i, completion in found.items():
        whole = len(lm.encode(asked[i]))
        before = {"words": whole - lm.template_prefix, "whole": whole}.get(prompt)
        after = 0 if response is None else completion.tokens - 1 + response
        assert completion.positions_edited == ((int(prompt) if before is None else before) + after,)


def test_a_system_message_of_its_own_and_a_raw_text_are_words(lm: HFBackend) -> None:
    """Only what every chat begins with is left out: of another system message the template's front alone, also where
    it begins as the default one does."""
    own = (("system", "You help out."), *ask("Why?"))
    ids = lm.encode(own)
    front = lm.header(ids)
    assert lm.tokenizer.decode(ids[front:]).startswith("You help out.")
    found = dict(lm.generate([Request(own, add(), GREEDY), Request("Why so?", add(), GREEDY)]))
    assert found[0].positions_edited == (len(ids) - front + found[0].tokens - 1,)
    assert found[1].positions_edited == (len(lm.encode("Why so?")) - 1 + found[1].tokens - 1,)


def test_the_first_generated_token_is_steered(lm: HFBackend) -> None:
    # A push along one output row at the last block decides the very first token.
    head = lm.model.get_output_embeddings().weight.detach().numpy()
    wanted = lm.encode("Q")[0]
    edit = Add(layer=3, value=(head[wanted] * 1e3).astype(np.float32), span=Span("generation"))
    assert texts(lm, [Request(ask(ASKS[0]), Steering(edits=(edit,)), GREEDY)])[0][0] == "Q"


def test_the_kv_cache_and_a_full_pass_agree(any_lm: HFBackend) -> None:
    """Steering while decoding equals teacher forcing the same text in one pass."""
    for steering in every_kind()[:5]:
        request = Request(ask(ASKS[1]), steering, GREEDY)
        text = texts(any_lm, [request])[0]
        ids = any_lm.chat.continued(text)
        if not ids or len(ids) > 8:
            continue
        steered = scores(any_lm, [Request(ask(ASKS[1]), steering, target=text)])[0]
        assert all(score > np.log(1 / 260) for score in steered)  # each greedy token stays likely


def test_hooks_are_gone_afterwards_and_after_an_exception(lm: HFBackend) -> None:
    before = hooks(lm)
    texts(lm, [Request(ask(ASKS[0]), steering, GREEDY) for steering in every_kind()])
    lm.activations([ask(ASKS[0])], [1])
    assert hooks(lm) == before
    applied = Applied(lm.model, [add()], [5], [0])
    with applied:
        assert hooks(lm) > before
    with pytest.raises(ZeroDivisionError), applied:
        raise ZeroDivisionError
    assert hooks(lm) == before
    bad = [
        add(layer=99),
        Steering(deltas=(LowRankDelta(module="model.nowhere", down=np.ones((1, H)), up=np.ones((H, 1))),)),
    ]
    for steering in bad:
        with pytest.raises(BenchError):
            texts(lm, [Request(ask(ASKS[0]), steering, GREEDY)])
        assert hooks(lm) == before
    assert not isinstance(Enough(), BenchError)


def test_an_edit_that_touches_nothing_is_an_error(lm: HFBackend) -> None:
    nowhere = add(span=Span("prompt", first=2, offset=500))
    with pytest.raises(BenchError, match="touched no position"):
        texts(lm, [Request(ask(ASKS[0]), nowhere, GREEDY)])


def test_sampling_noise_belongs_to_the_request(lm: HFBackend) -> None:
    one = Request(ask(ASKS[0]), None, DRAWN, seed=7)
    other = Request(ask(ASKS[0]), None, DRAWN, seed=8)
    first_order, second_order = texts(lm, [one, other, one]), texts(lm, [other, one])
    assert first_order[0] == first_order[2] == second_order[1]
    assert first_order[1] == second_order[0] != first_order[0]


def test_noise_belongs_to_seed_step_and_token_and_is_standard_gumbel() -> None:
    seeds = torch.tensor([0, 1, 2**62 + 5], dtype=torch.int64)
    tokens = torch.arange(20_000).repeat(3, 1)
    noise = gumbel(seeds, 0, tokens)
    order = torch.randperm(20_000)
    assert torch.equal(gumbel(seeds[1:2], 0, tokens[1:2, order]), noise[1:2, order])  # in any order and company
    for row in noise.numpy():
        assert scipy.stats.kstest(row, scipy.stats.gumbel_r.cdf).pvalue > 1e-3
    later = gumbel(seeds, 1, tokens)
    for one, two in ((noise[0], noise[1]), (noise[0], later[0]), (noise[0][1:], noise[0][:-1])):
        assert abs(np.corrcoef(one, two)[0, 1]) < 0.03  # standard error .007


def test_a_drawn_token_survives_what_leaves_its_lead() -> None:
    """Two tokens below the drawn one change places: the inverse CDF would draw another, Gumbel-max does not."""
    rng = np.random.default_rng(0)
    kept = 0
    for seed in range(200):
        logits = torch.tensor(rng.normal(0, 1, (1, 40)), dtype=torch.float32)
        process = Draw(Sampling(temperature=1.0, top_k=40), torch.tensor([seed]), 3)
        ids = torch.zeros((1, 3), dtype=torch.int64)
        drawn = int(process(ids, logits).argmax())
        moved = logits.clone()
        others = [i for i in range(40) if i != drawn][:2]
        moved[0, others] = logits[0, others[::-1]]
        kept += int(process(ids, moved).argmax()) == drawn
    assert kept > 190


def test_sampling_follows_the_distribution(lm: HFBackend) -> None:
    sampling = Sampling(max_new_tokens=1, temperature=1.0, top_k=3)
    drawn = texts(lm, [Request(ask("Why?"), None, sampling, seed=i) for i in range(600)])
    inputs, _ = lm.batches.pad([lm.encode(ask("Why?"))])
    with torch.no_grad():
        top = lm.model(**inputs).logits[0, -1].topk(3)
    shares = torch.softmax(top.values, -1).numpy()
    expected: Counter[str] = Counter()  # several tokens may read alike: bytes past ASCII, special tokens
    for token, share in zip(top.indices.tolist(), shares.tolist(), strict=True):
        expected[lm.tokenizer.decode([token], skip_special_tokens=True)] += share
    for text, share in expected.items():
        assert drawn.count(text) / 600 == pytest.approx(
            share, abs=float(4 * np.sqrt(max(0.0, share * (1 - share)) / 600) + 1e-9)
        )


def uncap(folder: Path) -> None:
    """Take the cap of attention's logits out of a configuration."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {attention.CAP: None}))


@pytest.mark.slow
@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_queries_taken_together_give_what_sdpa_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, dtype: str
) -> None:
    """Left padding, several lengths, a window shorter than a text; in fp32 each step of an answer too."""
    source = tiny.build(tmp_path, kind)
    uncap(source.path)  # a capped model keeps its own attention
    together = HFBackend(source, dtype)
    assert together.model is not None  # registers
    asked = [Request(ask("word " * (3 * i + 1)), target="and so on" * (i + 1)) for i in range(4)]
    short = [Request(ask("word " * (3 * i + 1)), target="on") for i in range(4)]  # the second token is a lone query
    used: list[int] = []
    attend = attention.attend

    def seen(*words: Any, **options: Any) -> Any:
        used.append(words[1].shape[2])
        return attend(*words, **options)

    monkeypatch.setitem(AttentionInterface._global_mapping, attention.NAME, seen)
    assert together.model.config._attn_implementation == "sdpa"
    found, two = scores(together, asked), scores(together, short)
    assert [len(one) for one in two] == [2] * 4
    answers = texts(together, [Request(r.prompt, sampling=Sampling(8, 0.0)) for r in asked])
    assert 1 in used
    assert max(used) > 1
    assert together.model.config._attn_implementation == "sdpa"
    monkeypatch.setattr(attention, "use", lambda model: None)
    plain = HFBackend(together.source, dtype)
    close = 1e-5 if dtype == "float32" else 0.05  # a product of another shape rounds its last bits otherwise
    for one, other in zip([*scores(plain, asked), *scores(plain, short)], [*found, *two], strict=True):
        assert one == pytest.approx(other, abs=close)
    if dtype == "float32":
        assert texts(plain, [Request(r.prompt, sampling=Sampling(8, 0.0)) for r in asked]) == answers


def test_bf16_products_taken_in_fp32_are_rounded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(linear, "fast", lambda: False)
    widened = HFBackend(tiny.build(tmp_path, "qwen2"), "bfloat16").model  # some of its modules have a bias
    modules = [module for module in widened.modules() if isinstance(module, torch.nn.Linear)]
    assert modules
    assert all(type(module) is linear.Widened and module.keeps for module in modules)
    for module in modules:
        x = torch.randn(5, module.in_features, generator=torch.Generator().manual_seed(0)).bfloat16()
        bias = None if module.bias is None else module.bias.normal_().double()
        exact = torch.nn.functional.linear(x.double(), module.weight.double(), bias)
        found = module(x)
        assert found.dtype == torch.bfloat16
        # Half a unit in the last of eight places.
        assert torch.allclose(found.double(), exact, rtol=2**-8, atol=1e-7)
    assert not any(type(m) is linear.Widened for m in HFBackend(tiny.build(tmp_path), "float32").model.modules())


X86 = pytest.mark.skipif(linear.platform.machine() not in ("x86_64", "AMD64"), reason="torch chooses well elsewhere")


@X86
@pytest.mark.parametrize("keeps", [False, True])
def test_a_row_has_the_product_of_its_batch_in_any_company(keeps: bool) -> None:
    module = linear.Packed(96, 131).requires_grad_(False)
    module.keeps = keeps
    x = torch.randn(70, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = module(x)
        for rows in (1, 2, 3, 5, 17, 64):
            assert torch.equal(module(x[:rows]), found[:rows]), rows
        assert torch.equal(module(x.view(7, 10, 96)).view(70, -1), found)
    exact = torch.nn.functional.linear(x.double(), module.weight.double(), module.bias.double())
    assert torch.allclose(found.double(), exact, atol=1e-5)


@X86
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_packed_product_has_the_gradients_of_a_plain_one(frozen: bool, dtype: torch.dtype) -> None:
    plain, packed = torch.nn.Linear(6, 5).double(), linear.Packed(6, 5).to(dtype)
    packed.keeps = True
    with torch.inference_mode():
        packed(torch.zeros(1, 6, dtype=dtype))
    for module in (plain, packed):
        module.requires_grad_(not frozen)
    packed.load_state_dict(plain.state_dict())
    plain.load_state_dict(packed.state_dict())
    x = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    one, two = x.double().requires_grad_(), x.clone().requires_grad_()
    plain(one).sin().sum().backward()
    packed(two).sin().sum().backward()
    weights = [] if frozen else [(plain.weight, packed.weight), (plain.bias, packed.bias)]
    for exact, found in [(one, two), *weights]:
        assert exact.grad is not None
        assert found.grad is not None
        assert torch.allclose(found.grad.double(), exact.grad, atol=1e-6 if dtype == torch.float32 else 0.03)


@X86
def test_packed_weights_are_packed_anew_where_they_change_and_copied_without() -> None:
    module = linear.Packed(6, 5).requires_grad_(False)
    module.keeps = True
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    before = module(x)
    kept = module._kept
    assert torch.equal(module(x), before)
    assert module._kept is kept
    copied = copy.deepcopy(module)
    module.weight.mul_(2)
    module.bias.mul_(2)
    assert torch.equal(module(x), 2 * before)
    assert torch.equal(copied(x), before)
    assert len(module.state_dict()) == 2


@X86
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_multiplies_by_packed_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    monkeypatch.setattr(linear, "fast", lambda: True)
    source = tiny.build(tmp_path, "qwen2")
    packed = HFBackend(source, dtype)
    assert all(type(m) is linear.Packed for m in packed.model.modules() if isinstance(m, torch.nn.Linear))
    monkeypatch.setattr(linear, "use", lambda model: None)
    plain = HFBackend(source, dtype)
    requests = [Request("One text.", target=" And its end."), Request("Another one.", target=" No.")]
    for one, other in zip(scores(packed, requests), scores(plain, requests), strict=True):
        assert one == (pytest.approx(other, abs=1e-5) if dtype == "float32" else other)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_widened_product_has_the_gradients_of_a_plain_one(frozen: bool) -> None:
    plain, widened = torch.nn.Linear(6, 5).double(), linear.Widened(6, 5).bfloat16()
    widened.keeps = True
    with torch.inference_mode():
        widened(torch.zeros(1, 6).bfloat16())  # as a model that answers before it is trained above
    for module in (plain, widened):
        module.requires_grad_(not frozen)
    widened.load_state_dict(plain.state_dict())
    plain.load_state_dict(widened.state_dict())  # the rounded numbers
    x = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    one, two = x.double().requires_grad_(), x.clone().requires_grad_()
    plain(one).sin().sum().backward()
    widened(two).sin().sum().backward()
    weights = [] if frozen else [(plain.weight, widened.weight), (plain.bias, widened.bias)]
    for exact, found in [(one, two), *weights]:
        assert exact.grad is not None
        assert found.grad is not None
        assert found.grad.dtype == torch.bfloat16
        assert torch.allclose(found.grad.double(), exact.grad, rtol=0.03, atol=0.03)


def test_a_widened_weight_that_changes_is_widened_anew() -> None:
    module = linear.Widened(6, 5).bfloat16().requires_grad_(False)
    module.keeps = True
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    before = module(x)
    kept = module._kept
    assert torch.equal(module(x), before)
    assert module._kept is kept
    module.weight.mul_(2)
    module.bias.mul_(2)
    assert torch.equal(module(x), 2 * before)
    assert "weight" in module.state_dict()
    assert len(module.state_dict()) == 2


def test_weights_that_do_not_fit_twice_are_left_to_torch_in_bf16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "fast", lambda: True)
    monkeypatch.setattr(linear, "SHARE", 2**60)
    assert not any(isinstance(m, linear.Laid) for m in HFBackend(tiny.build(tmp_path), "bfloat16").model.modules())


@pytest.mark.slow
def test_a_front_that_prompts_share_is_read_once_and_changes_no_answer(
    any_lm: HFBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    shots = ["Shots of one kind. " * 12, "And of another kind. " * 12]
    ends = ("Go.", "Now, tell me more about this and that.", "What is it?")
    plain = [Request(ask(shot + end), sampling=DRAWN, seed=len(end)) for shot in shots for end in ends]
    requests = [*plain, Request(ask("Alone."), sampling=DRAWN), *(replace(r, steering=add()) for r in plain)]
    prefix_groups: list[int] = []
    read = cache.read

    def watched(model: Any, ids: Any) -> Any:
        prefix_groups.append(len(ids))
        return read(model, ids)

    monkeypatch.setattr(cache, "read", watched)
    found = texts(any_lm, requests)
    begin = len(any_lm.encode(ask("")))  # one byte is one token
    assert len(prefix_groups) == (2 if reads_trees(any_lm.model, 400) else 0)
    assert all(
        abs(prefix - begin - len(shot)) <= begin for prefix, shot in zip(sorted(prefix_groups), shots, strict=False)
    )
    assert found == [texts(any_lm, [request])[0] for request in requests]
    assert found[: len(plain)] != found[-len(plain) :]
    monkeypatch.setattr(cache, "read", lambda *_: ())  # a model that keeps something else
    assert texts(any_lm, plain) == found[: len(plain)]


def test_answers_are_those_of_transformers_own_cache(any_lm: HFBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [Request(ask("word " * n), sampling=replace(DRAWN, max_new_tokens=20), seed=n) for n in (1, 4, 30)]
    used: dict[cache.Roomy, set[int]] = {}
    update = cache.Roomy.update

    def watched(self: cache.Roomy, *states: Any, **rest: Any) -> Any:
        keys, values = update(self, *states, **rest)
        used.setdefault(self, set()).add(keys.data_ptr())
        return keys, values

    monkeypatch.setattr(cache.Roomy, "update", watched)
    monkeypatch.setattr(any_lm.model.generation_config, "use_cache", False)  # a checkpoint's own default
    found = texts(any_lm, requests)
    assert used
    assert {len(places) for places in used.values()} == {1}  # nothing was moved
    monkeypatch.setattr(cache, "cache", lambda *_: {})
    used.clear()
    assert texts(any_lm, requests) == found
    assert not used


def test_a_pass_with_a_gradient_keeps_torch_s_own_attention(lm: HFBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lm.model is not None  # registers
    monkeypatch.delitem(AttentionInterface._global_mapping, attention.NAME)
    lm.model(input_ids=torch.zeros(1, 4, dtype=torch.long))
    assert lm.model.config._attn_implementation == "sdpa"


def test_a_raw_text_needs_no_template(lm: HFBackend) -> None:
    found = scores(lm, [Request("Once upon a", target=" time")])
    assert len(found[0]) == len(" time")
    assert lm.encode("ab") == lm.chat.continued("ab")


@pytest.mark.model
def test_a_system_message_is_words_however_it_begins(default_model: Model) -> None:
    lm = HFBackend(default_model, "float32")
    for message in ("You are a pirate.", "You are a helpful AI assistant named Ann.", "Answer in French."):
        ids = lm.encode((("system", message), *ask("Hi")))
        assert lm.tokenizer.decode(ids[lm.header(ids) :]).startswith(message)
    assert lm.tokenizer.decode(lm.encode(ask("Hi"))[lm.template_prefix :]).startswith("Hi")


@pytest.mark.slow
def test_answers_share_larger_batches_than_texts_as_far_as_memory_has_room(
    lm: HFBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (lm.answers.rows, lm.batches.rows) == (256, 64)
    assert lm.answers.tokens >= lm.batches.tokens
    one, few = HFBackend(lm.source, "float32", batch=1), HFBackend(lm.source, "float32", batch=9, tokens=100)
    assert (one.answers.rows, one.batches.rows) == (1, 1)
    assert (few.answers.rows, few.answers.tokens) == (9, 100)
    config = lm.model.config
    kept = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    passing = 4 * (8 * config.hidden_size + 3 * config.intermediate_size)
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 10**4}[name])
    assert memory.room(lm.model) == (4096 * 10**4 // 8 // (kept + passing), 4096 * 10**4 // 8 // 8)
    monkeypatch.setattr(os, "sysconf", lambda name: 2**20)
    assert memory.room(lm.model) == memory.MOST
    pairs = lm.answers.seen
    long, short = [900] * 12, [20] * 300
    for batch in lm.answers.split([*long, *short]):
        assert len(batch) == 1 or len(batch) * ([*long, *short][batch[0]]) ** 2 <= pairs
    assert max(map(len, lm.answers.split(short))) == 256
