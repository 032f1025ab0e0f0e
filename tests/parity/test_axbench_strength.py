"""How strong a push is, and what a model says under it: `--compat axbench` and AxBench's own runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from peers import fixture, model, train

from bench import Budget, Context, Fitted, Request, Sampling, Steering
from bench.backends.hf.backend import HFBackend
from bench.core.kinds import Add
from bench.core.naming import build_method
from bench.core.protocol import Protocol, protocol
from bench.core.rows import Rows
from bench.run.strength import Strength
from bench.run.trials import Trial, best, trials
from methods._directions import DirectionDetector

THEIRS = fixture("axbench_steering")["values"]
W = np.random.default_rng(7).standard_normal(32)
UNIT = (W / np.linalg.norm(W)).astype(np.float32)
LAYER = 2


@pytest.fixture(scope="module", params=("llama", "gemma2"))
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HFBackend:
    return HFBackend(model(tmp_path_factory.mktemp(request.param), request.param), dtype="float32")


def kind(lm: HFBackend) -> str:
    return str(lm.model.config.model_type)


def strength(lm: HFBackend, compat: str = "axbench") -> Strength:
    rules = protocol("paper", "max-act", compat)
    rules = replace(rules, budget=replace(rules.budget, tokens=512))
    texts = train()
    return Strength(Context(lm, Budget(24, 512, 1, 1), compat=compat), rules, {texts.concept.id: texts}, Rows(None))


def fitted(vector: Any, factor: float | None = None) -> Fitted:
    value = np.asarray(vector, np.float32)
    return Fitted(Steering(edits=(Add(layer=LAYER, value=value),)), DirectionDetector(LAYER, value), factor=factor)


def pushed(unit: Strength, candidate: Fitted, c: float) -> Add:
    assert isinstance(candidate.steering, Steering)
    (edit,) = unit.at(candidate.steering, candidate, train().concept, c).edits
    assert isinstance(edit, Add)
    return edit


def test_the_largest_score_is_axbenchs(lm: HFBackend) -> None:
    theirs = THEIRS[kind(lm)]
    unit = strength(lm)
    assert pushed(unit, fitted(theirs["diffmean"]), 1.0).length() == pytest.approx(
        theirs["max_act"]["DiffMean"], abs=1e-3
    )
    assert pushed(unit, fitted(UNIT, 0.0), 1.0).length() == pytest.approx(theirs["max_act"]["LsReFT"], abs=1e-3)


@pytest.mark.parametrize("factor", [1, 4])
def test_a_push_at_every_token_gives_axbenchs_texts(lm: HFBackend, factor: int) -> None:
    theirs = THEIRS[kind(lm)]
    candidate = fitted(theirs["diffmean"])
    assert isinstance(candidate.steering, Steering)
    steering = strength(lm).at(candidate.steering, candidate, train().concept, float(factor))
    asked = [Request((("user", text),), steering, Sampling(12, 0.0, 0)) for text in THEIRS["prompts"]]
    lm.endless = True  # the peer writes on
    try:
        found = [answer for _, answer in sorted(lm.generate(asked), key=lambda pair: pair[0])]
    finally:
        lm.endless = False
    run = theirs["runs"][str(factor)]
    if kind(lm) == "llama":  # gemma2 repeats one token, whatever is added
        for answer, ids in zip(found, run["tokens"], strict=True):
            assert answer.text == lm.tokenizer.decode(ids, skip_special_tokens=True)
    assert all(answer.positions_edited == (answer.prompt_tokens + 11,) for answer in found)


def test_a_vector_of_its_own_length_is_pushed_as_axbench_does(lm: HFBackend) -> None:
    """SSV: factor x largest score x w, both in w's own length; RePS and BiPO: factor x w."""
    unit = strength(lm)
    once = pushed(unit, fitted(UNIT, 0.0), 1.0).length()
    assert pushed(unit, fitted(3 * UNIT, 0.0), 1.0).length() == pytest.approx(9 * once, rel=1e-5)
    assert pushed(unit, fitted(3 * UNIT, 10.0), 0.2).length() == pytest.approx(6.0, rel=1e-5)
    assert pushed(unit, fitted(3 * UNIT, 1.0), 2.0).length() == pytest.approx(6.0, rel=1e-5)


def test_max_act_does_not_hang_on_the_length_of_a_vector(lm: HFBackend) -> None:
    unit = strength(lm, "")
    short, long = (pushed(unit, fitted(k * UNIT), 1.0).length() for k in (1, 30))
    assert short == pytest.approx(long, rel=1e-5)
    assert short == pytest.approx(THEIRS[kind(lm)]["max_act"]["LsReFT"], abs=1e-3)


def test_the_methods_say_what_their_vectors_are_multiplied_with() -> None:
    known: dict[str, Any] = {"ssv": 0.0, "reft-r1": 0.0, "reps": 10.0, "bipo": 1.0}
    assert {name: build_method(name, {}).factor for name in known} == known  # type: ignore[attr-defined]


def test_the_first_of_equal_settings_is_picked_and_lora_has_one() -> None:
    from bench import Verdict
    from bench.core.deltas import LowRankDelta

    rules: dict[str, Protocol] = {mode: protocol("paper", compat=mode) for mode in ("", "axbench")}
    rows = {
        Trial(0, 0.2): [{"concept": Verdict(1.0), "overall": Verdict(1.0)}],
        Trial(0, 0.4): [{"concept": Verdict(2.0), "overall": Verdict(1.0)}],
    }
    assert [best(rows, rules[mode]).coefficient for mode in ("", "axbench")] == [0.4, 0.2]
    delta = LowRankDelta(module="model.layers.1.self_attn.o_proj", down=np.ones((1, 4)), up=np.ones((4, 1)))
    lora = Fitted(Steering(deltas=(delta,)))
    assert [len(trials([lora], rules[mode])) for mode in ("", "axbench")] == [14, 1]
    assert [len(trials([fitted(UNIT)], rules[mode])) for mode in ("", "axbench")] == [14, 14]
