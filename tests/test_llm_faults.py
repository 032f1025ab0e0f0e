"""A hosted model that fails in every way a server can: what was rated is kept, nothing is rated twice, and
what is missing says why; tokens and money are counted, and the key is nowhere.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from conftest import KEY
from stub_server import (
    JSON,
    Reply,
    Stub,
    answer,
    axis_of,
    bench,
    error,
    judgements,
    one_line,
    rated,
    records,
    refusal,
    run,
    well,
)

from bench.backends.hosted import pool
from bench.backends.hosted.backend import OpenAIBackend, retry_after
from bench.backends.hosted.pool import Failure, RequestPool, TransientError, pause
from bench.core.errors import BenchError, StopRun, UsageError
from bench.core.money import PRICES, Price, SpendingLimit, price_of
from bench.core.rows import Rows
from bench.core.values import Concept, Item, Request, Verdict
from bench.judges.judging import rate
from bench.judges.llm import LLMJudge

ASKED = 2 * (2 + 3) * 3
"""Ratings of `none` on two concepts: two select and three test prompts, three axes."""
FAST = ("-p", "openai.retries=1", "-p", "openai.timeout=0.4")


@pytest.fixture(autouse=True)
def _short_waits(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "FIRST", 0.01)


def items(count: int, axis: str = "fluency") -> list[Item]:
    return [Item(axis, Concept("c", "ships"), "Tell me.", f"Text number {i}.") for i in range(count)]


def judged(count: int = 20, **fields: Any) -> dict[int, Verdict]:
    return dict(LLMJudge("m", **fields).rate(items(count)))


def twice(stub: Stub) -> list[str]:
    """What got a whole answer more than once."""
    return [prompt for prompt, n in Counter(stub.answered).items() if n > 1]


# Errors that pass


@pytest.mark.slow
def test_429_500_and_a_dropped_connection_are_retried(stub: Stub, tmp_path: Path) -> None:
    trouble = {2: error(429), 5: error(500), 9: error(503), 12: None}
    stub.behave = lambda number, prompt: trouble[number] if number in trouble else well(number, prompt)
    data = records(run())[0]
    assert data["counts"]["missing"] == 0
    assert len(stub.requests) == ASKED + len(trouble)
    assert len(judgements(tmp_path)) == ASKED
    assert all(row["row"]["value"] is not None for row in judgements(tmp_path))


def torn(number: int, prompt: str) -> Reply:
    status, body, headers = well(number, prompt)
    return status, body[: len(body) // 2], headers


def cut_off(number: int, prompt: str) -> Reply:
    """Half of what the header promises, then a closed connection."""
    status, body, headers = well(number, prompt)
    return status, body[: len(body) // 2], headers | {"Content-Length": str(len(body))}


PASSING: dict[str, Callable[[int, str], Reply | float | None]] = {
    "a storm of 429": lambda number, prompt: error(429),
    "500": lambda number, prompt: error(500),
    "502 with a page": lambda number, prompt: error(502, "<html>\n<h1>Bad</h1></html>", "text/html"),
    "a socket that hangs": lambda number, prompt: 1.5,
    "a connection that drops": lambda number, prompt: None,
    "half of the JSON": torn,
    "a body that is cut off": cut_off,
    "an empty body": lambda number, prompt: (200, "", JSON),
    "JSON of another shape": lambda number, prompt: (200, '["no"]', JSON),
    "an answer without choices": lambda number, prompt: answer("", choices=[]),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", PASSING)
def test_a_fault_that_passes_costs_no_rating(stub: Stub, what: str) -> None:
    """The first twelve requests fail, then the server is well: each text gets its rating, once."""
    stub.behave = lambda number, prompt: PASSING[what](number, prompt) if number <= 12 else well(number, prompt)
    found = judged(20, workers=4, retries=12, timeout=0.4)
    wanted = {_number(prompt): rated(prompt) for prompt in stub.prompts()}
    assert {i: verdict.value for i, verdict in found.items()} == wanted
    assert len(stub.requests) == 32
    assert [p for p, n in Counter(stub.prompts()[12:]).items() if n > 1] == []


def _number(prompt: str) -> int:
    return int(prompt.split("Text number ")[1].split(".")[0])


def test_the_server_says_how_long_to_wait(stub: Stub) -> None:
    sent: list[float] = []

    def behave(number: int, prompt: str) -> Reply:
        sent.append(time.monotonic())
        return (429, "{}", JSON | {"Retry-After": "0.3"}) if number == 1 else well(number, prompt)

    stub.behave = behave
    judged(1)
    assert 0.3 <= sent[1] - sent[0] < 2


def test_how_long_to_wait_is_read_in_every_form() -> None:
    assert retry_after({"retry-after-ms": "250", "retry-after": "9"}) == 0.25
    assert retry_after({"retry-after": "2.5"}) == 2.5
    assert retry_after({"retry-after": "-3"}) == 0
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({}) is None
    later = retry_after({"retry-after": formatdate(time.time() + 60, usegmt=True)})
    assert later is not None
    assert 50 < later <= 60


def test_waits_double_up_to_a_longest_and_are_never_the_same_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "FIRST", 0.5)
    for tries, most in [(1, 0.5), (2, 1), (3, 2), (4, 4), (5, 8), (6, 8), (60, 8)]:
        waits = [pause(tries, None) for _ in range(200)]
        assert most / 2 <= min(waits) < 0.7 * most < 0.9 * most < max(waits) <= most
    asked = [pause(1, 10.0) for _ in range(200)]
    assert 10 <= min(asked) < max(asked) <= 12.5  # never sooner than the server says


def test_a_server_that_asks_to_wait_for_an_hour_is_not_waited_for(stub: Stub) -> None:
    patient = error(429, **{"Retry-After-Ms": "3600000"})
    stub.behave = lambda number, prompt: patient if number == 1 else well(number, prompt)
    found = judged(3, workers=1)
    assert [found[i].value is None for i in range(3)] == [True, False, False]
    assert "3600 s" in found[0].reason


# Faults that do not pass in time


def unlucky(prompt: str) -> bool:
    """About one prompt in seven, the same ones at every try."""
    return sum(prompt.encode()) % 7 == 0


@pytest.mark.slow
def test_a_request_given_up_is_none_with_its_reason_and_is_asked_again_by_the_same_command(
    stub: Stub, tmp_path: Path
) -> None:
    gone: set[str] = set()

    def behave(number: int, prompt: str) -> Reply:
        if unlucky(prompt):
            gone.add(prompt)
            return error(503)
        return well(number, prompt)

    stub.behave = behave
    result = run(*FAST, concepts=3)
    data = records(result, 1)[0]
    counts = data["counts"]
    assert 0 < len(gone) == counts["unscored"] == counts["unanswered"]
    assert counts["verdicts"] == 3 * (2 + 3) * 3
    assert f"none: {len(gone)} of 45 ratings are missing, more than --max-unscored 0.02" in result.stderr
    assert "the same command asks for them again" in result.stderr
    lost = [s for s in data["samples"] if s["reasons"]]
    assert lost
    for sample in lost:
        assert all(sample["ratings"][axis] is None for axis in sample["reasons"])
        assert all("503" in reason and "tried 2 times" in reason for reason in sample["reasons"].values())
    kept = judgements(tmp_path)
    assert len(kept) == 45 - len(gone)
    assert all(row["row"]["value"] is not None for row in kept)
    assert any("unanswered" in reason for reason in data["refused"])
    assert set(Counter(p for p in stub.prompts() if p in gone).values()) == {2}

    stub.behave, before = well, len(stub.requests)
    again = records(run(*FAST, concepts=3))[0]
    assert again["counts"]["unscored"] == again["counts"]["unanswered"] == again["counts"]["missing"] == 0
    assert set(stub.prompts()[before:]) >= gone
    assert twice(stub) == []
    asked = len(stub.requests)
    assert json.loads(run(*FAST, concepts=3).stdout)["runs"][0]["status"] == "cached"
    assert len(stub.requests) == asked


@pytest.mark.slow
def test_as_many_may_be_missing_as_the_user_says(stub: Stub) -> None:
    stub.behave = lambda number, prompt: answer("Hm.") if unlucky(prompt) else well(number, prompt)
    data = records(run("--max-unscored", "0.9"))[0]
    share = data["counts"]["unscored"] / data["counts"]["verdicts"]
    assert 0.02 < share < 0.9
    assert data["counts"]["unanswered"] == 0
    for limit, code in (("0.9", 0), (str(share), 0), (str(share - 0.01), 1), ("0", 1)):
        again = run("--max-unscored", limit)  # a finished run is held to it as well
        assert again.exit_code == code
        assert json.loads(again.stdout)["runs"][0]["status"] == "cached"
    assert bench("run", "--max-unscored", "1.5").exit_code == 2


@pytest.mark.slow
def test_a_text_the_server_will_not_take_is_kept_as_missing(stub: Stub, tmp_path: Path) -> None:
    """No retry mends it and it concerns no other text: the run goes on, and does not ask again."""
    said = "This model's maximum context length is 2048 tokens, however you requested 4096"
    stub.behave = lambda number, prompt: refusal(400, said) if unlucky(prompt) else well(number, prompt)
    data = records(run("--max-unscored", "1"))[0]
    assert data["counts"]["unscored"] > 0
    assert data["counts"]["unanswered"] == 0
    assert len(judgements(tmp_path)) == ASKED == len(stub.requests)
    assert any("context length" in row["row"]["reason"] for row in judgements(tmp_path))


@pytest.mark.slow
def test_in_axbenchs_own_mode_a_request_without_answer_is_missing_and_not_zero(stub: Stub) -> None:
    stub.behave = lambda number, prompt: error(500) if unlucky(prompt) else answer("Rating: [[2]]")
    data = records(run(*FAST, "--compat", "axbench"), 1)[0]
    ratings = [value for sample in data["samples"] for value in sample["ratings"].values()]
    assert set(ratings) == {2.0, None}


def test_a_fit_is_not_kept_with_ratings_missing(stub: Stub) -> None:
    """Persona vectors filter their rollouts by ratings; a gap in them would stay in the artefact."""
    from bench.run.plan import Options, make
    from bench.run.session import Session, silent

    stub.behave = lambda number, prompt: error(500) if unlucky(prompt) else well(number, prompt)
    asked = items(12)
    options = Options(("none",), judge="openai:m", backend="fake", limit=2, params={"openai.retries": 0})
    session = Session(make(options), None, silent)
    assert session.context.rate is not None
    with pytest.raises(BenchError, match="went unanswered"):
        session.context.rate(asked)
    stub.behave = well
    assert None not in [verdict.value for verdict in session.context.rate(asked)]
    assert twice(stub) == []


def test_a_server_that_is_down_is_not_asked_ten_thousand_times(stub: Stub) -> None:
    stub.behave = lambda number, prompt: well(number, prompt) if number <= 5 else error(500)
    found: dict[int, Verdict] = {}
    with pytest.raises(StopRun, match="8 requests failed one after the other"):
        found.update(LLMJudge("m", workers=2, retries=1).rate(items(200)))
    assert sum(verdict.value is not None for verdict in found.values()) == 5
    assert len(stub.requests) <= 5 + 2 * (8 + 2)


def test_half_of_all_requests_failing_is_not_a_server_that_is_down(stub: Stub) -> None:
    stub.behave = lambda number, prompt: error(500) if number % 2 else well(number, prompt)
    found = judged(60, workers=3, retries=0)
    assert len(found) == 60
    assert 20 < sum(verdict.value is None for verdict in found.values()) < 40


def test_all_asking_ends_at_once_also_for_those_who_wait(stub: Stub) -> None:
    """One worker is told to wait a minute when the key is refused to another."""

    def behave(number: int, prompt: str) -> Reply:
        if number == 1:
            return error(429, **{"Retry-After-Ms": "60000"})
        time.sleep(0.2)
        return refusal(401, "expired")

    stub.behave = behave
    begun = time.monotonic()
    with pytest.raises(StopRun, match="expired"):
        judged(10, workers=2)
    assert time.monotonic() - begun < 10
    assert len(stub.requests) == 2


def test_every_request_ends_in_one_way() -> None:
    """Answers, failures and refusals in a mix, by more workers than requests and by fewer."""

    def call(i: int) -> str:
        if i % 3 == 1:
            raise TransientError("busy")
        if i % 3 == 2:
            raise pool.PermanentError("no")
        return f"answer {i}"

    for workers in (1, 3, 50):
        found = dict(RequestPool[str](workers, 1).all(call, 20))
        assert sorted(found) == list(range(20))
        assert {i for i, v in found.items() if v == Failure("busy (tried 2 times)")} == set(range(1, 20, 3))
        assert {i for i, v in found.items() if v == Failure("no", transient=False)} == set(range(2, 20, 3))
    assert dict(RequestPool[str](4, 1).all(call, 0)) == {}


# Errors that stay


HTML = "<html>\n<head><title>502 Bad Gateway</title></head>\n<body>\n<h1>502 Bad Gateway</h1>\n</body>\n</html>\n"
LASTING: dict[str, Callable[[int, str], Reply | None]] = {
    "a wrong key": lambda number, prompt: error(401),
    "a server error": lambda number, prompt: error(500),
    "a page of a proxy": lambda number, prompt: error(502, HTML, "text/html"),
    "a web page in place of an answer": lambda number, prompt: (200, HTML, {"Content-Type": "text/html"}),
    "an answer without choices": lambda number, prompt: answer("", choices=[]),
    "an answer that is torn": lambda number, prompt: (200, '{"id": "x", "cho', {"Content-Type": "application/json"}),
    "no answer": lambda number, prompt: None,
}


@pytest.mark.slow
@pytest.mark.parametrize("what", LASTING)
def test_a_server_that_always_fails_ends_in_one_line(stub: Stub, tmp_path: Path, what: str) -> None:
    stub.behave = LASTING[what]
    one_line(run(*FAST), "judge-model")
    assert not (tmp_path / "results").exists()
    assert judgements(tmp_path) == []


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    words = ("-p", "openai.base_url=http://127.0.0.1:9/v1", "-p", "openai.retries=0")
    one_line(run(*words), "judge-model at http://127.0.0.1:9/v1")


@pytest.mark.slow
def test_when_the_server_recovers_only_what_is_missing_is_asked(stub: Stub, tmp_path: Path) -> None:
    words = ("-p", "openai.retries=0", "-p", "openai.workers=2")
    stub.behave = lambda number, prompt: well(number, prompt) if number <= 8 else error(500)
    one_line(run(*words), "judge-model", "500")
    kept = len(judgements(tmp_path))
    assert 0 < kept <= 8
    assert not (tmp_path / "results").exists()
    before = len(stub.requests)
    stub.behave = well
    result = run(*words)
    data = records(result)[0]
    assert data["counts"]["missing"] == 0
    assert "0 generations made now" in result.stderr
    assert len(stub.requests) - before == ASKED - kept
    assert len(judgements(tmp_path)) == ASKED


@pytest.mark.slow
def test_an_answer_that_was_paid_for_is_not_asked_for_again(stub: Stub) -> None:
    """One request fails at once; those under way beside it are answered and must not be thrown away."""

    def behave(number: int, prompt: str) -> Reply:
        if number == 4:
            return refusal(401, "expired")
        time.sleep(0.2)
        return well(number, prompt)

    stub.behave = behave
    words = ("-p", "openai.retries=0", "-p", "openai.workers=4")
    one_line(run(*words), "judge-model")
    for _ in range(500):  # the server notes an answer after it is sent, which may be after it is used
        if len(stub.answered) >= 3:
            break
        time.sleep(0.01)
    assert len(stub.answered) >= 3
    stub.behave = well
    records(run(*words))
    assert [p for p, n in Counter(stub.answered).items() if n > 1] == []


@pytest.mark.slow
def test_a_key_that_expires_ends_the_run_with_all_that_was_rated(stub: Stub, tmp_path: Path) -> None:
    stub.behave = lambda number, prompt: well(number, prompt) if number <= 20 else refusal(401, "Expired key")
    line = one_line(run("-p", "openai.workers=4"), "401", "Expired key", "the same command goes on from there")
    assert KEY not in line
    assert len(judgements(tmp_path)) == 20
    assert len(stub.requests) <= 20 + 4  # those that were under way
    stub.behave, before = well, len(stub.requests)
    assert records(run("-p", "openai.workers=4"))[0]["counts"]["unscored"] == 0
    assert len(stub.requests) - before == ASKED - 20
    assert twice(stub) == []


@pytest.mark.parametrize(
    "reply",
    [
        refusal(403, "not allowed"),
        refusal(404, "no such model"),
        refusal(400, "messages must not be empty"),
        refusal(429, "You exceeded your quota", "insufficient_quota"),
    ],
)
def test_what_no_retry_mends_ends_the_asking(stub: Stub, tmp_path: Path, reply: Reply) -> None:
    stub.behave = lambda number, prompt: well(number, prompt) if number <= 3 else reply
    one_line(run("-p", "openai.workers=1", methods="none,prompt"), json.loads(reply[1])["error"]["message"])
    assert len(stub.requests) == 4
    assert len(judgements(tmp_path)) == 3


def test_a_writer_that_fails_is_an_error_of_its_method(stub: Stub) -> None:
    """A prompt that was not written is no prompt: nothing may be fitted in its place."""

    def behave(number: int, prompt: str) -> Reply:
        if prompt.startswith("You grade"):
            return well(number, prompt)
        return error(500) if number == 2 else answer(f"Speak of it, draft {number}.")

    stub.behave = behave
    backend = OpenAIBackend("m", retries=0)
    with pytest.raises(BenchError, match="500"):
        list(backend.generate([Request("a"), Request("b"), Request("c")]))
    assert len(stub.requests) == 3


def test_an_answer_that_is_begun_elsewhere_is_refused_and_not_begun_anew(stub: Stub) -> None:
    with pytest.raises(BenchError, match="prefill"):
        list(OpenAIBackend("m", retries=0).generate([Request("a", prefill="Rating: ")]))
    assert not stub.requests


# A server that asks for other parameters


def test_a_model_that_wants_its_limit_under_another_name_gets_it(stub: Stub) -> None:
    said = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."

    def behave(number: int, prompt: str) -> Reply:
        return refusal(400, said) if "max_tokens" in stub.requests[-1] else well(number, prompt)

    stub.behave = behave
    assert None not in [verdict.value for verdict in judged(10, workers=1).values()]
    assert len(stub.requests) == 11
    assert stub.requests[-1]["max_completion_tokens"] == 256


@pytest.mark.slow
def test_weighted_ratings_use_the_odds_where_they_come_and_say_so(stub: Stub, tmp_path: Path) -> None:
    odds = {"0": math.log(0.2), "1": math.log(0.2), "2": math.log(0.4), "3": math.log(0.2)}
    tokens = [("Rating: [[", {}), ("2", odds), ("]]", {})]
    stub.behave = lambda number, prompt: answer("Rating: [[2]]", tokens if axis_of(prompt) != "fluency" else None)
    data = records(run("-p", "openai.weighted=true", concepts=1))[0]
    assert {request["top_logprobs"] for request in stub.requests} == {20}
    for sample in data["samples"]:
        assert sample["ratings"]["concept"] == sample["ratings"]["instruction"] == 1.25  # (0.2 + 2 * 0.4) / 0.8
        assert sample["ratings"]["fluency"] == 2
    reasons = Counter(row["row"]["reason"].split(":")[0] for row in judgements(tmp_path))
    assert reasons == {"weighted": 10, "as written": 5}
    assert data["judging"]["now"]["read"] == {"weighted": 10, "written": 5}


def test_a_server_that_refuses_to_give_odds_is_read_as_it_writes(stub: Stub) -> None:
    def behave(number: int, prompt: str) -> Reply:
        return refusal(400, "logprobs is not supported") if "logprobs" in stub.requests[-1] else well(number, prompt)

    stub.behave = behave
    found = judged(10, workers=1, weighted=True)
    assert [found[i].value for i in range(10)] == [rated(p) for p in stub.prompts()[1:]]
    assert all("no log-probabilities" in verdict.reason for verdict in found.values())
    assert len(stub.requests) == 11


# Tokens and money


@pytest.mark.slow
def test_tokens_money_and_the_served_model_are_counted(stub: Stub, tmp_path: Path) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 40}}
    stub.behave = lambda number, prompt: answer("Rating: [[1]]", usage=usage, model=f"m-{number % 2}")
    words = ("-p", "openai.price=2,8")
    now = records(run(*words))[0]["judging"]["now"]
    assert now["answers"] == ASKED
    assert (now["prompt_tokens"], now["cached_tokens"], now["tokens"]) == (100 * ASKED, 40 * ASKED, 10 * ASKED)
    assert now["dollars"] == pytest.approx(ASKED * (100 * 2 + 10 * 8) / 1e6)
    assert now["served"] == ["m-0", "m-1"]
    assert now["seconds"] > 0
    more = records(run(*words, methods="none,prompt"))[1]["judging"]  # the same ratings are not paid again
    assert more["now"]["answers"] == len(stub.requests) - ASKED
    assert more["ever"]["answers"] == len(stub.requests)
    assert more["ever"]["dollars"] == pytest.approx(len(stub.requests) * (100 * 2 + 10 * 8) / 1e6)
    unpriced = records(run(judge="another"))[0]["judging"]["now"]
    assert unpriced["dollars"] is None
    assert unpriced["tokens"] == 10 * ASKED


def test_money_is_no_part_of_the_identity(stub: Stub) -> None:
    def run_id(*words: str) -> str:
        return str(json.loads(run("--dry-run", *words).stdout)["runs"][0]["id"])

    priced = ("-p", "openai.price=1,2", "--max-cost", "5", "--max-unscored", "0.5", "-p", "openai.timeout=3")
    assert run_id() == run_id(*priced) == run_id("-p", "openai.batch=true")
    assert run_id() != run_id("-p", "openai.weighted=true")


@pytest.mark.slow
def test_asking_stops_before_it_costs_too_much_and_goes_on_with_more(stub: Stub, tmp_path: Path) -> None:
    """The server bills what a request could cost at most: even so the limit holds."""

    def behave(number: int, prompt: str) -> Reply:
        usage = {"prompt_tokens": len(prompt.encode()), "completion_tokens": 256}
        return answer("Rating: [[1]]", usage=usage)

    stub.behave = behave
    words = ("-p", "openai.price=1,1", "-p", "openai.workers=3")
    one_line(run("--max-cost", "0.012", *words), "--max-cost $0.012", "larger --max-cost", "goes on from there")
    billed = sum((len(p.encode()) + 256) / 1e6 for p in stub.prompts())
    most = max(len(p.encode()) + 64 + 256 for p in stub.prompts()) / 1e6
    assert 0.012 - 3 * most < billed <= 0.012
    kept = len(judgements(tmp_path))
    assert kept == len(stub.requests) > 3
    before = len(stub.requests)
    data = records(run("--max-cost", "1", *words))[0]
    assert len(stub.requests) - before == ASKED - kept
    assert data["judging"]["now"]["answers"] == ASKED - kept
    assert data["judging"]["ever"]["answers"] == ASKED
    assert twice(stub) == []


def test_a_limit_needs_a_price(stub: Stub) -> None:
    result = run("--max-cost", "1")
    assert result.exit_code == 2
    assert "openai.price=IN,OUT" in result.stderr
    assert run("--max-cost", "1", "--dry-run", judge="gpt-4o-mini").exit_code == 0
    assert run("--max-cost", "0").exit_code == 2
    assert run("-p", "openai.price=1").exit_code == 2
    assert run("-p", "openai.price=1,-2").exit_code == 2
    writer = run("--max-cost", "1", "-p", "openai.price=1,2", "--prompter", "openai:w", methods="prompt-engineered")
    assert writer.exit_code == 2
    assert "prompter w" in writer.stderr
    assert stub.requests == []


def test_a_plan_says_what_the_judge_will_take(stub: Stub) -> None:
    result = run("--dry-run", judge="gpt-4o-mini-2024-07-18")
    judging = json.loads(result.stdout)["judging"]
    ratings = json.loads(result.stdout)["total"]["ratings"]
    assert judging["tokens"] == 256 * ratings
    assert judging["dollars"] == pytest.approx(
        (judging["prompt_tokens"] * 0.15 + judging["tokens"] * 0.6) / 1e6, abs=1e-4
    )
    assert f"at most {judging['tokens']:,} written" in result.stderr
    half = json.loads(run("--dry-run", "-p", "openai.batch=true", judge="gpt-4o-mini").stdout)["judging"]
    assert half["dollars"] == pytest.approx(judging["dollars"] / 2, abs=1e-4)
    assert "no price is known" in run("--dry-run").stderr
    assert "over --max-cost" in run("--dry-run", "--max-cost", "0.0001", judge="gpt-4o-mini").stderr
    assert stub.requests == []


def test_prices_are_those_of_the_model_or_of_what_it_is_a_version_of() -> None:
    assert price_of("gpt-4o-mini-2024-07-18") == price_of("gpt-4o-mini") == PRICES["gpt-4o-mini"]
    assert price_of("gpt-4o-mini-tuned") is None
    assert price_of("gpt-4o", (0, 0)) == Price(0, 0, 0)
    assert all(p.cached <= p.read <= p.write and p.as_of for p in PRICES.values())
    assert Price(2.0, 8.0, 0.5).of(1_000_000, 500_000, 400_000) == pytest.approx(0.6 * 2 + 0.4 * 0.5 + 0.5 * 8)


@pytest.mark.parametrize("what", ["a socket that hangs", "half of the JSON", "an answer without choices"])
def test_what_may_have_been_billed_counts_against_the_limit(stub: Stub, what: str) -> None:
    """A request without a readable answer may have been answered and billed on the other side."""
    stub.behave = PASSING[what]
    judge = LLMJudge("m", retries=0, timeout=0.5, price=(1.0, 1.0), workers=1)
    purse = SpendingLimit(10.0)
    judge.fund(purse)
    found = dict(judge.rate(items(1)))
    assert found[0].transient
    most = (len(stub.prompts()[0].encode()) + 64 + 256) / 1e6
    assert purse.gone == pytest.approx(judge.usage()["dollars_unsure"]) == pytest.approx(most)
    assert purse.held == pytest.approx(0)


def test_a_purse_is_not_overdrawn_by_many_at_once() -> None:
    from concurrent.futures import ThreadPoolExecutor

    purse = SpendingLimit(1.0)

    def spend(_: int) -> bool:
        if not purse.hold(0.01):
            return False
        assert purse.gone + purse.held <= 1.0 + 1e-9
        purse.settle(0.01, 0.005)
        return True

    with ThreadPoolExecutor(16) as pool:
        done = sum(pool.map(spend, range(1000)))
    assert purse.gone == pytest.approx(0.005 * done)
    assert 0.98 <= purse.gone <= 1.0


# The key


@pytest.mark.slow
def test_the_key_is_in_no_file_and_no_message(
    stub: Stub, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that echoes it in errors, in replies and as its own name; all logs on."""
    caplog.set_level("DEBUG")
    monkeypatch.setenv("OPENAI_LOG", "debug")
    echo = {
        0: lambda prompt: refusal(429, f"Slow down, {KEY}"),
        1: lambda prompt: answer(f"Your key is {KEY}.\nRating: [[1]]", model=f"model-for-{KEY}"),
        2: lambda prompt: answer(f"I cannot rate for {KEY}."),
        3: lambda prompt: error(500, f"<html>{KEY}</html>", "text/html"),
        4: lambda prompt: well(0, prompt),
    }
    stub.behave = lambda number, prompt: echo[sum(prompt.encode()) % 5](prompt)
    results = [run(*FAST, methods="none,prompt")]
    stub.behave = lambda number, prompt: refusal(401, f"Incorrect API key provided: {KEY}")
    results += [run(*FAST, concepts=3), run("-p", "openai.batch=true", concepts=3, judge="b")]
    stub.behave = well
    results += [run(*FAST, concepts=3), bench("show", "none"), bench("list", "runs")]
    assert stub.keys == {f"Bearer {KEY}"}
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 5
    for path in written:
        assert KEY.encode() not in path.read_bytes(), path
    for result in results:
        assert KEY not in result.stdout + result.stderr
    assert KEY not in caplog.text
    judge = LLMJudge("m")
    _ = judge.backend.client
    assert KEY not in repr(judge) + repr(judge.backend) + repr(vars(judge.backend)) + repr(judge.fingerprint())
    assert any("[key]" in row["row"]["raw"] for row in judgements(tmp_path))


def test_a_password_in_the_address_is_not_shown(stub: Stub) -> None:
    address = stub.url.replace("//", "//user:a-password@")
    stub.behave = lambda number, prompt: refusal(404, "nothing here")
    line = one_line(run("-p", f"openai.base_url={address}"), "nothing here", "at http://127.0.0.1")
    assert "a-password" not in line


def test_a_key_that_is_a_common_word_changes_no_reply(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")
    stub.behave = lambda number, prompt: answer("The hall is EMPTY.\nRating: [[1]]")
    assert judged(1)[0].raw.startswith("The hall is EMPTY.")


# Through the cache


def test_what_fills_a_rubric_alike_is_rated_once(stub: Stub, tmp_path: Path) -> None:
    """Fluency sees the text alone: the same text under another instruction shares its rating."""
    one = Item("fluency", Concept("a", "ships"), "Tell me.", "A text.")
    two = Item("fluency", Concept("b", "bread"), "Ask me.", "A text.")
    three = Item("concept", Concept("a", "ships"), "Tell me.", "A text.")
    kept = Rows(tmp_path / "rows")
    found = rate(LLMJudge("m"), [one, two, three], kept, lambda steps: None)
    kept.close()
    assert len(stub.requests) == 2
    assert found[0] == found[1]


def test_half_of_a_surrogate_pair_can_be_rated(stub: Stub) -> None:
    odd = Item("fluency", Concept("c", "ships"), "Tell me.", "A broken \ud83d character.")
    assert dict(LLMJudge("m").rate([odd]))[0].value is not None


def test_parameters_that_cannot_be_are_refused(stub: Stub) -> None:
    for word in ("workers=0", "retries=-1", "timeout=0", "poll=0"):
        result = run("--dry-run", "-p", f"openai.{word}")
        assert result.exit_code == 2, word
        assert word.split("=")[0] in result.stderr
    with pytest.raises(UsageError):
        LLMJudge("")


# What is asked before anything is spent


@pytest.mark.parametrize(
    "reply", [refusal(401, "Incorrect key"), refusal(404, "no such model"), refusal(400, "unknown field")]
)
def test_a_wrong_key_or_model_ends_the_run_before_its_first_fit(stub: Stub, tmp_path: Path, reply: Reply) -> None:
    stub.first = reply
    one_line(run(), json.loads(reply[1])["error"]["message"])
    assert (stub.probed, stub.requests) == (1, [])
    assert not list((tmp_path / "cache").rglob("fit.safetensors"))


def test_a_server_that_is_not_there_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    one_line(run(), "no connection to judge-model at http://127.0.0.1:9/v1")
    assert not list((tmp_path / "cache").rglob("fit.safetensors"))


@pytest.mark.parametrize("reply", [error(503), error(429), error(200, "not JSON")])
def test_a_busy_server_is_asked_all_the_same(stub: Stub, reply: Reply) -> None:
    stub.first = reply
    assert records(run())[0]["counts"]["unscored"] == 0
    assert stub.probed == 1
    run("--dry-run")
    assert stub.probed == 1
