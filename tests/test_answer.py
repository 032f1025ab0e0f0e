"""Steer or prompt: which are compared is decided before the test split, and what is said of them by one rule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.core.errors import BenchError
from bench.report.text import verdict
from bench.report.text.leaderboard import cells
from bench.results import hypotheses
from bench.results.differences import difference
from bench.results.runs import Run
from bench.results.sides import sides, weights
from bench.results.tables import Row, Table, select_score, tables
from bench.results.verdict import Answer, Claim, answers, steered
from bench.stats.significance import Difference, holm, union

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_two_were_registered_or_best_on_the_select_split(committed_tables: list[Table]) -> None:
    made = answers(committed_tables)
    assert {one.table.spec["task"] for one in made} >= {"axbench"}
    for one in made:
        if one.registered:
            named = one.prompt.run.data["registered"]
            assert one.prompt.name == named["prompt"]
            assert one.steering.name in named["steering"]
            continue
        rows = {row.name: row for row in one.table.rows}
        asked = [one.table.spec[part] for part in ("task", "model")]
        rivals = [t for t in committed_tables if [t.spec[part] for part in ("task", "model")] == asked]
        assert len(rows) == max(len(t.rows) for t in rivals)

        def on_select(name: str, rows: dict[str, Row] = rows) -> float:
            return float(np.mean([v for v in rows[name].run.scores("overall", "select").values() if v is not None]))

        prompts = [name for name, row in rows.items() if row.run.prompted and not row.run.dialled]
        trials = one.table.spec["protocol"]["budget"]["trials"]
        known = [
            name
            for name, row in rows.items()
            if row.run.steered and all(len(c["select"]) <= trials for c in row.run.data["concepts"].values())
        ]
        assert on_select(one.prompt.name) == max(map(on_select, prompts))
        assert on_select(one.steering.name) == max(map(on_select, known))
        assert one.difference == difference(one.steering.run, one.prompt.run, units=one.table.concepts)
        assert one.chosen == (sum(rows[name].run.samples_per_prompt == 1 for name in prompts), len(known))


def least(known: Sequence[float]) -> float:
    """Of a claim that nothing missing keeps from being made."""
    return min(p for p in known if not math.isnan(p))


@pytest.mark.slow
def test_a_claim_s_p_is_the_largest_of_its_parts_and_of_both_judges(committed_tables: list[Table]) -> None:
    made = answers(committed_tables)
    asked = []
    for one in made:
        for claim in one.claims:
            controls = {row.name for row in one.table.rows if row.run.method in ("none", "random", "shuffled")}
            assert controls <= set(claim.parts)
            assert set(claim.others) <= set(claim.parts)
        steer, prompt = one.claims[:2]
        assert {steer.word, prompt.word} == {"steer", "prompt"}
        assert any("shuffled" in name for name in steer.parts)
        if steer.missing:
            assert math.isnan(steer.alone)
        else:
            assert steer.alone == max(union(list(found.values())) for found in (steer.parts, steer.others) if found)
        asked.append(least([steer.alone, prompt.alone]))
        asked += [claim.alone for claim in one.claims[2:]]
    corrected = [p for one in made for p in (least([c.p for c in one.claims[:2]]), *(c.p for c in one.claims[2:]))]
    assert corrected == pytest.approx(holm(asked), nan_ok=True)


@pytest.mark.slow
def test_multiple_choice_decides_nothing_by_itself(committed_tables: list[Table]) -> None:
    """What a form of answer alone earns (docs/why/decisions-tasks.md) is no headline."""
    assert "truthfulqa" in {table.spec["task"] for table in committed_tables}
    assert "truthfulqa" not in {one.table.spec["task"] for one in answers(committed_tables)}


@pytest.mark.slow
def test_steering_picked_from_more_settings_than_prompts_get_is_left_out_and_marked(
    table: Table,
) -> None:
    """Five blocks at five coefficients each: the best of 25 leads on the select split, and not on the test split."""
    (one,) = answers([table])
    rows = {row.name: row for row in one.table.rows}
    wide = rows["diffmean layer=select"]
    assert select_score(wide.run) > select_score(one.steering.run)
    assert "25 settings" in cells(one.table, wide)[2]
    trials = table.spec["protocol"]["budget"]["trials"]
    tried = {name: max(len(c["select"]) for c in row.run.data["concepts"].values()) for name, row in rows.items()}
    marked = {row.name for row in one.table.rows if row.run.over_budget}
    assert wide.name in marked
    assert marked == {name for name, number in tried.items() if number > trials}


def gap(mean: float, p: float = 0.001) -> Difference:
    return Difference(mean, mean - 0.1, mean + 0.1, p, 12, 0.1)


def claim(word: str, sign: int, p: float = 0.001, **changed: Any) -> Claim:
    parts = {"rival": gap(0.3 * sign), "none": gap(0.4), "twin": gap(0.4)}
    return replace(Claim(word, f"the {word}", parts, dict(parts), p=p if sign > 0 else 1.0), **changed)


def answer(one: Answer, **changed: Any) -> Answer:
    """A clear lead of steering in everything, with what is changed of it."""
    clear: dict[str, Any] = {
        "difference": gap(0.3),
        "claims": (claim("steer", 1), claim("prompt", -1)),
        "idle": {"prompt": gap(0.2), "steering": gap(0.5)},
        "p_equivalent": 0.9,
        "judged": True,
        "second": gap(0.2),
    }
    return replace(one, **(clear | changed))


LOST = {"difference": gap(-0.3), "claims": (claim("steer", -1), claim("prompt", 1))}
OPEN = {"claims": (claim("steer", 1, p=0.3), claim("prompt", -1))}
WEAK = {"rival": gap(0.3), "none": gap(0.4), "twin": gap(0.1, 0.4)}
PART = {"rival": gap(0.3)}
"""What a second judge rated of it: not all."""
UNSEEN = {"rival": gap(0.1, 0.6), "none": gap(0.4), "twin": gap(0.4)}


def lead(**changed: Any) -> dict[str, Any]:
    """Steering leads the prompt, and something of its claim is wanting."""
    return OPEN | {"claims": (claim("steer", 1, **changed), claim("prompt", -1))}


def idle(prompt: float, p: float) -> dict[str, Any]:
    return OPEN | {"idle": {"prompt": gap(prompt, p), "steering": gap(0.1, 0.3)}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "said", "reason"),
    [
        ({}, "steer", "is above rival, none and twin"),
        (LOST, "prompt", "is above rival, none and twin"),
        ({"judged": False, "claims": (claim("steer", 1, others={}), claim("prompt", -1))}, "steer", "is above"),
        ({"claims": (claim("steer", 1, others={}), claim("prompt", -1))}, "steer (one judge)", "is above"),
        ({"claims": (claim("steer", 1, others=PART), claim("prompt", -1))}, "steer (one judge)", "is above"),
        (LOST | {"claims": (claim("steer", -1), claim("prompt", 1, others={}))}, "prompt (one judge)", "is above"),
        ({"claims": (claim("steer", 1), claim("prompt", -1), claim("combine", 1))}, "combine", "is above"),
        (OPEN, "undecided", "not after correction"),
        (OPEN | {"difference": gap(0.3, 0.2)}, "undecided", "not beyond chance"),
        (OPEN | {"difference": gap(0.3, math.nan)}, "undecided", "not beyond chance"),
        (OPEN | {"difference": replace(gap(0.3, math.nan), piled=True)}, "undecided", "too few do for a test"),
        (lead(p=math.nan, missing="its twin"), "undecided", "its twin did not run"),
        (lead(p=0.4, parts=WEAK), "undecided", "not shown to be above twin"),
        (lead(p=0.6, others=UNSEEN), "undecided", "the second does not see it above rival"),
        (idle(-0.1, 0.4), "neither beats doing nothing", "are above none by less than"),
        (idle(-0.4, 0.001), "neither beats doing nothing", "are above none by less than"),
        (idle(0.5, 0.0625), "undecided", "not after correction"),  # five concepts: no p, and a lead all the same
        (OPEN | {"p_equivalent": 0.01}, "equivalent", "lies within"),
        (OPEN | {"p_equivalent": 0.01, "second": None}, "equivalent (one judge)", "lies within"),
        (OPEN | {"p_equivalent": math.nan}, "undecided", ""),
    ],
)  # fmt: skip
def test_what_is_said(committed_tables: list[Table], changed: dict[str, Any], said: str, reason: str) -> None:
    one = answer(answers(committed_tables)[0], **changed)
    assert one.said == said
    assert reason in one.reason


def test_a_claim_without_a_control_or_with_a_missing_p_is_none() -> None:
    assert math.isnan(claim("steer", 1, missing="its twin").alone)
    assert math.isnan(claim("steer", 1, parts={"rival": gap(0.3), "none": gap(0.3, math.nan)}).alone)
    assert claim("steer", 1, parts={"rival": gap(0.3, 0.01), "none": gap(0.3, 0.2)}).alone == 0.2
    assert claim("steer", 1, others={"rival": gap(0.3, 0.6)}).alone == 0.6
    assert claim("steer", 1, others={"rival": gap(-0.3, 0.01)}).alone == 1  # though it has not rated the rest
    assert not claim("steer", 1, others={"rival": gap(0.3)}).seconded


def named(table: Table, registration: Mapping[str, Any] | None, root: Path) -> list[Table]:
    """The table's runs as if they had been made under a registration."""
    runs = [Run(row.run.path, {**row.run.data, "registered": dict(registration or {})}) for row in table.rows]
    return tables(runs)


@pytest.mark.slow
def test_what_was_registered_is_compared_and_nothing_else(table: Table, tmp_path: Path) -> None:
    (tmp_path / hypotheses.FILE).write_text(
        'margin = 0.2\n[tasks.axbench]\nprompt = "prompt-search"\nsteering = ["caa", "lora"]\n', "utf-8"
    )
    model = table.spec["model"]
    assert hypotheses.carried(tmp_path, "axbench-attack", model) == {}
    found = answers(named(table, hypotheses.carried(tmp_path, "axbench", model), tmp_path))
    assert [(one.prompt.name, one.steering.name) for one in found] == [
        ("prompt-search", "caa"),
        ("prompt-search", "lora"),
    ]
    assert all(one.registered for one in found)
    assert found[0].margin == pytest.approx(0.2 * table.scale)
    assert not any(one.registered for one in answers(named(table, None, tmp_path)))
    runs = [row.run.data for row in table.rows]
    mixed = [{**runs[0], "registered": {"prompt": "prompt", "margin": 0.1}}, *runs[1:]]
    assert hypotheses.of(mixed) is None  # one made under another registration, or none


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("margin = 2", "no share of the scale"),
        ("margn = 0.1", "did you mean 'margin'"),
        ("[tasks.axbench]\nprompt = 'prompt'", "name a prompt, and a list of steering methods"),
        ("[tasks.axbench]\nprompt = 'prompt'\nsterring = ['caa']", "did you mean 'steering'"),
        ("[tasks.axbench", "is not a registration of hypotheses"),
        ("tasks = ['axbench']", "tasks is .* not an object"),
        ("[tasks]\naxbench = 5", "tasks.axbench is 5, not an object"),
    ],
)
def test_a_bad_registration_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / hypotheses.FILE).write_text(text, "utf-8")
    with pytest.raises(BenchError, match=message):
        hypotheses.read(tmp_path)


def test_the_best_of_k_is_what_drawing_gives() -> None:
    """Weights against an enumeration of all subsets."""
    from itertools import combinations

    values = np.random.default_rng(3).normal(size=6)  # in order of select score
    for k in range(1, 7):
        drawn = [values[min(chosen)] for chosen in combinations(range(6), k)]
        assert weights(6, k) @ values == pytest.approx(np.mean(drawn))
        assert weights(6, k).sum() == pytest.approx(1)


@pytest.mark.slow
def test_sides_at_equal_numbers(table: Table) -> None:
    found = sides(table, steered(table))
    assert found is not None
    assert found.k == min(found.prompts, found.steering)
    prompts, steering = found.curves
    assert (len(prompts), len(steering)) == (found.prompts, found.steering)
    assert found.difference.mean == pytest.approx(steering[found.k - 1].mean - prompts[found.k - 1].mean)
    whole = max(steered(table), key=lambda row: select_score(row.run))
    assert steering[-1].mean == pytest.approx(whole.estimates["overall"].mean)  # the best of all is the best
    assert 0 < found.p_labels <= 1
    assert sides(table, steered(table)[:1]) is None


def test_without_steering_or_prompts_nothing_is_said(committed_tables: list[Table]) -> None:
    assert answers([t for t in committed_tables if t.kind == "detector"]) == []
    assert verdict.section([]) == []
