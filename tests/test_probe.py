"""A model is tried before it is believed: its template, its weights, its numbers, what its files ask for besides."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from bench import Add, BenchError, Request, Sampling, Steering, UsageError
from bench.backends import tiny
from bench.backends.hf import attention, probe
from bench.backends.hf.backend import HFBackend
from bench.backends.hf.batches import Batches
from bench.backends.hf.memory import Memory, exhausted
from bench.backends.hf.selftest import checks
from bench.backends.models import resolve
from bench.cli import main
from bench.core.spoken import spoken
from bench.measure import doctor

TURN = "'<s>' + m['role'] + '\\n' + {content} + '</s>'"
LOOP = "{% for m in messages %}{{ " + TURN + " }}{% endfor %}"
OPEN = "{% if add_generation_prompt %}{{ '<s>assistant\\n' }}{% endif %}"
PLAIN = LOOP.replace("{content}", "m['content']") + OPEN
DROPS = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<s>user\\n' + m['content'] + '</s><s>assistant\\n' }}"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] + '</s>' }}{% endif %}{% endfor %}"
)
PARTS = LOOP.replace("{content}", "m['content'][0]['text']") + OPEN
DATED = "{{ '<s>Today is ' + strftime_now('%d %b %Y') + '</s>' }}" + PLAIN
THINKS = PLAIN.replace("assistant\\n' }}{% endif %}", "assistant\\n<think>\\n' }}{% endif %}")
SWITCHED = PLAIN + (
    "{% if add_generation_prompt and enable_thinking is defined and not enable_thinking %}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
)
MISTRAL = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<s>' }}"
    "{% if loop.last and messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\\n\\n' }}{% endif %}"
    "{{ m['content'] + '</s>' }}{% elif m['role'] == 'assistant' %}{{ m['content'] + '</s>' }}{% endif %}{% endfor %}"
)
SYSTEM = (("system", "Be brief."), ("user", "Why?"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build(tmp_path_factory.mktemp("made")).path


@pytest.fixture
def altered(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., HFBackend]:
    """A copy of the tiny model with another template, or other settings in its small files."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))

    def alter(
        template: str = "",
        chat: dict[str, Any] | None = None,
        dtype: str = "float32",
        change: Callable[[Path], None] = lambda _: None,
        **files: dict[str, Any],
    ) -> HFBackend:
        folder = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
        shutil.copytree(made, folder)
        if template:
            (folder / "chat_template.jinja").write_text(template)
        for name, settings in files.items():
            path = folder / f"{name}.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | settings if path.exists() else settings))
        change(folder)
        return HFBackend(resolve(str(folder)).told(chat or {}), dtype)

    return alter


def answers(lm: HFBackend, temperature: float = 0.0) -> list[tuple[int, str]]:
    vector = np.random.default_rng(0).standard_normal(32).astype(np.float32)
    requests = [
        Request((("user", text),), steering=steering, sampling=Sampling(8, temperature), seed=3)
        for text in ("What is a lake?", "Hi.")
        for steering in (None, Steering(edits=(Add(layer=2, value=vector),)))
    ]
    return [(answer.tokens, answer.text) for _, answer in sorted(lm.generate(requests))]


# What a template does to a chat


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        pytest.param(PLAIN, "<s>system\nBe brief.</s><s>user\nWhy?</s><s>assistant\n", id="each turn"),
        pytest.param(DROPS, "<s>user\nBe brief.\n\nWhy?</s><s>assistant\n", id="drops the system turn"),
        pytest.param(PARTS, "<s>system\nBe brief.</s><s>user\nWhy?</s><s>assistant\n", id="content in parts"),
        pytest.param(MISTRAL, "<s>Be brief.\n\nWhy?</s>", id="system before the last user turn"),
        pytest.param(
            "{% if messages[0]['role'] == 'system' %}{{ raise_exception('none here') }}{% endif %}" + PLAIN,
            "<s>user\nBe brief.\n\nWhy?</s><s>assistant\n",
            id="refuses a system turn",
        ),
        pytest.param(
            THINKS,
            "<s>system\nBe brief.</s><s>user\nWhy?</s><s>assistant\n<think>\n\n</think>\n\n",
            id="opens a thought",
        ),
        pytest.param(
            SWITCHED,
            "<s>system\nBe brief.</s><s>user\nWhy?</s><s>assistant\n<think>\n\n</think>\n\n",
            id="lets the model think",
        ),
        pytest.param(
            DATED,
            "<s>Today is 26 Jul 2024</s><s>system\nBe brief.</s><s>user\nWhy?</s><s>assistant\n",
            id="writes the date",
        ),
    ],
)
def test_what_every_turn_says_reaches_the_model_once(
    altered: Callable[..., HFBackend], template: str, shown: str
) -> None:
    assert altered(template).chat.render(SYSTEM) == shown


def test_what_was_found_of_a_template_is_told(altered: Callable[..., HFBackend]) -> None:
    told = probe.told(altered(DATED.replace("messages %}", "messages if m['role'] != 'system' %}")).chat)
    assert told["system"] == "in the first user turn"
    assert told["day"] == "2024-07-26"
    assert told["opens"] == "<s>assistant\n"
    assert told["ends"] == ["</s>"]
    assert "Be brief." in told["example"]


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (LOOP.replace("{content}", "'…'"), "says what the user says 0 times"),
        (LOOP.replace("{content}", "m['content'] + m['content']") + OPEN, "says what the user says 2 times"),
        ("{% for m in messages | reverse %}{{ m['content'] }}{% endfor %}", "changes the order of the turns"),
        ("{{ messages[0].content.nothing.here }}", "refuses a chat of user"),
        ("{{ raise_exception('only tools') }}", r"refuses a chat of user \(only tools\)"),
        ("{{ raise_exception('') }}", r"refuses a chat of user \(TemplateError\)"),
    ],
)
def test_a_template_that_loses_a_turn_is_refused(altered: Callable[..., HFBackend], template: str, said: str) -> None:
    with pytest.raises(BenchError, match=said):
        altered(template).chat.render(SYSTEM)


def test_an_argument_of_the_template_is_a_setting_and_another_identity(altered: Callable[..., HFBackend]) -> None:
    without, thinks = altered(SWITCHED), altered(SWITCHED, chat={"enable_thinking": True})
    assert thinks.chat.render(SYSTEM).endswith("<s>assistant\n")
    assert without.fingerprint() != thinks.fingerprint()
    assert probe.told(thinks.chat)["arguments"] == {"enable_thinking": True}
    with pytest.raises(UsageError, match="takes no 'enable_thoughts'"):
        altered(SWITCHED, chat={"enable_thoughts": True}).chat.render(SYSTEM)


def test_a_thought_that_the_template_opens_and_the_user_wants_is_no_answer(altered: Callable[..., HFBackend]) -> None:
    """The mark is in the prompt, so that what the model writes holds its end at most."""
    opens = PLAIN + "{% if add_generation_prompt and enable_thinking %}{{ '<think>\\n' }}{% endif %}"
    closed, thinks = altered(opens, chat={"enable_thinking": False}), altered(opens, chat={"enable_thinking": True})
    assert (closed.chat.thought, thinks.chat.thought) == ("", "<think>\n")
    chat, text = Request((("user", "Hello?"),)), Request("Hello")
    end = thinks.tokenizer("So.</think> Good day.", add_special_tokens=False)["input_ids"]
    assert spoken(thinks.chat.answer(chat, end)) == "Good day."
    assert spoken(thinks.chat.answer(chat, end[:5])) is None
    assert spoken(thinks.chat.answer(text, end[:3])) == "So."
    ((_, answer),) = thinks.generate([chat])
    assert answer.spoken is None
    assert answer.text.startswith("<think>")


def test_a_template_of_the_processor_is_the_model_s(altered: Callable[..., HFBackend]) -> None:
    def move(folder: Path) -> None:
        text = (folder / "chat_template.jinja").read_text()
        (folder / "chat_template.jinja").unlink()
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": text}))

    assert "system\nBe brief." in altered(PLAIN, change=move).chat.render(SYSTEM)


def test_one_of_several_named_templates_is_not_guessed(altered: Callable[..., HFBackend]) -> None:
    def name(folder: Path) -> None:
        (folder / "chat_template.jinja").unlink()
        for one in ("rag", "tool_use"):
            (folder / "additional_chat_templates").mkdir(exist_ok=True)
            (folder / "additional_chat_templates" / f"{one}.jinja").write_text(PLAIN)

    with pytest.raises(BenchError, match="rag, tool_use, and none named default"):
        altered(PLAIN, change=name).chat.render(SYSTEM)


def test_an_answer_ends_where_the_template_ends_a_turn(altered: Callable[..., HFBackend]) -> None:
    """<s> here stands for the <|im_end|> of a model whose files name <|endoftext|> as their end."""
    lm = altered(PLAIN.replace("</s>", "<s>"), config={"eos_token_id": 5}, generation_config={"eos_token_id": [5, 6]})
    assert lm.chat.ends == {5, 6, lm.tokenizer.convert_tokens_to_ids("<s>"), lm.tokenizer.eos_token_id}


def test_a_turn_that_ends_in_words_ends_where_the_files_say(altered: Callable[..., HFBackend]) -> None:
    lm = altered("{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}{{ 'assistant: ' }}")
    assert lm.chat.ends == {257}


def test_channels_that_the_model_writes_itself_do_not_end_its_answer(altered: Callable[..., HFBackend]) -> None:
    """As in harmony: what ends a turn of the past also ends a thought."""
    past = (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<|s|>assistant<|c|>final<|m|>' + m['content'] }}"
        "{{ '</s>' if loop.last else '<s>' }}{% else %}{{ '<|s|>' + m['role'] + '<|m|>' + m['content'] + '<s>' }}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|s|>assistant' }}{% endif %}"
    )
    lm = altered(past)
    assert lm.chat.template.channels == "<|c|>final<|m|>"
    assert lm.tokenizer.convert_tokens_to_ids("<s>") not in lm.chat.ends


# What its files hold


def test_a_model_with_random_parts_is_refused(altered: Callable[..., HFBackend]) -> None:
    def changed(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
        def rewrite(folder: Path) -> None:
            file = folder / "model.safetensors"
            save_file(change(load_file(file)), file, metadata={"format": "pt"})

        return rewrite

    name = "model.layers.1.mlp.down_proj.weight"
    ways: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]] = {
        "are not in its files": lambda w: {f"wrapped.{k}": v for k, v in w.items()},
        r"1 of its weights are not in its files \(model.layers.1.mlp.down_proj.weight\)": lambda w: {
            k: v for k, v in w.items() if k != name
        },
        r"1 of its weights have another shape there \(model.layers.1.mlp.down_proj.weight\)": lambda w: (
            w | {name: w[name][:, :-1].contiguous()}
        ),
    }
    for said, change in ways.items():
        with pytest.raises(BenchError, match=said):
            _ = altered(change=changed(change)).model


@pytest.mark.parametrize(
    "setting",
    [
        {"num_beams": 4},
        {"no_repeat_ngram_size": 1},
        {"suppress_tokens": list(range(200))},
        {"begin_suppress_tokens": list(range(200))},
        {"bad_words_ids": [[65], [66]]},
        {"cache_implementation": "static"},
        {"stop_strings": ["a"]},
        {"sequence_bias": [[[50], 100.0]]},
        {"max_time": 0.001},
        {"min_length": 300},
        {"return_dict_in_generate": True},
        {"output_scores": True, "return_dict_in_generate": True},
        {"prompt_lookup_num_tokens": 5},
        {"encoder_repetition_penalty": 1.5},
        {"guidance_scale": 1.5},
        {"forced_eos_token_id": 2},
        {"forced_bos_token_id": 2},
        {"do_sample": True, "temperature": 0.1, "top_k": 1, "typical_p": 0.5, "repetition_penalty": 3.0},
        {"num_return_sequences": 2, "do_sample": True},
        {"penalty_alpha": 0.6, "top_k": 4},
        {"max_new_tokens": 1},
        {"use_cache": False},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_what_a_checkpoint_asks_of_writing_changes_no_answer(
    altered: Callable[..., HFBackend], setting: dict[str, Any]
) -> None:
    kept = {"eos_token_id": 257}
    for temperature in (0.0, 1.0):
        plain = answers(altered(generation_config=kept), temperature)
        assert answers(altered(generation_config=kept | setting), temperature) == plain


@pytest.mark.parametrize(
    "setting",
    [
        {"output_hidden_states": True},
        {"output_attentions": True},
        {"return_dict": False},
        {"use_cache": False},
        {"attn_implementation": "flash_attention_2"},
        {"_attn_implementation": "flash_attention_2"},
        {"torchscript": True},
        {"num_beams": 4},
        {"pad_token_id": None},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_what_a_configuration_asks_besides_changes_no_answer(
    altered: Callable[..., HFBackend], setting: dict[str, Any]
) -> None:
    assert answers(altered(config=setting)) == answers(altered())


def test_padding_may_lie_beyond_the_embedding_and_words_may_not(altered: Callable[..., HFBackend]) -> None:
    def added(token: str) -> Callable[[Path], None]:
        def add(folder: Path) -> None:
            tokenizer = HFBackend(resolve(str(folder))).tokenizer
            tokenizer.add_special_tokens({"pad_token": token})
            tokenizer.save_pretrained(folder)

        return add

    assert answers(altered(change=added("[PAD]"))) == answers(altered())
    with pytest.raises(BenchError, match=r"embedding of 260 rows lacks: '<\|u\|>' \(2\d\d\)"):
        _ = altered(PLAIN.replace("<s>'", "<|u|>'"), change=lambda f: [added(f"<|{c}|>")(f) for c in "qrstu"]).model


def test_numbers_that_are_none_are_refused_at_the_model(altered: Callable[..., HFBackend]) -> None:
    def loud(folder: Path) -> None:
        file = folder / "model.safetensors"
        weights = load_file(file)
        weights["model.layers.1.mlp.down_proj.weight"] *= 1e6
        weights["model.layers.1.mlp.up_proj.weight"] *= 100
        save_file(weights, file, metadata={"format": "pt"})

    assert altered(change=loud).model is not None
    with pytest.raises(BenchError, match="not finite in float16: --dtype bfloat16 or float32"):
        _ = altered(change=loud, dtype="float16").model


def test_numbers_that_a_steering_breaks_are_no_text_and_no_score(altered: Callable[..., HFBackend]) -> None:
    lm = altered()
    broken = Steering(edits=(Add(layer=1, value=np.full(32, 3e38, np.float32)),) * 2)
    ask = Request((("user", "Hi"),), steering=broken, sampling=Sampling(4), target=" there")
    for asked in (lm.generate, lm.logprobs):
        with pytest.raises(BenchError, match=r"not finite in float32 under this steering"):
            list(asked([ask]))
    assert [a.text for _, a in lm.generate([Request((("user", "Hi"),), sampling=Sampling(4))])]


def test_another_reading_of_the_same_weights_is_noticed(
    altered: Callable[..., HFBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = altered()
    before = first.model and first.findings()["logprob"]
    again = HFBackend(first.source, "float32")
    assert again.model is not None
    assert again.findings()["logprob"] == before
    assert HFBackend(first.source, "float32").findings() == again.findings()  # a resumed run may load no model
    monkeypatch.setattr(probe, "ANSWER", "Something else is said.")  # as if the tokens were others
    with pytest.raises(BenchError, match="not read as they were"):
        _ = HFBackend(first.source, "float32").model
    monkeypatch.setattr(probe, "minor", lambda name: f"{name} 99.0")
    newer = HFBackend(first.source, "float32")
    assert newer.model is not None
    assert newer.findings()["before"]["programs"] != ["torch 99.0"]


def test_a_model_that_draws_at_random_is_refused(
    altered: Callable[..., HFBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    def noise(model: Any) -> None:
        model.model.layers[1].register_forward_hook(lambda _, __, states: states + torch.randn_like(states))

    monkeypatch.setattr(attention, "use", noise)  # as of dropout that is left on
    with pytest.raises(BenchError, match="draws at random"):
        _ = altered().model


def test_a_prompt_beyond_the_context_is_refused(altered: Callable[..., HFBackend]) -> None:
    lm = altered(config={"max_position_embeddings": 128})
    long = "a" * 200
    for work in (
        lambda: list(lm.generate([Request(long, sampling=Sampling(4))])),
        lambda: list(lm.generate([Request("a" * 120, sampling=Sampling(16))])),
        lambda: list(lm.logprobs([Request(long, target="b")])),
        lambda: lm.activations([long], [1]),
    ):
        with pytest.raises(BenchError, match=r"needs \d+ tokens of context, and .* has 128"):
            work()
    assert lm.activations([long], [1], tokens=50)[0].values[1].shape[0] == 50


# Memory


def test_a_batch_that_memory_does_not_take_is_halved_and_remembered(
    altered: Callable[..., HFBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = altered()
    requests = [Request((("user", "word " * n),), sampling=Sampling(4), seed=n) for n in range(1, 9)]
    plain = sorted(lm.generate(requests))
    scores = sorted(lm.logprobs([Request(r.prompt, target=" yes") for r in requests]))
    sizes: list[int] = []
    forward = lm.model.forward

    def short(*args: Any, **given: Any) -> Any:
        sizes.append(given["input_ids"].shape[0])
        if sizes[-1] > 3:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 TB")
        return forward(*args, **given)

    monkeypatch.setattr(lm.model, "forward", short)
    assert sorted(lm.generate(requests)) == plain
    again = sorted(lm.logprobs([Request(r.prompt, target=" yes") for r in requests]))
    assert [one.total for _, one in again] == pytest.approx([one.total for _, one in scores], abs=1e-4)
    assert max(sizes) == 8
    assert lm.memory.file is not None
    assert HFBackend(lm.source, "float32").memory.tokens == lm.memory.tokens
    sizes.clear()
    assert sorted(lm.generate(requests)) == plain
    assert max(sizes) <= 3


def test_a_row_that_memory_does_not_take_is_said() -> None:
    def work(_: list[int]) -> Sequence[int]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    batches = Batches(4, 100, 0, torch.device("cpu"), Memory())
    with pytest.raises(BenchError, match="no memory for one row of 10 tokens"):
        list(batches.each([10, 10], work))


def test_another_error_is_no_lack_of_memory() -> None:
    assert exhausted(MemoryError())
    assert not exhausted(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not exhausted(ValueError("out of memory"))


# The doctor


def test_an_engine_holds_what_the_doctor_asks_of_it(altered: Callable[..., HFBackend]) -> None:
    found = list(checks(altered()))
    assert {check.name for check in found} >= {"c = 0", "a batch and its rows", "an edit fires"}
    assert [check for check in found if not check.held] == []


def test_an_engine_that_steers_another_row_is_found_out(
    altered: Callable[..., HFBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = altered()
    told = lm.logprobs

    def other(requests: Sequence[Request]) -> Any:
        """The first row's steering for all, the fault of a hook that takes a tuple for a batch."""
        return told(
            [Request(r.prompt, steering=None if i else r.steering, target=r.target) for i, r in enumerate(requests)]
        )

    monkeypatch.setattr(lm, "logprobs", other)
    assert not all(check.held for check in checks(lm))


def test_the_doctor_says_where_a_usual_strength_is_a_large_one(altered: Callable[..., HFBackend]) -> None:
    """Gemma's states have most of their length in a few coordinates, so that a vector elsewhere breaks them early."""
    lm = altered()
    usual = doctor.strength(lm)
    assert "weaker" not in usual.said
    with torch.no_grad():
        lm.model.get_input_embeddings().weight[:, 3] = 50.0
    massive = doctor.strength(lm)
    assert massive.said.endswith("try weaker ones (-p protocol.coefficients=0.02,0.04,0.06,0.1,0.15)")
    shares = [float(finding.said.split("a state has ")[1].split()[0]) for finding in (usual, massive)]
    assert shares[0] > 0.4 > 3 * shares[1]


def test_the_doctor_says_what_is_wrong_and_ends_with_1(made: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    well = CliRunner().invoke(main, ["doctor", str(made), "--dtype", "float32", "--json"])
    assert well.exit_code == 0, well.output
    parts = {finding["part"] for finding in json.loads(well.stdout)}
    assert parts == {"programs", "device", "cache", "model", "chat", "engine"}
    ill = tmp_path / "ill"
    shutil.copytree(made, ill)
    (ill / "chat_template.jinja").write_text("{{ 'nothing' }}")
    found = CliRunner().invoke(main, ["doctor", str(ill), "--judge", "openai:gpt-4o-mini"], env={"OPENAI_API_KEY": ""})
    assert found.exit_code == 1
    assert " ! " in found.stdout
    assert "says what the user says 0 times" in found.stdout
    assert "OPENAI_API_KEY" in found.stdout


def test_a_run_keeps_what_was_found_of_its_model(made: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "switched"
    shutil.copytree(made, folder)
    (folder / "chat_template.jinja").write_text(SWITCHED)
    given = ["-m", "none", "--model", str(folder), "--judge", "likelihood", "-n", "1", "--dtype", "float32"]
    given += ["--results", str(tmp_path / "results"), "-p", "chat.enable_thinking=true"]
    done = CliRunner().invoke(main, ["run", *given])
    assert done.exit_code == 0, done.output
    record = json.loads(next((tmp_path / "results").rglob("run.json")).read_text())
    assert record["probe"]["chat"]["arguments"] == {"enable_thinking": True}
    assert record["probe"]["unread"] == 0
    assert record["asked"]["chat"] == {"enable_thinking": True}
    assert "the template is given enable_thinking = True" in done.output
