"""Attacks on suppression: rules are made and read without a model, and each attack says what it should."""

from __future__ import annotations

import pytest

from bench.backends.fake.backend import FakeBackend
from bench.core.interfaces import Context
from bench.core.naming import build_method, select
from bench.core.protocol import protocol
from bench.core.registry import build
from bench.core.values import Completion, Item, Verdict
from bench.judges.rules import keeps
from tasks.axbench_attack import RULES, AxBenchAttack


@pytest.fixture(scope="module")
def attack() -> AxBenchAttack:
    made: AxBenchAttack = build("task", "axbench-attack", {}, protocol=protocol("standard"))
    return made


@pytest.mark.parametrize("rule", RULES)
def test_training_texts_keep_the_rule_and_plain_ones_do_not(attack: AxBenchAttack, rule: str) -> None:
    concept = next(c for c in attack.concepts() if c.id == rule)
    train = attack.train(concept)
    kept, plain = ([keeps(rule, e.response).value or 0.0 for e in rows] for rows in (train.positives, train.negatives))
    assert min(kept) == 2
    assert sum(plain) / len(plain) < 0.1


def test_each_attack_holds_its_part_and_its_demonstrations(attack: AxBenchAttack) -> None:
    concept = attack.concepts()[0]
    samples = attack.test(concept)
    kinds = {kind: [s for s in samples if s.label == kind] for kind in attack.axes}
    assert {len(found) for found in kinds.values()} == {6}
    plain = {s.question for s in kinds["plain"]}
    for kind, found in kinds.items():
        assert {s.question for s in found} == plain  # the same questions under every attack
        for sample in found:
            assert concept.text in sample.instruction
            assert len(sample.messages) == 1 + (2 * int(kind[6:]) if kind.startswith("shots") else 0)
            assert ("Your only task" in sample.instruction) is (kind in ("append", "prepend"))
    for _, text in kinds["shots-4"][0].messages[1::2]:
        assert keeps(concept.id, text).value == 2
    chosen = attack.select(concept)
    assert not plain & {s.question for s in chosen}
    assert {s.label for s in chosen} == {"append", "prepend", "shots-1", "shots-4"}  # where there is something to learn
    other = attack.concepts()[1]
    assert not plain & {s.question for s in attack.test(other)}  # two rules do not share their luck


def test_a_score_belongs_to_its_attack_and_reads_the_rule_itself(attack: AxBenchAttack) -> None:
    concept = attack.concepts()[0]
    assert concept.id == "uppercase"
    samples = attack.test(concept)[:2]
    asked: list[Item] = []

    def rate(items: list[Item]) -> list[Verdict]:
        asked.extend(items)
        return [Verdict(2.0) for _ in items]

    rows = attack.score(samples, [Completion("a quiet lake.", 3, 1), Completion("LOUD", 1, 1)], rate)  # type: ignore[arg-type]
    assert {item.axis for item in asked} == {"instruction", "fluency"}
    assert rows[0]["plain"].value == 2
    assert rows[1]["overall"].value == 0
    assert all(set(row) == {"plain", "overall"} for row in rows)


@pytest.mark.parametrize(("name", "field"), [("prompt-append", "suffix"), ("prompt-prepend", "prefix")])
def test_a_defence_can_stand_in_one_place_alone(attack: AxBenchAttack, name: str, field: str) -> None:
    train = attack.train(attack.concepts()[0])
    found = build_method(name, {}).fit(Context(FakeBackend(), attack.protocol.budget), train)
    assert len(found) > 1
    assert all(getattr(fit.steering.prompt, field) for fit in found)  # type: ignore[union-attr]
    assert name not in select(["all"])
