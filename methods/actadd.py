"""ActAdd: the states of one pair of short prompts, added to the front of the user's prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench import Add, Array, BenchError, Context, Fitted, LayerSpec, Method, Span, Steering, Train, check_layer, method


@method("actadd", surface="activations", paper="arXiv:2308.10248", views=(), needs=["add"], recovers=True)
@dataclass(frozen=True)
class ActAdd(Method):
    """Position-wise difference of one prompt pair, added to as many tokens at the front of the prompt.

    Equation: v_t = h_l(p⁺)_t - h_l(p⁻)_t for t = 1..n, an `[n, H]` matrix; h_{a+t} ← h_{a+t} + c·v_t in the
    prompt's pass alone, a the first token of the user's own words. Nothing is averaged.
    Deviations: the shorter prompt is padded with its own last state, since many tokenizers merge runs
    of spaces into one token; the front is that of the user's words, because every chat shares the
    template before it; c is in median norms, and it touches n positions once, so it is not comparable
    with methods that push every token.
    Reproduction: the paper steers GPT-2-XL (layers 6 and 20 of 48); it reports no AxBench row.
    """

    layer: LayerSpec = 0.25
    positive: str = "I talk about {concept} all the time"
    negative: str = "I do not talk about {concept} at all"

    def __post_init__(self) -> None:
        check_layer(self.layer)

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        # A line break goes first: the first token of a raw text is the attention sink and is not read.
        pair = ["\n" + text.replace("{concept}", train.concept.text) for text in (self.positive, self.negative)]
        depths = ctx.depths(self.layer)
        plus, minus = ctx.read(pair, sorted({layer for depth in depths for layer in depth}))
        found = []
        for depth in depths:
            edits = []
            for layer in depth:
                one, two = plus.values[layer], minus.values[layer]
                rows = max(len(one), len(two))
                value = (_padded(one, rows) - _padded(two, rows)).astype(np.float32)
                if not np.any(value):
                    raise BenchError("the two prompts of the pair have the same states: nothing to add")
                edits.append(Add(layer=layer, value=value, span=Span("prompt", first=rows)))
            found.append(Fitted(Steering(edits=tuple(edits)), note={"rows": rows, "layers": list(depth)}))
        return found


def _padded(rows: Array, count: int) -> Array:
    padded: Array = np.concatenate([rows, np.repeat(rows[-1:], count - len(rows), axis=0)])
    return padded
