"""What each objective promises, and that training on it finds a concept planted in a tiny model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from training_cases import BUDGET, goal, group, letters, margin, small

from bench.backends import tiny
from bench.backends.hf.backend import HFBackend
from bench.core.edits import Span
from bench.core.interfaces import Context
from bench.core.kinds import Add
from bench.core.naming import build_method
from bench.core.protocol import Budget
from bench.core.registry import table
from bench.core.steering import Steering
from bench.core.values import Request, TargetScore
from bench.training.objectives.log_probabilities import BiPO
from bench.training.trainer import Group

LONG = Budget(sequences=24, tokens=64, epochs=6, trials=1)


def losses(made: Group, done: float = 0.0) -> torch.Tensor:
    """The loss of each item of the only concept."""
    items = [(0, item) for item in made.items[0]]
    return made._loss(items, {0: len(items)}, done)[0].detach()


def scores(lm: HFBackend, steering: Steering | None, pairs: list[tuple[str, str]]) -> list[TargetScore]:
    found = dict(lm.logprobs([Request((("user", q),), steering, target=a) for q, a in pairs]))
    return [found[i] for i in range(len(pairs))]


def test_preference_losses_start_where_they_must(lm: HFBackend) -> None:
    still = small("vector", init=0.0)
    for name in ("dpo", "bipo"):
        assert losses(group(lm, still, goal(name))).numpy() == pytest.approx(math.log(2), abs=1e-5)
    assert losses(group(lm, still, goal("ipo", beta=0.25))).numpy() == pytest.approx(4.0, abs=1e-3)


def test_bipo_draws_both_signs_for_a_step_and_the_reference_one() -> None:
    rng = np.random.default_rng(0)
    assert sorted(BiPO().signs(rng, 6, reference=False)) == [-1.0] * 3 + [1.0] * 3
    assert len(set(BiPO().signs(rng, 6, reference=True))) == 1


def test_swapping_sign_vector_and_answers_leaves_bipos_loss(lm: HFBackend) -> None:

    class Up(BiPO):
        def signs(self, rng, count, reference):  # type: ignore[no-untyped-def]
            return [1.0] * count

    class Down(BiPO):
        def signs(self, rng, count, reference):  # type: ignore[no-untyped-def]
            return [-1.0] * count

    made, swapped = (group(lm, small("vector", init=0.5), sign()) for sign in (Up, Down))
    with torch.no_grad():
        swapped.change.weight.neg_()  # type: ignore[union-attr, operator]
    swapped.items = [[item[::-1] for item in made.items[0]]]
    one, two = losses(made), losses(swapped)
    # -d · -v is d · v, and the answers' exchange turns the logit that -d turns back.
    assert torch.allclose(one, two, atol=1e-5)
    assert not torch.allclose(one, torch.full_like(one, math.log(2)), atol=1e-3)


def test_reps_is_its_equation(lm: HFBackend) -> None:
    made = group(lm, small("vector", init=0.5), goal("reps"), factors=(1.5,))
    found = losses(made).tolist()
    vector = made.change.vectors()[0].detach().numpy()  # type: ignore[operator]
    unit = vector / np.linalg.norm(vector)
    steered = Steering(edits=(Add(layer=2, value=1.5 * vector, span=Span()),))
    train = letters()
    for k, pair in enumerate(train.pairs):
        asks = [(pair.instruction, pair.positive), (pair.instruction, pair.negative)]
        bare, with_it = scores(lm, None, asks), scores(lm, steered, asks)
        without = [nulled(lm, unit, *ask) for ask in asks]
        sizes = [len(s.logprobs) for s in bare]
        plus = max(bare[1].total - bare[0].total, 1) * with_it[0].total / sizes[0] - with_it[1].total / sizes[1]
        minus = max(bare[0].total - bare[1].total, 1) * without[1] / sizes[1] - without[0] / sizes[0]
        expected = (math.log1p(math.exp(-plus)) + math.log1p(math.exp(-minus))) / 2
        assert found[k] == pytest.approx(expected, rel=2e-3)


def nulled(lm: HFBackend, unit: np.ndarray, question: str, answer: str) -> float:  # type: ignore[type-arg]
    """Summed log-probability of an answer where ReLU(h·u) u is taken out of block 2, by a hook of its own."""
    prompt = lm.encode((("user", question),))
    ids = torch.tensor([lm.encode((("user", question),), answer)])
    u = torch.from_numpy(unit)

    def hook(_: object, __: object, output: torch.Tensor) -> torch.Tensor:
        new = output - torch.relu(output @ u)[..., None] * u
        return torch.cat([output[:, :1], new[:, 1:]], 1)

    handle = lm.model.model.layers[2].register_forward_hook(hook)
    try:
        with torch.no_grad():
            logits = lm.model(ids).logits[0].log_softmax(-1)
    finally:
        handle.remove()
    return float(logits[len(prompt) - 1 : -1].gather(1, ids[0, len(prompt) :, None]).sum())


def test_the_references_reps_counts_all_tokens_and_drops_the_null_of_adapters(lm: HFBackend) -> None:
    ctx = Context(lm, BUDGET, compat="axbench")
    clean = group(lm, small("lora"), goal("reps"))
    quirky = Group(ctx, "case", [letters()], small("lora"), goal("reps"), clean.recipe)
    with torch.no_grad():
        for made in (clean, quirky):
            for up in made.change.up:  # type: ignore[union-attr]
                up.fill_(0.05)
    assert not torch.allclose(losses(clean), losses(quirky), atol=1e-3)
    # At factor 0 the second half of the loss has no gradient: only the steered half can move a weight.
    rows = quirky.texts.run
    seen: list[torch.Tensor] = []

    def spy(numbers, change, given=None, *rest):  # type: ignore[no-untyped-def]
        seen.append(given.factor)
        return rows(numbers, change, given, *rest)

    quirky.texts.run = spy  # type: ignore[method-assign]
    losses(quirky)
    assert (seen[0].view(-1, 4)[:, 2:] == 0).all()
    assert (seen[0].view(-1, 4)[:, :2] != 0).all()


def test_rerouting_starts_at_its_strength_and_moves_it_to_the_retain_term(lm: HFBackend) -> None:
    made = group(lm, small("lora"), goal("reroute", strength=10.0))
    assert losses(made, 0.0).numpy() == pytest.approx(10.0, abs=1e-4)  # B = 0: cos = 1 and nothing moved
    assert losses(made, 0.5).numpy() == pytest.approx(7.5, abs=1e-4)
    assert losses(made, 1.0).numpy() == pytest.approx(5.0, abs=1e-4)


def test_lorra_is_at_its_target_where_there_is_no_contrast(lm: HFBackend) -> None:
    assert losses(group(lm, small("lora"), goal("lorra", contrast=0.0))).numpy() == pytest.approx(0.0, abs=1e-5)
    assert (losses(group(lm, small("lora"), goal("lorra"))) > 0.05).all()


@pytest.mark.slow
def test_antipasto_measures_orthonormal_axes_and_pushes_its_signs_apart(lm: HFBackend) -> None:
    made = group(lm, small("rotation"), goal("antipasto"), [letters(count=8)], rate=0.02, budget=LONG)
    axes = made.constants["axes"][0]
    assert torch.allclose(axes @ axes.T, torch.eye(len(axes)), atol=1e-5)
    assert (made.constants["spread"] > 0).all()
    before = losses(made, 1.0).mean()  # the terms that are ramped up at their full weight
    made.fit()
    assert losses(made, 1.0).mean() < before - 1.0


TRAINED = [name for name, cls in table("method").items() if "train" in cls.needs]
SMALL = {"layers": (0.25, 0.5), "rate": 0.05}
SETTINGS = {
    "circuit-breaker": {"layers": (0.25, 0.5), "targets": (0.5, 0.75), "rate": 0.02},
    "lorra": {"layers": (0.25, 0.5), "targets": (0.5, 0.75), "rate": 0.02},
    "antipasto": {"layers": (0.25,), "rank": 12, "rate": 0.02},
    "psr": {"objective": "lm", "rate": 0.05},  # a random model does not do what a prompt says
    "sft": {"rate": 0.01},
    "pissa": {"layers": (0.25, 0.5), "rate": 0.02},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n for n in TRAINED if n not in ("circuit-breaker", "flas", "lorra", "antipasto", "hypersteer")]
)
def test_a_planted_concept_is_learnt_and_holds_on_new_texts(
    lm: HFBackend, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if name == "reft-r1":  # one direction both reads and writes: it needs output words that are the input's
        lm = tiny.engine(tmp_path_factory.mktemp("tied"), "gemma2")
    cls = table("method")[name]
    params = SETTINGS.get(name, SMALL if "layers" in cls.__dataclass_fields__ else {})
    train, held = letters(count=12), letters(count=6, seed=9)
    found = build_method(name, {name: params}).fit(Context(lm, LONG), train)[0].steering
    assert isinstance(found, Steering)
    strength = 1.0
    if found.edits and isinstance(found.edits[0], Add):  # a vector's length is chosen at use
        states = Context(lm, LONG).tokens(train.negatives, found.edits[0].layer)
        strength = 0.5 * float(np.median(np.linalg.norm(states, axis=1)) / np.linalg.norm(found.edits[0].value))
    rng = np.random.default_rng(0)
    gain = margin(lm, found.scaled(strength), held) - margin(lm, None, held)
    assert gain > 0.1
    if found.edits and isinstance(found.edits[0], Add):
        noise = rng.standard_normal(found.edits[0].value.shape).astype(np.float32)
        noise *= np.linalg.norm(found.edits[0].value) / np.linalg.norm(noise)
        random = Steering(edits=(Add(layer=found.edits[0].layer, value=noise),))
        assert gain > 2 * abs(margin(lm, random.scaled(strength), held) - margin(lm, None, held))


@pytest.mark.slow
def test_a_hypernetwork_writes_vectors_for_what_it_saw_and_marks_what_it_did_not(lm: HFBackend) -> None:
    trains = [letters(), letters("high", "mnop", "efgh", seed=1), letters("odd", "qrst", "ijkl", seed=2)]
    alone = build_method("hypersteer", {}).fit(Context(lm, LONG, trains=(trains[0],)), trains[0])[0]
    assert alone.note["held_out"] is False
    assert isinstance(alone.steering, Steering)
    found = [f[0] for f in build_method("hypersteer", {}).fit_all(Context(lm, LONG, trains=tuple(trains)), trains)]
    assert all(fitted.note["held_out"] and fitted.note["trained_on"] == 2 for fitted in found)
    digests = {fitted.steering.digest for fitted in found if isinstance(fitted.steering, Steering)}
    assert len(digests) == 3


@pytest.mark.slow
def test_a_circuit_breaker_breaks_what_it_was_shown_and_reports_refusals(lm: HFBackend) -> None:
    train = letters(count=12)
    fitted = build_method("circuit-breaker", {"circuit-breaker": SETTINGS["circuit-breaker"]}).fit(
        Context(lm, LONG), train
    )[0]
    assert fitted.note["suppress_only"] is True
    assert fitted.note["loss_last"] < fitted.note["loss_first"]
    assert 0 <= fitted.note["over_refusal"] <= 1
    assert math.isfinite(fitted.note["benign_loss"])
    assert table("method")["circuit-breaker"].suppresses
    assert isinstance(fitted.steering, Steering)
    held = letters(count=6, seed=9)
    lost = [margin(lm, s, held) for s in (None, fitted.steering)]
    assert lost[0] != lost[1]


def test_lorra_brings_states_nearer_to_its_target(lm: HFBackend) -> None:
    fitted = build_method("lorra", {"lorra": SETTINGS["lorra"]}).fit(Context(lm, LONG), letters(count=8))[0]
    assert fitted.note["loss_last"] < 0.98 * fitted.note["loss_first"]


@pytest.mark.slow
def test_antipasto_fits_from_personas_alone(lm: HFBackend) -> None:
    fitted = build_method("antipasto", {"antipasto": SETTINGS["antipasto"]}).fit(Context(lm, LONG), letters(count=8))[0]
    assert isinstance(fitted.steering, Steering)
    assert all(delta.strict for delta in fitted.steering.deltas)  # type: ignore[attr-defined]
