"""A language model as judge: three rubrics, one rating each. The grader is just another sampler.

Invariant: a reply without a readable rating is `None` with its reason; no score is made up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from bench.backends.hosted.answers import Reply
from bench.backends.hosted.backend import OpenAIBackend
from bench.backends.hosted.batch_api import BatchBackend
from bench.backends.hosted.pool import Failure
from bench.core.content import digest
from bench.core.errors import StopRun, UsageError
from bench.core.interfaces import Judge
from bench.core.money import Price, SpendingLimit, price_of
from bench.core.registry import judge
from bench.core.values import Item, Request, Sampling, Verdict
from bench.judges.replies import READER, expected, parse
from bench.judges.rubrics import RUBRICS, filled

ALTERNATIVES = 20
"""Log-probabilities asked for at each token of a weighted reply: the most that OpenAI and vLLM give."""


@judge("openai")
@dataclass
class LLMJudge(Judge):
    """`openai:MODEL` at any OpenAI-compatible endpoint, AxBench's three axes in our own words.

    `weighted`: the mean rating under the model's own odds of 0, 1 and 2, where the server returns
    log-probabilities, else the rating it wrote. `price`: dollars per million tokens read and written.
    `batch`: through the Batch API, looked at every `poll` seconds. `server`: what its ratings are kept and compared
    under in place of its address, for one that moves. The rest is as in `OpenAIBackend`.
    """

    model: str = ""
    base_url: str = ""
    temperature: float = 0.0
    tokens: int = 256
    workers: int = 8
    retries: int = 5
    timeout: float = 120.0
    weighted: bool = False
    price: tuple[float, ...] = ()
    batch: bool = False
    poll: float = 30.0
    server: str = ""
    _read: dict[str, int] = field(default_factory=dict, init=False, repr=False)
    """How many ratings were read in which way."""

    def __post_init__(self) -> None:
        if not self.model:
            raise UsageError("name the judge's model: --judge openai:MODEL")
        if self.poll <= 0:
            raise ValueError(f"poll = {self.poll:g}: seconds, more than 0")
        _ = self.backend  # refuses what cannot be

    @cached_property
    def backend(self) -> OpenAIBackend:
        fields = (self.model, self.base_url, self.workers, self.retries, self.timeout, self.price)
        if self.batch:
            return BatchBackend(*fields, poll=self.poll)
        return OpenAIBackend(*fields)

    def check(self, ask: bool = False) -> None:
        _ = self.backend.client
        if ask:
            self.backend.probe()

    @property
    def where(self) -> str:
        return self.backend.where

    @property
    def cost(self) -> Price | None:
        """What is paid for the model's tokens, where that is known."""
        price = price_of(self.model, self.price)
        return price.halved() if price and self.batch else price

    @property
    def whole(self) -> bool:
        return self.batch

    def fingerprint(self) -> Mapping[str, Any]:
        return {
            "model": self.model,
            "address": self.server or self.backend.address,
            "temperature": self.temperature,
            "tokens": self.tokens,
            "weighted": self.weighted,
            "rubrics": digest(RUBRICS, READER),
        }

    def key(self, item: Item) -> Any:
        """The rubric as the model sees it: texts that fill it alike share a rating."""
        return filled(item)

    def fund(self, purse: SpendingLimit) -> None:
        if purse.limit and self.cost is None:
            raise UsageError(f"--max-cost: no price is known for {self.model}: give -p openai.price=IN,OUT")
        self.backend.purse = purse

    def account(self, put: Callable[[Mapping[str, Any]], None]) -> None:
        self.backend.usage.note = lambda usage: put(usage.plain(self.cost))

    def estimate(self, ratings: int, tokens: int) -> Mapping[str, Any]:
        """At most, but for the texts' own words: `tokens` of each text, four characters a token."""
        asked = round(sum(len(text) for text in RUBRICS.values()) / len(RUBRICS) / 4) + tokens + 50
        read, written = ratings * asked, ratings * self.tokens
        dollars = round(self.cost.of(read, written), 4) if self.cost else None
        return {"prompt_tokens": read, "tokens": written, "dollars": dollars}

    def usage(self) -> Mapping[str, Any]:
        found = self.backend.usage.plain(self.cost)
        return found | {"read": dict(self._read)} if found else {}

    def rate(self, items: Sequence[Item]) -> Iterator[tuple[int, Verdict]]:
        sampling = Sampling(self.tokens, self.temperature, top_k=0)
        requests = [Request(filled(item), sampling=sampling) for item in items]
        try:
            for i, found in self.backend.attempt(requests, ALTERNATIVES if self.weighted else 0):
                yield i, self._verdict(found)
        except StopRun as error:
            raise StopRun(f"{error}; what was rated is kept, and the same command goes on from there") from error

    def _verdict(self, found: Reply | Failure) -> Verdict:
        if isinstance(found, Failure):
            return Verdict(None, reason=found.reason, transient=found.transient)
        verdict = parse(found.completion.text, found.completion.finish)
        if verdict.value is None:
            return verdict
        weighed = expected(found.likely, verdict.value) if self.weighted else None
        self._count("weighted" if weighed else "written")
        if weighed:
            return replace(verdict, value=weighed[0], reason=weighed[1])
        return replace(verdict, reason="as written: no log-probabilities came") if self.weighted else verdict

    def _count(self, how: str) -> None:
        self._read[how] = self._read.get(how, 0) + 1
