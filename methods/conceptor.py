"""Conceptors: project softly on the ellipsoid that states with the concept fill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench import Array, Context, Fitted, LayerSpec, Method, Scaled, Share, Train, check_layer, method
from methods._directions import as_one, depths_read, responses


@method("conceptor", surface="activations", paper="arXiv:2410.16314", needs=["scaled"], one_way=True)
@dataclass(frozen=True)
class Conceptor(Method):
    """A soft projection of states on the directions that responses with the concept use.

    Equation: R = XᵀX/n `[H, H]`, X `[n, H]` the states of response tokens with the concept after block `layer`;
    C = R(R + α⁻²I)⁻¹, eigenvalues γ = s/(s + α⁻²); h ← h + c·(βCh - h), β so that ‖βCh‖ is ‖h‖ on average over X. α is
    such that the mean γ is `quota`: an aperture means the same on every model.
    Deviations: the repository adds βCh to the prompt's first tokens, with one C for each of their places; here one C,
    at every token, in place of the state as in the paper's equation. It knows texts with the concept alone: what all
    texts share fills most of it.
    Reproduction: the paper reports function vectors on GPT-J, +3.2 % for an AND over adding; no AxBench row, not
    compared.
    """

    layer: LayerSpec = 0.5
    quota: Share = 0.1

    def __post_init__(self) -> None:
        check_layer(self.layer)
        if not 0 < self.quota < 1:
            raise ValueError(f"quota = {self.quota}, must lie between 0 and 1")

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        depths = depths_read(ctx, self.layer, train.positives)
        return [as_one([self._at(ctx, train, layer) for layer in layers]) for layers in depths]

    def _at(self, ctx: Context, train: Train, layer: int) -> tuple[Scaled, dict[str, float]]:
        x = responses(ctx, train.positives, layer)
        power, axes = np.linalg.eigh(x.T @ x / len(x))
        power = np.maximum(power, 0)
        gamma = power / (power + soft(power, self.quota))
        along = x @ axes
        beta = float(np.linalg.norm(x, axis=1).mean() / np.linalg.norm(along * gamma, axis=1).mean())
        read = (beta * gamma - 1)[:, None] * axes.T
        edit = Scaled(
            layer=layer,
            read=read.astype(np.float32),
            write=axes.T.astype(np.float32),
            bias=np.zeros(len(gamma), np.float32),
            unit="fraction",
        )
        return edit, {"layer": layer, "quota": float(gamma.mean()), "gain": beta}


def soft(power: Array, quota: float) -> float:
    """α⁻² at which the mean of s/(s + α⁻²) over the eigenvalues `power` is `quota`."""
    from scipy.optimize import brentq

    top = float(power.max())

    def over(log: float) -> float:
        return float((power / (power + np.exp(log) * top)).mean()) - quota

    rank = float((power > 1e-12 * top).mean())
    if quota >= rank:  # fewer directions than asked for: all that there are
        return 1e-12 * top
    return float(np.exp(brentq(over, -40, 20)) * top)
