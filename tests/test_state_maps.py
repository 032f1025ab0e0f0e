"""Methods that turn, stretch, project, cap or gate states, held to their papers' equations on made-up states."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from training_cases import letters

from bench.backends.fake.backend import FakeBackend
from bench.backends.hf.backend import HFBackend
from bench.cli.main import main
from bench.core import registry
from bench.core.content import Array
from bench.core.deltas import LowRankDelta
from bench.core.edits import Edit
from bench.core.elsewhere import ELSEWHERE
from bench.core.interfaces import Context, Fitted
from bench.core.kinds import Add, Diagonal, Rotate, Scaled
from bench.core.naming import build_method
from bench.core.protocol import protocol
from bench.core.steering import Steering
from bench.core.values import Train
from bench.run.contract import BUDGET, Planted, example_train
from bench.run.spending import trials as spent_trials
from bench.run.trials import trials as tried
from methods._dictionary import Dictionary
from methods._directions import orthogonal, responses as shown
from methods._output_scores import TEXT, output_scores
from methods.alphasteer import blind
from methods.angular import deeper
from methods.conceptor import soft

TRAIN = example_train()


def planted() -> Planted:
    return Planted(FakeBackend(), BUDGET, trains=(TRAIN,))


def fit(name: str, ctx: Context, train: Train = TRAIN, **params: Any) -> Fitted:
    return build_method(name, {name: params}).fit(ctx, train)[0]


def edits(found: Fitted) -> Sequence[Any]:
    assert isinstance(found.steering, Steering)
    return found.steering.edits


def changed(edit: Edit, h: Array) -> Array:
    """States `[N, H]` after the edit."""
    p = {name: torch.as_tensor(value)[None] for name, value in edit.operands().items()}
    states = torch.as_tensor(h, dtype=torch.float32)
    result: Array = (states + edit.change(states, p, edit.flags())).numpy()
    return result


def responses(ctx: Context, texts: Sequence[Any], layer: int) -> Array:
    reads = ctx.read([text.messages for text in texts], layer)
    return np.concatenate([read.values[layer][read.response :] for read in reads])


# Rotations


def test_angular_turns_to_the_mean_difference_in_one_plane_at_all_its_layers() -> None:
    ctx = planted()
    found = edits(fit("angular", ctx, layer=2, layers=("0.25:0.75",)))
    assert [edit.layer for edit in found] == [1, 2, 3]
    assert all(isinstance(edit, Rotate) and np.array_equal(edit.basis, found[0].basis) for edit in found)
    diffmean = edits(fit("diffmean", ctx, layer=2))[0].value
    assert np.allclose(found[0].basis[0], diffmean, atol=1e-5)
    h = np.random.default_rng(0).normal(size=(40, ctx.width)).astype(np.float32)
    turned = changed(found[0], h)
    along, aside = turned @ found[0].basis.T[:, 0], turned @ found[0].basis.T[:, 1]
    assert np.all(along > 0)
    assert np.abs(aside).max() < 1e-3
    assert np.allclose(np.linalg.norm(turned, axis=1), np.linalg.norm(h, axis=1), rtol=1e-5)


def test_the_twin_of_angular_has_the_same_first_axis_and_another_plane() -> None:
    ctx = planted()
    depth, drawn = (edits(fit("angular", ctx, plane=plane))[0].basis for plane in ("depth", "random"))
    assert np.array_equal(depth[0], drawn[0])
    assert abs(float(depth[1] @ drawn[1])) < 0.9


def test_a_vector_on_the_line_of_another_has_a_direction_beside_it() -> None:
    unit = np.eye(8, dtype=np.float32)[2]
    beside = orthogonal(3 * unit, unit)
    assert abs(float(beside @ unit)) < 1e-6
    assert np.isclose(np.linalg.norm(beside), 1)


def test_spherical_moves_the_states_that_point_away() -> None:
    ctx = planted()
    (edit,) = edits(fit("spherical", ctx))
    toward = ctx.axis * 5 + np.ones(ctx.width) * 0.1
    h = np.stack([toward, -toward]).astype(np.float32)
    before, after = (states @ edit.basis[0] for states in (h, changed(edit, h)))
    assert after[0] == pytest.approx(before[0], rel=1e-4)
    assert after[1] > 4
    assert edit.span.part == "generation"
    assert np.allclose(edit.basis[0], edits(fit("diffmean", ctx))[0].value, atol=1e-5)
    (last,) = edits(fit("spherical", ctx, states="last"))
    assert 0.5 < float(last.basis[0] @ edit.basis[0]) < 0.999


# Transport


def test_linear_act_finds_the_slope_and_shift_of_each_dimension(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    slope, shift = rng.uniform(0.5, 2, 6), rng.normal(size=6)
    method = build_method("linear-act", {"linear-act": {"trust": 0, "mask": True}})
    source = rng.normal(size=(200, 6))
    sides = {id(TRAIN.negatives): source, id(TRAIN.positives): slope * rng.permutation(source) + shift}
    monkeypatch.setattr(type(method), "_means", staticmethod(lambda ctx, texts, *rest: sides[id(texts)]))
    edit = method.map(planted(), TRAIN, 1)  # type: ignore[attr-defined]
    assert np.allclose(edit.gain, slope, atol=1e-3)
    assert np.allclose(edit.shift, shift, atol=1e-2)
    assert np.allclose(edit.low, source.min(0))
    trusting = build_method("linear-act", {"linear-act": {"trust": 200}})
    assert np.allclose(
        trusting.gain(np.sort(source, 0), np.sort(sides[id(TRAIN.positives)], 0)), (1 + slope) / 2, atol=1e-3
    )  # type: ignore[attr-defined]


def test_mean_act_adds_the_difference_of_the_texts_means() -> None:
    ctx = planted()
    (edit,) = edits(fit("mean-act", ctx, layer=2))
    assert isinstance(edit, Diagonal)
    means = [
        np.mean([read.values[2].mean(0) for read in ctx.read([t.messages for t in texts], 2)], 0)
        for texts in (TRAIN.positives, TRAIN.negatives)
    ]
    assert edit.low is None
    assert np.allclose(changed(edit, np.zeros((1, ctx.width))), means[0] - means[1], atol=1e-4)


# Projections and gates


def test_a_conceptor_is_the_soft_projection_of_its_aperture() -> None:
    ctx = planted()
    found = fit("conceptor", ctx, layer=2, quota=0.3)
    (edit,) = edits(found)
    x = responses(ctx, TRAIN.positives, 2)
    second = x.T @ x / len(x)
    values = np.linalg.eigvalsh(second)
    c = second @ np.linalg.inv(second + soft(values, 0.3) * np.eye(len(values)))
    assert np.trace(c) / len(c) == pytest.approx(0.3, abs=1e-6)
    beta = np.linalg.norm(x, axis=1).mean() / np.linalg.norm(x @ c, axis=1).mean()
    h = np.random.default_rng(1).normal(size=(5, ctx.width)).astype(np.float32)
    assert np.allclose(changed(edit, h), beta * h @ c, atol=1e-3)
    assert np.allclose(changed(edit.scaled(0.5), h), (h + beta * h @ c) / 2, atol=1e-3)


def test_alphasteer_is_the_papers_matrix_which_has_rank_one() -> None:
    rng = np.random.default_rng(0)
    plus, minus, r = rng.normal(size=(60, 12)) + 2 * np.eye(12)[0], rng.normal(size=(80, 12)), rng.normal(size=12)
    minus[:, :3] *= 0.05
    _, axes = np.linalg.eigh(minus.T @ minus)
    p = axes[:, :6] @ axes[:, :6].T
    x = plus @ p
    weigh = 0.1 * np.trace(axes[:, :6].T @ x.T @ x @ axes[:, :6]) / 6
    matrix = p @ np.linalg.pinv(x.T @ x + weigh * p) @ x.T @ np.outer(np.ones(len(x)), r)
    u = blind(plus, minus, 0.5, 0.1)
    assert np.allclose(matrix, np.outer(u, r), atol=1e-8)
    assert np.linalg.matrix_rank(matrix) == 1


def test_alphasteer_pushes_where_the_concept_is_and_nowhere_else() -> None:
    ctx = planted()
    found = fit("alphasteer", ctx, layer=2)
    (edit,) = edits(found)
    on, off = (np.abs(responses(ctx, texts, 2) @ edit.read[0]).mean() for texts in (TRAIN.positives, TRAIN.negatives))
    assert on > 10 * off
    assert (responses(ctx, TRAIN.positives, 2) @ edit.read[0]).mean() == pytest.approx(1, abs=1e-4)
    assert edit.length() == pytest.approx(1, abs=1e-5)


def test_capping_leaves_no_token_below_its_floor_and_tries_several() -> None:
    ctx = planted()
    found = build_method("capping", {"capping": {"layer": "0.5:0.75", "percentile": 50.0}}).fit(ctx, TRAIN)
    assert [one.note["percentile"] for one in found] == [50, 95]
    assert all(one.coefficients == (1.0,) for one in found)
    for one, percentile in zip(found, (50, 95), strict=True):
        assert [edit.layer for edit in edits(one)] == [2, 3]
        for edit in edits(one):
            v = edit.write[0]
            floor = np.percentile(responses(ctx, TRAIN.positives, edit.layer) @ v, percentile)
            h = responses(ctx, TRAIN.negatives, edit.layer)
            assert (changed(edit, h) @ v).min() == pytest.approx(floor, rel=1e-3)
            above = responses(ctx, TRAIN.positives, edit.layer)
            above = above[above @ v > floor + 1e-3]
            assert np.allclose(changed(edit, above), above, atol=1e-4)


def test_capping_tries_as_many_settings_as_a_vector_has_coefficients() -> None:
    rules = protocol("standard")
    made = build_method("capping")
    assert spent_trials(made, rules) == spent_trials(build_method("diffmean"), rules) == 5
    found = made.fit(replace(planted(), budget=rules.budget), TRAIN)
    assert len(tried(found, rules)) == 5


# A direction chosen by what it does


@pytest.mark.slow
def test_the_chosen_direction_passes_its_filters(lm: HFBackend) -> None:
    ctx = Context(lm, BUDGET, trains=(TRAIN,))
    found = fit("refusal-direction", ctx, step=1)
    assert isinstance(edits(found)[0], Add)
    assert found.note["layer"] < 0.8 * lm.layers
    if found.note["passed"]:
        assert found.note["induce"] > 0
        assert found.note["harm"] <= 0.1


def test_the_choice_is_the_least_bypass_of_what_passes() -> None:
    method = build_method("refusal-direction")
    vectors = {0: np.eye(4)[0], 2: np.eye(4)[1], 4: np.eye(4)[2]}
    tried = np.array([[0.5, -0.9, 0.4], [0.5, -0.3, 0.05], [-0.1, -0.8, 0.0]])
    assert method._chosen(vectors, tried).note["layer"] == 2  # type: ignore[attr-defined]
    none = method._chosen(vectors, tried + np.array([0, 0, 1.0]))  # type: ignore[attr-defined]
    assert (none.note["layer"], none.note["passed"]) == (4, 0)


# Weights, prompts' states, latents


def delta(found: Fitted) -> dict[str, Array]:
    assert isinstance(found.steering, Steering)
    return {d.module: d.strength * d.up @ d.down for d in found.steering.deltas if isinstance(d, LowRankDelta)}


@pytest.mark.slow
def test_weight_steering_cancels_what_both_sides_teach(lm: HFBackend) -> None:
    train = letters()
    ctx = Context(lm, replace(BUDGET, epochs=1), trains=(train,))
    params = {"rank": 2, "layers": (0.5,)}
    same = fit("weight-steering", ctx, replace(train, negatives=train.positives), **params)
    assert isinstance(same.steering, Steering)
    for one in same.steering.deltas:
        assert isinstance(one, LowRankDelta)
        assert np.array_equal(one.down[:2], one.down[2:])  # the two sides are one another's mirror, to the bit
        assert np.array_equal(one.up[:, :2], -one.up[:, 2:])
        assert np.abs(one.up).max() > 0
    assert same.note["cosine"] == pytest.approx(1, abs=1e-4)
    found, swapped = (delta(fit("weight-steering", ctx, one, **params)) for one in (train, train.reversed()))
    for module, change in found.items():
        assert np.abs(change).max() > 0
        assert np.allclose(swapped[module], -change, atol=1e-6)


@pytest.mark.slow
def test_psr_comes_nearer_to_the_states_under_the_prompt(lm: HFBackend) -> None:
    train = replace(letters(), prompts=("Write with a b c d only. {instruction}",))
    ctx = Context(lm, replace(BUDGET, epochs=12), trains=(train,))
    found = fit("psr", ctx, train, rate=0.01)
    assert found.note["loss_last"] < 0.98 * found.note["loss_first"]
    assert all(isinstance(edit, Scaled) and edit.activation == "relu" for edit in edits(found))
    assert len(edits(found)) == lm.layers
    gates = [float(np.abs(edit.read).max()) for edit in edits(found)]
    assert max(gates) > 0
    constant = edits(fit("psr", ctx, train, gate=False))
    assert all(not edit.read.any() and edit.bias[0] == 1 for edit in constant)


@pytest.mark.slow
def test_a_latent_that_writes_a_token_scores_above_one_that_writes_nothing(lm: HFBackend) -> None:
    head = lm.model.get_output_embeddings().weight.detach().float().numpy()
    token = head[70] / np.linalg.norm(head[70])
    decoder = np.stack([token, 1e-4 * token]).astype(np.float32)
    zero = np.zeros(2, np.float32)
    found = Dictionary(decoder, decoder, zero + 1, zero, np.zeros(lm.width, np.float32), {})
    ctx = Context(lm, BUDGET)
    last = lm.layers - 1
    strong, weak = output_scores(ctx, found, [0, 1], last)
    assert strong > 2 * weak
    [alone] = output_scores(ctx, found, [0], last)
    assert alone == pytest.approx(strong, rel=1e-3)
    assert len(lm.encode(TEXT)) > 1


@pytest.mark.parametrize("name", ["capping", "conceptor", "alphasteer"])
def test_texts_whose_questions_take_all_tokens_leave_their_last(name: str) -> None:
    class Cut(Planted):
        def _pass(self, texts: Any, layers: Any, tokens: int, site: Any) -> Any:
            return [replace(one, response=30) for one in super()._pass(texts, layers, tokens, site)]

    if name == "refusal-direction":
        assert shown(Cut(FakeBackend(), BUDGET, trains=(TRAIN,)), TRAIN.positives, 1).shape == (
            len(TRAIN.positives),
            24,
        )
        return
    assert edits(fit(name, Cut(FakeBackend(), BUDGET, trains=(TRAIN,))))


@pytest.mark.parametrize("name", ["capping", "conceptor", "linear-act"])
def test_what_has_no_opposite_is_refused_where_a_concept_is_to_go(name: str) -> None:
    words = f"run -m {name},none --task axbench-suppress --backend fake -n 1 --dry-run --json"
    rows = {row["method"]: row for row in json.loads(CliRunner().invoke(main, words.split()).stdout)["runs"]}
    assert "opposite" in rows[name]["reason"]
    assert not rows["none"].get("reason")


def test_the_plane_of_angular_has_the_sign_under_which_it_grows_with_depth() -> None:
    rows = np.outer(np.arange(6), np.eye(5)[2]) + np.eye(5)[0]
    assert deeper(rows)[2] > 0.99
    assert deeper(rows[::-1])[2] < -0.99


# Names of the literature


def test_a_method_that_is_not_here_says_why() -> None:
    result = CliRunner().invoke(main, ["run", "-m", "DExperts", "--backend", "fake"])
    assert result.exit_code == 2
    assert "one model" in result.output
    assert "did you mean" not in result.output


def test_no_registered_method_is_said_to_be_elsewhere() -> None:
    known = registry.table("method")
    assert not set(ELSEWHERE) & set(known)
