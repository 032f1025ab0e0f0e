"""Memory that does not suffice.

A child with a limit on its address space writes answers, scores texts and trains a vector, each in passes that ask for
more than the limit leaves. Wrong: another text or score than without a limit, or an end by anything but one line.
"""

from __future__ import annotations

import os
import pickle
import random
import resource
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.faults.counts import Count

ROOM = (4, 150)
"""MiB that a child may take beside what it has, from and to."""
TRIALS = 24


def _work(folder: Path) -> dict[str, Callable[[], Any]]:
    """What is done under a limit, by name: each gives what it made, and whether it learnt a limit."""
    from bench import Example, Request, Sampling
    from bench.backends.hf.backend import HFBackend
    from bench.backends.models import resolve
    from bench.core.interfaces import Context
    from bench.core.naming import build_method
    from bench.core.protocol import Budget
    from bench.core.values import Concept, Train

    lm = HFBackend(resolve(str(folder)), "float32", batch=256, tokens=10**9)
    _ = lm.model
    asked = [Request((("user", f"{i} " * 60),), sampling=Sampling(4, 0.0), target=" yes") for i in range(64)]
    texts = tuple(Example(f"{i} " * 100, f"{i} is " * 60) for i in range(8))

    def answers() -> Any:
        return [answer.text for _, answer in sorted(lm.generate(asked))], lm.memory.tokens is not None

    def scores() -> Any:
        return [round(score.total, 3) for _, score in sorted(lm.logprobs(asked))], lm.memory.tokens is not None

    def vector() -> Any:
        trains = [Train(Concept(f"{n}", f"number {n}"), texts, texts[::-1]) for n in range(6)]
        fits = build_method("reft-r1", {}).fit_all(Context(lm, Budget(16, 512, 1, 1)), trains)
        values = [float(x) for fit in fits for x in fit[0].steering.edits[0].tensors()["value"].ravel()]
        return [round(x, 2) for x in values], lm.training_memory.tokens is not None

    return {
        "answers of 64 rows a pass": answers,
        "scores of 64 rows a pass": scores,
        "six vectors trained together": vector,
    }


def _limited(work: Callable[[], Any], room: int) -> tuple[str, Any]:
    """What `work` gives in a child that may take `room` MiB more than it has."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.close(read)
        try:
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + (room << 20), resource.RLIM_INFINITY))
            found: tuple[str, Any] = ("done", work())
        except BaseException as error:
            found = (type(error).__name__, str(error)[:200])
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        with os.fdopen(write, "wb") as out:
            pickle.dump(found, out)
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as into:
        told = into.read()
    os.waitpid(child, 0)
    return pickle.loads(told) if told else ("killed", "")


def count(scale: float, seed: int) -> list[Count]:
    """Each kind of work, without a limit and then under random ones."""
    return list(_counts(max(3, round(TRIALS * scale)), random.Random(seed)))


def _counts(trials: int, rng: random.Random) -> Iterator[Count]:
    from bench.backends import tiny

    with tempfile.TemporaryDirectory() as temporary:
        kept = os.environ.get("BENCH_CACHE")
        os.environ["BENCH_CACHE"] = f"{temporary}/cache"
        try:
            folder = tiny.build(Path(temporary) / "model", width=256).path
            for name, work in _work(folder).items():
                plain, _ = _limited(work, 1 << 20)[1]
                halved = refused = wrong = 0
                for _ in range(trials):
                    ended, found = _limited(work, rng.randint(*ROOM))
                    done = ended == "done" and found[0] == plain
                    halved += done and found[1]
                    refused += ended == "BenchError"
                    wrong += not done and ended != "BenchError"
                    for file in Path(temporary).glob("cache/memory/*"):
                        file.unlink()  # each trial finds its limit itself
                yield Count(
                    name,
                    trials,
                    wrong,
                    f"{halved} went on in smaller passes, {refused} ended in one line, the rest had room",
                )
        finally:
            os.environ.pop("BENCH_CACHE")
            if kept is not None:
                os.environ["BENCH_CACHE"] = kept
