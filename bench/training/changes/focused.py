"""A gated vector after each of many blocks: what a prompt does to states, as an edit that states themselves turn on.

Invariant: at the start it adds to every token what the prompt adds on average at that block and no earlier one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.backends.hf.modules import blocks
from bench.core.content import Array
from bench.core.edits import Span
from bench.core.kinds import Scaled
from bench.core.steering import Steering
from bench.core.values import Train
from bench.training.changes.base import Change, Hook, TrainingContext, array, inside, on_states
from bench.training.parametrisations import Focused
from bench.training.prompted import under_prompt


class FocusedChange(Change):
    """h ← h + a·ReLU(w·h + b)·z after each of the blocks, from the last prompt token on; w, z `[H]`, b a number.

    z starts at the mean of what the prompt moves there beyond what it moved a block earlier, w at 0 and b at 1, so that
    no gate starts shut. z is learnt in units of the state's entries, w in inverse norms, so that a rate means the same
    on every model.
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
        moved = [_moved(scene, train, self.layers) for train in scene.trains]
        starts = [
            torch.tensor(np.stack(own), dtype=torch.float32, device=scene.device) for own in zip(*moved, strict=True)
        ]
        self.write = nn.ParameterList(nn.Parameter(s / u) for s, u in zip(starts, self.unit, strict=True))
        self.read = nn.ParameterList(nn.Parameter(torch.zeros_like(s), requires_grad=form.gate) for s in starts)
        self.bias = nn.ParameterList(nn.Parameter(torch.ones_like(s[:, :1]), requires_grad=form.gate) for s in starts)

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


def _moved(scene: TrainingContext, train: Train, layers: Sequence[int]) -> list[Array]:
    """What the prompt moves response states by on average, `[H]` after each of the blocks, less what it moved them by
    after the one before."""
    plain = list(train.positives)
    prompted = [under_prompt(train, example) for example in plain]
    sides = []
    for texts in (plain, prompted):
        reads = scene.ctx.read([text.messages for text in texts], layers)
        sides.append([_mean([read.values[layer][read.response :] for read in reads]) for layer in layers])
    whole = [there - here for here, there in zip(*sides, strict=True)]
    return [now - before for now, before in zip(whole, [np.zeros_like(whole[0]), *whole], strict=False)]


def _mean(rows: Sequence[Array]) -> Array:
    """Mean `[H]` over the rows of all texts; a text whose response was cut off has none."""
    found: Array = np.concatenate(rows).mean(0)
    return found
