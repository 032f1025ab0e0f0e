"""Cache steering against its paper's code: what is read, and what is written once it is moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peers
import pytest

from bench import Budget, Cache, Context, Request, Sampling, Steering, build_method
from bench.backends.hf.backend import HFBackend

GIVEN = peers.fixture("cache_steering")["values"]


@pytest.mark.parametrize("kind", GIVEN["models"])
def test_what_attention_keeps_is_moved_as_the_peer_does(tmp_path: Path, kind: str) -> None:
    lm, theirs = HFBackend(peers.model(tmp_path, kind), dtype="float32"), GIVEN["models"][kind]
    rows: dict[str, dict[str, Any]] = {name: theirs[name] for name in ("values", "both")}
    requests = []
    for name in rows:
        params = {"read": "last", "entry": "before", "strength": 30.0, "keys": 0.1 if name == "both" else 0.0}
        made = build_method("cache-steering", {"cache-steering": params})
        (found,) = made.fit(Context(lm, Budget(24, 512, 1, 1)), peers.train())
        assert isinstance(found.steering, Steering)
        for edit in found.steering.edits:
            assert isinstance(edit, Cache)
            if edit.site == "values":
                assert np.abs(edit.value - theirs["differences"][edit.layer]).max() < 1e-5
            elif edit.layer == 1:
                assert np.abs(edit.value - theirs["keys"][0]).max() < 1e-4
        assert {edit.layer for edit in found.steering.edits} == {1, 2, 3}
        requests.append(Request((("user", GIVEN["ask"]),), found.steering, Sampling(10, 0.0)))
    written = dict(lm.generate(requests))
    assert [written[i].text for i in range(2)] == [lm.chat.text(row["written"]) for row in rows.values()]
    prompts = [lm.chat.steered(request) for request in requests]
    scored = dict(lm.score(prompts, [row["written"] for row in rows.values()], requests))
    for i, row in enumerate(rows.values()):
        assert list(scored[i].logprobs) == pytest.approx(row["logprobs"], abs=1e-4)
    bare = dict(lm.score(prompts, [row["written"] for row in rows.values()], [Request(requests[0].prompt)] * 2))
    assert all(list(bare[i].logprobs) != pytest.approx(scored[i].logprobs, abs=1e-2) for i in range(2))
