"""Rating through the cache: what a judge rated once is not asked again.

Invariant: every verdict that a later attempt could not change is kept as soon as it is there; one that
may pass is not, so that the same command asks again. A number that is no rating is neither kept nor given on.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from numbers import Real
from typing import Any

from bench.core.blame import blamed, defined, foreign
from bench.core.content import digest
from bench.core.definitions import code_digest
from bench.core.errors import THEIRS, BenchError, StopRun, cause
from bench.core.interfaces import Judge
from bench.core.rows import Rows
from bench.core.values import Item, Verdict

TOP = 2.0
"""The highest rating on every axis; the lowest is 0."""


def rate(judge: Judge, items: Sequence[Item], kept: Rows, advance: Callable[[int], None]) -> list[Verdict]:
    """Verdicts in the order of `items`; `advance` is told how many are done.

    `kept` holds the ratings of this judge with these parameters, by what its `key` says decides each. Raises StopRun
    where the judge gives anything but one sound verdict for each item.
    """
    with blamed(_called(judge), type(judge)):
        keys = [digest(judge.key(item)) for item in items]
    known = {key: found for key in dict.fromkeys(keys) if (found := _kept(kept.get(key)))}
    todo = {key: item for key, item in zip(keys, items, strict=True) if key not in known}
    advance(len(items) - len(todo))
    # Answers to one question stand together, whichever method gave them: a judge reads what they share once.
    names = sorted(todo, key=lambda key: (todo[key].concept.id, todo[key].instruction))
    unsound = [name for name in names if name in kept]  # kept, and no rating
    open_ = [name for name in names if name not in kept]
    for mine in chain([unsound], kept.portions(open_, advance, judge.whole)):
        for i, verdict in _sound(judge, [todo[name] for name in mine]):
            if not verdict.transient:
                kept.put(mine[i], dataclasses.asdict(verdict))
            known[mine[i]] = verdict
            advance(1)
    for key in names:  # what other processes made
        if key not in known:
            known[key] = _kept(kept.get(key)) or Verdict(None, reason="another process kept no rating", transient=True)
    return [known[key] for key in keys]


def _sound(judge: Judge, items: Sequence[Item]) -> Iterator[tuple[int, Verdict]]:
    """What a judge says of `items`: one verdict for each, on the scale. A judge may be anyone's code."""
    who, left = _called(judge), set(range(len(items)))
    files = foreign(type(judge))
    place = defined(type(judge).rate) if files else ""
    at = f" ({place})" if place else ""
    given: Iterator[tuple[int, Verdict]] | None = None
    while items:
        try:
            given = iter(judge.rate(items)) if given is None else given
            i, verdict = next(given)
        except StopIteration:
            break
        except (BenchError, OSError):
            raise
        except THEIRS as error:
            raise StopRun(f"{who} failed: {cause(error, files, place)}; what was rated is kept") from error
        if i not in left:
            raise StopRun(f"{who} gave a verdict for item {i!r} of {len(items)} that was rated or is none{at}")
        if wrong := fault(verdict):
            raise StopRun(f"{who}: {wrong}, for the {items[i].axis} of {items[i].text[:40]!r}{at}")
        left.remove(i)
        yield i, verdict if verdict.value is None else dataclasses.replace(verdict, value=float(verdict.value))
    if left:
        raise StopRun(f"{who} gave no verdict for {len(left)} of {len(items)} items{at}")


def _called(judge: Judge) -> str:
    return f"judge {getattr(judge, 'name', type(judge).__name__)}"


def fault(verdict: Any) -> str:
    """Why something is no verdict; "" where it is one."""
    if not isinstance(verdict, Verdict):
        return f"a {type(verdict).__name__} is no Verdict"
    if not isinstance(verdict.raw, str) or not isinstance(verdict.reason, str):
        return "raw and reason of a Verdict are texts"
    value = verdict.value
    if value is None:
        return "" if verdict.reason else "a missing rating needs its reason"
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        return f"{value!r} is no rating"
    return "" if 0 <= value <= TOP else f"a rating of {float(value):g} is outside 0 to {TOP:g}"


def _kept(row: Any) -> Verdict | None:
    """A verdict as it was kept; None where the row holds none, so that it is asked for."""
    try:
        found = Verdict(**row)
    except TypeError:
        return None
    return None if fault(found) else found


def judged_by(name: str, judge: Judge, shard: str) -> str:
    """Digest of what decides a judge's rating of a text: its name, parameters, code, and the engine of `shard`."""
    return digest(name, judge.fingerprint(), code_digest(type(judge)), shard)
