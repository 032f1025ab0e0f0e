"""What is told of work under way, and that looking on changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.backends.hf.backend import HFBackend
from bench.backends.vllm.pulse import stepping
from bench.core.values import Request, Sampling
from bench.run import pulse as module
from bench.run.plan import Options, make
from bench.run.pulse import Pulse
from bench.run.session import execute

ASKED = [Request((("user", f"Say {n}."),), sampling=Sampling(max_new_tokens=6), seed=n) for n in range(5)]


class Seen(Pulse):
    """What is told at each pass of a model and each other count."""

    def __init__(self) -> None:
        self.told: list[tuple[float, str]] = []
        super().__init__()

    def _passed(self, *given: Any) -> None:
        super()._passed(*given)
        self.told.append(self.now())

    def _count(self, *given: Any) -> None:
        super()._count(*given)
        self.told.append(self.now())


def test_a_batch_tells_the_token_it_is_at_and_answers_as_before(lm: HFBackend) -> None:
    before, hooks, pulse = dict(lm.generate(ASKED)), dict(lm.module._forward_pre_hooks), Seen()
    calls = {name: vars(HFBackend)[name] for name in ("generate", "logprobs", "activations")}
    pulse.begin(own=True)
    with pulse.looking():
        assert dict(lm.generate(ASKED)) == before
    assert calls == {name: vars(HFBackend)[name] for name in calls}
    assert dict(lm.module._forward_pre_hooks) == hooks
    lines = list(dict.fromkeys(said for _, said in pulse.told if said))
    assert lines == [f"5 answers at token {n} of 6" for n in range(len(lines))]
    assert len(lines) == 6
    assert [within for within, _ in pulse.told][:3] == pytest.approx([0, 5 / 6, 10 / 6])
    assert pulse.now() == (0.0, "")


def test_inside_another_stage_its_calls_are_counted(lm: HFBackend) -> None:
    pulse = Seen()
    with pulse.looking():
        lm.activations([(("user", "Hello there."),)] * 3, [1])
        assert pulse.told[-1][1] == "0 of 3 texts read"
        answers = lm.logprobs([Request((("user", "Hi."),), target=" yes")] * 4)
        next(answers)
        within, said = pulse.now()
        answers.close()
        assert pulse.now()[1] == ""
        assert within == 0
        assert said.startswith("1 of 4 texts scored, about ")
        parameter = torch.nn.Parameter(torch.ones(1))
        parameter.grad = torch.ones(1)
        torch.optim.SGD([parameter], 0.1).step()
        assert pulse.told[-1][1].endswith("training steps: 1")
    pulse.told.clear()
    torch.optim.SGD([parameter], 0.1).step()
    assert not pulse.told


def test_an_engine_that_goes_on_by_itself_is_counted() -> None:
    class Engine:
        def step(self) -> list[int]:
            return [1]

    class Backend:
        engine = Engine()

        def _start(self, rank: int) -> Engine:
            return self.engine

    backend, told, start = Backend(), list[int](), Backend._start
    with stepping(Backend, lambda: told.append(1)):
        for _ in range(2):  # asked for at each call
            assert backend._start(0).step() == [1]
    assert told == [1, 1]
    assert Backend._start is start


def test_a_run_looks_on_at_every_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    seen: list[str] = []
    real = Pulse._call

    def call(self: Pulse, noun: str, asked: int, most: int = 0) -> None:
        seen.append(noun)
        real(self, noun, asked, most)

    monkeypatch.setattr(module.Pulse, "_call", call)
    plan = make(Options(("diffmean", "none"), backend="fake", judge="likelihood", limit=1))
    jobs = execute(plan, tmp_path / "results", pulse=Pulse())
    assert {job.status for job in jobs} == {"complete"}
    assert {"answers written", "texts scored", "texts read"} <= set(seen)
