"""Commands around a result: what it takes to see a difference, what steering costs, what else it changes.

On a processor only ratios are shown, never rates.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.table import Table as Grid

from bench import results as runs_of
from bench.cli.console import echo, out
from bench.cli.options import (
    Number,
    Whole,
    force_option,
    json_option,
    latest,
    named,
    plugin_option,
    plugins,
    quiet,
    results_option,
)
from bench.core.errors import UsageError
from bench.measure.capability import Capability, Settings as Asked, lines
from bench.measure.overhead import Settings, renew
from bench.overhead import breakeven, exact, published
from bench.overhead.config import known, of_file, of_model
from bench.overhead.record import Overhead
from bench.overhead.summary import HEADINGS, base, cells, costs, floor, notes, rates, summary
from bench.report.figures.overhead import write_context
from bench.results import sidecars
from bench.results.comparison import bare
from bench.results.differences import nested
from bench.results.last import roots
from bench.results.runs import lookup
from bench.stats import power as sizes_of


@click.command()
@click.argument("run_a")
@click.argument("run_b")
@click.option("--axis", default="overall", show_default=True, help="Score that is compared.")
@click.option("-d", "--difference", type=Number(0, min_open=True), help="To be seen [a tenth of the scale].")
@click.option("--power", type=Number(0.05, 0.999), default=0.8, show_default=True, help="Chance to see it.")
@click.option("--alpha", type=Number(0, 0.5, min_open=True), default=0.05, show_default=True, help="Level.")
@click.option("--after-holm", type=Whole(1), default=1, metavar="M", help="In a family of M comparisons.")
@click.option("--concepts", type=Whole(2), help="Power of this number [the pilot's].")
@click.option("--instructions", type=Whole(1), help="Per concept [the pilot's].")
@results_option
@json_option
def power(run_a: str, run_b: str, axis: str, results: Path | None, as_json: bool, **aim: Any) -> None:
    """How many concepts and instructions show a difference, by the pilot RUN_A minus RUN_B."""
    advise(run_a, run_b, results, as_json, axis, aim)


def advise(one: str, two: str, folder: Path | None, as_json: bool, axis: str, aim: Mapping[str, Any]) -> None:
    """Print what two runs as a pilot say about the size of the next comparison."""
    first, second = (named(name, folder) for name in (one, two))
    runs_of.same_group(first, second)
    if axis not in first.data["axes"]:
        raise UsageError(f"no axis {axis!r} in these runs: {', '.join(first.data['axes'])}")
    pilot = sizes_of.pilot(nested(first, second, axis))
    difference = aim["difference"] or first.data.get("scale", 2.0) / 10
    n, k = aim["concepts"] or pilot.concepts, aim["instructions"] or round(pilot.instructions)
    rule = {"alpha": aim["alpha"], "family": aim["after_holm"]}
    columns = sorted({1, 2, 5, 10, 20, k})
    grid = {m: {i: sizes_of.power(pilot, difference, m, i, **rule) for i in columns} for m in (12, 25, 50, 100, 200)}
    enough = {i: sizes_of.needed(pilot, difference, i, aim["power"], **rule) for i in columns}
    ends = [sizes_of.needed(pilot.scaled(f), difference, k, aim["power"], **rule) for f in pilot.spread()]
    at = {
        "power": sizes_of.power(pilot, difference, n, k, **rule),
        "detectable": sizes_of.detectable(pilot, n, k, aim["power"], **rule),
    }
    if as_json:
        found = {
            "one": first.method,
            "two": second.method,
            "axis": axis,
            "pilot": vars(pilot),
            "aim": dict(aim) | {"difference": difference, "concepts": n, "instructions": k},
            "at": at,
            "needed": [{"instructions": i, "concepts": m} for i, m in enough.items()],
            "needed_range": {"instructions": k, "low": ends[0], "high": ends[1]},
            "table": [
                {"concepts": m, "instructions": i, "power": p} for m, row in grid.items() for i, p in row.items()
            ],
        }
        echo(json.dumps(bare(found), indent=1))
        return
    total = pilot.concept + pilot.instruction
    family = f", after Holm over {aim['after_holm']}" if aim["after_holm"] > 1 else ""
    most = f"over {sizes_of.MOST:,}"
    table = Grid(
        "concepts",
        *(f"{i} instruction{'s' * (i > 1)}" for i in columns),
        title=f"power to see a difference of {difference:g} in {axis} ({aim['alpha']:.0%} level{family})",
    )
    for m, row in grid.items():
        table.add_row(str(m), *(f"{p:.0%}" for p in row.values()))
    table.add_section()
    table.add_row(f"needed for {aim['power']:.0%}", *(f"{m:,}" if m else most for m in enough.values()))
    console = out()
    console.print(table)
    low, high = (f"{m:,}" if m else most for m in ends)
    detectable = "none" if at["detectable"] is None else f"{at['detectable']:.2f}"
    for line in (
        f"pilot: {first.method} minus {second.method}, {pilot.concepts} concepts of {pilot.instructions:g} "
        f"instructions, difference {pilot.difference:+.2f}; variance {total:.3f}, of which "
        f"{pilot.concept / total if total else 0:.0%} between concepts, the rest between generations of a concept",
        f"{n} concepts × {k} instructions: power {at['power']:.0%}; smallest difference seen with {aim['power']:.0%} "
        f"power: {detectable}",
        f"so small a pilot knows its own spread only roughly: at {k} instructions the concepts needed lie "
        f"between {low} and {high} (95 %)",
    ):
        console.print(f"- {line}", soft_wrap=True)


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option("--formulas", type=click.Choice(["blog"]), help="A post's printed formulas and numbers, checked.")
@click.option("--model", help="Exact costs of a model: known name, folder, hub id. No weights are read.")
@click.option("--config", type=click.Path(path_type=Path), help="Its config.json, without a network.")
@click.option("--prompt-tokens", "sizes", default="50,100,400", show_default=True, help="Steering prompts.")
@click.option("--context", "contexts", default="512,4096,16384", show_default=True, help="Tokens, prompt included.")
@click.option("--rank", default=8, show_default=True, type=Whole(1), help="Rank of adapters.")
@click.option("--reply", default=256, show_default=True, type=Whole(1), help="Tokens of a reply.")
@click.option("--texts", default=72, show_default=True, type=Whole(1), help="Training texts of a fit.")
@click.option("--requests", default=1000, show_default=True, type=Whole(1), help="Requests to pay off in.")
@click.option("--figure", type=click.Path(path_type=Path), help="Also draw overhead against context (PNG and CSV).")
@force_option
@click.option("--measure", "anew", is_flag=True, help="Measure RUNs beside the bare model and keep overhead.json.")
@click.option("--tokens", default=48, show_default=True, type=Whole(2), help="Measured: new tokens.")
@click.option("--batch", default=4, show_default=True, type=Whole(1), help="Measured: requests at once.")
@click.option("--repeats", default=7, show_default=True, type=Whole(2), help="Measured: repeats each way.")
@click.option("--concepts", default=2, show_default=True, type=Whole(1), help="Measured: concepts.")
@click.option("--dtype", default="auto", show_default=True, help="Measured: number type of the engine.")
@results_option
@plugin_option
@json_option
def overhead(
    runs: tuple[str, ...], formulas: str | None, model: str | None, config: Path | None, sizes: str, contexts: str,
    rank: int, reply: int, texts: int, requests: int, figure: Path | None, force: bool, anew: bool, tokens: int,
    batch: int, repeats: int, concepts: int, dtype: str, results: Path | None, late: tuple[Path, ...], as_json: bool,
) -> None:  # fmt: skip
    """What steering costs: of RUNs [the last run's], of a model, or as a blog post printed it."""
    plugins(late)
    if sum(map(bool, (runs, formulas, model or config))) > 1:
        raise UsageError("give runs, --model or --config, or --formulas blog: one of them")
    if formulas:
        _formulas(as_json)
    elif not (model or config):
        found = [lookup(name, roots(results)) for name in runs] or latest(results)
        failed = []
        if anew:
            settings = Settings(tokens, batch, repeats, concepts, dtype)
            failed = renew(found, settings, lambda text: echo(text, err=True))
        records = [sidecars.required(run) for run in found if not failed or sidecars.load(run)]
        if as_json:
            drift = floor(records)
            echo(json.dumps([summary(one, drift=drift) | {"run": one.data["run"]} for one in records], indent=1))
        elif records:
            cost_table(records)
        if failed:
            sys.exit(1)
    else:
        arch = _resolve(model, config)
        asked = _numbers(sizes, "--prompt-tokens"), _numbers(contexts, "--context")
        _model(arch, *asked, rank, reply, texts, requests, as_json)
        if figure:
            write_context(arch, asked[0], rank, figure, force)


def _numbers(text: str, name: str) -> tuple[int, ...]:
    """`50,100,400` as numbers of tokens."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise UsageError(f"{name} {text!r}: write numbers of tokens, as in 50,100,400")
    return found


def _print(*grids: Grid | str) -> None:
    console = out()
    for grid in grids:
        console.print(grid, soft_wrap=isinstance(grid, str))


def _formulas(as_json: bool) -> None:
    """The blog post's printed numbers, what its formulas give, and what Llama-2-7B really costs."""
    rows = published.records()
    if as_json:
        echo(json.dumps(rows, indent=1))
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


def _resolve(model: str | None, config: Path | None) -> exact.Architecture:
    """Dimensions by `--config`, else by `--model`; the name of both where both are given."""
    if config is not None:
        return of_file(config, model or "")
    if model is None:
        raise UsageError("name a run, --model NAME, --config path/to/config.json, or --formulas blog")
    return of_model(model)


def _model(
    arch: exact.Architecture, sizes: Sequence[int], contexts: Sequence[int], rank: int, reply: int, texts: int,
    served: int, as_json: bool,
) -> None:  # fmt: skip
    """Exact costs of every kind of steering, and when fitting has paid for itself."""
    if short := [c for c in contexts if c <= max(sizes)]:
        raise UsageError(f"--context {short[0]} does not hold a prompt of {max(sizes)} tokens: it includes the prompt")
    bases = [base(arch, context) for context in contexts]
    rows = costs(arch, sizes, contexts, rank)
    paid = breakeven.table(arch, sizes, contexts, reply, texts, served, rank)
    if as_json:
        echo(json.dumps({"model": arch.name, "base": bases, "rows": rows, "breakeven": paid}, indent=1))
        return
    first = Grid("context", "GFLOP a token", "KV cache MiB", "MiB moved a step", title=f"{arch.name}, bf16, batch 1")
    for row in bases:
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


def cost_table(found: Sequence[Overhead]) -> None:
    """Cost tables of measured runs."""
    drift = floor(found)
    rows = [cells(one, drift=drift) for one in found]
    grid = Grid("cost", *(row[0] for row in rows))
    for i, heading in enumerate(HEADINGS[1:], 1):
        grid.add_row(heading, *(row[i] for row in rows))
    _print(grid, *(f"- {note}" for note in notes(found)), *(line for one in found for line in rates(one)))


@click.command()
@click.argument("run", required=False)
@click.option("--tasks", default="", help="lm-eval tasks, by commas; without: side effects that need no download.")
@click.option("--include-path", type=click.Path(path_type=Path, exists=True), help="Folder of your own lm-eval tasks.")
@click.option("--limit", type=Whole(1), help="Only the first so many documents of a task.")
@click.option("--num-fewshot", type=Whole(0), help="Examples before each document.")
@click.option("--chat", is_flag=True, help="Apply the model's chat template.")
@click.option("--coefficient", type=Number(), help="In the run's unit [what the run picked]; 0 is the bare model.")
@click.option("--concept", default="", help="Only this concept's steering.")
@results_option
@plugin_option
@json_option
def capability(
    run: str | None,
    tasks: str,
    include_path: Path | None,
    limit: int | None,
    num_fewshot: int | None,
    chat: bool,
    coefficient: float | None,
    concept: str,
    results: Path | None,
    late: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Measure what RUN's steering [the last run's] does besides its concept: bare model against steered."""
    plugins(late)
    names = tuple(name.strip() for name in tasks.split(",") if name.strip())
    if not names and (include_path or limit or chat or num_fewshot is not None):
        raise UsageError("--include-path, --limit, --num-fewshot and --chat belong to --tasks")
    found = lookup(run, roots(results)) if run else _only(latest(results))
    with quiet():
        own = Capability(found, concept, coefficient, lambda line: echo(line, err=True))
        settings = Asked(names, include_path, limit, num_fewshot, chat)
        entries = own.lm_eval(settings) if names else own.side_effects()
    echo(json.dumps(entries, indent=1) if as_json else "\n".join(lines(entries)))


def _only(runs: Sequence[runs_of.Run]) -> runs_of.Run:
    """The one of some runs that is no control."""
    own = [run for run in runs if run.surface != "control"]
    if len(own) != 1:
        names = ", ".join(run.path.parent.name for run in own or runs)
        raise UsageError(f"the last run has {len(own)} methods that are no control: name one of {names}")
    return own[0]
