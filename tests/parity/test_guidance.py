"""A mix of two prompts against transformers' classifier-free guidance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from peers import KINDS, fixture, model

from bench import Mix, Prompt, Request, Sampling, Steering
from bench.backends.hf.backend import HFBackend

GUIDANCE = fixture("guidance")["values"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_mix_writes_and_weighs_what_the_peer_does(tmp_path: Path, kind: str) -> None:
    lm = HFBackend(model(tmp_path, kind), dtype="float32")
    rows: list[dict[str, Any]] = GUIDANCE["models"][kind]
    against = {"bare": Prompt(), "other": Prompt(GUIDANCE["other"])}
    requests = [
        Request(
            (("user", GUIDANCE["ask"]),),
            Steering(Prompt(GUIDANCE["system"]), mix=Mix(against[row["against"]], row["alpha"])),
            Sampling(10, 0.0),
        )
        for row in rows
    ]
    written = dict(lm.generate(requests))
    assert [written[i].text for i in range(len(rows))] == [lm.chat.text(row["ids"]) for row in rows]
    prompts = [lm.chat.steered(request) for request in requests]
    scored = dict(lm.score(prompts, [row["ids"] for row in rows], requests, lm.chat.against(requests)))
    for i, row in enumerate(rows):
        assert scored[i].greedy
        assert list(scored[i].logprobs) == pytest.approx(row["logprobs"], abs=2e-5)
