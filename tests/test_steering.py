"""Steering as data: scaling, merging, digests, positions, and what is refused where it enters."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from bench.core.deltas import DenseDelta, LowRankDelta, RotationDelta
from bench.core.edits import Gate, Span
from bench.core.kinds import Add, Clamp, LowRank, Project
from bench.core.steering import Prompt, Steering
from bench.interchange.files import load, save

H = 8
RNG = np.random.default_rng(0)
UNIT = (np.eye(H)[0]).astype(np.float32)


def full() -> Steering:
    skew = np.zeros((2, 2), np.float32)
    skew[0, 1], skew[1, 0] = 0.3, -0.3
    gate = Gate(0, UNIT, 0.2, center=UNIT * 0)
    return Steering(
        Prompt("Be kind.", "Please. ", " Thanks.", (("Hi", "Hello"),)),
        (
            Add(layer=1, value=RNG.standard_normal((2, H)).astype(np.float32), span=Span("prompt", first=2), gate=gate),
            Project(layer=2, basis=UNIT[None]),
            Clamp(layer=2, read=UNIT, write=UNIT, target=3.0, at_least=True),
            LowRank(layer=3, rotation=UNIT[None], weight=UNIT[None], bias=np.ones(1, np.float32)),
        ),
        (
            LowRankDelta(module="a", down=np.ones((1, H), np.float32), up=np.ones((H, 1), np.float32)),
            DenseDelta(module="b", change=np.ones((H, H), np.float32)),
            RotationDelta(
                module="c",
                u=np.eye(H, 2, dtype=np.float32),
                s=np.ones(2, np.float32),
                v=np.eye(H, 2, dtype=np.float32),
                skew=skew,
                shift=np.zeros(2, np.float32),
            ),
        ),
    )


def test_zero_drops_everything_but_the_prompt() -> None:
    off = full().scaled(0)
    assert (off.edits, off.deltas, off.prompt) == ((), (), full().prompt)
    assert off.needs == {"prompt"}


def test_one_changes_nothing_and_minus_one_twice_is_one() -> None:
    steering = full()
    assert steering.scaled(1).digest == steering.digest
    assert steering.scaled(-1).scaled(-1).digest == steering.digest


def test_saved_and_loaded_has_the_same_digest(tmp_path: Path) -> None:
    save(tmp_path / "s.safetensors", full())
    loaded = load(tmp_path / "s.safetensors")
    assert loaded.needs == full().needs
    again = full()
    save(tmp_path / "t.safetensors", again)
    assert load(tmp_path / "t.safetensors").digest == again.digest


def test_the_digest_covers_tensors_spans_and_prompts() -> None:
    steering = full()
    edit = steering.edits[1]
    assert isinstance(edit, Project)
    variants = [
        dataclasses.replace(steering, prompt=Prompt("Be rude.")),
        dataclasses.replace(steering, edits=(dataclasses.replace(edit, span=Span("response")), *steering.edits[1:])),
        dataclasses.replace(steering, edits=(dataclasses.replace(edit, layer=3), *steering.edits[1:])),
        steering.scaled(2),
        dataclasses.replace(steering, edits=(*steering.edits, Add(layer=0, value=UNIT * 1e-6))),
    ]
    digests = {steering.digest, *(v.digest for v in variants)}
    assert len(digests) == len(variants) + 1
    assert variants[0].internal_digest == steering.internal_digest


def test_merging_keeps_both() -> None:
    one, two = Steering(Prompt(prefix="A ")), Steering(Prompt("S", suffix=" Z"), (Add(layer=0, value=UNIT),))
    merged = one.merged(two)
    assert merged.prompt.apply((("user", "q"),)) == (("system", "S"), ("user", "A q Z"))
    assert merged.needs == {"prompt", "add"}


def test_a_prompt_edit_keeps_earlier_turns() -> None:
    chat = (("system", "Old."), ("user", "one"), ("assistant", "two"), ("user", "three"))
    edited = Prompt("New.", prefix="> ", shots=(("e", "f"),)).apply(chat)
    assert edited == (
        ("system", "Old.\n\nNew."),
        ("user", "e"),
        ("assistant", "f"),
        ("user", "one"),
        ("assistant", "two"),
        ("user", "> three"),
    )


@given(
    part=st.sampled_from(["all", "prompt", "response", "generation"]),
    prompt=st.integers(1, 12),
    pad=st.integers(0, 5),
    first=st.integers(0, 4),
    last=st.integers(0, 4),
    sink=st.booleans(),
)
def test_spans_ignore_padding_and_obey_their_names(
    part: str, prompt: int, pad: int, first: int, last: int, sink: bool
) -> None:
    span = Span(part, first, last, sink=sink)  # type: ignore[arg-type]
    index = np.arange(-pad, 16)
    mask = span.mask(index, prompt)
    assert not mask[index < (0 if sink else 1)].any()
    inside = {
        "all": index >= 0,
        "prompt": index < prompt,
        "response": index >= prompt,
        "generation": index >= prompt - 1,
    }[part]
    assert not mask[~inside].any()
    if part == "prompt" and first and not last:
        assert mask.sum() == min(first, max(0, prompt - span.start()))
    if part == "prompt" and last and not first:
        assert mask.sum() == min(last, max(0, prompt - span.start()))
    np.testing.assert_array_equal(mask[pad:], span.mask(np.arange(16), prompt))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Add(layer=0, value=np.array([np.nan] * H)),
        lambda: Project(layer=0, basis=np.ones((2, H))),
        lambda: Add(layer=0, value=UNIT, gate=Gate(3, UNIT, 0.0)),
        lambda: RotationDelta(module="m", u=UNIT, s=UNIT, v=UNIT, skew=np.ones((2, 2)), shift=UNIT),
    ],
    ids=["not finite", "not orthonormal", "gate after edit", "not skew"],
)
def test_what_cannot_be_applied_is_refused_where_it_enters(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"finite|orthonormal|after|skew"):
        make()
