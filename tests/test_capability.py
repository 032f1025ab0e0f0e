"""`bench capability`: side effects of a run's steering beside its run.json, exact at c = 0, measured once."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from conftest import sums_task, tiny_runs

from bench import results
from bench.backends.hf.backend import HFBackend
from bench.backends.hf.modules import blocks
from bench.cli.main import main
from bench.core.kinds import Add
from bench.core.steering import Prompt, Steering
from bench.core.values import Request
from bench.data import layout
from bench.data.check import place
from bench.measure import capability
from bench.results import sidecars

ALL = capability.neutral()
METHODS = ("random", "prompt", "prompt+random", "none")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache and results folder with runs of a tiny model on two concepts, and three local lm-eval tasks."""
    root = tmp_path_factory.mktemp("capability")
    tiny_runs(root, METHODS)
    sums_task(root / "tasks")
    return root


@pytest.fixture(autouse=True)
def _own_folders(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(home / "cache"))
    monkeypatch.setenv("BENCH_RESULTS", str(home / "results"))
    monkeypatch.setenv("HF_HOME", str(home / "hub"))
    monkeypatch.setattr(capability, "neutral", lambda: ALL[:8])


def bench(*words: str) -> Result:
    result = CliRunner().invoke(main, list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def measured(*words: str) -> list[dict[str, Any]]:
    result = bench("capability", *words, "--json")
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def path_of(home: Path, method: str) -> Path:
    return results.lookup(method, [home / "results"]).path


def test_side_effects_stand_beside_an_unchanged_run_and_are_measured_once(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = path_of(home, "random")
    before = path.read_bytes()
    first = measured("random")
    assert path.read_bytes() == before
    run = results.read(path)
    assert [entry["concept"] for entry in first] == list(run.data["concepts"])
    for entry in first:
        numbers = entry["numbers"]
        assert entry["coefficient"] == run.data["concepts"][entry["concept"]]["picked"]["coefficient"]
        assert numbers["kl"] > 0
        assert numbers["perplexity"] != numbers["perplexity_bare"]
        assert 0 < numbers["length"] <= run.data["spec"]["protocol"]["sampling"]["max_new_tokens"]
    assert len({entry["numbers"]["perplexity_bare"] for entry in first}) == 1
    kept = json.loads((path.parent / sidecars.CAPABILITY).read_text("utf-8"))
    assert kept["run"] == run.data["id"]
    assert [e for e in kept["entries"].values() if e["kind"] == "side-effects"] == first

    def never(*_: Any) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(capability, "measure", never)
    assert measured("random") == first
    text = bench("capability", "random").stdout
    assert "95 % intervals over 2 concepts" in text
    assert f"{first[0]['numbers']['kl']:.4g}" in text


def test_a_coefficient_of_zero_has_no_side_effect_at_all(home: Path) -> None:
    one = next(iter(results.read(path_of(home, "random")).data["concepts"]))
    (entry,) = measured("random", "--concept", one, "--coefficient", "0")
    numbers = entry["numbers"]
    assert numbers["kl"] == 0
    for name in ("perplexity", "length", "ended", "distinct_1", "distinct_2", "distinct_3"):
        assert numbers[name] == numbers[f"{name}_bare"]
    strong = measured("random", "--concept", one, "--coefficient", "3")[0]["numbers"]["kl"]
    assert strong > measured("random", "--concept", one)[0]["numbers"]["kl"] > 0
    assert all(entry["numbers"]["kl"] == 0 for entry in measured("none"))


def test_a_prompt_has_side_effects_too_and_no_coefficient(home: Path) -> None:
    plain, zero = measured("prompt"), measured("prompt", "--coefficient", "0")
    assert plain == zero
    assert min(entry["numbers"]["kl"] for entry in plain) > 0
    combined = measured("prompt+random", "--coefficient", "0")
    assert min(entry["numbers"]["kl"] for entry in combined) > 0  # the prompt stays


def test_divergence_is_what_two_plain_passes_give(lm: HFBackend) -> None:
    vector = np.random.default_rng(1).standard_normal(32).astype(np.float32)
    texts = [(e.instruction, e.response) for e in ALL[:3]]
    steering = Steering(Prompt(prefix="Say: "), (Add(layer=2, value=4 * vector),))
    requests = [Request((("user", q),), steering, target=a) for q, a in texts]
    found = dict(lm.diverge(requests))
    alone = dict(lm.diverge(requests[1:2]))
    assert found[1].kl == pytest.approx(alone[0].kl, rel=1e-4)
    for i, (question, answer) in enumerate(texts):
        target = lm.tokenizer(answer, add_special_tokens=False)["input_ids"]

        def passed(prompt: str, push: bool, target: list[int] = target) -> torch.Tensor:
            ids = torch.tensor([lm.encode((("user", prompt),)) + target])

            def hook(_: Any, __: Any, output: Any) -> Any:
                hidden = (output[0] if isinstance(output, tuple) else output).clone()
                hidden[:, 1:] += torch.from_numpy(4 * vector)
                return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

            handle = blocks(lm.model)[2].register_forward_hook(hook) if push else None
            with torch.no_grad():
                logits = lm.model(input_ids=ids).logits[0, -len(target) - 1 : -1].double()
            if handle:
                handle.remove()
            return logits.log_softmax(-1)

        p, q = passed("Say: " + question, True), passed(question, False)
        assert found[i].tokens == len(target)
        assert found[i].kl == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-3)
        labels = torch.tensor(target)[:, None]
        assert found[i].steered == pytest.approx(float(p.gather(1, labels).sum()), rel=1e-4)
        assert found[i].bare == pytest.approx(float(q.gather(1, labels).sum()), rel=1e-4)


@pytest.mark.parametrize(
    ("texts", "n", "expected"),
    [
        (["a b a b a"], 1, 2 / 5),
        (["a b a b a"], 2, 2 / 4),
        (["A a", "b c"], 1, 3 / 4),
        (["a"], 2, None),
        (["a", "b c"], 2, 1),
    ],
)
def test_distinct_counts_the_n_grams_that_are_no_repeats(texts: list[str], n: int, expected: float | None) -> None:
    assert capability.distinct(texts, n) == expected


def test_neutral_texts_are_plain_different_and_no_method_s_training(home: Path) -> None:
    texts = ALL
    asked = [layout.fold(e.instruction) for e in texts]
    assert len(texts) == len(set(asked)) == 30
    mini = layout.read(place("mini"))
    used = {layout.fold(t.instruction) for t in mini.texts} | {layout.fold(q.instruction) for q in mini.questions}
    assert not used & set(asked)
    assert all(30 <= len(e.response.split()) <= 70 for e in texts)


def test_lm_eval_prints_bare_against_steered_and_pairs_the_documents(home: Path) -> None:
    words = ("--tasks", "sums", "--include-path", str(home / "tasks"), "--limit", "6")
    one = next(iter(results.read(path_of(home, "random")).data["concepts"]))
    (entry,) = measured("random", "--concept", one, "--coefficient", "2", *words)
    row = entry["numbers"]["sums"]["acc"]
    assert row["n"] == 6
    assert row["difference"] == pytest.approx(row["steered"] - row["bare"])
    kept = [json.loads(p.read_text("utf-8"))["sums"]["acc"] for p in (home / "cache" / "capability").glob("*.json")]
    by_value = {side: next(k for k in kept if k["value"] == row[side]) for side in ("bare", "steered")}
    documents = [by_value[side]["documents"] for side in ("steered", "bare")]
    assert np.mean(list(documents[1].values())) == pytest.approx(row["bare"])
    pairs = [documents[0][k] - documents[1][k] for k in documents[1]]
    assert row["difference_stderr"] == pytest.approx(np.std(pairs, ddof=1) / math.sqrt(6))
    (zero,) = measured("random", "--concept", one, "--coefficient", "0", *words)
    for metric in zero["numbers"]["sums"].values():
        assert metric["difference"] == 0
        assert metric["steered"] == metric["bare"]
    shown = bench("capability", "random", "--concept", one, "--coefficient", "2", *words)
    assert f"{row['bare']:.4f} ± {row['bare_stderr']:.4f}" in shown.stdout
    assert "lm-eval:" not in shown.stderr  # what is there is not measured again
    (chat,) = measured("prompt", "--concept", one, "--chat", *words)
    assert chat["settings"]["chat"] is True


def test_a_difference_without_documents_is_not_given_an_error() -> None:
    bare = {"t": {"ppl": {"value": 9.0, "stderr": 1.0, "documents": {"0": 2.0, "1": 3.0}}}}
    after = {"t": {"ppl": {"value": 12.0, "stderr": 1.0, "documents": {"0": 2.5, "1": 3.5}}}}
    row = capability.contrast(bare, after)["t"]["ppl"]
    assert row["difference"] == 3.0
    assert row["difference_stderr"] is None  # a perplexity is no mean over documents


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("random", "--concept", "nosuch"), ["no concept 'nosuch'"]),
        (("random", "--limit", "3"), ["belong to --tasks"]),
        (("nosuch",), ["no run 'nosuch'"]),
    ],
)
def test_a_wrong_word_is_one_line_and_exit_code_two(home: Path, words: tuple[str, ...], parts: list[str]) -> None:
    result = bench("capability", *words)
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("bench:")]
    assert len(lines) == 1
    assert all(part in lines[0] for part in parts)


def test_a_task_that_does_not_exist_is_named_with_the_nearest(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lm_eval.tasks  # takes seconds, which a run of other tests need not wait for

    class Own(lm_eval.tasks.TaskManager):
        """Without lm-eval's own index, which takes ten seconds to read."""

        def __init__(self, include_path: str, include_defaults: bool = False) -> None:
            super().__init__(include_path=include_path, include_defaults=False)

    monkeypatch.setattr(lm_eval.tasks, "TaskManager", Own)
    result = bench("capability", "random", "--tasks", "sumz", "--include-path", str(home / "tasks"))
    assert result.exit_code == 2
    assert "bench: lm-eval has no task 'sumz': did you mean 'sums'?" in result.stderr


def test_a_task_whose_data_cannot_be_had_is_one_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = home / "broken"
    broken.mkdir()
    text = (
        (home / "tasks" / "sums.yaml")
        .read_text()
        .replace("task: sums", "task: gone")
        .replace("sums.jsonl", "gone.jsonl")
    )
    (broken / "gone.yaml").write_text(text)
    result = bench("capability", "random", "--tasks", "gone", "--include-path", str(broken))
    assert result.exit_code == 1
    assert "bench: lm-eval on gone: " in result.stderr


def test_a_damaged_sidecar_is_said_to_be_one(home: Path) -> None:
    path = path_of(home, "none").parent / sidecars.CAPABILITY
    kept = path.read_bytes() if path.is_file() else None
    path.write_text("{")
    try:
        result = bench("capability", "none")
        assert result.exit_code == 1
        assert "capability.json is not a record of side effects" in result.stderr
    finally:
        path.unlink() if kept is None else path.write_bytes(kept)
