"""Steering as data: what to change in a model, and nothing about how to run it.

A `Steering` is a prompt edit, activation edits and weight deltas; a backend applies it. Invariant:
`scaled(0)` drops everything but the prompt edit, so it is the bare model under the same prompt,
and the digest covers the tensors and not the code that made them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bench.core.content import Message, digest, stored
from bench.core.deltas import Delta
from bench.core.edits import Edit


@stored
@dataclass(frozen=True)
class Prompt:
    """A change of the chat: a system message, text around the instruction, example turns."""

    system: str = ""
    prefix: str = ""
    suffix: str = ""
    shots: tuple[tuple[str, str], ...] = ()

    def apply(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """`messages` with the edit; the last user turn is the instruction."""
        head = [m for m in messages if m[0] == "system"]
        body = [m for m in messages if m[0] != "system"]
        if self.system:
            head = [("system", "\n\n".join([*(content for _, content in head), self.system]))]
        shots = [m for user, answer in self.shots for m in (("user", user), ("assistant", answer))]
        last = max((i for i, (role, _) in enumerate(body) if role == "user"), default=-1)
        if last >= 0:
            body[last] = ("user", self.prefix + body[last][1] + self.suffix)
        return (*head, *shots, *body)

    def merged(self, other: Prompt) -> Prompt:
        system = "\n\n".join(text for text in (self.system, other.system) if text)
        return Prompt(system, other.prefix + self.prefix, self.suffix + other.suffix, self.shots + other.shots)


@stored
@dataclass(frozen=True, eq=False)
class Steering:
    """Prompt edit + activation edits + weight deltas, as one value."""

    prompt: Prompt = Prompt()
    edits: tuple[Edit, ...] = ()
    deltas: tuple[Delta, ...] = ()

    @property
    def needs(self) -> frozenset[str]:
        """Capabilities a backend must have; compared with `Backend.can` before a model is loaded."""
        needs = {edit.need for edit in self.edits}
        needs |= {f"site:{edit.site}" for edit in self.edits if edit.site != "resid"}
        flags = {
            "prompt": self.prompt != Prompt(),
            "gate": any(edit.gate for edit in self.edits),
            "delta": bool(self.deltas),
        }
        return frozenset(needs | {name for name, on in flags.items() if on})

    @property
    def scalable(self) -> bool:
        """Whether a coefficient means anything (a prompt alone has none)."""
        return bool(self.edits or self.deltas)

    def scaled(self, c: float) -> Steering:
        """The steering at coefficient `c`; 0 is the bare model under the same prompt, exactly."""
        if c == 0:
            return Steering(self.prompt)
        edits = tuple(edit.scaled(c) for edit in self.edits)
        return Steering(self.prompt, edits, tuple(delta.scaled(c) for delta in self.deltas))

    def merged(self, other: Steering) -> Steering:
        return Steering(self.prompt.merged(other.prompt), self.edits + other.edits, self.deltas + other.deltas)

    def negated(self) -> Steering:
        """The steering away from what this one steers towards."""
        edits = tuple(edit.negated() for edit in self.edits)
        return Steering(self.prompt, edits, tuple(delta.scaled(-1) for delta in self.deltas))

    @cached_property
    def digest(self) -> str:
        return digest(self.prompt, *(self.edits + self.deltas))

    @cached_property
    def internal_digest(self) -> str:
        """Digest of what acts inside the model; the prompt edit is visible in the messages."""
        return digest(*(self.edits + self.deltas))

    @property
    def kinds(self) -> tuple[type[Any], ...]:
        """The classes of its edits and deltas, whose code decides what it does."""
        return tuple(sorted({type(part) for part in (*self.edits, *self.deltas)}, key=lambda cls: cls.__qualname__))
