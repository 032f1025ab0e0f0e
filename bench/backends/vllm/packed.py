"""Steer a packed batch: the tokens of many requests in one `[N, H]` tensor, each request its own edits.

Engines with continuous batching lay requests end to end, in chunks that move from step to step. Vectors
lie in a bank, one row each; strength is data of each token, so 14 coefficients of one vector share a row.
Invariant: what a token gets depends on its request and its own position alone, and every position that
an edit changed is counted once, however often it is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.core.content import Array
from bench.core.edits import Edit, similarity
from bench.core.kinds import Add, Clamp, Diagonal, LowRank, Project, Rotate, Scaled

FIELD = "bench"
"""Under this name a request carries [its number, its steering's, its prompt's tokens, its header's]."""
SITES = ("resid", "attn", "mlp")


@dataclass(frozen=True)
class Form:
    """How the operands of a kind of edit lie in the bank.

    `first` and `second` are the operands at `slot` and at `other`: one matrix `[k, H]`, or vectors one after the other.
    `beside` is a number for each row of `first`, and `numbers` are numbers of the edit. `flags` may be on, as bits in
    this order. Where `ordered`, one row of several serves each position of the span.
    """

    kind: type[Edit]
    first: tuple[str, ...]
    second: tuple[str, ...] = ()
    beside: str = ""
    numbers: tuple[str, ...] = ("strength",)
    flags: tuple[str, ...] = ()
    matrix: bool = True
    ordered: bool = False


FORMS = (
    Form(Add, ("value",), flags=("signed", "keep_norm"), matrix=False, ordered=True),
    Form(Project, ("basis",)),
    Form(Clamp, ("read",), ("write",), "", ("bias", "threshold", "target"), ("at_least",), matrix=False),
    Form(LowRank, ("weight",), ("rotation",), "bias"),
    Form(
        Scaled,
        ("read",),
        ("write",),
        "bias",
        flags=tuple(f"activation={name}" for name in ("relu", "tanh", "sigmoid", "softplus", "softmax")),
    ),
    Form(Diagonal, ("gain", "shift", "low", "high"), matrix=False),
    Form(
        Rotate,
        ("basis",),
        numbers=("strength", "angle", "kappa", "beta"),
        flags=("mode=offset", "mode=towards", "when=aligned", "when=confident"),
    ),
)
"""By the number of a kind in the tables."""
_ORDERED = np.array([form.ordered for form in FORMS])
PARTS = ("all", "prompt", "response", "generation")
FAR = np.iinfo(np.int64).max // 2
COLUMNS = (
    *("key", "number", "layer", "site", "order", "kind", "flags"),
    *("count", "slot", "other", "part", "start", "first", "last", "gate"),
)
"""Integers of one edit: the steering it belongs to and its place there; where and how it acts; rows of the
bank it reads (`slot`, and `other` for what it writes or weighs) and how many; its span, which starts at twice its
offset, plus 1 if the header is in it; its gate or -1."""
NUMBERS = 4
"""Columns that the numbers of an edit take."""
GATES = ("layer", "last", "cast", "above", "direction", "center")
_LIMIT = 1 << 24  # elements of one gathered block of vectors: 64 MiB in fp32


@dataclass
class Segment:
    """The tokens of one step that one kind of edit changes at one place, in one product."""

    kind: int
    flags: int
    count: int
    tokens: Tensor
    slot: Tensor
    other: Tensor
    numbers: Tensor
    entry: Array
    fresh: Array
    pending: bool


@dataclass
class Step:
    """What one forward pass has to do, by (layer, site); gates to read, by layer."""

    tokens: int
    segments: dict[tuple[int, int], list[Segment]] = field(default_factory=dict)
    gates: dict[int, list[tuple[int, int, int, int]]] = field(default_factory=dict)
    """By layer: (gate, request row, its range of tokens), read before the layer's edits."""


class Packed:
    """Tables of steerings and requests, and the edits of the running step."""

    def __init__(self, device: torch.device | str, width: int) -> None:
        self.device = torch.device(device)
        self.width = width
        self.clear()

    def clear(self) -> None:
        """Forget every steering, vector and request."""
        self.bank = torch.zeros(0, self.width, device=self.device)
        self.biases = torch.zeros(0, device=self.device)
        self.filled = 0
        self.steerings: dict[int, tuple[Array, Array]] = {}
        self.gates = np.zeros((0, len(GATES)), np.int64)
        self.thresholds = np.zeros(0, np.float32)
        self.rows: dict[str, int] = {}
        self.names: dict[int, str] = {}
        self.begin_of: list[int] = []
        self.size_of: list[int] = []
        self.prompt_of: list[int] = []
        self.header_of: list[int] = []
        self.faults: dict[int, str] = {}
        self.reached = np.zeros(0, np.int64)
        self.used = 0
        self._entries(0)
        self.step: Step | None = None

    def _entries(self, size: int) -> None:
        """Room for `size` edits of requests; what is there stays."""

        def grown(name: str, shape: tuple[int, ...], dtype: Any) -> Array:
            old = getattr(self, name, None)
            new = np.zeros(shape, dtype)
            if old is not None and self.used:
                new[: self.used] = old[: self.used]
            return new

        self.table = grown("table", (size, len(COLUMNS)), np.int64)
        self.numbers = grown("numbers", (size, NUMBERS), np.float32)
        self.bounds = grown("bounds", (size, 5), np.int64)
        self.owner = grown("owner", (size,), np.int64)
        self.counts = grown("counts", (size,), np.int64)
        self.fires = grown("fires", (size,), np.int8)
        self.groups = grown("groups", (size,), np.int64)

    def register(self, parts: Mapping[str, Tensor]) -> None:
        """Take rows of the bank and edits: `rows` `[n, H]`, `biases` `[n]`, `edits`, `numbers`, `gates`, `thresholds`.

        Rows come after those that are there; the bank grows, it never runs out.
        """
        self._fill(parts["rows"], parts["biases"])
        edits, numbers = parts["edits"].numpy(), parts["numbers"].numpy()
        for key in np.unique(edits[:, 0]).tolist() if len(edits) else []:
            own = edits[:, 0] == key
            self.steerings[key] = edits[own], numbers[own]
        self.gates = np.concatenate([self.gates, parts["gates"].numpy()])
        self.thresholds = np.concatenate([self.thresholds, parts["thresholds"].numpy()])

    def _fill(self, rows: Tensor, biases: Tensor) -> None:
        need = self.filled + len(rows)
        if need > len(self.bank):
            size = max(need, 2 * len(self.bank), 64)
            bank = torch.zeros(size, self.width, device=self.device)
            old = torch.zeros(size, device=self.device)
            bank[: self.filled], old[: self.filled] = self.bank[: self.filled], self.biases[: self.filled]
            self.bank, self.biases = bank, old
        self.bank[self.filled : need] = rows.to(self.device)
        self.biases[self.filled : need] = biases.to(self.device)
        self.filled = need

    def _admit(self, name: str, wanted: Sequence[int] | None, computed: int) -> int:
        """A row for a request seen for the first time: its edits with their positions; -1 if unsteered."""
        if not wanted:
            self.rows[name] = -1
            return -1
        number, key, prompt, header = wanted
        if key not in self.steerings:  # `positions_edited` reports it; a request already cleared may run one step more
            self.rows[name] = -1
            return -1
        edits, numbers = self.steerings[key]
        begin, end = self.used, self.used + len(edits)
        if end > len(self.table):
            self._entries(max(end, 2 * len(self.table), 256))
        row = len(self.begin_of)
        if row >= len(self.reached):
            self.reached = np.concatenate([self.reached, np.zeros(max(256, row), np.int64)])
        self.used = end
        place = slice(begin, end)
        self.table[place], self.numbers[place] = edits, numbers
        self.bounds[place] = [_bounds(edit, prompt, header) for edit in edits]
        self.groups[place] = [_group(edit) for edit in edits]
        self.owner[place], self.counts[place] = row, 0
        self.fires[place] = np.where(edits[:, 14] >= 0, -1, 1)
        self.begin_of.append(begin)
        self.size_of.append(len(edits))
        self.prompt_of.append(prompt)
        self.header_of.append(header)
        self.rows[name] = row
        self.names[number] = name
        # Blocks found in the prefix cache were written under this very steering: the salt says so.
        self.reached[row] = computed
        self.counts[place] = [_inside(bounds, 0, computed) for bounds in self.bounds[place]]
        if computed and (edits[:, 14] >= 0).any():
            self.faults[row] = "its gate would read a prompt that lies in the prefix cache"
        return row

    def begin(
        self,
        names: Sequence[str],
        scheduled: Array,
        computed: Array,
        wanted: Callable[[str], Sequence[int] | None],
    ) -> None:
        """Lay out one step: requests `names` in batch order, the tokens each runs now and has behind it.

        `wanted(name)` gives (number, steering, tokens of prompt and header) of a steered request when it is first seen.
        """
        self.step = None
        found = [
            row if (row := self.rows.get(name)) is not None else self._admit(name, wanted(name), int(done))
            for name, done in zip(names, computed, strict=True)
        ]
        rows = np.array(found, np.int64)
        steered = np.flatnonzero(rows >= 0)
        if not len(steered):
            return
        scheduled, computed = np.asarray(scheduled, np.int64), np.asarray(computed, np.int64)
        starts = np.cumsum(scheduled) - scheduled
        own = rows[steered]
        sizes = np.array([self.size_of[row] for row in own], np.int64)
        begins = np.array([self.begin_of[row] for row in own], np.int64)
        step = Step(int(scheduled.sum()))
        lane = np.repeat(steered, sizes)  # one lane per edit of a request
        entry = _ranges(begins, sizes)
        self._find_gates(step, lane, entry, starts, scheduled, computed)
        many = scheduled[lane]
        position = _ranges(computed[lane], many)
        token = _ranges(starts[lane], many)
        entry = np.repeat(entry, many)
        low, high, low2, high2, _ = self.bounds[entry].T
        keep = ((position >= low) & (position < high)) | ((position >= low2) & (position < high2))
        keep &= self.fires[entry] != 0
        position, token, entry = position[keep], token[keep], entry[keep]
        fresh = position >= self.reached[self.owner[entry]]
        self.reached[own] = np.maximum(self.reached[own], (computed + scheduled)[steered])
        if len(entry):
            self._split(step, position, token, entry, fresh)
        if step.segments or step.gates:
            self.step = step

    def _split(self, step: Step, position: Array, token: Array, entry: Array, fresh: Array) -> None:
        """Sort the (token, edit) pairs into segments and move them to the device in two copies."""
        groups = self.groups[entry]
        if groups[0] != groups[-1] or (groups != groups[0]).any():
            order = np.argsort(groups, kind="stable")
            position, token, entry, fresh, groups = (a[order] for a in (position, token, entry, fresh, groups))
        table = self.table[entry]
        ordered = np.clip(position - self.bounds[entry, 4], 0, table[:, 7] - 1)
        slot = table[:, 8] + np.where(_ORDERED[table[:, 5]], ordered, 0)
        whole = self._send(np.stack([token, slot, table[:, 9]]))
        numbers = self._send(self.numbers[entry])
        cuts = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(groups)]
        for a, b in pairwise(cuts):
            _, _, layer, site, _, kind, flags, count = table[a, :8].tolist()
            pending = bool((self.fires[entry[a:b]] < 0).any())
            tokens, slots, others = (part[a:b] for part in whole)
            segment = Segment(kind, flags, count, tokens, slots, others, numbers[a:b], entry[a:b], fresh[a:b], pending)
            step.segments.setdefault((layer, site), []).append(segment)

    def _send(self, values: Array) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        if self.device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def _find_gates(
        self, step: Step, lane: Array, entry: Array, starts: Array, scheduled: Array, computed: Array
    ) -> None:
        """Gates that are not read yet: the whole prompt must run in this step."""
        waiting = np.flatnonzero(self.fires[entry] < 0)
        seen: set[tuple[int, int]] = set()  # edits of one request often share their gate
        for at in waiting.tolist():
            one, request = int(entry[at]), int(lane[at])
            row, gate = int(self.owner[one]), int(self.table[one, 14])
            if (row, gate) in seen:
                continue
            seen.add((row, gate))
            prompt = self.prompt_of[row]
            if computed[request] or scheduled[request] < prompt:
                self.faults.setdefault(row, "its gate must read the prompt in one step, which chunked prefill split")
                continue
            begin = prompt - 1 if self.gates[gate, 1] else min(self.header_of[row], prompt)
            place = int(starts[request])
            job = (gate, row, place + begin, place + prompt)
            step.gates.setdefault(int(self.gates[gate, 0]), []).append(job)

    def read_gates(self, layer: int, state: Callable[[Tensor], Tensor]) -> None:
        """Decide the gates of `layer`; `state(tokens)` gives their hidden states `[n, H]` in fp32."""
        jobs = self.step.gates.get(layer) if self.step else None
        if not jobs:
            return
        lengths = np.array([end - begin for _, _, begin, end in jobs])
        tokens = self._send(_ranges(np.array([begin for _, _, begin, _ in jobs]), lengths))
        which = self._send(np.repeat(np.arange(len(jobs)), lengths))
        total = torch.zeros(len(jobs), self.width, device=self.device).index_add_(0, which, state(tokens))
        mean = total / self._send(np.maximum(lengths, 1).astype(np.float32))[:, None]
        gates = self.gates[[gate for gate, *_ in jobs]]
        d = self.bank[self._send(gates[:, 4])]
        center = self.bank[self._send(np.maximum(gates[:, 5], 0))] * self._send(gates[:, 5] >= 0)[:, None]
        cast = self._send(gates[:, 2] > 0)
        scores = torch.where(cast, similarity(mean, d), similarity(mean, d, center)).cpu().numpy()
        limits = self.thresholds[[gate for gate, *_ in jobs]]
        fired = np.where(gates[:, 3] > 0, scores > limits, scores < limits)
        for (gate, row, _, _), on in zip(jobs, fired.tolist(), strict=True):
            place = slice(self.begin_of[row], self.begin_of[row] + self.size_of[row])
            self.fires[place][self.table[place, 14] == gate] = on

    def apply(self, layer: int, site: int, hidden: Tensor, residual: Tensor | None = None) -> None:
        """Change `hidden` `[N, H]` in place at the tokens this step steers here.

        Where the stream is split, it is hidden + residual: edits read the sum and write to `hidden`.
        """
        if self.step is None:
            return

        def state(tokens: Tensor) -> Tensor:
            read = hidden[tokens].float()
            return read if residual is None else read + residual[tokens].float()

        if site == 0:
            self.read_gates(layer, state)
        for segment in self.step.segments.get((layer, site), ()):
            parts = (segment.tokens, segment.slot, segment.other, segment.numbers)
            entry, fresh = segment.entry, segment.fresh
            if segment.pending:
                fired = np.flatnonzero(self.fires[entry] > 0)
                where = self._send(fired)
                parts = tuple(part[where] for part in parts)  # type: ignore[assignment]
                entry, fresh = entry[fired], fresh[fired]
            tokens, slot, other, numbers = parts
            if len(tokens):
                wide = _LIMIT // (self.width * (1 if FORMS[segment.kind].ordered else segment.count))
                for i in range(0, len(tokens), max(1, wide)):
                    part = slice(i, i + max(1, wide))
                    change = self._change(segment, state, tokens[part], slot[part], other[part], numbers[part])
                    hidden.index_add_(0, tokens[part], change.to(hidden.dtype))
                np.add.at(self.counts, entry[fresh], 1)

    def _change(
        self,
        segment: Segment,
        state: Callable[[Tensor], Tensor],
        tokens: Tensor,
        slot: Tensor,
        other: Tensor,
        p: Tensor,
    ) -> Tensor:
        """What to add to each of `tokens`, `[n, H]`."""
        form = FORMS[segment.kind]
        flags = {name for bit, name in enumerate(form.flags) if segment.flags >> bit & 1}
        operands = dict(zip(form.numbers, p.unbind(1), strict=False))
        if form.ordered:
            value = self.bank[slot] * operands["strength"][:, None]
            return (
                form.kind.change(state(tokens), {"value": value}, flags) if flags else value
            )  # states need not be read
        several = torch.arange(segment.count, device=self.device)
        for names, begin in ((form.first, slot), (form.second, other)):
            if form.matrix and names:
                operands[names[0]] = self.bank[begin[:, None] + several]
            elif names:
                operands |= {name: self.bank[begin + k] for k, name in enumerate(names[: segment.count])}
        if form.beside:
            operands[form.beside] = self.biases[slot[:, None] + several]
        return form.kind.change(state(tokens), operands, flags)

    def positions_edited(self, number: int, limit: int) -> list[int] | str:
        """Positions below `limit` that each edit of request `number` changed, or what went wrong.

        A position beyond `limit` may have run ahead of a stop that the scheduler did not know yet.
        """
        name = self.names.pop(number, None)
        row = self.rows.pop(name, -1) if name is not None else -1
        if row < 0:
            return "it ran without its steering"
        if row in self.faults:
            return self.faults.pop(row)
        place = slice(self.begin_of[row], self.begin_of[row] + self.size_of[row])
        beyond = [
            _inside(bounds, limit, int(self.reached[row])) if fired > 0 else 0
            for bounds, fired in zip(self.bounds[place], self.fires[place], strict=True)
        ]
        return [int(count) for count in self.counts[place] - beyond]


def _ranges(begins: Array, lengths: Array) -> Array:
    """`begins[i]`, `begins[i] + 1`, … for `lengths[i]` numbers each, end to end."""
    total = int(lengths.sum())
    first = np.repeat(np.cumsum(lengths) - lengths, lengths)
    found: Array = np.repeat(begins, lengths) + np.arange(total) - first
    return found


def _bounds(edit: Array, prompt: int, header: int) -> tuple[int, int, int, int, int]:
    """A span as two half-open ranges of positions, and where the rows of an `[n, H]` value begin."""
    part, code, first, last = (int(v) for v in edit[10:14])
    start = (0 if code & 1 else header) + (code >> 1)
    begin = prompt - last if last and not first else start
    if PARTS[part] == "response":
        return max(start, prompt), FAR, 0, 0, begin
    if PARTS[part] == "generation":
        return max(start, prompt - 1), FAR, 0, 0, begin
    if PARTS[part] == "all":
        return start, FAR, 0, 0, begin
    if first and last:
        return start, min(prompt, start + first), max(start, prompt - last), prompt, begin
    if first:
        return start, min(prompt, start + first), 0, 0, begin
    if last:
        return max(start, prompt - last), prompt, 0, 0, begin
    return start, prompt, 0, 0, begin


def _inside(bounds: Array, begin: int, end: int) -> int:
    """Positions of a span in `[begin, end)`; its two ranges may overlap."""
    low, high, low2, high2 = (min(max(int(v), begin), end) for v in bounds[:4])
    second = max(0, high2 - max(low2, high)) if high > low else max(0, high2 - low2)
    return max(0, high - low) + second


def _group(edit: Array) -> int:
    """Edits with equal codes run as one product; codes sort by layer, site and order of application."""
    layer, site, order, kind, flags, count = (int(v) for v in edit[2:8])
    rows = 1 if FORMS[kind].ordered else count
    return ((((layer * 4 + site) * 64 + order) * 8 + kind) * 32 + flags) * 65536 + rows


running: list[Packed] = []


def run_with(packed: Packed) -> None:
    """Let the traced operations of this process read `packed`."""
    running[:] = [packed]
