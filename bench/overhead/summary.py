"""What `bench overhead` prints: printed formulas, exact costs of a model, measured costs of runs.

Invariant: every table has its JSON; on a processor only ratios are shown, never rates.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click
from rich.console import Console
from rich.table import Table as Grid

from bench.core.content import UsageError
from bench.overhead import breakeven, exact, published
from bench.overhead.config import known, of_file, of_model
from bench.overhead.record import Overhead, Spread

CONTEXT = 4096
"""The context that costs are stated at where only one is shown."""


def numbers(text: str, name: str) -> tuple[int, ...]:
    """`50,100,400` as numbers of tokens."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise UsageError(f"{name} {text!r}: write numbers of tokens, as in 50,100,400")
    return found


def _print(*grids: Grid | str) -> None:
    console = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 160)
    for grid in grids:
        console.print(grid, soft_wrap=isinstance(grid, str))


def formulas(as_json: bool) -> None:
    """The blog post's printed numbers, what its formulas give, and what Llama-2-7B really costs."""
    rows = published.records()
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    grid = Grid(
        "quantity", "context", "prompt", "printed %", "formula %", "agrees", "exact, Llama-2-7B %",
        title="On representation steering (2025): printed numbers against their own formulas",
    )  # fmt: skip
    for row, one in zip(rows, published.PRINTED, strict=True):
        real = _real(one)
        texts = (one.quantity, f"{one.context:,}", str(one.tokens or ""), one.percent, f"{one.computed:.4g}")
        grid.add_row(*texts, "yes" if row["agrees"] else "NO", "" if real is None else f"{real:.2g}")
    needed = [published.implied_attention(*at) for at in ((512, 100, 0.39), (4096, 100, 0.06), (16384, 100, 0.016))]
    _print(
        grid,
        f"{sum(bool(r['agrees']) for r in rows)} of {len(rows)} printed numbers agree with the formula beside them.",
        "No single constant gives the prompt table: instead of the formula's A = "
        f"{published.ATTENTION}, its rows at 512, 4,096 and 16,384 tokens need {needed[0]:,.0f}, {needed[1]:,.0f} and "
        f"{needed[2]:,.0f}; the formula itself hardly falls before C = {published.equal_context():,.0f}.",
        f"A prompt of 400 tokens takes less than 5 % of the cache from C = {published.least_context(400, 0.05):,.0f}, "
        f"less than 1 % from {published.least_context(400, 0.01):,.0f}.",
    )


def _real(one: published.Printed) -> float | None:
    """The exact percentage for the model the post has in mind, on the same axis."""
    arch = known("llama-2-7b")
    assert arch is not None
    kind, axis = one.quantity.split(",")[0].removesuffix(" (closing)").removesuffix(" (prose)").split(" ")
    extras = {"vector": exact.vector(arch), "adapter": exact.adapter(arch, 8), "ReFT": exact.adapter(arch, 8)}
    extra = exact.prompt(one.tokens or 0) if kind == "prompt" else extras[kind]
    if kind == "ReFT" and axis == "compute":
        return 0.0  # prompt positions alone are edited
    measure = exact.flops_percent if axis == "compute" else exact.kv_percent
    return measure(arch, extra, one.context)


def resolve(model: str | None, config: Path | None) -> exact.Architecture:
    """Dimensions by `--config`, else by `--model`; the name of both where both are given."""
    if config is not None:
        return of_file(config, model or "")
    if model is None:
        raise UsageError("name a run, --model NAME, --config path/to/config.json, or --formulas blog")
    return of_model(model)


def model(
    arch: exact.Architecture, sizes: Sequence[int], contexts: Sequence[int], rank: int, reply: int, texts: int,
    served: int, as_json: bool,
) -> None:  # fmt: skip
    """Exact costs of every kind of steering, and when fitting has paid for itself."""
    if short := [c for c in contexts if c <= max(sizes)]:
        raise UsageError(f"--context {short[0]} does not hold a prompt of {max(sizes)} tokens: it includes the prompt")
    base = [_base(arch, context) for context in contexts]
    rows = costs(arch, sizes, contexts, rank)
    paid = breakeven.table(arch, sizes, contexts, reply, texts, served, rank)
    if as_json:
        click.echo(json.dumps({"model": arch.name, "base": base, "rows": rows, "breakeven": paid}, indent=1))
        return
    first = Grid("context", "GFLOP a token", "KV cache MiB", "MiB moved a step", title=f"{arch.name}, bf16, batch 1")
    for row in base:
        sizes_ = (row["flops"] / 1e9, row["kv_bytes"] / 2**20, row["step_bytes"] / 2**20)
        first.add_row(f"{row['context']:,}", *(f"{v:,.2f}" for v in sizes_))
    second = Grid(
        "steering", "context", "FLOPs %", "bytes moved %", "share of KV %", "artefact KiB", "uncached: decoded tokens",
        title="Above the same request without it, for a decoded token",
    )  # fmt: skip
    for row in rows:
        second.add_row(
            row["method"], f"{row['context']:,}",
            *(f"{row[k]:.3g}" for k in ("flops_percent", "bytes_percent", "kv_percent")),
            f"{row['artefact_bytes'] / 1024:,.1f}" if row["artefact_bytes"] else "–",
            f"{row['prefill_tokens']:.0f}" if row["prefill_tokens"] else "–",
        )  # fmt: skip
    third = Grid(
        "fitted", "against a prompt of", "prefix", *(f"requests at {c:,}" for c in contexts),
        f"shortest that pays in {served:,}",
        title=f"Requests (own prompts of so many tokens, replies of {reply}) until fitting on {texts} texts of "
        f"{breakeven.LENGTH} tokens is cheaper",
    )  # fmt: skip
    for row in paid:
        needed = ["never" if n is None else f"{n:,}" for n in row["requests"].values()]
        where = row["context"]
        third.add_row(
            row["method"], str(row["prompt_tokens"]), "cached" if row["prefix_cached"] else "read each time", *needed,
            "none" if where is None else f"{where:,}",
        )  # fmt: skip
    _print(first, second, third)


def _base(arch: exact.Architecture, context: int) -> dict[str, Any]:
    return {
        "context": context,
        "flops": exact.decode_flops(arch, context),
        "kv_bytes": exact.kv_bytes(arch, context),
        "step_bytes": exact.step_bytes(arch, context),
    }


def costs(arch: exact.Architecture, sizes: Sequence[int], contexts: Sequence[int], rank: int) -> list[dict[str, Any]]:
    """One row per kind of steering and context."""
    return [
        {
            "method": name,
            "context": context,
            "prompt_tokens": round(one.prompt_tokens),
            "flops_percent": exact.flops_percent(arch, one, context),
            "bytes_percent": exact.bytes_percent(arch, one, context),
            "kv_percent": exact.kv_percent(arch, one, context),
            "artefact_bytes": one.artefact_bytes(),
            "prefill_tokens": round(exact.prefill_in_tokens(arch, round(one.prompt_tokens), context), 2),
        }
        for name, one in exact.kinds(arch, tuple(sizes), rank).items()
        for context in contexts
    ]


RATIOS = ("time", "first_token_cold", "first_token_warm", "memory")
Floor = Mapping[str, float]
"""Name of a ratio -> what it may lie from 1 by nothing but the machine's drift."""


def floor(found: Iterable[Overhead]) -> Floor:
    """How far the bare model, measured against itself, lies from 1; empty where that was not measured."""
    bare = next((one for one in found if one.data["method"] == "none"), None)
    ratios = {name: bare.ratio(name) for name in RATIOS} if bare else {}
    return {name: abs(ratio.median - 1) for name, ratio in ratios.items() if ratio}


def summary(found: Overhead, context: int = CONTEXT, drift: Floor = MappingProxyType({})) -> dict[str, Any]:
    """A record in the numbers that tables show; `drift` is the `floor` of the records it stands beside."""
    exactly, fit, judge = (found.data[k] for k in ("exact", "fit", "judge"))
    ratios = {name: found.ratio(name) for name in RATIOS}
    return {
        "method": found.data["method"],
        "context": context,
        "prompt_tokens": found.extra.prompt_tokens,
        "flops_percent": found.flops(context),
        "bytes_percent": found.bytes(context),
        "kv_percent": found.kv(context),
        "request_flops_percent": found.request(round(exactly["own_tokens"]), found.data["settings"]["tokens"]),
        "artefact_bytes": exactly["artefact_bytes"],
        **{
            name: vars(r) | {"distinguishable": r.distinguishable(drift.get(name, 0))} if r else None
            for name, r in ratios.items()
        },
        "fit_seconds": fit["seconds"],
        "fit_tokens": fit["tokens"],
        "fit_in_requests": fit.get("in_requests"),
        "judge_tokens": judge["tokens_per_answer"],
        "judge_cost": judge["cost"],
        "device": found.data["engine"]["device"],
        "engine": f"{found.data['engine']['backend']}, {found.data['engine']['dtype']}",
    }


HEADINGS = (
    "method", "prompt tokens", "FLOPs a token", "bytes a token", "KV share", "request, uncached", "artefact",
    "time, measured", "first token, cold", "first token, warm", "peak memory", "fit", "judge",
)  # fmt: skip


def cells(found: Overhead, context: int = CONTEXT, drift: Floor = MappingProxyType({})) -> list[str]:
    """One row of a cost table as text, in the order of `HEADINGS`."""
    row = summary(found, context, drift)
    ratios = {name: found.ratio(name) for name in RATIOS}
    fit = "–" if row["fit_in_requests"] is None else f"{row['fit_in_requests']:,.1f} requests"
    if row["fit_tokens"]:
        fit += f", {row['fit_tokens']:,} tokens"
    judge = "–" if row["judge_tokens"] is None else f"{row['judge_tokens']:,.0f} tokens"
    if row["judge_cost"]:
        judge += f", ${row['judge_cost']:.2f}"
    return [
        str(row["method"]),
        f"{row['prompt_tokens']:g}",
        *(percent(row[k]) for k in ("flops_percent", "bytes_percent", "kv_percent", "request_flops_percent")),
        size(row["artefact_bytes"]),
        *("–" if r is None else r.text(drift.get(name, 0)) for name, r in ratios.items()),
        fit,
        judge,
    ]


def percent(value: float) -> str:
    return "0" if value == 0 else f"{value:+.2g} %" if abs(value) < 10 else f"{value:+,.0f} %"


def size(count: int) -> str:
    return f"{count / 1024:,.1f} KiB" if count < 2**20 else f"{count / 2**20:,.1f} MiB"


def notes(found: Sequence[Overhead], context: int = CONTEXT) -> list[str]:
    """What a reader must know to read a cost table."""
    engines = sorted({_where(one) for one in found})
    settings = found[0].data["settings"]
    lines = [
        f"Exact, from the steering and the model's dimensions, above the bare model at {context:,} tokens of context "
        "with the prompt's keys and values cached; a request reads its own prompt and the steering prompt first.",
        f"Measured against the bare model in turns: {settings['batch']} requests of {settings['tokens']} new tokens, "
        f"{settings['repeats']} repeats; median and half the distance of the quartiles. Where the quartiles lie "
        "further apart than the overhead, or the bare model lies as far from itself, it is not distinguishable.",
        "Fit: time as bare requests answered meanwhile, and tokens through the model, for one concept alone. "
        "Judge: tokens per answer.",
        f"Engine: {'; '.join(engines)}.",
    ]
    if not all(one.data["engine"]["accelerator"] for one in found):
        lines.append("On a processor only ratios to the bare run mean anything; other engines have others.")
    return lines


def _where(one: Overhead) -> str:
    engine = one.data["engine"]
    versions = engine["provenance"]["versions"]
    return (
        f"{engine['backend']} (transformers {versions.get('transformers')}, torch {versions.get('torch')}), "
        f"{engine['dtype']}, {engine['device']}, {engine['threads']} threads"
    )


def rates(found: Overhead) -> list[str]:
    """Tokens a second and seconds to the first token, on an accelerator only."""
    if not found.data["engine"]["accelerator"]:
        return []
    settings, seconds = found.data["settings"], found.data["measured"]["seconds"]
    total = settings["batch"] * settings["tokens"]
    shown = [f"{side} {Spread.of([total / s for s in seconds[side]]).median:,.0f}" for side in
             ("unsteered", "steered")]  # fmt: skip
    return [f"{found.data['method']}: tokens a second: {', '.join(shown)}"]


def runs(found: Sequence[Overhead], as_json: bool) -> None:
    """Cost tables of measured runs."""
    drift = floor(found)
    if as_json:
        click.echo(json.dumps([summary(one, drift=drift) | {"run": one.data["run"]} for one in found], indent=1))
        return
    rows = [cells(one, drift=drift) for one in found]
    grid = Grid("cost", *(row[0] for row in rows))
    for i, heading in enumerate(HEADINGS[1:], 1):
        grid.add_row(heading, *(row[i] for row in rows))
    _print(grid, *(f"- {note}" for note in notes(found)), *(line for one in found for line in rates(one)))
