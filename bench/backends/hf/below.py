"""The blocks below the first change, read once for rows whose prompts are equal.

A steering leaves a model as it is up to the first block that it changes, so that all coefficients of a vector, and all
methods at one layer, ask the same of the blocks below.

Invariant: the blocks above, and every token written, see the numbers that they would have seen; in fp32 the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from bench.backends import devices
from bench.backends.hf import cache
from bench.backends.hf.modules import Enough, blocks, first, resumed
from bench.core.edits import KEPT
from bench.core.steering import Steering

PROBE = ((5, 6, 7, 8, 9, 10), (11, 12, 13, 14, 15, 16))
"""Two texts, by which a model shows whether its blocks go on from the states before them alone."""


class Below:
    """What `model` makes of a prompt below a change."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.stack = blocks(model)
        numbered = reversed(list(enumerate(self.stack)))  # of a module that several blocks have, the first counts
        block_of = {id(module): number for number, block in numbered for module in block.modules()}
        self._inside = {name: block_of[id(module)] for name, module in model.named_modules() if id(module) in block_of}
        self._holds: dict[int, bool] = {}

    def until(self, steering: Steering | None) -> int:
        """The last block whose output a steering leaves as the bare model has it; -1: none. What changes only what is
        kept of a prompt leaves all of them so: it comes after the pass that is shared."""
        last = len(self.stack) - 1
        if steering is None:
            return last
        if steering.inserted:
            return -1
        edits = [edit.layer - (edit.site != "resid") for edit in steering.edits if edit.site not in KEPT]
        gates = [edit.gate.layer for edit in steering.edits if edit.gate is not None]
        deltas = [self._inside.get(delta.module, 0) - 1 for delta in steering.deltas]
        return min([last, *edits, *gates, *deltas])

    def shared(self, rows: Sequence[Sequence[int]], until: int) -> list[int] | None:
        """For each of `rows` the number of its prompt among the different ones, where these are worth a pass of their
        own and the model allows it; else None."""
        different = {row: n for n, row in enumerate(dict.fromkeys(map(tuple, rows)))}
        if until < 0 or 2 * len(different) > len(rows) or not self.holds(until):
            return None
        return [different[tuple(row)] for row in rows]

    @contextmanager
    def read_once(
        self, inputs: Mapping[str, Tensor], which: Sequence[int] | None, until: int, keep: Mapping[str, Any]
    ) -> Iterator[None]:
        """The first pass inside, of `inputs` into the cache `keep`, takes block `until`'s output, and keys and values
        up to there, from a pass of each different prompt; `which` numbers them (`shared`), None for none of this."""
        if which is None:
            yield
            return
        rows = [which.index(n) for n in range(max(which) + 1)]
        states, layers, wrapped = self._read({name: value[rows] for name, value in inputs.items()}, until)
        index = torch.tensor(which, device=states.device)
        with ExitStack() as first_pass:

            def passed(number: int) -> None:
                keep["past_key_values"].layers[number].update(*(part[index] for part in layers[number]))
                if number == until:
                    first_pass.close()

            first_pass.enter_context(resumed(self.stack[: until + 1], states[index], wrapped, passed))
            yield

    def _read(self, inputs: Mapping[str, Tensor], until: int) -> tuple[Tensor, list[tuple[Tensor, Tensor]], bool]:
        """Block `until`'s output `[U, T, H]` of the bare model, keys and values of the blocks up to there, and whether
        a block gives its states in a tuple."""
        found: list[Any] = []

        def keep(_: nn.Module, __: Any, output: Any) -> None:
            found.append(output)
            raise Enough

        kept = cache.cache(self.model, inputs["input_ids"].shape[1])
        handle = self.stack[until].register_forward_hook(keep)
        try:
            with suppress(Enough):
                self.model(**inputs, use_cache=True, logits_to_keep=1, **kept)
        finally:
            handle.remove()
        layers = kept["past_key_values"].layers[: until + 1]
        return first(found[0]), [(layer.keys, layer.values) for layer in layers], isinstance(found[0], tuple)

    def holds(self, until: int) -> bool:
        """Whether the model makes of block `until`'s output, and of the cache, what it makes of the whole prompt: some
        families hand on more than that. Tried once, on texts, with a token after them."""
        if until not in self._holds:
            self._holds[until] = self._tried(until)
        return self._holds[until]

    @torch.no_grad()
    def _tried(self, until: int) -> bool:
        one, other = (torch.tensor([text] * 2, device=devices.of(self.model)) for text in PROBE)
        inputs = {"input_ids": one, "attention_mask": torch.ones_like(one)}
        if not (kept := cache.cache(self.model, one.shape[1] + 1)):
            return False
        if any(type(layer) is not cache.Roomy for layer in kept["past_key_values"].layers):
            return False

        def ends(which: list[int] | None) -> list[Tensor]:
            keep = cache.cache(self.model, one.shape[1] + 1)
            with self.read_once(inputs, which, until, keep):
                begun = self.model(**inputs, use_cache=True, **keep).logits
            mask = torch.ones(2, one.shape[1] + 1, dtype=torch.long, device=one.device)
            return [begun, self.model(input_ids=one[:, :1], attention_mask=mask, use_cache=True, **keep).logits]

        plain = ends(None)
        self.model(input_ids=other, use_cache=False)  # a block that remembers now remembers another text
        try:
            return all(torch.equal(a, b) for a, b in zip(ends([0, 0]), plain, strict=True))
        except (TypeError, ValueError, LookupError, AttributeError, RuntimeError):
            return False
