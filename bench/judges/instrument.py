"""A judge set up outside a run: its model, its calibration and its kept ratings.

Invariant: what was rated once under the same judge, calibration and model is not rated again, and a
judge that samples no target model loads none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from bench.backends.models import DEFAULT, dtype, resolve
from bench.core.content import digest
from bench.core.definitions import code_digest
from bench.core.errors import BenchError
from bench.core.interfaces import Backend, Judge
from bench.core.money import Ledger, SpendingLimit
from bench.core.paths import cache_root, mark_cache
from bench.core.protocol import ELSEWHERE
from bench.core.registry import build, get
from bench.core.rows import Rows
from bench.core.values import Completion, Item, Request, Train, Verdict
from bench.judges.judging import judged_by, rate


class NoModel(Backend):
    """Stands where an independent judge is handed the target model."""

    name: ClassVar[str] = "none"
    can: frozenset[str] = frozenset()

    def fingerprint(self) -> str:
        return "none"

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        raise BenchError("an independent judge may not ask the model under test")


def make(name: str, params: dict[str, Any] | None = None) -> Judge:
    """The judge `NAME` or `NAME:ARGUMENT` of a command line."""
    kind, _, argument = name.partition(":")
    made: Judge = build("judge", kind, (params or {}) | ({"model": argument} if argument else {}))
    return made


class Instrument:
    """A judge with its backend and the rows it keeps in the cache.

    `model` and `precision` name the model that a judge which is not independent reads; what it asks for money is paid
    from `purse`.
    """

    def __init__(
        self,
        name: str,
        model: str = DEFAULT,
        precision: str = "auto",
        params: dict[str, Any] | None = None,
        purse: SpendingLimit | None = None,
    ) -> None:
        self.name, self.judge = name, make(name, params)
        self.judge.fund(purse or SpendingLimit())
        self.backend: Backend = NoModel()
        if not self.judge.independent and precision != ELSEWHERE:
            self.backend = get("backend", "hf")(resolve(model), dtype(precision))
        mark_cache()
        shard, root = self.backend.fingerprint(), cache_root() / "rows"
        self._evidence = Rows(root / "evidence" / digest(shard, code_digest(type(self.judge))))
        judged = judged_by(name, self.judge, shard)
        self._judgements, self._spending = (Rows(root / kind / judged) for kind in ("judgements", "spending"))
        self._ledger = Ledger(self._spending)
        self.judge.account(self._ledger.put)

    def __enter__(self) -> Instrument:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def close(self) -> None:
        self.judge.release()
        self._ledger.put(self.judge.usage())
        for rows in (self._evidence, self._judgements, self._spending):
            rows.close()

    def prepare(self, trains: Sequence[Train]) -> None:
        self.judge.prepare(self.backend, self._evidence, trains)

    def rate(self, items: Sequence[Item], advance: Callable[[int], None] = lambda steps: None) -> list[Verdict]:
        """Verdicts in the order of `items`, through the cache."""
        return rate(self.judge, items, self._judgements, advance)
