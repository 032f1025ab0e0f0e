"""How a judge's replies become ratings, and ratings a score, against AxBench's evaluator."""

from __future__ import annotations

from itertools import product

import peers
import pytest

from bench.core.values import Verdict
from bench.judges.replies import parse
from tasks.axbench import overall

GIVEN = peers.fixture("axbench_judge")["values"]
ALONE = {
    "Rating: `1`": 1.0,
    '{"rating": 1}': 1.0,
    '```json\n{"rating": 2}\n```': 2.0,
    "Rating: 2/2": 2.0,
    "Rating: [[2]] because it is clear": 2.0,
    "rating: [[2]]": 2.0,
}
"""Replies that AxBench does not read."""
TWICE = "Rating: [[0]]\nOn reflection:\nRating: [[1]]"
"""AxBench takes the last; two ratings that differ are none here, for a text that is rated may hold one."""
READABLE = {row["reply"]: row["rating"] for row in GIVEN["replies"] if row["rating"] is not None}


@pytest.mark.parametrize("reply", [reply for reply in READABLE if reply != TWICE])
def test_a_rating_that_axbench_reads_is_read_alike(reply: str) -> None:
    assert parse(reply).value == READABLE[reply]


def test_two_ratings_that_differ_are_none() -> None:
    assert READABLE[TWICE] == 1
    assert parse(TWICE).value is None


def test_numbers_in_any_form_are_among_them() -> None:
    forms = ("2.", "+1", " .5 ", "1e0")
    assert [READABLE[f"Rating: [[{form}]]"] for form in forms] == [2, 1, 0.5, 1]


@pytest.mark.parametrize("reply", [row["reply"] for row in GIVEN["replies"] if row["rating"] is None])
def test_where_axbench_falls_back_to_0_there_is_no_rating(reply: str) -> None:
    assert parse(reply).value == ALONE.get(reply)


def test_the_overall_score_is_axbench_s_on_every_triple() -> None:
    triples = product((0.0, 0.5, 1.0, 1.5, 2.0), repeat=3)
    found = [overall(map(Verdict, triple)).value for triple in triples]
    assert found == pytest.approx(GIVEN["harmonic"], abs=1e-8)
    assert len(found) == 125
