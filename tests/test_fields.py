"""Velocity fields: where they point, what their steps add up to, what they cost, and that weights are kept once."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from batch_cases import equals_its_rows, requests_under
from field_cases import KINDS, NET, D, H, changed, drawn, flow, flow_net, network, quadratic
from torch.utils.flop_counter import FlopCounterMode

import bench
from bench.backends.hf.backend import HFBackend
from bench.backends.hf.hooks import Applied
from bench.core.content import Weights, digest
from bench.core.errors import BenchError
from bench.core.fields import TIME_NAMES, ConceptFlow, Field, QuadraticField, flow_names
from bench.core.kinds import Add
from bench.core.steering import Steering
from bench.core.store import Artefacts, load_value, pack, save_value
from bench.run.fits import Packed


@pytest.fixture
def h() -> torch.Tensor:
    return torch.as_tensor(3 * np.random.default_rng(7).normal(size=(50, H)).astype(np.float32))


@pytest.mark.parametrize("name", KINDS)
def test_it_fades_with_its_time_and_is_the_identity_at_none(name: str, h: torch.Tensor) -> None:
    whole, little = (float((changed(KINDS[name].scaled(c), h) - h).norm()) for c in (1.0, 1e-4))
    assert 0 < little < 1e-3 * max(1.0, whole)
    assert torch.equal(changed(replace(KINDS[name], time=0.0), h), h)


@pytest.mark.parametrize("name", KINDS)
def test_a_file_keeps_it(name: str, tmp_path: Path) -> None:
    steering = Steering(edits=(KINDS[name],))
    bench.save(tmp_path / "kept.safetensors", steering)
    assert bench.load(tmp_path / "kept.safetensors").digest == steering.digest


def height(field: Field, h: torch.Tensor) -> torch.Tensor:
    """What a field climbs, at states `[N, H]` in double precision."""
    own = {name: torch.as_tensor(value).double() for name, value in field.tensors().items()}
    if isinstance(field, QuadraticField):
        x = h / h.norm(dim=-1, keepdim=True)
        return (own["weights"] * (x @ own["basis"].T) ** 2).sum(-1) + x @ own["linear"]
    inner = torch.relu(h @ own["first"].T + own["first_bias"])
    return torch.relu(inner @ own["second"].T + own["second_bias"]) @ own["last"]


@pytest.mark.parametrize("name", ["quadratic", "network"])
def test_it_points_where_finite_differences_do_at_unit_speed(name: str, h: torch.Tensor) -> None:
    field, step = KINDS[name], 1e-6
    exact = h.double()
    slope = torch.stack(
        [height(field, exact + step * e) - height(field, exact - step * e) for e in torch.eye(H).double()], -1
    )
    moved = changed(replace(field, steps=1, time=1.0), h) - h
    assert torch.allclose(moved.norm(dim=-1), torch.ones(len(h)), atol=1e-5)
    assert float(torch.cosine_similarity(moved.double(), slope, dim=-1).min()) > 0.9999


def test_small_steps_climb_and_never_leave_the_way_s_length(h: torch.Tensor) -> None:
    for field in (replace(KINDS["quadratic"], time=2.0), replace(KINDS["network"], time=2.0, steps=20)):
        moved = changed(field, h)
        assert float((moved - h).norm(dim=-1).max()) <= 2 + 1e-4
        assert bool((height(field, moved.double()) > height(field, h.double())).all())
        back = changed(field.negated(), h)
        assert bool((height(field, back.double()) < height(field, h.double())).all())
    turned = changed(replace(KINDS["quadratic"], time=0.5, steps=100), h)
    assert torch.allclose(turned.norm(dim=-1), h.norm(dim=-1), rtol=2e-3)  # at right angles to the state


def test_a_linear_classifier_is_an_added_vector_but_for_its_part_along_the_state(h: torch.Tensor) -> None:
    field = quadratic(1, weights=np.zeros(1, np.float32), steps=1)
    unit = h / h.norm(dim=-1, keepdim=True)
    added = torch.as_tensor(field.linear) - (unit @ torch.as_tensor(field.linear))[:, None] * unit
    for i in range(3):
        add = Add(layer=1, value=(added[i] / added[i].norm()).numpy())
        assert torch.allclose(changed(field, h)[i], h[i] + torch.as_tensor(add.value), atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_one_step_is_one_step(name: str, h: torch.Tensor) -> None:
    """N Euler steps are N edits of one step each, where the field does not depend on time."""
    one = replace(KINDS[name], steps=1, time=0.6)
    if name != "flow":
        twice = changed(replace(one, time=0.3), changed(replace(one, time=0.3), h))
        assert torch.allclose(changed(replace(one, steps=2), h), twice, atol=1e-5)
        return
    half = changed(replace(one, time=0.3), h) - h
    assert torch.allclose(changed(one, h) - h, 2 * half, atol=1e-5)  # both at t = 0


def test_a_flat_classifier_has_no_strength() -> None:
    flat = quadratic(weights=np.zeros(3, np.float32), linear=np.zeros(H, np.float32))
    with pytest.raises(BenchError, match="is flat"):
        flat.length()
    with pytest.raises(ValueError, match=r"basis \[k, H\]"):
        quadratic(linear=drawn(3))
    with pytest.raises(ValueError, match=r"first \[m, H\]"):
        network(last=drawn(5))
    with pytest.raises(ValueError, match="steps = 0"):
        quadratic(steps=0)


def test_a_flow_runs_one_way_and_reads_so_many_tokens() -> None:
    with pytest.raises(BenchError, match="no coefficient below 0"):
        Steering(edits=(flow(),)).negated()
    with pytest.raises(ValueError, match="1 to 64 tokens"):
        flow(65)


def by_hand(net: Weights, h: torch.Tensor, condition: torch.Tensor, index: int, time: float) -> torch.Tensor:
    """The velocity of one state `[H]`, head by head, from the paper's equations."""
    w = {name: torch.as_tensor(value) for name, value in net.items()}

    def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x / (x.square().mean() + 1e-6).sqrt() * weight

    def turn(x: torch.Tensor, place: int) -> torch.Tensor:
        angle = torch.cat([w["frequencies"], w["frequencies"]]) * place
        half = torch.cat([-x[D // 2 :], x[: D // 2]])
        return x * angle.cos() + half * angle.sin()

    rates = torch.exp(-torch.log(torch.tensor(10000.0)) * torch.arange(64) / 64)
    seen = torch.cat([torch.sin(time * rates), torch.cos(time * rates)])
    inner = w[TIME_NAMES[0]] @ seen + w[TIME_NAMES[1]]
    x = h + w[TIME_NAMES[2]] @ (inner * torch.sigmoid(inner)) + w[TIME_NAMES[3]]
    at = {name.removeprefix("blocks.0."): value for name, value in w.items() if name.startswith("blocks.0.")}
    query = at["cross_attn.q_proj.weight"] @ norm(x, at["pre_cross_norm.weight"])
    heads = []
    for head in range(4):
        q = turn(norm(query[head * D : (head + 1) * D], at["cross_attn.q_norm.weight"]), index)
        own = slice(head // 2 * D, (head // 2 + 1) * D)
        keys = [norm((at["cross_attn.k_proj.weight"] @ c)[own], at["cross_attn.k_norm.weight"]) for c in condition]
        scores = torch.stack([q @ turn(key, place) for place, key in enumerate(keys)]) / D**0.5
        values = torch.stack([(at["cross_attn.v_proj.weight"] @ c)[own] for c in condition])
        heads.append(scores.softmax(0) @ values)
    attended = at["cross_attn.o_proj.weight"] @ torch.cat(heads)
    x = x + at["cross_gate"] * norm(attended, at["post_cross_norm.weight"])
    fed = norm(x, at["pre_mlp_norm.weight"])
    opened = at["gate_proj.weight"] @ fed
    fed = at["down_proj.weight"] @ (opened * torch.sigmoid(opened) * (at["up_proj.weight"] @ fed))
    return x + at["mlp_gate"] * norm(fed, at["post_mlp_norm.weight"]) - h


def test_a_flow_is_the_equation_step_by_step(h: torch.Tensor) -> None:
    edit = flow(5, time=1.2)
    found = changed(edit, h)
    for i in (0, 7, 31):
        state = h[i]
        for k in range(3):
            state = state + 0.4 * by_hand(NET, state, torch.as_tensor(edit.condition), i, 0.4 * k)
        assert torch.allclose(found[i], state, atol=1e-4)


def test_a_softcap_bounds_scores_and_several_blocks_follow_each_other(h: torch.Tensor) -> None:
    plain = flow()
    capped = replace(plain, net=Weights(dict(NET.items()) | {"softcap": np.asarray(1e-4, np.float32)}))
    assert not torch.allclose(changed(plain, h), changed(capped, h), atol=1e-5)
    index = torch.zeros(len(h))
    assert torch.allclose(changed(capped, h), changed(capped, h, index), atol=1e-3)  # all tokens of a concept alike
    double = replace(plain, net=flow_net(blocks=2))
    assert changed(double, h).shape == h.shape
    assert double.work().flops > 1.9 * plain.work().flops


def wide(edit: Field, size: int) -> Field:
    """The same kind of field on states of another width."""
    if isinstance(edit, ConceptFlow):
        return replace(edit, net=flow_net(size), condition=drawn(len(edit.condition), size))
    names = {"basis", "first", "linear"}
    return replace(edit, **{name: drawn(*getattr(edit, name).shape[:-1], size) for name in names & set(edit.tensors())})


def test_a_batch_of_fields_equals_its_rows(lm: HFBackend) -> None:
    """Two concepts of different lengths on one network run as one product, and each as alone."""
    one = wide(flow(3), lm.width)
    two = replace(one, condition=drawn(9, lm.width), time=0.7)  # type: ignore[call-arg]
    edits = [one, two, wide(quadratic(), lm.width), wide(network(), lm.width), replace(one, time=0.4)]
    requests = requests_under(edits)
    with Applied(lm.model, [request.steering for request in requests[:2]], [5, 5], [0, 0]) as applied:
        assert len(applied._handles) == 2  # one of the decoder, one of the block
    equals_its_rows(lm, requests)


def test_a_later_token_changes_no_earlier_edit(lm: HFBackend) -> None:
    steering = Steering(edits=(wide(flow(3), lm.width),))
    ids = torch.tensor([lm.encode((("user", "Tell me where the old house stands."),))])
    logits = []
    for length in (ids.shape[1], ids.shape[1] - 4):
        with Applied(lm.model, [steering], [length], [0], 1), torch.no_grad():
            logits.append(lm.model(input_ids=ids[:, :length]).logits[0, : ids.shape[1] - 4])
    assert torch.allclose(logits[0], logits[1], atol=1e-5)


# What they cost


@pytest.mark.parametrize("edit", [quadratic(4), network(steps=3), flow(7)], ids=["quadratic", "network", "flow"])
def test_the_cost_is_the_products_that_torch_counts_and_what_stands_between(edit: Field) -> None:
    state = torch.as_tensor(drawn(1, 1, H))
    p = {name: torch.as_tensor(value)[None, None] for name, value in edit.operands().items()}
    if isinstance(edit, ConceptFlow):  # the pad is no part of the equation
        m = len(edit.condition)
        p |= {"keys": p["keys"][..., :m, :], "values": p["values"][..., :m, :], "there": p["there"][..., :m]}
        between = 21 * H + 7 * 16 + 2 * 24 + 3 * H
    else:
        between = 12 * H if isinstance(edit, QuadraticField) else 4 * H
    p |= {name: torch.as_tensor(value) for name, value in edit.common().items()} | {"index": torch.zeros(1, 1)}
    with FlopCounterMode(display=False) as counter:
        edit.change(state, p, edit.flags())
    assert edit.work().flops == counter.get_total_flops() + edit.steps * between


def test_a_flow_costs_what_the_specification_counts() -> None:
    """Without attention to other tokens: 219 M products a token at Gemma-2-2B, 10 M at SmolLM2-135M."""
    for (width, heads, keys, fed, size), expected in {
        (2304, 8, 4, 9216, 256): 219.4e6,
        (576, 9, 3, 1536, 64): 9.95e6,
    }.items():
        names = {"q_proj": (heads * size, width), "o_proj": (width, heads * size), "up_proj": (fed, width)}
        names |= {"k_proj": (keys * size, width), "v_proj": (keys * size, width), "gate_proj": (fed, width)}
        names |= {"down_proj": (width, fed)}
        empty = np.zeros(1, np.float32)
        net = dict.fromkeys(flow_names(0), empty)
        for name in net:
            if shape := next((shape for end, shape in names.items() if end in name), None):
                net[name] = np.broadcast_to(empty, shape)
        work = ConceptFlow(layer=1, net=Weights(net), condition=drawn(10, width), steps=3).work()
        assert work.flops / 2 == pytest.approx(expected, rel=0.008)
        assert work.moved == pytest.approx(expected, rel=0.008)


# Weights are kept once


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_many_fits_on_one_network_write_it_once_and_load_it_once(tmp_path: Path) -> None:
    net, artefacts = flow_net(64, size=16), Artefacts(tmp_path)
    size = sum(value.nbytes for _, value in net.items())
    values = [Steering(edits=(ConceptFlow(layer=1, net=net, condition=drawn(4, 64)),)) for _ in range(20)]
    for i, value in enumerate(values):
        packed = Packed.of(value)
        assert len(packed.content) < size / 10
        artefacts.make(f"k{i}", {}, lambda part, c=packed.content: (part / "v").write_bytes(c), packed.weights)  # type: ignore[misc]
    assert size < folder_bytes(tmp_path) < 2 * size
    again = Artefacts(tmp_path)
    found = [again.load(f"k{i}", "v") for i in range(20)]
    assert [one.digest for one in found] == [value.digest for value in values]
    assert len({id(one.edits[0].net) for one in found}) == 1
    (tmp_path / "alone").write_bytes(pack(values[0]))
    assert load_value(tmp_path / "alone").digest == values[0].digest
    with pytest.raises(BenchError, match="that lie beside it"):
        load_value(tmp_path / "k0" / "v")


@pytest.mark.parametrize("damage", ["torn", "gone"])
def test_a_fit_whose_weights_are_damaged_counts_as_missing_and_is_made_anew(damage: str, tmp_path: Path) -> None:
    value = Steering(edits=(flow(),))

    def make(net: Weights) -> Artefacts:
        artefacts, packed = Artefacts(tmp_path), Packed.of(Steering(edits=(replace(value.edits[0], net=net),)))  # type: ignore[call-arg]
        artefacts.make("k", {}, lambda part: (part / "v").write_bytes(packed.content) and None, packed.weights)
        return artefacts

    kept = tmp_path / NET.digest / "weights.safetensors"
    make(NET)
    assert Artefacts(tmp_path).has("k")
    if damage == "torn":
        kept.write_bytes(kept.read_bytes()[:-1] + b"\x7f")
    else:
        os.remove(kept.parent / "key.json")
    assert not Artefacts(tmp_path).has("k")
    other = flow_net()  # another machine's rounding may make another network
    assert make(other).has("k")
    assert Artefacts(tmp_path).load("k", "v").edits[0].net.digest == other.digest


def test_weights_are_named_by_content_and_refused_where_they_are_no_numbers(tmp_path: Path) -> None:
    copy = Weights({name: value.copy() for name, value in NET.items()})
    assert digest(copy) == digest(NET) != digest(flow_net())
    save_value(tmp_path / "w", copy)
    assert load_value(tmp_path / "w").digest == NET.digest
    with pytest.raises(ValueError, match="not finite"):
        Weights({"a": np.array([np.nan])})
