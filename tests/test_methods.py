"""Every registered method keeps the contract, and the README's method runs as written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bench.backends import tiny
from bench.backends.fake.backend import FakeBackend
from bench.cli.main import main
from bench.core import registry
from bench.core.errors import BenchError, UsageError
from bench.core.interfaces import Context, Fitted, Method
from bench.core.kinds import Add
from bench.core.naming import build_method, names_in
from bench.core.steering import Steering
from bench.core.surfaces import SURFACES
from bench.core.values import Concept, Example, Train
from bench.run.contract import BUDGET, Planted, check, example_train
from methods.shuffled import Shuffled, mixed

SHIPPED = [name for name, cls in registry.table("method").items() if not cls.named]
WRAPPED = ["cast(caa)", "prompt+cast(diffmean)", "shuffled(cast)", "prompt+shuffled(reps)"]
TWINS = ["caa", "cache-steering", "flas", "hypersteer", "lora", "loreft", "lorra", "probe", "reft-r1", "repe", "reps"]
TWINS += ["sae", "soft-prompt"]
NAMES = [*SHIPPED, *registry.combinations(), *WRAPPED, *(f"shuffled({name})" for name in TWINS)]
ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_the_contract_holds(name: str, kind: str) -> None:
    found = check(name, kind)
    steers = all("steering" in registry.get("method", part).provides for part in names_in(name))
    assert len(found) >= (6 if steers else 1)
    assert {label: problem for label, problem in found.items() if problem} == {}


@pytest.mark.parametrize("name", registry.table("method"))
def test_a_method_says_what_it_is(name: str) -> None:
    cls = registry.get("method", name)
    text = cls.__doc__ or ""
    assert cls.summary().endswith(".")
    assert cls.surface in set(SURFACES) - {"combination"}
    assert cls.surface == "control" or ("Reproduction:" in text and "Deviation" in text and cls.paper)


def vector(name: str, ctx: Context) -> np.ndarray:  # type: ignore[type-arg]
    steering = build_method(name, {}).fit(ctx, example_train())[0].steering
    assert isinstance(steering, Steering)
    edit = steering.edits[0]
    assert isinstance(edit, Add)
    return edit.value


def test_a_planted_direction_is_found_by_those_that_look_for_it_and_by_no_control() -> None:
    class Faint(Planted):
        shift, spread = 6.0, 4.0

    ctx = Faint(FakeBackend(), BUDGET)
    cosine = {
        name: float(vector(name, ctx) @ Planted.axis)
        for name in ("diffmean", "pca", "lat", "probe", "shuffled", "random")
    }
    assert min(cosine[name] for name in ("diffmean", "pca", "lat")) > 0.99
    assert cosine["probe"] > 0.5
    assert abs(cosine["shuffled"]) < 0.5
    assert abs(cosine["random"]) < 0.5
    assert all(np.linalg.norm(vector(name, ctx)) == pytest.approx(1, abs=1e-5) for name in cosine)


def test_shuffled_mixes_the_classes_evenly() -> None:
    seen: list[list[str]] = []

    class Spy(Planted):
        def tokens(self, examples, layer):  # type: ignore[no-untyped-def]
            seen.append([e.response for e in examples])
            return super().tokens(examples, layer)

    build_method("shuffled", {}).fit(Spy(FakeBackend(), BUDGET), example_train())
    for side in seen:
        assert sum("ship" in text for text in side) == len(side) // 2


def test_a_shuffled_twin_gets_every_view_mixed_evenly_and_keeps_its_rows() -> None:
    train, ctx = example_train(), Context(FakeBackend(), BUDGET)
    found = mixed(ctx, train)
    assert found == mixed(ctx, train)
    for a, b in ((found.positives, found.negatives), (found.triggers, found.others)):
        assert len(a) == len(b) == 8
    assert sum("ship" in e.response for e in found.positives) == 4
    assert {*found.positives, *found.negatives} == {*train.positives, *train.negatives}
    assert {*found.triggers, *found.others} == {*train.triggers, *train.others}
    assert 0 < sum("ship" in text for text in found.triggers) == 4
    for view in ("pairs", "choices", "personas"):
        rows, before, turned = (getattr(t, view) for t in (found, train, train.reversed()))
        assert len(rows) == len(before)
        assert all(row in (a, b) for row, a, b in zip(rows, before, turned, strict=True))
        assert sum(row == b for row, b in zip(rows, turned, strict=True)) == len(rows) // 2
    assert (found.concept, found.hard_negatives) == (train.concept, ())
    one = mixed(ctx, replace(train, personas=train.personas[:1], pairs=train.pairs[:3]))
    assert sorted(one.personas) == [("a clerk", "a sailor"), ("a sailor", "a clerk")]  # the odd one stands both ways
    assert sum("ship" in p.positive for p in one.pairs) == sum("ship" in p.negative for p in one.pairs) == 2


def test_plain_shuffled_is_diffmean_on_mixed_texts() -> None:
    """To the bit what it was before it could wrap others, and under the same name and parameters."""
    ctx, train = Planted(FakeBackend(), BUDGET), example_train()
    plain = build_method("shuffled", {})
    assert (plain.name, plain.surface, plain.params(), plain.views) == (
        "shuffled",
        "control",
        {"layer": 0.5},
        {"texts"},
    )
    rng = ctx.rng("shuffled", train.concept.id)
    p, n = ([rows[i] for i in rng.permutation(8)] for rows in (train.positives, train.negatives))
    apart = ctx.tokens(p[:4] + n[:4], 2).mean(0) - ctx.tokens(p[4:] + n[4:], 2).mean(0)
    assert np.array_equal(vector("shuffled", ctx), (apart / np.linalg.norm(apart)).astype(np.float32))
    assert np.array_equal(vector("shuffled(diffmean)", ctx), vector("shuffled", ctx))
    layers = build_method("shuffled", {"shuffled": {"layer": "select"}})
    assert layers.candidates(BUDGET) == len(layers.fit(ctx, train)) == BUDGET.trials


def test_a_shuffled_twin_is_what_its_method_is_but_a_control() -> None:
    twin, own = build_method("shuffled(lora)", {"lora": {"rank": 2}}), build_method("lora", {"lora": {"rank": 2}})
    assert (twin.name, twin.surface) == ("shuffled(lora)", "control")
    assert twin.params() == {"shuffled": {}, "lora": own.params()}
    assert (twin.views, twin.needs, twin.training(BUDGET)) == (own.views, own.needs, own.training(BUDGET))
    assert not build_method("shuffled(diffmean)", {}).antisymmetric
    assert build_method("shuffled(hypersteer)", {}).needs_all_concepts
    assert build_method("shuffled(persona)", {}).uses_judge
    assert build_method("shuffled(circuit-breaker)", {}).suppresses
    assert not build_method("shuffled(capping)", {}).sweeps
    assert build_method("prompt+capping", {}).sweeps
    assert build_method("shuffled(caa)", {}).views == {"choices"}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("shuffled(prompt)", "prompt prompts: it has no labels to shuffle"),
        ("shuffled(prompt+diffmean)", "prompt prompts"),
        ("shuffled(none)", "none is a control"),
        ("shuffled(shuffled(reps))", r"shuffled\(reps\) is a control"),
        ("shuffled(actadd)", "actadd reads no training data"),
        ("shuffled(prompt-detect)", "prompt-detect reads no training data"),
    ],
)
def test_what_labels_do_not_teach_has_no_shuffled_twin(name: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        build_method(name, {})


def test_a_loss_over_both_sides_alike_has_no_shuffled_twin() -> None:
    with pytest.raises(UsageError, match="reft-r1 with both = true trains on both sides alike"):
        build_method("shuffled(reft-r1)", {"reft-r1": {"both": True}})


def test_a_twin_s_layer_is_its_method_s() -> None:
    with pytest.raises(UsageError, match="layer = 3 is plain shuffled's: give diffmean its own"):
        build_method("shuffled(diffmean)", {"shuffled": {"layer": 3}})


def test_a_twin_is_trained_as_its_method_is_on_mixed_data_all_concepts_at_once() -> None:
    """Through `fit_all`, and a method that reads the other concepts gets theirs mixed too."""
    seen: dict[str, object] = {}

    @dataclass(frozen=True)
    class Spy(Method):
        name = "spy"
        surface = "activations"

        def fit(self, ctx: Context, train: Train) -> list[Fitted]:
            raise AssertionError("one by one")

        def fit_all(self, ctx: Context, trains: Sequence[Train]) -> Iterator[list[Fitted]]:
            seen.update(trains=list(trains), pool=ctx.trains)
            yield from ([Fitted()] for _ in trains)

    train = example_train()
    many = [train, replace(train, concept=Concept("boats", "boats"))]
    ctx = Context(FakeBackend(), BUDGET, trains=tuple(many))
    assert len(list(Shuffled(inner=Spy()).fit_all(ctx, many))) == 2
    assert seen == {"trains": [mixed(ctx, one) for one in many], "pool": tuple(mixed(ctx, one) for one in many)}
    assert ctx.trains == tuple(many)


def test_indistinguishable_texts_are_an_error_not_a_vector() -> None:
    train = example_train()
    same = type(train)(train.concept, train.positives, train.positives)
    with pytest.raises(BenchError, match="nothing separates"):
        build_method("diffmean", {}).fit(Context(FakeBackend(), BUDGET), same)


def test_prompts_carry_the_concept_and_get_the_trials_of_a_vector() -> None:
    train = example_train()
    for name in ("prompt", "prompt-engineered"):
        found = build_method(name, {}).fit(Context(FakeBackend(), BUDGET), train)
        assert len(found) == BUDGET.trials
        for fitted in found:
            assert isinstance(fitted.steering, Steering)
            assert train.concept.text in str(fitted.steering.prompt.apply((("user", "q"),)))


def test_layers_are_indices_or_depths() -> None:
    ctx = Context(FakeBackend(), BUDGET)  # four blocks
    assert [ctx.layer(spec) for spec in (0, 3, -1, 0.0, 0.5, 0.99)] == [0, 3, 3, 0, 2, 3]
    for bad in (4, -5, 1.0, -0.1):
        with pytest.raises(BenchError, match="layers 0 to 3"):
            ctx.layer(bad)


def test_methods_on_the_same_texts_share_one_pass() -> None:
    passes: list[int] = []

    class Counting(FakeBackend):
        def activations(self, texts, layers, tokens=0, site="resid"):  # type: ignore[no-untyped-def]
            passes.append(len(texts))
            return super().activations(texts, layers, tokens, site)

    ctx = Context(Counting(), BUDGET)
    for name in ("diffmean", "pca", "lat", "probe", "random"):
        build_method(name, {}).fit(ctx, example_train())
    assert sum(passes) == 2 * len(example_train().positives)


@pytest.mark.slow
def test_the_readme_method_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    code = next(block for block in blocks if "@method" in block)
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    assert code in (ROOT / "docs" / "plugins.md").read_text("utf-8")
    plugin = tmp_path / "my_method.py"
    plugin.write_text(code)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BENCH_RESULTS", str(tmp_path / "results"))
    checked = CliRunner().invoke(main, ["check", "last-diff", "--plugin", str(plugin)])
    assert checked.exit_code == 0, checked.output
    assert "FAIL" not in checked.stdout
    command = ["run", "-m", "last-diff,diffmean,prompt,none", "--plugin", str(plugin), "--backend", "fake", "--json"]
    ran = CliRunner().invoke(main, command)
    assert ran.exit_code == 0, ran.output
    assert {row["status"] for row in json.loads(ran.stdout)["runs"]} == {"complete"}
    registry._tables["method"].pop("last-diff")


def test_an_example_is_a_chat() -> None:
    assert Example("a", "b").messages == (("user", "a"), ("assistant", "b"))
