"""One step of AxBench's trained methods under `--compat axbench`, and what its own code gives: losses, gradients,
parameters after each of three steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from peers import cosine, fixture, model, train

from bench import Budget, Context, Train
from bench.backends.hf.backend import HFBackend
from bench.core.naming import build_method
from bench.training.trainer import Group
from methods.probe import _renormalised

KINDS = ("llama", "gemma2")
LAYER = 2


@pytest.fixture(scope="module", params=KINDS)
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HFBackend:
    return HFBackend(model(tmp_path_factory.mktemp(request.param), request.param), dtype="float32")


def kind(lm: HFBackend) -> str:
    return str(lm.model.config.model_type)


def first(texts: Train) -> Train:
    """Six of each."""
    return replace(texts, positives=texts.positives[:6], negatives=texts.negatives[:6], pairs=texts.pairs[:6])


def group(lm: HFBackend, name: str, epochs: int, batch: int, **fields: Any) -> Group:
    """The method's group under the mode, all texts in one batch of each epoch."""
    ctx = Context(lm, Budget(24, 512, epochs, 1), compat="axbench")
    made = build_method(name, {name: fields}).under("axbench")
    recipe = replace(made.recipe(ctx), batch=batch, batches=1)  # type: ignore[attr-defined]
    return Group(ctx, name, [first(train())], made.form, made.goal, recipe)  # type: ignore[attr-defined]


def put(parameter: torch.Tensor, value: Any) -> None:
    with torch.no_grad():
        parameter.copy_(torch.tensor(np.asarray(value), dtype=torch.float32).reshape(parameter.shape))


def step(made: Group, done: float = 0.0) -> float:
    """The mean loss of one step's items; gradients lie at the parameters."""
    return made._step({0: made.items[0]}, done)[0]


def walked(made: Group, names: tuple[str, ...]) -> list[dict[str, list[float]]]:
    """What the parameters are after each of the first three steps, and the loss before it."""
    found: list[dict[str, Any]] = []
    update, losses = made._update, made.found[0].losses

    def watch(*args: Any) -> None:
        update(*args)
        if len(found) < 3:
            own = {name: getattr(made.change, name).detach().flatten().tolist() for name in names}
            found.append(own | {"loss": [losses[-1]]})

    made._update = watch  # type: ignore[method-assign]
    made.fit()
    return found


def same_steps(
    found: list[dict[str, list[float]]], theirs: Mapping[str, Any], names: Mapping[str, str], within: float = 3e-5
) -> None:
    for i, one in enumerate(found):
        assert one["loss"][0] == pytest.approx(theirs["losses"][i], rel=max(1e-4, 3 * within))
        for ours, their in names.items():
            np.testing.assert_allclose(one[ours], np.ravel(theirs[their][i]), atol=within)


@pytest.mark.parametrize(("done", "moment"), [(0.0, "0"), (0.5, "36")])
def test_reft_r1_has_the_loss_and_gradient_of_axbench(lm: HFBackend, done: float, moment: str) -> None:
    values = fixture("axbench_lsreft")["values"]
    theirs, made = values[kind(lm)], group(lm, "reft-r1", 72, 12, layer=LAYER)
    put(made.change.weight, values["w"])  # type: ignore[arg-type]
    assert step(made, done) == pytest.approx(theirs[f"total_{moment}"], rel=2e-6)
    assert cosine(made.change.weight.grad, theirs[f"grad_{moment}"]) > 1 - 1e-9  # type: ignore[union-attr]


def test_reft_r1_walks_as_axbench_from_its_own_start(lm: HFBackend) -> None:
    theirs, made = fixture("axbench_lsreft")["values"][kind(lm)], group(lm, "reft-r1", 72, 12, layer=LAYER)
    np.testing.assert_allclose(made.change.weight.detach()[0], theirs["init"], atol=1e-8)  # type: ignore[index,operator]
    same_steps(walked(made, ("weight",)), theirs, {"weight": "w"})


def test_ssv_is_axbenchs(lm: HFBackend) -> None:
    values = fixture("axbench_ssv")["values"]
    theirs, made = values[kind(lm)], group(lm, "ssv", 36, 6, layer=LAYER)
    np.testing.assert_allclose(made.change.weight.detach()[0], theirs["init"], atol=1e-8)  # type: ignore[index,operator]
    same_steps(walked(made, ("weight",)), theirs, {"weight": "w"})
    made = group(lm, "ssv", 36, 6, layer=LAYER)
    put(made.change.weight, values["w"])  # type: ignore[arg-type]
    assert step(made) == pytest.approx(theirs["loss"], rel=2e-6)
    assert cosine(made.change.weight.grad, theirs["grad"]) > 1 - 1e-9  # type: ignore[union-attr]


@pytest.mark.parametrize(("name", "file", "part"), [("reps", "axbench_reps", ""), ("bipo", "axbench_dpo_bipo", "bipo")])
def test_preference_vectors_are_axbenchs(lm: HFBackend, name: str, file: str, part: str) -> None:
    values = fixture(file)["values"]
    theirs = values[kind(lm)][part] if part else values[kind(lm)]
    factors = [2.0, 6.0, 1.0, 1.0] if name == "reps" else [1.0] * 4

    def start() -> Group:
        made = group(lm, name, 216 if name == "reps" else 72, 6, layer=LAYER)
        made._drawn = lambda counts: ([1.0] * 6, [factors] * 6)  # type: ignore[method-assign]
        put(made.change.weight, values["w"])  # type: ignore[arg-type]
        return made

    made = start()
    assert step(made) == pytest.approx(theirs["both"]["mean"], rel=1e-4)  # differences of sums of a thousand nats
    assert cosine(made.change.weight.grad, theirs["both"]["grad"]) > 1 - 1e-8  # type: ignore[union-attr]
    assert made.change.bias.grad.item() == pytest.approx(theirs["both"]["bias_grad"][0], rel=1e-3)  # type: ignore[union-attr,operator]
    same_steps(walked(start(), ("weight", "bias")), theirs["steps"], {"weight": "w", "bias": "bias"}, 3e-4)


def test_loreft_has_the_loss_and_gradients_of_axbench(lm: HFBackend) -> None:
    """R's own step is not compared: the reference takes it in a chart of its orthogonal parametrisation."""
    values = fixture("axbench_loreft")["values"]
    theirs, made = values[kind(lm)], group(lm, "loreft", 24, 6, layers=(1, 2))
    change: Any = made.change
    for k, layer in enumerate("12"):
        init = values["init"][layer]
        put(change.raw[k], np.reshape(init["R"], (32, 4)).T)
        put(change.weight[k], init["W"])
        put(change.bias[k], init["b"])
    assert step(made) == pytest.approx(theirs["loss"], rel=2e-6)
    for k, layer in enumerate("12"):
        assert cosine(change.weight[k].grad, theirs["grads"][layer]["W"]) > 1 - 1e-8
        assert cosine(change.bias[k].grad, theirs["grads"][layer]["b"]) > 1 - 1e-8


def test_lora_has_the_loss_and_gradients_of_axbench(lm: HFBackend) -> None:
    values = fixture("axbench_lora")["values"]
    theirs, made = values[kind(lm)], group(lm, "lora", 24, 6, layers=(1, 2))
    change: Any = made.change
    for k, layer in enumerate("12"):
        put(change.down[k], values["init"][f"{layer}.A"])
        put(change.up[k], values["init"][f"{layer}.B"])
    assert step(made) == pytest.approx(theirs["loss"], rel=2e-6)
    for k, layer in enumerate("12"):
        assert cosine(change.down[k].grad, theirs["grads"][f"{layer}.A"]) > 1 - 1e-8
        assert cosine(change.up[k].grad, theirs["grads"][f"{layer}.B"]) > 1 - 1e-8
    if "after" in theirs:
        # Nothing is clipped: AdamW's first step is the rate in each entry, whatever the gradient.
        again: Any = group(lm, "lora", 24, 6, layers=(1, 2))
        for k, layer in enumerate("12"):
            put(again.change.down[k], values["init"][f"{layer}.A"])
            put(again.change.up[k], values["init"][f"{layer}.B"])
        optimiser = torch.optim.AdamW(list(again.change.parameters()), lr=again.recipe.rate, weight_decay=0.0)
        step(again)
        again._update(list(again.change.parameters()), optimiser)
        for k, layer in enumerate("12"):
            np.testing.assert_allclose(again.change.up[k].detach().flatten(), theirs["after"][f"{layer}.B"], atol=2e-5)


def test_what_a_step_and_a_run_are_made_of_is_axbenchs() -> None:
    """Batch, batches to a step, rate, epochs, clipping, and so the number of updates on 72 texts a side."""
    ctx = Context(None, Budget(144, 512, 0, 14), compat="axbench")  # type: ignore[arg-type]
    known = {
        "reft-r1": (6, 1, 0.01, 3, 1.0, 72),
        "ssv": (6, 1, 0.01, 3, np.inf, 36),
        "loreft": (18, 2, 9e-4, 24, 1.0, 48),
        "lora": (18, 2, 9e-4, 24, np.inf, 48),
        "sft": (18, 4, 4e-5, 8, 1.0, 8),
        "reps": (6, 1, 0.04, 18, 1.0, 216),
        "bipo": (6, 2, 0.04, 12, 1.0, 72),
    }
    for name, (batch, batches, rate, epochs, clip, updates) in known.items():
        made: Any = build_method(name, {}).under("axbench")
        recipe = made.recipe(ctx)
        assert (recipe.batch, recipe.batches, recipe.rate, recipe.epochs, recipe.clip) == (
            batch,
            batches,
            rate,
            epochs,
            clip,
        ), name
        items = 144 if getattr(made.goal, "both", False) else 72
        assert -(-items // (batch * batches)) * epochs == updates, name


class Given:
    """A generator that starts at a given vector and leaves the texts in their order."""

    def __init__(self, start: Any) -> None:
        self.start = np.asarray(start)

    def uniform(self, low: float, high: float, size: int) -> Any:
        return self.start

    def permutation(self, count: int) -> Any:
        return np.arange(count)


def test_the_probe_walks_as_axbench(lm: HFBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the tokens that it reads: from the second on, the template's among them, and a cut turn header at the end."""
    values = fixture("axbench_probe")["values"]
    theirs = values[kind(lm)]
    rows = []
    for text, begin, end in zip(values["texts"], theirs["first"], theirs["last"], strict=True):
        ids = lm.encode(text)
        ids = ids if ids[0] == lm.tokenizer.bos_token_id else [lm.tokenizer.bos_token_id, *ids]
        with torch.no_grad():
            states = lm.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[LAYER + 1][0]
        rows.append(states[begin : end + 1].numpy())
    seen: list[Any] = []

    class Watched(torch.optim.AdamW):
        def step(self, *args: Any, **kwargs: Any) -> Any:
            done = super().step(*args, **kwargs)
            seen.append(self.param_groups[0]["params"][0].detach().clone())
            return done

    monkeypatch.setattr(torch.optim, "AdamW", Watched)
    lengths = [len(row) for row in rows]
    assert lengths == theirs["positions"]
    labels = np.repeat([1, 0], [sum(lengths[:6]), sum(lengths[6:])])
    _renormalised(np.concatenate(rows), labels, lengths, 288, Given(values["w"]))  # type: ignore[arg-type]
    for ours, their in zip(seen, theirs["w"], strict=False):
        np.testing.assert_allclose(ours, their, atol=1e-4)
