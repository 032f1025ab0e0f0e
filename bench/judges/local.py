"""The written rubrics put to a model in this process: a judge that needs no server and no key.

Invariant: the engine that judges is made at the first rating and gone after the last, unless it is the
run's own.
"""

from __future__ import annotations

import gc
import importlib.util
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from bench.backends import devices
from bench.backends.models import Model, resolve
from bench.core.content import digest
from bench.core.errors import UsageError
from bench.core.interfaces import Backend, Judge
from bench.core.registry import get, judge, table
from bench.core.rows import Rows
from bench.core.values import Item, Request, Sampling, Train, Verdict
from bench.judges.replies import RATINGS, READER, parse, weigh
from bench.judges.rubrics import RUBRICS, filled

PREFILL = "Rating: [["
"""Where a weighted answer begins: the model rates at once, without words before."""
STEP = 256
"""Items rated in one call of the engine; ratings are kept after each."""


@dataclass
class LocalJudge(Judge):
    """The three rubrics of `openai:MODEL`, put to a model that this process runs.

    `weighted`: the mean of 0, 1 and 2 under the model's own odds right after `Rating: [[`: one pass over
    the rubric and no generation, but no reasoning before the rating either.
    """

    engine: ClassVar[str]
    model: str = ""
    dtype: str = "auto"
    temperature: float = 0.0
    tokens: int = 256
    weighted: bool = False
    _own: Backend | None = field(default=None, init=False, repr=False)
    _lent: Backend | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.model:
            raise UsageError(f"name the judge's model: --judge {self.engine}:MODEL")

    @cached_property
    def source(self) -> Model:
        return resolve(self.model)

    def _engine(self) -> Backend:
        made: Backend = get("backend", self.engine)(self.source, self.dtype)
        return made

    def fingerprint(self) -> Mapping[str, Any]:
        return {
            "model": self.source.slug,
            "dtype": self.dtype,
            "engine": self._engine().fingerprint(),
            "temperature": self.temperature,
            "tokens": self.tokens,
            "weighted": self.weighted,
            "rubrics": digest(RUBRICS, READER, PREFILL),
        }

    def key(self, item: Item) -> Any:
        """The rubric as the model sees it: texts that fill it alike share a rating."""
        return filled(item)

    def prepare(self, backend: Backend, keep: Rows, trains: Sequence[Train]) -> None:
        """Nothing to calibrate; where the run answers with the same model, one copy of it serves both."""
        if backend.name == self.engine and backend.fingerprint() == self._engine().fingerprint():
            self._lent = backend

    def release(self) -> None:
        if self._own is None:
            return
        close = getattr(self._own, "close", None)
        if close is not None:
            close()
        self._own = None
        gc.collect()
        devices.emptied()

    def rate(self, items: Sequence[Item]) -> Iterator[tuple[int, Verdict]]:
        backend = self._lent or self._own
        if backend is None:
            backend = self._own = self._engine()
        for begin in range(0, len(items), STEP):
            part = items[begin : begin + STEP]
            for i, verdict in self._weighed(backend, part) if self.weighted else self._written(backend, part):
                yield begin + i, verdict

    def _written(self, backend: Backend, items: Sequence[Item]) -> Iterator[tuple[int, Verdict]]:
        sampling = Sampling(self.tokens, self.temperature, top_k=0)
        requests = [Request((("user", filled(item)),), sampling=sampling, seed=_seed(item)) for item in items]
        for i, answer in backend.generate(requests):
            yield i, parse(answer.text, answer.finish)

    def _weighed(self, backend: Backend, items: Sequence[Item]) -> Iterator[tuple[int, Verdict]]:
        requests = [
            Request((("user", filled(item)),), prefill=PREFILL, target=rating) for item in items for rating in RATINGS
        ]
        odds: dict[int, dict[int, float]] = {}
        for place, score in backend.logprobs(requests):
            i, rating = divmod(place, len(RATINGS))
            odds.setdefault(i, {})[rating] = math.exp(score.total)
            if len(odds[i]) == len(RATINGS):
                weighed = weigh([odds[i][r] for r in range(len(RATINGS))])
                if weighed is None:
                    yield i, Verdict(None, reason="the model gives 0, 1 and 2 no probability at all")
                else:
                    yield i, Verdict(weighed[0], raw=PREFILL, reason=weighed[1])


def _seed(item: Item) -> int:
    """Its own noise for each item where `temperature` is above 0."""
    return int(digest("judge", filled(item)), 16) % 2**63


@judge("hf")
@dataclass
class HFJudge(LocalJudge):
    """`hf:MODEL`: the written rubrics on a transformers model in this process."""

    engine = "hf"


@judge("vllm")
@dataclass
class VLLMJudge(LocalJudge):
    """`vllm:MODEL`: the written rubrics on a vLLM engine in this process."""

    engine = "vllm"

    def __post_init__(self) -> None:
        super().__post_init__()
        if "vllm" not in table("backend") or importlib.util.find_spec("vllm") is None:
            raise UsageError("vllm:MODEL needs vLLM: pip install 'steer-or-prompt[vllm]', or use hf:MODEL")
