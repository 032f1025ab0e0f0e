"""Detection on real data (AxBench's Concept10, default model, layer 15, fp32, clean mode), its metrics and regimes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import assume, given, strategies as st
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, precision_recall_curve, roc_auc_score, roc_curve
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize

from bench import results
from bench.backends.hf.backend import HFBackend
from bench.backends.models import Model
from bench.cli.main import main
from bench.core.content import Array
from bench.core.errors import UsageError
from bench.core.interfaces import Context
from bench.core.naming import build_method
from bench.core.protocol import Budget, protocol
from bench.core.registry import build
from bench.core.values import Example, Train
from bench.results.tables import tables
from bench.stats.detection import placements, separation, thresholds
from tasks.axbench_detect import AxBenchDetect

LAYER = 15
DETECTORS = ("diffmean", "mean", "pca", "lat", "probe", "bow")
CONCEPTS = ("0", "2", "4", "6", "7")
"""Enough for the order (the committed run has all ten): reading a concept's texts takes a minute."""
RECOMPUTED = ("0", "4", "7")
"""Concepts whose AUROC is computed again from dumped activations, by scikit-learn alone."""


@pytest.fixture(scope="module")
def aurocs(default_model: Model, axbench_folder: Path) -> dict[str, list[float]]:
    """detector -> AUROC per concept, all detectors from one cached pass over the texts."""
    task = build("task", "axbench-detect", {"data": str(axbench_folder)}, protocol=protocol("paper"))
    ctx = Context(HFBackend(default_model, "float32"), Budget(144, 0, 1, 1))
    found: dict[str, list[float]] = {name: [] for name in DETECTORS}
    for concept in (one for one in task.concepts() if one.id in CONCEPTS):
        labelled = [(text, kind) for text, kind in task.evaluation(concept) if kind != "hard negative"]
        assert [kind for _, kind in labelled].count("positive") == 36
        assert len(labelled) == 72
        if concept.id in RECOMPUTED:
            tested = task.test(concept)
            labelled = [(Example(s.messages[0][1], s.messages[1][1]), s.label) for s in tested]
            assert [kind for _, kind in labelled].count("other") == 36
        train = task.train(concept)
        for name in DETECTORS:
            made = build_method(name, {name: {} if name == "bow" else {"layer": LAYER}})
            detector = made.fit(ctx, train)[0].detector
            assert detector is not None
            measured = separation(ctx, detector, labelled)
            found[name].append(measured["auroc"])
            if concept.id in RECOMPUTED:
                again = recomputed(name, ctx, train, [text for text, _ in labelled])
                for axis, value in independent(again, np.array([kind for _, kind in labelled])).items():
                    assert measured[axis] == pytest.approx(value, abs=0.005), (name, axis)
    return found


def independent(scores: Array, kinds: Array) -> dict[str, float]:
    """Every metric by scikit-learn's own functions."""
    easy = np.isin(kinds, ("positive", "negative"))
    hard = kinds == "hard negative"
    positive = kinds == "positive"
    weights = np.where(positive, 1.0, 99 * positive.sum() / (~positive & ~hard).sum())

    def f1(part: Array, weight: Array | None) -> float:
        precision, recall, _ = precision_recall_curve(positive[part], scores[part], sample_weight=weight)
        return float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12)))

    found = {
        "auroc": roc_auc_score(positive[easy], scores[easy]),
        "f1": f1(easy, None),
        "f1_rare": f1(~hard, weights[~hard]),
    }
    if hard.any():
        found["hard_auroc"] = roc_auc_score(positive[positive | hard], scores[positive | hard])
        precision, recall, cuts = precision_recall_curve(positive[easy], scores[easy])
        best = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        own = easy | hard
        found["f1_hard"] = f1_score(positive[own], scores[own] >= cuts[np.flatnonzero(best >= best.max() - 1e-9)[0]])
        false, true, cuts = roc_curve(positive[easy], scores[easy], drop_intermediate=False)
        cut = cuts[(true - false).argmax()]
        found["hard_accuracy"] = ((scores[positive] >= cut).mean() + (scores[hard] < cut).mean()) / 2
    return {axis: float(value) for axis, value in found.items()}


def recomputed(name: str, ctx: Context, train: Train, texts: list[Example]) -> Array:
    """Scores of `texts` without this program's methods: dumped activations and scikit-learn."""
    if name == "bow":
        model = make_pipeline(CountVectorizer(), LogisticRegression(C=100, max_iter=1000))
        rows = [*train.positives, *train.negatives]
        y = [True] * len(train.positives) + [False] * len(train.negatives)
        model.fit([f"{e.instruction} {e.response}" for e in rows], y)
        return model.decision_function([f"{e.instruction} {e.response}" for e in texts])

    def dump(rows: Sequence[Example]) -> list[Array]:
        return [r.values[LAYER] for r in ctx.read([e.messages for e in rows], LAYER)]

    plus, minus = np.concatenate(dump(train.positives)), np.concatenate(dump(train.negatives))
    both, y = np.concatenate([plus, minus]), np.repeat([1, 0], [len(plus), len(minus)])
    if name == "diffmean":
        w = plus.mean(0) - minus.mean(0)
    elif name == "mean":
        w = both.mean(0)
    elif name == "probe":
        pipe = make_pipeline(StandardScaler(), LogisticRegression(C=0.001, max_iter=500)).fit(both, y)
        w = pipe[-1].coef_[0] / pipe[0].scale_
    else:
        rows = plus
        if name == "lat":
            drawn = ctx.rng("lat", train.concept.id).permutation(plus)
            half = len(drawn) // 2
            rows = normalize(drawn[:half] - drawn[half : 2 * half])
        w = PCA(1, svd_solver="full").fit(rows).components_[0]
        w = w * np.sign((plus @ w).mean() - (minus @ w).mean())
    return np.array([(h @ w).max() for h in dump(texts)])


def test_the_order_is_the_papers(aurocs: dict[str, list[float]]) -> None:
    means = {name: float(np.mean(values)) for name, values in aurocs.items()}
    print({name: round(value, 4) for name, value in means.items()})
    assert all(len(values) == len(CONCEPTS) for values in aurocs.values())
    assert means["diffmean"] > 0.95
    assert means["probe"] > 0.9
    assert max(means[name] for name in ("pca", "lat", "mean")) < min(means["diffmean"], means["probe"]) - 0.1


class Length:
    def score(self, ctx: Context, texts: Sequence[Example]) -> Array:
        return np.array([len(t.response) for t in texts], float)


def test_hard_negatives_have_axes_of_their_own() -> None:
    rows = [(Example("q", "x" * n), kind) for n, kind in ((9, "positive"), (1, "negative"), (12, "hard negative"))]
    ctx = Context(None, Budget(1, 1, 1, 1))  # type: ignore[arg-type]
    found = separation(ctx, Length(), rows)
    assert found == {"auroc": 1.0, "hard_auroc": 0.0, "f1": 1.0, "f1_hard": 2 / 3} | {
        "f1_rare": 1.0,
        "hard_accuracy": 0.5,
    }


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=30))
def test_the_mean_placement_is_the_auroc(rows: list[tuple[int, bool]]) -> None:
    scores, positive = (np.array(column) for column in zip(*rows, strict=True))
    assume(positive.any() and not positive.all())
    found = placements(scores, positive)
    expected = roc_auc_score(positive, scores)
    for part in (found, found[positive], found[~positive]):
        assert part.mean() == pytest.approx(expected)


KINDS = ("positive", "negative", "hard negative", "other")


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(KINDS)), min_size=2, max_size=40))
def test_thresholds_are_scikit_learns(rows: list[tuple[int, str]]) -> None:
    scores, kinds = np.array([row[0] for row in rows], float), np.array([row[1] for row in rows])
    assume({"positive", "negative"} <= set(kinds.tolist()))
    found, expected = thresholds(scores, kinds), independent(scores, kinds)
    assert set(found) == set(expected) - {"auroc", "hard_auroc"}
    for axis, value in found.items():
        assert value == pytest.approx(expected[axis]), axis


def test_one_false_alarm_in_a_hundred_halves_the_rare_f1() -> None:
    kinds = np.array(["positive"] * 10 + ["negative"] * 99)
    scores = np.r_[np.full(10, 2.0), np.zeros(98), 2.0]
    assert thresholds(scores, kinds)["f1_rare"] == pytest.approx(f1_score([1, 0], [1, 1]))
    assert thresholds(scores, kinds)["f1"] == pytest.approx(20 / 21)


def detect(folder: Path, preset: str = "paper", **params: object) -> AxBenchDetect:
    made: AxBenchDetect = build("task", "axbench-detect", {"data": str(folder), **params}, protocol=protocol(preset))
    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("regime", "amount", "positives", "negatives"),
    [("scarce", 0, 4, 4), ("scarce", 32, 16, 16), ("imbalanced", 0, 4, 72), ("imbalanced", 0.5, 72, 72),
     ("noisy", 0, 72, 72), ("noisy", 0.5, 72, 72), ("shifted", 0, 72, 72)],
)  # fmt: skip
def test_a_regime_changes_training_texts_alone(
    axbench_folder: Path, regime: str, amount: float, positives: int, negatives: int
) -> None:
    plain, made = detect(axbench_folder), detect(axbench_folder, regime=regime, amount=amount)
    assert made.digest == plain.digest
    for concept in made.concepts():
        assert made.test(concept) == plain.test(concept)
        before = plain.train(concept).limited(144)
        after = made.train(concept).limited(144)
        assert len(after.positives) == positives
        assert after.negatives[: len(before.negatives)] == after.negatives[:negatives]
        assert after == made.train(concept).limited(144)
        if regime == "noisy":
            wrong = len(set(after.positives) & set(before.negatives))
            assert wrong == round((amount or 0.25) * 72) == len(set(after.negatives) & set(before.positives))
        elif regime == "shifted":
            away = {e for c in plain.concepts() if c.genre != concept.genre for e in plain.train(c).negatives}
            assert set(after.negatives) <= away
            assert not set(after.negatives) & set(before.negatives)
            assert after.positives == before.positives
        else:
            assert after.positives == before.positives[:positives]
            assert after.negatives == before.negatives[:negatives]


def test_the_pool_is_negatives_of_other_concepts_and_none_is_trained_on(axbench_folder: Path) -> None:
    made = detect(axbench_folder, pool=5000)
    for concept in made.concepts():
        others = [s for s in made.test(concept) if s.label == "other"]
        assert len(others) > 250
        own = {text.messages for text, _ in made.evaluation(concept)}
        trained = {e.instruction for e in made.train(concept).positives}
        assert not own & {s.messages for s in others}
        assert not trained & {s.instruction for s in others}
    assert not [s for s in detect(axbench_folder, pool=0).test(concept) if s.label == "other"]


@pytest.mark.parametrize(
    ("params", "said"),
    [({"regime": "scarce", "amount": 1}, "2 to"), ({"regime": "noisy", "amount": 0.7}, "0.5"),
     ({"regime": "shifted", "amount": 0.2}, "takes none"), ({"amount": 3}, "takes none"), ({"pool": -1}, "pool")],
)  # fmt: skip
def test_an_amount_without_meaning_is_refused(axbench_folder: Path, params: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        detect(axbench_folder, **params)


@pytest.mark.slow
def test_a_run_has_every_axis_and_a_concept_without_hard_negatives_stays(axbench_folder: Path, tmp_path: Path) -> None:
    env = {"BENCH_CACHE": str(tmp_path / "cache"), "BENCH_RESULTS": str(tmp_path / "results")}
    for extra in ([], ["-p", "axbench-detect.regime=scarce"]):
        words = ["run", "-t", "axbench-detect", "--data", str(axbench_folder), "--backend", "fake", *extra]
        found = CliRunner().invoke(main, [*words, "-m", "diffmean,random,probe"], env=env)
        assert found.exit_code == 0, found.stderr
    found = tables(results.load(tmp_path / "results"))
    assert len(found) == 2
    for table in found:
        assert table.axes == ("auroc", "hard_auroc", "f1", "f1_hard", "f1_rare", "hard_accuracy", "overall")
        assert len(table.concepts) == 10
        for row in table.rows:
            assert row.run.data["concepts"]["7"]["test"]["hard_accuracy"] is None
            assert row.estimates["hard_accuracy"].n == 9
            assert all(0 <= row.estimates[axis].mean <= 1 for axis in table.axes)
            first = next(s for s in row.run.data["samples"] if s["concept"] == "3")
            assert {"f1", "f1_rare", "hard_accuracy"} <= set(first["ratings"])
    page = (tmp_path / "reports" / "leaderboard.md").read_text("utf-8")
    assert "regime scarce" in page
    assert "hard\\_accuracy: mean accuracy" in page


@pytest.mark.parametrize(("name", "kept"), [("conceptFD", 16), ("concept16k", 10)])
def test_releases_of_the_hub_load_by_name(
    axbench_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, kept: int
) -> None:
    """The files of a release stand where the hub's client would put them; the last has no evaluation texts."""
    held = axbench_folder.with_name("conceptFD-2b-l20") if name == "conceptFD" else axbench_folder
    asked = tmp_path / "alpaca_eval.json"
    asked.write_text(json.dumps([{"instruction": f"Question {i}?"} for i in range(30)]), encoding="utf-8")
    files = {
        (f"pyvene/axbench-{name}", "2b/l20/train/data.parquet"): held / "generate" / "train_data.parquet",
        ("tatsu-lab/alpaca_eval", "alpaca_eval.json"): asked,
    }
    if name == "conceptFD":
        there = held / "inference" / "latent_eval_data.parquet"
        files["pyvene/axbench-conceptFD", "2b/l20/test/data.parquet"] = there

    def fetch(repo: str, path: str, **options: object) -> str:
        return str(files[repo, path])

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    steer = build("task", "axbench", {"data": name}, protocol=protocol("paper"))
    assert len(steer.concepts()) == kept
    assert all(len(steer.test(concept)) == 5 for concept in steer.concepts())
    found = build("task", "axbench-detect", {"data": name}, protocol=protocol("paper"))
    if name == "conceptFD":
        assert all(found.test(concept) for concept in found.concepts())
    else:
        with pytest.raises(UsageError, match="no labelled evaluation texts"):
            found.concepts()
