"""What the bare model gives for training texts, read once and kept in memory for a session's steps, epochs and methods.

Invariant: what is kept depends on the model and on the text alone, and a text that is not kept is read again: room
changes speed alone. It lies in the machine's own memory, so that a GPU's is free for passes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.core.machine import memory

if TYPE_CHECKING:
    from torch import Tensor

    from bench.core.interfaces import Context

SHARE = 8
"""One part in so many of the machine's memory is filled at most."""


class Kept:
    """Block outputs of texts in at most `room` bytes, and their responses' log-probabilities.

    Where room is short, texts that the present fit (since `begin`) did not ask for make place, the longest unused ones
    first; without any, new states are not kept.
    """

    def __init__(self, room: int | None = None) -> None:
        self.room = memory() // SHARE if room is None else room
        self.bytes = 0
        self.totals: dict[tuple[bytes, int], float] = {}
        """(text, tokens of its prompt) -> summed log-probability of the rest."""
        self.resumes: dict[int, bool] = {}
        """Whether the model goes on from the output of a block alone."""
        self._states: dict[bytes, dict[int, Tensor]] = {}
        self._asked: set[bytes] = set()

    @classmethod
    def of(cls, ctx: Context) -> Kept:
        """What the fits of one session share."""
        found: Kept = ctx.shared.setdefault("training", cls())
        return found

    def begin(self) -> None:
        """A fit begins: what it does not ask for may go."""
        self._asked.clear()

    def layers(self, text: bytes) -> frozenset[int]:
        """The blocks whose outputs are kept for a text."""
        return frozenset(self._states.get(text, ()))

    def states(self, text: bytes, layer: int) -> Tensor:
        """`[T, H]` after block `layer`, of a text that has it."""
        own = self._states[text] = self._states.pop(text)  # now the latest used
        self._asked.add(text)
        return own[layer]

    def keep(self, text: bytes, layer: int, states: Tensor) -> None:
        """Keep a copy of `states` `[T, H]`, where there is room."""
        size = _size(states)
        self._asked.add(text)
        if layer in self.layers(text):
            return
        while self.bytes + size > self.room:
            oldest = next((other for other in self._states if other not in self._asked), None)
            if oldest is None:
                return
            self.bytes -= sum(map(_size, self._states.pop(oldest).values()))
        self._states.setdefault(text, {})[layer] = states.detach().to("cpu", copy=True)
        self.bytes += size

    def clear(self) -> None:
        """Forget all states."""
        self._states.clear()
        self.bytes = 0


def _size(states: Tensor) -> int:
    return states.numel() * states.element_size()
