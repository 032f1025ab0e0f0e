"""The directions that need no training, against AxBench's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import peers
import pytest

from bench import Budget, Context
from bench.backends.hf.backend import HFBackend
from bench.core.content import Array
from bench.core.kinds import Add
from bench.core.naming import build_method
from bench.core.steering import Steering

GIVEN = peers.fixture("axbench_directions")["values"]


class Shuffle:
    """The order of rows in which the peer was run."""

    def permutation(self, rows: Array) -> Array:
        return rows[(389 * np.arange(len(rows)) + 7) % len(rows)]


class Ordered(Context):
    """A context whose only random choice is the peer's."""

    def rng(self, *salt: object) -> Any:
        return Shuffle()


@pytest.fixture(scope="module", params=peers.KINDS)
def read(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Context]:
    lm = HFBackend(peers.model(tmp_path_factory.mktemp(request.param), request.param), dtype="float32")
    return request.param, Ordered(lm, Budget(24, 0, 1, 1))


@pytest.mark.parametrize("name", ["diffmean", "mean", "pca", "lat"])
def test_a_direction_is_axbench_s(read: tuple[str, Context], name: str) -> None:
    kind, ctx = read
    expected = np.array(GIVEN[kind][name])
    component = name in ("pca", "lat")
    params = {"layer": 2} | ({"orient": False} if component else {})
    steering = build_method(name, {name: params}).fit(ctx, peers.train())[0].steering
    assert isinstance(steering, Steering)
    (edit,) = steering.edits
    assert isinstance(edit, Add)
    assert edit.layer == 2
    cosine = peers.cosine(edit.value, expected)
    assert (abs(cosine) if component else cosine) > 1 - 1e-8
    assert np.linalg.norm(edit.value) == pytest.approx(np.linalg.norm(expected), abs=1e-5)
