"""A gated vector after each of many blocks: what a prompt does to states, as an edit that states themselves turn on.

Invariant: at the start nothing is added and every gate is open.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bench.backends.hf.modules import blocks
from bench.core.edits import Span
from bench.core.kinds import Scaled
from bench.core.steering import Steering
from bench.training.changes.base import Change, Hook, TrainingContext, array, inside, on_states
from bench.training.parametrisations import Focused


class FocusedChange(Change):
    """h ← h + a·ReLU(w·h + b)·z after each of the blocks, from the last prompt token on; w, z `[H]`, b a number.

    z and w start at 0 and b at 1, so that no gate starts shut. z is learnt in units of the state's entries, w in
    inverse norms, so that a rate means the same on every model.
    """

    def __init__(self, scene: TrainingContext, form: Focused) -> None:
        super().__init__()
        self.layers, self.gate = scene.layers(form.layers), form.gate
        self.floor = self.first = min(self.layers)
        self.blocks = [blocks(scene.model)[layer] for layer in self.layers]
        self.span = Span("generation")
        norms = scene.norms(*self.layers)
        self.unit = [norm[:, None] / scene.hidden**0.5 for norm in norms]
        self.inverse = [1 / norm[:, None] for norm in norms]
        shape = (len(scene.trains), scene.hidden)
        zeros = [torch.zeros(shape, device=scene.device) for _ in self.layers]
        self.write = nn.ParameterList(nn.Parameter(zero) for zero in zeros)
        self.read = nn.ParameterList(nn.Parameter(zero.clone(), requires_grad=form.gate) for zero in zeros)
        self.bias = nn.ParameterList(nn.Parameter(torch.ones_like(z[:, :1]), requires_grad=form.gate) for z in zeros)

    def parameters(self, recurse: bool = True) -> Any:
        """Those that are learnt."""
        return (parameter for parameter in super().parameters(recurse) if parameter.requires_grad)

    def hooks(self) -> list[tuple[nn.Module, Hook]]:
        return [(block, on_states(lambda h, k=k: self._edit(h, k))) for k, block in enumerate(self.blocks)]  # type: ignore[misc]

    def _edit(self, h: Tensor, k: int) -> Tensor:
        own = self.now.concept
        read, write = ((part[k] * unit[k])[own][:, None, None] for part, unit in
                       ((self.read, self.inverse), (self.write, self.unit)))  # fmt: skip
        factor = torch.where(self.now.null, -self.now.factor, self.now.factor)[:, None]
        state = h.float()
        p = {"read": read, "write": write, "bias": self.bias[k][own][:, None], "strength": factor}
        new = state + Scaled.change(state, p, {"activation=relu"})
        return torch.where(inside(self.now, self.span), new.to(h.dtype), h)

    def steering(self, concept: int) -> Steering:
        edits: list[Any] = []
        for k, layer in enumerate(self.layers):
            write = array((self.write[k] * self.unit[k])[concept])[None]
            read = array((self.read[k] * self.inverse[k])[concept])[None]
            bias = array(self.bias[k][concept])
            edits.append(Scaled(layer=layer, read=read, write=write, bias=bias, activation="relu", span=self.span))
        return Steering(edits=tuple(edits))

    def note(self, concept: int) -> Mapping[str, Any]:
        return {"layers": [self.layers[0], self.layers[-1]], "gate": self.gate}
