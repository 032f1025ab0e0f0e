"""Changes of linear modules' weights: LoRA, DoRA, PiSSA, and a free change of every entry.

Invariant: y ← W0 x + a·ΔW x with ΔW = 0 at initialisation, so a row at factor 0 keeps its output and the
base weight is never written to.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bench.backends.hf.modules import without
from bench.backends.hf.weights import by_row, weight
from bench.core.deltas import Delta, DenseDelta, LowRankDelta
from bench.core.steering import Steering
from bench.training.changes.base import Change, Hook, TrainingContext, array
from bench.training.parametrisations import SFT, LoRA


class WeightChange(Change):
    """A change of chosen linear modules; subclasses say what ΔW is."""

    def __init__(self, scene: TrainingContext, form: Any) -> None:
        super().__init__()
        self.start(scene, form)
        layers = scene.layers(form.layers)
        self.places = scene.linears(form.modules, layers)
        self.without = without(scene.model, form.modules, layers)
        self.first = min(layer for _, _, layer in self.places)
        self.floor = self.first - 1
        self.layers = sorted({layer for _, _, layer in self.places})
        self.weights: list[Tensor] = []
        for k, (name, module, _) in enumerate(self.places):
            self.weights.append(weight(module, name))
            self.learn(scene, form, k, name, self.weights[k])

    def start(self, scene: TrainingContext, form: Any) -> None:
        """Make what holds the parameters, before the first module."""

    @abstractmethod
    def learn(self, scene: TrainingContext, form: Any, k: int, name: str, weight: Tensor) -> None:
        """Make the parameters of the k-th module, whose weight W0 is `[out, in]`."""

    @abstractmethod
    def change(self, k: int, x: Tensor, y: Tensor, factor: Tensor) -> Tensor:
        """factor·ΔW x `[B, T, out]` of the k-th module for inputs x `[B, T, in]`, given y = W0 x; all fp32."""

    @abstractmethod
    def delta(self, k: int, concept: int) -> Delta:
        """The k-th module's ΔW of one concept."""

    def hooks(self) -> list[tuple[nn.Module, Hook]]:
        return [(module, self._hook(k)) for k, (_, module, _) in enumerate(self.places)]

    def _hook(self, k: int) -> Hook:
        name = self.places[k][0]

        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            factor = torch.where(self.now.null, -self.now.factor, self.now.factor)[:, None, None]
            x, y = (by_row(states, tuple(self.now.index.shape), name) for states in (args[0], output))
            bias = getattr(module, "bias", None)
            plain = y if bias is None else y - bias.detach()
            change = self.change(k, x.float(), plain.float(), factor)
            return torch.where(factor != 0, (y.float() + change).to(y.dtype), y).reshape(output.shape)

        return hook

    def steering(self, concept: int) -> Steering:
        return Steering(deltas=tuple(self.delta(k, concept) for k in range(len(self.places))))

    def note(self, concept: int) -> Mapping[str, Any]:
        left_out = {"without": self.without} if self.without else {}
        return {"layers": self.layers, "modules": len(self.places)} | left_out


class LoRAChange(WeightChange):
    """ΔW = s·B A with A `[r, in]`, B `[out, r]` per concept; A Kaiming-uniform, B = 0."""

    def start(self, scene: TrainingContext, form: LoRA) -> None:
        self.scaling = form.scaling
        self.down, self.up = nn.ParameterList(), nn.ParameterList()
        self.base: list[tuple[Tensor, Tensor]] = []

    def learn(self, scene: TrainingContext, form: LoRA, k: int, name: str, weight: Tensor) -> None:
        outer, inner = weight.shape
        bound = inner**-0.5  # what Kaiming-uniform with a = √5 comes to
        drawn = [
            scene.rng(c, "adapter", name).uniform(-bound, bound, (form.rank, inner)) for c in range(len(scene.trains))
        ]
        down = torch.stack([torch.from_numpy(d) for d in drawn]).float().to(scene.device)
        self.down.append(nn.Parameter(down))
        self.up.append(nn.Parameter(torch.zeros(len(drawn), outer, form.rank, device=scene.device)))

    def change(self, k: int, x: Tensor, y: Tensor, factor: Tensor) -> Tensor:
        return factor * self.scaling * self._product(x, self.down[k], self.up[k])

    def _product(self, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
        """B A x with each row's own factors."""
        inner = torch.einsum("bti,bri->btr", x, down[self.now.concept])
        return torch.einsum("btr,bor->bto", inner, up[self.now.concept])

    def delta(self, k: int, concept: int) -> Delta:
        down, up = array(self.down[k][concept]), array(self.scaling * self.up[k][concept])
        return LowRankDelta(module=self.places[k][0], down=down, up=up)


class PiSSAChange(LoRAChange):
    """ΔW = s·(B A - B0 A0): LoRA from the principal factors A0 = √S_r V_rᵀ, B0 = U_r √S_r of W0 / s.

    The base weight stays whole, so that factor 0 is the bare model (peft puts W0 - s·B0 A0 in its place).
    """

    def learn(self, scene: TrainingContext, form: LoRA, k: int, name: str, weight: Tensor) -> None:
        count = min(form.rank, *weight.shape)
        u, s, v = torch.linalg.svd(weight.float(), full_matrices=False)
        root = (s[:count] / self.scaling).sqrt()
        down, up = root[:, None] * v[:count], u[:, :count] * root
        self.base.append((down, up))
        many = len(scene.trains)
        self.down.append(nn.Parameter(down.repeat(many, 1, 1)))
        self.up.append(nn.Parameter(up.repeat(many, 1, 1)))

    def change(self, k: int, x: Tensor, y: Tensor, factor: Tensor) -> Tensor:
        down, up = self.base[k]
        return factor * self.scaling * (self._product(x, self.down[k], self.up[k]) - (x @ down.T) @ up.T)

    def delta(self, k: int, concept: int) -> Delta:
        down, up = self.base[k]
        stacked = torch.cat([self.down[k][concept], down])
        both = self.scaling * torch.cat([self.up[k][concept], -up], 1)
        return LowRankDelta(module=self.places[k][0], down=array(stacked), up=array(both))


class DoRAChange(LoRAChange):
    """W' = m ⊙ (W0 + s·B A) / ‖W0 + s·B A‖ by output row, m `[out]` from ‖W0‖; ΔW = W' - W0.

    The norm is a constant to the gradient, and comes from the factors: no `[out, in]` product per concept.
    """

    def start(self, scene: TrainingContext, form: LoRA) -> None:
        super().start(scene, form)
        self.magnitude = nn.ParameterList()
        self.rows: list[Tensor] = []

    def learn(self, scene: TrainingContext, form: LoRA, k: int, name: str, weight: Tensor) -> None:
        super().learn(scene, form, k, name, weight)
        rows = weight.float().norm(dim=1)
        self.rows.append(rows)
        self.magnitude.append(nn.Parameter(rows.repeat(len(scene.trains), 1)))

    def _ratio(self, k: int) -> Tensor:
        """m / ‖W0 + s·B A‖, `[C, out]`."""
        with torch.no_grad():
            down, up = self.down[k], self.up[k] * self.scaling
            weight = self.weights[k].float()
            cross = 2 * (up * torch.einsum("oi,cri->cor", weight, down)).sum(-1)
            own = (torch.einsum("cor,crs->cos", up, down @ down.mT) * up).sum(-1)
            norm = (self.rows[k].square() + cross + own).clamp(min=1e-12).sqrt()
        found: Tensor = self.magnitude[k] / norm
        return found

    def change(self, k: int, x: Tensor, y: Tensor, factor: Tensor) -> Tensor:
        adapted = y + self.scaling * self._product(x, self.down[k], self.up[k])
        return factor * (self._ratio(k)[self.now.concept][:, None] * adapted - y)

    def delta(self, k: int, concept: int) -> Delta:
        weight = self.weights[k].float()
        adapted = weight + self.scaling * self.up[k][concept] @ self.down[k][concept]
        return DenseDelta(module=self.places[k][0], change=array(self._ratio(k)[concept][:, None] * adapted - weight))


class FullChange(WeightChange):
    """ΔW `[out, in]`, every entry free."""

    def start(self, scene: TrainingContext, form: SFT) -> None:
        self.full = nn.ParameterList()

    def learn(self, scene: TrainingContext, form: SFT, k: int, name: str, weight: Tensor) -> None:
        shape = (len(scene.trains), *weight.shape)
        self.full.append(nn.Parameter(torch.zeros(shape, device=scene.device)))

    def change(self, k: int, x: Tensor, y: Tensor, factor: Tensor) -> Tensor:
        return factor * torch.einsum("bti,boi->bto", x, self.full[k][self.now.concept])

    def delta(self, k: int, concept: int) -> Delta:
        return DenseDelta(module=self.places[k][0], change=array(self.full[k][concept]))
