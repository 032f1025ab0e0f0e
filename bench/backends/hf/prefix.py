"""Prompts that begin alike: what a pass can read once for them all.

Invariant: a group's rows share their front token by token, and every row keeps a token of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

LONG = 128
"""Tokens from which a front is worth a pass of its own."""


def common(one: Sequence[int], two: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next((k for k, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))


def prefix_groups(rows: Sequence[Sequence[int]]) -> list[tuple[int, list[int]]]:
    """Indices of `rows` in groups, each with the length of its front; those with none in one group, of length 0.

    A front is at least `LONG` tokens and at least half of the longest row of its group.
    """
    groups: list[tuple[int, list[int]]] = []
    longest = 0
    for i in sorted(range(len(rows)), key=lambda i: list(rows[i])):  # those that begin alike are neighbours
        prefix, own = groups[-1] if groups else (0, [])
        shared = min(prefix, common(rows[own[0]], rows[i]), len(rows[i]) - 1) if own else 0
        if shared >= LONG and 2 * shared >= max(longest, len(rows[i])):
            groups[-1] = (shared, own)
            own.append(i)
            longest = max(longest, len(rows[i]))
        else:
            groups.append((len(rows[i]) - 1, [i]))
            longest = len(rows[i])
    whole = [own[0] for _, own in groups if len(own) == 1]
    return [(prefix, own) for prefix, own in groups if len(own) > 1] + ([(0, whole)] if whole else [])
