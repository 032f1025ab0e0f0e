"""Methods that push states along velocity fields: they find what is planted, and published flows are read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from field_cases import PLAIN, changed, drawn, flow, flow_net
from safetensors.torch import save_file
from training_cases import group, letters, small

import bench
from bench import Budget, Concept, Context, Train
from bench.backends.fake.backend import FakeBackend
from bench.backends.hf.backend import HFBackend
from bench.backends.hf.flow import concept_states, start
from bench.backends.vllm.backend import VLLMBackend
from bench.core import registry
from bench.core.content import Array, Weights
from bench.core.errors import BenchError
from bench.core.fields import TIME_NAMES, ConceptFlow
from bench.core.naming import build_method
from bench.core.steering import Steering
from bench.core.values import Request
from bench.run.contract import BUDGET, Planted, example_train
from methods.shuffled import mixed

LONG = Budget(sequences=24, tokens=64, epochs=12, trials=2)


class Bent(Planted):
    """Activations with the concept along an axis, in a stream as long as a model's."""

    shift, spread = 6.0, 4.0
    base: Array = 10 * np.random.default_rng(5).standard_normal(24)

    def _states(self, text: Any, layer: int) -> Array:
        return super()._states(text, layer) + self.base


def gain(name: str, train: Train, params: dict[str, Any] | None = None) -> float:
    """How far along the planted axis a push of length 5 takes new states of texts without the concept, at the mean."""
    ctx = Bent(FakeBackend(), BUDGET)
    made = build_method(name, {name: {"layer": 1} | (params or {})})
    (edit,) = made.fit(ctx, train)[0].steering.edits  # type: ignore[union-attr]
    states = torch.as_tensor(ctx._states("a new text", 1), dtype=torch.float32)
    moved = changed(replace(edit, time=5.0), states) - states  # type: ignore[type-var]
    return float((moved.double() @ torch.as_tensor(Planted.axis)).mean()) / 5


@pytest.mark.parametrize("name", ["odesteer", "k-steering"])
def test_a_planted_concept_is_climbed_and_lost_with_its_labels(name: str) -> None:
    train, ctx = example_train(), Bent(FakeBackend(), BUDGET)
    found, twin = gain(name, train), gain(name, mixed(ctx, train))
    assert found > 0.5
    assert abs(twin) < found / 2
    assert gain(name, train, {"states": "last"}) > 0
    opposed = replace(train, positives=train.negatives, negatives=train.positives)
    assert gain(name, opposed) < -0.5


def test_the_order_of_texts_is_nothing_to_the_quadratic_field() -> None:
    train = example_train()
    turned = replace(train, positives=train.positives[::-1], negatives=train.negatives[::-1])
    assert gain("odesteer", train) == pytest.approx(gain("odesteer", turned), abs=1e-4)


def test_a_flow_starts_as_the_block_it_follows(any_lm: HFBackend) -> None:
    net, _ = start(any_lm, 1, np.random.default_rng(0))
    block = any_lm.model.model.layers[1]
    assert np.array_equal(net["blocks.0.gate_proj.weight"], block.mlp.gate_proj.weight.detach().numpy())
    assert not net[TIME_NAMES[2]].any()
    assert set(net["blocks.0.cross_gate"]) == {np.float32(0.1)}
    norm = getattr(block, "pre_feedforward_layernorm", block.post_attention_layernorm)
    states = torch.as_tensor(drawn(1, 3, any_lm.width))
    kept = (
        states
        * (states.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        * torch.as_tensor(net["blocks.0.pre_mlp_norm.weight"])
    )
    with torch.no_grad():
        assert torch.allclose(norm(states), kept, atol=1e-5)


def test_a_concept_is_read_without_a_template(lm: HFBackend) -> None:
    short, long = concept_states(lm, "ships"), concept_states(lm, "ships " * 40)
    assert len(short) == len(lm.encode("ships"))
    assert len(long) == 64
    assert np.allclose(short, long[: len(short)], atol=1e-5)  # causal


def test_what_all_descriptions_have_in_common_is_taken_out_of_what_is_read(lm: HFBackend) -> None:
    trains = [letters(), letters("high", "mnop", "efgh", seed=1)]
    made = group(lm, small("flow"), trains=trains)
    net = dict(made.change.exported().items())  # type: ignore[operator]
    mean = np.concatenate([concept_states(lm, train.concept.text) for train in trains]).mean(0)
    for name in ("k_proj", "v_proj"):
        bias, weight = (net[f"blocks.0.cross_attn.{name}.{kind}"] for kind in ("bias", "weight"))
        assert np.allclose(bias, -weight @ mean, atol=1e-4)
    alone = group(lm, small("flow"), trains=trains[:1]).change.exported()  # type: ignore[operator]
    assert not dict(alone.items())["blocks.0.cross_attn.v_proj.bias"].any()


def test_a_step_has_some_of_the_concepts_and_one_time(lm: HFBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    trains = [letters(), letters("high", "mnop", "efgh", seed=1), letters("odd", "qrst", "ijkl", seed=2)]
    made = group(lm, small("flow", together=2, times=(0.6, 0.9)), trains=trains)
    seen, times, step = list[dict[int, list[list[int]]]](), list[float | None](), made._step

    def spy(picked: dict[int, list[list[int]]], done: float) -> dict[int, float]:
        seen.append(picked)
        times.append(made.time)
        return step(picked, done)

    monkeypatch.setattr(made, "_step", spy)
    made.fit()
    assert [len(picked) for picked in seen] == [2, 1] * 6  # 6 texts of each, 2 a step, 2 epochs
    for c, items in enumerate(made.items):
        shown = [item for picked in seen for item in picked.get(c, ())]
        assert sorted(shown) == sorted(items * 2)
    assert len(set(times)) == len(seen)
    assert all(time is not None and 0.6 <= time <= 0.9 for time in times)


def test_flas_learns_and_marks_what_it_did_not_see(lm: HFBackend) -> None:
    trains = [letters(), letters("high", "mnop", "efgh", seed=1), letters("odd", "qrst", "ijkl", seed=2)]
    ctx = Context(lm, LONG, trains=tuple(trains))
    made = build_method("flas", {"flas": {"rate": 2e-3}})
    found = [fitted[0] for fitted in made.fit_all(ctx, trains)]
    assert all(fitted.note["held_out"] and fitted.note["trained_on"] == 2 for fitted in found)
    edits = [fitted.steering.edits[0] for fitted in found]  # type: ignore[union-attr]
    assert len({edit.net.digest for edit in edits}) == 3  # type: ignore[union-attr]
    assert all(fitted.note["loss_last"] < fitted.note["loss_first"] - 0.05 for fitted in found)
    alone = build_method("flas", {"flas": {"rate": 2e-3, "folds": 1}}).fit(replace(ctx, trains=()), trains[0])[0]
    assert alone.note["held_out"] is False
    again = made.fit(ctx, trains[0])[0]
    assert again.steering.digest == found[0].steering.digest  # type: ignore[union-attr]


def test_flas_follows_the_words_of_a_concept_and_not_without_labels(lm: HFBackend) -> None:
    """One network for two concepts: each concept's words raise its own texts more than the other's words do."""
    trains = [letters(count=12), letters("high", "mnop", "efgh", count=12, seed=1)]
    held = [letters(count=6, seed=9), letters("high", "mnop", "efgh", count=6, seed=9)]
    made, ctx = build_method("flas", {"flas": {"rate": 3e-3, "together": 2}}), Context(lm, LONG)

    def score(steering: Steering | None, train: Train) -> float:
        asked = [Request(e.messages[:1], steering, target=e.response) for e in train.positives]
        return float(np.mean([own.total for _, own in lm.logprobs(asked)]))

    def scores(shown: list[Train]) -> list[list[float]]:
        change = next(iter(made.learn(ctx, shown))).change  # type: ignore[attr-defined]
        return [[score(change.steering(c), train) for train in held] for c in range(2)]

    (one, other), (cross, two) = scores(trains)
    assert one > score(None, held[0])
    assert two > score(None, held[1])
    (same, _), (_, also) = scores([mixed(ctx, train) for train in trains])
    assert one + two > same + also
    assert one + two > cross + other


def test_vllm_refuses_them_by_name_and_other_programs_files_too(tmp_path: Path) -> None:
    lacking = {name: registry.get("method", name).needs - VLLMBackend.can for name in ("odesteer", "k-steering")}
    assert lacking == {"odesteer": {"quadratic-field"}, "k-steering": {"network-field"}}
    assert registry.get("method", "flas").needs - VLLMBackend.can >= {"concept-flow"}
    with pytest.raises(BenchError, match="gguf cannot hold this edit"):
        bench.save(tmp_path / "v.gguf", Steering(edits=(flow(),)))


# Published checkpoints


def checkpoint(lm: HFBackend, path: Path, **more: torch.Tensor) -> Weights:
    """A file as FLAS writes it, in bfloat16, and the flow that it is."""
    net = flow_net(lm.width, size=lm.width // 4)
    tensors = {name: torch.as_tensor(value).bfloat16() for name, value in net.items() if name not in PLAIN}
    save_file(tensors | more, path)
    return Weights(dict(net.items()) | {name: tensor.float().numpy() for name, tensor in tensors.items()})


def test_a_published_flow_is_imported(lm: HFBackend, tmp_path: Path) -> None:
    path = tmp_path / "flas.safetensors"
    net = checkpoint(lm, path)
    made = build_method("imported", {"imported": {"path": str(path), "layer": 2}})
    ctx = Context(lm, BUDGET)
    one, two = (made.fit(ctx, Train(Concept(name, name), (), ()))[0] for name in ("ships", "clocks"))
    edits = [found.steering.edits[0] for found in (one, two)]  # type: ignore[union-attr]
    assert all(isinstance(edit, ConceptFlow) for edit in edits)
    assert edits[0].net is edits[1].net
    assert (edits[0].layer, edits[0].steps, edits[0].activation) == (2, 3, "silu")
    states = torch.as_tensor(drawn(5, lm.width))
    published = {name: value for name, value in net.items() if name not in PLAIN}
    expected = replace(edits[0], net=Weights(dict(edits[0].net.items()) | published))
    assert torch.allclose(changed(edits[0], states), changed(expected, states))
    assert not torch.allclose(changed(edits[0], states), changed(edits[1], states), atol=1e-3)
    bare, steered = (bench.generate(lm, ["What is it?"], steering) for steering in (None, one.steering))
    assert bare != steered


def test_a_family_that_counts_norms_from_one_counts_a_flow_s_so(any_lm: HFBackend, tmp_path: Path) -> None:
    path = tmp_path / "flas.safetensors"
    net = dict(checkpoint(any_lm, path).items())
    fitted = build_method("imported", {"imported": {"path": str(path), "layer": 1}}).fit(
        Context(any_lm, BUDGET), example_train()
    )[0]
    (edit,) = fitted.steering.edits  # type: ignore[union-attr]
    offset = 1.0 if "gemma" in any_lm.model.config.model_type else 0.0
    found = dict(edit.net.items())  # type: ignore[union-attr]
    name = "blocks.0.pre_mlp_norm.weight"
    assert np.allclose(found[name], net[name] + offset)
    assert edit.activation == ("gelu-tanh" if offset else "silu")  # type: ignore[union-attr]
    assert bool(found["softcap"]) == bool(offset)


def test_a_checkpoint_that_cannot_be_used_says_why(lm: HFBackend, tmp_path: Path) -> None:
    path, ctx = tmp_path / "flas.safetensors", Context(lm, BUDGET)

    def fit(**params: Any) -> None:
        build_method("imported", {"imported": {"path": str(path), "layer": 1} | params}).fit(ctx, example_train())

    checkpoint(lm, path, **{"blocks.0.self_attn.q_proj.weight": torch.zeros(2)})
    with pytest.raises(BenchError, match="field:stateful"):
        fit()
    checkpoint(lm, path, **{"blocks.0.odd": torch.zeros(2)})
    with pytest.raises(BenchError, match="no place for"):
        fit()
    net = checkpoint(lm, path)
    with pytest.raises(BenchError, match=r"add -p imported\.layer=N"):
        fit(layer=None)
    whole = {name: torch.as_tensor(value) for name, value in net.items() if name not in PLAIN}
    save_file({name: tensor for name, tensor in whole.items() if name != "blocks.0.mlp_gate"}, path)
    with pytest.raises(BenchError, match=r"lacks blocks\.0\.mlp_gate"):
        fit()
    other = flow_net(lm.width + 16, size=lm.width // 4)
    save_file({name: torch.as_tensor(value) for name, value in other.items() if name not in PLAIN}, path)
    with pytest.raises(BenchError, match=f"the model has {lm.width}"):
        fit()
