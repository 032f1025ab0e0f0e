"""Scoring targets after prompts: many in one row give what each gives in a plain pass of its own."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from bench.backends import tiny
from bench.backends.hf import prefix as prefixes, scoring
from bench.backends.hf.backend import HFBackend
from bench.backends.hf.batches import Batches
from bench.backends.hf.prefix import LONG, prefix_groups
from bench.backends.hf.scoring import WIDE, Scored, Tree
from bench.core.content import Message
from bench.core.deltas import LowRankDelta
from bench.core.edits import Edit, Gate, Span
from bench.core.errors import BenchError
from bench.core.kinds import Add, LowRank
from bench.core.steering import Steering
from bench.core.values import Request

H = 32
ASKS = ("What is it?", "Name a colour, any colour that you like, and say why you like it so much.")
TARGETS = ("It is a red ball.", "It is a red box, I think.", "N", "No.", "It is", "Yes and no, but mostly yes.")
RNG = np.random.default_rng(0)


def ask(text: str) -> tuple[Message, ...]:
    return (("user", text),)


def drawn(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


def plain(lm: HFBackend, request: Request) -> tuple[list[float], bool]:
    """The target's log-probabilities by one pass of the bare model over prompt and target."""
    prompt = lm.encode(request.prompt, request.prefill)
    target = lm.chat.continued(request.target)
    with torch.no_grad():
        logits = lm.model(input_ids=torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1].float()
    found = logits.log_softmax(-1)[range(len(target)), target].tolist()
    return found, logits.argmax(-1).tolist() == target


def scored(lm: HFBackend, requests: list[Request]) -> list[Scored]:
    found = dict(lm.logprobs(requests))
    assert set(found) == set(range(len(requests)))
    return [found[i] for i in range(len(requests))]  # type: ignore[misc]


def widths(lm: HFBackend, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The lengths of the rows of each pass that follows."""
    _ = lm.model  # it is tried out as it loads
    seen: list[list[int]] = []
    pad = Batches.pad

    def watched(self: Batches, rows: Any, prefix: int = 0) -> Any:
        seen.append([len(row) for row in rows])
        return pad(self, rows, prefix)

    monkeypatch.setattr(Batches, "pad", watched)
    return seen


def test_targets_of_a_prompt_score_as_in_passes_of_their_own(any_lm: HFBackend) -> None:
    requests = [Request(ask(a), target=t) for a in ASKS for t in TARGETS]
    for request, found in zip(requests, scored(any_lm, requests), strict=True):
        values, greedy = plain(any_lm, request)
        assert list(found.logprobs) == pytest.approx(values, abs=1e-4)
        assert found.greedy == greedy


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="products of few rows have other bits there")
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_score_is_the_same_bits_in_any_company(tmp_path: Any, kind: str) -> None:
    """So that a judge that was killed goes on with the evidence that it would have had."""
    lm = tiny.engine(tmp_path, kind)
    steerings = (None, Steering(edits=(Add(layer=2, value=drawn(H)),)))
    requests = [Request(ask(a), s, target=t * (1 + len(a) // 20)) for s in steerings for a in ASKS for t in TARGETS]
    together = [one.logprobs for one in scored(lm, requests)]
    for size in (1, 5, 7):
        parts = [requests[i : i + size] for i in range(0, len(requests), size)]
        assert [one.logprobs for part in parts for one in scored(lm, part)] == together, size


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="products of few rows have other bits there")
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_activations_are_the_same_bits_in_any_company(tmp_path: Any, kind: str) -> None:
    lm = tiny.engine(tmp_path, kind)
    texts = [ask(f"{a} {t * n}") for a in ASKS for t in TARGETS for n in (1, 9)]
    together = lm.activations(texts, [0, 3])
    for size in (1, 5, 7):
        parts = [one for i in range(0, len(texts), size) for one in lm.activations(texts[i : i + size], [0, 3])]
        for one, other in zip(parts, together, strict=True):
            assert all(np.array_equal(one.values[layer], other.values[layer]) for layer in (0, 3)), size


def test_the_likeliest_target_is_known_as_such(lm: HFBackend) -> None:
    prompt = lm.encode(ask(ASKS[0]))
    with torch.no_grad():
        best = int(lm.model(input_ids=torch.tensor([prompt])).logits[0, -1].argmax())
    found = dict(lm.score([prompt, prompt], [[best], [best, 1, 2]], [Request(""), Request("")]))
    assert found[0].greedy
    assert found[1].logprobs[0] == found[0].logprobs[0]


def test_a_window_shorter_than_a_row_still_bounds_what_is_seen(tmp_path: Any) -> None:
    """Gemma's layers with a window of 64 tokens: rows beyond it fall back on the model's own mask."""
    lm = tiny.engine(tmp_path, "gemma2")
    requests = [Request(ask("word " * n), target=t) for n in (1, 30) for t in TARGETS]
    assert len(lm.encode(requests[-1].prompt)) > 64
    for request, found in zip(requests, scored(lm, requests), strict=True):
        assert list(found.logprobs) == pytest.approx(plain(lm, request)[0], abs=1e-4)


STRANGE = {"_is_stateful": True, "_supports_attention_backend": False, "layer_types": ["linear_attention"]}


@pytest.mark.parametrize("name", STRANGE)
def test_a_model_whose_attention_no_mask_describes_reads_one_target_a_row_unless_nothing_is_to_be_read(
    lm: HFBackend, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    holder = lm.model if name.startswith("_") else lm.model.config
    monkeypatch.setattr(holder, name, STRANGE[name], raising=False)
    seen = widths(lm, monkeypatch)
    prompt = len(lm.encode(ask(ASKS[0])))
    scored(lm, [Request(ask(ASKS[0]), target=t) for t in TARGETS])
    # A lone letter is asked for at the prompt's end, whatever row that is in.
    read = [t for t in TARGETS if len(t) > 1]
    assert sorted(n for rows in seen for n in rows) == sorted(prompt + len(t) - 1 for t in read)


def test_targets_of_one_token_share_a_plain_row_on_any_model(lm: HFBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm.model, "_is_stateful", True, raising=False)
    monkeypatch.setattr(scoring, "_mask", None)
    seen = widths(lm, monkeypatch)
    requests = [Request(ask(ASKS[0]), target=t) for t in "ABCD"]
    for request, found in zip(requests, scored(lm, requests), strict=True):
        assert list(found.logprobs) == pytest.approx(plain(lm, request)[0], abs=1e-4)
    assert seen == [[len(lm.encode(ask(ASKS[0])))]]


@pytest.mark.parametrize("bare", [0, 1])
def test_a_change_of_the_output_matrix_stays_in_its_own_row(lm: HFBackend, bare: int) -> None:
    vocabulary = lm.model.config.vocab_size
    changed = Steering(deltas=(LowRankDelta(module="lm_head", down=drawn(2, H), up=drawn(vocabulary, 2)),))
    steerings = [changed, changed]
    steerings[bare] = Steering()
    requests = [Request(ask(ASKS[0]), s, target=t) for s in steerings for t in TARGETS]
    for request, found in zip(requests, scored(lm, requests), strict=True):
        (alone,) = scored(lm, [request])
        assert list(found.logprobs) == pytest.approx(list(alone.logprobs), abs=1e-4)
    assert list(scored(lm, requests[:1])[0].logprobs) != pytest.approx(list(scored(lm, requests[-1:])[0].logprobs))


def test_a_delta_on_no_module_is_refused_by_name(lm: HFBackend) -> None:
    wrong = Steering(deltas=(LowRankDelta(module="model.nowhere", down=drawn(2, H), up=drawn(H, 2)),))
    with pytest.raises(BenchError, match=r"model\.nowhere"):
        scored(lm, [Request(ask(ASKS[0]), wrong, target="No.")])


def test_what_targets_begin_with_together_is_read_once(lm: HFBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = widths(lm, monkeypatch)
    scored(lm, [Request(ask(ASKS[0]), target=t) for t in ("It is a red ball.", "It is a red box.", "It is a red")])
    prompt = len(lm.encode(ask(ASKS[0])))
    # The last character of a target is asked for, not read.
    assert seen == [[prompt + len("It is a red b") + len("all") + len("ox")]]


def test_many_long_targets_take_several_rows(lm: HFBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = widths(lm, monkeypatch)
    requests = [Request(ask(ASKS[0]), target=f"{i} " + "and on " * 10) for i in range(9)]
    prompt = len(lm.encode(ask(ASKS[0])))
    found = scored(lm, requests)
    lengths = [n for rows in seen for n in rows]
    assert len(lengths) > 1
    assert max(lengths) <= prompt + WIDE
    assert list(found[4].logprobs) == pytest.approx(plain(lm, requests[4])[0], abs=1e-4)


EDITS: dict[str, Edit] = {
    "everywhere": Add(layer=1, value=drawn(H)),
    "prompt": Add(layer=1, value=drawn(H), span=Span(part="prompt")),
    "response": Add(layer=1, value=drawn(H), span=Span(part="response")),
    "front": Add(layer=0, value=drawn(3, H), span=Span(part="prompt", first=3)),
    "ramp": Add(layer=0, value=drawn(200, H)),
    "gated": Add(layer=2, value=drawn(H), gate=Gate(layer=1, direction=drawn(H), threshold=-2.0)),
    "ends": LowRank(layer=1, rotation=drawn(2, H), weight=drawn(2, H), bias=drawn(2), span=Span(first=2, last=2)),
}


@pytest.mark.parametrize("name", EDITS)
def test_edits_act_on_the_same_tokens_in_a_shared_row_as_alone(lm: HFBackend, name: str) -> None:
    steering = Steering(edits=(EDITS[name],))
    requests = [Request(ask(a), steering, target=t) for a in ASKS for t in TARGETS]
    for request, found in zip(requests, scored(lm, requests), strict=True):
        (alone,) = scored(lm, [request])
        assert list(found.logprobs) == pytest.approx(list(alone.logprobs), abs=1e-4)
        assert found.positions_edited == alone.positions_edited
        read = len(lm.encode(request.prompt)), len(request.target) - 1  # a byte is a token
        header = lm.template_prefix
        expected = {"everywhere": sum(read) - header, "prompt": read[0] - header, "response": read[1]}.get(name)
        if expected is not None:
            assert found.positions_edited == (expected,)


def shots(number: int) -> str:
    """What a prompt of many examples begins with: a byte is a token."""
    return f"Shots {number}. " + "Ask; answer. " * 20


@pytest.mark.slow
@pytest.mark.parametrize("prefill", ["", "So"])
def test_prompts_that_begin_alike_are_read_together_and_score_as_alone(
    any_lm: HFBackend, monkeypatch: pytest.MonkeyPatch, prefill: str
) -> None:
    vector = Steering(edits=(Add(layer=0, value=drawn(H)),))
    requests = [
        Request(ask(shots(n) + a), s, target=t, prefill=prefill)
        for n in (0, 1)
        for a in ASKS
        for t in TARGETS
        for s in (None, vector)
    ]
    seen = widths(any_lm, monkeypatch)
    found = scored(any_lm, requests)
    reads = scoring.reads_trees(any_lm.model, 600)
    if reads:
        assert sum(map(len, seen)) == 2 + 4  # a row for each front, and for each edited prompt
    for request, one in zip(requests, found, strict=True):
        (alone,) = scored(any_lm, [request])
        assert list(one.logprobs) == pytest.approx(list(alone.logprobs), abs=1e-4)
        assert one.positions_edited == alone.positions_edited


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=9), max_size=9), st.integers(1, 4))
def test_fronts_are_shared_by_all_and_leave_each_a_token(rows: list[list[int]], least: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefixes, "LONG", least)
        groups = prefix_groups(rows)
    assert sorted(i for _, own in groups for i in own) == list(range(len(rows)))
    for prefix, own in groups:
        if prefix:
            assert len(own) > 1
            assert prefix >= max(least, max(len(rows[i]) for i in own) / 2)
            assert len({tuple(rows[i][:prefix]) for i in own}) == 1
            assert min(len(rows[i]) for i in own) > prefix
    assert sum(not prefix for prefix, _ in groups) <= 1


def test_only_long_fronts_are_worth_a_pass() -> None:
    rows = [[1] * n + [2, k] for n in (LONG - 2, LONG + 3) for k in (3, 4)] + [[1] * (LONG + 3) + [2] * 999]
    assert prefix_groups(rows) == [(LONG + 4, [2, 3]), (0, [4, 0, 1])]
    assert prefix_groups([]) == []


def test_a_tree_is_its_targets() -> None:
    tree = Tree([7, 8], [[1, 2, 3], [1, 2, 4, 5], [9], [1, 6, 5]])
    assert tree.ids == [7, 8, 1, 2, 4, 6]
    assert tree.places == [0, 1, 2, 3, 4, 3]
    assert tree.paths == [[2, 3], [2, 3, 4], [], [2, 5]]
    assert [tree.before(n, 1) for n in range(4)] == [[3], [4], [1], [5]]
    assert tree.before(0, 3) == [1, 2, 3]
    assert tree.sees.astype(int).tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 0, 0, 1],
    ]


def test_padding_makes_a_pass_no_longer_than_is_allowed() -> None:
    batches = Batches(64, 8192, 0, torch.device("cpu"))
    lengths = [400, 30, 31, 29, 390, 32, 60]
    found = list(batches.split(lengths, padded=1.1))
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) * max(lengths[i] for i in batch) <= 1.1 * sum(lengths[i] for i in batch)
    assert len(found) == 3
    assert len(list(batches.split(lengths))) == 1
