"""Dialogues: which turns a prompt stands around, where edits begin, how turns follow each other, and what is made of
them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.backends.fake.backend import FakeBackend
from bench.backends.hf.backend import HFBackend
from bench.core.kinds import Add
from bench.core.protocol import protocol
from bench.core.registry import build
from bench.core.steering import Mix, Prompt, Steering
from bench.core.values import Request, Sample, Sampling
from bench.results import dialogues
from bench.results.runs import Run
from bench.run.plan import Options, make
from bench.run.session import execute
from bench.run.trials import continued, repeated, request, seed_of
from tasks.persistence import Persistence, scripts

CHAT = (("user", "one"), ("assistant", "yes"), ("user", "two"), ("assistant", "no"), ("user", "three"))


@pytest.mark.parametrize(
    ("turns", "said"),
    [("last", ["one", "two", "(three)"]), ("first", ["(one)", "two", "three"]), ("all", ["(one)", "(two)", "(three)"])],
)
def test_a_prompt_stands_around_the_turns_it_names(turns: Any, said: list[str]) -> None:
    edit = Prompt("Be kind.", "(", ")", (("q", "a"),))
    asked = edit.apply(CHAT, turns)
    assert asked[:3] == (("system", "Be kind."), ("user", "q"), ("assistant", "a"))
    assert [text for role, text in asked[3:] if role == "user"] == said
    assert [text for role, text in asked[3:] if role == "assistant"] == ["yes", "no"]


@pytest.mark.parametrize("preset", ["quick", "standard"])
def test_an_instruction_begins_one_dialogue_whatever_the_preset(preset: str) -> None:
    made: Persistence = build("task", "persistence", {}, protocol=protocol(preset))
    more: Persistence = build("task", "persistence", {"answers": 3}, protocol=protocol(preset))
    assert (made.protocol.answers, more.protocol.answers) == (1, 3)
    assert replace(more.protocol, answers=1) == made.protocol


def test_a_later_turn_is_asked_with_the_chat_before_it(task: Persistence) -> None:
    concept = task.concepts()[0]
    samples = {sample.id: sample for sample in task.test(concept)}
    second = samples[f"{concept.id}/test/0.2"]
    assert second.follows == f"{concept.id}/test/0.1"
    assert repeated(second, 2).follows == f"{concept.id}/test/0.1#2"
    first = samples[second.follows]
    asked = continued(second, (*first.messages, ("assistant", "Well.")))
    assert asked.messages == (*first.messages, ("assistant", "Well."), ("user", scripts()[0][0]))
    mixed = Steering(Prompt(prefix="P "), mix=Mix(Prompt(prefix="N "), 2.0))
    made = request(asked, mixed, task.protocol)
    assert made.steering is not None
    assert made.steering.mix is not None
    for edit, word in ((made.steering.prompt, "P "), (made.steering.mix.against, "N ")):
        assert [text.startswith(word) for role, text in edit.apply(asked.messages, made.turns) if role == "user"] == [
            True,
            False,
        ]


@pytest.fixture
def task() -> Persistence:
    made: Persistence = build("task", "persistence", {"turns": 3}, protocol=protocol("quick"))
    return made


def test_every_script_fits_the_longest_dialogue_and_no_line_was_taught(task: Persistence) -> None:
    assert {len(script) for script in scripts()} == {9}
    lines = [line for script in scripts() for line in script]
    assert len(set(lines)) == len(lines)
    assert not set(lines) & task.taught()
    asked = [sample for sample in task.test(task.concepts()[0]) if sample.turn == 1]
    assert len(asked) == task.protocol.test


def test_settled_turns_are_read_and_not_edited(any_lm: HFBackend) -> None:
    """Of a two-turn chat only what stands behind the first answer is edited; a batch gives what rows give."""
    steering = Steering(edits=(Add(layer=1, value=np.full(any_lm.width, 0.5, np.float32)),))
    sampling = Sampling(4, 0.0)
    asked = [
        Request(CHAT[:3], steering, sampling, settled=2),
        Request(CHAT[:3], steering, sampling),
        Request(CHAT[:1], steering, sampling),
        Request(CHAT[:3], Steering(), sampling, settled=2),
    ]
    together = dict(any_lm.generate(asked))
    for i, one in enumerate(asked):
        assert together[i] == dict(any_lm.generate([one]))[0]
    touched = [together[i].positions_edited for i in range(3)]
    assert 0 < touched[0][0] < touched[1][0]
    ids = any_lm.encode(CHAT[:3])
    begin = any_lm.begins(ids, asked[0])
    assert any_lm.header(ids) < begin < len(ids)
    assert touched[1][0] - touched[0][0] == begin - any_lm.header(ids)
    # What is settled is what the bare model reads: the state at its last token is the bare one.
    assert any_lm.begins(ids, asked[1]) == any_lm.header(ids)
    assert any_lm.begins(any_lm.encode(CHAT[:1]), asked[2]) == any_lm.header(any_lm.encode(CHAT[:1]))


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Mapping[str, Any]]:
    """Runs of three turns by the fake engine, by method."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    options = Options(
        ("none", "prompt", "diffmean"), "persistence", backend="fake", judge="likelihood", preset="quick", limit=2,
        params={"persistence.turns": 3},
    )  # fmt: skip
    jobs = execute(make(options), tmp_path / "results")
    assert [job.status for job in jobs] == ["complete"] * 3
    return {job.spec.method: json.loads(job.path.read_text("utf-8")) for job in jobs if job.path}


def test_each_turn_reads_the_answers_before_it(ran: dict[str, Mapping[str, Any]]) -> None:
    """The fake engine's answer depends on all that it is asked, so the same chat must give the same answer."""
    rules = protocol("quick")
    run = ran["none"]
    assert sorted({s["turn"] for s in run["samples"]}) == [1, 2, 3]
    own = dialogues.of(Run(Path("run.json"), run))
    for concept, many in own.items():
        for one in many:
            chat: tuple[tuple[str, str], ...] = ()
            for sample in one:
                chat = (*chat, ("user", sample["instruction"]))
                asked = Sample(sample["id"], build_concept(concept), "test", "generate", chat)
                made = Request(chat, None, rules.sampling, seed_of(asked, rules))
                assert dict(FakeBackend().generate([made]))[0].text == sample["text"]
                chat = (*chat, ("assistant", sample["text"]))


def build_concept(name: str) -> Any:
    from bench.core.values import Concept

    return Concept(name, name)


def test_a_setting_is_picked_once_and_kept(ran: dict[str, Mapping[str, Any]]) -> None:
    """Selection asks single questions; all turns of a concept are answered under what it picked."""
    found = ran["diffmean"]["concepts"]
    for concept in found.values():
        assert concept["picked"]["coefficient"] in {row["coefficient"] for row in concept["select"]}
    assert all(min(s["touched"]) > 0 for s in ran["diffmean"]["samples"])


def sample(concept: str, dialogue: int, turn: int, value: float | None, text: str = "") -> dict[str, Any]:
    name = f"{concept}/test/{dialogue}.{turn}"
    return {"id": name, "concept": concept, "turn": turn, "ratings": {"concept": value}, "text": text}


def test_slopes_means_and_half_lives_are_those_of_the_numbers() -> None:
    rows = [sample("a", 0, t, 2.0 - 0.5 * t) for t in (3, 1, 2)]  # falls by .5 a turn
    rows += [sample("a", 1, t, v) for t, v in ((1, 1.0), (2, None), (3, 1.0))]  # one rating is missing
    rows += [sample("b", 0, t, 0.25 * t) for t in (1, 2, 3)]
    rows += [sample("b", 0, 1, 9.0) | {"id": "b/test/0.1#1"}]  # another answer: a dialogue of its own
    own = dialogues.of(Run(Path("run.json"), {"samples": [*rows, {"id": "c", "concept": "c", "ratings": {}}]}))
    assert [len(many) for many in own.values()] == [2, 2]
    assert [s["turn"] for s in own["a"][0]] == [1, 2, 3]
    assert dialogues.slopes(own, "concept") == {"a": pytest.approx(-0.25), "b": pytest.approx(0.25)}
    turns = dialogues.by_turn(own, "concept")
    assert turns[1] == {"a": 1.25, "b": pytest.approx((0.25 + 9) / 2)}
    assert turns[2] == {"a": 1.0, "b": 0.5}
    assert dialogues.half_life([2.0, 1.5, 0.9, 1.2]) == 3
    assert dialogues.half_life([0.0, 1.0]) is None
    assert dialogues.half_life([1.0, 0.5]) is None


def test_what_repeats_is_what_stood_in_an_earlier_turn() -> None:
    texts = ("the old boat sails out", "The old boat sails home again", "a new day begins here now")
    own = dialogues.of(Run(Path("r"), {"samples": [sample("a", 0, t, 1.0, x) for t, x in enumerate(texts, 1)]}))
    assert dialogues.repeats(own) == {"a": pytest.approx((1 / 3 + 0) / 2)}
    assert dialogues.repeats({"a": [[sample("a", 0, 1, 1.0, "too short")]]}) == {}
