"""SAE: the dictionary's trainer and loader, the latent that is picked, and what clamping it does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.metrics import r2_score, roc_auc_score

from bench.backends import tiny
from bench.backends.fake.backend import FakeBackend
from bench.backends.hf.backend import HFBackend
from bench.core.content import Array
from bench.core.edits import Edit, Span
from bench.core.errors import BenchError, UsageError
from bench.core.interfaces import Context, Fitted
from bench.core.kinds import Add, Clamp
from bench.core.naming import build_method
from bench.core.steering import Steering
from bench.core.store import load_value, save_value
from bench.core.values import Completion, Example, Request, Train
from bench.run.contract import BUDGET, Planted, check, example_train
from methods._dictionary import LENGTH, Dictionary, learn, topk
from methods._directions import DirectionDetector
from methods.sae import aurocs

QUESTION = (("user", "What is in the box on the table?"),)


def planted(latents: int = 32, width: int = 16, k: int = 3, n: int = 4000) -> tuple[Array, list[Array]]:
    """Unit directions `[latents, width]`, and texts whose rows are sums of `k` of them off the origin."""
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((latents, width))
    truth /= np.linalg.norm(truth, axis=1, keepdims=True)
    codes = np.zeros((n, latents))
    for row in codes:
        row[rng.choice(latents, k, replace=False)] = rng.uniform(1, 3, k)
    rows = 5 * codes @ truth + 3 * rng.standard_normal(width)
    return truth, np.array_split(rows.astype(np.float32), 50)


@pytest.fixture(scope="module")
def texts() -> list[Array]:
    return planted()[1]


@pytest.fixture(scope="module")
def learnt(texts: list[Array]) -> Dictionary:
    return learn(texts, width=32, k=3, seed=0, epochs=8)


def edit(fitted: Fitted) -> Edit:
    assert isinstance(fitted.steering, Steering)
    return fitted.steering.edits[0]


def scores(lm: HFBackend, steerings: Sequence[Steering | None], target: str = "A red ball.") -> list[Array]:
    found = dict(lm.logprobs([Request(QUESTION, steering, target=target) for steering in steerings]))
    return [np.array(found[i].logprobs) for i in range(len(steerings))]


def release(folder: Path, width: int = 24, threshold: float = 1.0, latents: int = 48) -> dict[str, Array]:
    """A dictionary in GemmaScope's naming whose latent 2i reads coordinate i, and 2i + 1 its negative."""
    rows = np.concatenate([[row, -row] for row in np.eye(width, dtype=np.float32)])[:latents]
    arrays = {"W_enc": rows.T, "W_dec": 2 * rows, "b_enc": np.full(len(rows), -1, np.float32)}
    arrays |= {"b_dec": np.zeros(width, np.float32), "threshold": np.full(len(rows), threshold, np.float32)}
    np.savez(folder / "params.npz", **arrays)  # type: ignore[arg-type]
    return arrays


@pytest.mark.slow
def test_the_contract_holds_for_clamps_too() -> None:
    found = check("sae", params={"operator": "clamp", "tokens": 64})
    assert len(found) >= 6
    assert {label: problem for label, problem in found.items() if problem} == {}


def test_topk_keeps_exactly_k_and_the_largest() -> None:
    z = torch.randn(200, 64, generator=torch.Generator().manual_seed(0)).abs() + 0.1
    kept = topk(z, 5)
    assert ((kept != 0).sum(1) == 5).all()
    assert torch.equal(kept.sort(1).values[:, -5:], z.sort(1).values[:, -5:])
    assert topk(z - 100, 5).count_nonzero() == 0  # nothing below 0 counts as active


@pytest.mark.slow
def test_a_planted_sparse_dictionary_is_recovered() -> None:
    truth, rows = planted()
    learnt = learn(rows, width=64, k=3, seed=0, epochs=8)  # twice the truth: .97 to .99 over seeds
    found = np.abs(truth @ learnt.decoder.T).max(1)
    chance = np.abs(truth @ truth.T - np.eye(len(truth))).max(1)
    assert found.mean() > 0.9 > chance.mean() + 0.1
    assert np.allclose(np.linalg.norm(learnt.decoder, axis=1), 1, atol=1e-5)


@pytest.mark.slow
def test_latents_that_fall_silent_are_put_to_use() -> None:
    rows = planted(8, 16, 2, 2000)[1]
    wide = learn(rows, width=64, k=2, seed=0, epochs=8)
    silent = 1 - np.mean((wide.activations(np.concatenate(rows)) > 0).any(0))
    assert wide.report["dead"] < 1
    assert abs(silent - wide.report["dead"]) < 0.35  # TopK's count, and the threshold's


@pytest.mark.slow
def test_the_scale_of_training_is_folded_back(texts: list[Array], learnt: Dictionary) -> None:
    large = learn([text * 1024 for text in texts], width=32, k=3, seed=0, epochs=8)
    np.testing.assert_allclose(large.encoder, learnt.encoder, atol=1e-4)
    np.testing.assert_allclose(large.bias, learnt.bias * 1024, rtol=1e-3, atol=1e-1)
    np.testing.assert_allclose(large.threshold, learnt.threshold * 1024, rtol=1e-3)
    x = np.concatenate(texts)
    z = torch.from_numpy(x @ learnt.encoder.T + learnt.bias)
    raw = topk(z, 3).numpy() @ learnt.decoder + learnt.center
    assert r2_score(x, raw, multioutput="variance_weighted") > 0.85
    least = z.topk(3).values[:, -1].relu().mean()  # over a tenth more rows than it was measured on
    assert learnt.threshold[0] == pytest.approx(float(least), rel=0.05)


@pytest.mark.slow
def test_the_reported_figures_are_those_of_held_out_texts(texts: list[Array], learnt: Dictionary) -> None:
    x = np.concatenate(texts[::10])
    a = np.maximum(x @ learnt.encoder.T + learnt.bias, 0)
    a[a <= learnt.threshold] = 0
    explained = r2_score(x, a @ learnt.decoder + learnt.center, multioutput="variance_weighted")
    assert learnt.report["explained_variance"] == pytest.approx(explained, abs=1e-5)
    assert learnt.report["l0"] == pytest.approx((a > 0).sum(1).mean())
    assert learnt.report["tokens"] == sum(map(len, texts)) - len(x)
    assert learnt.report["undertrained"] is True


@pytest.mark.slow
def test_training_leaves_the_global_generator_alone_and_repeats(texts: list[Array]) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one = learn(texts[:9], 16, 2, seed=1, epochs=1)
    assert torch.equal(torch.rand(3), expected)
    again = learn(texts[:9], 16, 2, seed=1, epochs=1)
    assert np.array_equal(one.decoder, again.decoder)


def test_aurocs_are_those_of_scikit_learn_with_ties() -> None:
    rng = np.random.default_rng(0)
    scored, positive = rng.integers(0, 4, (20, 7)).astype(float), np.arange(20) < 8
    expected = [roc_auc_score(positive, column) for column in scored.T]
    np.testing.assert_allclose(aurocs(scored, positive), expected)


@pytest.mark.slow
@pytest.mark.parametrize("pick", ["auroc", "difference"])
def test_the_latent_of_a_planted_concept_is_picked(pick: str) -> None:
    ctx, train = Planted(FakeBackend(), BUDGET), example_train()
    found = build_method("sae", {"sae": {"pick": pick}}).fit(ctx, train)[0]
    added = edit(found)
    assert isinstance(added, Add)
    assert float(added.value @ Planted.axis) > 0.9
    assert np.linalg.norm(added.value) == pytest.approx(1, abs=1e-5)
    assert found.note["auroc"] == 1
    assert found.note["undertrained"] is True
    assert {"l0", "explained_variance", "dead", "tokens", "width", "latent"} <= set(found.note)
    assert found.detector is not None
    above, below = (found.detector.score(ctx, rows) for rows in (train.positives, train.negatives))
    assert above.min() > below.max()


@pytest.mark.slow
def test_texts_that_do_not_differ_have_no_latent() -> None:
    train = example_train()
    same = Train(train.concept, train.positives, train.positives)
    with pytest.raises(BenchError, match="separates the texts of ships"):
        build_method("sae", {}).fit(Context(FakeBackend(), BUDGET), same)


def clamp(read: Array, target: float, span: Span | None = None, **more: Any) -> Steering:
    part = Clamp(layer=1, read=read, write=2 * read, target=target, span=span or Span(), **more)
    return Steering(edits=(part,))


def test_clamping_a_latent_to_its_own_value_changes_nothing(lm: HFBackend) -> None:
    state = Context(lm, BUDGET).read([QUESTION], 1)[0].values[1][-1]
    read = (state / np.linalg.norm(state)).astype(np.float32)
    own, last = float(state @ read) - 0.1, Span("prompt", last=1)
    same, moved = (clamp(read, target, last, bias=-0.1, threshold=0.01) for target in (own, own + 4))
    loose = clamp(read, 0.0, bias=-0.1, threshold=0.01, at_least=True)  # every activation is at least 0
    assert own > 0.1
    bare, *steered = scores(lm, [None, same, loose, moved])
    np.testing.assert_allclose(steered[0], bare, atol=1e-4)
    np.testing.assert_allclose(steered[1], bare, atol=1e-4)
    assert np.abs(steered[2] - bare).max() > 1e-2


@pytest.mark.slow
def test_each_row_of_a_batch_clamps_to_its_own_value(lm: HFBackend) -> None:
    made = build_method("sae", {"sae": {"operator": "clamp", "tokens": 64}})
    fitted = made.fit(Context(lm, BUDGET, trains=(example_train(),)), example_train())[0]
    part = edit(fitted)
    assert isinstance(part, Clamp)
    assert part.target == fitted.note["max_activation"] > part.threshold > 0
    rows = [fitted.steering.scaled(c) for c in (1.0, 6.0, 20.0)]  # type: ignore[union-attr]
    together = scores(lm, rows)
    for row, found in zip(rows, together, strict=True):
        np.testing.assert_allclose(found, scores(lm, [row])[0], atol=1e-4)
    assert np.abs(together[1] - together[2]).max() > 1e-2


def test_a_release_in_gemmascopes_naming_is_used_as_it_is(tmp_path: Path) -> None:
    arrays = release(tmp_path)
    lower = {name.lower(): torch.from_numpy(value.copy()).bfloat16() for name, value in arrays.items()}
    save_file(lower, tmp_path / "params.safetensors")
    ctx, train = Planted(FakeBackend(), BUDGET), example_train()
    for file in ("params.npz", "params.safetensors"):
        params = {"release": str(tmp_path / file), "operator": "min-clamp"}
        found = build_method("sae", {"sae": params}).fit(ctx, train)[0]
        part = edit(found)
        assert isinstance(part, Clamp)
        assert found.note["latent"] == 6  # coordinate 3, where the concept is planted
        assert np.array_equal(part.read, np.eye(24)[3])
        assert np.array_equal(part.write, 2 * np.eye(24)[3])
        assert (part.bias, part.threshold, part.at_least) == (-1, 1, True)
        states = np.concatenate([read.values[2] for read in ctx.read([e.messages for e in train.positives], 2)])
        assert part.target == pytest.approx(float(states[:, 3].max()) - 1, rel=1e-5)
        assert "undertrained" not in found.note
        assert build_method("sae", {"sae": params}).prompt_writing_cost(BUDGET) == (0, 0)


def test_the_detector_gives_the_activation_where_it_fires_and_keeps_the_order_below() -> None:
    ctx, train = Planted(FakeBackend(), BUDGET), example_train()
    detector = DirectionDetector(2, np.eye(24, dtype=np.float32)[5], -50.0)
    found = detector.score(ctx, train.negatives)
    assert (found < 0).all()
    assert len(set(found)) == len(found)


def test_a_release_that_does_not_fit_is_one_line(tmp_path: Path) -> None:
    ctx, train = Planted(FakeBackend(), BUDGET), example_train()

    def fails(match: str, file: str = "params.npz") -> None:
        with pytest.raises(BenchError, match=match) as caught:
            build_method("sae", {"sae": {"release": str(tmp_path / file)}}).fit(ctx, train)
        assert "\n" not in str(caught.value)

    arrays = release(tmp_path, width=16, latents=32)
    fails("is 16 wide, the model 24")
    np.savez(tmp_path / "params.npz", **{k: v for k, v in arrays.items() if k != "W_dec"})  # type: ignore[arg-type]
    fails("no array 'w_dec'; it has b_dec, b_enc, threshold, w_enc")
    np.savez(tmp_path / "params.npz", **(arrays | {"W_enc": arrays["W_dec"]}))  # type: ignore[arg-type]
    fails(r"W_enc \(32, 16\) does not fit W_dec \(32, 16\)")
    (tmp_path / "params.npz").write_bytes(b"PK torn")
    fails("cannot load the dictionary")
    (tmp_path / "params.safetensors").write_bytes(b"torn")
    fails("cannot load the dictionary", "params.safetensors")


def test_a_release_that_cannot_be_fetched_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[Any, ...]] = []
    fetched: Path | None = None

    def download(repo: str, file: str, revision: str | None = None, **_: Any) -> str:
        asked.append((repo, file, revision))
        if fetched is None:
            raise OSError("no route to host\nfurther advice")
        return str(fetched)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    ctx, train = Planted(FakeBackend(), BUDGET), example_train()
    made = build_method("sae", {"sae": {"release": "owner/repo/layer_20/params.npz@abc"}})
    with pytest.raises(BenchError, match=r"OSError: no route to host; or give"):
        made.fit(ctx, train)
    release(tmp_path)
    fetched = tmp_path / "params.npz"
    assert made.fit(ctx, train)[0].note["latent"] == 6
    assert asked == [("owner/repo", "layer_20/params.npz", "abc")] * 2
    with pytest.raises(BenchError, match=r"give a \.npz"):
        build_method("sae", {"sae": {"release": "/no/such.npz"}}).fit(ctx, train)
    assert len(asked) == 2


class Asked(FakeBackend):
    """Keeps the requests it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Request] = []

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        self.requests += requests
        return super().generate(requests)


@pytest.mark.slow
def test_a_run_trains_one_dictionary_and_writes_no_more_than_it_declares(tmp_path: Path) -> None:
    one = example_train()
    two = dataclasses.replace(one, positives=one.positives[:5], hard_negatives=(Example("Row?", "Row the boat."),))
    kept: dict[str, Any] = {}

    def keep(key: Any, make: Callable[[], Any]) -> Any:
        if str(key) not in kept:
            save_value(tmp_path / "kept.safetensors", make())
            kept[str(key)] = load_value(tmp_path / "kept.safetensors")
        return kept[str(key)]

    lm, made = Asked(), build_method("sae", {"sae": {"shortlist": 3}})
    ctx = Context(lm, BUDGET, trains=(one, two), cache=keep)
    found = [made.fit(ctx, train) for train in (one, two)]
    drafts, tokens = made.prompt_writing_cost(BUDGET)
    assert len(kept) == 1
    assert [len(candidates) for candidates in found] == [3, 3] == [made.candidates(BUDGET)] * 2
    assert 0 < len(lm.requests) <= 2 * drafts
    assert sum(request.sampling.max_new_tokens for request in lm.requests) <= 2 * tokens == 2 * drafts * LENGTH
    assert len({request.seed for request in lm.requests}) == len(lm.requests)
    assert {request.sampling.temperature for request in lm.requests} == {1.0}
    made.fit(Context(lm, BUDGET, trains=(one,), cache=keep), one)
    assert len(kept) == 2  # other concepts, another dictionary


def test_settings_out_of_range_are_refused() -> None:
    for params in ({"tokens": 200_001}, {"tokens": -1}, {"k": 0}, {"shortlist": 0}, {"operator": "replace"}):
        with pytest.raises(
            (UsageError, ValueError), match=r"tokens from 0|is not (0 or more|from 1|one of add, clamp, min-clamp)"
        ):
            build_method("sae", {"sae": params})


@pytest.mark.slow
def test_it_also_fits_without_texts_of_the_models_own(tmp_path: Path) -> None:
    lm = tiny.engine(tmp_path)
    made = build_method("sae", {"sae": {"tokens": 0}})
    assert made.prompt_writing_cost(BUDGET) == (0, 0)
    assert made.fit(Context(lm, BUDGET), example_train())[0].note["width"] == 64
