"""Objectives over hidden states: representation rerouting, LoRRA, AntiPaSTO.

Invariant: the first token of a row, an attention sink, is in no loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.core.values import Example, Train
from bench.training.objectives.base import Batch, Objective, Slot, StateObjective, objective

if TYPE_CHECKING:
    from torch import Tensor

    from bench.training.texts import Passed, Texts

MID: tuple[float, ...] = (0.31, 0.62)
"""Layers 10 and 20 of 32."""


@objective("reroute", "texts")
@dataclass(frozen=True)
class Reroute(StateObjective):
    """c_s·mean ReLU(cos(h₀, h)) on texts with the concept + c_r·mean ‖h - h₀‖/‖h₀‖ on those to retain;
    c_s falls from the strength to its half and c_r rises from 0 to
    it (circuit breakers)."""

    slots: ClassVar[tuple[Slot, ...]] = (Slot(0), Slot(1))
    strength: float = 10.0
    targets: tuple[float, ...] = MID

    def items(self, train: Train) -> list[tuple[Example, ...]]:
        retain = [*train.negatives, *train.hard_negatives]
        return [(example, retain[i % len(retain)]) for i, example in enumerate(train.positives)]

    def loss(self, batch: Batch) -> Tensor:
        import torch

        assert batch.still is not None
        broken = self.strength * (1 - batch.done / 2)
        kept = self.strength * batch.done / 2
        total = torch.zeros(len(batch.concept), device=batch.concept.device)
        for layer, states in batch.passed.states.items():
            new, old = (split(found, 2) for found in (states, batch.still.states[layer]))
            there = split(batch.passed.inside, 2)[:, :, 1:].float()
            cosine = torch.relu(torch.cosine_similarity(old[:, 0, 1:], new[:, 0, 1:], dim=-1))
            moved = (new[:, 1, 1:] - old[:, 1, 1:]).norm(dim=-1)
            if not batch.reference:  # relative, so that the strength means the same on every model
                moved = moved / old[:, 1, 1:].norm(dim=-1).clamp(min=1e-6)
            total = total + broken * mean_over(cosine, there[:, 0]) + kept * mean_over(moved, there[:, 1])
        return total / len(batch.passed.states)


@objective("lorra", "texts", "personas")
@dataclass(frozen=True)
class LoRRA(StateObjective):
    """mean over layers and response tokens of ‖h - (h₀ + contrast·(h⁺ - h⁻))‖ / ‖h₀‖, h± the bare model's states of
    the same response under the concept's persona and its opposite."""

    slots: ClassVar[tuple[Slot, ...]] = (Slot(0),)
    contrast: float = 5.0
    targets: tuple[float, ...] = (0.35, 0.45, 0.55)

    def items(self, train: Train) -> list[tuple[Example, ...]]:
        found = []
        for i, plain in enumerate(train.negatives):
            wished, other = train.personas[i % len(train.personas)]
            found.append((plain, *(_under(persona, plain) for persona in (wished, other))))
        return found

    def loss(self, batch: Batch) -> Tensor:
        import torch

        assert batch.still is not None
        total = torch.zeros(len(batch.concept), device=batch.concept.device)
        for layer, states in batch.passed.states.items():
            rows = responses(batch.still, batch.still.states[layer])
            (plain, wished, other), counts = _thirds(rows)
            new = responses(batch.passed, states)
            length = min(part.shape[1] for part in (plain, wished, other, new[0]))
            target = plain[:, :length] + self.contrast * (wished - other)[:, :length]
            far = (new[0][:, :length] - target).norm(dim=-1)
            there = torch.arange(length, device=far.device)[None] < counts[:, None]
            total = total + mean_over(far / plain[:, :length].norm(dim=-1).clamp(min=1e-6), there.float())
        return total / len(batch.passed.states)


@objective("antipasto", "texts", "personas")
@dataclass(frozen=True)
class AntiPaSTO(Objective):
    """Factors +1 and -1 push the difference between a persona's states and its opposite's opposite ways along
    it, in the `rank` main axes of that difference, while each stays near the bare model's predictions."""

    slots: ClassVar[tuple[Slot, ...]] = (Slot(0), Slot(1), Slot(0, -1.0), Slot(1, -1.0))
    compares: ClassVar[bool] = True
    rank: int = 4
    weight: float = 30.0
    kappa: float = 0.9
    beta: float = 0.02
    target: float = 0.5
    words: int = 16

    @property
    def depths(self) -> tuple[float, ...]:
        return (self.target,)

    def items(self, train: Train) -> list[tuple[Example, ...]]:
        found: list[tuple[Example, ...]] = []
        for i, plain in enumerate(train.negatives):
            start = Example(plain.instruction, " ".join(plain.response.split(" ")[: self.words]))
            found.append(tuple(_under(persona, start) for persona in train.personas[i % len(train.personas)]))
        return found

    def measure(self, texts: Texts, items: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        import torch

        layer = int(self.target * len(texts.blocks))
        with torch.no_grad():
            sides = [[_ends(texts.run([item[k]], None, states=[layer], logits=False), layer) for item in items]
                     for k in (0, 1)]  # fmt: skip
        apart = torch.cat(sides[0]) - torch.cat(sides[1])
        axes = torch.linalg.svd(apart, full_matrices=False).Vh[: self.rank]
        axes = torch.nn.functional.pad(axes, (0, 0, 0, self.rank - len(axes)))
        spread = (apart @ axes.T).std(0, unbiased=False)
        return {"axes": axes, "spread": spread.clamp(min=max(0.1 * float(spread.median()), 0.05))}

    def loss(self, batch: Batch) -> Tensor:
        import torch

        assert batch.still is not None
        layer = next(iter(batch.passed.states))
        ends, still = split(_ends(batch.passed, layer), 4), split(_ends(batch.still, layer), 2)
        axes, spread = (batch.constants[name][batch.concept] for name in ("axes", "spread"))
        bare = still[:, 0] - still[:, 1]
        ramp = min(1.0, batch.done / 0.2)
        cosines, focus = [], []
        v0 = torch.einsum("nh,nrh->nr", bare, axes) / spread
        for k in (0, 2):
            moved = ends[:, k] - ends[:, k + 1] - bare
            inside = torch.einsum("nh,nrh->nr", moved, axes)
            cosines.append(torch.cosine_similarity(inside / spread, v0, dim=-1))
            share = inside.norm(dim=-1) / moved.norm(dim=-1).clamp(min=1e-6)
            focus.append(share.clamp(min=1e-6) ** (0.75 * ramp))
        s = self.weight * cosines[0] * cosines[1] * focus[0] * focus[1]
        along: Tensor = s + torch.relu(s).square()
        entropy = _entropy(batch.still.logits)
        return along + ramp * (self._coherence(batch, entropy) + self._order(batch, entropy))

    def _coherence(self, batch: Batch, entropy: Tensor) -> Tensor:
        """How far each sign's predictions on its own side leave the band that the bare entropy allows, `[n]`."""
        import torch

        assert batch.still is not None
        total = torch.zeros(len(batch.concept), device=batch.concept.device)
        for slot, text in ((0, 0), (3, 1)):
            row = batch.passed.row
            chosen, own = row % 4 == slot, batch.still.row % 2 == text
            new, old = batch.passed.logits[chosen].softmax(-1), batch.still.logits[own].softmax(-1)
            far = torch.relu((new - old).abs().sum(-1) / 2 - self.kappa * (entropy[own] + self.beta).sqrt())
            total = total + _by_item(torch.log1p(10 * far) ** 2 + far, row[chosen] // 4, len(total))
        return total

    def _order(self, batch: Batch, entropy: Tensor) -> Tensor:
        """Factor +1 is to favour the wished persona's side by a margin, -1 the other, `[n]`; the margin grows with
        the bare model's entropy on the wished side."""
        import torch

        assert batch.still is not None
        mean = batch.logp / batch.lengths[:, [0, 1, 0, 1]]
        bare = batch.bare / batch.lengths
        gain = [mean[:, k] - mean[:, k + 1] - (bare[:, 0] - bare[:, 1]) for k in (0, 2)]
        wished = batch.still.row % 2 == 0
        margin = 0.04 + 0.5 * _by_item(entropy[wished], batch.still.row[wished] // 2, len(batch.concept)).sqrt()
        kept = torch.relu(margin + gain[1]) + torch.relu(margin - gain[0])
        if not batch.reference:
            return self.weight * kept
        mirrored = torch.relu(margin + gain[0]) + torch.relu(margin - gain[1])
        return self.weight * torch.minimum(kept, mirrored)  # the code takes whichever order is nearer


def _under(persona: str, plain: Example) -> Example:
    return Example(f"Take the part of {persona}.\n\n{plain.instruction}", plain.response)


def split(rows: Tensor, slots: int) -> Tensor:
    """Rows `[n·slots, ...]` as `[n, slots, ...]`."""
    return rows.view(-1, slots, *rows.shape[1:])


def mean_over(values: Tensor, there: Tensor) -> Tensor:
    return (values * there).sum(-1) / there.sum(-1).clamp(min=1)


def _entropy(logits: Tensor) -> Tensor:
    """Of each prediction `[N]`, in nats."""
    p = logits.softmax(-1)
    found: Tensor = -(p * p.clamp(min=1e-12).log()).sum(-1)
    return found


def _by_item(values: Tensor, item: Tensor, count: int) -> Tensor:
    """Mean of the tokens' values `[N]` of each item, `[count]`."""
    import torch

    zeros = torch.zeros(count, device=values.device)
    total, tokens = (zeros.index_add(0, item, part) for part in (values, torch.ones_like(values)))
    return total / tokens.clamp(min=1)


def responses(passed: Passed, states: Tensor) -> tuple[Tensor, Tensor]:
    """The states of each row's response `[B, R, H]`, moved to its front, and their number `[B]`."""
    import torch

    counts = passed.response.sum(1)
    place = passed.prompts[:, None] + torch.arange(int(counts.max()), device=counts.device)[None]
    place = place.clamp(max=states.shape[1] - 1)
    return states.gather(1, place[..., None].expand(-1, -1, states.shape[-1])), counts


def _thirds(rows: tuple[Tensor, Tensor]) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    states, counts = (split(part, 3) for part in rows)
    return (states[:, 0], states[:, 1], states[:, 2]), counts.min(1).values


def _ends(passed: Passed, layer: int) -> Tensor:
    """Mean state of each row's last three tokens, `[B, H]`."""
    import torch

    states = passed.states[layer].float()
    length = passed.inside.sum(1, keepdim=True)
    index = torch.arange(states.shape[1], device=states.device)[None]
    weight = ((index >= length - 3) & (index < length) & (index > 0)).float()
    return (states * weight[..., None]).sum(1) / weight.sum(1, keepdim=True)
