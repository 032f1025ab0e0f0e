"""Apply a different `Steering` to each row of a batch, through forward hooks.

Invariant: a position outside an edit's span, and a row without the edit, keep their bits; every
hook is gone when the context ends, also after an exception; what was touched is counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from bench.backends import devices
from bench.backends.hf.modules import blocks, first, site_of, with_first
from bench.backends.hf.weights import by_row, shape
from bench.core.deltas import Delta
from bench.core.edits import KEPT, Edit, Gate, similarity
from bench.core.embeds import Embeds
from bench.core.errors import BenchError
from bench.core.steering import Steering

T = TypeVar("T")
Stack = tuple[list[int], list[tuple[int, int, Edit]], dict[str, Tensor], dict[str, Tensor]]
"""Rows of the batch, their edits (row, number, edit), the edits' parameters stacked, and what they share."""


class Applied:
    """Context in which rows of a left-padded batch run under their own steering.

    `prompts` `[B]` are prompt lengths in tokens, `pads` `[B]` the padding on the left, `headers` `[B]` the tokens
    before a row's own words (`Span`; gates do not pool over them). `index` `[B, T]` is where each token stands in its
    own text (negative: padding), for one pass whose rows are not simply one text.
    """

    def __init__(
        self,
        model: nn.Module,
        steerings: Sequence[Steering | None],
        prompts: Sequence[int],
        pads: Sequence[int],
        headers: Sequence[int] | int = 1,
        index: Tensor | None = None,
    ) -> None:
        self.model = model
        self.device = devices.of(model)
        self._moved: dict[tuple[int, torch.device], Any] = {}
        self.steerings = [s or Steering() for s in steerings]
        self.prompts = torch.tensor(prompts, device=self.device)[:, None]
        self.pads = torch.tensor(pads, device=self.device)[:, None]
        each = [headers] * len(prompts) if isinstance(headers, int) else headers
        self.headers = torch.tensor(each, device=self.device)[:, None]
        self.given = index
        self.seen = 0
        self.before = 0
        """Passes that read prompts but for their last tokens."""
        self.index = torch.empty(0)
        self.fires: dict[Gate, Tensor] = {}
        self.counts: list[dict[tuple[int, int], int]] = []
        self.masks: dict[tuple[int, int], Tensor] = {}
        self.reached: set[str] = set()
        self._kept: dict[tuple[int, str], list[Stack]] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> Applied:
        if any(s.inside for s in self.steerings):
            try:
                self._install()
            except BaseException:
                self.__exit__(None, None, None)
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def positions_edited(self, row: int, forwards: int) -> tuple[int, ...]:
        """Positions each edit of `row` changed in its first `forwards` passes (prefill is one), and the tokens that
        were put into its prompt, where there are any.

        Raises `BenchError` when an ungated edit touched nothing: a silent no-op is a bug.
        """
        steps = self.counts[: self.before + forwards]
        counts = [sum(step.get((row, n), 0) for step in steps) for n in range(_parts(self.steerings[row]))]
        return self._proven(row, counts, forwards > 1)

    def positions_edited_at(self, row: int, columns: Sequence[int], responded: bool) -> tuple[int, ...]:
        """As `positions_edited`, of the `columns` of a pass with an `index`; `responded`: some lie after the prompt."""
        masks = [self.masks[row, n] for n in range(_parts(self.steerings[row]))]
        counts = torch.stack(masks)[:, list(columns)].sum(1).tolist() if masks else []
        return self._proven(row, counts, responded)

    def _proven(self, row: int, counts: Sequence[int], responded: bool) -> tuple[int, ...]:
        for delta in self.steerings[row].deltas:
            if delta.module not in self.reached:  # a kernel may read a module's weight past the module
                raise BenchError(f"{type(delta).__name__} on {delta.module} changed nothing: the module was not called")
        wanted = self.steerings[row].inserted
        if wanted and counts[-1] != wanted:
            raise BenchError(f"a soft prompt of {wanted} tokens: {counts[-1]} were put into a request's prompt")
        for edit, count in zip(self.steerings[row].edits, counts, strict=False):
            waits = edit.gate is not None or (edit.span.part == "response" and not responded)
            if count == 0 and not waits:
                raise BenchError(
                    f"{type(edit).__name__} at layer {edit.layer} touched no position of a request "
                    f"with {int(self.prompts[row])} prompt tokens"
                )
        return tuple(counts)

    def _install(self) -> None:
        layers = blocks(self.model)
        plan: dict[tuple[int, str], dict[Any, list[tuple[int, int, Edit]]]] = defaultdict(lambda: defaultdict(list))
        gates: dict[int, dict[Gate, list[int]]] = defaultdict(lambda: defaultdict(list))
        deltas: dict[str, list[tuple[int, Delta]]] = defaultdict(list)
        for row, steering in enumerate(self.steerings):
            order: dict[tuple[int, str], int] = defaultdict(int)
            for number, edit in enumerate(steering.edits):
                if not 0 <= edit.layer < len(layers):
                    raise BenchError(f"{type(edit).__name__} at layer {edit.layer}: the model has {len(layers)} layers")
                place = (edit.layer, edit.site)
                plan[place][order[place], _shape(edit)].append((row, number, edit))
                order[place] += 1
                if edit.gate is not None:
                    gates[edit.gate.layer][edit.gate].append(row)
            for delta in steering.deltas:
                deltas[delta.module].append((row, delta))
        self._handles.append(self.model.register_forward_pre_hook(self._advance, with_kwargs=True))
        if soft := [row for row, steering in enumerate(self.steerings) if steering.inserted]:
            embedding = self.model.get_input_embeddings()  # type: ignore[operator]
            self._handles.append(embedding.register_forward_hook(self._embed(soft)))
        for layer, found in gates.items():
            self._hook(layers[layer], partial(self._gate, found))
        for (layer, site), groups in plan.items():
            ready = [self._stack(rows) for _, rows in sorted(groups.items(), key=lambda item: item[0][0])]
            if site in KEPT:
                self._kept[layer, site] = ready
            else:
                self._hook(site_of(layers[layer], site), partial(self._edit, ready))
        modules = dict(self.model.named_modules())
        for name, entries in deltas.items():
            module = modules.get(name)
            if module is None or shape(module) is None:
                raise BenchError(f"delta on {name!r}: the model has no such linear module")
            self._handles.append(module.register_forward_hook(self._delta(name, entries)))

    def _hook(self, module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        def hook(_: nn.Module, __: Any, output: Any) -> Any:
            return with_first(output, change(first(output)))

        self._handles.append(module.register_forward_hook(hook))

    def _advance(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before each forward: the index of every token in its own row."""
        ids = kwargs.get("input_ids", args[0] if args else None)
        length = (ids if ids is not None else kwargs["inputs_embeds"]).shape[1]
        columns = slice(self.seen, self.seen + length)
        plain = torch.arange(columns.start, columns.stop, device=self.device)[None] - self.pads
        self.index = plain if self.given is None else self.given[:, columns]
        self.seen += length
        self.counts.append({})

    def _embed(self, rows: list[int]) -> Callable[..., Tensor]:
        """What stands in the place of the tokens put into the prompts of `rows`."""
        soft = [np.concatenate([part.values for part in self.steerings[row].embeds]) for row in rows]
        groups: dict[int, list[int]] = defaultdict(list)
        for k, values in enumerate(soft):
            groups[len(values)].append(k)
        ready = [([rows[k] for k in own], self._tensor(np.stack([soft[k] for k in own]))) for own in groups.values()]

        def hook(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            found = output.clone()
            for own, kept in ready:
                values = self._beside(kept, output.device)
                place = (self.index[own] - self.headers[own]).to(output.device)
                found[own] = Embeds.put(found[own], values, place)
                there = (place >= 0) & (place < values.shape[1])
                self._note([(row, len(self.steerings[row].edits)) for row in own], there)
            return found

        return hook

    def _note(self, parts: list[tuple[int, int]], mask: Tensor) -> None:
        """Count where parts (row, number) act in this pass: a row of `mask` `[N, T]` each."""
        self.counts[-1] |= zip(parts, mask.sum(1).tolist(), strict=True)
        if self.given is not None:  # not at each token of an answer
            self.masks |= zip(parts, mask.to(self.device), strict=True)

    def _beside(self, value: T, device: torch.device) -> T:
        """`value`, a tensor or tensors in a dict, on the device of a block that may be another than the model's own;
        taken there once."""
        if device == self.device:
            return value
        key = (id(value), device)
        if key not in self._moved:
            self._moved[key] = value, tree_map_only(Tensor, lambda part: part.to(device), value)
        found: T = self._moved[key][1]
        return found

    def change_kept(self, layers: Sequence[Any]) -> None:
        """Change what is kept, in the `layers` of the cache, of the last token of the pass just made."""
        self.index = self.index[:, -1:]
        for (layer, site), groups in self._kept.items():
            last = getattr(layers[layer], site)[:, :, -1:]  # [B, G, 1, d]
            new = self._edit(groups, last.transpose(1, 2).flatten(2))
            last.copy_(new.view(len(new), 1, *last.shape[1::2]).transpose(1, 2))

    def _gate(self, found: dict[Gate, list[int]], hidden: Tensor) -> Tensor:
        for gate, rows in found.items():
            if gate in self.fires:
                continue
            index, prompt, header = (part[rows].to(hidden.device) for part in (self.index, self.prompts, self.headers))
            inside = (index >= header) & (index < prompt)
            if gate.pooling == "last":
                inside = index == prompt - 1
            h, weight = hidden[rows].float(), inside.float()[..., None]
            mean = (h * weight).sum(1) / weight.sum(1).clamp(min=1)
            center = None if gate.similarity == "cast" else self._tensor(gate.center if gate.center is not None else 0)
            center = None if center is None else center.to(hidden.device)
            score = similarity(mean, self._tensor(gate.direction).to(hidden.device), center)
            fires = torch.zeros(len(hidden), dtype=torch.bool, device=self.device)
            fires[rows] = (score > gate.threshold if gate.above else score < gate.threshold).to(self.device)
            self.fires[gate] = fires
        return hidden

    def _tensor(self, value: Any) -> Tensor:
        return torch.as_tensor(np.asarray(value, dtype=np.float32), device=self.device)

    def _stack(self, entries: list[tuple[int, int, Edit]]) -> Stack:
        """The operands of alike edits as one tensor per field, first dimension the rows."""
        operands = [edit.operands() for _, _, edit in entries]
        large = _large(entries[0][2])
        fields = {
            name: self._tensor(value).expand(len(entries), *value.shape)
            if name in large
            else self._tensor(np.stack([own[name] for own in operands]))
            for name, value in operands[0].items()
        }
        common = {name: self._tensor(value) for name, value in entries[0][2].common().items()}
        return [row for row, _, _ in entries], entries, fields, common

    def _edit(self, groups: list[Stack], hidden: Tensor) -> Tensor:
        hidden = hidden.clone()
        for rows, entries, *operands in groups:
            one = entries[0][2]
            fields, common = (self._beside(own, hidden.device) for own in operands)
            index, prompt, header = (part[rows].to(hidden.device) for part in (self.index, self.prompts, self.headers))
            mask = one.positions(index, prompt, header).expand(len(rows), hidden.shape[1]).clone()
            for i, (row, _, edit) in enumerate(entries):
                if edit.gate is not None:
                    mask[i] &= self.fires[edit.gate][row].to(hidden.device)
            self._note([(row, number) for row, number, _ in entries], mask)
            old = hidden[rows]
            rank = one.span.rank(index, prompt, header)
            p = {name: _placed(value, name in one.by_position, rank) for name, value in fields.items()}
            p |= common | {"index": index}
            h = old.float()
            new = (h + one.change(h, p, one.flags())).to(old.dtype)
            hidden[rows] = torch.where(mask[..., None], new, old)
        return hidden

    def _delta(self, name: str, entries: list[tuple[int, Delta]]) -> Callable[..., Tensor]:
        """Rows that share factors run as one product; their strengths are per row."""
        groups: dict[Any, list[tuple[int, Delta]]] = defaultdict(list)
        for row, delta in entries:
            groups[_factors(delta)].append((row, delta))
        ready = []
        for rows in groups.values():
            left, right = rows[0][1].factors()
            strength = self._tensor([getattr(delta, "strength", 1.0) for _, delta in rows])
            inner = None if right is None else self._tensor(right)
            ready.append(([row for row, _ in rows], (inner, self._tensor(left), strength[:, None, None])))

        def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            self.reached.add(name)
            size = tuple(self.index.shape)
            given = by_row(args[0].to(output.device), size, name)  # accelerate moves it behind this hook's back
            found = by_row(output, size, name).clone()
            for rows, operands in ready:
                right, left, strength = self._beside(operands, output.device)
                change = given[rows].float()
                change = (change if right is None else change @ right.T) @ left.T
                found[rows] = (found[rows].float() + strength * change).to(output.dtype)
            return found.reshape(output.shape)

        return hook


def _parts(steering: Steering) -> int:
    """How many of its parts are counted: each edit, and all that is put into a prompt as one."""
    return len(steering.edits) + bool(steering.inserted)


def _factors(delta: Delta) -> tuple[Any, ...]:
    """Deltas with equal keys have the same factors: one kind with the same tensors, whatever their strength."""
    parts = {name: value for name, value in vars(delta).items() if name not in ("module", "strength")}
    return type(delta), *(id(value) if isinstance(value, np.ndarray) else value for value in parts.values())


def _shape(edit: Edit) -> tuple[Any, ...]:
    """Edits with equal keys run as one product: same kind, span, flags, shapes of operands, and shared arrays."""
    shapes = tuple((name, value.shape) for name, value in edit.operands().items())
    same = tuple(id(getattr(edit, name)) for name in sorted(edit.shared | _large(edit)))
    return type(edit), edit.span, edit.flags(), shapes, same


LARGE = 2**17
"""Numbers in an operand from which on rows are not to have copies of it in a product: those with the same array run
together."""


def _large(edit: Edit) -> frozenset[str]:
    return frozenset(name for name, value in edit.tensors().items() if value.size >= LARGE)


def _placed(value: Tensor, by_position: bool, rank: Tensor) -> Tensor:
    """An operand `[B, ...]` as `[B, 1, ...]`; one with a row for each position, `[B, n, H]`, as `[B, T, H]`."""
    if not (by_position and value.ndim == 3):
        return value[:, None]
    place = rank.clamp(0, value.shape[1] - 1)[..., None].expand(-1, -1, value.shape[-1])
    return value.gather(1, place)
