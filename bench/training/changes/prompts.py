"""A soft prompt: rows that a model reads as embeddings between what every chat begins with and a chat's own words.

Invariant: a text's own tokens keep their order and company; each stands as many places later as there are rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from bench.backends.hf.backend import HFBackend
from bench.core.embeds import Embeds
from bench.core.steering import Steering
from bench.training.changes.base import Change, Hook, TrainingContext, array
from bench.training.parametrisations import SoftPrompt

SAMPLE = 1024
"""Tokens of the vocabulary by whose embeddings a length is measured."""


class SoftPromptChange(Change):
    """Rows μw, w `[n, H]` per concept, in the place of embeddings.

    μ = mean ‖e‖ / √H over the vocabulary, so that a rate means the same on every model.
    """

    floor = -1
    first = 0

    def __init__(self, scene: TrainingContext, form: SoftPrompt) -> None:
        super().__init__()
        self.inserts = form.size
        self.embedding = scene.model.get_input_embeddings()
        rows = self.embedding.weight.shape[0]
        some = self._read(torch.linspace(0, rows - 1, min(rows, SAMPLE), device=scene.device).long())
        self.unit = float(some.norm(dim=1).mean()) / scene.hidden**0.5
        if form.opening:
            start = torch.stack([self._read(ids) for ids in self._said(scene, form)]) / self.unit
        else:
            start = scene.normal(form.size, scene.hidden, salt="soft prompt")
        self.start = start
        self.weight = nn.Parameter(start.clone())

    def _read(self, ids: Tensor) -> Tensor:
        """Embeddings `[N, H]` as the model's own module gives them, scaled where it scales them."""
        with torch.no_grad():
            found: Tensor = self.embedding(ids).float()
        return found

    @staticmethod
    def _said(scene: TrainingContext, form: SoftPrompt) -> list[Tensor]:
        """Each concept's opening as `size` tokens: cut, or said again from the start."""
        chat = cast(HFBackend, scene.ctx.lm).chat
        found = []
        for train in scene.trains:
            ids = chat.continued(form.opening.replace("{concept}", train.concept.text))
            found.append(torch.tensor([ids[i % len(ids)] for i in range(form.size)], device=scene.device))
        return found

    def vectors(self) -> Tensor:
        """`[C, n, H]` as the model reads them."""
        found: Tensor = self.weight * self.unit
        return found

    def hooks(self) -> list[tuple[nn.Module, Hook]]:
        return [(self.embedding, self._put)]

    def _put(self, _: nn.Module, __: Any, embedded: Tensor) -> Tensor:
        return Embeds.put(embedded, self.vectors()[self.now.concept], self.now.index - self.now.header)

    def steering(self, concept: int) -> Steering:
        return Steering(embeds=(Embeds(array(self.vectors()[concept])),))

    def note(self, concept: int) -> Mapping[str, Any]:
        moved = (self.weight[concept].detach() - self.start[concept]).norm() / self.start[concept].norm()
        return {"tokens": self.inserts, "moved": round(float(moved), 4)}
