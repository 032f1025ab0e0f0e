"""Packed batches against the edits' equations, token by token, however the engine cuts and orders them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load

from bench.backends.vllm.lora import adapter, check, prune
from bench.backends.vllm.packed import Packed
from bench.backends.vllm.wire import Wire
from bench.core.content import Array
from bench.core.deltas import DenseDelta, LowRankDelta
from bench.core.edits import Edit, Gate, Span
from bench.core.errors import BenchError
from bench.core.kinds import Add, Clamp, Diagonal, LowRank, Project, Rotate, Scaled
from bench.core.steering import Steering

H = 16
LAYER = 2
RNG = np.random.default_rng(3)
BASIS = np.linalg.qr(RNG.standard_normal((H, 3)))[0].T.astype(np.float32)
VALUE = RNG.standard_normal(H).astype(np.float32)
SPANS = (
    Span(),
    Span(sink=True),
    Span("prompt"),
    Span("prompt", first=2, last=3),
    Span("prompt", first=40, last=40),
    Span("prompt", last=4),
    Span("prompt", first=3, offset=2),
    Span("response"),
    Span("generation"),
)


def edits() -> list[Edit]:
    several = RNG.standard_normal((3, H)).astype(np.float32)
    return [
        *(Add(layer=LAYER, value=VALUE, span=span) for span in SPANS),
        *(Add(layer=LAYER, value=several, span=span) for span in SPANS),
        Add(layer=LAYER, value=VALUE, signed=True),
        Add(layer=LAYER, value=-2 * VALUE, keep_norm=True),
        Add(layer=LAYER, value=VALUE, signed=True, keep_norm=True, span=Span("generation")),
        Project(layer=LAYER, basis=BASIS, strength=0.7),
        Project(layer=LAYER, basis=BASIS[:1], span=Span("response")),
        Clamp(layer=LAYER, read=BASIS[0], write=BASIS[1], target=1.5, bias=0.2, threshold=0.1),
        Clamp(layer=LAYER, read=BASIS[0], write=VALUE, target=0.5, at_least=True),
        LowRank(layer=LAYER, rotation=BASIS, weight=2 * BASIS, bias=np.ones(3, np.float32), strength=0.5),
        *(
            Scaled(layer=LAYER, read=BASIS, write=2 * BASIS, bias=0.1 * several[:, 0], activation=name, strength=0.4)
            for name in ("linear", "relu", "tanh", "sigmoid", "softplus", "softmax")
        ),
        Diagonal(layer=LAYER, gain=VALUE, shift=BASIS[0], strength=0.3),
        Diagonal(layer=LAYER, gain=VALUE, shift=BASIS[0], low=-np.abs(VALUE), high=np.abs(VALUE)),
        *(
            Rotate(layer=LAYER, basis=BASIS[:2], mode=mode, when=when, angle=2.0, kappa=3.0, beta=-0.2, strength=0.6)
            for mode in ("target", "offset", "towards")
            for when in ("always", "aligned", "confident")
        ),
    ]


def expected(h: Array, steering: Steering, prompt: int) -> tuple[Array, list[int]]:
    """The equations of bench.core.steering at each position of a span, one after the other, in fp64."""
    h, counts = h.astype(np.float64), []
    for edit in steering.edits:
        index = np.arange(len(h))
        chosen = np.flatnonzero(edit.span.mask(index, prompt))
        begin = prompt - edit.span.last if edit.span.last and not edit.span.first else edit.span.start()
        for p in chosen:
            x = h[p]
            if isinstance(edit, Add):
                value = np.atleast_2d(edit.value)
                v = value[min(max(p - begin, 0), len(value) - 1)].astype(np.float64)
                v = np.sign(x @ v) * v if edit.signed else v
                h[p] = (x + v) * (np.linalg.norm(x) / np.linalg.norm(x + v)) if edit.keep_norm else x + v
            elif isinstance(edit, Project):
                h[p] = x - edit.strength * edit.basis.T @ (edit.basis @ x)
            elif isinstance(edit, Clamp):
                z = x @ edit.read + edit.bias
                a = z if z > edit.threshold else 0.0
                h[p] = x + ((max(a, edit.target) if edit.at_least else edit.target) - a) * edit.write
            elif isinstance(edit, LowRank):
                inner = edit.weight @ x + edit.bias - edit.rotation @ x
                h[p] = x + edit.strength * edit.rotation.T @ inner
            else:
                h[p] = x + by_token(edit, x)
        counts.append(len(chosen))
    return h, counts


def by_token(edit: Edit, x: Array) -> Array:
    """What a kind adds to one state, in fp64: that it is right is held by test_kinds.py."""
    import torch

    p = {name: torch.tensor(value, dtype=torch.float64)[None] for name, value in edit.operands().items()}
    found: Array = edit.change(torch.tensor(x)[None], p, edit.flags())[0].numpy()
    return found


class Engine:
    """Runs requests through `Packed` as a scheduler would: in chunks, in any order, some of them twice."""

    def __init__(self, steerings: list[Steering | None], prompts: list[int], totals: list[int]) -> None:
        self.packed, wire = Packed("cpu", H), Wire(H)
        self.keys = [wire.add(s) if s is not None else None for s in steerings]
        self.wire, self.prompts, self.totals = wire, prompts, totals
        if message := wire.message():
            self.packed.register(load(message))
        self.streams = [RNG.standard_normal((n, H)).astype(np.float32) for n in totals]
        self.results = [np.full((n, H), np.nan, np.float32) for n in totals]

    def wanted(self, name: str) -> list[int] | None:
        key = self.keys[int(name)]
        return None if key is None else [int(name), key, self.prompts[int(name)], 1]

    def step(self, parts: list[tuple[int, int, int]], split: bool = True) -> None:
        """Run tokens `[begin, end)` of requests, as (request, begin, end), in this order."""
        import torch

        stream = torch.from_numpy(np.concatenate([self.streams[i][a:b] for i, a, b in parts]))
        residual = torch.randn_like(stream) if split else None
        hidden = stream.clone() if residual is None else stream - residual
        scheduled, computed = (np.array(v) for v in ([b - a for _, a, b in parts], [a for _, a, _ in parts]))
        self.packed.begin([str(i) for i, _, _ in parts], scheduled, computed, self.wanted)
        for layer in range(4):
            self.packed.apply(layer, 0, hidden, residual)
        done = hidden if residual is None else hidden + residual
        at = 0
        for i, a, b in parts:
            self.results[i][a:b] = done[at : at + b - a].numpy()
            at += b - a

    def check(self, steerings: list[Steering | None]) -> None:
        for i, steering in enumerate(steerings):
            want, counts = expected(self.streams[i], steering or Steering(), self.prompts[i])
            np.testing.assert_allclose(self.results[i], want, atol=2e-5)
            if steering is not None:
                assert self.packed.positions_edited(i, self.totals[i]) == counts


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_any_schedule_gives_the_equations(seed: int, split: bool) -> None:
    rng = np.random.default_rng(seed)
    steerings: list[Steering | None] = [Steering(edits=(edit,)) for edit in edits()]
    steerings += [None, Steering(edits=tuple(edits()[i] for i in (0, 20, 22, 24))), None]
    prompts = rng.integers(5, 20, len(steerings)).tolist()
    totals = [n + int(rng.integers(1, 9)) for n in prompts]
    engine, at = Engine(steerings, prompts, totals), [0] * len(steerings)
    while any(a < n for a, n in zip(at, totals, strict=True)):
        open_ = [i for i in range(len(at)) if at[i] < totals[i]]
        chosen = rng.permutation(open_)[: rng.integers(1, len(open_) + 1)].tolist()
        parts = [(i, at[i], min(totals[i], at[i] + int(rng.integers(1, 12)))) for i in chosen]
        engine.step(parts, split)
        for i, _, end in parts:
            at[i] = 0 if rng.random() < 0.1 and end < totals[i] else end  # preempted: all of it again
    engine.check(steerings)


def test_sites_and_layers_are_kept_apart() -> None:
    import torch

    parts = (
        Add(layer=0, value=VALUE),
        Add(layer=1, value=2 * VALUE, site="attn"),
        Add(layer=1, value=VALUE, site="mlp"),
    )
    engine = Engine([Steering(edits=parts)], [4], [4])
    engine.packed.begin(["0"], np.array([4]), np.array([0]), engine.wanted)
    for layer in range(3):
        for site in range(3):
            hidden = torch.zeros(4, H)
            engine.packed.apply(layer, site, hidden)
            factor = {(0, 0): 1, (1, 1): 2, (1, 2): 1}.get((layer, site), 0)
            np.testing.assert_allclose(hidden[1:], np.tile(factor * VALUE, (3, 1)), atol=1e-6)
            assert not hidden[0].any()
    assert engine.packed.positions_edited(0, 4) == [3, 3, 3]


def test_a_sweep_of_coefficients_costs_one_row() -> None:
    wire = Wire(H)
    several = RNG.standard_normal((3, H)).astype(np.float32)
    for c in [*np.linspace(0.05, 5, 14).tolist(), -1.0, -0.3]:
        wire.add(Steering(edits=(Add(layer=1, value=VALUE), Add(layer=2, value=several))).scaled(c))
        wire.add(Steering(edits=(Project(layer=1, basis=BASIS[:1]),)).scaled(c))
    assert wire.slots == 1 + 3 + 1
    other = VALUE.copy()
    other[0] *= 1.0001
    wire.add(Steering(edits=(Add(layer=1, value=other),)))
    assert wire.slots == 6
    with pytest.raises(BenchError, match="width 3"):
        wire.add(Steering(edits=(Add(layer=1, value=np.ones(3, np.float32)),)))


def test_strengths_that_share_a_row_stay_apart() -> None:
    steerings: list[Steering | None] = [
        Steering(edits=(Add(layer=LAYER, value=VALUE),)).scaled(c) for c in (0.1, -3, 7)
    ]
    engine = Engine(steerings, [6, 6, 6], [8, 8, 8])
    assert engine.packed.filled == 1
    engine.step([(i, 0, 8) for i in (2, 0, 1)])
    engine.check(steerings)


def test_a_bank_grows_between_steps() -> None:
    one, wire = Packed("cpu", H), Wire(H)
    for i in range(5):
        for _ in range(40):
            wire.add(Steering(edits=(Add(layer=1, value=RNG.standard_normal(H).astype(np.float32)),)))
        message = wire.message()
        assert message is not None
        one.register(load(message))
        assert one.filled == 40 * (i + 1) <= len(one.bank)
    assert wire.message() is None


def test_blocks_from_the_prefix_cache_count_once_and_a_step_too_many_not_at_all() -> None:
    steering = Steering(edits=(Add(layer=LAYER, value=VALUE), Add(layer=LAYER, value=VALUE, span=Span("response"))))
    engine = Engine([steering], [10], [14])
    engine.step([(0, 8, 12)])  # 8 tokens were found in the cache
    engine.step([(0, 12, 14)])
    assert engine.packed.positions_edited(0, 13) == [12, 3]


def gated(above: bool = True, pooling: Any = "mean", similarity: Any = "cosine", layer: int = 1) -> Steering:
    gate = Gate(layer, VALUE, 0.1, above, pooling, similarity, 0.1 * BASIS[0] if similarity == "cosine" else None)
    add = Add(layer=LAYER, value=BASIS[1], gate=gate)
    return Steering(edits=(add, replace(add, value=BASIS[2], span=Span("response")), Add(layer=LAYER, value=BASIS[0])))


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("similarity", ["cast", "cosine"])
@pytest.mark.parametrize("layer", [1, LAYER])
def test_a_gate_reads_the_prompt_and_decides_for_the_row(pooling: str, similarity: str, layer: int) -> None:
    steerings: list[Steering | None] = [gated(above, pooling, similarity, layer) for above in (True, False)] * 4
    engine = Engine(steerings, [9] * 8, [12] * 8)
    for i in range(0, 8, 2):  # the same prompt for both sides of a threshold
        engine.streams[i + 1] = engine.streams[i]
    engine.step([(i, 0, 9) for i in range(8)])
    for p in (9, 10, 11):
        engine.step([(i, p, p + 1) for i in range(8)])
    sides = []
    for i, steering in enumerate(steerings):
        assert steering is not None
        gate = steering.edits[0].gate
        assert gate is not None
        h = engine.streams[i][:9].astype(np.float64)
        mean = h[-1] if pooling == "last" else h[1:].mean(0)
        if similarity == "cast":
            other = np.tanh((VALUE @ mean) / (VALUE @ VALUE) * VALUE)
        else:
            mean, other = mean - gate.center, VALUE.astype(np.float64)
        score = mean @ other / np.linalg.norm(mean) / np.linalg.norm(other)
        on = score > 0.1 if gate.above else score < 0.1
        sides.append(bool(on))
        kept = Steering(edits=tuple(e for e in steering.edits if on or e.gate is None))
        want, _ = expected(engine.streams[i], kept, 9)
        np.testing.assert_allclose(engine.results[i], want, atol=2e-5)
        assert engine.packed.positions_edited(i, 12) == ([11, 3, 11] if on else [0, 0, 11])
    assert {True, False} == set(sides)


@pytest.mark.parametrize(
    ("parts", "reason"), [([(0, 0, 5), (0, 5, 9)], "chunked prefill"), ([(0, 4, 9)], "prefix cache")]
)
def test_a_gate_that_saw_part_of_its_prompt_is_an_error(parts: list[tuple[int, int, int]], reason: str) -> None:
    engine = Engine([gated()], [9], [12])
    for part in parts:
        engine.step([part])
    assert reason in str(engine.packed.positions_edited(0, 9))


def test_a_request_without_its_steering_is_an_error() -> None:
    engine = Engine([Steering(edits=(Add(layer=LAYER, value=VALUE),))], [4], [6])
    engine.packed.clear()
    engine.step([(0, 0, 6)])
    assert engine.packed.positions_edited(0, 6) == "it ran without its steering"


def test_adapters_hold_what_the_deltas_say(tmp_path: Any) -> None:
    from safetensors.numpy import load_file

    name = "model.layers.1.self_attn.q_proj"
    rows = RNG.standard_normal((H, 2)).astype(np.float32)  # transposed views must come out right
    one = LowRankDelta(module=name, down=rows.T, up=rows, strength=2.0)
    two = LowRankDelta(module=name, down=3 * rows.T[:1], up=rows[:, :1], strength=-1.0)
    folder = adapter((one, two), tmp_path)
    parts = load_file(folder / "adapter_model.safetensors")
    product = parts[f"base_model.model.{name}.lora_B.weight"] @ parts[f"base_model.model.{name}.lora_A.weight"]
    np.testing.assert_allclose(product, 2 * rows @ rows.T - 3 * np.outer(rows[:, 0], rows[:, 0]), atol=1e-4)
    assert adapter((one, two), tmp_path) == folder
    assert adapter((one.scaled(2),), tmp_path) != folder
    prune(1, tmp_path)
    assert len(list(tmp_path.glob("*/adapter_config.json"))) == 1


def test_deltas_that_no_adapter_can_hold_are_refused_by_name() -> None:
    down, up = np.ones((1, H), np.float32), np.ones((H, 1), np.float32)
    with pytest.raises(BenchError, match="DenseDelta"):
        check((DenseDelta(module="model.layers.0.mlp.up_proj", change=up @ down),), 4)
    for module in ("model.embed_tokens", "lm_head", "model.layers.9.mlp.up_proj"):
        with pytest.raises(BenchError, match=module):
            check((LowRankDelta(module=module, down=down, up=up),), 4)
