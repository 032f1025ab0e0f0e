"""The Batch API against a server on this machine: one file up, one batch, and never the same request twice."""

from __future__ import annotations

import json
from typing import Any

import pytest
from stub_server import Reply, Stub, answer, error, judgements, one_line, rated, records, refusal, run, well

from bench.backends.hosted import batch_api
from bench.core.errors import StopRun
from bench.core.money import SpendingLimit
from bench.core.values import Concept, Item, Verdict
from bench.judges.llm import LLMJudge

BATCH = ("-p", "openai.batch=true", "-p", "openai.poll=0.01")


def items(count: int) -> list[Item]:
    return [Item("fluency", Concept("c", "ships"), "Tell me.", f"Text number {i}.") for i in range(count)]


def judge(**fields: Any) -> LLMJudge:
    return LLMJudge("m", batch=True, poll=0.01, **fields)


def values(found: dict[int, Verdict]) -> list[float | None]:
    return [found[i].value for i in sorted(found)]


def sent(stub: Stub) -> list[str]:
    """Every request that was ever part of a batch, by what it asks."""
    lines = [line for batch in stub.batches.values() for line in stub.files[batch["input_file_id"]].splitlines()]
    return [json.loads(line)["body"]["messages"][0]["content"] for line in lines]


@pytest.mark.slow
def test_a_run_through_batches_gives_the_ratings_of_one_without(stub: Stub) -> None:
    stub.statuses = lambda seen: ["validating", "in_progress", "finalizing"][seen - 1] if seen < 4 else "completed"
    data = records(run(*BATCH, "-p", "openai.price=2,8"))[0]
    assert len(stub.batches) == 2  # select, then test
    assert {request["path"] for request in stub.requests} == {"batch"}
    assert {batch["endpoint"] for batch in stub.batches.values()} == {"/v1/chat/completions"}
    now = data["judging"]["now"]
    assert now["dollars"] == pytest.approx(30 * (5 * 2 + 7 * 8) / 1e6 / 2)  # half the price
    plain = records(run("--seed", "0", methods="none"))[0]
    assert plain["status"] == "complete"
    assert [s["ratings"] for s in plain["samples"]] == [s["ratings"] for s in data["samples"]]
    assert plain["id"] == data["id"]  # how it was asked is no part of what it is


@pytest.mark.slow
def test_a_batch_that_runs_is_picked_up_by_the_same_command(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    stub.statuses = lambda seen: "in_progress"

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(batch_api.time, "sleep", interrupted)
        result = run(*BATCH)
    assert result.exit_code == 130
    assert "the same command resumes" in result.stderr
    assert list(stub.batches) == ["batch-0"]
    stub.statuses = lambda seen: "completed"
    data = records(run(*BATCH))[0]
    assert data["counts"]["unscored"] == 0
    assert len(stub.batches) == 2  # the test split's beside the one that ran
    assert len(set(sent(stub))) == len(sent(stub)) == 30


@pytest.mark.slow
def test_a_process_killed_while_it_reads_does_not_pay_again(stub: Stub) -> None:
    """Some ratings of a finished batch were kept, the rest not: the next command asks for the rest alone."""
    reading = judge().rate(items(20))
    first = [next(reading)[0] for _ in range(5)]
    reading.close()
    rest = [item for i, item in enumerate(items(20)) if i not in first]
    found = dict(judge().rate(rest))
    assert None not in values(found)
    assert len(stub.batches) == 1


def test_new_requests_join_those_of_a_batch_that_runs(stub: Stub) -> None:
    list(judge().rate(items(10)))
    found = dict(judge().rate(items(15)))
    assert len(found) == 15
    assert None not in values(found)
    assert len(sent(stub)) == 15


def test_what_an_expired_batch_did_not_reach_is_asked_again(stub: Stub) -> None:
    stub.statuses = lambda seen: "expired"
    stub.behave = lambda number, prompt: well(number, prompt) if number <= 6 else None
    found = dict(judge().rate(items(10)))
    lost = [verdict for verdict in found.values() if verdict.value is None]
    assert len(lost) == 4
    assert all(verdict.transient and "expired" in verdict.reason for verdict in lost)
    stub.statuses, stub.behave = lambda seen: "completed", well
    missing = [item for i, item in enumerate(items(10)) if found[i].value is None]
    again = dict(judge().rate(missing))
    assert None not in values(again)
    assert len(stub.batches) == 2
    assert len(sent(stub)) == 14


def test_errors_within_a_batch_are_told_apart(stub: Stub) -> None:
    def behave(number: int, prompt: str) -> Reply:
        if number == 2:
            return refusal(400, "maximum context length is 10 tokens", "context_length_exceeded")
        return error(500) if number == 3 else well(number, prompt)

    stub.behave = behave
    found = dict(judge().rate(items(5)))
    assert [found[i].transient for i in range(5)] == [False, False, True, False, False]
    assert [value is None for value in values(found)] == [False, True, True, False, False]


def test_a_batch_that_the_service_lost_is_made_anew(stub: Stub) -> None:
    list(judge().rate(items(4)))
    stub.batches.clear()
    lost = dict(judge().rate(items(4)))
    assert all(verdict.transient and "lost" in verdict.reason for verdict in lost.values())
    assert None not in values(dict(judge().rate(items(4))))


@pytest.mark.slow
def test_a_batch_that_is_refused_ends_the_run_in_one_line(stub: Stub) -> None:
    stub.statuses = lambda seen: "failed"
    one_line(run(*BATCH), "its batch has failed")
    stub.statuses = lambda seen: "completed"
    assert records(run(*BATCH))[0]["counts"]["unscored"] == 0


def test_a_torn_line_leaves_its_request_missing(stub: Stub) -> None:
    upload = judge()
    reading = upload.rate(items(3))
    whole = stub.look

    def torn(name: str) -> Reply:
        reply = whole(name)
        stub.files[f"{name}-output"] = stub.files[f"{name}-output"][:-40]
        return reply

    stub.look = torn  # type: ignore[method-assign]
    found = dict(reading)
    assert sorted(value is None for value in values(found)) == [False, False, True]


def test_no_more_is_sent_than_the_money_allows(stub: Stub) -> None:
    made = judge(price=(1.0, 1.0))
    made.fund(SpendingLimit(0.003))
    found: dict[int, Verdict] = {}
    with pytest.raises(StopRun, match="max-cost"):
        found.update(made.rate(items(50)))
    most = max(len(prompt.encode()) + 64 + 256 for prompt in sent(stub)) / 1e6 / 2
    assert 0 < len(found) == len(sent(stub)) <= 0.003 / most + 1
    assert made.backend.purse.held == pytest.approx(0)
    assert made.backend.purse.gone == pytest.approx(len(found) * 12 / 1e6 / 2)


def test_ratings_from_batches_belong_to_their_items(stub: Stub) -> None:
    found = dict(judge().rate(items(30)))
    for i in range(30):
        prompt = next(p for p in sent(stub) if f"Text number {i}.\n" in p)
        assert found[i].value == rated(prompt)


def test_large_files_are_split(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_api, "MOST", 4)
    assert None not in values(dict(judge().rate(items(10))))
    assert len(stub.batches) == 3
    monkeypatch.setattr(batch_api, "BYTES", 100)  # less than one request: it goes alone
    assert None not in values(dict(judge(tokens=99).rate(items(5))))
    assert len(stub.batches) == 3 + 5


def test_weighted_ratings_come_through_batches(stub: Stub) -> None:
    tokens: list[tuple[str, dict[str, float]]] = [("Rating: ", {}), ("2", {"2": -0.7, "0": -0.7})]
    stub.behave = lambda number, prompt: answer("Rating: 2", tokens)
    assert values(dict(judge(weighted=True).rate(items(3)))) == [pytest.approx(1.0)] * 3


def test_nothing_is_kept_of_a_batch_in_the_judgements_but_ratings(stub: Stub, tmp_path: Any) -> None:
    stub.behave = lambda number, prompt: error(500) if number % 2 else well(number, prompt)
    data = records(run(*BATCH), 1)[0]
    assert data["counts"]["unanswered"] == data["counts"]["unscored"] == 15
    assert len(judgements(tmp_path)) == 15
