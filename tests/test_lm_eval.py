"""lm-eval on a steered model: without steering it is lm-eval's own `hf` model; with it, every edit applies."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SHARED
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from bench.backends.hf.backend import HFBackend
from bench.backends.hf.batches import Batches
from bench.backends.models import Model
from bench.core.edits import Span
from bench.core.errors import BenchError, UsageError
from bench.core.kinds import Add
from bench.core.steering import Prompt, Steering
from bench.core.values import Request, Sampling
from bench.interchange.files import save
from bench.measure.lm_eval import BenchLM

CONTEXTS = ["Q: What floats?\nA:", "The old lamp ", "Q: Which bird swims well?\nA:", "x"]
CONTINUATIONS = [" wood", "stood on the table", " a duck", "yz"]


def instances(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=one, idx=i) for i, one in enumerate(arguments)]  # type: ignore[arg-type]


def push(lm: HFBackend, layer: int = 1, scale: float = 3.0, **span: Any) -> Steering:
    vector = np.random.default_rng(0).standard_normal(lm.model.config.hidden_size).astype(np.float32)
    return Steering(edits=(Add(layer=layer, value=scale * vector, span=Span(**span)),))


@pytest.fixture(scope="module")
def reference(lm: HFBackend) -> HFLM:
    return HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=3, device="cpu")


@pytest.fixture
def tasks(tmp_path: Path) -> TaskManager:
    """Three local tasks of ten documents: multiple choice, perplexity of texts, and generation."""
    rows = [{"question": f"What is {i} plus {i}?", "options": [str(2 * i), str(i), "none"], "at": 0} for i in range(10)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    head = f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {tmp_path}/sums.jsonl\ntest_split: test\n"
    choice = 'output_type: multiple_choice\ndoc_to_text: "Q: {{question}}\\nA:"\ndoc_to_choice: options\n'
    (tmp_path / "sums.yaml").write_text(f"task: sums\n{head}{choice}doc_to_target: at\n")
    rolling = "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{question}}'\n"
    metric = "metric_list:\n  - metric: bits_per_byte\n"
    (tmp_path / "reading.yaml").write_text(f"task: reading\n{head}{rolling}{metric}")
    free = "output_type: generate_until\ndoc_to_text: \"Q: {{question}}\\nA:\"\ndoc_to_target: '{{options[0]}}'\n"
    kwargs = "generation_kwargs:\n  max_gen_toks: 8\n  until: ['e', '\\n']\n"
    (tmp_path / "writing.yaml").write_text(f"task: writing\n{head}{free}{kwargs}")
    return TaskManager(include_path=str(tmp_path), include_defaults=False)


@pytest.mark.slow
@pytest.mark.parametrize("steering", [Steering(), None], ids=["bare", "c=0"])
def test_without_steering_every_request_is_answered_as_by_hf(
    lm: HFBackend, reference: HFLM, steering: Steering | None
) -> None:
    made = BenchLM(lm, push(lm), coefficient=0) if steering is None else BenchLM(lm, steering)
    pairs = instances("loglikelihood", [*zip(CONTEXTS, CONTINUATIONS, strict=True), ("", "nothing before")])
    for ours, theirs in zip(made.loglikelihood(pairs), reference.loglikelihood(pairs), strict=True):
        assert ours[0] == pytest.approx(theirs[0], abs=1e-4)
        assert ours[1] == theirs[1]
    long = "a longer text than the window of the model. " * 40
    texts = instances("loglikelihood_rolling", [(text,) for text in (*CONTEXTS, long)])
    assert len(lm.tokenizer.encode(long)) > made.max_length == reference.max_length
    assert made.loglikelihood_rolling(texts) == pytest.approx(reference.loglikelihood_rolling(texts), rel=1e-5)
    wishes = [{"until": ["a"], "max_gen_toks": 12}, {"until": ["\n\n"], "max_gen_toks": 5}]
    asked = instances("generate_until", [(context, wish) for wish in wishes for context in CONTEXTS])
    assert made.generate_until(asked) == reference.generate_until(asked)


def test_zero_is_the_bare_model_to_the_bit(lm: HFBackend) -> None:
    pairs = instances("loglikelihood", list(zip(CONTEXTS, CONTINUATIONS, strict=True)))
    assert BenchLM(lm, push(lm), coefficient=0).loglikelihood(pairs) == BenchLM(lm).loglikelihood(pairs)


def test_greedy_is_said_of_what_the_model_would_write(lm: HFBackend) -> None:
    for steering in (Steering(), push(lm)):
        made = BenchLM(lm, steering)
        (written,) = made.generate_until(instances("generate_until", [(CONTEXTS[0], {"max_gen_toks": 1})]))
        found = made.loglikelihood(instances("loglikelihood", [(CONTEXTS[0], written), (CONTEXTS[0], "\x7f\x7f")]))
        assert [greedy for _, greedy in found] == [True, False]


@pytest.mark.parametrize("part", ["all", "prompt", "response", "generation"])
def test_a_steered_row_is_the_row_alone_and_the_backend_s_own(lm: HFBackend, part: Any) -> None:
    made = BenchLM(lm, push(lm, part=part))
    pairs = instances("loglikelihood", list(zip(CONTEXTS[:3], CONTINUATIONS[:3], strict=True)))
    together = made.loglikelihood(pairs)
    bare = BenchLM(lm).loglikelihood(pairs)
    for i, pair in enumerate(pairs):
        (alone,) = made.loglikelihood([pair])
        assert together[i][0] == pytest.approx(alone[0], abs=1e-4)
        assert abs(together[i][0] - bare[i][0]) > 1e-2
    # A byte tokenizer joins nothing across the split, so the backend's own scoring sees the same tokens.
    requests = [
        Request(c, push(lm, part=part), target=t) for c, t in zip(CONTEXTS[::2], CONTINUATIONS[::2], strict=True)
    ]
    direct = dict(lm.logprobs(requests[:2]))
    assert [together[0][0], together[2][0]] == pytest.approx([direct[0].total, direct[1].total], abs=1e-4)


def test_the_options_of_a_question_share_its_pass(lm: HFBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[Any] = []
    pad = Batches.pad

    def counted(self: Batches, given: Any) -> Any:
        rows.extend(given)
        return pad(self, given)

    monkeypatch.setattr(Batches, "pad", counted)
    options = [" first", " second one", " third", " 4"]
    BenchLM(lm, push(lm)).loglikelihood(instances("loglikelihood", [("Q: which?\nA:", option) for option in options]))
    prompt = lm.tokenizer.encode("Q: which?\nA:")
    (row,) = rows
    assert row[: len(prompt)] == prompt
    assert len(row) == len(prompt) + 1 + sum(len(option) - 2 for option in options)  # all begin with the same byte


@pytest.mark.slow
def test_lm_eval_s_own_loop_gives_what_its_hf_model_gives(lm: HFBackend, reference: HFLM, tasks: TaskManager) -> None:
    names = ["sums", "reading", "writing"]
    found = []
    for model in (reference, BenchLM(lm), BenchLM(lm, push(lm))):
        result = simple_evaluate(model, tasks=names, task_manager=tasks, bootstrap_iters=0)
        assert result is not None
        found.append(result)
    theirs, ours, steered = found
    for name in names:
        for metric, value in theirs["results"][name].items():
            if isinstance(value, float) and not math.isnan(value):
                assert ours["results"][name][metric] == pytest.approx(value, rel=1e-5), (name, metric)
        answers = [[s["filtered_resps"] for s in one["samples"][name]] for one in found]
        assert json.dumps(answers[0]) != json.dumps(answers[2])
        if name == "writing":
            assert answers[0] == answers[1]
    assert steered["results"]["reading"]["bits_per_byte,none"] > ours["results"]["reading"]["bits_per_byte,none"]


def test_the_registered_name_builds_it_from_an_exported_file(lm: HFBackend, tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    save(path, push(lm))
    cls = get_model("bench")
    made = cls.create_from_arg_obj({"model": str(lm.source.path), "steering": str(path), "dtype": "float32"})
    pairs = instances("loglikelihood", list(zip(CONTEXTS, CONTINUATIONS, strict=True)))
    assert made.loglikelihood(pairs) == BenchLM(lm, push(lm)).loglikelihood(pairs)
    half = cls.create_from_arg_string(f"model={lm.source.path},steering={path},coefficient=0.5,dtype=float32")
    assert half.loglikelihood(pairs) == BenchLM(lm, push(lm).scaled(0.5)).loglikelihood(pairs)


def test_a_prompt_edit_is_in_the_chat(lm: HFBackend) -> None:
    edit = Prompt(system="Be brief.", suffix=" (now)", shots=(("Hi?", "Yes."),))
    made = BenchLM(lm, Steering(edit).merged(push(lm)))
    turns = [{"role": "user", "content": "What floats?"}]
    text = made.apply_chat_template(turns)
    assert text == lm.chat.render(edit.apply((("user", "What floats?"),)))
    assert made.apply_chat_template([*turns, {"role": "assistant", "content": "Well"}], False) == text + "Well"
    (ours,) = made.generate_until(instances("generate_until", [(text, {"max_gen_toks": 6})]))
    request = Request((("user", "What floats?"),), made.steering, Sampling(6, 0.0))
    ((_, direct),) = lm.generate([request])
    assert ours == direct.text
    assert made.tokenizer_name != BenchLM(lm).tokenizer_name


def test_a_prompt_edit_without_a_chat_stands_before_the_context_or_is_refused(lm: HFBackend) -> None:
    made = BenchLM(lm, Steering(Prompt(system="Be brief.", prefix="Really: ")))
    pairs = [("Q: why?\nA:", " so")]
    written = [("Be brief.\n\nReally:\n\nQ: why?\nA:", " so")]
    expected = BenchLM(lm).loglikelihood(instances("loglikelihood", written))
    assert made.loglikelihood(instances("loglikelihood", pairs)) == expected
    (rolled,) = made.loglikelihood_rolling(instances("loglikelihood_rolling", [("so",)]))
    ids = lm.tokenizer.encode("Be brief.\n\nReally:\n\n")
    ((total, _),) = BenchLM(lm)._loglikelihood_tokens([(None, [made.prefix_token_id, *ids], lm.tokenizer.encode("so"))])
    assert rolled == pytest.approx(total, abs=1e-5)
    for edit in (Prompt(suffix=" now"), Prompt(shots=(("a", "b"),))):
        with pytest.raises(UsageError, match="chat template"):
            BenchLM(lm, Steering(edit)).loglikelihood(instances("loglikelihood", pairs))


def test_sampling_is_kept_or_refused(lm: HFBackend) -> None:
    made = BenchLM(lm)
    wish = {"do_sample": True, "temperature": 1.0, "max_gen_toks": 8}
    asked = instances("generate_until", [(CONTEXTS[0], wish)] * 3)
    first = made.generate_until(asked)
    assert first == made.generate_until(asked)  # seeded by what is asked
    assert len(set(first)) == 3  # and a document sampled thrice gives three answers
    for strange in ({"top_p": 0.9, "do_sample": True, "temperature": 1.0}, {"num_beams": 4}, {"typical_p": 0.2}):
        with pytest.raises(UsageError, match=r"not one of bench's"):
            made.generate_until(instances("generate_until", [("x", strange)]))
    with pytest.raises(UsageError, match="leave no room"):
        made.generate_until(instances("generate_until", [("x", {"max_gen_toks": 5000})]))
    with pytest.raises(BenchError, match="cannot be scored"):
        made.loglikelihood(instances("loglikelihood", [("x", "y" * 3000)]))


@pytest.mark.slow
def test_truthfulqa_on_the_default_model_is_what_hf_gives(default_model: Model, tmp_path: Path) -> None:
    """lm-eval's MC1 and MC2 over eight local questions (without the six examples, for time), on both models."""
    source = SHARED / "truthfulqa" / "mc_task.json"
    if not source.is_file():
        pytest.skip("the TruthfulQA development data is not beside this checkout")
    rows = []
    for one in json.loads(source.read_text("utf-8"))[:8]:
        targets = {
            f"{mc}_targets": {"choices": list(one[f"{mc}_targets"]), "labels": list(one[f"{mc}_targets"].values())}
            for mc in ("mc1", "mc2")
        }
        rows.append({"question": one["question"], **targets})
    (tmp_path / "mc.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    import lm_eval

    own = Path(lm_eval.__file__).parent / "tasks" / "truthfulqa"
    for name in ("mc1", "mc2"):
        text = (
            f"include: {own}/truthfulqa_{name}.yaml\ntask: local_{name}\ntag: local_truthfulqa\n"
            'dataset_path: json\ndataset_name: null\ndoc_to_text: "Q: {{question}}\\nA:"\n'
            f"dataset_kwargs:\n  data_files:\n    validation: {tmp_path}/mc.jsonl\n"
        )
        (tmp_path / f"{name}.yaml").write_text(text)
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    lm = HFBackend(default_model, "float32")
    theirs = HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=8, device="cpu")
    values = []
    for model in (theirs, BenchLM(lm)):
        result = simple_evaluate(model, tasks=["local_mc1", "local_mc2"], task_manager=manager, bootstrap_iters=0)
        assert result is not None
        values.append({name: [s["acc"] for s in result["samples"][name]] for name in ("local_mc1", "local_mc2")})
    assert values[0]["local_mc1"] == values[1]["local_mc1"]
    assert values[1]["local_mc2"] == pytest.approx(values[0]["local_mc2"], abs=1e-3)
    assert len(values[0]["local_mc1"]) == 8
