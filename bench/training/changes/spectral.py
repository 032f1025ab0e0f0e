"""Changes of linear modules' weights in the basis of their singular vectors: SVFT, SSVD, AntiPaSTO's rotation.

Invariant: W0 is never cut or rewritten; U, S, V are its exact factors and travel with what is exported.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from bench.backends.hf.backend import HFBackend
from bench.backends.hf.modules import read_blocks
from bench.backends.hf.weights import by_row
from bench.core.deltas import Delta, LowRankDelta, RotationDelta
from bench.core.errors import BenchError
from bench.training.changes.adapters import WeightChange
from bench.training.changes.base import TrainingContext, array
from bench.training.parametrisations import SSVD, SVFT, Rotation


def factors(weight: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The top `count` (0: all) of U `[out, k]`, S `[k]`, V `[in, k]` of a weight `[out, in]`, in fp32."""
    u, s, v = torch.linalg.svd(weight.float(), full_matrices=False)
    count = min(count or len(s), len(s))
    return u[:, :count].contiguous(), s[:count].contiguous(), v[:count].T.contiguous()


class SVFTChange(WeightChange):
    """ΔW = U M Vᵀ with M `[k, k]` free on a fixed pattern and 0 elsewhere, in units of the mean of S."""

    def start(self, scene: TrainingContext, form: SVFT) -> None:
        self.bases: list[tuple[Tensor, Tensor, Tensor]] = []
        self.pattern: list[tuple[Tensor, Tensor]] = []
        self.core = nn.ParameterList()

    def learn(self, scene: TrainingContext, form: SVFT, k: int, name: str, weight: Tensor) -> None:
        u, s, v = factors(weight, form.rank)
        self.bases.append((u, s, v))
        rows, columns = pattern(form, u, v, scene.ctx.rng("train", "svft", name), name)
        self.pattern.append((rows, columns))
        self.core.append(nn.Parameter(torch.zeros(len(scene.trains), len(rows), device=scene.device)))

    def cores(self, k: int) -> Tensor:
        """M of every concept, `[C, k, k]`."""
        _, s, _ = self.bases[k]
        entries, (rows, columns) = self.core[k], self.pattern[k]
        dense = torch.zeros(len(entries), len(s), len(s), device=entries.device)
        at = (torch.arange(len(entries), device=entries.device)[:, None], rows[None], columns[None])
        return dense.index_put(at, entries * s.mean())

    def change(self, k: int, x: Tensor, y: Tensor, factor: Tensor) -> Tensor:
        u, _, v = self.bases[k]
        return factor * torch.einsum("btj,bij->bti", x @ v, self.cores(k)[self.now.concept]) @ u.T

    def delta(self, k: int, concept: int) -> Delta:
        u, _, v = self.bases[k]
        return LowRankDelta(module=self.places[k][0], down=array(v.T), up=array(u @ self.cores(k)[concept]))


def pattern(form: SVFT, u: Tensor, v: Tensor, rng: np.random.Generator, name: str) -> tuple[Tensor, Tensor]:
    """Rows and columns of the entries of M that are free, by `form.variant`: `plain` the diagonal; `banded`
    |i - j| <= d; `random` the diagonal and as many entries off it as the band has; `top-k` as many as the
    band has where |u_i · v_j| is largest, which only a square weight defines."""
    n, d = u.shape[1], form.band
    away = np.abs(np.arange(n)[:, None] - np.arange(n)[None])
    chosen = away <= (0 if form.variant == "plain" else d)
    extra = int(chosen.sum()) - n
    if form.variant == "random":
        off = np.flatnonzero(away > 0)
        chosen = away == 0
        chosen.flat[rng.choice(off, min(extra, len(off)), replace=False)] = True
    elif form.variant == "top-k":
        if u.shape[0] != v.shape[0]:
            raise BenchError(f"svft top-k compares input with output directions, and {name} is not square")
        scores = array((u.T @ v).abs())
        chosen = np.zeros((n, n), dtype=bool)
        chosen.flat[np.argsort(-scores, axis=None, kind="stable")[: extra + n]] = True
    rows, columns = np.nonzero(chosen)
    return torch.from_numpy(rows).to(u.device), torch.from_numpy(columns).to(u.device)


class RotationChange(WeightChange):
    """ΔW = U [(S + aδ) G(aK) - S] Vᵀ with the Cayley rotation G(K) = (I - K)(I + K)⁻¹, K skew, by concept.

    A factor scales the generator, so that G(-a) undoes G(a). Subclasses say which directions are turned
    and how far.
    """

    strict = True

    def start(self, scene: TrainingContext, form: Any) -> None:
        self.bases: list[tuple[Tensor, Tensor, Tensor]] = []
        self.skew, self.shift = nn.ParameterList(), nn.ParameterList()

    def generators(self, k: int) -> tuple[Tensor, Tensor]:
        """K `[C, n, n]` and δ `[C, n]` of the k-th module."""
        upper, s = self.skew[k], self.bases[k][1]
        n = s.shape[-1]
        i, j = torch.triu_indices(n, n, 1, device=upper.device)
        half = torch.zeros(len(upper), n, n, device=upper.device)
        half = half.index_put((torch.arange(len(upper), device=upper.device)[:, None], i[None], j[None]), upper)
        return self.bounded(half - half.mT), self.shift[k] * s

    def bounded(self, skew: Tensor) -> Tensor:
        return skew

    def turned(self, k: int, factor: Tensor) -> Tensor:
        """(S + aδ) G(aK) - S for each row, `[B, n, n]`; `factor` `[B, 1, 1]`."""
        skew, shift = (part[self.now.concept] for part in self.generators(k))
        s = self._own(self.bases[k][1])
        skew = factor * skew
        eye = torch.eye(skew.shape[-1], device=skew.device)
        rotation = torch.linalg.solve(eye + skew, eye - skew) if self.strict else eye - 2 * skew
        return (s + factor[..., 0] * shift)[..., None] * rotation - torch.diag_embed(s.expand(len(skew), -1))

    def _own(self, basis: Tensor) -> Tensor:
        """A factor of the base weight for each row, where every concept has its own."""
        return basis

    def change(self, k: int, x: Tensor, y: Tensor, factor: Tensor) -> Tensor:
        u, _, v = (self._own(basis) for basis in self.bases[k])
        return torch.einsum("btj,bij->bti", x @ v, self.turned(k, factor)) @ u.mT

    def delta(self, k: int, concept: int) -> Delta:
        skew, shift = (array(part[concept]) for part in self.generators(k))
        u, s, v = (array(self._of(basis, concept)) for basis in self.bases[k])
        skew = (skew - skew.T) / 2
        return RotationDelta(module=self.places[k][0], u=u, s=s, v=v, skew=skew, shift=shift, strict=self.strict)

    def _of(self, basis: Tensor, concept: int) -> Tensor:
        return basis


class SSVDChange(RotationChange):
    """The top share of right singular directions, turned and rescaled from the identity (K = δ = 0)."""

    def start(self, scene: TrainingContext, form: SSVD) -> None:
        super().start(scene, form)
        self.strict = form.strict

    def learn(self, scene: TrainingContext, form: SSVD, k: int, name: str, weight: Tensor) -> None:
        count = max(2, math.ceil(form.share * min(weight.shape)))
        basis = factors(weight, count)
        self.bases.append(basis)
        n, many = len(basis[1]), len(scene.trains)
        self.skew.append(nn.Parameter(torch.zeros(many, n * (n - 1) // 2, device=scene.device)))
        self.shift.append(nn.Parameter(torch.zeros(many, n, device=scene.device)))


class BoundedRotationChange(RotationChange):
    """AntiPaSTO's adapter: dimensions chosen by what the concept's texts move, ‖K‖₂ held below tan(θ/2).

    K = -A/2 of the paper. Each concept has its own dimensions, a third each by s_k·std(X v_k) on the
    preferred texts, the rejected, and their differences.
    """

    def start(self, scene: TrainingContext, form: Rotation) -> None:
        super().start(scene, form)
        self.limit = math.tan(form.angle / 2)
        self.elementwise = scene.reference
        self.inputs = _inputs(scene, form)

    def learn(self, scene: TrainingContext, form: Rotation, k: int, name: str, weight: Tensor) -> None:
        u, s, v = factors(weight, 0)
        chosen = torch.stack([self._dimensions(c, name, s, v, form.rank) for c in range(len(scene.trains))])
        self.bases.append((u.T[chosen].mT.contiguous(), s[chosen], v.T[chosen].mT.contiguous()))
        n = chosen.shape[1]
        skew = scene.normal(n * (n - 1) // 2, salt=f"skew {name}") * form.init
        shift = form.shift * (1 + scene.normal(n, salt=f"shift {name}").clamp(-1, 2))
        self.skew.append(nn.Parameter(skew))
        self.shift.append(nn.Parameter(shift / s[chosen]))

    def _dimensions(self, concept: int, name: str, s: Tensor, v: Tensor, rank: int) -> Tensor:
        chosen: list[int] = []
        for states in self.inputs[concept][name]:
            score = s * (states @ v).std(0, unbiased=False)
            order = [int(i) for i in score.argsort(descending=True) if int(i) not in chosen]
            chosen += order[: max(1, rank // 3)]
        return torch.tensor(sorted(chosen), device=s.device)

    def bounded(self, skew: Tensor) -> Tensor:
        if self.elementwise:  # the reference's: it does not bound the angle of a matrix
            return self.limit * torch.tanh(skew / self.limit)
        norm = torch.linalg.matrix_norm(skew, 2).clamp(min=1e-9)[:, None, None]
        found: Tensor = skew * (self.limit * torch.tanh(norm / self.limit) / norm)
        return found

    def _own(self, basis: Tensor) -> Tensor:
        return basis[self.now.concept]

    def _of(self, basis: Tensor, concept: int) -> Tensor:
        return basis[concept]


def _inputs(scene: TrainingContext, form: Rotation) -> list[dict[str, list[Tensor]]]:
    """By concept and module: inputs `[N, in]` at the last tokens of positives, of negatives, and differences."""
    places = scene.linears(form.modules, scene.layers(form.layers))
    last = max(layer for _, _, layer in places)  # nothing above it is computed
    chats, counts = [], []
    for train in scene.trains:
        sides = [[example.messages for example in part] for part in (train.positives, train.negatives)]
        counts.append(min(map(len, sides)))
        chats += [chat for side in sides for chat in side[: counts[-1]]]
    lm, tokens = cast(HFBackend, scene.ctx.lm), scene.ctx.budget.tokens
    rows = [lm.encode(chat[:-1], chat[-1][1]) for chat in chats]
    rows = [ids[: lm.header(ids) + tokens] for ids in rows]
    seen: dict[str, Any] = {}

    def read(part: list[int]) -> Iterator[tuple[int, dict[str, Tensor]]]:
        ids, lengths = lm.batches.pad_right([rows[i] for i in part])
        with torch.no_grad():
            read_blocks(scene.model, [last], input_ids=ids)
        given = {name: by_row(x, tuple(ids.shape), name) for name, x in seen.items()}
        for row, i in enumerate(part):
            yield i, {name: x[row, lengths[row] - 1].float() for name, x in given.items()}

    with ExitStack() as stack:
        for name, module, _ in places:
            stack.callback(module.register_forward_pre_hook(partial(_keep, seen, name)).remove)
        ends = dict(lm.batches.each(list(map(len, rows)), read))
    found, begin = [], 0
    for count in counts:
        own = [ends[i] for i in range(begin, begin + 2 * count)]
        begin += 2 * count
        found.append({name: _sides(torch.stack([end[name] for end in own]), count) for name, _, _ in places})
    return found


def _keep(seen: dict[str, Any], name: str, _: nn.Module, args: Any) -> None:
    seen[name] = args[0]


def _sides(rows: Tensor, count: int) -> list[Tensor]:
    chosen, rejected = rows[:count], rows[count:]
    return [chosen, rejected, chosen - rejected]
