"""ITI: shift the attention heads whose probes know the answer, baked into the attention output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench import Add, Array, BenchError, Context, Fitted, Method, Share, Span, Steering, Train, method


@method("iti", surface="activations", paper="arXiv:2306.03341", needs=["add", "site:attn"], antisymmetric=True)
@dataclass(frozen=True)
class ITI(Method):
    """Mass-mean shift of the attention heads that a probe ranks highest, one push per layer.

    Equation: z_h `[head_dim]` is what head h gives to the output projection at a text's last token;
    heads are ranked by the held-out accuracy of a logistic probe (4:1), the top `share` kept;
    θ = mean(z⁺) - mean(z⁻), unit; σ = standard deviation of z·θ. Adding σθ before the projection equals
    b_l = Σ_h W_o[:, h] σ_h θ_h `[H]` after it: added to the attention output at the last prompt token and
    every token after it.
    Deviations: concept texts in place of TruthfulQA's statements, for σ too; one split in place of two
    folds; heads of equal accuracy rank by the held-out likelihood, not by their place; strength is the
    push of all layers together in median residual norms, not α = 15.
    Reproduction: Alpaca's true and informative share 32.5 to 65.1 % (paper); re-runs differ in sign by
    model. It reports no AxBench row.
    """

    share: Share = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share = {self.share} is not a share of the heads")

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        layers = range(ctx.lm.layers)
        chats = [example.messages for example in (*train.positives, *train.negatives)]
        y = np.repeat([1, 0], [len(train.positives), len(train.negatives)])
        states = ctx.last(chats, layers, "heads")
        weights = {layer: ctx.lm.output_projection(layer) for layer in layers}
        heads, width = next(iter(weights.values())).shape[1:]
        z = {(k, h): states[k].reshape(len(y), heads, width)[:, h] for k in layers for h in range(heads)}
        held = _held_out(y, ctx.rng("split", train.concept.id))
        # Many heads share the best accuracy: the likelihood tells them apart, where their place would
        # pick the shallowest.
        merit = {place: _merit(rows, y, held) for place, rows in z.items()}
        count = max(1, round(self.share * len(z)))
        chosen = sorted(sorted(z), key=merit.__getitem__, reverse=True)[:count]
        push: dict[int, Array] = {}
        for layer, head in chosen:
            rows = z[layer, head]
            theta = rows[y == 1].mean(0) - rows[y == 0].mean(0)
            theta = theta / max(float(np.linalg.norm(theta)), 1e-12)
            shift = weights[layer][:, head] @ (theta * (rows @ theta).std())
            push[layer] = push.get(layer, 0) + shift
        if not all(np.any(value) for value in push.values()):
            raise BenchError("the chosen heads do not tell the texts apart: nothing to add")
        edits = tuple(
            Add(layer=layer, site="attn", value=push[layer].astype(np.float32), span=Span("generation"))
            for layer in sorted(push)
        )
        names = [f"{layer}.{head}" for layer, head in chosen]
        return [Fitted(Steering(edits=edits), note={"heads": names, "accuracy": round(merit[chosen[0]][0], 3)})]


def _held_out(y: Array, rng: np.random.Generator) -> Array:
    """One text in five of each class, by chance, the same places in both `[N]`."""
    held = np.zeros(len(y), bool)
    order = rng.permutation(len(y))
    for label in (0, 1):
        own = np.flatnonzero(y == label)
        held[own[order[order < len(own)][: max(1, len(own) // 5)]]] = True
    return held


def _merit(rows: Array, y: Array, held: Array) -> tuple[float, float]:
    """Held-out accuracy and log-likelihood of a logistic probe on one head's states `[N, head_dim]`."""
    from sklearn.linear_model import LogisticRegression

    probe = LogisticRegression(solver="newton-cholesky").fit(rows[~held], y[~held])
    logs = np.log(np.maximum(probe.predict_proba(rows[held]), 1e-30))
    likelihood = float(logs[np.arange(len(logs)), y[held]].mean())
    return float((logs.argmax(1) == y[held]).mean()), round(likelihood, 6)
