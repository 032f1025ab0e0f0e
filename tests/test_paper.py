"""What follows from an interval for an expectation of results/plan.md, and what a rank correlation rests on."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import script

ROOT = Path(__file__).resolve().parents[1]
paper = script("tools/paper.py")


def gap(low: float, high: float) -> object:
    return paper.Gap("diffmean", (low + high) / 2, low, high)


@pytest.mark.parametrize(
    ("ends", "outcome"),
    [
        ([(-0.5, -0.1), (-0.3, 0.05)], "as expected"),
        ([(-0.5, -0.1), (-0.3, 0.2)], "undecided"),
        ([(-0.5, -0.1), (0.01, 0.2)], "refuted"),
        ([], "open"),
    ],
)
def test_no_steering_beats_the_prompt(ends: list[tuple[float, float]], outcome: str) -> None:
    assert paper._none_leads([gap(*one) for one in ends])[1] == outcome


@pytest.mark.parametrize(
    ("ends", "outcome"),
    [([(-0.5, -0.1), (-0.3, -0.05)], "as expected"), ([(-0.5, -0.1), (-0.3, 0.0)], "refuted"), ([], "open")],
)
def test_the_prompt_beats_both(ends: list[tuple[float, float]], outcome: str) -> None:
    assert paper._all_behind([gap(*one) for one in ends])[1] == outcome


def test_every_expectation_of_the_plan_is_answered_once_and_in_its_words() -> None:
    plan = (ROOT / "results" / "plan.md").read_text("utf-8")
    planned = [line for line in plan.splitlines() if line[:4].strip("| ").isdigit() and line.count("|") == 4]
    answered = paper._judged([])
    assert len(planned) == len(answered) == 10
    for line, (said, (found, outcome)) in zip(planned, answered, strict=True):
        task = said[: said.index("`", 1) + 1] if said.startswith("`") else ""
        assert task in line, (line, said)
        assert (found, outcome) == ([], "open")  # nothing has run
