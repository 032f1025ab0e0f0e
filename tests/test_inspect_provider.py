"""Inspect's provider `steer`: each row under its own steering, in batches, and what lm-eval's model says too."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_runs

from bench import results
from bench.backends.hf.backend import HFBackend
from bench.core.errors import UsageError
from bench.core.registry import plugin_files
from bench.core.values import Request, Sampling
from bench.run.export import strengths

inspect_ai = pytest.importorskip("inspect_ai", reason="the extra inspect is not installed")

from inspect_ai import Task, eval as evaluate  # noqa: E402
from inspect_ai.dataset import Sample  # noqa: E402
from inspect_ai.model import ChatMessageSystem, ChatMessageUser, GenerateConfig, Model, get_model  # noqa: E402
from inspect_ai.scorer import includes  # noqa: E402

from bench.measure import inspect_provider as provider  # noqa: E402

pytestmark = pytest.mark.slow
METHODS = ("random", "prompt", "none")
GREEDY = GenerateConfig(temperature=0.0, max_tokens=12)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("inspect")
    tiny_runs(root, METHODS)
    return root


@pytest.fixture(autouse=True)
def _own_folders(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(home / "cache"))
    monkeypatch.setenv("BENCH_RESULTS", str(home / "results"))
    monkeypatch.setenv("INSPECT_LOG_DIR", str(tmp_path / "logs"))
    monkeypatch.setattr(provider, "_engines", {})


def run_of(home: Path, method: str) -> results.Run:
    return results.lookup(method, [home / "results"])


def model(method: str = "random", **given: Any) -> Model:
    return get_model(f"steer/{method}", memoize=False, config=GREEDY, **given)


async def asked(models: Sequence[Model], texts: Sequence[str], **config: Any) -> list[str]:
    """What each model answers to each text, all at once."""
    rules = GREEDY.merge(GenerateConfig(**config))
    calls = [one.generate([ChatMessageUser(content=text)], config=rules) for one in models for text in texts]
    return [output.completion for output in await asyncio.gather(*calls)]


def test_rows_of_several_concepts_and_coefficients_share_batches_and_answer_as_the_engine_does(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, sizes = run_of(home, "random"), []
    one, two = run.data["concepts"]
    models = [
        model(concept=one),
        model(concept=two),
        model(concept=one, coefficient=3.0),
        model(concept=two, coefficient=0),
    ]
    (engine,) = provider._engines.values()
    work = provider.answer_all
    monkeypatch.setattr(provider, "APART", 0.5)  # a busy machine
    monkeypatch.setattr(provider, "answer_all", lambda e, batch: (sizes.append(len(batch)), work(e, batch))[1])
    texts = ["What floats?", "Say more.", "Who are you?"]
    found = asyncio.run(asked(models, texts))
    assert sum(sizes) == 12
    assert len(sizes) <= 2  # not one by one
    behind = [strengths(run, one), strengths(run, two), strengths(run, one, 3.0), strengths(run, two, 0)]
    steerings = [next(iter(each.steerings.values())) for each in behind]
    requests = [Request((("user", text),), s, Sampling(12, 0.0, 0)) for s in steerings for text in texts]
    wanted = dict(engine.generate(requests))
    assert found == [wanted[i].text for i in range(12)]
    bare = dict(engine.generate([Request((("user", text),), None, Sampling(12, 0.0, 0)) for text in texts]))
    assert found[9:] == [bare[i].text for i in range(3)]
    assert found[:3] != found[9:]


def test_the_prompt_arm_is_asked_under_its_prompt_and_says_what_it_touched(home: Path) -> None:
    concept = next(iter(run_of(home, "prompt").data["concepts"]))

    async def both() -> tuple[Any, Any]:
        chat = [ChatMessageSystem(content="Be brief."), ChatMessageUser(content="What floats?")]
        return await model("prompt", concept=concept).generate(chat), await model("none", concept=concept).generate(
            chat
        )

    prompted, bare = asyncio.run(both())
    assert prompted.usage.input_tokens > bare.usage.input_tokens
    assert prompted.metadata["concept"] == concept
    assert prompted.usage.output_tokens == 12
    assert prompted.stop_reason == "max_tokens"


def test_epochs_are_draws_of_their_own_and_repeat(home: Path) -> None:
    concept = next(iter(run_of(home, "random").data["concepts"]))
    drawn = [asyncio.run(asked([model(concept=concept)], ["Say more."] * 4, temperature=1.0)) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) > 1


def test_a_stop_text_ends_an_answer(home: Path) -> None:
    concept = next(iter(run_of(home, "none").data["concepts"]))
    (whole,) = asyncio.run(asked([model("none", concept=concept)], ["What floats?"]))
    (short,) = asyncio.run(asked([model("none", concept=concept)], ["What floats?"], stop_seqs=[whole[3:5]]))
    assert short == whole[: whole.index(whole[3:5])]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"top_p": 0.9}, "no top_p"),
        ({"logprobs": True}, "no logprobs"),
        ({"num_choices": 3}, "no num_choices"),
        ({"reasoning_effort": "high"}, "no reasoning_effort"),
        ({"extra_body": {"min_p": 0.1}}, "no extra_body"),
    ],
)
def test_settings_that_no_engine_has_are_refused(home: Path, config: dict[str, Any], words: str) -> None:
    concept = next(iter(run_of(home, "none").data["concepts"]))
    with pytest.raises(Exception, match=words):
        asyncio.run(asked([model("none", concept=concept)], ["What floats?"], **config))


def test_a_request_that_cannot_be_answered_fails_alone(home: Path) -> None:
    concept = next(iter(run_of(home, "none").data["concepts"]))
    one = model("none", concept=concept)

    async def three() -> list[Any]:
        texts = ["What floats?", "long " * 5000, "Say more."]
        calls = [one.generate([ChatMessageUser(content=text)], config=GREEDY) for text in texts]
        return await asyncio.gather(*calls, return_exceptions=True)

    first, second, third = asyncio.run(three())
    assert isinstance(second, Exception)
    assert first.completion
    assert third.completion


def test_what_names_no_steering_is_said(home: Path) -> None:
    with pytest.raises(Exception, match=r"say which, -M concept="):
        model()
    with pytest.raises(Exception, match="has no concept 'ozean'"):
        model(concept="ozean")
    with pytest.raises(Exception, match="steer has no argument 'layer'"):
        model(concept="ocean", layer=3)
    with pytest.raises(Exception, match="hf or vllm"):
        model(concept=next(iter(run_of(home, "random").data["concepts"])), backend="openai")


def test_a_cancelled_request_takes_no_other_with_it(home: Path) -> None:
    """Whoever holds the lock is cancelled before the work begins: the others are answered all the same."""
    concept = next(iter(run_of(home, "none").data["concepts"]))
    one = model("none", concept=concept)

    async def go() -> list[Any]:
        calls = [
            asyncio.create_task(one.generate([ChatMessageUser(content=text)], config=GREEDY))
            for text in ("What floats?", "Say more.", "Who are you?")
        ]
        await asyncio.sleep(provider.APART / 4)
        calls[0].cancel()
        return await asyncio.gather(*calls, return_exceptions=True)

    first, *others = asyncio.run(go())
    assert isinstance(first, asyncio.CancelledError)
    assert all(output.completion for output in others)


def test_a_coefficient_of_a_setting_that_was_picked_at_0_is_refused(home: Path) -> None:
    run = run_of(home, "random")
    concept = next(iter(run.data["concepts"]))
    found = {**run.data["concepts"][concept]}
    spoilt = results.Run(run.path, {**run.data, "concepts": {concept: found}})
    found |= {"picked": {**found["picked"], "coefficient": 0.0}, "strength": None}
    with pytest.raises(UsageError, match="picked at c = 0"):
        strengths(spoilt, concept, 1.5)


def test_inspect_and_lm_eval_find_the_same_share_of_right_answers(home: Path, tmp_path: Path) -> None:
    """One small task in both forms, on the bare model and the steered one."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from bench.measure.lm_eval import BenchLM

    run = run_of(home, "random")
    concept = next(iter(run.data["concepts"]))
    lm = HFBackend(strengths(run, concept).model, "float32")
    texts = [f"What is {i} plus {i}?" for i in range(8)]
    bare = dict(lm.generate([Request((("user", text),), None, Sampling(12, 0.0, 0)) for text in texts]))
    rows = [{"question": text, "answer": bare[i].text[2 : 4 + i % 3]} for i, text in enumerate(texts)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "sums.yaml").write_text(
        f"task: sums\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {tmp_path}/sums.jsonl\n"
        "test_split: test\noutput_type: generate_until\ndoc_to_text: '{{question}}'\ndoc_to_target: '{{answer}}'\n"
        "generation_kwargs:\n  max_gen_toks: 12\n  until: []\n"
    )
    task = Task([Sample(input=row["question"], target=row["answer"]) for row in rows], scorer=includes(False))
    for coefficient in (0.0, None):
        found = strengths(run, concept, coefficient)
        manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
        samples = simple_evaluate(
            BenchLM(lm, found.steerings[concept]), tasks=["sums"], task_manager=manager, apply_chat_template=True
        )["samples"]["sums"]
        told = {row["doc"]["question"]: row["resps"][0][0] for row in samples}
        (log,) = evaluate(task, model=model(concept=concept, coefficient=coefficient), display="none")
        assert log.status == "success"
        assert {s.input: s.output.completion for s in log.samples} == told
        share = log.results.scores[0].metrics["accuracy"].value
        assert share == sum(row["answer"] in told[row["question"]] for row in rows) / len(rows)
        assert (share == 1) is (coefficient == 0)


def test_a_run_of_a_plugin_s_is_told_its_file(home: Path, tmp_path: Path) -> None:
    name = "mine_for_inspect.py"
    (tmp_path / name).write_text("LOADED = []\n")
    one = next(iter(run_of(home, "random").data["concepts"]))
    for _ in range(2):
        model(concept=one, plugin=str(tmp_path / name))
    assert [Path(file).name for file in plugin_files()].count(name) == 1
    with pytest.raises(UsageError, match=r"no plugin file .*nowhere\.py"):
        model(concept=one, plugin=["", "nowhere.py"])
