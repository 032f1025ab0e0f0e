"""Linear probe: a logistic regression on token activations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from bench import Array, Context, Positive, Train, method
from methods._directions import DirectionMethod


@method(
    "probe",
    surface="activations",
    paper="arXiv:2501.17148",
    needs=["add"],
    provides=["steering", "detector"],
    antisymmetric=True,
)
@dataclass(frozen=True)
class Probe(DirectionMethod):
    """Weight of a logistic regression that tells tokens of the two classes of texts apart.

    Equation: min_w mean BCE(σ(x·w + b), y) + ‖w‖²/2CN over tokens. `logistic`: x = (h - μ)/s per
    dimension, the raw-space direction w/s. `axbench`: x = h, no bias and no penalty; after each batch
    of 12 texts w is set to norm 1, the gradient's part along w removed, and AdamW (rate 5e-3, decay
    1e-3, falling linearly) takes a step. Unit norm `[H]`.
    Deviations from AxBench: `logistic` by default, converged by scikit-learn; the template's front,
    of which AxBench's probe alone reads all but the first token, is not read; in `axbench`, epochs are
    the budget's (24 in preset paper, as there).
    Reproduction: AxBench reports AUROC .946 (Gemma-2-2B, layer 20).
    """

    C: Positive = 0.001
    variant: Literal["logistic", "axbench"] = "logistic"

    def under(self, compat: str) -> Probe:
        return replace(self, variant="axbench") if compat == "axbench" and self.variant == "logistic" else self

    def vector(self, ctx: Context, train: Train, layer: int) -> Array:
        positive, negative = ctx.tokens(train.positives, layer), ctx.tokens(train.negatives, layer)
        x = np.concatenate([positive, negative])
        y = np.repeat([1, 0], [len(positive), len(negative)])
        if self.variant == "axbench":
            texts = [example.messages for example in (*train.positives, *train.negatives)]
            lengths = [len(read.values[layer]) for read in ctx.read(texts, layer)]
            return _renormalised(x, y, lengths, ctx.budget.epochs or OWN_EPOCHS, ctx.rng("probe", train.concept.id))
        from sklearn.linear_model import LogisticRegression

        mean, scale = x.mean(0), x.std(0) + 1e-6
        model = LogisticRegression(C=self.C, max_iter=500).fit((x - mean) / scale, y)
        weight: Array = model.coef_[0] / scale
        return weight


OWN_EPOCHS = 24
"""AxBench's, where the budget leaves it to the method."""


def _renormalised(x: Array, y: Array, lengths: list[int], epochs: int, rng: np.random.Generator) -> Array:
    """AxBench's loop on tokens `[N, H]` of texts with `lengths` tokens each; gives w `[H]`."""
    import torch

    ends = np.cumsum(lengths)
    rows, labels = torch.from_numpy(x).float(), torch.from_numpy(y).float()
    bound = 1 / np.sqrt(x.shape[1])
    w = torch.nn.Parameter(torch.from_numpy(rng.uniform(-bound, bound, x.shape[1])).float())
    optimiser = torch.optim.AdamW([w], lr=5e-3, weight_decay=1e-3)
    orders = [rng.permutation(len(lengths)) for _ in range(epochs)]
    batches = [order[i : i + 12] for order in orders for i in range(0, len(order), 12)]
    decay = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, len(batches))
    for batch in batches:
        place = torch.from_numpy(np.concatenate([np.arange(ends[i] - lengths[i], ends[i]) for i in batch]))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(rows[place] @ w, labels[place])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            w.div_(w.norm())
            assert w.grad is not None
            w.grad -= (w.grad @ w) * w
        optimiser.step()
        decay.step()
    found: Array = w.detach().numpy()
    return found
