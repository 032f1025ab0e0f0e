"""Changes of the residual stream after a block: a vector, a gated vector, a low-rank edit, a hypernetwork's vector.

Invariant: a position outside the span, and a row at factor 0, keep their states.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bench.backends.hf.modules import blocks
from bench.core.content import Array
from bench.core.edits import Span
from bench.core.kinds import Add, LowRank
from bench.core.steering import Steering
from bench.training.changes.base import Change, Hook, TrainingContext, array, inside, on_states
from bench.training.parametrisations import Gated, HyperNetwork, LoReFT, Vector


class VectorChange(Change):
    """h ← h + a·μw at every position, w `[H]` per concept; null: h ← h - ReLU(h·w)/‖w‖² w.

    μ = median ‖h‖ / √H, so that a rate and a factor mean the same on every model; 1 in the reference's mode.
    """

    nulls = True

    def __init__(self, scene: TrainingContext, form: Vector | Gated | HyperNetwork) -> None:
        super().__init__()
        self.layer = self.floor = self.first = scene.ctx.layer(form.layer)
        self.block = blocks(scene.model)[self.layer]
        (self.norm,) = scene.norms(self.layer)
        unit = torch.ones_like(self.norm) if scene.reference else self.norm / scene.hidden**0.5
        self.unit = unit[:, None]
        self.span = Span()
        self.bias: nn.Parameter | None = None
        self._build(scene, form)

    def _build(self, scene: TrainingContext, form: Any) -> None:
        start = form.init * scene.normal(scene.hidden, salt="vector")
        if form.start == "constant":
            start = torch.full_like(start, form.init)
        elif form.start == "uniform":
            start = scene.uniform(scene.hidden, salt="uniform")
        self.weight = nn.Parameter(start)
        if form.bias:
            self.bias = nn.Parameter(torch.zeros_like(start[:, :1]))

    def vectors(self) -> Tensor:
        """`[C, H]` in the model's own units."""
        return self.weight * self.unit

    def hooks(self) -> list[tuple[nn.Module, Hook]]:
        return [(self.block, on_states(self._edit))]

    def _edit(self, h: Tensor) -> Tensor:
        v = self.vectors()[self.now.concept][:, None]
        state = h.float()
        bias = 0.0 if self.bias is None else self.bias[self.now.concept][:, None]
        change = (self.now.factor[:, None, None] + bias) * self._push(state, v)
        if self.now.null.any():
            over = torch.relu((state * v).sum(-1, keepdim=True) + bias)
            along = over / v.square().sum(-1, keepdim=True).clamp(min=1e-12)
            change = torch.where(self.now.null[:, None, None], -along * v, change)
        return torch.where(inside(self.now, self.span), (state + change).to(h.dtype), h)

    def _push(self, state: Tensor, v: Tensor) -> Tensor:
        """What factor 1 adds, `[B, 1, H]`, from states `[B, T, H]` and vectors `[B, 1, H]`."""
        return v

    def steering(self, concept: int) -> Steering:
        return Steering(edits=(Add(layer=self.layer, value=array(self.vectors()[concept]), span=self.span),))

    def direction(self, concept: int) -> tuple[int, Array]:
        return self.layer, array(self.vectors()[concept])

    def note(self, concept: int) -> Mapping[str, Any]:
        length = float(self.vectors()[concept].detach().norm() / self.norm[concept])
        return {"layer": self.layer, "trained_strength": round(length, 4)}


class GatedChange(VectorChange):
    """h ← h + a·m·v with m = mean of the k largest ReLU(h·v) over the row's positions, ‖v‖ = 1 (ReFT-r1)."""

    def _build(self, scene: TrainingContext, form: Gated) -> None:
        self.k, self.weigh = form.k, form.sparsity
        # Entries of about 1 whatever H is, so that a rate means the same on every model.
        self.length = 1.0 if scene.reference else scene.hidden**0.5
        start = scene.normal(scene.hidden, salt="vector")
        # The reference's first pass has a short vector, and its unit length is set between gradient and step.
        self.late = scene.reference
        self.weight = nn.Parameter(torch.full_like(start, 0.01) if self.late else start)
        self.settle()
        self._penalty: Tensor | None = None

    def vectors(self) -> Tensor:
        return self.weight / self.length

    def _normalise(self) -> None:
        with torch.no_grad():
            self.weight.mul_(self.length / self.weight.norm(dim=-1, keepdim=True))

    def settle(self) -> None:
        if not self.late:
            self._normalise()

    def prepare(self) -> None:
        """Take out what would only change the length."""
        if self.late:
            self._normalise()
        if self.weight.grad is not None:
            unit = self.vectors().detach()
            self.weight.grad.sub_((self.weight.grad * unit).sum(-1, keepdim=True) * unit)

    def _push(self, state: Tensor, v: Tensor) -> Tensor:
        there = inside(self.now, self.span)[..., 0]
        active = torch.where(there, torch.relu((state * v).sum(-1)), 0.0)
        top = active.topk(min(self.k, active.shape[1]), dim=1).values
        count = there.sum(1).clamp(max=self.k, min=1)
        # Everything but the largest k is to be silent; in units of the model's states.
        rest = (active.sum(1) - top.sum(1)) / there.sum(1).clamp(min=1)
        self._penalty = self.weigh * rest / self.unit[self.now.concept][:, 0]
        return (top.sum(1) / count)[:, None, None] * v

    def penalty(self) -> Tensor | None:
        return self._penalty


class HyperChange(VectorChange):
    """A vector per concept from a network that reads the concept's words: w = B·SiLU(A f + a) `[H]`.

    f `[H]` is the frozen model's mean state over the concept's text, centred and scaled over the concepts.
    """

    shared = True

    def _build(self, scene: TrainingContext, form: HyperNetwork) -> None:
        self.features = _read(scene, self.layer)
        self.centre, self.scale = self.features.mean(0), self.features.std(0, unbiased=False).mean().clamp(min=1e-6)
        if len(self.features) == 1:  # nothing to centre one concept on
            self.centre, self.scale = torch.zeros_like(self.centre), self.features.square().mean().sqrt()
        rng = scene.ctx.rng("train", "hypernetwork")
        width, h = form.width, scene.hidden
        start = torch.tensor(rng.standard_normal((width, h)) / h**0.5, dtype=torch.float32, device=scene.device)
        self.down = nn.Parameter(start)
        self.shift = nn.Parameter(torch.zeros(width, device=scene.device))
        last = rng.standard_normal((h, width)) * form.init / width**0.5
        self.up = nn.Parameter(torch.tensor(last, dtype=torch.float32, device=scene.device))

    def vectors(self) -> Tensor:
        return self._of(self.features) * self.unit

    def _of(self, features: Tensor) -> Tensor:
        return nn.functional.silu(((features - self.centre) / self.scale) @ self.down.T + self.shift) @ self.up.T

    def unseen(self, scene: TrainingContext) -> list[Array]:
        """Vectors `[H]` of concepts that were not trained on, from their words alone."""
        unit = self.unit.mean()
        return [array(v * unit) for v in self._of(_read(scene, self.layer))]


def _read(scene: TrainingContext, layer: int) -> Tensor:
    texts = [train.concept.text for train in scene.trains]
    means = [torch.from_numpy(read.values[layer].mean(0)) for read in scene.ctx.read(texts, layer)]
    return torch.stack(means).float().to(scene.device)


class LoReFTChange(Change):
    """h ← h + a·Rᵀ(W h + b - R h) at the first and last prompt positions; R `[r, H]` has orthonormal rows.

    It starts at W = R, b = 0, the identity.
    """

    def __init__(self, scene: TrainingContext, form: LoReFT) -> None:
        super().__init__()
        self.layers = scene.layers(form.layers)
        self.floor = self.first = min(self.layers)
        self.blocks = [blocks(scene.model)[layer] for layer in self.layers]
        self.span = Span("prompt", first=form.first, last=form.last, sink=scene.reference)
        starts = [scene.normal(form.rank, scene.hidden, salt=f"rotation {layer}") for layer in self.layers]
        self.raw = nn.ParameterList(nn.Parameter(start) for start in starts)
        # A step then moves the edit as far through W as through b, which is not measured by the text.
        self.entry = 1.0 if scene.reference else scene.hidden**-0.5
        maps = (
            [self._linear(scene, form.rank, layer) for layer in self.layers]
            if scene.reference
            else [(_orthonormal(start) / self.entry, torch.zeros_like(start[..., 0])) for start in starts]
        )
        self.weight, self.bias = (nn.ParameterList(map(nn.Parameter, part)) for part in zip(*maps, strict=True))
        ones = torch.ones(len(scene.trains), device=scene.device)
        self.unit = [ones] * len(self.layers) if scene.reference else scene.norms(*self.layers)

    @staticmethod
    def _linear(scene: TrainingContext, rank: int, layer: int) -> tuple[Tensor, Tensor]:
        """W `[C, r, H]` and b `[C, r]` as the reference has them: a linear layer's own start."""
        both = scene.uniform(rank, scene.hidden + 1, salt=f"linear {layer}")
        return both[..., :-1].contiguous(), both[..., -1].contiguous()

    def _parts(self, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """R, W `[C, r, H]` and b `[C, r]` at the k-th of the layers."""
        return _orthonormal(self.raw[k]), self.weight[k] * self.entry, self.bias[k] * self.unit[k][:, None]

    def hooks(self) -> list[tuple[nn.Module, Hook]]:
        return [(block, on_states(lambda h, k=k: self._edit(h, k))) for k, block in enumerate(self.blocks)]  # type: ignore[misc]

    def _edit(self, h: Tensor, k: int) -> Tensor:
        rotation, weight, bias = (part[self.now.concept][:, None] for part in self._parts(k))
        factor = torch.where(self.now.null, -self.now.factor, self.now.factor)[:, None]
        state = h.float()
        p = {"rotation": rotation, "weight": weight, "bias": bias, "strength": factor}
        new = state + LowRank.change(state, p, frozenset())
        return torch.where(inside(self.now, self.span), new.to(h.dtype), h)

    def steering(self, concept: int) -> Steering:
        edits = []
        for k, layer in enumerate(self.layers):
            rotation, weight, bias = (array(part[concept]) for part in self._parts(k))
            edits.append(LowRank(layer=layer, rotation=rotation, weight=weight, bias=bias, span=self.span))
        return Steering(edits=tuple(edits))

    def note(self, concept: int) -> Mapping[str, Any]:
        return {"layers": self.layers}


def _orthonormal(raw: Tensor) -> Tensor:
    """Rows of `raw` `[C, r, H]` orthonormalised in order (Gram-Schmidt through QR with a positive diagonal)."""
    q, r = torch.linalg.qr(raw.mT)
    sign = torch.sign(torch.diagonal(r, dim1=-2, dim2=-1))[:, None]
    found: Tensor = (q * sign).mT
    return found
