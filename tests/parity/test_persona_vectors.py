"""Persona vectors: which answers are kept and what they differ by, against the paper's own code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import peers
import pytest

from bench import Add, Budget, Completion, Context, Item, Request, Steering, Verdict
from bench.backends.hf.backend import HFBackend
from bench.core.naming import build_method

GIVEN = peers.fixture("persona_vectors")["values"]
ANSWERS = [answer for _, answer in peers.POSITIVES], peers.PLAIN
"""In the persona, and out of it."""


class Scripted(HFBackend):
    """A model that gives the answers the peer was given."""

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        for i in range(len(requests)):
            yield i, Completion(ANSWERS[i % 2][i // 2], 1, 1)


def rate(items: Sequence[Item]) -> list[Verdict]:
    """Concept and fluency of either answer, as the peer's judge was made to rate them."""
    rows = [Verdict(value / 50) for row in GIVEN["ratings"] for value in row]
    assert len(items) == len(rows)
    return rows


@pytest.fixture(scope="module", params=peers.KINDS)
def read(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Context]:
    lm = Scripted(peers.model(tmp_path_factory.mktemp(request.param), request.param), dtype="float32")
    return GIVEN[request.param], Context(lm, Budget(4 * len(GIVEN["ratings"]), 0, 1, 1), rate=rate)


@pytest.mark.parametrize("layer", [1, 2])
def test_a_persona_vector_is_the_paper_s_with_its_length(read: tuple[dict[str, Any], Context], layer: int) -> None:
    given, ctx = read
    train = replace(peers.train(), personas=(("a sailor", "a clerk"),))
    (found,) = build_method("persona", {"persona": {"layer": layer}}).fit(ctx, train)
    assert found.note["rollouts"] == len(GIVEN["ratings"])
    assert found.note["survived"] == len(given["kept"])
    assert isinstance(found.steering, Steering)
    (edit,) = found.steering.edits
    assert isinstance(edit, Add)
    assert peers.cosine(edit.value, given["vectors"][str(layer)]) > 1 - 1e-9
    np.testing.assert_allclose(found.note["raw_norm"] * edit.value, given["vectors"][str(layer)], atol=1e-4)
