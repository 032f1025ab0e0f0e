"""Training texts as token rows above a frozen prefix: what no parameter touches is computed once.

Invariant: a row's states and log-probabilities depend on the row alone; padding is on the right, where
a causal model cannot see it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from bench.backends import devices
from bench.backends.hf.attention import widened
from bench.backends.hf.backend import HFBackend
from bench.backends.hf.batches import Batches
from bench.backends.hf.modules import Enough, blocks, first, read_blocks, resumed
from bench.core.content import Message
from bench.core.interfaces import Context
from bench.training.changes.base import Change, RowPlan
from bench.training.kept import Kept

T = TypeVar("T")
PASS = 4096
"""Tokens that go through the model at once, about: beyond it a step is several passes."""


@dataclass(frozen=True)
class Text:
    """A chat and its response."""

    prompt: tuple[Message, ...]
    response: str


@dataclass(frozen=True)
class Passed:
    """What one pass of `B` rows gave.

    `tokens` `[N]` is the log-probability of each response token and `row` `[N]` its row; `logits`
    `[N, V]` what they were taken from; `states[layer]` `[B, T, H]` block outputs, with `inside` and
    `response` `[B, T]` saying which positions are real and which belong to the response.
    """

    tokens: Tensor
    row: Tensor
    logits: Tensor
    states: dict[int, Tensor]
    inside: Tensor
    response: Tensor
    prompts: Tensor

    @property
    def total(self) -> Tensor:
        """Summed log-probability of each row's response, `[B]`."""
        return torch.zeros(len(self.inside), device=self.tokens.device).index_add(0, self.row, self.tokens)


class Texts:
    """The texts of a fit on one model: token rows, cut at the budget, and what the bare model gives for them."""

    def __init__(self, ctx: Context) -> None:
        self.lm, self.model = ctx.lm, ctx.lm.module
        self.memory, self.chat = cast(HFBackend, ctx.lm).training_memory, cast(HFBackend, ctx.lm).chat
        self.kept = Kept.of(ctx)
        self.kept.begin()
        self.blocks = blocks(self.model)
        self.limit = ctx.budget.tokens
        self.device = devices.of(self.model)
        self.batches = Batches(PASS, PASS, 0, self.device, self.memory)
        self._known: dict[Text, int | None] = {}
        self._ids: list[list[int]] = []
        self._names: list[bytes] = []
        self._prompts: list[int] = []
        self._headers: list[int] = []

    def add(self, text: Text) -> int | None:
        """The number of a text; None where the cut leaves no token of its response."""
        if text not in self._known:
            prompt = len(self.lm.encode(text.prompt))
            ids = self.lm.encode(text.prompt, text.response)
            header = self.lm.header(ids)
            ids = ids[: header + self.limit] if self.limit else ids
            self._known[text] = len(self._ids) if len(ids) > prompt else None
            if len(ids) > prompt:
                self._ids.append(ids)
                self._names.append(sha256(array("q", ids)).digest())
                self._prompts.append(prompt)
                self._headers.append(header)
        return self._known[text]

    def tokens(self, number: int) -> int:
        return len(self._ids[number])

    def size(self, number: int) -> tuple[int, int]:
        """Tokens of a text's response, and of all of it."""
        return self.tokens(number) - self._prompts[number], self.tokens(number)

    def read(self, numbers: Sequence[int], layers: Collection[int], scored: bool = False) -> None:
        """Have the bare model's states after the blocks `layers` at hand for these texts, where there is room, and
        (`scored`) its log-probabilities: what none of the session's fits has read yet, all in one pass."""
        lacking: dict[tuple[int, frozenset[int], bool], list[int]] = {}
        for number in sorted(set(numbers)):
            states = frozenset(layers) - self.kept.layers(self._names[number])
            unscored = scored and self._asked(number) not in self.kept.totals
            if states or unscored:
                start = self._start([number], None, states, unscored)
                lacking.setdefault((start, states, unscored), []).append(number)
        for (_, states, unscored), own in lacking.items():
            # From one start and of one kind, so that a pass computes nothing that only some of its rows need.
            def work(part: list[int], states: frozenset[int] = states, unscored: bool = unscored) -> list[None]:
                with torch.no_grad():
                    passed = self.run(part, None, states=sorted(states), logits=unscored)
                for row, number in enumerate(part):
                    for layer, found in passed.states.items():
                        self.kept.keep(self._names[number], layer, found[row, : self.tokens(number)])
                if unscored:
                    self.kept.totals.update(zip(map(self._asked, part), passed.total.tolist(), strict=True))
                return []

            for _ in self._passes(own, work):
                pass

    def bare(self, numbers: Sequence[int]) -> Tensor:
        """Summed log-probability of each text's response under the bare model, `[len(numbers)]`."""
        self.read(numbers, (), scored=True)
        return torch.tensor([self.kept.totals[self._asked(i)] for i in numbers], device=self.device)

    def _asked(self, number: int) -> tuple[bytes, int]:
        """What a log-probability is of: the tokens, and where the response begins."""
        return self._names[number], self._prompts[number]

    def _passes(self, numbers: Sequence[int], work: Callable[[list[int]], Iterable[T]]) -> Iterator[T]:
        """What `work` gives for texts that go through the model together."""
        return self.batches.each([self.tokens(i) for i in numbers], lambda part: work([numbers[k] for k in part]))

    def run(
        self,
        numbers: Sequence[int],
        change: Change | None,
        rows: RowPlan | None = None,
        states: Sequence[int] = (),
        logits: bool = True,
    ) -> Passed:
        """Texts through the model, each row under its own change; gradients as the caller has them set.

        Without `change` the model is bare. A pass begins after the deepest block that no change touches and whose
        output is kept for all its texts. `logits = False` stops after the deepest of `states`.
        """
        more = 0 if change is None else change.inserts
        own = [self.chat.opened(self._ids[i], more) if more else self._ids[i] for i in numbers]
        ids, ends = self.batches.pad_right(own)
        lengths = torch.tensor(ends, device=self.device)
        prompts = torch.tensor([self._prompts[i] + more for i in numbers], device=self.device)
        index = torch.arange(ids.shape[1], device=self.device)[None]
        inside = index < lengths[:, None]
        response = inside & (index >= prompts[:, None])
        row, place = response.nonzero(as_tuple=True)
        start = self._start(numbers, change, states, logits)
        found = {layer: self._states(numbers, layer) for layer in states if change is None and layer <= start}
        unread = sorted(set(states) - set(found))
        output = None
        with ExitStack() as stack:
            if torch.is_grad_enabled():
                stack.enter_context(_exact_attention(self.model))
            if start >= 0 and (logits or unread):
                stack.enter_context(self._resumed(start, self._states(numbers, start)))
            if change is not None and rows is not None:
                headers = torch.tensor([self._headers[i] for i in numbers], device=self.device)
                change.now = rows.placed(torch.where(inside, index, -1), prompts[:, None], headers[:, None])
                for module, edit in change.hooks():
                    stack.callback(module.register_forward_hook(edit).remove)
            for layer in unread:
                last = not logits and layer == unread[-1]
                stack.callback(self.blocks[layer].register_forward_hook(_keeper(found, layer, last)).remove)
            head = self.model.get_output_embeddings()
            # The logits of the response alone: with a small model they cost as much as its blocks.
            stack.callback(head.register_forward_pre_hook(lambda _, args: (args[0][row, place - 1][None],)).remove)
            if logits or unread:
                with suppress(Enough):
                    output = self.model(input_ids=ids, use_cache=False).logits[0].float()
        if output is None:
            output = torch.zeros(0, 1, device=self.device)
            tokens = torch.zeros(0, device=self.device)
            row = row[:0]
        else:
            tokens = _LogProbability.apply(output, ids[row, place])  # type: ignore[no-untyped-call]
        return Passed(tokens, row, output, found, inside, response, prompts)

    def _start(self, numbers: Sequence[int], change: Change | None, states: Collection[int], logits: bool) -> int:
        """The deepest block from whose kept output a pass can begin (-1: there is none): no change touches what lies
        below it, and a bare pass has the `states` from there too."""
        common = frozenset.intersection(*(self.kept.layers(self._names[i]) for i in numbers))
        if change is not None:
            fitting = [p for p in common if p <= change.floor and all(layer >= p for layer in states)]
        else:
            fitting = [p for p in common if all(layer >= p or layer in common for layer in states)]
        start = max(fitting, default=-1)
        through = logits or any(layer > start for layer in states)
        return start if start < 0 or not through or self._resumes(start) else -1

    def _states(self, numbers: Sequence[int], layer: int) -> Tensor:
        """Kept states of texts `[B, T, H]`."""
        kept = [self.kept.states(self._names[i], layer) for i in numbers]
        width = max(map(len, kept))
        return torch.stack([nn.functional.pad(h, (0, 0, 0, width - len(h))) for h in kept]).to(self.device)

    def _resumes(self, layer: int) -> bool:
        """Whether the model makes of block `layer`'s output what it makes of the whole text: some families hand on
        more than the states (keys that later blocks use again, what an earlier block was given)."""
        if layer not in self.kept.resumes:
            text, other = (torch.tensor([ids], device=self.device) for ids in (range(5, 11), range(11, 17)))
            with torch.no_grad():
                states = read_blocks(self.model, [layer], input_ids=text)[layer]
                whole = self.model(input_ids=text, use_cache=False).logits
                self.model(input_ids=other, use_cache=False)  # a block that remembers now remembers another text
                try:
                    with self._resumed(layer, states):
                        same = torch.equal(self.model(input_ids=text, use_cache=False).logits, whole)
                except (TypeError, ValueError, LookupError, AttributeError, RuntimeError):
                    same = False
            self.kept.resumes[layer] = same
        return self.kept.resumes[layer]

    def _resumed(self, start: int, states: Tensor) -> AbstractContextManager[None]:
        """Passes inside begin with `states` for what block `start` gives."""
        return resumed(self.blocks[: start + 1], states, self._wrapped)

    @cached_property
    def _wrapped(self) -> bool:
        """Whether a block of this model returns its states in a tuple."""
        seen: list[bool] = []

        def watch(_: nn.Module, __: Any, output: Any) -> None:
            seen.append(isinstance(output, tuple))
            raise Enough

        handle = self.blocks[0].register_forward_hook(watch)
        try:
            with suppress(Enough):
                self.model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=self.device), use_cache=False)
        finally:
            handle.remove()
        return seen[0]


class _LogProbability(torch.autograd.Function):
    """log p of each row's token `[N]` from logits `[N, V]`.

    As `gather` and `logsumexp` give it, to the bit, and so its gradient; but on the way back those make five arrays of
    the logits' size where this makes one.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, token: Tensor) -> Tensor:
        total = logits.logsumexp(1)
        ctx.save_for_backward(logits, token, total)
        return logits.gather(1, token[:, None])[:, 0] - total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        logits, token, total = ctx.saved_tensors
        grad = grads[0][:, None]
        found = (logits - total[:, None]).exp_().mul_(-grad)
        return found.scatter_add_(1, token[:, None], grad), None


def _exact_attention(model: Any) -> AbstractContextManager[None]:
    """Attention in fp32 on a CPU: PyTorch's fused backward takes 2.7 times as long in bf16 (22 against 8 ms for
    8 rows of 85 tokens, 9 heads of 64), a seventh of a training step; forward they take the same."""
    exact = model.dtype == torch.float32
    return nullcontext() if exact else widened(model, torch.float32, sdpa_attention_forward)


def _keeper(found: dict[int, Tensor], layer: int, last: bool) -> Any:
    def keep(_: nn.Module, __: Any, output: Any) -> None:
        found[layer] = first(output)
        if last:
            raise Enough

    return keep
