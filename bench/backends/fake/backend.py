"""A backend without a model, for tests of everything around one: texts and numbers from hashes.

Invariant: an answer depends on the request alone, as a real backend's must.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from bench.core.content import Array, digest
from bench.core.interfaces import Backend, Prompted, ReadSite
from bench.core.registry import backend, table
from bench.core.steering import Prompt, Steering
from bench.core.values import Activations, Completion, Divergence, Request, TargetScore

WORDS = [
    "a",
    "ship",
    "on",
    "the",
    "sea",
    "saw",
    "one",
    "star",
    "and",
    "some",
    "bread",
    "near",
    "an",
    "old",
    "castle",
    "while",
    "music",
    "played",
]


@backend("fake")
class FakeBackend(Backend):
    """`width`-dimensional activations over `depth` blocks; words drawn by a hash of the request."""

    depth = 4
    width = 8

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay
        self.calls = 0

    @property
    def can(self) -> frozenset[str]:
        """Every registered kind of edit, those of plugins too."""
        sites = (f"site:{site}" for site in ("attn", "keys", "values"))
        return frozenset({"prompt", "score", "mix", "gate", "delta", "embeds", *sites, *table("edit")})

    @property
    def layers(self) -> int:
        return self.depth

    def fingerprint(self) -> str:
        return digest("fake", self.code())

    def _rng(self, *parts: object) -> np.random.Generator:
        return np.random.default_rng(int(digest(*parts), 16))

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        for i, request in enumerate(requests):
            self.calls += 1
            if self.delay:
                time.sleep(self.delay)
            steering = request.steering or Steering()
            prompt = request.prompt
            if not isinstance(prompt, str):
                prompt = steering.prompt.apply(prompt, request.turns)
            rng = self._rng(prompt, steering.internal_digest, request.seed)
            count = request.sampling.max_new_tokens
            text = " ".join(rng.choice(WORDS, count))
            drawn = (count,) if steering.mixing else ()
            yield i, Completion(text, count, 10, (*(9 + count for _ in steering.edits), *drawn))

    def logprobs(self, requests: Sequence[Request]) -> Iterator[tuple[int, TargetScore]]:
        for i, request in enumerate(requests):
            yield i, TargetScore(tuple(float(v) for v in self._bare(request)))

    def _bare(self, request: Request) -> Array:
        """Log-probabilities of the target's words, whatever the steering."""
        count = max(1, len(request.target.split()))
        return -self._rng(request.prompt, request.target).gamma(4.0, 0.5, count)

    def diverge(self, requests: Sequence[Request]) -> Iterator[tuple[int, Divergence]]:
        for i, request in enumerate(requests):
            steering, bare = request.steering or Steering(), self._bare(request)
            count = len(bare)
            changed = steering.inside or steering.prompt != Prompt()
            moved = self._rng(request.target, steering.digest).gamma(2.0, 0.1, count) if changed else np.zeros(count)
            yield i, Divergence(count, float(moved.sum()), float((bare - moved).sum()), float(bare.sum()))

    @property
    def context(self) -> int:
        return 1024

    def count(self, prompt: Prompted) -> int:
        return len(str(prompt).split())

    def output_projection(self, layer: int) -> Array:
        return self._rng("projection", layer).standard_normal((self.width, 2, self.width // 2)).astype(np.float32)

    def activations(
        self, texts: Sequence[Prompted], layers: Sequence[int], tokens: int = 0, site: ReadSite = "resid"
    ) -> list[Activations]:
        found = []
        for text in texts:
            rows = 12 if not tokens else min(12, tokens)
            found.append(
                Activations({k: self._rng(text, k, site).standard_normal((rows, self.width)) for k in layers}, 4)
            )
        return found

    def gradients(
        self,
        texts: Sequence[Prompted],
        layer: int,
        readout: Array,
        at: Sequence[float] = (1.0,),
        baseline: Array | None = None,
        tokens: int = 0,
    ) -> list[Array]:
        rows = 12 if not tokens else min(12, tokens)
        return [self._rng(text, layer, readout, at, baseline).standard_normal((rows, self.width)) for text in texts]
