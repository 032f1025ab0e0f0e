"""AlphaSteer: push along the concept as far as a probe says that is blind to texts without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench import Array, BenchError, Context, Fitted, Positive, Scaled, Share, Train, method
from methods._directions import as_one, depths_read, responses, unit
from methods.diffmean import DiffMean


@method(
    "alphasteer",
    surface="activations",
    paper="arXiv:2506.07022",
    needs=["scaled"],
    provides=["steering"],
    antisymmetric=False,
    recovers=False,
)
@dataclass(frozen=True)
class AlphaSteer(DiffMean):
    """DiffMean's direction, added to a token as far as a regression finds the concept in it.

    Equation: X⁺, X⁻ `[n, H]` are the states of response tokens with and without the concept after block `layer`; P
    projects on the share `null` of H with the smallest eigenvalues of X⁻ᵀX⁻; u = P(PᵀX⁺ᵀX⁺P + λP)⁺PᵀX⁺ᵀ1, λ = `ridge`
    times the mean eigenvalue of the first term; r = DiffMean; h ← h + c·(h·u)·r. In the paper a matrix P·Δ `[H, H]` is
    learnt that takes X⁺ to r: all its rows have one target, so it is u rᵀ, of rank 1, exactly.
    Deviations: the paper measures u once, on the prompt's last token, and adds to the prompt alone, at ten layers;
    here each token, everywhere, at one; λ is relative to the states and not 10. Where nothing in a text shows the
    concept, the push is meant to stay away: it keeps what is there from fading, and brings nothing up.
    Reproduction: the paper defends Llama-3.1-8B against seven jailbreaks; it reports no AxBench row, not compared.
    """

    null: Share = 0.5
    ridge: Positive = 0.1

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        depths = depths_read(ctx, self.layer, (*train.positives, *train.negatives))
        return [as_one([self._at(ctx, train, layer) for layer in layers]) for layers in depths]

    def _at(self, ctx: Context, train: Train, layer: int) -> tuple[Scaled, dict[str, float]]:
        plus, minus = (responses(ctx, texts, layer) for texts in (train.positives, train.negatives))
        along = unit(self.vector(ctx, train, layer), layer)
        probe = blind(plus, minus, self.null, self.ridge)
        on, off = float((plus @ probe).mean()), float(np.abs(minus @ probe).mean())
        if on <= 0:
            raise BenchError(f"layer {layer}: nothing of the concept lies where texts without it are silent")
        edit = Scaled(
            layer=layer,
            read=(probe / on)[None].astype(np.float32),
            write=along[None],
            bias=np.zeros(1, np.float32),
            unit="length",
        )
        return edit, {"layer": layer, "gain_with": round(on, 4), "gain_without": round(off, 4)}


def blind(plus: Array, minus: Array, null: float, ridge: float) -> Array:
    """u `[H]`, near 1 on the rows of `plus` `[n, H]`, in the share `null` of directions that `minus` `[m, H]` uses
    least."""
    _, axes = np.linalg.eigh(minus.T @ minus)  # smallest first
    basis = axes[:, : max(1, int(null * len(axes)))]
    x = plus @ basis
    gram = x.T @ x
    weigh = ridge * np.trace(gram) / len(gram)
    found: Array = basis @ np.linalg.solve(gram + weigh * np.eye(len(gram)), x.sum(0))
    return found
