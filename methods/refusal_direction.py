"""A direction chosen by what it does: of all layers' mean differences, the one that turns the answers on and off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bench import (
    Add,
    Array,
    Context,
    Example,
    Fitted,
    Method,
    Positive,
    Project,
    Request,
    Share,
    Size,
    Steering,
    Train,
    method,
)
from methods._directions import direction, responses


@method(
    "refusal-direction",
    surface="activations",
    paper="arXiv:2406.11717",
    needs=["add", "project"],
    provides=["steering", "detector"],
)
@dataclass(frozen=True)
class RefusalDirection(Method):
    """Mean differences of many layers, filtered and ranked by what adding and ablating each does to held-out answers.

    Equation: r_l = mean(h⁺) - mean(h⁻) over response tokens after block l, for every `step`-th block below the share
    `deepest` of the depth. With m the mean log-probability per token of `probes` held-out answers with the concept less
    that of as many without it: `induce` = m with r_l added after block l, less the bare m; `bypass` = m with r_l
    ablated after all blocks, less the bare m; `harm` = what the answers without it lose per token when it is ablated.
    Of the layers with induce > 0 and harm ≤ `harm` the one with the least bypass; where none passes, the one with the
    least harm, and the fit says so. Steering h ← h + c·r̂ at that layer, detection max_i h_i·r̂.
    Deviations: the paper reads the template's last tokens of harmful and harmless prompts and scores the first token
    of a refusal; here whole answers and their likelihood, so that it holds for any concept; an addition must raise the
    margin, where the paper's must make the refusal likelier than not; harm is a difference of cross-entropies in place
    of a divergence; its own ablation is method `ablate`.
    Reproduction: attacks on JailbreakBench succeed on .78 with the direction ablated, .07 without (gemma-2b, paper's
    files); it reports no AxBench row, not compared.
    """

    deepest: Share = 0.8
    step: Size = 2
    probes: Size = 4
    harm: Positive = 0.1

    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        return next(self.fit_all(ctx, [train]))

    def fit_all(self, ctx: Context, trains: Sequence[Train]) -> Iterator[Sequence[Fitted]]:
        layers = list(range(0, max(1, int(self.deepest * ctx.lm.layers)), self.step))
        for train in trains:
            shown, held = self._split(train)
            ctx.read([text.messages for side in shown for text in side], layers)
            plus, minus = ({layer: responses(ctx, side, layer).mean(0) for layer in layers} for side in shown)
            vectors = {layer: (plus[layer] - minus[layer]).astype(np.float32) for layer in layers}
            yield [self._chosen(vectors, self._tried(ctx, vectors, held))]

    def _split(self, train: Train) -> tuple[list[Sequence[Example]], list[Sequence[Example]]]:
        """Texts to read, and texts to try on, with the concept and without it; all are both where there are few."""
        sides: list[Sequence[Example]] = [train.positives, train.negatives]
        held = [side[-self.probes :] for side in sides]
        shown = [side[: -self.probes] or side for side in sides]
        return shown, held

    def _tried(self, ctx: Context, vectors: dict[int, Array], held: Sequence[Sequence[Example]]) -> Array:
        """induce, bypass and harm of each layer, `[layers, 3]`."""
        ways: list[Steering | None] = [None]
        for layer, vector in vectors.items():
            basis = (vector / np.linalg.norm(vector))[None]
            removed = tuple(Project(layer=k, basis=basis) for k in range(ctx.lm.layers))
            ways += [Steering(edits=(Add(layer=layer, value=vector),)), Steering(edits=removed)]
        texts = [text for side in held for text in side]
        asks = [Request(text.messages[:-1], way, target=text.response) for way in ways for text in texts]
        scored = dict(ctx.lm.logprobs(asks))
        found = np.array([scored[i].mean for i in range(len(asks))]).reshape(len(ways), len(texts))
        wished, other = found[:, : len(held[0])].mean(1), found[:, len(held[0]) :].mean(1)
        margin = wished - other
        return np.stack([margin[1::2] - margin[0], margin[2::2] - margin[0], other[0] - other[2::2]], 1)

    def _chosen(self, vectors: dict[int, Array], tried: Array) -> Fitted:
        layers = list(vectors)
        induce, bypass, harm = tried.T
        passed = (induce > 0) & (harm <= self.harm)
        best = int(np.where(passed, bypass, np.inf).argmin()) if passed.any() else int(harm.argmin())
        found = direction(vectors[layers[best]], layers[best])
        values = {"induce": induce[best], "bypass": bypass[best], "harm": harm[best]}
        note = {name: round(float(value), 4) for name, value in values.items()}
        return Fitted(found.steering, found.detector, {**found.note, **note, "passed": int(passed.sum())})
