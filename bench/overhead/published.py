"""The cost formulas and printed numbers of "On representation steering" (Z. Wu, 12 July 2025), side by side.

Invariant: a printed number agrees only if the formula printed beside it rounds to it; nothing here is what a
model really costs (that is `exact`).

The post takes a 7B model as H = 4096, d_k = d_v = 64, L = 32. With A = 2d_k + d_v, a prompt of x tokens costs
x·A / (C·A + 4H²) of a token's compute at context C and x / C of the KV cache; a vector H / (L(4H² + C·A)) and
H / (C·L·(d_k + d_v)); an adapter or ReFT of rank r the vector's times 2r, and ReFT nothing while decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

HIDDEN, LAYERS, KEY, VALUE = 4096, 32, 64, 64
ATTENTION = 2 * KEY + VALUE
RANK = 8


def prompt_compute(context: int, tokens: int) -> float:
    """Share of a decoded token's compute that `tokens` prompt tokens add, as the post writes it."""
    return tokens * ATTENTION / (context * ATTENTION + 4 * HIDDEN**2)


def prompt_memory(context: int, tokens: int) -> float:
    """Share of the KV cache that the prompt takes: the curve of the post's Figure 2."""
    per_token = (KEY + VALUE) * LAYERS
    return tokens * per_token / (context * per_token)


def vector_compute(context: int, tokens: int = 0) -> float:
    return HIDDEN / (LAYERS * (4 * HIDDEN**2 + context * ATTENTION))


def vector_memory(context: int, tokens: int = 0) -> float:
    return HIDDEN / (context * LAYERS * (KEY + VALUE))


def adapter_compute(context: int, tokens: int = 0) -> float:
    return 2 * RANK * vector_compute(context)


def adapter_memory(context: int, tokens: int = 0) -> float:
    return 2 * RANK * vector_memory(context)


def reft_compute(context: int, tokens: int = 0) -> float:
    """Nothing while decoding: only prompt positions are edited (so LoReFT; not ReFT-r1)."""
    return 0.0


@dataclass(frozen=True)
class Printed:
    """One number of the post. `percent` is its text; `<` before it is a bound, `~` an approximate value."""

    quantity: str
    formula: Callable[[int, int], float]
    context: int
    tokens: int | None
    percent: str

    @property
    def printed(self) -> float:
        return float(self.percent.lstrip("<~"))

    @property
    def computed(self) -> float:
        """What the post's own formula gives, in percent."""
        return 100 * self.formula(self.context, self.tokens or 0)

    @property
    def agrees(self) -> bool:
        """Whether the formula rounds to the printed digits, keeps the bound, or (`~`) is within 5 %."""
        if self.percent[0] == "<":
            return self.computed < self.printed
        if self.percent[0] == "~":
            return abs(self.computed - self.printed) <= 0.05 * self.printed
        digits = len(self.percent.partition(".")[2])
        return abs(self.computed - self.printed) <= 0.5 * 10.0**-digits * (1 + 1e-9)


def _rows(
    quantity: str, formula: Callable[[int, int], float], context: int, texts: Sequence[str], tokens: Sequence[int]
) -> list[Printed]:
    return [Printed(quantity, formula, context, n, text) for n, text in zip(tokens, texts, strict=True)]


SIZES = (50, 100, 400)
PRINTED: tuple[Printed, ...] = (
    *_rows("prompt compute", prompt_compute, 512, (".20", ".39", "1.56"), SIZES),
    *_rows("prompt compute", prompt_compute, 4096, (".03", ".06", ".24"), SIZES),
    *_rows("prompt compute", prompt_compute, 16384, (".008", ".016", ".06"), SIZES),
    *_rows("prompt compute (prose)", prompt_compute, 16384, (".0001", ".001"), (50, 400)),
    Printed("prompt memory", prompt_memory, 4096, 100, "~2.5"),
    *_rows("prompt memory, upper bound (Figure 2, a few thousand)", prompt_memory, 4096, ("<5",) * 3, SIZES),
    Printed("prompt memory, upper bound (Figure 2, a few thousand)", prompt_memory, 8192, 400, "<5"),
    *_rows("prompt memory, upper bound (Figure 2, beyond 16k)", prompt_memory, 16384, ("<1",) * 3, SIZES),
    *_rows("prompt compute, upper bound (conclusion)", prompt_compute, 4096, ("<.06",) * 3, SIZES),
    *_rows("prompt memory, upper bound (conclusion)", prompt_memory, 4096, ("<.06",) * 3, SIZES),
    *_rows("prompt compute, upper bound (conclusion)", prompt_compute, 16384, ("<.01",) * 3, SIZES),
    *_rows("prompt memory, upper bound (conclusion)", prompt_memory, 16384, ("<.01",) * 3, SIZES),
    Printed("vector memory", vector_memory, 4096, None, ".02"),
    Printed("vector compute", vector_compute, 512, None, ".00019"),
    Printed("vector compute", vector_compute, 4096, None, ".00019"),
    Printed("vector compute", vector_compute, 16384, None, ".00018"),
    Printed("adapter memory", adapter_memory, 4096, None, ".39"),
    Printed("adapter compute", adapter_compute, 512, None, ".003"),
    Printed("adapter compute", adapter_compute, 4096, None, ".003"),
    Printed("adapter compute", adapter_compute, 16384, None, ".0029"),
    Printed("ReFT memory", adapter_memory, 4096, None, ".39"),
    *(Printed("ReFT compute", reft_compute, context, None, "0") for context in (512, 4096, 16384)),
    Printed("vector memory (closing)", vector_memory, 4096, None, ".02"),
    Printed("adapter memory (closing)", adapter_memory, 4096, None, ".39"),
)


def implied_attention(context: int, tokens: int, percent: float) -> float:
    """The per-context-token cost A' that the prompt formula would need to give a printed number.

    One constant would have to fit all rows of the post's table; none does.
    """
    share = percent / 100
    return share * 4 * HIDDEN**2 / (tokens - share * context)


def equal_context() -> float:
    """Context at which the formula's attention term reaches its 4H² term: below it hardly falls with C."""
    return 4 * HIDDEN**2 / ATTENTION


def least_context(tokens: int, share: float) -> float:
    """Context from which a prompt takes less than `share` of the KV cache."""
    return tokens / share


def records() -> list[dict[str, object]]:
    """Every printed number with what its formula gives, as JSON rows."""
    return [
        {
            "quantity": row.quantity,
            "context": row.context,
            "prompt_tokens": row.tokens,
            "printed_percent": row.printed,
            "formula_percent": float(f"{row.computed:.5g}"),
            "agrees": row.agrees,
        }
        for row in PRINTED
    ]
