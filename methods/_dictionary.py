"""A sparse dictionary of one layer's residual stream: trained here, small, or loaded from a release.

Invariant: whatever its origin a dictionary acts on raw activations, in GemmaScope's form
a = z·1[z > θ], z = x W_encᵀ + b, x̂ = a W_dec + c, and says how well it does so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from safetensors import SafetensorError

from bench import Array, BenchError, Budget, Context, Prompted, Request, Sampling, Train, digest, stored
from bench.core.hub import fetch
from bench.core.paths import expanded

if TYPE_CHECKING:
    from torch import Tensor

LIMIT = 200_000  # rows from either source, concept texts and own texts: all are held in memory
LENGTH = 64  # tokens of a text the model writes, at most
OPENINGS = ("In the early morning", "She said that", "The report describes", "To make this", "I never thought")


@stored
@dataclass(frozen=True, eq=False)
class Dictionary:
    """`encoder` W_enc and `decoder` W_dec `[m, H]`, `bias` b and `threshold` θ `[m]`, `center` c `[H]`."""

    encoder: Array
    decoder: Array
    bias: Array
    threshold: Array
    center: Array
    report: Mapping[str, Any]

    def activations(self, x: Array) -> Array:
        """Latents `[N, m]` of activations `[N, H]`."""
        z: Array = x.astype(np.float32) @ self.encoder.T + self.bias
        return np.where(z > self.threshold, z, np.float32(0))

    def measured(self, x: Array) -> Dictionary:
        """The same with its L0, explained variance (1 - FVU) and share of latents silent on `x` `[N, H]`."""
        fired, count, error = np.zeros(len(self.bias), bool), 0, 0.0
        for begin in range(0, len(x), 1024):
            a = self.activations(part := x[begin : begin + 1024])
            fired |= (a > 0).any(0)
            count += int((a > 0).sum())
            error += float(((part - a @ self.decoder - self.center) ** 2).sum(dtype=np.float64))
        total = float(((x - x.mean(0)) ** 2).sum(dtype=np.float64))
        explained = 1 - error / max(total, 1e-12)
        found = {"l0": count / len(x), "explained_variance": explained, "dead": float(1 - fired.mean())}
        return replace(self, report=found | dict(self.report))


def topk(z: Tensor, k: int) -> Tensor:
    """`z` `[N, m]` with all but each row's k largest set to 0, and none left below 0."""
    values, index = z.topk(k)
    return z.new_zeros(z.shape).scatter(-1, index, values.relu())


def learn(texts: Sequence[Array], width: int, k: int, seed: int, epochs: int) -> Dictionary:
    """A TopK dictionary (arXiv:2406.04093) of `width` latents from the rows `[n, H]` of each text.

    Every tenth text is held out; L0 and explained variance are of those.
    """
    import torch

    held = np.concatenate(texts[::10])
    kept = np.concatenate([text for i, text in enumerate(texts) if i % 10] or list(texts)).astype(np.float32)
    h, scale = kept.shape[1], math.sqrt(kept.size / float((kept.astype(np.float64) ** 2).sum()))
    generator = torch.Generator().manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.from_numpy(kept).to(device) * scale  # E‖x‖² = H
    decoder = torch.nn.functional.normalize(torch.randn(width, h, generator=generator), dim=1).to(device)
    encoder, bias, center = decoder.clone(), torch.zeros(width, device=device), x.mean(0)
    variance, silent = (x - center).square().sum(1).mean(), torch.zeros(width, device=device)
    batch = min(2048, max(32, len(x) // 256))
    steps = max(1000, epochs * len(x) // batch)  # steps recover latents, more than rows do
    weights = [weight.requires_grad_() for weight in (decoder, encoder, bias, center)]
    adam = torch.optim.Adam(weights, lr=3e-4 * math.sqrt(2**14 / width), fused=True)
    decay = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: min(1.0, 5 * (1 - step / steps)))
    for _ in range(steps):
        part = x[torch.randint(len(x), (batch,), generator=generator).to(device)]
        z = (part - center) @ encoder.T + bias
        a = topk(z, k)
        error = part - center - a @ decoder
        loss = error.square().sum(1).mean() / variance
        silent = torch.where((a > 0).any(0), 0, silent + batch)
        if (dead := silent >= len(x)).any():  # silent for a whole pass: let them explain what is left
            rest = error.detach()
            spare = topk(z[:, dead], min(h // 2, int(dead.sum()))) @ decoder[dead]
            loss = loss + (rest - spare).square().sum(1).mean() / rest.square().sum(1).mean() / 32
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            assert decoder.grad is not None
            decoder.grad -= (decoder.grad * decoder).sum(1, keepdim=True) * decoder
            adam.step()
            decoder /= decoder.norm(dim=1, keepdim=True)
        decay.step()
    with torch.no_grad():
        least = [((part - center) @ encoder.T + bias).topk(k).values[:, -1] for part in torch.split(x, 4096)]
        # TopK commutes with a positive scale, so that the scale folds into the offsets alone.
        theta = torch.cat(least).relu().mean().expand(width)
        offsets = [value / scale for value in (bias - encoder @ center, theta, center)]
        arrays = [value.cpu().numpy() for value in (encoder, decoder, *offsets)]
    report = {"dead": float((silent >= len(x)).float().mean()), "tokens": len(x), "k": k, "undertrained": True}
    return Dictionary(arrays[0], arrays[1], arrays[2], arrays[3], arrays[4], report).measured(held)


def own(budget: Budget, tokens: int) -> int:
    """Texts a model writes per concept, at most: they cost a fraction of the concept's own rows."""
    return math.ceil(min(tokens, budget.sequences * 16) / LENGTH)


def written(ctx: Context, trains: Sequence[Train], tokens: int) -> list[Prompted]:
    """The model's own texts, `tokens` in all: answers to training instructions, every fourth an opening continued."""
    asked = list(dict.fromkeys(e.messages[:1] for t in trains for e in (*t.positives, *t.negatives)))
    rng = ctx.rng("dictionary", "texts")
    order, count = rng.permutation(len(asked)), min(math.ceil(tokens / LENGTH), own(ctx.budget, tokens) * len(trains))
    prompts: list[Prompted] = [
        OPENINGS[i // 4 % len(OPENINGS)] if i % 4 == 3 else asked[order[i % len(asked)]] for i in range(count)
    ]
    requests = [Request(p, None, Sampling(LENGTH, 1.0), int(rng.integers(2**31))) for p in prompts]
    said = {i: (answer.spoken or "").strip() for i, answer in ctx.lm.generate(requests)}
    pairs = [(prompt, said[i]) for i, prompt in enumerate(prompts) if said[i]]
    return [f"{p} {text}" if isinstance(p, str) else (*p, ("assistant", text)) for p, text in pairs]


def rows(ctx: Context, texts: Sequence[Prompted], layer: int) -> list[Array]:
    """Activations `[n, H]` of each text, until `LIMIT` rows are read."""
    found: list[Array] = []
    while len(found) < len(texts) and sum(map(len, found)) < LIMIT:
        found += [read.values[layer] for read in ctx.read(texts[len(found) : len(found) + 256], layer)]
    return found


def concept_texts(ctx: Context, trains: Sequence[Train]) -> list[Prompted]:
    """Every training text once, in a mixed order."""
    every = dict.fromkeys(e.messages for t in trains for e in (*t.positives, *t.negatives, *t.hard_negatives))
    texts: list[Prompted] = list(every)
    return [texts[i] for i in ctx.rng("dictionary", "order").permutation(len(texts))]


def trained(
    ctx: Context, trains: Sequence[Train], layer: int, expansion: int, k: int, tokens: int, epochs: int
) -> Dictionary:
    """The dictionary of a run: one for all of its concepts."""

    def make() -> Dictionary:
        texts = rows(ctx, concept_texts(ctx, trains), layer)
        # No other method reads the model's own texts: they stay out of the cache, and are not cut.
        apart = replace(ctx, budget=replace(ctx.budget, tokens=0), _cache={})
        texts += rows(apart, written(ctx, trains, tokens), layer)
        width, seed = expansion * texts[0].shape[1], int(ctx.rng("dictionary", layer).integers(2**31))
        return learn(texts, width, min(k, max(1, width // 16)), seed, epochs)

    settings = (layer, expansion, k, tokens, epochs)
    key = ("dictionary", settings, [digest(train) for train in trains])
    return ctx.cached(key, make, learn, rows, concept_texts, written)


def released(release: str) -> Dictionary:
    """A release in GemmaScope's naming (`W_enc` `[H, m]`, `W_dec` `[m, H]`, `b_enc`, `b_dec`, `threshold`):
    a `.npz` or `.safetensors` file, or `owner/repo/path[@revision]` on the hub."""
    import torch
    from safetensors.torch import load_file  # numpy has no bfloat16

    path = expanded(release)
    name, _, revision = release.partition("@")
    owner, _, rest = name.partition("/")
    repo, _, file = rest.partition("/")
    if not path.is_file() and (not file or owner in ("", ".", "..", "~")):
        raise BenchError(f"no dictionary {release!r}: give a .npz or .safetensors file, or owner/repo/path on the hub")
    try:
        if not path.is_file():
            path = fetch(f"{owner}/{repo}", file, revision=revision)
        stored = load_file(path) if path.suffix == ".safetensors" else np.load(path, allow_pickle=False)
        parts = {name.lower(): torch.as_tensor(stored[name]).float().numpy() for name in stored}  # Gemma Scope 2: w_enc
        encoder, decoder, bias, center = (parts[name] for name in ("w_enc", "w_dec", "b_enc", "b_dec"))
        theta = np.broadcast_to(parts.get("threshold", np.float32(0)), bias.shape)  # none: a ReLU dictionary
    except KeyError as error:
        raise BenchError(f"the dictionary {release} has no array {error}; it has {', '.join(sorted(parts))}") from error
    except (OSError, ValueError, TypeError, BadZipFile, SafetensorError) as error:
        reason = (str(error).strip() or "no reason given").splitlines()[0][:160]
        raise BenchError(f"cannot load the dictionary {release}: {type(error).__name__}: {reason}") from error
    if not encoder.T.shape == decoder.shape == (*bias.shape, *center.shape):
        raise BenchError(f"the dictionary {release}: W_enc {encoder.shape} does not fit W_dec {decoder.shape}")
    return Dictionary(np.ascontiguousarray(encoder.T), decoder, bias, theta, center, {"release": release})
