"""Costs in the numbers and cells that tables show: exact ones of a model, measured ones of runs.

Invariant: on a processor only ratios are stated, never rates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from bench.overhead import exact
from bench.overhead.record import Overhead, Spread

CONTEXT = 4096
"""The context that costs are stated at where only one is shown."""


def base(arch: exact.Architecture, context: int) -> dict[str, Any]:
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
    if any(one.extra.streams for one in found):
        lines.append("A prompt mixed with another writes every token in two streams, and reads both prompts.")
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
