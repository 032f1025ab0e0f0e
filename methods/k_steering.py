"""K-Steering: states move along the gradient of a small network that tells them apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bench import Amount, Array, Edit, NetworkField, Positive, Size, method
from methods._fields import ClassifierField


@method("k-steering", surface="activations", paper="arXiv:2505.24535", needs=["network-field"], provides=["steering"])
@dataclass(frozen=True)
class KSteering(ClassifierField):
    """A classifier of two hidden layers, its logit climbed from wherever a token is.

    Equation: f(h) = c·ReLU(B·ReLU(A x + a) + b), x = (h - μ)/s per dimension, A `[width, H]`, B `[width, width]`,
    trained with Adam (`rate`, `decay`, `epochs`, `batch`) on the BCE of f + d against the label; steering
    h ← h + (T/N)·∇f/‖∇f‖, N = `steps` times.
    Deviations: the package takes the gradient of logits averaged over a pass, padding included, so that its push
    depends on the batch's shape; here each token has its own gradient, at unit length, so that a coefficient is what it
    is for an added vector. One concept against its negatives in place of K against each other. Inputs are
    standardised, and it trains for `epochs` (the package: one).
    Reproduction: the paper reports ToneBank and DebateMix, which are not here; not compared.
    """

    width: Size = 128
    rate: Positive = 1e-3
    decay: Amount = 0.0
    epochs: Size = 10
    batch: Size = 64
    steps: Size = 1

    def field(self, layer: int, x: Array, y: Array, rng: np.random.Generator) -> tuple[Edit, dict[str, Any]]:
        import torch
        from torch.nn.functional import binary_cross_entropy_with_logits as bce

        mean, spread = x.mean(0), x.std(0) + 1e-6
        rows = torch.from_numpy((x - mean) / spread).float()
        labels = torch.from_numpy(y).float()
        sizes = ((self.width, x.shape[1]), (self.width, self.width), (1, self.width))
        with torch.inference_mode(False), torch.enable_grad():
            made = [rng.uniform(-1, 1, (out, into + 1)) / into**0.5 for out, into in sizes]
            maps = [torch.nn.Parameter(torch.from_numpy(one).float()) for one in made]
            optimiser = torch.optim.AdamW(maps, lr=self.rate, weight_decay=self.decay)
            for _ in range(self.epochs):
                order = rng.permutation(len(rows))
                for part in (order[i : i + self.batch] for i in range(0, len(order), self.batch)):
                    optimiser.zero_grad()
                    bce(_logit(maps, rows[part]), labels[part]).backward()  # type: ignore[no-untyped-call]
                    optimiser.step()
        with torch.no_grad():
            right = ((_logit(maps, rows) > 0) == (labels > 0.5)).float().mean()
        first, second, last = (one.detach().double().numpy() for one in maps)
        edit = NetworkField(
            layer=layer,
            steps=self.steps,
            first=(first[:, :-1] / spread).astype(np.float32),
            first_bias=(first[:, -1] - first[:, :-1] @ (mean / spread)).astype(np.float32),
            second=second[:, :-1].astype(np.float32),
            second_bias=second[:, -1].astype(np.float32),
            last=last[0, :-1].astype(np.float32),
        )
        return edit, {"accuracy": round(float(right), 4)}


def _logit(maps: Any, x: Any) -> Any:
    """f + d of states `[N, H]`; the last column of each map is its bias."""
    for one in maps[:-1]:
        x = (x @ one[:, :-1].T + one[:, -1]).relu()
    return (x @ maps[-1][:, :-1].T + maps[-1][:, -1])[:, 0]
