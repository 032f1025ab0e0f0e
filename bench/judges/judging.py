"""Rating through the cache: what a judge rated once is not asked again.

Invariant: every verdict that a later attempt could not change is kept as soon as it is there; one that
may pass is not, so that the same command asks again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from bench.core.content import digest
from bench.core.definitions import code_digest
from bench.core.interfaces import Judge
from bench.core.store import Rows
from bench.core.values import Item, Verdict


def rate(judge: Judge, items: Sequence[Item], kept: Rows, advance: Callable[[int], None]) -> list[Verdict]:
    """Verdicts in the order of `items`; `advance` is told how many are done.

    `kept` holds the ratings of this judge with these parameters, by what its `key` says decides each.
    """
    keys = [digest(judge.key(item)) for item in items]
    todo = {key: item for key, item in zip(keys, items, strict=True) if key not in kept}
    advance(len(items) - len(todo))
    # Answers to one question stand together, whichever method gave them: a judge reads what they share once.
    names = sorted(todo, key=lambda key: (todo[key].concept.id, todo[key].instruction))
    transient: dict[str, Verdict] = {}
    for mine in kept.portions(names, advance, judge.whole):
        for i, verdict in judge.rate([todo[name] for name in mine]):
            if verdict.transient:
                transient[mine[i]] = verdict
            else:
                kept.put(mine[i], dataclasses.asdict(verdict))
            advance(1)
    return [transient[key] if key in transient else Verdict(**kept.get(key)) for key in keys]


def judged_by(name: str, judge: Judge, shard: str) -> str:
    """Digest of what decides a judge's rating of a text: its name, parameters, code, and the engine of `shard`."""
    return digest(name, judge.fingerprint(), code_digest(type(judge)), shard)
