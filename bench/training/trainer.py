"""One trainer for every parametrisation and objective: many concepts in one batch, above a frozen prefix.

Invariant: a concept's rows, random draws, clipping and stopping are its own, so training it among others
gives what training it alone gives (to rounding), unless its parametrisation shares parameters.
"""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from bench.backends.hf.memory import exhausted
from bench.core.errors import BenchError
from bench.core.interfaces import Context
from bench.core.values import Example, Train
from bench.training.changes.base import Change, RowPlan, TrainingContext
from bench.training.changes.build import change_of
from bench.training.objectives.base import Batch, Objective
from bench.training.parametrisations import Parametrisation
from bench.training.texts import PASS, Text, Texts

TOGETHER = 64
"""Concepts whose parameters and kept states are in memory at once, at most."""
EVERY = 10.0
"""Seconds between two lines of progress."""


@dataclass(frozen=True)
class Recipe:
    """How to train: AdamW at `rate`, falling linearly to 0, gradients of each concept clipped to norm `clip`.

    `batches` of `batch` items of each concept make a step; their gradients are averaged, or `summed`. `factors` are
    drawn for each item. The texts are gone over `epochs` times (0: as often as the budget says), and a concept stops
    when its mean loss of an epoch has not fallen by `tolerance` (relative) for `patience` epochs; never under the
    reference's rules.
    """

    rate: float
    batch: int = 2
    factors: tuple[float, ...] = (1.0,)
    batches: int = 1
    summed: bool = False
    epochs: int = 0
    clip: float = 1.0
    decay: float = 0.0
    patience: int = 3
    tolerance: float = 1e-3


@dataclass
class Trained:
    """One concept's place in a trained change, and how its training went."""

    change: Change
    number: int
    losses: list[float] = field(default_factory=list)
    steps: int = 0
    items: int = 0
    stopped: bool = False

    @property
    def note(self) -> dict[str, object]:
        quarter = max(1, len(self.losses) // 4)
        first, last = (float(np.mean(part)) for part in (self.losses[:quarter], self.losses[-quarter:]))
        loss = {"items": self.items, "steps": self.steps, "loss_first": round(first, 4), "loss_last": round(last, 4)}
        return loss | ({"stopped_early": True} if self.stopped else {}) | dict(self.change.note(self.number))


def train(
    ctx: Context, name: str, trains: Sequence[Train], form: Parametrisation, goal: Objective, recipe: Recipe
) -> Iterator[Trained]:
    """Train `form` on `goal` for each concept; results in the order of `trains`, group by group.

    Raises BenchError where a loss is not finite (with method, concept and step), where a concept has no
    usable text, or where the objective reads no state that the parametrisation changes.
    """
    for together in _groups(ctx, trains, goal, form):
        # A loss needs gradients also where a caller has turned them off.
        with torch.inference_mode(False), torch.enable_grad():
            found = Group(ctx, name, together, form, goal, recipe).fit()
        yield from found


def _groups(ctx: Context, trains: Sequence[Train], goal: Objective, form: Parametrisation) -> Iterator[list[Train]]:
    """Neighbours with equally many items, so that one schedule serves them all."""
    if change_of(form).shared:
        yield list(trains)
        return
    for _, equal in itertools.groupby(trains, key=lambda train: len(goal.items(train))):
        own = list(equal)
        size = 1 if form.name == "full" else TOGETHER
        yield from (own[i : i + size] for i in range(0, len(own), size))


class Group:
    """Concepts that train together."""

    def __init__(
        self, ctx: Context, name: str, trains: Sequence[Train], form: Parametrisation, goal: Objective, recipe: Recipe
    ) -> None:
        self.ctx, self.name, self.trains, self.goal, self.recipe = ctx, name, trains, goal, recipe
        self.reference = ctx.compat == "axbench"
        self.texts = Texts(ctx)
        self.items = [self._encoded(train) for train in trains]
        self.change = change_of(form)(TrainingContext(ctx, trains), form)
        every = sorted({number for items in self.items for item in items for number in item})
        self.states = self._layers()
        below = {self.change.floor} - {-1}
        # What the last block gives is all that the bare predictions need.
        top = {len(self.texts.blocks) - 1} if self.states and goal.logits else set()
        self.texts.read(every, {*below, *self.states, *top}, goal.compares)
        self.constants = self._measured()
        self.orders = [ctx.rng("train", train.concept.id, "order") for train in trains]
        self.dealer = ctx.rng("train", "dealer")
        self.time: float | None = None
        self.draws = [ctx.rng("train", train.concept.id, "draws") for train in trains]
        self.found = [Trained(self.change, c, items=len(self.items[c])) for c in range(len(trains))]

    def _encoded(self, train: Train) -> list[list[int]]:
        items = [[self.texts.add(_text(example)) for example in item] for item in self.goal.items(train)]
        usable = [[number for number in item if number is not None] for item in items if None not in item]
        if not usable:
            raise BenchError(
                f"concept {train.concept.id}: no training text of {self.goal.name} keeps a token of its response "
                f"within the budget of {self.ctx.budget.tokens} tokens"
            )
        return usable

    def _layers(self) -> list[int]:
        """The layers that the objective reads, those that the change reaches."""
        wanted = sorted({int(depth * len(self.texts.blocks)) for depth in self.goal.depths})
        reached = [layer for layer in wanted if layer >= self.change.first]
        if wanted and not reached:
            raise BenchError(
                f"{self.goal.name} reads the states after blocks {wanted}, all below the first that is changed "
                f"({self.change.first}): move one of them"
            )
        return reached

    def _measured(self) -> dict[str, Tensor]:
        found = [self.goal.measure(self.texts, items) for items in self.items]
        return {key: torch.stack([one[key] for one in found]) for key in found[0]}

    def fit(self) -> list[Trained]:
        batch, epochs = self.recipe.batch * self.recipe.batches, self.recipe.epochs or self.ctx.budget.epochs
        count = min(len(items) for items in self.items) if self.change.shared else max(map(len, self.items))
        together = self.change.together or len(self.trains)
        steps = math.ceil(count / batch) * math.ceil(len(self.trains) / together)
        total, step = steps * epochs, 0
        parameters = list(self.change.parameters())
        optimiser = torch.optim.AdamW(parameters, lr=self.recipe.rate, weight_decay=self.recipe.decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda done: 1 - done / total)
        clock = _Clock(self.ctx, self.name, len(self.trains), total)
        best = [(math.inf, 0)] * len(self.trains)
        for epoch in range(epochs):
            orders = [rng.permutation(len(items)) for rng, items in zip(self.orders, self.items, strict=True)]
            for k, part in itertools.product(range(math.ceil(count / batch)), self._dealt()):
                live = [c for c in part if not self.found[c].stopped]
                picked = {c: [self.items[c][i] for i in orders[c][:count][k * batch : (k + 1) * batch]] for c in live}
                picked = {c: items for c, items in picked.items() if items}
                if not picked:
                    break
                if self.change.times:
                    shortest, longest = self.change.times
                    self.time = self.dealer.uniform(shortest, longest)
                losses = self._step(picked, step / total)
                for c, loss in losses.items():
                    if not math.isfinite(loss):
                        where = f"concept {self.trains[c].concept.id} is {loss} at step {step + 1} of {total}"
                        raise BenchError(f"{self.name}: the loss of {where}; try a smaller rate (field `rate`)")
                    self.found[c].losses.append(loss)
                    self.found[c].steps += 1
                self._update(parameters, optimiser)
                schedule.step()
                step += 1
                clock.tick(step, sum(losses.values()) / len(losses))
            for c, one in enumerate(self.found):
                best[c] = self._plateau(one, best[c], epoch, steps)
            if all(one.stopped for one in self.found):
                break
        for parameter in parameters:
            parameter.grad = None
        if broken := [c for c in range(len(self.trains)) if not self._finite(c)]:
            raise BenchError(f"{self.name}: what concept {self.trains[broken[0]].concept.id} learnt is not finite")
        return self.found

    def _dealt(self) -> list[list[int]]:
        """The concepts that make a step together."""
        every, size = range(len(self.trains)), self.change.together
        if not size:
            return [list(every)]
        order = self.dealer.permutation(len(every)).tolist()
        return [order[i : i + size] for i in every[::size]]

    def _finite(self, concept: int) -> bool:
        rows = (p if self.change.shared else p[concept] for p in self.change.parameters())
        return all(bool(torch.isfinite(row).all()) for row in rows)

    def _plateau(self, one: Trained, best: tuple[float, int], epoch: int, steps: int) -> tuple[float, int]:
        """(lowest mean loss of an epoch, its epoch); stops a concept that stays above it too long."""
        if one.stopped or self.change.shared or self.reference:
            return best
        mean = float(np.mean(one.losses[-steps:]))
        if mean < best[0] - self.recipe.tolerance * abs(best[0]) or best[0] == math.inf:
            return mean, epoch
        one.stopped = epoch - best[1] >= self.recipe.patience
        return best

    def _update(self, parameters: list[torch.nn.Parameter], optimiser: torch.optim.Optimizer) -> None:
        """One optimiser step; concepts that have stopped keep what they have."""
        if self.change.shared:
            torch.nn.utils.clip_grad_norm_(parameters, self.recipe.clip)
        else:
            self._clip(parameters)
        self.change.prepare()
        stopped = [c for c, one in enumerate(self.found) if one.stopped]
        kept = [parameter[stopped].clone() for parameter in parameters] if stopped else []
        optimiser.step()
        with torch.no_grad():
            for parameter, old in zip(parameters, kept, strict=False):
                parameter[stopped] = old
        self.change.settle()
        optimiser.zero_grad(set_to_none=False)

    def _clip(self, parameters: list[torch.nn.Parameter]) -> None:
        """Each concept's own gradient to norm `clip` at most."""
        grads = [p.grad for p in parameters if p.grad is not None]
        norm = torch.stack([g.flatten(1).square().sum(1) for g in grads]).sum(0).sqrt()
        scale = (self.recipe.clip / (norm + 1e-6)).clamp(max=1)
        for grad in grads:
            grad.mul_(scale.view(-1, *[1] * (grad.ndim - 1)))

    def _step(self, picked: dict[int, list[list[int]]], done: float) -> dict[int, float]:
        """Gradients of each concept's mean loss over its items, in as many passes as fit; the losses. A step that
        memory does not take is made again, with the same draws, in smaller passes."""
        while True:
            draws, lacking = copy.deepcopy(self.draws), 0
            try:
                return self._passed(picked, done)
            except Exception as error:
                if not exhausted(error):
                    raise
                parts = [sum(self._cost(items) for c, items in picked.items() if c in p) for p in self._passes(picked)]
                if len(parts) == len(picked):
                    raise BenchError(
                        f"{self.name}: no memory for one concept's step of {max(parts):,} tokens"
                    ) from error
                lacking = max(parts)
            self.texts.memory.failed(lacking)  # outside the handler: its traceback holds the pass's tensors
            self.draws = draws
            for parameter in self.change.parameters():
                parameter.grad = None

    def _passed(self, picked: dict[int, list[list[int]]], done: float) -> dict[int, float]:
        found: dict[int, float] = {}
        for part in self._passes(picked):
            items = [(c, item) for c in part for item in picked[c]]
            loss, penalty = self._loss(items, {c: len(picked[c]) for c in part}, done)
            concept = torch.tensor([c for c, _ in items], device=loss.device)
            weights = [pair for c in part for pair in self._weights(picked[c])]
            by_loss, evenly = torch.tensor(weights, device=loss.device).T
            share = done if self.change.ramped else 1.0
            weighed = loss * by_loss if penalty is None else loss * by_loss + share * penalty * evenly
            mean = torch.zeros(len(self.trains), device=loss.device).index_add(0, concept, weighed)
            mean.sum().backward()  # type: ignore[no-untyped-call]
            values = mean.detach().tolist()
            found.update({c: values[c] for c in part})
        return found

    def _weights(self, items: Sequence[Sequence[int]]) -> list[tuple[float, float]]:
        """What each item's loss counts in a step, and what its penalty counts: alike, but that the reference weighs the
        texts of a batch by their response tokens where the loss is a mean over tokens."""
        size = self.recipe.batch
        parts = [items[i : i + size] for i in range(0, len(items), size)]
        each = 1.0 if self.recipe.summed else 1 / len(parts)
        evenly = [each / len(part) for part in parts for _ in part]
        if not (self.reference and self.goal.by_token):
            return [(weight, weight) for weight in evenly]
        counts = [[sum(self.texts.size(number)[0] for number in item) for item in part] for part in parts]
        return list(zip((each * n / sum(part) for part in counts for n in part), evenly, strict=True))

    def _passes(self, picked: dict[int, list[list[int]]]) -> Iterator[list[int]]:
        """Concepts in groups of about `PASS` tokens, or of as many as memory takes."""
        part: list[int] = []
        spent = 0
        for c, items in picked.items():
            cost = self._cost(items)
            if part and (spent + cost > PASS or self.texts.memory.lacks(spent + cost)):
                yield part
                part, spent = [], 0
            part.append(c)
            spent += cost
        if part:
            yield part

    def _cost(self, items: list[list[int]]) -> int:
        """Tokens that a concept's items are in one pass."""
        return max(len(self.goal.slots), len(items[0])) * sum(max(map(self.texts.tokens, item)) for item in items)

    def _loss(
        self, items: list[tuple[int, list[int]]], counts: dict[int, int], done: float
    ) -> tuple[Tensor, Tensor | None]:
        """The loss of each item `[n]`, and the penalty of the change on it."""
        device, slots = self.texts.device, self.goal.slots
        signs, draws = self._drawn(counts)
        rows = [(c, item[slot.text], sign * slot.sign * draw[k], slot.null)
                for (c, item), sign, draw in zip(items, signs, draws, strict=True)
                for k, slot in enumerate(slots)]  # fmt: skip
        null = torch.tensor([n for *_, n in rows], device=device)
        factor = torch.tensor([f for _, _, f, _ in rows], dtype=torch.float32, device=device)
        if self.reference and not self.change.nulls:  # the reference's loader drops it for all but vectors
            factor, null = torch.where(null, 0.0, factor), torch.zeros_like(null)
        concept = torch.tensor([c for c, *_ in rows], device=device)
        passed = self.texts.run(
            [number for _, number, *_ in rows],
            self.change,
            RowPlan(concept, factor, null),
            self.states,
            self.goal.logits,
        )
        flat = [number for _, item in items for number in item]
        still = None
        if self.states:
            with torch.no_grad():
                still = self.texts.run(flat, None, states=self.states, logits=self.goal.logits)
        wide = len(items[0][1])
        sizes = torch.tensor([self.texts.size(number) for number in flat], dtype=torch.float32, device=device)
        batch = Batch(
            logp=passed.total.view(len(items), -1) if self.goal.logits else torch.zeros(0, device=device),
            bare=self.texts.bare(flat).view(-1, wide) if self.goal.compares else torch.zeros(0, device=device),
            lengths=sizes[:, 0].view(-1, wide),
            widths=sizes[:, 1].view(-1, wide),
            sign=torch.tensor(signs, dtype=torch.float32, device=device),
            done=done,
            concept=torch.tensor([c for c, _ in items], device=device),
            passed=passed,
            still=still,
            constants=self.constants,
            reference=self.reference,
        )
        loss = self.goal.loss(batch)
        extra = self.change.penalty()
        return loss, None if extra is None else extra.view(len(items), -1).mean(1)

    def _drawn(self, counts: dict[int, int]) -> tuple[list[float], list[list[float]]]:
        """A sign for each item, and a factor for each of its slots."""
        signs: list[float] = []
        draws: list[list[float]] = []
        for c, count in counts.items():
            signs += self.goal.signs(self.draws[c], count, self.reference)
            for _ in range(count):
                among = self.recipe.factors if self.time is None else (self.time,)
                chosen = self.draws[c].choice(among, len(self.goal.slots)).tolist()
                draws.append(chosen if self.reference and self.goal.apart else [chosen[0]] * len(chosen))
        return signs, draws


class _Clock:
    """Says now and then how far training is."""

    def __init__(self, ctx: Context, name: str, concepts: int, total: int) -> None:
        self.ctx, self.name, self.concepts, self.total = ctx, name, concepts, total
        self.begun = self.said = time.monotonic()

    def tick(self, step: int, loss: float) -> None:
        now = time.monotonic()
        if now - self.said < EVERY:
            return
        self.said = now
        left = (now - self.begun) / step * (self.total - step)
        many = f"{self.concepts} concepts" if self.concepts > 1 else "one concept"
        self.ctx.log(f"{self.name}: {many}, step {step}/{self.total}, loss {loss:.4g}, about {left:.0f} s left")


def _text(example: Example) -> Text:
    return Text(example.messages[:-1], example.response)
