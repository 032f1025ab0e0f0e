"""Endpoints that speak a dialect of their own: refused fields, content in parts, odd usage, addresses and keys that no
request can carry."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from conftest import KEY
from hypothesis import given, settings, strategies as st
from stub_server import JSON, Reply, Stub, answer, bench, error, one_line, records, refusal, run, well

from bench.backends import tiny
from bench.backends.hosted import address, pool
from bench.backends.hosted.answers import read, taken
from bench.backends.hosted.backend import OpenAIBackend
from bench.core.content import digest
from bench.core.errors import StopRun, UsageError
from bench.core.interfaces import Judge
from bench.core.money import Ledger, Price, SpendingLimit, Usage, price_of
from bench.core.rows import Rows
from bench.core.values import Concept, Item, Request, Sampling, Verdict
from bench.judges.judging import rate
from bench.judges.llm import LLMJudge


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "FIRST", 0.01)


def items(count: int) -> list[Item]:
    return [Item("fluency", Concept("c", "ships"), "Tell me.", f"Text number {i}.") for i in range(count)]


def only(stub: Stub, *reply: Any) -> Verdict:
    """The one rating of a judge whose server always sends `reply`."""
    stub.behave = lambda number, prompt: reply[0]
    return dict(LLMJudge("m", retries=0).rate(items(1)))[0]


def most_of(judge: LLMJudge) -> float:
    """Dollars that one of its requests may cost."""
    return judge.backend.most(judge.backend.body(Request(judge.key(items(1)[0]), sampling=Sampling(judge.tokens))))


# Fields that a server refuses


def by_param(name: str) -> Reply:
    return error(400, json.dumps({"error": {"message": "no", "param": name, "code": "unsupported_value"}}))


def by_place(name: str) -> Reply:
    detail = [{"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted"}]
    return error(422, json.dumps({"detail": detail}))


def by_words(name: str) -> Reply:
    return error(400, f"unknown field '{name}' in the request", "text/plain")


@pytest.mark.parametrize("say", [by_param, by_place, by_words])
@pytest.mark.parametrize("name", ["temperature", "seed", "top_logprobs"])
def test_a_refused_field_is_left_out_once_and_for_all_and_said(
    stub: Stub, capsys: pytest.CaptureFixture[str], say: Any, name: str
) -> None:
    stub.behave = lambda number, prompt: say(name) if name in stub.requests[number - 1] else well(number, prompt)
    judge = LLMJudge("m", workers=1, weighted=True)
    found = dict(judge.rate(items(5)))
    assert None not in [verdict.value for verdict in found.values()]
    assert len(stub.requests) == 6
    assert judge.usage()["left_out"] == (["logprobs", "top_logprobs"] if name == "top_logprobs" else [name])
    assert judge.usage()["failed_tries"] == 0
    said = capsys.readouterr().err
    assert said.count(f"takes no {judge.usage()['left_out'][0]}") == 1


def test_a_run_records_what_it_asked_without(stub: Stub) -> None:
    """Two fields refused by the first short question: the run itself asks without them from the start."""

    def behave(number: int, prompt: str) -> Reply:
        return by_param("temperature") if "temperature" in stub.requests[number - 1] else well(number, prompt)

    stub.behave = behave
    data = records(run("-p", "openai.workers=1"))[0]
    assert data["counts"]["unscored"] == 0
    assert data["judging"]["now"]["left_out"] == data["judging"]["ever"]["left_out"] == ["temperature"]


def test_a_server_that_takes_no_limit_is_not_asked_where_money_is_limited(stub: Stub) -> None:
    def behave(number: int, prompt: str) -> Reply:
        body = stub.requests[number - 1]
        name = next((n for n in ("max_tokens", "max_completion_tokens") if n in body), "")
        return by_param(name) if name else well(number, prompt)

    stub.behave = behave
    free = LLMJudge("m", workers=1)
    assert dict(free.rate(items(1)))[0].value is not None
    assert free.usage()["left_out"] == ["max_tokens"]
    funded = LLMJudge("m", workers=1, price=(1.0, 1.0))
    funded.fund(SpendingLimit(1.0))
    with pytest.raises(StopRun):
        list(funded.rate(items(1)))


def test_a_refusal_of_something_else_ends_the_asking_at_once(stub: Stub) -> None:
    stub.behave = lambda number, prompt: refusal(400, "this account has no temperature of interest to us")
    with pytest.raises(StopRun):
        list(LLMJudge("m", workers=1).rate(items(3)))
    assert len(stub.requests) == 1


def test_many_at_once_learn_one_dialect(stub: Stub) -> None:
    def behave(number: int, prompt: str) -> Reply:
        return by_words("seed") if "seed" in stub.requests[number - 1] else well(number, prompt)

    stub.behave = behave
    found = dict(LLMJudge("m", workers=8).rate(items(40)))
    assert None not in [verdict.value for verdict in found.values()]
    assert 41 <= len(stub.requests) <= 48


# What an answer may look like


def message(content: Any, finish: str = "stop", **more: Any) -> Reply:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content} | more}
    return answer("", choices=[choice])


@pytest.mark.parametrize(
    ("reply", "value", "why"),
    [
        (message([{"type": "text", "text": "Rating: [[2]]"}]), 2, ""),
        (message([{"type": "thinking", "thinking": [{"type": "text", "text": "Rating: [[0]]"}]},
                  {"type": "text", "text": "Rating: [[2]]"}]), 2, ""),
        (message(["Rating: ", "[[1]]"]), 1, ""),
        (message("Rating: [[1]]", reasoning_content="Rating: [[2]]"), 1, ""),
        (message("", "length", reasoning_content="Rating: [[2]]"), None, "inside a thought"),
        (message(None, "length", reasoning="still at it"), None, "inside a thought"),
        (message([{"type": "thinking", "thinking": "Rating: [[2]]"}], "length"), None, "inside a thought"),
        (message("<think>\nRating: [[2]]\nbut", "length"), None, "inside a thought"),
        (message("Rating: [[1", "length"), None, "cut off"),
        (message("Rating: 1", "length"), None, "cut off"),
        (message("Rating: [[1]]", "length"), 1, ""),
        (message("Rating: 1.\nThat is", "length"), 1, ""),
        (message(None), None, "empty"),
        (message([{"type": "image_url", "image_url": "x"}]), None, "cannot be read"),
    ],
)  # fmt: skip
def test_what_is_said_in_an_answer_is_rated_and_nothing_else(
    stub: Stub, reply: Reply, value: float | None, why: str
) -> None:
    found = only(stub, reply)
    assert found.value == value
    assert why in found.reason


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "content", "usage", "text", "type", "logprobs", "token", "logprob"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
replies = anything | st.fixed_dictionaries(
    {"choices": st.lists(st.fixed_dictionaries({"message": anything}, optional={"logprobs": anything}), max_size=2)},
    optional={
        "usage": st.fixed_dictionaries(
            {"prompt_tokens": anything, "completion_tokens": anything}, optional={"prompt_tokens_details": anything}
        ),
        "model": anything,
    },
)


@given(replies)
def test_json_of_any_shape_is_an_answer_or_is_told_apart(body: Any) -> None:
    try:
        found = read(body)
    except ValueError:
        return
    assert isinstance(found.completion.text, str)
    assert isinstance(found.model, str)
    if found.taken is not None:
        assert 0 <= found.taken.cached <= found.taken.read
        assert found.taken.written >= 0
    assert all(isinstance(value, float) for _, odds in found.likely for value in odds.values())


@settings(max_examples=25)
@given(body=replies)
def test_a_server_that_sends_any_json_costs_no_traceback_and_no_money_back(body: Any) -> None:
    from stub_server import serving

    with serving() as stub, pytest.MonkeyPatch.context() as patch:
        for name, value in {"OPENAI_API_KEY": KEY, "NO_PROXY": "127.0.0.1"}.items():
            patch.setenv(name, value)
        stub.behave = lambda number, prompt: (200, json.dumps(body), JSON)
        judge = LLMJudge("m", base_url=stub.url, retries=0, price=(1.0, 2.0), weighted=True)
        purse = SpendingLimit(1.0)
        judge.fund(purse)
        found = dict(judge.rate(items(1)))[0]
        assert found.value is None or 0 <= found.value <= 2
        assert purse.gone >= 0
        assert purse.held == 0


HUGE = (
    '{"choices": [{"message": {"content": "Rating: [[1]]"}}], "usage": {"prompt_tokens": %s, "completion_tokens": %s}}'
)


@pytest.mark.parametrize(
    "body",
    [
        HUGE % ("1e999", "1"),
        HUGE % ("1" + "0" * 400, "1"),
        HUGE % ("-100", "1"),
        HUGE % ("1", "-5"),
        HUGE % ("NaN", "1"),
        HUGE % ("true", "1"),
        HUGE % ("null", "null"),
        HUGE % ('10, "prompt_tokens_details": {"cached_tokens": 900}', "1"),
        HUGE % ('10, "prompt_tokens_details": {"cached_tokens": -900}', "1"),
    ],
)
def test_usage_that_cannot_be_counts_as_the_most_that_was_asked_for(stub: Stub, body: str) -> None:
    stub.behave = lambda number, prompt: (200, body, JSON)
    judge = LLMJudge("m", retries=0, price=(1.0, 1.0))
    purse = SpendingLimit(1.0)
    judge.fund(purse)
    assert dict(judge.rate(items(1)))[0].value == 1
    most = (len(stub.prompts()[0].encode()) + 64 + 256) / 1e6
    assert purse.gone == pytest.approx(most)
    assert judge.usage()["dollars"] == 0
    assert judge.usage()["dollars_unsure"] == pytest.approx(most)
    assert judge.usage()["tokens"] == 0


def test_a_count_is_taken_as_it_stands_where_it_can_be() -> None:
    found = taken({"prompt_tokens": 10.0, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": None}})
    assert found is not None
    assert (found.read, found.written, found.cached) == (10, 0, 0)


@pytest.mark.parametrize("body", ["[" * 100_000, '{"a":' * 100_000, '{"error": ' * 50_000])
def test_json_of_any_depth_is_a_failure_and_no_traceback(stub: Stub, body: str) -> None:
    for status in (200, 500):
        stub.behave = lambda number, prompt, status=status: error(status, body)
        assert dict(LLMJudge("m", retries=0).rate(items(1)))[0].value is None
    stub.behave = lambda number, prompt: error(400, body)
    with pytest.raises(StopRun) as stopped:
        list(LLMJudge("m", retries=0).rate(items(1)))
    assert "\n" not in str(stopped.value)
    assert len(str(stopped.value)) < 500


# Addresses and keys


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:9/v1", "http://", "http://127.0.0.1:99999/v1", "http://127.0.0.1:port/v1", "ftp://host/v1", "http://[::1",
     "http://ho st/v1", "http://" + "a" * 70 + "/v1", "http://host/v1?api_key=sk-secret-secret", "http://..//v1"],
)  # fmt: skip
def test_an_address_that_cannot_be_is_told_in_one_line_before_anything_runs(stub: Stub, url: str) -> None:
    result = run("-p", f"openai.base_url={url}")
    assert result.exit_code == 2, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("bench:")]
    assert "address" in line
    assert "sk-secret-secret" not in result.stderr


def test_an_endpoint_needs_no_package_but_openai_and_what_it_brings(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """openai 3 is built on httpx2; the older httpx is there only where some other package brings it."""
    monkeypatch.setitem(sys.modules, "httpx", None)
    assert run().exit_code == 0


@pytest.mark.parametrize("host", ["[::1", "\0"])
def test_an_address_that_only_the_client_refuses_ends_the_asking(host: str) -> None:
    one = OpenAIBackend("m", "http://127.0.0.1:9/v1")
    one.__dict__["client"] = openai.OpenAI(api_key="x", base_url="http://127.0.0.1:9/v1", max_retries=0)

    def post(*_: object, **__: object) -> None:
        openai.OpenAI(api_key="x", base_url=f"http://{host}/v1")

    one.client.post = post
    with pytest.raises(StopRun):
        list(one.generate([Request((("user", "Hi"),), None, Sampling(1, 0.0, 0))]))


def test_what_an_address_hides_is_shown_nowhere(stub: Stub, tmp_path: Path) -> None:
    hidden = stub.url.replace("//", "//user:pass-word-long@")
    stub.behave = lambda number, prompt: refusal(404, "no such model for user:pass-word-long")
    line = one_line(run("-p", f"openai.base_url={hidden}"), "[key]", stub.url)
    assert "pass-word-long" not in line


def test_a_server_is_named_by_host_port_and_path() -> None:
    assert address.name("") == address.name("https://api.openai.com/v1/") == ""
    assert address.name("https://user:secret@Host.Example:443/a/v1/?key=x") == "host.example/a/v1"
    assert address.name("http://[::1]:8000/v1") == "[::1]:8000/v1"


@pytest.mark.parametrize("key", ["sk-a\nb", "sk-…-0123456789", "sk a b c d e f", "“sk-0123456789”"])
def test_a_key_that_no_header_takes_is_told_before_anything_runs(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    result = run()
    assert result.exit_code == 2
    assert "OPENAI_API_KEY" in result.stderr.splitlines()[-1]
    assert key not in result.stderr
    assert stub.requests == []


# Money


@pytest.mark.parametrize("limit", [float("nan"), float("inf"), -1.0])
def test_a_limit_that_is_none_is_refused(limit: float) -> None:
    with pytest.raises(ValueError, match="limit"):
        SpendingLimit(limit)
    with pytest.raises(ValueError, match="price"):
        price_of("m", (limit, 1.0))


def test_money_that_is_held_is_waited_for_and_not_taken_for_gone(stub: Stub) -> None:
    """Each request may cost 100 times what it does: one at a time fits, and all of them are asked."""

    def behave(number: int, prompt: str) -> Reply:
        time.sleep(0.01)
        return answer("Rating: [[1]]", usage={"prompt_tokens": 1, "completion_tokens": 1})

    stub.behave = behave
    judge = LLMJudge("m", workers=16, price=(1.0, 1.0))
    most = most_of(judge)
    judge.fund(SpendingLimit(most * 1.5))
    found = dict(judge.rate(items(40)))
    assert [found[i].value for i in range(40)] == [1.0] * 40


def test_asking_stops_where_what_is_gone_leaves_no_room(stub: Stub) -> None:
    stub.behave = lambda number, prompt: answer(
        "Rating: [[1]]", usage={"prompt_tokens": len(prompt.encode()), "completion_tokens": 256}
    )
    judge = LLMJudge("m", workers=16, price=(1.0, 1.0))
    purse = SpendingLimit(0.004)
    judge.fund(purse)
    begun = time.monotonic()
    with pytest.raises(StopRun, match="max-cost"):
        list(judge.rate(items(200)))
    assert time.monotonic() - begun < 10
    assert 0.003 < purse.gone <= 0.004


def test_what_waits_for_money_is_not_sent_after_all_asking_ended(stub: Stub) -> None:
    gate = threading.Event()

    def behave(number: int, prompt: str) -> Reply:
        gate.wait(5)
        return refusal(401, "expired")

    stub.behave = behave
    judge = LLMJudge("m", workers=4, price=(1.0, 1.0))
    most = most_of(judge)
    judge.fund(SpendingLimit(most * 1.5))
    threading.Timer(0.3, gate.set).start()
    with pytest.raises(StopRun, match="expired"):
        list(judge.rate(items(20)))
    assert len(stub.requests) == 1


def test_what_may_have_been_billed_is_put_down_before_it_is_sent_and_replaced_once_it_is_settled(
    stub: Stub, tmp_path: Path
) -> None:
    """What a reader of the disk sees at every moment is at least what the server has billed."""
    seen: list[tuple[float, int]] = []

    def behave(number: int, prompt: str) -> Reply:
        now = Ledger(Rows(tmp_path / "spending")).ever()  # as another process would find it
        seen.append((now["dollars"] + now["dollars_unsure"], now["answers"]))
        return answer("Rating: [[1]]", usage={"prompt_tokens": 100, "completion_tokens": 10})

    stub.behave = behave
    judge, ledger = LLMJudge("m", workers=1, price=(1.0, 1.0)), Ledger(Rows(tmp_path / "spending"))
    judge.account(ledger.put)
    list(judge.rate(items(6)))
    most = most_of(judge)
    for i, (dollars, answers) in enumerate(seen):
        assert answers == i
        assert dollars == pytest.approx(i * 110 / 1e6 + most, abs=2e-6)
    after = Ledger(Rows(tmp_path / "spending")).ever()
    assert after["dollars"] == pytest.approx(6 * 110 / 1e6)
    assert after["dollars_unsure"] == 0


def test_usage_of_a_request_under_way_is_unsure_until_it_is_settled() -> None:
    usage = Usage()
    usage.begin(0.5)
    assert usage.plain(Price(1, 1, 1))["dollars_unsure"] == 0.5
    usage.end(0.5, answers=1, dollars=0.1)
    assert usage.plain(Price(1, 1, 1))["dollars_unsure"] == 0
    assert usage.plain(Price(1, 1, 1))["dollars"] == 0.1


# What a judge may give


class Odd(Judge):
    """Gives for three items what a test wants."""

    name = "odd"

    def __init__(self, *given: Any) -> None:
        self.given = given

    def fingerprint(self) -> dict[str, Any]:
        return {}

    def rate(self, items: Sequence[Item]) -> Iterator[tuple[int, Verdict]]:
        for each in self.given:
            if isinstance(each, Exception):
                raise each
            yield each


GOOD = [(i, Verdict(1.0)) for i in range(3)]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([*GOOD[:2], (2, Verdict(1e6))], "outside 0 to 2"),
        ([*GOOD[:2], (2, Verdict(-0.5))], "outside 0 to 2"),
        ([*GOOD[:2], (2, Verdict(float("nan")))], "no rating"),
        ([*GOOD[:2], (2, Verdict("2"))], "no rating"),  # type: ignore[arg-type]
        ([*GOOD[:2], (2, Verdict(True))], "no rating"),
        ([*GOOD[:2], (2, 1.0)], "no Verdict"),
        ([*GOOD[:2], (2, Verdict(None))], "reason"),
        ([*GOOD, (2, Verdict(0.0))], "was rated"),
        ([*GOOD, (7, Verdict(0.0))], "item 7"),
        ([*GOOD[:2], ("2", Verdict(0.0))], "item '2'"),
        (GOOD[:2], "no verdict for 1 of 3"),
        ([*GOOD[:2], KeyError("x")], "KeyError"),
    ],
)
def test_what_is_no_rating_ends_the_run_in_one_line_that_names_the_judge(given: list[Any], said: str) -> None:
    with pytest.raises(StopRun, match="judge odd") as stopped:
        rate(Odd(*given), items(3), Rows(None), lambda steps: None)
    assert said in str(stopped.value)
    assert "\n" not in str(stopped.value)


def test_a_number_of_another_kind_is_a_rating_and_a_kept_row_that_is_none_is_asked_for(tmp_path: Path) -> None:
    kept = Rows(None)
    found = rate(Odd((0, Verdict(np.float32(1.5))), *GOOD[1:]), items(3), kept, lambda steps: None)  # type: ignore[arg-type]
    assert [type(verdict.value) for verdict in found] == [float] * 3
    assert found[0].value == 1.5
    for key in (digest(item) for item in items(3)):
        kept.put(key, {"value": 1e6} if kept.get(key)["value"] == 1.5 else kept.get(key))
    assert [v.value for v in rate(Odd((0, Verdict(0.5))), items(3), kept, lambda steps: None)] == [0.5, 1.0, 1.0]


def test_a_prompter_counts_what_it_spends(stub: Stub) -> None:
    backend = OpenAIBackend("m", price=(1.0, 1.0), retries=0)
    stub.behave = lambda number, prompt: message([{"type": "text", "text": "<think>x</think>Speak of it."}])
    ((_, said),) = list(backend.generate([Request("a")]))
    assert said.spoken == "Speak of it."


def test_an_address_without_a_server_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "nonsense")
    with pytest.raises(UsageError, match="OPENAI_BASE_URL"):
        LLMJudge("m")


# Commands that ask


@pytest.mark.parametrize("limit", ["nan", "inf", "-1", "0"])
@pytest.mark.parametrize(
    "command",
    [
        ("run", "-m", "none", "--backend", "fake", "--judge", "openai:m"),
        ("judge", "rate", "none", "--judge", "openai:m"),
        ("judge", "validate", "--judge", "openai:m"),
        ("data", "make", "--concepts", "c.txt", "--generator", "openai:m", "--out", "out"),
    ],
)
def test_every_command_that_asks_is_held_to_a_limit_that_is_one(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], limit: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.txt").write_text("ships\n")
    result = bench(*command, "--max-cost", limit)
    assert result.exit_code == 2
    assert "--max-cost" in result.stderr
    assert stub.requests == []


@pytest.mark.slow
def test_a_limit_holds_when_kept_answers_are_rated_again_or_a_judge_is_validated(stub: Stub, tmp_path: Path) -> None:
    model = str(tiny.build(tmp_path / "model", "llama").path)
    records(run("--model", model))
    stub.requests.clear()
    stub.behave = lambda number, prompt: answer(
        "Rating: [[1]]", usage={"prompt_tokens": len(prompt.encode()), "completion_tokens": 256}
    )
    for words in (("rate", "none"), ("validate", "--model", model)):
        refused = bench("judge", *words, "--judge", "openai:b", "--max-cost", "1")
        assert refused.exit_code == 2
        assert "openai.price=IN,OUT" in refused.stderr
    asked = ("judge", "rate", "none", "--judge", "openai:b", "--json", "--max-cost", "0.004")
    stopped = bench(*asked, "-p", "openai.price=1,1")
    one_line(stopped, "--max-cost $0.004")
    assert "judge: about" in stopped.stderr
    assert 0 < sum(len(prompt.encode()) + 256 for prompt in stub.prompts()) <= 4000


def test_making_data_is_held_to_its_limit_and_goes_on_with_more(stub: Stub, tmp_path: Path) -> None:
    concepts = tmp_path / "c.csv"
    concepts.write_text("concept,genre\nships,text\n")
    stub.behave = lambda number, prompt: answer(
        f"<think>x</think>Where do ships sail, number {number}?", usage={"prompt_tokens": 90, "completion_tokens": 16}
    )
    words = (
        "--concepts",
        str(concepts),
        "--generator",
        "openai:m",
        "--out",
        str(tmp_path / "out"),
        "--per-concept",
        "2",
    )
    small = (*words, "--evaluation", "4", "--hard", "0", "--tokens", "16", "--price", "1,1", "--json")
    one_line(bench("data", "make", *small, "--max-cost", "0.002"), "--max-cost $0.002")
    before = len(stub.requests)
    assert 0 < before * 106 / 1e6 <= 0.002
    done = bench("data", "make", *small)
    assert done.exit_code == 0, done.stderr
    spent = json.loads(done.stdout)["spent"]
    assert spent["answers"] == len(stub.requests)
    assert spent["dollars"] == pytest.approx(len(stub.requests) * 106 / 1e6)
    assert "at most" in done.stderr


def test_the_commonest_reason_for_missing_ratings_is_said_with_a_reply(stub: Stub) -> None:
    stub.behave = lambda number, prompt: answer("Oh \x1b[31mhard to say.") if number % 3 else well(number, prompt)
    result = run("--max-unscored", "1")
    (line,) = [line for line in result.stderr.splitlines() if "ratings are missing" in line]
    assert "no readable rating in the reply" in line
    assert "hard to say." in line
    assert "\x1b" not in line
