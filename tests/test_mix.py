"""Two prompts mixed: what a steering makes of its mix, what the engine draws and scores under it, and what it costs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from bench.backends import tiny
from bench.backends.fake.backend import FakeBackend
from bench.backends.hf.backend import HFBackend
from bench.backends.hf.batches import Batches
from bench.backends.hosted.backend import OpenAIBackend
from bench.backends.vllm.backend import VLLMBackend
from bench.cli.main import main
from bench.core.content import Message, digest
from bench.core.deltas import LowRankDelta
from bench.core.edits import Span
from bench.core.errors import BenchError
from bench.core.interfaces import Context, Fitted
from bench.core.kinds import Add
from bench.core.naming import build_method
from bench.core.protocol import Protocol, protocol
from bench.core.registry import get
from bench.core.rows import Rows
from bench.core.steering import Mix, Prompt, Steering
from bench.core.store import load_value, save_value
from bench.core.values import Concept, Request, Sample, Sampling, Train
from bench.interchange.files import encode
from bench.measure.lm_eval import BenchLM
from bench.measure.overhead import Settings, measure
from bench.overhead import exact
from bench.overhead.config import known
from bench.overhead.edits import extra
from bench.overhead.record import Overhead
from bench.results.runs import load
from bench.run.contract import BUDGET, example_train
from bench.run.fits import given, lacks
from bench.run.plan import Options, make
from bench.run.session import execute
from bench.run.spending import trials as priced
from bench.run.steerings import applied
from bench.run.strength import TRAINED, Strength
from bench.run.trials import kept_as, plain_text, request, trials

H = 32
ASKS = ("What is it?", "Name a colour, any colour that you like, and say why you like it so much.", "Why?")
ANSWER = "It is a red ball, and not a small one."
SHIPS = Prompt("You love to talk about ships.")
PLAIN = Prompt(prefix="Leave out all ships. ")
BARE = Prompt()
RNG = np.random.default_rng(0)


def ask(text: str) -> tuple[Message, ...]:
    return (("user", text),)


def mixed(alpha: float, against: Prompt = BARE, floor: float = 0.0) -> Steering:
    return Steering(SHIPS, mix=Mix(against, alpha, floor))


def vector(layer: int = 2) -> Add:
    return Add(layer=layer, value=RNG.standard_normal(H).astype(np.float32))


def written(lm: HFBackend, requests: Sequence[Request]) -> list[Any]:
    found = dict(lm.generate(requests))
    return [found[i] for i in range(len(requests))]


def scored(lm: HFBackend, requests: Sequence[Request]) -> list[Any]:
    found = dict(lm.logprobs(requests))
    return [found[i] for i in range(len(requests))]


# The value


def test_one_is_the_prompt_alone_and_zero_what_it_is_mixed_against() -> None:
    steering = Steering(SHIPS, (vector(),), mix=Mix(PLAIN))
    assert steering.mixing is None
    assert steering.needs == {"prompt", "add", "mix"}
    assert steering.scalable
    assert steering.internal_digest == Steering(SHIPS, steering.edits).internal_digest
    off = steering.scaled(0)
    assert (off.prompt, off.edits, off.mix) == (PLAIN, (), None)
    assert steering.scaled(2).scaled(1.5).mix == Mix(PLAIN, 3.0)
    assert steering.negated().mix == steering.mix  # suppression turns edits; its prompts say the other thing already


def test_what_is_merged_with_a_mix_stands_in_both_streams() -> None:
    kind = Steering(Prompt("Be kind.", prefix="> "), (vector(),))
    for whole in (mixed(2.0, PLAIN).merged(kind), kind.merged(mixed(2.0, PLAIN))):
        assert whole.mix is not None
        assert whole.mix.alpha == 2.0
        assert whole.edits == kind.edits
        assert "Be kind." in whole.prompt.system
        assert "ships" in whole.prompt.system
        assert whole.mix.against.system == "Be kind."
        assert {">", "ships."} <= set(whole.mix.against.prefix.split())
    with pytest.raises(BenchError, match="two steerings that mix"):
        mixed(2.0).merged(mixed(3.0))


def test_digests_and_keys_tell_mixes_apart_and_one_is_kept_as_the_prompt(tmp_path: Path) -> None:
    several = [mixed(a, against, floor) for a in (0.5, 1.5) for against in (Prompt(), PLAIN) for floor in (0.0, 0.1)]
    asked = Request(ask("Why?"))
    for name in ("digest", "internal_digest"):
        assert len({getattr(one, name) for one in several}) == len(several)
    assert len({kept_as("engine", dataclasses.replace(asked, steering=one)) for one in several}) == len(several)
    one, prompt = (kept_as("engine", dataclasses.replace(asked, steering=s)) for s in (mixed(1.0), Steering(SHIPS)))
    assert one == prompt
    assert Steering(SHIPS).digest == digest(SHIPS)  # fits that are kept stay what they were
    save_value(tmp_path / "mix.safetensors", several[-1])
    assert load_value(tmp_path / "mix.safetensors").digest == several[-1].digest


def test_what_cannot_be_mixed_or_held_is_refused() -> None:
    for strange in ({"alpha": np.inf}, {"floor": 1.5}, {"floor": -0.1}):
        with pytest.raises(ValueError, match="a mix of alpha"):
            Mix(**strange)
    for form in ("json", "gguf"):
        with pytest.raises(BenchError, match=r"mix|changes the model"):
            encode(mixed(2.0), form)
    assert encode(mixed(1.0), "json") == encode(Steering(SHIPS), "json")


# The engine


def test_a_batch_of_mixes_edits_and_bare_rows_equals_its_rows(any_lm: HFBackend) -> None:
    """Of prompts and second prompts of different lengths, sampled."""
    delta = LowRankDelta(
        module="model.layers.1.mlp.down_proj",
        down=RNG.standard_normal((2, 2 * H)).astype(np.float32) / 8,
        up=RNG.standard_normal((H, 2)).astype(np.float32),
    )
    steerings = [
        *(mixed(alpha, PLAIN if k % 2 else Prompt()) for k, alpha in enumerate((0.5, 1.0, 1.5, 3.0, -1.0, 0.0))),
        mixed(2.0, floor=0.2),
        Steering(SHIPS, (vector(),), mix=Mix(PLAIN, 2.0)),
        Steering(SHIPS, (), (delta,), Mix(alpha=2.0)),
        Steering(edits=(vector(1),)),
        Steering(SHIPS),
        None,
    ]
    requests = [
        Request(ask(ASKS[i % 3]), steering, Sampling(8), i, target=ANSWER) for i, steering in enumerate(steerings * 2)
    ]
    for i, one in enumerate(written(any_lm, requests)):
        [(_, alone)] = any_lm.generate([requests[i]])
        assert one == alone, i
    for i, one in enumerate(scored(any_lm, requests)):
        [(_, own)] = any_lm.logprobs([requests[i]])
        assert one.positions_edited == own.positions_edited
        assert one.logprobs == pytest.approx(own.logprobs, abs=1e-5), i


def test_one_is_the_prompt_token_for_token_and_zero_the_bare_model(lm: HFBackend) -> None:
    differ = 0
    for seed, text in enumerate(ASKS * 3):
        requests = [
            Request(ask(text), steering, Sampling(12), seed, target=ANSWER)
            for steering in (mixed(1.0, floor=0.5), Steering(SHIPS), mixed(2.0).scaled(0), None, mixed(0.0))
        ]
        one, prompt, off, bare, against = written(lm, requests)
        assert one == prompt
        assert off == bare
        assert against.text == bare.text
        differ += one.text != bare.text
        one, prompt, off, bare, against = scored(lm, requests)
        assert one == prompt
        assert off == bare
        assert against.logprobs == pytest.approx(bare.logprobs, abs=1e-5)
    assert differ > 3


def test_two_equal_prompts_are_one_at_any_strength(lm: HFBackend) -> None:
    requests = [
        Request(ask(ASKS[0]), steering, Sampling(12), 1, target=ANSWER)
        for steering in (Steering(SHIPS), *(mixed(alpha, SHIPS) for alpha in (-2.0, 0.5, 7.0)))
    ]
    prompt, *others = written(lm, requests)
    assert all(one.text == prompt.text for one in others)
    prompt, *others = scored(lm, requests)
    assert all(one.logprobs == pytest.approx(prompt.logprobs, abs=1e-5) for one in others)


@pytest.mark.parametrize("edits", [(), (vector(),)])
def test_scores_mix_what_two_separate_calls_give(lm: HFBackend, edits: tuple[Add, ...]) -> None:
    """Of two tokens at one place the difference: what makes the mix a distribution again leaves that alone."""
    alpha = 2.5
    texts = [ANSWER[:k] + letter for k in (0, 3, 17, 30) for letter in "abqz"]

    def last(steering: Steering) -> list[float]:
        return [one.logprobs[-1] for one in scored(lm, [Request(ask(ASKS[1]), steering, target=t) for t in texts])]

    prompted, against = (np.array(last(Steering(prompt, edits))) for prompt in (SHIPS, PLAIN))
    found = np.array(last(Steering(SHIPS, edits, mix=Mix(PLAIN, alpha))))
    wanted = against + alpha * (prompted - against)
    for k in range(0, len(texts), 4):
        assert np.allclose(np.diff(found[k : k + 4]), np.diff(wanted[k : k + 4]), atol=1e-4)


def test_scores_are_of_a_distribution_and_what_is_drawn_follows_it(lm: HFBackend) -> None:
    """All tokens of the vocabulary after one prompt; prefill and steps give what one pass over the text gives."""
    request = Request(ask(ASKS[1]), mixed(3.0, PLAIN), Sampling(16, 0.0))
    against = lm.chat.against([request])[0]
    ids = lm.chat.steered(request)
    size = lm.model.config.vocab_size
    places = dict.fromkeys(range(size), against)
    found = dict(lm.score([ids] * size, [[token] for token in range(size)], [request] * size, places))
    assert sum(np.exp(one.total) for one in found.values()) == pytest.approx(1, abs=1e-5)

    answer: list[int] = []
    with torch.no_grad():
        while len(answer) < 16 and not {*answer} & lm.chat.ends:
            one, other = (
                lm.model(torch.tensor([[*prompt, *answer]])).logits[0, -1].log_softmax(0)
                for prompt in (ids, against.ids)
            )
            answer.append(int((other + 3.0 * (one - other)).argmax()))
    (done,) = written(lm, [request])
    assert done.text == lm.chat.text(answer)
    assert len(answer) > 8
    assert done.positions_edited == (done.tokens,) == (len(answer),)


def test_the_floor_keeps_what_the_prompt_finds_likely(lm: HFBackend) -> None:
    sampling = Sampling(12, 1.0, 0)
    draws = [Request(ask(ASKS[1]), mixed(4.0, PLAIN, floor), sampling, 5) for floor in (0.0, 1.0)]
    greedy = Request(ask(ASKS[1]), Steering(SHIPS), dataclasses.replace(sampling, temperature=0.0))
    free, held, likeliest = written(lm, [*draws, greedy])
    assert held.text == likeliest.text  # the largest share alone is the prompt's own greedy text
    assert free.text != held.text
    logits = torch.tensor([[0.0, 3.0, 2.0, -5.0]])
    kept = Mix.floored(torch.zeros(1, 4), logits, torch.tensor([[0.3]]))
    assert kept.isfinite().tolist() == [[False, True, True, False]]
    assert Mix.floored(logits, logits, torch.zeros(1, 1)).equal(logits)


def test_a_token_that_one_stream_rules_out_stays_out() -> None:
    one, other = torch.tensor([[0.0, 1.0, -torch.inf]]), torch.tensor([[1.0, -torch.inf, -torch.inf]])
    for alpha in (-1.0, 0.5, 3.0):
        assert Mix.logprobs(one, other, alpha).tolist() == [[0.0, -np.inf, -np.inf]]


def test_edits_act_in_both_streams_and_mixed_tokens_are_counted(lm: HFBackend) -> None:
    steering = Steering(SHIPS, (vector(),), mix=Mix(alpha=2.0))
    (done,) = written(lm, [Request(ask(ASKS[0]), steering, Sampling(5), 1)])
    first = len(lm.chat.steered(Request(ask(ASKS[0]), steering))) - lm.template_prefix
    assert first > 0
    assert done.positions_edited[1] == done.tokens
    assert done.prompt_tokens == len(lm.encode(SHIPS.apply(ask(ASKS[0]))))
    (score,) = scored(lm, [Request(ask(ASKS[0]), steering, target=ANSWER)])
    assert score.positions_edited[1] == len(ANSWER)
    nowhere = Steering(SHIPS, (dataclasses.replace(vector(), span=Span("prompt", offset=55)),), mix=Mix(alpha=2.0))
    with pytest.raises(BenchError, match="touched no position"):  # of the second, shorter prompt
        written(lm, [Request(ask("Why?"), nowhere, Sampling(5), 1)])


def test_the_divergence_of_a_mix_is_of_what_it_draws_from(lm: HFBackend) -> None:
    steerings = [mixed(1.0), mixed(2.0), mixed(3.0), mixed(3.0, SHIPS), Steering(SHIPS)]
    requests = [Request(ask(ASKS[i % 2]), s, target=ANSWER) for i in (0, 1) for s in steerings]
    found = dict(lm.diverge(requests))
    totals = [one.total for one in scored(lm, requests)]
    for i in range(len(requests)):
        assert found[i].steered == pytest.approx(totals[i], abs=1e-3)
        assert found[i].bare == pytest.approx(found[i - i % 5].bare, abs=1e-3)
    one, two, three, same, prompt = (found[i].kl for i in range(5))
    assert 0 < one < two < three
    assert one == pytest.approx(prompt, abs=1e-4)
    assert same == pytest.approx(prompt, abs=1e-4)


def test_a_batch_counts_both_streams() -> None:
    batches = Batches(6, 100, 0, torch.device("cpu"))
    assert list(batches.split([10] * 6, streams=[2] * 6)) == [[0, 1, 2], [3, 4, 5]]
    assert list(batches.split([20] * 5, streams=[1, 2, 2, 2, 1])) == [[0, 1, 2], [3, 4]]
    sizes: list[int] = []

    def work(batch: list[int]) -> list[int]:
        sizes.append(len(batch))
        if len(batch) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return batch

    assert sorted(batches.each([10] * 3, work, streams=[2] * 3)) == [0, 1, 2]
    assert batches.memory.tokens == 30  # half of three pairs of ten, so that two are not tried
    assert sizes == [3, 1, 1, 1]


def test_prompts_that_are_longer_than_the_context_are_refused_in_either_stream(lm: HFBackend) -> None:
    long = Prompt(prefix="x" * lm.context)
    asked = [Request(ask("Why?"), mixed(2.0, long), target="No.")]
    for answer in (written, scored):
        with pytest.raises(BenchError, match="tokens of context"):
            answer(lm, asked)


def test_other_engines_refuse_a_mix_by_name(lm: HFBackend) -> None:
    made = build_method("prompt-strength", {})
    assert lacks(made, lm, frozenset()) == lacks(made, FakeBackend(), frozenset()) == ""
    assert made.needs - VLLMBackend.can == {"mix"}
    hosted = OpenAIBackend("model", "http://127.0.0.1:9/v1")
    assert lacks(made, hosted, frozenset()) == "backend openai cannot mix"
    with pytest.raises(BenchError, match="cannot mix"):
        hosted.body(Request(ask("Why?"), mixed(2.0)))


def test_lm_eval_refuses_two_prompts(lm: HFBackend) -> None:
    with pytest.raises(BenchError, match="mixes two"):
        BenchLM(lm, mixed(2.0))
    assert BenchLM(lm, mixed(2.0), coefficient=0.5).steering.mixing is None


# Strengths, trials, keys


def rules(trials: int = 3, **other: Any) -> Protocol:
    found = protocol("quick", **other)
    return dataclasses.replace(found, budget=dataclasses.replace(found.budget, trials=trials))


def fit(trials: int, train: Train | None = None, **params: Any) -> list[Fitted]:
    budget = dataclasses.replace(BUDGET, trials=trials)
    made = build_method("prompt-strength", {"prompt-strength": params})
    return list(made.fit(Context(FakeBackend(), budget), train or example_train()))


@pytest.mark.parametrize(
    ("count", "wanted"),
    [
        (1, [(1.0,)]),
        (2, [(1.0, 1.5)]),
        (3, [(1.0, 1.5, 2.5)]),
        (5, [(1.0, 1.5, 2.5), (1.0, 1.5)]),
        (14, [(1.0, 1.5, 2.5, 0.5, 2.0), (1.0, 1.5, 2.5, 0.5, 2.0), (1.0, 1.5, 2.5, 0.5)]),
    ],
)
def test_wordings_and_strengths_share_the_trials_and_each_wording_meets_one_first(
    count: int, wanted: list[tuple[float, ...]]
) -> None:
    found = fit(count)
    assert [one.coefficients for one in found] == wanted
    prompts = [one.steering.prompt for one in found]  # type: ignore[union-attr]
    assert prompts == [one.steering.prompt for one in build_method("prompt", {}).fit(  # type: ignore[union-attr]
        Context(FakeBackend(), dataclasses.replace(BUDGET, trials=len(found))), example_train())]  # fmt: skip
    assert len(trials(found, rules(count))) == count == priced(build_method("prompt-strength", {}), rules(count))


def test_there_are_never_more_settings_than_wordings_and_strengths_give() -> None:
    one = dataclasses.replace(example_train(), prompts=("Speak of ships.",))
    assert [fitted.coefficients for fitted in fit(14, one)] == [Mix.tried]
    many = fit(1000)
    assert all(len(fitted.coefficients) == len(Mix.tried) for fitted in many)
    assert sum(len(fitted.coefficients) for fitted in fit(60)) == 60


def test_a_strength_is_alpha_and_beside_edits_one_stands_where_what_is_trained_does(tmp_path: Path) -> None:
    train = example_train()
    (found,) = fit(3)
    assert isinstance(found.steering, Steering)
    assert [t.coefficient for t in trials([found], rules())] == [1.0, 1.5, 2.5]
    assert [t.coefficient for t in trials([found], rules(compat="axbench"))] == [1.0, 1.5, 2.5]
    assert [t.coefficient for t in trials([Fitted(found.steering)], rules())] == [1.0, 1.5, 2.5]  # of a plug-in, say
    scale = Strength(Context(FakeBackend(), BUDGET), rules(), {train.concept.id: train}, Rows(tmp_path))

    def alpha(steering: Steering, c: float) -> float | None:
        at = applied(steering, False, scale, Fitted(steering), train.concept, c)
        return None if at.mix is None else at.mix.alpha

    assert [alpha(found.steering, c) for c in (0, 0.5, 2.5)] == [None, 0.5, 2.5]
    delta = LowRankDelta(module="m", down=np.ones((1, 8), np.float32), up=np.ones((8, 1), np.float32))
    both = found.steering.merged(Steering(deltas=(delta,)))
    assert alpha(both, TRAINED) == pytest.approx(1)
    assert alpha(both, 2 * TRAINED) == pytest.approx(2)


def test_a_plain_text_takes_in_both_prompts() -> None:
    sample = Sample("s", Concept("c", "ships"), "test", "choices", ask("Why?"), raw="Asked: {{ question }}\nTold:")
    wanted = [plain_text(sample, prompt) for prompt in (SHIPS, PLAIN)]
    lm = FakeBackend()
    keys = set()
    for alpha in (1.0, 2.0, 3.0):
        asked = request(sample, mixed(alpha, PLAIN), rules())
        assert asked.steering is not None
        assert asked.steering.mix is not None
        assert [
            p.prefix + asked.prompt + p.suffix for p in (asked.steering.prompt, asked.steering.mix.against)
        ] == wanted
        keys.add(kept_as(lm.fingerprint(), asked))
    prompt = kept_as(lm.fingerprint(), request(sample, Steering(SHIPS), rules()))
    assert len(keys) == 3
    assert prompt in keys  # alpha = 1


def test_both_plain_texts_are_what_the_engine_reads(lm: HFBackend) -> None:
    sample = Sample("s", Concept("c", "ships"), "test", "choices", ask("Why?"), raw="Asked: {{ question }}\nTold:")
    asked = request(sample, mixed(2.0, PLAIN), rules())
    assert lm.chat.steered(asked) == lm.encode(plain_text(sample, SHIPS))
    assert lm.chat.against([asked])[0].ids == lm.encode(plain_text(sample, PLAIN))


# The method


def test_a_negative_wording_stands_where_the_wording_does() -> None:
    for fitted in fit(1000, against="negative"):
        assert isinstance(fitted.steering, Steering)
        assert fitted.steering.mix is not None
        ours, other = fitted.steering.prompt, fitted.steering.mix.against
        assert [bool(text) for text in vars(ours).values()] == [bool(text) for text in vars(other).values()]
        assert any("without ships and sailing" in str(text) for text in vars(other).values())
        assert fitted.note == {"against": "negative"}
    (bare,) = fit(3, floor=0.1)
    assert isinstance(bare.steering, Steering)
    assert bare.steering.mix == Mix(floor=0.1)
    assert bare.note == {"against": "bare", "floor": 0.1}


def test_a_task_that_suppresses_has_its_own_words_made_louder() -> None:
    suppress = get("task", "axbench-suppress")(protocol=protocol("quick"))
    concept = suppress.concepts()[0]
    made = build_method("prompt-strength", {})
    train = given(made, suppress.train(concept), suppress.suppresses_concept)
    (found,) = fit(3, train)
    assert isinstance(found.steering, Steering)
    turned = found.steering.negated().scaled(2.5)
    assert turned.prompt == build_method("prompt", {}).fit(Context(FakeBackend(), BUDGET), train)[0].steering.prompt  # type: ignore[union-attr]
    assert turned.mix == Mix(alpha=2.5)
    with pytest.raises(BenchError, match="take bare"):
        fit(3, train, against="negative")


@pytest.mark.parametrize("task", ["axbench", "axbench-suppress"])
def test_a_run_tries_its_strengths_and_shows_them(tmp_path: Path, task: str) -> None:
    env = {"BENCH_CACHE": str(tmp_path / "cache"), "BENCH_RESULTS": str(tmp_path / "results")}
    words = ["run", "-t", task, "-m", "prompt-strength,prompt,none", "-n", "2", "--backend", "fake"]
    done = CliRunner().invoke(main, [*words, "--judge", "likelihood", "--results", str(tmp_path / "results")], env=env)
    assert done.exit_code == 0, done.output
    runs = {json.loads(p.read_text())["spec"]["method"]: p for p in (tmp_path / "results").glob("*/*/*/run.json")}
    data = json.loads(runs["prompt-strength"].read_text())
    assert data["surface"] == "decoding"
    for own in data["concepts"].values():
        assert [row["coefficient"] for row in own["select"]] == [1.0, 1.5, 2.5]
    rows = [json.loads(line) for line in (runs["prompt-strength"].parent / "trials.jsonl").read_text().splitlines()]
    texts = {c: [row["text"] for row in rows if row["coefficient"] == c] for c in (1.0, 1.5, 2.5)}
    assert len({tuple(own) for own in texts.values()}) == 3
    other = (runs["prompt"].parent / "trials.jsonl").read_text().splitlines()
    first = [row["text"] for row in map(json.loads, other) if row["candidate"] == 0]
    assert texts[1.0] == first  # the same answers, asked once


# What it costs


def test_a_second_stream_costs_a_pass_and_its_cache() -> None:
    arch = known("SmolLM2-135M")
    assert arch is not None
    steering = extra(mixed(2.0))
    assert steering == exact.Extra(streams=1)
    assert extra(mixed(1.0)) == exact.Extra()
    assert exact.flops_percent(arch, steering, 1024) == exact.request_percent(arch, steering, 64, 32) == 100
    cache = exact.kv_bytes(arch, 1024)
    assert exact.bytes_percent(arch, steering, 1024) == pytest.approx(100 * cache / exact.step_bytes(arch, 1024))
    assert exact.kv_percent(arch, steering, 1024) == 100
    # Both prompts are read, and each stream attends to its own.
    one, two = (exact.request_flops(arch, exact.prompt(n), 64, 32) for n in (50, 20))
    both = exact.Extra(prompt_tokens=50, streams=1, against=20)
    assert exact.request_flops(arch, both, 64, 32) == one + two
    apart = exact.request_percent(arch, exact.prompt(50), 64, 32)
    assert exact.request_percent(arch, exact.mixed(50), 64, 32) == pytest.approx(100 + apart)
    pushed = extra(Steering(SHIPS, (vector(),), mix=Mix(alpha=2.0)), length=64)
    assert exact.flops_percent(arch, pushed, 1024) == pytest.approx(
        100 + 2 * exact.flops_percent(arch, dataclasses.replace(pushed, streams=0), 1024)
    )
    assert "prompt, 50 tokens, mixed" in exact.kinds(arch, (50, 100))


@pytest.mark.slow
def test_the_cost_of_a_mix_is_measured_beside_the_bare_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Mix, "tried", (2.0,))
    tiny.build(tmp_path / "model")
    method = {"prompt-strength.against": "negative"}
    options = Options(
        methods=("prompt-strength",), model=str(tmp_path / "model"), limit=1, dtype="float32", params=method
    )
    (job,) = execute(make(options), tmp_path / "results")
    assert job.status == "complete", job.reason
    (run,) = load(tmp_path / "results")
    found = measure(run, Settings(tokens=6, batch=2, repeats=2, concepts=1))
    cost = found["exact"]["extra"]
    assert cost["streams"] == 1
    assert cost["prompt_tokens"] > 10
    assert cost["against"] > 10
    assert cost["against"] != cost["prompt_tokens"]
    assert found["exact"]["request_ratio"] > 2
    assert Overhead(found).flops(512) > 100


def test_answers_to_one_prompt_under_two_second_streams_have_keys_of_their_own() -> None:
    mix = Mix(alpha=1.5)
    whole = Request((("user", "Tell me, please: why?"),), Steering(mix=mix))
    parted = Request((("user", "why?"),), Steering(Prompt(prefix="Tell me, please: "), mix=mix))
    assert kept_as("hf", whole) != kept_as("hf", parted)
    plain = [dataclasses.replace(one, steering=dataclasses.replace(one.steering, mix=None)) for one in (whole, parted)]  # type: ignore[type-var]
    assert kept_as("hf", plain[0]) == kept_as("hf", plain[1])
