"""What one decoded token costs a decoder, counted from its dimensions.

Invariant: a context C includes the steering prompt, and every overhead is relative to the same request
without it. A multiply-accumulate (MAC) is two FLOPs, an addition alone one; a product that is added to what is
there accumulates in place. Norms, rotary embeddings, biases and softmax are left out (below 1 % of the smallest
model tested). Bytes moved are those of one sequence: weights
once a step, and the cached keys and values that the step reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

WIDTH = 2
"""Bytes of a number in bf16, which weights, caches and artefacts are counted in unless told."""


@dataclass(frozen=True)
class FeedForward:
    """The feed-forward part of one block: dense, or `active` of `experts` with a router."""

    width: int
    gated: bool = True
    experts: int = 1
    active: int = 1
    shared: int = 0
    """Width of an expert that every token takes, 0 without one."""
    shared_gate: bool = False

    def macs(self, hidden: int) -> int:
        """MACs of a token: the active experts, the shared one and the router."""
        return self._weights(hidden, self.active)

    def weights(self, hidden: int) -> int:
        return self._weights(hidden, self.experts)

    def _weights(self, hidden: int, experts: int) -> int:
        matrices = 3 if self.gated else 2
        router = hidden * self.experts if self.experts > 1 else 0
        return matrices * hidden * (experts * self.width + self.shared) + router + hidden * self.shared_gate


@dataclass(frozen=True)
class Architecture:
    """Dimensions of a decoder. `windows` holds each block's attention window, 0 where it sees all."""

    name: str
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    windows: tuple[int, ...]
    feed: tuple[FeedForward, ...]
    longest: int = 0
    """Tokens it was made for, 0 where its configuration does not say."""

    @property
    def layers(self) -> int:
        return len(self.windows)

    @property
    def attention_weights(self) -> int:
        """Weights of one block's four projections: queries and output, keys and values."""
        return 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)

    def linears(self) -> Iterator[tuple[int, int]]:
        """(in, out) of every linear module an adapter usually takes: attention and dense feed-forward.

        Of a mixture-of-experts block only the attention: its experts are rarely adapted.
        """
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        for feed in self.feed:
            yield from ((self.hidden, queries), (self.hidden, keys), (self.hidden, keys), (queries, self.hidden))
            if feed.experts == 1:
                yield from ((self.hidden, feed.width),) * (2 if feed.gated else 1)
                yield feed.width, self.hidden


def linear_macs(arch: Architecture, head: bool = True) -> int:
    """MACs of a token in matrix products with weights; of a mixture, the active experts alone."""
    blocks = arch.layers * arch.attention_weights + sum(feed.macs(arch.hidden) for feed in arch.feed)
    return blocks + arch.hidden * arch.vocab * head


def weights(arch: Architecture) -> int:
    """All matrix weights, the embedding and the output head once if they are tied."""
    blocks = arch.layers * arch.attention_weights + sum(feed.weights(arch.hidden) for feed in arch.feed)
    return blocks + arch.hidden * arch.vocab * (1 if arch.tied else 2)


def _seen(arch: Architecture, context: int, less: int = 0) -> int:
    """Σ over blocks of the positions a token at `context` attends to (`less` fewer under a window)."""
    return sum(min(context, window - less) if window else context for window in arch.windows)


def attention_macs(arch: Architecture, context: int) -> int:
    """MACs of QKᵀ and of the weighted sum of values, over query heads: sharing keys does not save them."""
    return 2 * arch.heads * arch.head_dim * _seen(arch, context)


def decode_flops(arch: Architecture, context: int) -> int:
    """FLOPs of one decoded token, the last of `context` tokens."""
    return 2 * (linear_macs(arch) + attention_macs(arch, context))


def prefill_flops(arch: Architecture, tokens: int, before: int = 0) -> int:
    """FLOPs of reading `tokens` tokens after `before` cached ones, without the output head."""
    seen = sum(_total(before + tokens, window) - _total(before, window) for window in arch.windows)
    return 2 * (tokens * linear_macs(arch, head=False) + 2 * arch.heads * arch.head_dim * seen)


def _total(tokens: int, window: int) -> int:
    """Σ of min(t, window) over t = 1 … tokens; a window of 0 is none."""
    inside = min(tokens, window) if window else tokens
    return inside * (inside + 1) // 2 + (tokens - inside) * window


def prefill_in_tokens(arch: Architecture, tokens: int, context: int = 512) -> float:
    """Cost of reading an uncached prompt, in decoded tokens at `context`."""
    return prefill_flops(arch, tokens) / decode_flops(arch, context)


def kv_elements(arch: Architecture, context: int) -> int:
    """Keys and values that the step of the last of `context` tokens reads."""
    return 2 * arch.kv_heads * arch.head_dim * _seen(arch, context)


def kv_bytes(arch: Architecture, context: int, width: int = WIDTH) -> int:
    return width * kv_elements(arch, context)


def kv_held(arch: Architecture, context: int, width: int = WIDTH) -> int:
    """Bytes a cache keeps after `context` tokens: under a window one position less than a step reads."""
    return width * 2 * arch.kv_heads * arch.head_dim * _seen(arch, context, less=1)


def step_bytes(arch: Architecture, context: int, width: int = WIDTH) -> int:
    """Bytes moved to decode one token of one sequence: every active weight once, and the cache."""
    return width * (linear_macs(arch) + kv_elements(arch, context))


@dataclass(frozen=True)
class Extra:
    """What a steering adds: prompt tokens, work per token and request, and what it holds.

    `decode` are FLOPs per decoded token, `read` FLOPs per prompt token and `once` per request (a gate, the
    prompt positions of a narrow span); `elements` are stored numbers, `held` those kept beside the weights while
    serving, `moved` those a decoding step reads. `streams` beside the first (a mix of two prompts) take the same steps
    under the same edits, and `against` are the tokens that their prompt adds to the bare one.
    """

    prompt_tokens: float = 0
    decode: int = 0
    read: int = 0
    once: int = 0
    elements: int = 0
    held: int = 0
    moved: int = 0
    streams: float = 0
    against: float = 0

    def artefact_bytes(self, width: int = WIDTH) -> int:
        return width * self.elements


def flops_percent(arch: Architecture, extra: Extra, context: int) -> float:
    """FLOPs of a decoded token above those without the steering, in percent; the prompt is cached."""
    own = context - round(extra.prompt_tokens)
    bare = decode_flops(arch, own)
    other = extra.streams * (decode_flops(arch, own + round(extra.against)) + extra.decode)
    return 100 * (decode_flops(arch, context) + extra.decode + other - bare) / bare


def bytes_percent(arch: Architecture, extra: Extra, context: int, width: int = WIDTH) -> float:
    """Bytes moved in a step above those without the steering, in percent; a second stream reads the same weights."""
    own = context - round(extra.prompt_tokens)
    bare = step_bytes(arch, own, width)
    other = extra.streams * kv_bytes(arch, own + round(extra.against), width)
    return 100 * (step_bytes(arch, context, width) + width * extra.moved + other - bare) / bare


def kv_percent(arch: Architecture, extra: Extra, context: int) -> float:
    """Memory of the steering as a share of the KV cache at `context`: prompt tokens' part, that of a second stream, and
    what is held."""
    own = context - round(extra.prompt_tokens)
    cached = kv_elements(arch, context) - kv_elements(arch, own)
    other = extra.streams * kv_elements(arch, own + round(extra.against))
    return 100 * (cached + other + extra.held) / kv_elements(arch, context)


def request_flops(arch: Architecture, extra: Extra, prompt: int, reply: int, cached: bool = False) -> int:
    """FLOPs of one request: `prompt` tokens of its own read, `reply` tokens decoded, in each of its streams.

    The steering prompt stands in front; `cached` says that its keys and values are there already, so that
    only the later tokens' attention to it is paid.
    """
    if extra.streams:
        one, other = replace(extra, streams=0), replace(extra, streams=0, prompt_tokens=extra.against)
        first, second = (request_flops(arch, stream, prompt, reply, cached) for stream in (one, other))
        return first + round(extra.streams * second)
    added = round(extra.prompt_tokens)
    read = prefill_flops(arch, prompt, added) if cached else prefill_flops(arch, added + prompt)
    head = 2 * arch.hidden * arch.vocab  # the first reply token comes from the last token read
    first = added + prompt
    decoded = prefill_flops(arch, reply - 1, first) + head * reply if reply else 0
    edited = prompt + (0 if cached else added)
    return read + decoded + extra.once + extra.read * edited + extra.decode * max(0, reply - 1)


def request_percent(arch: Architecture, extra: Extra, prompt: int, reply: int, cached: bool = False) -> float:
    """FLOPs of a whole request above those without the steering, in percent."""
    bare = request_flops(arch, Extra(), prompt, reply)
    return 100 * (request_flops(arch, extra, prompt, reply, cached) - bare) / bare


def prompt(tokens: float) -> Extra:
    """A steering prompt."""
    return Extra(prompt_tokens=tokens)


def mixed(tokens: float) -> Extra:
    """A steering prompt mixed against the bare one: each token is weighed in two streams."""
    return Extra(prompt_tokens=tokens, streams=1)


def vector(arch: Architecture, layers: int = 1) -> Extra:
    """One vector added at `layers` blocks, at every position."""
    work = arch.hidden * layers
    return Extra(decode=work, read=work, elements=work, held=work, moved=work)


def adapter(arch: Architecture, rank: int) -> Extra:
    """A rank-r edit of the residual stream at one block and every position: h + Rᵀ(Wh + b - Rh)."""
    work = 4 * rank * arch.hidden
    held = 2 * rank * arch.hidden + rank
    return Extra(decode=work, read=work, elements=held, held=held, moved=held)


def lora(arch: Architecture, rank: int, merged: bool = False) -> Extra:
    """A low-rank change of every linear module, applied beside the weights or merged into them."""
    held = sum(rank * (a + b) for a, b in arch.linears())
    if merged:
        return Extra(elements=held)
    return Extra(decode=2 * held, read=2 * held, elements=held, held=held, moved=held)


def kinds(arch: Architecture, tokens: tuple[int, ...], rank: int = 8) -> dict[str, Extra]:
    """Each kind of steering under its name, for tables and figures."""
    found = {f"prompt, {n} tokens": prompt(n) for n in tokens}
    found[f"prompt, {tokens[0]} tokens, mixed"] = mixed(tokens[0])
    found["vector, 1 block"] = vector(arch)
    found[f"rank-{rank} edit, 1 block"] = adapter(arch, rank)
    found[f"LoRA rank {rank}, all linears"] = lora(arch, rank)
    found[f"LoRA rank {rank}, merged"] = lora(arch, rank, merged=True)
    return found
