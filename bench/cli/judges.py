"""`bench judge`: rate kept answers again, validate a judge, draw answers to rate by hand."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.table import Table as Grid

from bench import results as runs_of
from bench.backends.models import DEFAULT
from bench.cli.console import Console, echo, money, out as stdout, progress, say
from bench.cli.options import (
    SEED,
    Whole,
    WithDefault,
    json_option,
    latest,
    max_cost_option,
    plugin_option,
    plugins,
    results_option,
)
from bench.core.errors import UsageError, suggest
from bench.core.escape import dumped
from bench.core.money import SpendingLimit
from bench.core.paths import default_results
from bench.core.protocol import DEFAULT_JUDGE, usual_judge
from bench.core.store import write_json
from bench.judges.instrument import Instrument, make
from bench.measure import judge_validity, readers, reference, rejudge
from bench.results import ratings, second_judge
from bench.results.last import roots as roots_of
from bench.results.provenance import provenance
from bench.results.runs import Run, load

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group(cls=WithDefault)
def judge() -> None:
    """Rate kept generations again (judge RUN... --judge J); validate a judge; draw texts to rate by hand."""


@judge.command("rate")
@click.argument("runs", nargs=-1)
@click.option("--judge", "judges", multiple=True, required=True, help="Judge; repeat to set several side by side.")
@click.option("-p", "--set", "param", multiple=True, metavar="JUDGE.FIELD=VALUE", help="A field of a judge.")
@max_cost_option
@results_option
@plugin_option
@json_option
def judge_rate(
    runs: tuple[str, ...],
    judges: tuple[str, ...],
    param: tuple[str, ...],
    max_cost: float | None,
    results: Path | None,
    late: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Rate the kept generations of RUNS again: runs as in `show`, a group's id, or all; the last run's without any."""
    plugins(late)
    rate(runs, judges, _given(param), results, as_json, max_cost or 0.0)


def _given(param: Sequence[str]) -> dict[str, str]:
    """`-p JUDGE.FIELD=VALUE` by JUDGE.FIELD."""
    if wrong := [text for text in param if "=" not in text or "." not in text.partition("=")[0]]:
        raise UsageError(f"-p {wrong[0]}: write judge.field=value, as in embedding.words=48")
    return {text.partition("=")[0]: text.partition("=")[2] for text in param}


@judge.command("validate")
@click.option("--judge", "name", default=usual_judge, show_default=DEFAULT_JUDGE, help="Judge to validate.")
@click.option("--data", default="mini", help="Folder in AxBench's layout, concept10 or concept500.")
@click.option("--model", default="", help="Model that a judge without its own reads [the default model].")
@click.option("--dtype", default="auto", help="Its number type.")
@click.option("-n", "--limit", type=Whole(1), default=None, help="Only the first so many concepts.")
@click.option("--human", multiple=True, type=FILE, help="CSV of readers' ratings (judge sample); repeat for several.")
@click.option("--key", type=FILE, help="Where the rated answers came from [FILE.key.csv beside the first].")
@click.option("--collapsed", multiple=True, metavar="RUN", help="A run whose answers are known to have broken down.")
@click.option("--save", is_flag=True, help="Keep the table in RESULTS/judges/, where reports find it.")
@click.option("-p", "--set", "param", multiple=True, metavar="JUDGE.FIELD=VALUE", help="A field of the judge.")
@max_cost_option
@results_option
@plugin_option
@json_option
def judge_validate(
    name: str,
    data: str,
    model: str,
    dtype: str,
    limit: int | None,
    human: tuple[Path, ...],
    key: Path | None,
    collapsed: tuple[str, ...],
    save: bool,
    param: tuple[str, ...],
    max_cost: float | None,
    results: Path | None,
    late: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Measure how well a judge tells labelled texts apart, and how far it agrees with readers."""
    plugins(late)
    fields = _owned(_given(param), name.partition(":")[0], [name])
    purse = SpendingLimit(max_cost or 0.0)
    validate(name, data, model, dtype, limit or 0, human, key, collapsed, save, results, as_json, fields, purse)


@judge.command("sample")
@click.argument("runs", nargs=-1)
@click.option("-n", "--n", "count", type=Whole(1), default=100, show_default=True, help="Texts to draw.")
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="CSV to write.")
@results_option
def judge_sample(runs: tuple[str, ...], count: int, seed: int, out: Path, results: Path | None) -> None:
    """Draw answers of RUNS [the last run's] for readers to rate blind, spread over surfaces, tasks, concepts,
    coefficients, methods."""
    if there := next((path for path in (out, ratings.key_of(out)) if path.exists()), None):
        raise UsageError(f"{there} exists and may hold ratings: move it or name another file")
    drawn = reference.draw(find(runs, results), count, seed)
    ratings.write_key(ratings.key_of(out), [origin for _, origin in drawn])
    ratings.write(out, [ratings.Rated(answer, "") for answer, _ in drawn])
    echo(str(out))
    echo(f"bench: {ratings.key_of(out).name} says where they came from; readers do not see it", err=True)


def find(names: Sequence[str], folder: Path | None) -> list[Run]:
    """Runs with kept answers: by id, its beginning, path or method; all of a group by its id; or `all`. The last
    command's without a name.

    As in `results.lookup`, the first root that has a name decides; `all` is all of the first.
    """
    if not names:
        made = latest(folder)
        return [run for run in made if rejudge.has_texts(run)] or made  # which are refused by name
    roots = roots_of(folder)
    found: dict[Path, Run] = {}
    for name in names:
        whole = [roots[0]] if name == "all" else roots
        groups = [[run for run in load(root) if _in_group(run, name)] for root in whole]
        group = next(filter(None, groups), [])
        if name == "all" and not group:
            raise UsageError(f"no runs with kept answers in {roots[0]}")
        for run in group or [runs_of.lookup(name, roots)]:
            found[run.path] = run
    return list(found.values())


def _in_group(run: Run, name: str) -> bool:
    wanted = name == "all" or (len(name) > 3 and run.data["group"].startswith(name))
    return wanted and rejudge.has_texts(run)


def rate(
    names: Sequence[str],
    judges: Sequence[str],
    params: Mapping[str, Any],
    folder: Path | None,
    as_json: bool,
    max_cost: float = 0.0,
) -> None:
    """Rate kept answers with each judge, then compare all judges with each other and with the runs' own."""
    runs = find(names, folder)
    owned = {judge: _owned(params, judge.partition(":")[0], judges) for judge in judges}
    purse = SpendingLimit(max_cost)
    ratings = sum(len(run.data["samples"]) * len(run.data["axes"]) for run in runs)
    length = max(run.data["spec"]["protocol"]["sampling"]["max_new_tokens"] for run in runs)
    for judge, fields in owned.items():
        made = make(judge, fields)  # a field that the last one lacks is told before the first has rated for an hour
        made.fund(purse)
        if cost := made.estimate(ratings, length):
            say(money(cost, max_cost))
    said: dict[str, list[second_judge.JudgeRatings]] = {}
    for judge, fields in owned.items():
        with progress(f"rate with {judge}", sum(len(run.data["samples"]) for run in runs)) as advance:
            said[judge] = rejudge.rejudge(runs, judge, fields, advance, purse, say)
    rows = [
        {"run": run.path.parent.name, "judge": o.judge, "missing": o.data["missing"], "path": str(o.path)}
        | {axis: mean(o.scores(axis)) for axis in run.data["axes"]}
        for judge in said
        for run, o in zip(runs, said[judge], strict=True)
    ]
    compared = [
        {"group": group} | both
        for group in dict.fromkeys(run.data["group"] for run in runs)
        for both in _pairs([i for i, run in enumerate(runs) if run.data["group"] == group], runs, said)
    ]
    if later := sum(o.data.get("unanswered", 0) for found in said.values() for o in found):
        echo(f"bench: {later} ratings went unanswered; the same command asks for them again", err=True)
    if as_json:
        echo(json.dumps({"rated": rows, "compared": compared}, indent=1))
        return
    console = stdout()
    grid = Grid("run", "judge", *runs[0].data["axes"], "missing")
    for row in rows:
        shown = ["–" if row.get(a) is None else f"{row[a]:.2f}" for a in runs[0].data["axes"]]
        grid.add_row(row["run"], row["judge"], *shown, str(row["missing"]))
    console.print(grid)
    for both in compared:
        _agreement(both, console)


def _owned(params: Mapping[str, Any], judge: str, judges: Sequence[str]) -> dict[str, Any]:
    """The `-p` fields of one judge; a field of no judge here is refused."""
    known = {name.partition(":")[0] for name in judges}
    for key in params:
        if key.partition(".")[0] not in known:
            raise UsageError(f"-p {key}: {suggest(key.partition('.')[0], known)}")
    return {key.partition(".")[2]: v for key, v in params.items() if key.partition(".")[0] == judge}


def mean(scores: Mapping[str, float | None]) -> float | None:
    known = [v for v in scores.values() if v is not None]
    return round(sum(known) / len(known), 4) if known else None


def _pairs(
    chosen: Sequence[int], runs: Sequence[Run], said: Mapping[str, Sequence[second_judge.JudgeRatings]]
) -> list[dict[str, Any]]:
    """Every two judges side by side on the runs of one group."""
    own = [runs[i] for i in chosen]
    voices: list[Sequence[rejudge.Voice]] = [own, *([found[i] for i in chosen] for found in said.values())]
    named = {rejudge.speaker(voice[0]): voice for voice in voices}  # the runs' own judge anew: its new word
    return [rejudge.side_by_side(own, a, b) for a, b in itertools.combinations(named.values(), 2)]


def _agreement(found: Mapping[str, Any], console: Console) -> None:
    one, two = found["judges"]
    grid = Grid(
        "axis", "samples", "weighted κ", "Spearman ρ", "Krippendorff α", "prompts favoured", title=f"{one} and {two}"
    )
    for axis, e in found["agreement"].items():
        bias = found["prompt_bias"].get(axis)
        shown = (_interval(bias, "mean", "+") + (" !" if bias["flagged"] else "")) if bias else "–"
        grid.add_row(axis, str(e["n"]), *(_interval(e[k], "mean") for k in ("kappa", "spearman", "alpha")), shown)
    console.print(grid)
    console.print(
        f"Intervals: 95 % over concepts. Prompts favoured: how much higher {one} rates prompting above steering "
        f"than {two} does; ! where the interval leaves out 0.",
        soft_wrap=True,
    )


def _interval(e: Mapping[str, Any], name: str, sign: str = "") -> str:
    if e[name] is None:
        return "–"
    bounds = "" if e["low"] is None or e["high"] is None else f" [{e['low']:{sign}.2f}, {e['high']:{sign}.2f}]"
    return f"{e[name]:{sign}.2f}{bounds}"


LENGTH = 128
"""Tokens of a labelled text, as AxBench's are."""


def validate(
    judge: str,
    data: str,
    model: str,
    dtype: str,
    limit: int,
    human: Sequence[Path],
    key: Path | None,
    collapsed: Sequence[str],
    save: bool,
    folder: Path | None,
    as_json: bool,
    fields: dict[str, Any] | None = None,
    purse: SpendingLimit | None = None,
) -> None:
    broken = find(collapsed, folder) if collapsed else []
    if save and limit:
        raise UsageError("--save keeps whole validations: leave --limit out")
    purse = purse or SpendingLimit()
    with Instrument(judge, model or DEFAULT, dtype, fields, purse) as instrument:
        total = sum(judge_validity.count(data, limit).values()) + readers.count(human)
        if total and (cost := instrument.judge.estimate(total, LENGTH)):
            say(money(cost, purse.limit))
        with progress(f"validate {judge}", total) as advance:
            found = judge_validity.validate(instrument, data, limit, broken, human, key, advance)
    if save:
        parts = "-".join([judge, found["data"], *(file.stem for file in human)])
        name = "".join(c if c.isalnum() or c in "-._" else "-" for c in parts)
        path = (folder or default_results()) / "judges" / f"{name}.json"
        write_json(path, found | {"provenance": provenance()})
        say(f"kept: {path}")
    if as_json:
        echo(dumped(found))
        return
    _validity(found, stdout())


def _validity(found: Mapping[str, Any], console: Console) -> None:
    if found["axes"]:
        grid = Grid("axis", "against", "AUROC", "texts", title=f"{found['judge']} on {found['data']}")
        for axis, others in found["axes"].items():
            for other, e in others.items():
                grid.add_row(axis, other.replace("_", " "), _interval(e, "auroc"), str(e["n"]))
        console.print(grid)
        for axis, e in found["missing"].items():
            bias = found["length_bias"][axis]
            console.print(
                f"- {axis}: {e['missing']} of {e['n']} ratings missing; rating against length within a class: "
                f"ρ {_interval(bias, 'spearman', '+')}"
            )
        for name, e in found["corruption_shift"].items():
            label, kind = name.split("/")
            console.print(
                f"- concept rating of {label} texts after {kind.replace('_', ' ')}: {_interval(e, 'change', '+')}"
            )
    if "human" in found:
        _readers(found, console)


def _readers(found: Mapping[str, Any], console: Console) -> None:
    """Agreement with readers, whom the judge favours, and whether it may rank."""
    grid = Grid("axis", "answers", "Spearman ρ", "error", "readers: ρ", "κ", "α", title=f"{found['judge']} and readers")
    for axis, e in found["human"].items():
        own = found["readers"].get(axis)
        among = [f"{own[k]:.2f}" if own and own[k] is not None else "–" for k in ("spearman", "kappa", "alpha")]
        grid.add_row(axis, str(e["n"]), _interval(e, "spearman"), f"{e['mae']:.2f}", *among)
    console.print(grid)
    for task, surfaces in found["surfaces"].items():
        each = ", ".join(f"{surface} {_interval(e, 'bias', '+')}" for surface, e in surfaces.items())
        console.print(f"- judge minus readers on {task}: {each}", soft_wrap=True)
    for line in found["gate"]["lines"]:
        value = "not measured" if line["value"] is None else f"{line['value']:.3f}"
        console.print(f"- {'passed' if line['passed'] else 'MISSED'}: {line['asked']}: {value}", soft_wrap=True)
    may = [task for task, passed in found["gate"]["tasks"].items() if passed]
    console.print(f"It may rank: {', '.join(may) or 'nothing'}; other tables say so in their titles.", soft_wrap=True)
