"""The vLLM backend against the HF backend: the same requests, each with its own steering, in one batch.

Real engines throughout: the default model in an engine with its own processes, as users run it, and tiny
random models of other families in this process, where an engine starts in seconds.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.backends import tiny
from bench.backends.hf.backend import HFBackend
from bench.backends.hf.hooks import Applied
from bench.backends.models import Model
from bench.backends.vllm import backend
from bench.backends.vllm.backend import VLLMBackend
from bench.core.content import Message
from bench.core.deltas import DenseDelta, LowRankDelta
from bench.core.edits import Edit, Gate, Span
from bench.core.errors import BenchError
from bench.core.kinds import Add, Clamp, Diagonal, LowRank, Project, Rotate, Scaled
from bench.core.steering import Prompt, Steering
from bench.core.values import Request, Sampling

WIDTH = 128
"""Hidden size of the tiny models: the attention kernels of a processor take heads of 32 and more."""
PUSH = 120.0
"""Length of a vector that changes the default model's text: its median residual norm at layer 15 is 174."""
NO_STOP: dict[str, Any] = {"stop_token_ids": []}
ASKS = (
    "Why is the sky blue?",
    "Name three colours.",
    "What can I cook with rice, two eggs and a tomato if I have no oven and little time?",
    "Tell me about rivers.",
    "Write one line about the sea.",
    "Who wrote Hamlet, and when?",
    "How do magnets work?",
    "Give me a short plan for a day in the mountains with two small children and a dog.",
)


def ask(text: str) -> tuple[Message, ...]:
    return (("user", text),)


def kinds(width: int, layers: int, size: float) -> dict[str, Steering | None]:
    """One steering of each kind, pushing by about `size`."""
    rng = np.random.default_rng(5)
    value = rng.standard_normal(width).astype(np.float32)
    value *= size / np.linalg.norm(value)
    basis = np.linalg.qr(rng.standard_normal((width, 2)))[0].T.astype(np.float32)
    deep, mid = layers // 2, layers // 3
    push = Steering(edits=(Add(layer=deep, value=value),))
    down = rng.standard_normal((4, width)).astype(np.float32) / np.float32(width**0.5)
    up = rng.standard_normal((width, 4)).astype(np.float32) * np.float32(0.2)
    return {
        "none": None,
        "add 0.5": push.scaled(0.5),
        "add 1": push,
        "add -2": push.scaled(-2),
        "project": Steering(edits=(Project(layer=mid, basis=basis),)),
        "clamp": Steering(edits=(Clamp(layer=mid, read=basis[0], write=basis[1], target=size, at_least=True),)),
        "lowrank": Steering(
            edits=(LowRank(layer=mid, rotation=basis, weight=basis * 0.5, bias=np.ones(2, np.float32)),)
        ),
        "scaled": Steering(
            edits=(Scaled(layer=mid, read=basis, write=basis * 2, bias=np.ones(2, np.float32), activation="tanh"),)
        ),
        "diagonal": Steering(edits=(Diagonal(layer=mid, gain=1 + 0.3 * basis[0], shift=value / 4),)),
        "rotate": Steering(edits=(Rotate(layer=mid, basis=basis, angle=1.0, when="aligned"),)),
        "towards": Steering(edits=(Rotate(layer=mid, basis=basis, mode="towards", strength=0.2),)),
        "two layers": Steering(edits=(Add(layer=mid, value=value), Project(layer=deep, basis=basis[:1]))),
        "lora": Steering(deltas=(LowRankDelta(module=f"model.layers.{mid}.self_attn.q_proj", down=down, up=up),)),
    }


def more_kinds(width: int, layers: int, size: float) -> dict[str, Steering | None]:
    """Spans, sites, flags, gates and a combination."""
    base = kinds(width, layers, size)["add 1"]
    assert base is not None
    (edit,) = base.edits
    assert isinstance(edit, Add)
    rows = np.stack([edit.value, -edit.value, edit.value[::-1]])
    gate = Gate(0, edit.value, 0.0, similarity="cosine")
    edits: dict[str, tuple[Edit, ...]] = {
        "signed": (replace(edit, signed=True),),
        "norm": (replace(edit, keep_norm=True),),
        "rows": (replace(edit, value=rows, span=Span("prompt", last=3)),),
        "response": (replace(edit, span=Span("response")),),
        "generation": (replace(edit, span=Span("generation")),),
        "sites": (replace(edit, site="attn"), replace(edit, site="mlp")),
        "gate above": (replace(edit, gate=gate),),
        "gate below": (replace(edit, gate=replace(gate, above=False)), Add(layer=0, value=edit.value)),
        "gate last": (replace(edit, gate=replace(gate, pooling="last", similarity="cast")),),
    }
    lora = kinds(width, layers, size)["lora"]
    assert lora is not None
    found: dict[str, Steering | None] = {name: Steering(edits=own) for name, own in edits.items()}
    return found | {"both": lora.merged(base), "prompt": Steering(Prompt(system="Be brief."), base.edits)}


def first_logprobs(lm: HFBackend, request: Request, ids: list[int]) -> torch.Tensor:
    """Log-probabilities of the token after `ids`, the request's prompt and more, by transformers."""
    prompt = lm.chat.steered(request)
    with torch.no_grad(), Applied(lm.model, [request.steering], [len(prompt)], [0], lm.begins(prompt, request)):
        logits = lm.model(torch.tensor([ids])).logits[0, -1]
    return torch.log_softmax(logits.float(), -1)


class Parity:
    """Answers of both engines to the same greedy requests."""

    def __init__(self, engine: VLLMBackend, lm: HFBackend, requests: list[Request]) -> None:
        self.requests, self.lm = requests, lm
        self.theirs = dict(lm.generate(requests))
        found = {i: (output, positions_edited) for i, output, positions_edited in engine.outputs(requests, logprobs=2)}
        self.outputs = [found[i][0] for i in range(len(requests))]
        self.positions_edited = [found[i][1] for i in range(len(requests))]
        self.ends = set(engine.ends)

    def check(self, allowed: int) -> None:
        """Equal tokens but for `allowed` requests that split at a tie; equal counts and first log-probabilities."""
        apart = []
        for i, (request, output) in enumerate(zip(self.requests, self.outputs, strict=True)):
            answer, theirs = output.outputs[0], self.theirs[i]
            ids = list(answer.token_ids)
            first = first_logprobs(self.lm, request, list(output.prompt_token_ids))
            for token, found in answer.logprobs[0].items():
                assert found.logprob == pytest.approx(first[token].item(), abs=1e-3), (i, token)
            kept = [token for token in ids if token not in self.ends]
            if self.lm.tokenizer.decode(kept, skip_special_tokens=True) == theirs.text and len(ids) == theirs.tokens:
                assert self.positions_edited[i] == theirs.positions_edited, i
                assert len(output.prompt_token_ids) == theirs.prompt_tokens
                continue
            apart.append(i)
            at = self.split(request, output)
            top = first_logprobs(self.lm, request, [*output.prompt_token_ids, *ids[:at]]).topk(2).values
            assert top[0] - top[1] < 1e-3, f"request {i} splits at token {at} where nothing is tied"
        print(f"{len(apart)} of {len(self.requests)} requests split at a tie")
        assert len(apart) <= allowed, apart

    def split(self, request: Request, output: Any) -> int:
        """Where the answer stops being transformers' greedy choice."""
        ids, prompt = list(output.outputs[0].token_ids), list(output.prompt_token_ids)
        with torch.no_grad(), Applied(self.lm.model, [request.steering], [len(prompt)], [0], self.lm.header(prompt)):
            logits = self.lm.model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        return next(n for n, (a, b) in enumerate(zip(logits.argmax(-1).tolist(), ids, strict=True)) if a != b)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An engine in this process; what it sets for the whole process is put back."""
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    kept, threads = torch.set_num_threads, torch.get_num_threads()
    yield
    torch.set_num_threads = kept
    torch.set_num_threads(threads)


@pytest.fixture
def small(tmp_path: Path, in_process: None) -> Iterator[Callable[..., tuple[VLLMBackend, HFBackend]]]:
    """Makes an engine on a tiny random model of a kind, with an HF backend beside it."""
    made: list[VLLMBackend] = []

    def make(kind: str = "llama", **settings: Any) -> tuple[VLLMBackend, HFBackend]:
        model = tiny.build(tmp_path / kind, kind, width=WIDTH)
        made.append(VLLMBackend(model, "float32", **({"memory": 0.05, "context": 1024} | settings)))
        return made[-1], HFBackend(model, "float32")

    yield make
    for engine in made:
        engine.close()


@pytest.fixture(scope="module")
def engine(default_model: Model) -> Iterator[VLLMBackend]:
    """The default model in an engine with processes of its own."""
    made = VLLMBackend(default_model, "float32", context=1024, rows=64)
    yield made
    made.close()


@pytest.mark.vllm
def test_64_requests_with_steerings_of_their_own_equal_hf(engine: VLLMBackend, default_model: Model) -> None:
    steerings = list(kinds(576, 30, PUSH).values())
    requests = [
        Request(ask(text), steering, Sampling(64, 0.0, 0))
        for _, (text, steering) in zip(range(64), product(ASKS, steerings), strict=False)
    ]
    Parity(engine, HFBackend(default_model, "float32"), requests).check(allowed=4)
    assert engine.runner == "V1"  # the processor build; GPUs run V2


@pytest.mark.slow
@pytest.mark.vllm
def test_an_unsteered_request_does_not_see_its_neighbours(engine: VLLMBackend) -> None:
    steerings = [None, *kinds(576, 30, PUSH).values()]
    mixed = [Request(ask(text), s, Sampling(16, 0.0, 0)) for text in ASKS[:3] for s in steerings]
    plain = [replace(request, steering=None) for request in mixed]

    def run(requests: list[Request]) -> dict[int, Any]:
        engine._start(8).reset_prefix_cache()  # both batches begin alike, so that bits may be compared
        return {i: o.outputs[0] for i, o, _ in engine.outputs(requests, logprobs=2, **NO_STOP)}

    one, two = run(mixed), run(plain)
    unsteered = [i for i, request in enumerate(mixed) if request.steering is None]
    assert len(unsteered) == 6
    for i in unsteered:
        assert list(one[i].token_ids) == list(two[i].token_ids)
        for left, right in zip(one[i].logprobs, two[i].logprobs, strict=True):
            assert {t: v.logprob for t, v in left.items()} == pytest.approx(
                {t: v.logprob for t, v in right.items()}, abs=0
            )
    assert any(list(one[i].token_ids) != list(two[i].token_ids) for i in one if i not in unsteered)


@pytest.mark.slow
@pytest.mark.vllm
def test_sampling_belongs_to_the_request(engine: VLLMBackend) -> None:
    push = kinds(576, 30, PUSH)["add 1"]
    drawn = [Request(ask(ASKS[0]), s, Sampling(8, 1.0, 50), seed=seed) for s in (None, push) for seed in (1, 2**62 + 1)]
    together, alone = dict(engine.generate(drawn)), [dict(engine.generate([one]))[0] for one in drawn[::-1]]
    assert [together[i].text for i in range(4)] == [one.text for one in alone[::-1]]
    assert len({together[i].text for i in range(4)}) == 4


@pytest.mark.slow
@pytest.mark.vllm
def test_an_answer_not_awaited_leaves_nothing_behind(engine: VLLMBackend) -> None:
    push = kinds(576, 30, PUSH)["add 1"]
    for _ in engine.generate(
        [Request(ask(text), push, Sampling(n, 0.0, 0)) for text, n in zip(ASKS, (2, 300), strict=False)]
    ):
        break
    assert not engine._llm.llm_engine.has_unfinished_requests()
    answer = dict(engine.generate([Request(ask(ASKS[0]), push, Sampling(2, 0.0, 0))]))[0]
    ids = engine.hf.encode(ask(ASKS[0]))
    assert answer.positions_edited == (len(ids) - engine.header(ids) + answer.tokens - 1,)


@pytest.mark.vllm
def test_the_engine_writes_to_its_log_and_not_to_the_terminal(
    engine: VLLMBackend, capfd: pytest.CaptureFixture[str]
) -> None:
    dict(engine.generate([Request(ask(ASKS[0]), None, Sampling(2, 0.0, 0))]))
    assert capfd.readouterr() == ("", "")
    assert "LLM engine" in engine.log.read_text("utf-8")


@pytest.mark.slow
@pytest.mark.vllm
def test_the_engine_is_tried_with_the_text_that_transformers_scored(engine: VLLMBackend) -> None:
    assert list(engine.generate([Request((("user", "Hi"),), sampling=Sampling(2, 0.0))]))
    assert engine.hf.model is not None
    found = engine.findings()
    assert found["vllm"]["logprob"] == pytest.approx(found["logprob"], abs=0.02)


def test_other_questions_go_to_transformers_in_the_same_run(engine: VLLMBackend, default_model: Model) -> None:
    lm = HFBackend(default_model, "float32")
    push = kinds(576, 30, PUSH)["add 1"]
    request = Request(ask(ASKS[0]), push, target="Because.")
    assert dict(engine.logprobs([request])) == dict(lm.logprobs([request]))
    (one,), (two,) = (b.activations([ask(ASKS[0])], [3]) for b in (engine, lm))
    np.testing.assert_array_equal(one.values[3], two.values[3])
    assert (engine.layers, engine.header(lm.encode(ask("Hi"))), engine.count(ask("Hi"))) == (
        lm.layers,
        lm.template_prefix,
        lm.count(ask("Hi")),
    )
    assert engine.fingerprint() != lm.fingerprint()


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_tiny_models_of_other_families_equal_hf(kind: str, small: Callable[..., tuple[VLLMBackend, HFBackend]]) -> None:
    one, lm = small(kind)
    steerings = [*kinds(WIDTH, 4, 6.0).values(), *more_kinds(WIDTH, 4, 6.0).values()]
    requests = [Request(ask(text), s, Sampling(12, 0.0, 0)) for text in ASKS[:3] for s in steerings]
    found = Parity(one, lm, requests)
    found.check(allowed=2)
    fired = {
        bool(found.positions_edited[i][0])
        for i, r in enumerate(requests)
        if r.steering and any(e.gate for e in r.steering.edits)
    }
    assert fired == {True, False}


@pytest.mark.slow
@pytest.mark.vllm
def test_the_prefix_cache_never_mixes_steered_and_unsteered_blocks(
    small: Callable[..., tuple[VLLMBackend, HFBackend]],
) -> None:
    one, lm = small()
    push, gate = kinds(WIDTH, 4, 6.0)["add 1"], more_kinds(WIDTH, 4, 6.0)["gate above"]
    assert push is not None
    text = ask(" ".join(ASKS * 2))  # several blocks long
    order = [None, push, None, push, push.scaled(0.5), push.scaled(0.5), gate, gate, None]
    cached, before = [], dict(lm.generate([Request(text, s, Sampling(12, 0.0, 0)) for s in order]))
    for i, steering in enumerate(order):
        request = Request(text, steering, Sampling(12, 0.0, 0))
        ((_, output, positions_edited),) = one.outputs([request], logprobs=2)
        cached.append(output.num_cached_tokens > 0)
        first = first_logprobs(lm, request, list(output.prompt_token_ids))
        for token, found in output.outputs[0].logprobs[0].items():
            assert found.logprob == pytest.approx(first[token].item(), abs=1e-4), i
        assert (
            positions_edited == before[i].positions_edited
        )  # blocks from the cache count: an equal steering wrote them
    # Equal steerings share, unsteered prompts share; a gate must read the prompt again.
    assert cached == [False, False, True, True, False, True, False, False, True]


@pytest.mark.slow
@pytest.mark.vllm
def test_turns_that_edits_leave_alone_are_not_taken_for_edited_ones(
    small: Callable[..., tuple[VLLMBackend, HFBackend]],
) -> None:
    """Of a dialogue whose earlier turns are settled: equal to transformers, also where the cache has them edited."""
    one, lm = small()
    push = kinds(WIDTH, 4, 6.0)["add 1"]
    text = " ".join(ASKS)[:200]  # the tiny model reads bytes: a block or two a turn
    chat = (("user", text), ("assistant", text), ("user", text))
    asked = [Request(chat, push, Sampling(12, 0.0, 0), settled=n) for n in (0, 2, 0, 2)]
    touched = []
    for request in asked:
        found = Parity(one, lm, [request])
        found.check(allowed=0)
        touched.append(found.positions_edited[0][0])
    assert touched[0] == touched[2] > touched[1] == touched[3] > 0


@pytest.mark.slow
@pytest.mark.vllm
def test_chunked_prefill_and_preemption_change_nothing(
    small: Callable[..., tuple[VLLMBackend, HFBackend]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Few blocks of 128 tokens, for six requests that grow past one or two each.
    block = 128 * 4 * 2 * 2 * 32 * 4  # layers, keys and values, heads, head size, bytes
    one, lm = small(chunked=True, step_tokens=48, rows=8, memory=9.5 * block / 2**30)
    steerings = [s for s in kinds(WIDTH, 4, 6.0).values() if s is None or s.edits][:6]
    requests = [Request(ask(f"{i} " + " ".join(ASKS[:2])), s, Sampling(90, 0.0, 0)) for i, s in enumerate(steerings)]
    scheduler = one._start(0).engine_core.engine_core.scheduler
    preempted: list[str] = []
    preempt = scheduler._preempt_request
    monkeypatch.setattr(
        scheduler, "_preempt_request", lambda r, *a, **k: (preempted.append(r.request_id), preempt(r, *a, **k))[1]
    )
    Parity(one, lm, requests).check(allowed=1)
    assert preempted
    gated = more_kinds(WIDTH, 4, 6.0)["gate above"]
    with pytest.raises(BenchError, match=r"gate.*chunked prefill"):
        dict(one.generate([Request(ask("Hi"), gated)]))


@pytest.mark.slow
@pytest.mark.vllm
def test_steering_inside_the_compiled_graph_equals_hf(
    small: Callable[..., tuple[VLLMBackend, HFBackend]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / "compiled"))
    one, lm = small(compiled=True)
    steerings = {**kinds(WIDTH, 4, 6.0), **more_kinds(WIDTH, 4, 6.0)}
    inside = [s for s in steerings.values() if s is None or (s.needs <= one.can and not s.deltas)]
    Parity(one, lm, [Request(ask(text), s, Sampling(12, 0.0, 0)) for text in ASKS[:2] for s in inside]).check(allowed=2)
    with pytest.raises(BenchError, match="cannot site:attn, site:mlp"):
        dict(one.generate([Request(ask("Hi"), steerings["sites"])]))


@pytest.mark.vllm
def test_what_cannot_be_done_is_refused_before_the_engine_starts(
    small: Callable[..., tuple[VLLMBackend, HFBackend]],
) -> None:
    one, _ = small()
    dense = DenseDelta(module="model.layers.0.mlp.up_proj", change=np.ones((WIDTH, WIDTH), np.float32))
    push = kinds(WIDTH, 4, 6.0)["add 1"]
    assert push is not None
    cases = {
        "DenseDelta": Request(ask("Hi"), Steering(deltas=(dense,))),
        "layer 9": Request(ask("Hi"), Steering(edits=(replace(push.edits[0], layer=9),))),
        "tokens of context": Request(ask("Hi"), push, Sampling(5000)),
    }
    for reason, request in cases.items():
        with pytest.raises(BenchError, match=reason):
            dict(one.generate([Request(ask("Hi")), request]))
    assert one._llm is None


@pytest.mark.slow
@pytest.mark.vllm
def test_an_edit_that_touches_nothing_is_an_error(small: Callable[..., tuple[VLLMBackend, HFBackend]]) -> None:
    one, _ = small()
    nowhere = Steering(
        edits=(Add(layer=1, value=np.ones(WIDTH, np.float32), span=Span("prompt", first=2, offset=500)),)
    )
    with pytest.raises(BenchError, match="touched no position"):
        dict(one.generate([Request(ask("Hi"), nowhere, Sampling(2, 0.0, 0))]))
    # Hooks that are not there must not pass as steering.
    one._llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker.steering.apply = lambda *_: None
    with pytest.raises(BenchError, match="touched no position"):
        dict(one.generate([Request(ask("Hi"), kinds(WIDTH, 4, 6.0)["add 1"], Sampling(2, 0.0, 0))]))


@pytest.mark.vllm
def test_the_gpu_runner_has_what_the_extension_reads() -> None:
    """V2 needs Triton and does not run on a processor: hold its interface, which `watch` probes."""
    import dataclasses
    import inspect

    from vllm.v1.worker.gpu.input_batch import InputBatch
    from vllm.v1.worker.gpu.model_runner import GPUModelRunner

    fields = {f.name for f in dataclasses.fields(InputBatch)}
    assert {"req_ids", "num_reqs", "num_scheduled_tokens", "num_computed_tokens_np"} <= fields
    assert list(inspect.signature(GPUModelRunner.add_requests).parameters) == ["self", "scheduler_output"]
    source = inspect.getsource(GPUModelRunner.execute_model)
    assert "self.prepare_inputs(" in source
    assert "self.add_requests(" in source


@pytest.mark.slow
def test_a_version_outside_the_tested_range_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: ['vllm<0.34,>=0.32; extra == "vllm"'])
    for found, reason in (
        ("0.31.2", "outside the tested range"),
        ("0.34.0", "pip install 'vllm<0.34,>=0.32'"),
        ("0.32.4", ""),
        ("0.33.0", ""),
        ("", "not installed"),
    ):
        monkeypatch.setattr(backend, "version", lambda found=found: found)
        assert reason in backend.unable()
        assert bool(reason) == bool(backend.unable())
    monkeypatch.setattr(backend, "version", lambda: "0.31.2")
    with pytest.raises(BenchError, match=r"backend vllm: vllm 0\.31\.2"):
        VLLMBackend(Model("m", Path(), "", ""))
    assert os.environ.get("VLLM_ALLOW_INSECURE_SERIALIZATION") is None
