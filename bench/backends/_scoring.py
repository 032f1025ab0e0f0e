"""Log-probabilities of texts that follow prompts: what may follow a prompt stands in one row with it, as a tree.

A token of the tree sees the prompt and its own ancestors alone, at the position it would have in its own text; so the
prompt, and every beginning that several targets share, is read once.

Invariant: a target's score depends on its own request alone; the order and company of a pass only change speed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bench.backends._hooks import Applied
from bench.schema import Array, Request, TargetScore

if TYPE_CHECKING:
    from bench.backends.hf import HFBackend

PIECE = 16
"""Positions whose `[V]` distributions are in memory in fp32 at once."""
WIDE = 512
"""Tokens after a prompt in one row, about: attention costs a token as much as its row is long."""


@dataclass(frozen=True)
class Scored(TargetScore):
    """A score that knows whether each target token was the likeliest."""

    greedy: bool = False


class Tree:
    """A prompt and what may follow it, as one row: `ids`, their `places` in their own texts, and for each target the
    indices in the row of its tokens but the last (`paths`). The last of a target is asked for, not read."""

    def __init__(self, prompt: Sequence[int], targets: Sequence[Sequence[int]]) -> None:
        self.prompt = len(prompt)
        self.ids, self.parents = list(prompt), list(range(-1, len(prompt) - 1))
        self.places = list(range(len(prompt)))
        self.paths: list[list[int]] = []
        known: dict[tuple[int, int], int] = {}
        for target in targets:
            at, path = len(prompt) - 1, []
            for token in target[:-1]:
                if (at, token) not in known:
                    known[at, token] = len(self.ids)
                    self.ids.append(token)
                    self.parents.append(at)
                    self.places.append(self.places[at] + 1)
                at = known[at, token]
                path.append(at)
            self.paths.append(path)

    @property
    def branches(self) -> bool:
        """Whether some token is not seen by all that stand behind it."""
        return len(self.ids) > self.prompt + max(map(len, self.paths))

    @property
    def sees(self) -> Array:
        """`[T, T]`: whether the token of a row may look at that of a column: itself and its ancestors."""
        found = np.zeros((len(self.ids), len(self.ids)), dtype=bool)
        for i, parent in enumerate(self.parents):
            if parent >= 0:
                found[i] = found[parent]
            found[i, i] = True
        return found


Row = tuple[list[int], Tree]
"""Requests, and the tree of their targets."""


def score(
    lm: HFBackend, requests: Sequence[Request], prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
) -> Iterator[tuple[int, Scored]]:
    """The score of each request's target, prompts and targets given as ids; in no particular order.

    Requests with one prompt and steering stand together, so that they share its pass.
    """
    shared: dict[Any, list[int]] = {}
    for i, request in enumerate(requests):
        changed = request.steering is not None and request.steering.scalable
        key = request.steering.internal_digest if request.steering and changed else ""
        shared.setdefault((tuple(prompts[i]), key), []).append(i)
    trees: list[Row] = []
    for group in shared.values():
        for part in _parts(lm, group, prompts, targets):
            trees.append((part, Tree(prompts[part[0]], [targets[i] for i in part])))
    # Rows that only the model's own mask describes stand apart from those that need ours.
    for readable in (False, True):
        some = [one for one in trees if _reads_trees(lm, len(one[1].ids)) == readable]
        lengths, targeted = [len(tree.ids) for _, tree in some], [len(own) for own, _ in some]
        for batch in lm._batches(lengths, lm.batch, targeted):
            yield from _score(lm, [some[i] for i in batch], requests, targets)


def _parts(
    lm: HFBackend, group: Sequence[int], prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
) -> Iterator[list[int]]:
    """Requests of one prompt in rows of about `WIDE` more tokens; where the model cannot read a tree, one in each."""
    part: list[int] = []
    wide = 0
    # In the order of their tokens those that begin alike are neighbours.
    for i in sorted(group, key=lambda i: list(targets[i])):
        more = len(targets[i]) - 1
        if part and targets[i][:-1] == targets[part[-1]][:-1]:  # it is asked for where the one before is
            full, more = False, 0
        else:
            full = wide + more > WIDE or not _reads_trees(lm, len(prompts[i]) + wide + more)
        if part and (full or len(part) >= lm.batch):
            yield part
            part, wide = [], 0
            more = len(targets[i]) - 1
        part.append(i)
        wide += more
    if part:
        yield part


def _reads_trees(lm: HFBackend, length: int) -> bool:
    """Whether every layer sees a row of `length` tokens as a mask says, at the positions it is told: no state is
    carried, no window ends before, and no layer counts columns by itself (older ones of transformers do)."""
    config = lm.model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) or length
    told = lm.model._supports_attention_backend and not lm.model._is_stateful
    return told and kinds <= {"full_attention", "sliding_attention"} and length <= window


def _score(
    lm: HFBackend,
    batch: Sequence[Row],
    requests: Sequence[Request],
    targets: Sequence[Sequence[int]],
) -> Iterator[tuple[int, Scored]]:
    trees = [tree for _, tree in batch]
    inputs, pads = lm._pad([tree.ids for tree in trees])
    index = torch.full(inputs["input_ids"].shape, -1, device=lm.model.device)
    for own_index, tree, pad in zip(index, trees, pads, strict=True):
        own_index[pad:] = torch.tensor(tree.places, device=index.device)
    if any(tree.branches for tree in trees):
        inputs |= {"position_ids": index.clamp(min=0), "attention_mask": _mask(lm.model, trees, pads)}
    steerings = [requests[own[0]].steering for own, _ in batch]
    applied = Applied(lm.model, steerings, [tree.prompt for tree in trees], pads, lm.header, index)
    starts = torch.tensor([tree.prompt - 1 for tree in trees], device=index.device)[:, None]
    row, column = (index >= starts).nonzero(as_tuple=True)  # of every token that something follows
    head = lm.model.get_output_embeddings()
    changed = {delta.module for steering in steerings if steering for delta in steering.deltas}
    with ExitStack() as stack:
        whole = any(module is head and name in changed for name, module in lm.model.named_modules())
        if not whole:  # nothing is asked before the prompt's last token: the matrix is a fifth of a small model
            handle = head.register_forward_pre_hook(lambda _, args: (args[0][row, column][None],))
            stack.callback(handle.remove)
        stack.enter_context(applied)
        logits = lm.model(**inputs, use_cache=False).logits
    logits = logits[row, column] if whole else logits[0]
    at = {place: k for k, place in enumerate(zip(row.tolist(), column.tolist(), strict=True))}
    asked = [
        (at[r, pads[r] + k], token)
        for r, (own, tree) in enumerate(batch)
        for i, path in zip(own, tree.paths, strict=True)
        for k, token in zip([tree.prompt - 1, *path], targets[i], strict=True)
    ]
    scores, greedy = _picked(logits, *zip(*asked, strict=True))
    done = 0
    for r, (own, tree) in enumerate(batch):
        for i, path in zip(own, tree.paths, strict=True):
            part = slice(done, done + len(targets[i]))
            done = part.stop
            touched = applied.touched_at(r, [pads[r] + k for k in (*range(tree.prompt), *path)], bool(path))
            yield i, Scored(tuple(scores[part]), touched, all(greedy[part]))


def _mask(model: Any, trees: Sequence[Tree], pads: Sequence[int]) -> Tensor:
    """`[B, 1, T, T]`, added to what attention weighs: 0 where a token may look, else the least there is.

    Padding sees itself, so that no row of weights is empty.
    """
    width = pads[0] + len(trees[0].ids)
    sees = np.zeros((len(trees), width, width), dtype=bool)
    sees[:, range(width), range(width)] = True
    for own, tree, pad in zip(sees, trees, pads, strict=True):
        own[pad:, pad:] = tree.sees
    mask = torch.zeros(sees.shape, dtype=model.dtype).masked_fill(torch.from_numpy(~sees), torch.finfo(model.dtype).min)
    return mask[:, None].to(model.device)


def _picked(logits: Tensor, places: Sequence[int], tokens: Sequence[int]) -> tuple[list[float], list[bool]]:
    """Log-probability of each of `tokens` under the `logits` `[N, V]` at its place, and whether it is the likeliest."""
    # In pieces: one fp32 copy of [N, V] would cost more than the model's own pass.
    pieces = [(piece.logsumexp(1), piece.argmax(1)) for part in torch.split(logits, PIECE) for piece in (part.float(),)]
    total, likeliest = (torch.cat(column) for column in zip(*pieces, strict=True))
    at, wanted = (torch.tensor(column, device=logits.device) for column in (places, tokens))
    return (logits[at, wanted].float() - total[at]).tolist(), (likeliest[at] == wanted).tolist()
