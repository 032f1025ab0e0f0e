"""Input that means nothing: a sample of what `make faults` tries by the thousand, and all that has ever failed.

Property-based where the property is of a function, over the real commands where it is of the program.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given, settings, strategies as st

from bench.cli.main import main
from bench.core.documents import FAULTS, parsed
from bench.core.shapes import Misfit, held
from bench.results.record import RUN, OpinionRecord, OverheadRecord, Trial
from benchmarks.faults import fuzz

SEEDED = settings(derandomize=True, max_examples=150, deadline=None)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with fuzz.surroundings(tmp_path_factory.mktemp("fuzz")):
        yield


@SEEDED
@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")) | VALUES.map(json.dumps))
def test_json_of_any_kind_is_a_value_or_a_fault(content: str) -> None:
    try:
        value = parsed(content)
    except FAULTS:
        return
    json.dumps(value, allow_nan=False).encode()


@SEEDED
@given(VALUES, st.sampled_from([RUN, OpinionRecord, OverheadRecord, Trial]))
def test_any_value_fits_a_shape_or_is_a_misfit(value: Any, shape: Any) -> None:
    try:
        held(value, shape)
    except Misfit as misfit:
        told = str(misfit)
    else:
        told = ""
    assert told.count("\n") == 0


@pytest.mark.slow
def test_one_value_changed_anywhere_in_a_run_is_a_misfit_or_still_a_run(world: None) -> None:
    content = next(Path().glob("results/axbench/fake/diffmean-*/run.json")).read_text("utf-8")
    rng = random.Random(1)
    refused = 0
    for _ in range(300):
        changed = fuzz.misshapen(content, rng)
        try:
            held(parsed(changed, halves=True), RUN)
        except FAULTS:
            refused += 1
    assert refused > 200


def test_every_option_of_every_command_is_walked() -> None:
    lines = set(fuzz.options())
    for name, command in fuzz.commands(main):
        if name in fuzz.LEFT_OUT:
            continue
        for option in (one for one in command.params if isinstance(one, click.Option)):
            if option.opts[0] not in fuzz.CONSUMED:
                assert any([*line[: len(name.split())]] == name.split() and option.opts[0] in line for line in lines)


@pytest.mark.slow
def test_a_sample_of_nonsense_ends_as_the_program_ends(world: None) -> None:
    rng = random.Random(20)
    cases = list(fuzz.files(rng, 130))[1:]  # the first builds a report
    lines = [*rng.sample(fuzz.options(), 70), *rng.sample(fuzz.fields(), 70)]
    cases += [fuzz.Case("options", "", "", words) for words in lines if words[0] != "report"]
    assert [(case.words, reason) for case, reason in fuzz.tried(cases) if reason] == []


@pytest.mark.slow
def test_what_once_failed_does_so_no_more(world: None) -> None:
    cases = fuzz.kept()
    assert cases
    assert [(case.words, reason) for case, reason in fuzz.tried(cases) if reason] == []
