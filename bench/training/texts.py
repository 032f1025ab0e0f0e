"""Training texts as token rows above a frozen prefix: what no parameter touches is computed once.

Invariant: a row's states and log-probabilities depend on the row alone; padding is on the right, where
a causal model cannot see it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from bench.backends.hf.backend import HFBackend
from bench.backends.hf.batches import Batches
from bench.backends.hf.modules import Enough, blocks, first, read_blocks
from bench.core.content import Message
from bench.core.interfaces import Context
from bench.training.changes.base import Change, RowPlan

T = TypeVar("T")
PASS = 4096
"""Tokens that go through the model at once, about: beyond it a step is several passes."""
EXACT = "sdpa-fp32"
"""The name under which transformers knows `_attend`."""


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
    """The texts of a fit on one model: token rows, cut at the budget, and their bare log-probabilities."""

    def __init__(self, ctx: Context) -> None:
        self.lm, self.model = ctx.lm, ctx.lm.module
        self.memory = cast(HFBackend, ctx.lm).training_memory
        self.blocks = blocks(self.model)
        self.limit = ctx.budget.tokens
        self.device = next(self.model.parameters()).device
        self._known: dict[Text, int | None] = {}
        self._ids: list[list[int]] = []
        self._prompts: list[int] = []
        self._headers: list[int] = []
        self._floor = -1
        self._tuple: bool | None = None
        self._prefix: dict[int, Tensor] = {}
        self._bare: dict[int, float] = {}

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
                self._prompts.append(prompt)
                self._headers.append(header)
        return self._known[text]

    def tokens(self, number: int) -> int:
        return len(self._ids[number])

    def size(self, number: int) -> tuple[int, int]:
        """Tokens of a text's response, and of all of it."""
        return self.tokens(number) - self._prompts[number], self.tokens(number)

    def freeze(self, floor: int, numbers: Sequence[int]) -> None:
        """Keep the output of block `floor` for these texts; passes with a change start from it (-1: from the
        embeddings)."""
        self._floor, self._prefix = floor, {}
        if floor < 0:
            return

        def read(part: list[int]) -> list[tuple[int, Tensor]]:
            ids, _ = self._batch(part)
            with torch.no_grad():
                found = read_blocks(self.model, [floor], input_ids=ids)[floor]
            return [(number, found[row, : self.tokens(number)].clone()) for row, number in enumerate(part)]

        self._prefix = dict(self._passes(sorted(set(numbers)), read))

    def bare(self, numbers: Sequence[int]) -> Tensor:
        """Summed log-probability of each text's response under the bare model, `[len(numbers)]`."""

        def score(part: list[int]) -> Iterator[tuple[int, float]]:
            with torch.no_grad():
                return zip(part, self.run(part, None).total.tolist(), strict=True)

        self._bare.update(self._passes(sorted({i for i in numbers if i not in self._bare}), score))
        return torch.tensor([self._bare[i] for i in numbers], device=self.device)

    def _passes(self, numbers: Sequence[int], work: Callable[[list[int]], Iterable[T]]) -> Iterator[T]:
        """What `work` gives for texts that go through the model together."""
        batches = Batches(max(1, len(numbers)), PASS, 0, self.device, self.memory)
        return batches.each([self.tokens(i) for i in numbers], lambda part: work([numbers[k] for k in part]))

    def _batch(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Right-padded ids `[B, T]` and lengths `[B]`."""
        lengths = [self.tokens(i) for i in numbers]
        width = max(lengths)
        ids = [self._ids[i] + [0] * (width - n) for i, n in zip(numbers, lengths, strict=True)]
        return torch.tensor(ids, device=self.device), torch.tensor(lengths, device=self.device)

    def run(
        self,
        numbers: Sequence[int],
        change: Change | None,
        rows: RowPlan | None = None,
        states: Sequence[int] = (),
        logits: bool = True,
    ) -> Passed:
        """Texts through the model, each row under its own change; gradients as the caller has them set.

        Without `change` the model is bare. Blocks that no change touches are taken from the frozen
        prefix where it holds the texts. `logits = False` stops after the deepest of `states`.
        """
        ids, lengths = self._batch(numbers)
        prompts = torch.tensor([self._prompts[i] for i in numbers], device=self.device)
        index = torch.arange(ids.shape[1], device=self.device)[None]
        inside = index < lengths[:, None]
        response = inside & (index >= prompts[:, None])
        row, place = response.nonzero(as_tuple=True)
        found: dict[int, Tensor] = {}
        output = None
        with ExitStack() as stack:
            if torch.is_grad_enabled():
                stack.enter_context(_exact_attention(self.model, self.device))
            frozen = all(i in self._prefix for i in numbers) and all(layer >= self._floor for layer in states)
            if self._floor >= 0 and frozen:
                stack.enter_context(self._resumed(numbers, ids.shape[1]))
            if change is not None and rows is not None:
                headers = torch.tensor([self._headers[i] for i in numbers], device=self.device)
                change.now = rows.placed(torch.where(inside, index, -1), prompts[:, None], headers[:, None])
                for module, edit in change.hooks():
                    stack.callback(module.register_forward_hook(edit).remove)
            for layer in sorted(set(states)):
                last = not logits and layer == max(states)
                stack.callback(self.blocks[layer].register_forward_hook(_keeper(found, layer, last)).remove)
            head = self.model.get_output_embeddings()
            # The logits of the response alone: with a small model they cost as much as its blocks.
            stack.callback(head.register_forward_pre_hook(lambda _, args: (args[0][row, place - 1][None],)).remove)
            try:
                output = self.model(input_ids=ids, use_cache=False).logits[0].float()
            except Enough:
                output = None
        if output is None:
            output = torch.zeros(0, 1, device=self.device)
            tokens = torch.zeros(0, device=self.device)
            row = row[:0]
        else:
            tokens = output.gather(1, ids[row, place][:, None])[:, 0] - output.logsumexp(1)
        return Passed(tokens, row, output, found, inside, response, prompts)

    @contextmanager
    def _resumed(self, numbers: Sequence[int], width: int) -> Iterator[None]:
        """The blocks up to the frozen one pass their input on, and the last gives the kept states."""
        kept = [self._prefix[i] for i in numbers]
        states = torch.stack([nn.functional.pad(h, (0, 0, 0, width - len(h))) for h in kept])
        wrapped = self._wrapped()
        patched = list(self.blocks[: self._floor + 1])
        for number, block in enumerate(patched):
            block.forward = _constant(states if number == self._floor else None, wrapped)
        try:
            yield
        finally:
            for block in patched:
                del block.forward

    def _wrapped(self) -> bool:
        """Whether a block of this model returns its states in a tuple."""
        if self._tuple is None:
            seen: list[bool] = []

            def watch(_: nn.Module, __: Any, output: Any) -> None:
                seen.append(isinstance(output, tuple))
                raise Enough

            handle = self.blocks[0].register_forward_hook(watch)
            try:
                self.model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=self.device), use_cache=False)
            except Enough:
                pass
            finally:
                handle.remove()
            self._tuple = seen[0]
        return self._tuple


@contextmanager
def _exact_attention(model: Any, device: torch.device) -> Iterator[None]:
    """Attention in fp32 on a CPU: PyTorch's fused backward takes 2.7 times as long in bf16 (22 against 8 ms for
    8 rows of 85 tokens, 9 heads of 64), a seventh of a training step; forward they take the same."""
    settings = model.config.get_text_config()
    if device.type != "cpu" or model.dtype == torch.float32 or settings._attn_implementation != "sdpa":
        yield
        return
    AttentionInterface.register(EXACT, _attend)
    AttentionMaskInterface.register(EXACT, sdpa_mask)
    settings._attn_implementation = EXACT
    try:
        yield
    finally:
        settings._attn_implementation = "sdpa"


def _attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **rest: Any) -> Any:
    exact = mask if mask is None or mask.dtype == torch.bool else mask.float()
    found, weights = sdpa_attention_forward(module, query.float(), key.float(), value.float(), exact, **rest)
    return found.to(query.dtype), weights


def _constant(states: Tensor | None, wrapped: bool) -> Any:
    """A forward that gives `states`, or its own input."""

    def forward(hidden: Tensor, *_: Any, **__: Any) -> Any:
        given = hidden if states is None else states
        return (given,) if wrapped else given

    return forward


def _keeper(found: dict[int, Tensor], layer: int, last: bool) -> Any:
    def keep(_: nn.Module, __: Any, output: Any) -> None:
        found[layer] = first(output)
        if last:
            raise Enough

    return keep
