"""A flow from a concept's words to a push of each token (`ConceptFlow`), one network for all concepts.

Invariant: a row at factor 0 keeps its states; at another its states follow the flow for so long a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.backends.hf.flow import concept_states, start
from bench.backends.hf.modules import blocks
from bench.core.content import Array, Weights
from bench.core.edits import Span
from bench.core.fields import SLOTS, STEPS, TIME_NAMES, ConceptFlow, concept_keys, time_embeddings
from bench.core.steering import Steering
from bench.training.changes.base import Change, Hook, TrainingContext, array, inside, on_states
from bench.training.parametrisations import Flow

FIXED = ("eps", "softcap", "frequencies")
"""What of a flow is not learnt."""
CENTRED = ("blocks.0.cross_attn.k_proj", "blocks.0.cross_attn.v_proj")
"""What reads a concept's states."""


class FlowChange(Change):
    """h ← h + Σ_k (a/N)·v(h, ka/N, concept), a the row's factor; weights `[...]` of one network.

    Gates and e(t) are in units of median ‖h‖ / √H, so that a flow pushes as far on every model.
    """

    shared = True
    ramped = False

    def __init__(self, scene: TrainingContext, form: Flow) -> None:
        super().__init__()
        self.layer = self.floor = self.first = scene.ctx.layer(form.layer)
        self.block = blocks(scene.model)[self.layer]
        self.steps, self.diversity, self.together, self.times = form.steps, form.diversity, form.together, form.times
        (norms,) = scene.norms(self.layer)
        self.unit = float(norms.mean()) / scene.hidden**0.5
        net, self.activation = start(scene.ctx.lm, self.layer, scene.ctx.rng("train", "flow"))
        tensors = {name: torch.from_numpy(value).to(scene.device) for name, value in net.items()}
        self.fixed = {name: tensors.pop(name) for name in FIXED}
        self.names = list(tensors)
        self.weights = nn.ParameterList(map(nn.Parameter, tensors.values()))
        self.conditions = [concept_states(scene.ctx.lm, train.concept.text) for train in scene.trains]
        # What all descriptions have in common says nothing of any; a network of one concept has nothing to centre on.
        mean = np.concatenate(self.conditions).mean(0) * (len(self.conditions) > 1)
        self.centre = torch.from_numpy(mean).to(scene.device)
        padded = [np.pad(states, [(0, SLOTS - len(states)), (0, 0)]) for states in self.conditions]
        self.padded = torch.from_numpy(np.stack(padded)).to(scene.device)
        counts = torch.tensor([len(states) for states in self.conditions])
        self.there = (torch.arange(SLOTS) < counts[:, None]).float().to(scene.device)
        self.span = Span()
        self._penalty: Tensor | None = None
        self._kept: Weights | None = None

    def net(self) -> dict[str, Tensor]:
        """The weights in the model's own units."""
        found = dict(zip(self.names, self.weights, strict=True))
        scaled = [name for name in self.names if name.endswith("_gate")] + list(TIME_NAMES[2:])
        own = {name: self.unit * found[name] for name in scaled}
        own |= {f"{name}.bias": -found[f"{name}.weight"] @ self.centre for name in CENTRED}
        return self.fixed | found | own

    def hooks(self) -> list[tuple[nn.Module, Hook]]:
        return [(self.block, on_states(self._edit))]

    def _edit(self, h: Tensor) -> Tensor:
        net, rows, time = self.net(), self.now.concept, self.now.factor
        # Keys of the present concepts alone: a pass has a few of many.
        own, place = torch.unique(rows, return_inverse=True)
        keys, values = (part[place][:, None] for part in concept_keys(net, self.padded[own]))
        p = {"keys": keys, "values": values, "there": self.there[rows][:, None], "time": time[:, None]}
        p |= {"times": time_embeddings(net, time, self.steps)[:, None], "index": self.now.index}
        p |= {f"net.{name}": value for name, value in net.items()}
        state, there = h.float(), inside(self.now, self.span)
        moved = ConceptFlow.change(state, p, {f"activation={self.activation}", f"{STEPS}{self.steps}"})
        self._penalty = self._alike(moved, there)
        return torch.where(there, (state + moved).to(h.dtype), h)

    def _alike(self, moved: Tensor, there: Tensor) -> Tensor | None:
        """How far each row's mean push points where those of other concepts do, `[B]`: their mean cosine, weighed."""
        other = self.now.concept[:, None] != self.now.concept
        if not self.diversity or not other.any():
            return None
        mean = (moved * there).sum(1) / there.sum(1).clamp(min=1)
        mean = mean / mean.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        found: Tensor = self.diversity * (mean @ mean.T * other).sum(1) / other.sum(1).clamp(min=1)
        return found

    def penalty(self) -> Tensor | None:
        return self._penalty

    def settle(self) -> None:
        self._kept = None

    def exported(self) -> Weights:
        """The weights as data, one object for all concepts."""
        if self._kept is None:
            self._kept = Weights({name: array(value) for name, value in self.net().items()})
        return self._kept

    def steering(self, concept: int) -> Steering:
        return self._steering(self.conditions[concept])

    def unseen(self, scene: TrainingContext) -> list[Steering]:
        """Steerings to concepts that were not trained on, from their words alone."""
        return [self._steering(concept_states(scene.ctx.lm, train.concept.text)) for train in scene.trains]

    def _steering(self, condition: Array) -> Steering:
        flow = ConceptFlow(
            layer=self.layer,
            span=self.span,
            net=self.exported(),
            condition=condition,
            activation=self.activation,
            steps=self.steps,
        )
        return Steering(edits=(flow,))

    def note(self, concept: int) -> Mapping[str, Any]:
        return {"layer": self.layer, "parameters": sum(weight.numel() for weight in self.weights)}
