"""Log-probabilities of texts that follow prompts, and how far a steering moves them.

What may follow a prompt stands in one row with it, as a tree.

A token of the tree sees the prompt and its own ancestors alone, at the position it would have in its own text; so the
prompt, and every beginning that several targets share, is read once. So is what prompts without an edit begin with
alike (many examples, say), where that is most of them.

Invariant: a target's score depends on its own request alone, in fp32 to the bit; the order and company of a pass only
change speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.backends import devices
from bench.backends.hf import attention
from bench.backends.hf.batches import Batches
from bench.backends.hf.chat import Second
from bench.backends.hf.hooks import Applied
from bench.backends.hf.prefix import common, prefix_groups
from bench.core.content import Array
from bench.core.errors import BenchError
from bench.core.steering import Mix, Steering
from bench.core.values import Divergence, Request, TargetScore

PIECE = 16
"""Positions whose `[V]` distributions are in memory in fp32 at once."""
WIDE = 128
"""Tokens in one row after what all its texts begin with, or as many as that has: attention costs a token as much as its
row is long (`benchmarks/products.py` has the rates at other widths)."""
PADDED = 1.1
"""How much longer padding may make a pass."""


@dataclass(frozen=True)
class Scored(TargetScore):
    """A score that knows whether each target token was the likeliest."""

    greedy: bool = False


class Tree:
    """What texts begin with, and how each goes on, as one row: `ids`, their `places` in their own texts, and for each
    text the indices in the row of its tokens but the last (`paths`). The last of a text is asked for, not read."""

    def __init__(self, prefix: Sequence[int], texts: Sequence[Sequence[int]]) -> None:
        self.prefix = len(prefix)
        self.ids, self.parents = list(prefix), list(range(-1, len(prefix) - 1))
        self.places = list(range(len(prefix)))
        self.paths: list[list[int]] = []
        known: dict[tuple[int, int], int] = {}
        for text in texts:
            at, path = len(prefix) - 1, []
            for token in text[:-1]:
                if (at, token) not in known:
                    known[at, token] = len(self.ids)
                    self.ids.append(token)
                    self.parents.append(at)
                    self.places.append(self.places[at] + 1)
                at = known[at, token]
                path.append(at)
            self.paths.append(path)

    def before(self, text: int, count: int) -> list[int]:
        """Indices in the row of what the last `count` tokens of a text follow."""
        return [self.prefix - 1, *self.paths[text]][-count:]

    @property
    def branches(self) -> bool:
        """Whether some token is not seen by all that stand behind it."""
        return len(self.ids) > self.prefix + max(map(len, self.paths))

    @property
    def sees(self) -> Array:
        """`[T, T]`: whether the token of a row may look at that of a column: itself and its ancestors."""
        found = np.zeros((len(self.ids), len(self.ids)), dtype=bool)
        for i, parent in enumerate(self.parents):
            if parent >= 0:
                found[i] = found[parent]
            found[i, i] = True
        return found


Row = tuple[list[int], list[Tree]]
"""Requests, and the tree of their targets; two trees where they mix two prompts."""


def score(
    model: Any,
    header: Callable[[Sequence[int]], int],
    batches: Batches,
    requests: Sequence[Request],
    prompts: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    against: Mapping[int, Second],
) -> Iterator[tuple[int, Scored]]:
    """The score of each request's target, prompts and targets given as ids; in no particular order.

    Requests with one prompt and steering stand together, so that they share its pass, and those without an edit whose
    prompts begin alike.
    """
    for own in _in_steps([request.steering for request in requests]):
        yield from _score_in_steps(model, header, batches, own, requests, prompts, targets, against)
    shared: dict[Any, list[int]] = {}
    for i, request in enumerate(requests):
        if request.steering and request.steering.keeps:
            continue
        other = tuple(against[i].ids) if i in against else ()
        shared.setdefault((tuple(prompts[i]), edited(request), other), []).append(i)
    alike = [prompt for prompt, edits, _ in shared if not edits and reads_trees(model, len(prompt))]
    groups: list[tuple[int, list[int]]] = []
    for prefix, own in prefix_groups(alike):
        if prefix:
            groups.append((prefix, [i for k in own for i in shared.pop((alike[k], "", ()))]))
    groups += [(len(prompt), own) for (prompt, *_), own in shared.items()]
    rows: list[Row] = []
    for prefix, group in groups:
        texts = {i: [*prompts[i][prefix:], *targets[i]] for i in group}
        others = {len(against[i].ids) for i in group if i in against}  # one: they share it
        for part in _parts(model, batches.rows, max(prefix, *others, 0), texts):
            trees = [Tree(prompts[part[0]][:prefix], [texts[i] for i in part])]
            if others:
                trees.append(Tree(against[part[0]].ids, [targets[i] for i in part]))
            rows.append((part, trees))
    # Rows that only the model's own mask describes stand apart from those that need ours.
    longest = [max(len(tree.ids) for tree in trees) for _, trees in rows]
    for readable in (False, True):
        at = [k for k, length in enumerate(longest) if reads_trees(model, length) == readable]

        def work(batch: list[int], some: Sequence[Row] = [rows[k] for k in at]) -> Iterator[tuple[int, Scored]]:
            return _score(model, header, batches, [some[i] for i in batch], requests, targets, against)

        targeted, streams = [len(rows[k][0]) for k in at], [len(rows[k][1]) for k in at]
        yield from batches.each([longest[k] for k in at], work, weights=targeted, padded=PADDED, streams=streams)


def edited(request: Request) -> str:
    """What a request changes inside the model; empty where that is nothing."""
    steering = request.steering
    return steering.internal_digest if steering is not None and steering.inside else ""


def _in_steps(steerings: Sequence[Steering | None]) -> Iterator[list[int]]:
    """Those that change what is kept of a prompt, which is then read before what follows it, by the way it is read."""
    for parts in (False, True):
        if own := [i for i, one in enumerate(steerings) if one and one.keeps and one.parts == parts]:
            yield own


def _parts(model: Any, most: int, prefix: int, texts: Mapping[int, Sequence[int]]) -> Iterator[list[int]]:
    """Requests that share a front, in rows of about `WIDE` tokens more; where the model cannot read a tree, one in
    each."""
    part: list[int] = []
    wide = 0
    # In the order of their tokens those that begin alike are neighbours.
    for i in sorted(texts, key=lambda i: list(texts[i])):
        more = len(texts[i]) - 1
        new = more - common(texts[i][:-1], texts[part[-1]][:-1]) if part else more
        # Nothing new: it is asked for where the one before is.
        full = new > 0 and (wide + new > max(WIDE, prefix) or not reads_trees(model, prefix + wide + new))
        if part and (full or len(part) >= most):
            yield part
            part, wide, new = [], 0, more
        part.append(i)
        wide += new
    if part:
        yield part


def reads_trees(model: Any, length: int) -> bool:
    """Whether every layer sees a row of `length` tokens as a mask says, at the positions it is told: no state is
    carried, no window ends before, and no layer counts columns by itself (older ones of transformers do)."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) or length
    told = model._supports_attention_backend and not model._is_stateful
    return told and kinds <= {"full_attention", "sliding_attention"} and length <= window


def _score(
    model: Any,
    header: Callable[[Sequence[int]], int],
    batches: Batches,
    batch: Sequence[Row],
    requests: Sequence[Request],
    targets: Sequence[Sequence[int]],
    against: Mapping[int, Second],
) -> Iterator[tuple[int, Scored]]:
    rows = [(own, tree) for own, streams in batch for tree in streams]
    trees = [tree for _, tree in rows]
    inputs, pads = batches.pad([tree.ids for tree in trees])
    index = torch.full(inputs["input_ids"].shape, -1, device=devices.of(model))
    for own_index, tree, pad in zip(index, trees, pads, strict=True):
        own_index[pad:] = torch.tensor(tree.places, device=index.device)
    if any(tree.branches for tree in trees):
        inputs |= {"position_ids": index.clamp(min=0), "attention_mask": _mask(model, trees, pads)}
    steerings = [
        against[own[0]].steering if stream else requests[own[0]].steering
        for own, streams in batch
        for stream in range(len(streams))
    ]
    headers = [header(tree.ids[: tree.prefix]) for tree in trees]
    applied = Applied(model, steerings, [tree.prefix for tree in trees], pads, headers, index)
    asked = [
        ((r, pads[r] + k), token)
        for r, (own, tree) in enumerate(rows)
        for n, i in enumerate(own)
        for k, token in zip(tree.before(n, len(targets[i])), targets[i], strict=True)
    ]
    at = {place: n for n, place in enumerate(sorted({place for place, _ in asked}))}
    row, column = torch.tensor(list(at), device=index.device).T
    head = model.get_output_embeddings()
    changed = {delta.module for steering in steerings if steering for delta in steering.deltas}
    with ExitStack() as stack:
        whole = any(module is head and name in changed for name, module in model.named_modules())
        if not whole:  # only where something is asked: the matrix is a fifth of a small model
            handle = head.register_forward_pre_hook(lambda _, args: (args[0][row, column][None],))
            stack.callback(handle.remove)
        stack.enter_context(attention.doubled(model))
        stack.enter_context(applied)
        logits = model(**inputs, use_cache=False).logits
    logits = logits[row, column] if whole else logits[0]
    places = [at[place] for place, _ in asked]
    scores, greedy = _picked(logits, places, [token for _, token in asked])
    found: dict[int, list[tuple[slice, tuple[int, ...]]]] = {}  # of each of its streams what was asked, and edited
    done = 0
    for r, (own, tree) in enumerate(rows):
        for i, path in zip(own, tree.paths, strict=True):
            part = slice(done, done + len(targets[i]))
            done = part.stop
            columns = [pads[r] + k for k in (*range(tree.prefix), *path)]
            found.setdefault(i, []).append((part, applied.positions_edited_at(r, columns, bool(path))))
    for i, ((part, positions_edited), *other) in found.items():
        logprobs, likeliest = scores[part], greedy[part]
        for second, _ in other:
            pair = places[part], places[second]
            logprobs, likeliest = _mixed(logits, pair, targets[i], against[i].mix.alpha)
            positions_edited = (*positions_edited, len(logprobs))
        yield i, Scored(tuple(logprobs), positions_edited, all(likeliest))


def _score_in_steps(
    model: Any,
    header: Callable[[Sequence[int]], int],
    batches: Batches,
    chosen: Sequence[int],
    requests: Sequence[Request],
    prompts: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    against: Mapping[int, Second],
) -> Iterator[tuple[int, Scored]]:
    """The score of requests that change what is kept of their prompts: each has a row of its own, and one for its
    second stream."""
    for i in chosen:
        steering = requests[i].steering
        if len(targets[i]) == 1 and steering is not None and not steering.parts:
            raise BenchError(
                "a change of what is kept of a prompt's last token does nothing before an answer's second token, and "
                "the answer has one: take the entry before it"
            )

    def work(batch: list[int]) -> Iterator[tuple[int, Scored]]:
        own = [chosen[k] for k in batch]
        mixed = {i: len(own) + k for k, i in enumerate(i for i in own if i in against)}
        streams = [(requests[i].steering, prompts[i], targets[i][:-1]) for i in own]
        streams += [(against[i].steering, against[i].ids, targets[i][:-1]) for i in mixed]
        steerings, rows, rests = zip(*streams, strict=True)
        with attention.doubled(model):
            applied, logits = _steps(model, header, batches, steerings, rows, rests)
        for row, i in enumerate(own):
            count = len(targets[i])
            positions_edited = applied.positions_edited(row, 2 if count > 1 else 1)
            if i in mixed:
                applied.positions_edited(mixed[i], 2 if count > 1 else 1)  # the other stream's are proven too
                both = torch.cat([logits[row, :count], logits[mixed[i], :count]])
                pair = range(count), range(count, 2 * count)
                scores, greedy = _mixed(both, pair, targets[i], against[i].mix.alpha)
                positions_edited = (*positions_edited, count)
            else:
                scores, greedy = _picked(logits[row, :count], range(count), targets[i])
            yield i, Scored(tuple(scores), positions_edited, all(greedy))

    streams = [1 + (i in against) for i in chosen]
    lengths = [max(len(prompts[i]), len(against[i].ids) if i in against else 0) + len(targets[i]) for i in chosen]
    yield from batches.each(lengths, work, streams=streams)


def _steps(
    model: Any,
    header: Callable[[Sequence[int]], int],
    batches: Batches,
    steerings: Sequence[Steering | None],
    prompts: Sequence[Sequence[int]],
    rests: Sequence[Sequence[int]],
) -> tuple[Applied, Tensor]:
    """Passes of prompts (first without their last tokens where the steerings ask for that, as all of them do then) and
    of what follows them; the logits `[B, T, V]` from each row's last prompt token on."""
    from bench.backends.hf import cache  # loads transformers

    inputs, pads = batches.pad(prompts)
    after, lengths = batches.pad_right(rests)
    width, columns = inputs["input_ids"].shape[1], torch.arange(after.shape[1], device=after.device)[None]
    starts, ends = (torch.tensor(values, device=after.device)[:, None] for values in (list(map(len, prompts)), lengths))
    places = torch.where(columns < ends, starts + columns, -1)
    index = torch.cat([torch.where(inputs["attention_mask"] > 0, inputs["position_ids"], -1), places], dim=1)
    applied = Applied(model, steerings, list(map(len, prompts)), pads, list(map(header, prompts)), index)
    keep = cache.cache(model, width + after.shape[1], shown=True)
    layers = cache.kept_layers(model, applied, keep)
    with applied:
        parts = any(one.parts for one in applied.steerings)
        if parts:
            cache.begin(model, applied, {name: value[:, :-1] for name, value in inputs.items()}, keep)
            inputs |= {name: inputs[name][:, -1:] for name in ("input_ids", "position_ids")}
        found: Tensor = model(**inputs, use_cache=True, logits_to_keep=1, **keep).logits
        applied.change_kept(layers)
        if after.shape[1]:
            seen = torch.cat([inputs["attention_mask"], torch.ones_like(after)], dim=1)
            more = {"input_ids": after, "attention_mask": seen, "position_ids": places.clamp(min=0)}
            found = torch.cat([found, model(**more, use_cache=True, **keep).logits], dim=1)
    return applied, found


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
    return mask[:, None].to(devices.of(model))


def _picked(logits: Tensor, places: Sequence[int], tokens: Sequence[int]) -> tuple[list[float], list[bool]]:
    """Log-probability of each of `tokens` under the `logits` `[N, V]` at its place, and whether it is the likeliest."""
    # In pieces: one fp32 copy of [N, V] would cost more than the model's own pass.
    pieces = [(piece.logsumexp(1), piece.argmax(1)) for part in torch.split(logits, PIECE) for piece in (part.float(),)]
    total, likeliest = (torch.cat(column) for column in zip(*pieces, strict=True))
    at, wanted = (torch.tensor(column, device=logits.device) for column in (places, tokens))
    return (logits[at, wanted].float() - total[at]).tolist(), (likeliest[at] == wanted).tolist()


def _mixed(
    logits: Tensor, places: tuple[Sequence[int], Sequence[int]], tokens: Sequence[int], alpha: float
) -> tuple[list[float], list[bool]]:
    """`_picked` of the mix of two streams, whose logits stand at the two `places` of each token."""
    scores: list[float] = []
    greedy: list[bool] = []
    for begin in range(0, len(tokens), PIECE):
        prompted, against = (logits[list(own[begin : begin + PIECE])] for own in places)
        piece = Mix.logprobs(prompted, against, alpha)
        found = _picked(piece, range(len(piece)), tokens[begin : begin + PIECE])
        scores += found[0]
        greedy += found[1]
    return scores, greedy


def diverge(
    model: Any,
    header: Callable[[Sequence[int]], int],
    batches: Batches,
    steerings: Sequence[Steering | None],
    steered: Sequence[Sequence[int]],
    bare: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    against: Mapping[int, Second],
) -> Iterator[tuple[int, Divergence]]:
    """How far each steering after its prompt moves the distribution over each token of its target."""

    def logits(
        prompts: Sequence[Sequence[int]], own: Sequence[Steering | None], rests: Sequence[Sequence[int]]
    ) -> list[Tensor]:
        """For each prompt with what follows `[T, V]`, from its last token on."""
        if any(one is not None and one.keeps for one in own):
            applied, found = _steps(model, header, batches, own, prompts, rests)
            each = [found[row, : len(rest) + 1] for row, rest in enumerate(rests)]
        else:
            inputs, pads = batches.pad([[*prompt, *rest] for prompt, rest in zip(prompts, rests, strict=True)])
            applied = Applied(model, own, list(map(len, prompts)), pads, list(map(header, prompts)))
            with applied:
                found = model(**inputs, use_cache=False, logits_to_keep=max(map(len, rests)) + 1).logits
            each = [found[row, -len(rest) - 1 :] for row, rest in enumerate(rests)]
        for row, rest in enumerate(rests):
            applied.positions_edited(row, 2 if rest else 1)
        return each

    def work(batch: list[int]) -> Iterator[tuple[int, Divergence]]:
        rests = [targets[i][:-1] for i in batch]
        changed = logits([steered[i] for i in batch], [steerings[i] for i in batch], rests)
        texts = {i: (tuple(bare[i]), tuple(targets[i])) for i in batch}
        shared = list(dict.fromkeys(texts.values()))  # one text under many settings is read bare once
        prompts, rests = [list(prompt) for prompt, _ in shared], [list(target[:-1]) for _, target in shared]
        plain = dict(zip(shared, logits(prompts, [None] * len(shared), rests), strict=True))
        mixed = [i for i in batch if i in against]
        rests = [targets[i][:-1] for i in mixed]
        others = logits([against[i].ids for i in mixed], [against[i].steering for i in mixed], rests) if mixed else []
        second = dict(zip(mixed, others, strict=True))
        for i, one in zip(batch, changed, strict=True):
            steering, two = steerings[i], plain[texts[i]]
            own = Mix.logprobs(one, second[i], against[i].mix.alpha) if i in second else one
            if not (i in second or (steering and steering.inside)) and list(steered[i]) == list(bare[i]):
                own = two  # to the bit, whatever stood beside it
            yield i, _divergence(own, two, torch.tensor(targets[i], device=two.device))

    whole = [i for i, one in enumerate(steerings) if not (one and one.keeps)]
    for own in (whole, *_in_steps(steerings)):
        each = [(steered[i], bare[i], against[i].ids if i in against else ()) for i in own]
        lengths = [max(map(len, prompts)) + len(targets[i]) for i, prompts in zip(own, each, strict=True)]
        yield from batches.each(lengths, lambda part, own=own: work([own[k] for k in part]), max(1, batches.rows // 4))  # type: ignore[misc]


def _divergence(changed: Tensor, plain: Tensor, labels: Tensor) -> Divergence:
    kl = steered = bare = 0.0
    for one, two, wanted in zip(*(torch.split(part, PIECE) for part in (changed, plain, labels)), strict=True):
        p, q = one.float().log_softmax(1), two.float().log_softmax(1)
        kl += float((p.exp() * (p - q)).sum())
        steered += float(p.gather(1, wanted[:, None]).sum())
        bare += float(q.gather(1, wanted[:, None]).sum())
    return Divergence(len(labels), kl, steered, bare)
