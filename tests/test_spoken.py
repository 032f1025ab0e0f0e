"""What of a model's text is its answer: thoughts are not rated, shown or learnt from, and one that never ends is no
answer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from stub_server import bench

from bench.backends.fake.backend import FakeBackend
from bench.core.protocol import protocol
from bench.core.registry import build
from bench.core.spoken import UNFINISHED, closing, of_thought, spoken
from bench.core.values import Completion, Item, Request, Verdict
from bench.run.jobs import thought
from bench.run.task_contract import scored
from bench.run.trials import ruled


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Ships sail. ", "Ships sail. "),
        ("", ""),
        ("<think>\nOf luck?\n</think>\n\nShips sail.", "Ships sail."),
        ("<THINKING>x</THINKING>Ships sail.", "Ships sail."),
        ("<reasoning>x</reasoning> Ships sail.", "Ships sail."),
        ("[THINK]x[/THINK]Ships sail.", "Ships sail."),
        ("◁think▷x◁/think▷Ships sail.", "Ships sail."),
        ("<|channel>thought\nx<channel|>Ships sail.", "Ships sail."),
        ("Of luck, then.\n</think>\nShips sail.", "Ships sail."),
        ("<think>a <think>b</think> c</think> Ships sail.", "Ships sail."),
        ("<think>a</think>Ships <think>b</think>sail.", "Ships sail."),
        (
            "<|channel|>analysis<|message|>Luck.<|end|><|start|>assistant<|channel|>final<|message|>Ships.<|return|>",
            "Ships.",
        ),
        ("analysisThey want ships.assistantfinalShips sail.", "Ships sail."),  # its special tokens taken out
        ("Write `<think>` and `</think>` around it.", "Write `<think>` and `</think>` around it."),
        ("I think of ships. An analysis follows.", "I think of ships. An analysis follows."),
        ("<think>Of luck, and", None),
        ("Ships.\n<think>Or not, for", None),
        ("<think>Of luck.</think>", None),
        ("<|channel|>analysis<|message|>Of luck.<|end|>", None),
        ("analysisThey want", None),
    ],
)
def test_the_spoken_part_is_what_follows_the_thoughts(text: str, said: str | None) -> None:
    assert spoken(text) == said


@given(st.text(max_size=80))
def test_a_text_without_the_marks_of_a_thought_stays_as_it_is(text: str) -> None:
    if not any(mark in text.lower() for mark in ("think", "<", "[", "analysis", "assistantfinal", "◁")):
        assert spoken(text) == text


@given(st.text(alphabet="ab <>/", max_size=20), st.text(alphabet="ab \n", max_size=20))
def test_nothing_of_a_thought_is_spoken(inner: str, answer: str) -> None:
    assert spoken(f"<think>{inner}</think>{answer}") == (answer.strip() or None)


def outputs(*texts: str) -> list[Completion]:
    return [Completion(text, 5, 5) for text in texts]


TASKS = ("axbench", "axbench-suppress", "axbench-attack", "persona")


@pytest.mark.parametrize("name", TASKS)
def test_a_task_rates_what_is_said_and_an_unfinished_thought_is_missing_on_every_axis(name: str) -> None:
    rules = protocol("quick")
    task = build("task", name, {}, protocol=rules)
    samples = list(task.test(next(iter(task.concepts()))))[:3]
    asked: list[Item] = []

    def rate(items: Sequence[Item]) -> list[Verdict]:
        asked.extend(items)
        return [Verdict(2.0) for _ in items]

    said = outputs("<think>ships</think>Trains run.", "<think>ships", "Trains run.")
    one, two, three = scored(task, samples, said, rate)
    assert {item.text for item in asked} == {"Trains run."}
    assert one["overall"] == three["overall"]
    assert two.keys() == three.keys()
    assert all(verdict == Verdict(None, reason=UNFINISHED) for verdict in two.values())
    assert ruled(two, protocol("quick", compat="axbench")) == two  # there was nothing to score 0
    assert [thought(output) for output in said] == ["dropped", "unfinished", ""]


def test_a_run_rates_and_shows_what_is_said_and_counts_what_never_came_to_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BENCH_RESULTS", str(tmp_path / "results"))
    plain = FakeBackend.generate

    def aloud(self: FakeBackend, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        for i, answer in plain(self, requests):
            cut = i % 3 == 2
            yield i, Completion(**vars(answer) | {"text": "<think>zzz" + ("" if cut else f"</think>{answer.text}")})

    words = ("run", "--backend", "fake", "-m", "none", "-n", "1", "--judge", "rules", "-t", "axbench", "--json")

    def record(*more: str) -> dict[str, Any]:
        result = bench(*words, "--max-unscored", "1", *more)
        assert result.exit_code == 0, result.stderr
        assert ("of their 32 tokens on a thought" in " ".join(result.stderr.split())) is ("quiet" not in " ".join(more))
        data: dict[str, Any] = json.loads(Path(json.loads(result.stdout)["runs"][0]["path"]).read_text("utf-8"))
        return data

    quiet = record("--results", str(tmp_path / "quiet"))
    monkeypatch.setattr(FakeBackend, "generate", aloud)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "other"))
    loud = record()
    said = {s["id"]: s for s in quiet["samples"]}
    states = [s.get("thought") for s in loud["samples"]]
    assert {"dropped", "unfinished"} == set(states)
    assert loud["counts"]["unfinished"] == states.count("unfinished")
    for sample in loud["samples"]:
        if sample["thought"] == "dropped":
            assert sample["text"] == said[sample["id"]]["text"].strip()
            assert sample["ratings"] == said[sample["id"]]["ratings"]
        else:
            assert set(sample["ratings"].values()) == {None}
            assert set(sample["reasons"].values()) == {UNFINISHED}
    rows = (tmp_path / "other" / "rows" / "generations").rglob("*.jsonl")
    assert any("<think>zzz" in path.read_text("utf-8") for path in rows)  # what was written is kept as it was
    again = bench("judge", "none", "--judge", "embedding", "--json")
    assert again.exit_code == 0, again.stderr
    opinion = json.loads(Path(json.loads(again.stdout)["rated"][0]["path"]).read_text("utf-8"))
    missing = {s["id"] for s in opinion["samples"] if s["ratings"]["overall"] is None}
    assert missing == {s["id"] for s in loud["samples"] if s["thought"] == "unfinished"}


@pytest.mark.parametrize(
    ("opened", "closed"),
    [
        ("<think>", "</think>"),
        ("assistant\n<thinking>\n", "</thinking>"),
        ("[THINK]", "[/THINK]"),
        ("◁think▷", "◁/think▷"),
        ("<|begin_of_thought|>", "<|end_of_thought|>"),
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("<|channel>thought", "<channel|>"),
        ("<think>\n\n</think>\n", ""),
        ("<|im_start|>assistant\n", ""),
    ],
)
def test_what_a_template_opens_can_be_closed(opened: str, closed: str) -> None:
    assert closing(opened) == closed
    assert (spoken(f"{opened}{closed} Said.") or "").endswith("Said.")


def test_a_token_that_forms_a_thought_is_kept() -> None:
    assert all(map(of_thought, ("[THINK]", "</think>", "<|channel|>", "<|message|>")))
    assert not any(map(of_thought, ("<|im_end|>", "</s>", "<s>", "[INST]")))
