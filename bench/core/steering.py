"""Steering as data: what to change in a model, and nothing about how to run it.

A `Steering` is a prompt edit, activation edits, weight deltas and a soft prompt; a backend applies it. Invariant:
`scaled(0)` drops everything but the prompt edit, so it is the bare model under the same prompt (under the other one
where two are mixed), and the digest covers the tensors and not the code that made them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bench.core.content import Message, digest, stored
from bench.core.deltas import Delta
from bench.core.edits import KEPT, Edit
from bench.core.embeds import Embeds
from bench.core.errors import BenchError

if TYPE_CHECKING:
    from torch import Tensor


Turns = Literal["last", "first", "all"]
"""Turns of the user in a dialogue: which of them a prompt edit stands around."""


@stored
@dataclass(frozen=True)
class Prompt:
    """A change of the chat: a system message, text around the instruction, example turns."""

    system: str = ""
    prefix: str = ""
    suffix: str = ""
    shots: tuple[tuple[str, str], ...] = ()

    def apply(self, messages: tuple[Message, ...], turns: Turns = "last") -> tuple[Message, ...]:
        """`messages` with the edit; `prefix` and `suffix` stand around those of the user's `turns`."""
        head = [m for m in messages if m[0] == "system"]
        body = [m for m in messages if m[0] != "system"]
        if self.system:
            head = [("system", "\n\n".join([*(content for _, content in head), self.system]))]
        shots = [m for user, answer in self.shots for m in (("user", user), ("assistant", answer))]
        asked = [i for i, (role, _) in enumerate(body) if role == "user"]
        for i in {"last": asked[-1:], "first": asked[:1], "all": asked}[turns]:
            body[i] = ("user", self.prefix + body[i][1] + self.suffix)
        return (*head, *shots, *body)

    def merged(self, other: Prompt) -> Prompt:
        system = "\n\n".join(text for text in (self.system, other.system) if text)
        shots = self.shots + other.shots
        return Prompt(system, other.prefix + self.prefix, self.suffix + other.suffix, shots)


@stored
@dataclass(frozen=True)
class Mix:
    """A second stream of the same chat, under the prompt edit `against`, that every token is weighed against.

    With the log-probabilities ℓ of the next token: ℓ* = ℓ_against + alpha·(ℓ_prompted - ℓ_against), renormalised
    (arXiv 2306.17806), and what is drawn from ℓ* goes on both streams. alpha = 1 is the prompt alone, in one stream;
    above 1 it says more than the prompt, between 0 and 1 less. `floor` keeps the tokens whose probability under the
    prompt is at least that share of the largest (arXiv 2210.15097); like a top-k it is of drawing: the score of a given
    text has none.
    """

    tried: ClassVar[tuple[float, ...]] = (1.0, 1.5, 2.5, 0.5, 2.0, 1.25, 3.0)
    """Alphas to try where nobody names others, the most telling first."""

    against: Prompt = Prompt()
    alpha: float = 1.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.alpha) or not 0 <= self.floor <= 1:
            raise ValueError(f"a mix of alpha = {self.alpha}, floor = {self.floor}: a finite one, and a share")

    @staticmethod
    def logprobs(prompted: Tensor, against: Tensor, alpha: Tensor | float) -> Tensor:
        """ℓ* `[N, V]` in fp32 from the logits of both streams; `alpha` is one for all or `[N, 1]`. A token that one
        stream rules out stays out."""
        p, q = prompted.float().log_softmax(-1), against.float().log_softmax(-1)
        never = p.isneginf() | q.isneginf()
        return (q + alpha * (p - q)).masked_fill(never, -math.inf).log_softmax(-1)

    @staticmethod
    def floored(mixed: Tensor, prompted: Tensor, floor: Tensor) -> Tensor:
        """`mixed` `[N, V]` without the tokens below the `floor` `[N, 1]` of what is `prompted`; 0 keeps all."""
        p = prompted.float()
        return mixed.masked_fill(p < p.amax(-1, keepdim=True) + floor.log(), -math.inf)


@stored
@dataclass(frozen=True, eq=False)
class Steering:
    """Prompt edit + activation edits + weight deltas + what is read as embeddings, as one value; with a `mix` the edits
    and deltas act in both of its streams, and what is put into the prompt, in words or not, in the first."""

    prompt: Prompt = Prompt()
    edits: tuple[Edit, ...] = ()
    deltas: tuple[Delta, ...] = ()
    mix: Mix | None = None
    embeds: tuple[Embeds, ...] = ()

    def __post_init__(self) -> None:
        for name, kind in (("edits", Edit), ("deltas", Delta), ("embeds", Embeds)):
            for part in getattr(self, name):
                if not isinstance(part, kind):
                    raise TypeError(f"Steering.{name} takes {kind.__name__}s, not a {type(part).__name__}")
        if self.parts and any(edit.gate for edit in self.edits):
            raise ValueError("a gate reads a whole prompt at once, and a change of what is kept of one parts it in two")

    @property
    def needs(self) -> frozenset[str]:
        """Capabilities a backend must have; compared with `Backend.can` before a model is loaded."""
        needs = {edit.need for edit in self.edits}
        needs |= {f"site:{edit.site}" for edit in self.edits if edit.site != "resid"}
        flags = {
            "prompt": self.prompt != Prompt(),
            "gate": any(edit.gate for edit in self.edits),
            "delta": bool(self.deltas),
            "mix": self.mix is not None,
            "embeds": bool(self.embeds),
        }
        return frozenset(needs | {name for name, on in flags.items() if on})

    @property
    def scalable(self) -> bool:
        """Whether a coefficient means anything (a prompt alone, in words or not, has none)."""
        return bool(self.edits or self.deltas or self.mix)

    @property
    def mixing(self) -> Mix | None:
        """The mix, where there is one that changes anything: at alpha = 1 the prompt speaks alone."""
        return self.mix if self.mix is not None and self.mix.alpha != 1 else None

    @property
    def inside(self) -> tuple[Any, ...]:
        """All that acts inside the model; the prompt edit is visible in the messages."""
        return (*self.edits, *self.deltas, *self.embeds, *([self.mixing] if self.mixing else []))

    @property
    def inserted(self) -> int:
        """Tokens that a prompt grows by inside the model."""
        return sum(len(part.values) for part in self.embeds)

    @property
    def keeps(self) -> bool:
        """Whether it changes what is kept of a prompt."""
        return any(edit.site in KEPT for edit in self.edits)

    @property
    def parts(self) -> bool:
        """Whether the last token of a prompt is read after what is kept of the others was changed."""
        return any(edit.parts for edit in self.edits)

    def scaled(self, c: float) -> Steering:
        """The steering at coefficient `c`; 0 is the bare model under the same prompt, or under what that is mixed
        against, exactly."""
        if c == 0:
            return Steering(self.mix.against if self.mix else self.prompt)
        edits = tuple(edit.scaled(c) for edit in self.edits)
        mix = replace(self.mix, alpha=self.mix.alpha * c) if self.mix else None
        return replace(self, edits=edits, deltas=tuple(delta.scaled(c) for delta in self.deltas), mix=mix)

    def merged(self, other: Steering) -> Steering:
        """Both at once. What one mixes its prompt against has the other's prompt too, as it has the other's edits."""
        if self.mix and other.mix:
            raise BenchError("two steerings that mix cannot be merged: a token is weighed against one other stream")
        mix = self.mix and replace(self.mix, against=self.mix.against.merged(other.prompt))
        mix = mix or (other.mix and replace(other.mix, against=self.prompt.merged(other.mix.against)))
        edits, deltas, embeds = self.edits + other.edits, self.deltas + other.deltas, self.embeds + other.embeds
        return Steering(self.prompt.merged(other.prompt), edits, deltas, mix, embeds)

    def negated(self) -> Steering:
        """The steering away from what this one steers towards; what a prompt says stays, and how loudly."""
        if self.embeds:
            raise BenchError("a soft prompt has no opposite: it cannot be turned away from what it was trained on")
        edits = tuple(edit.negated() for edit in self.edits)
        return replace(self, edits=edits, deltas=tuple(delta.scaled(-1) for delta in self.deltas))

    @cached_property
    def digest(self) -> str:
        return digest(self.prompt, *self.edits, *self.deltas, *self.embeds, *([self.mix] if self.mix else []))

    @cached_property
    def internal_digest(self) -> str:
        """Digest of what acts inside the model."""
        return digest(*self.inside)

    @property
    def kinds(self) -> tuple[type[Any], ...]:
        """The classes of what acts inside the model, whose code decides what it does."""
        return tuple(sorted({type(part) for part in self.inside}, key=lambda cls: cls.__qualname__))
