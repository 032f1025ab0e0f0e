"""SAE: one latent of a sparse dictionary, picked on the training texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bench import (
    Add,
    Array,
    BenchError,
    Budget,
    Clamp,
    Context,
    Count,
    Edit,
    Fitted,
    Method,
    Size,
    Steering,
    Train,
    method,
)
from methods._dictionary import LENGTH, LIMIT, Dictionary, concept_texts, own, released, rows, trained
from methods._directions import DirectionDetector
from methods._output_scores import output_scores

GIVES = ("steering", "detector")
READERS = 20
"""Latents that an output score is taken of."""


@method(
    "sae",
    surface="activations",
    paper="arXiv:2501.17148",
    needs=["add", "clamp"],
    provides=GIVES,
    needs_all_concepts=True,
)
@dataclass(frozen=True)
class SAE(Method):
    """One latent of a sparse autoencoder, picked by how well it tells the training texts apart.

    Equation: a = z·1[z > θ], z = W_enc h + b `[m]`, W_enc and W_dec `[m, H]`; latent i = argmax AUROC of max_t a_t,
    or of the mean difference of a (`pick`; `output`: of the `READERS` best readers the one that, amplified, writes its
    own tokens, arXiv:2505.20063); steering h ← h + α d, d = W_dec[i] / ‖W_dec[i]‖ `[H]` (`operator=add`), or
    h ← h + (α m - a_i) W_dec[i], m the largest training activation (`clamp`; `min-clamp`: max(a_i, α m));
    detection max_t z_ti. `shortlist=n`: the n best go to the select split, as a good reader need not write well.
    Deviations from AxBench: without `release` the dictionary is ours, TopK (arXiv:2406.04093) with the mean
    smallest kept activation as θ, and undertrained: it sees the run's concept texts and up to `tokens` tokens of
    the model's own, where a release sees 10⁹. The latent is picked by labels (SAE-A), not by its description.
    Every row clamps to its own value, where AxBench's batches share one, and what is added is the unit decoder row.
    Reproduction: AxBench reports, on Gemma-2-2B layer 20 with GemmaScope, AUROC .755 (SAE) and .911 (SAE-A),
    steering .151 and .132; ours rest on a small dictionary of another model and are no reproduction.
    """

    layer: int | float = 0.5
    expansion: Size = 2
    k: Size = 32
    tokens: Count = 16_000
    epochs: Size = 4
    pick: Literal["auroc", "difference", "output"] = "auroc"
    shortlist: Size = 1
    operator: Literal["add", "clamp", "min-clamp"] = "add"
    release: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.tokens <= LIMIT or min(self.expansion, self.k, self.epochs, self.shortlist) < 1:
            raise ValueError(f"tokens from 0 to {LIMIT}; expansion, k, epochs and shortlist from 1")
        if self.pick == "output":  # it runs the live model
            object.__setattr__(self, "needs", self.needs | {"train"})

    def prompt_writing_cost(self, budget: Budget) -> tuple[int, int]:
        texts = 0 if self.release else own(budget, self.tokens)
        return texts, texts * LENGTH

    def candidates(self, budget: Budget) -> int:
        return self.shortlist

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        return next(self.fit_all(ctx, [train]))

    def fit_all(self, ctx: Context, trains: Sequence[Train]) -> Iterator[Sequence[Fitted]]:
        layer, pool = ctx.layer(self.layer), ctx.trains or tuple(trains)
        if self.release:
            found, x = released(self.release), np.concatenate(rows(ctx, concept_texts(ctx, pool)[:256], layer))
            if x.shape[1] != (width := found.decoder.shape[1]):
                raise BenchError(f"the dictionary {self.release} is {width} wide, the model {x.shape[1]}")
            found = found.measured(x)
        else:
            found = trained(ctx, pool, layer, self.expansion, self.k, self.tokens, self.epochs)
        for train in trains:
            yield self._fitted(ctx, train, found, layer)

    def _fitted(self, ctx: Context, train: Train, found: Dictionary, layer: int) -> list[Fitted]:
        reads = ctx.read([e.messages for e in (*train.positives, *train.negatives)], layer)
        active = [found.activations(read.values[layer]) for read in reads]
        peaks, means = np.stack([a.max(0) for a in active]), np.stack([a.mean(0) for a in active])
        positive = np.arange(len(active)) < len(train.positives)
        area = aurocs(peaks, positive)
        difference = means[positive].mean(0) - means[~positive].mean(0)
        first, then = (difference, area - 0.5) if self.pick == "difference" else (area - 0.5, difference)
        # A few texts leave many latents at the same AUROC: the other measure breaks the tie.
        many = max(READERS, self.shortlist) if self.pick == "output" else self.shortlist
        best = [int(i) for i in np.lexsort((-then, -first))[:many] if first[i] > 0]
        if not best:
            raise BenchError(f"none of {len(area)} latents at layer {layer} separates the texts of {train.concept.id}")
        notes: dict[int, dict[str, float]] = {i: {} for i in best}
        if self.pick == "output":
            scores = output_scores(ctx, found, best, layer)
            notes = {i: {"output_score": round(score, 4)} for i, score in zip(best, scores, strict=True)}
            best = sorted(best, key=lambda i: -notes[i]["output_score"])[: self.shortlist]
        return [self._latent(found, i, float(peaks[:, i].max()), float(area[i]), layer, notes[i]) for i in best]

    def _latent(
        self, found: Dictionary, i: int, peak: float, area: float, layer: int, said: dict[str, float]
    ) -> Fitted:
        read, write, bias = found.encoder[i], found.decoder[i], float(found.bias[i])
        edit: Edit = Add(layer=layer, value=write / np.linalg.norm(write))
        if self.operator != "add":
            theta, least = float(found.threshold[i]), self.operator == "min-clamp"
            edit = Clamp(layer=layer, read=read, write=write, target=peak, bias=bias, threshold=theta, at_least=least)
        note = {"layer": layer, "latent": i, "auroc": area, "max_activation": peak, "width": len(found.bias)} | said
        # Where the latent fires, z is its activation; cutting it to 0 elsewhere would tie the texts it is silent on.
        return Fitted(Steering(edits=(edit,)), DirectionDetector(layer, read, bias), note | dict(found.report))


def aurocs(scores: Array, positive: Array) -> Array:
    """AUROC `[m]` of each column of `scores` `[N, m]`, ties half: by the positives' rank sum."""
    from scipy.stats import rankdata

    n = int(positive.sum())
    above: Array = rankdata(scores, axis=0)[positive].sum(0) - n * (n + 1) / 2
    return above / (n * (len(positive) - n))
