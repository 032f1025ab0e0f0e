"""What docs/results.md says in numbers: the ten expectations of results/plan.md against the runs, methods from model to
model, and what either side costs elsewhere.

Invariant: the plan was written first. An expectation that the runs do not reach yet is open, and says what is missing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import scipy

from bench.core import registry
from bench.core.content import Array
from bench.core.escape import cell, head, row
from bench.data.basics import BASICS
from bench.report.catalogue import paragraphs
from bench.results import damage, dialogues, effects, verdict
from bench.results.audit import CONTROLS
from bench.results.differences import difference
from bench.results.hypotheses import MARGIN, Registration, of
from bench.results.models import side_by_side
from bench.results.tables import BELOW, Row, Table, data_name
from bench.stats.intervals import Estimate, estimate, resamples
from bench.stats.significance import Difference, paired

TAUGHT, BASE = "SmolLM2-135M-Instruct", "gemma-3-270m"
"""The instruction-tuned model of the plan, and the one that is not."""
FEWEST = 5
"""Methods that an order from model to model needs at the least."""
Outcome = Literal["as expected", "refuted", "undecided", "open"]


@dataclass(frozen=True)
class Gap:
    """A paired difference with an interval that holds for all differences of its expectation together."""

    name: str
    mean: float
    low: float
    high: float
    piled: bool = False
    """Most units hardly differ: no interval keeps its level (`Difference.piled`)."""

    def __str__(self) -> str:
        ends = " to ".join(_digits(end) for end in (self.low, self.high))
        return f"{self.name} {_digits(self.mean)} [{ends}]{' ≈' if self.piled else ''}"


def _digits(value: float) -> str:
    return f"{value:+.2f}" if abs(value) >= 0.1 else f"{value:+.3f}"


@dataclass(frozen=True)
class Found:
    """An expectation of the plan against the runs."""

    said: str
    gaps: tuple[Gap, ...] = ()
    outcome: Outcome = "open"
    note: str = ""
    """What is missing, or what else to know."""

    @property
    def line(self) -> tuple[str, str, str]:
        told = "; ".join(map(str, self.gaps)) + (f" ({self.note})" if self.note else "")
        return self.said, cell(told.strip()), f"**{self.outcome}**"


@dataclass(frozen=True)
class Registered:
    """The table of the plan for a task on a model, and its rows by name."""

    table: Table
    plan: Registration
    rows: Mapping[str, Row]

    @property
    def prompt(self) -> Row:
        return self.rows[self.plan.prompt]

    @property
    def steering(self) -> list[Row]:
        return [self.rows[name] for name in self.plan.steering]

    def gap(self, line: Row, of_how_many: int, axis: str = "overall", name: str = "") -> Gap:
        """A row less the registered prompt as a share of the scale, simultaneous with so many others."""
        found = difference(line.run, self.prompt.run, axis, self.table.concepts, 1 - 0.05 / of_how_many)
        return scaled(name or line.name, found, self.table.scale)

    def by_unit(
        self, line: Row, values: Mapping[str, Mapping[str, float]], of_how_many: int, scale: float, less: str = ""
    ) -> Gap:
        """The same of values that are no rating: each row's own, by name and unit; less those of another row."""
        own, other = values[line.name], values[less or self.plan.prompt]
        units = [unit for unit in own if unit in other]
        ends = [own[unit] for unit in units], [other[unit] for unit in units]
        return scaled(line.name, paired(*ends, scale=scale, level=1 - 0.05 / of_how_many), scale)


def scaled(name: str, found: Difference, scale: float) -> Gap:
    return Gap(name, found.mean / scale, found.low / scale, found.high / scale, found.piled)


def registered(shown: Sequence[Table], task: str, model: str) -> Registered | str:
    """The plan's table: preset `standard`, seed 0, the shipped data; why there is none as a text."""
    found, missing = [], "not run"
    for table in of_seed(shown, task, model, 0):
        plan, rows = of([line.run.data for line in table.rows]), {line.name: line for line in table.rows}
        if plan is None:
            missing = "its runs registered nothing, or not all the same"
        elif table.silent:
            missing = table.silent
        elif lacks := [name for name in (plan.prompt, *plan.steering) if name not in rows]:
            missing = f"{verdict.listed(lacks)} not run"
        else:
            found.append(Registered(table, plan, rows))
    return max(found, key=lambda one: verdict.weight(one.table), default=missing)


def of_seed(shown: Sequence[Table], task: str, model: str, seed: int) -> list[Table]:
    """Tables of preset `standard` and the shipped data."""

    def asked(spec: Mapping[str, Any]) -> bool:
        rules = spec["protocol"]
        own = spec["task"], spec["model"], rules["preset"], rules["seed"]
        return own == (task, model, "standard", seed) and data_name(spec) in ("", "mini")

    return [table for table in shown if asked(table.spec)]


# What intervals say of an expectation, by the words of the plan


def outcome(shown: bool, refuted: bool) -> Outcome:
    """Neither, and both at once (by one steering and by the other), decide nothing."""
    return "undecided" if shown == refuted else "as expected" if shown else "refuted"


def judged(gaps: Sequence[Gap], shown: bool, refuted: bool) -> Outcome:
    return "undecided" if any(one.piled for one in gaps) else outcome(shown, refuted)


def none_leads(gaps: Sequence[Gap]) -> Outcome:
    return judged(gaps, all(one.high < MARGIN for one in gaps), any(one.low > 0 for one in gaps))


def one_leads(gaps: Sequence[Gap]) -> Outcome:
    behind = all(one.high < 0 for one in gaps)
    same = all(one.low > -MARGIN and one.high < MARGIN for one in gaps)
    return judged(gaps, any(one.low > 0 for one in gaps), behind or same)


def larger(gaps: Sequence[Gap]) -> Outcome:
    return judged(gaps, any(one.low > 0 for one in gaps), all(one.high < 0 for one in gaps))


def all_behind(gaps: Sequence[Gap]) -> Outcome:
    behind = all(one.high < 0 for one in gaps)
    return judged(gaps, behind, not behind)


def all_more(gaps: Sequence[Gap]) -> Outcome:
    return judged(gaps, all(one.low > 0 for one in gaps), any(one.high < 0 for one in gaps))


def not_behind(gaps: Sequence[Gap]) -> Outcome:
    return judged(gaps, all(one.low > -MARGIN for one in gaps), any(one.high < -MARGIN for one in gaps))


def declines_more(efficacy: Sequence[Gap], compliance: Sequence[Gap]) -> Outcome:
    both = any(more.low > 0 and fewer.high < 0 for more, fewer in zip(efficacy, compliance, strict=True))
    other = any(one.high < 0 for one in efficacy) or any(one.low > 0 for one in compliance)
    return judged([*efficacy, *compliance], both, other)


def lasts(gaps: Sequence[Gap], prompt: Gap, begins: Sequence[Gap]) -> Outcome:
    """`gaps`: slopes of steerings less the prompt's; `prompt`: its own; `begins`: first turns less the bare model's."""
    pairs = zip(gaps, begins, strict=True)
    holds = prompt.high < 0 and any(slope.low > 0 and first.low > 0 for slope, first in pairs)
    return judged(gaps, holds, all(one.high < 0 for one in gaps))


def positive(found: Estimate) -> Outcome:
    return outcome(found.low > 0, found.low <= 0)


# The ten


def expectations(shown: Sequence[Table]) -> str:
    """The expectations of the plan, what was found, and what that says of each."""
    lines = head("", "expected", "found", "")
    lines += [row((str(number), *found.line)) for number, found in enumerate(ten(shown), 1)]
    return "\n".join(lines)


def ten(shown: Sequence[Table]) -> list[Found]:
    def led(rule: Callable[[Sequence[Gap]], Outcome], task: str, said: str, *names: str) -> Found:
        """Of the registered steerings, or of the methods of these names."""
        at = registered(shown, task, TAUGHT)
        if isinstance(at, str):
            return Found(said, note=at)
        asked = names or at.plan.steering
        if lacks := [name for name in asked if name not in at.rows]:
            return Found(said, note=f"{verdict.listed(lacks)} not run")
        gaps = tuple(at.gap(at.rows[name], len(asked)) for name in asked)
        return Found(said, gaps, rule(gaps), gate(at))

    behind = "`axbench`, SmolLM2: `prompt+diffmean` does not fall behind the prompt"
    return [
        led(none_leads, "axbench", "`axbench`, SmolLM2: neither registered steering beats `prompt-written`"),
        _interaction(shown, "`axbench`: the difference is larger on Gemma than on SmolLM2"),
        led(one_leads, "axbench-suppress", "`axbench-suppress`, SmolLM2: a registered steering beats the prompt"),
        led(one_leads, "axbench-attack", "`axbench-attack`, SmolLM2: a registered steering beats the prompt"),
        led(all_behind, "constraints", "`constraints`, SmolLM2: the prompt beats both"),
        _refusal(shown, "`refusal`, SmolLM2: steering declines more, and answers fewer look-alikes"),
        _persistence(shown, "`persistence`, SmolLM2: the trait falls by turn under a prompt, and not under steering"),
        _elsewhere(shown, "`axbench`, SmolLM2: where nobody asked, steering changes answers more than the prompt"),
        led(not_behind, "axbench", behind, "prompt+diffmean"),
        _order(shown, "`axbench`: methods keep their order from model to model"),
    ]


def gate(at: Registered) -> str:
    return BELOW.strip(" ·") if at.table.may_rank is False else ""


def _interaction(shown: Sequence[Table], said: str) -> Found:
    base, taught = (registered(shown, "axbench", model) for model in (BASE, TAUGHT))
    if isinstance(base, str) or isinstance(taught, str):
        return Found(said, note=f"{BASE}: {base}" if isinstance(base, str) else f"{TAUGHT}: {taught}")
    gaps = []
    for name in base.plan.steering:
        one, two = (_lead(side, name) for side in (base, taught))
        concepts = [c for c in one if c in two]
        if len(concepts) < 2:
            return Found(said, note="no concepts in common")
        ends = [one[c] for c in concepts], [two[c] for c in concepts]
        found = paired(*ends, scale=base.table.scale, level=1 - 0.05 / len(base.plan.steering))
        gaps.append(scaled(name, found, base.table.scale))
    return Found(said, tuple(gaps), larger(gaps), gate(base) or gate(taught))


def _lead(side: Registered, name: str) -> dict[str, float]:
    """concept -> a steering less the prompt, on one model, where both have a score."""
    own, other = (line.run.scores("overall") for line in (side.rows[name], side.prompt))
    return {c: a - b for c in own if (a := own[c]) is not None and (b := other.get(c)) is not None}


def _refusal(shown: Sequence[Table], said: str) -> Found:
    at = registered(shown, "refusal", TAUGHT)
    if isinstance(at, str):
        return Found(said, note=at)
    many = 2 * len(at.steering)
    more, fewer = (
        [at.gap(line, many, axis, f"{line.name}, {axis}") for line in at.steering]
        for axis in ("efficacy", "compliance")
    )
    return Found(said, (*more, *fewer), declines_more(more, fewer))


def _persistence(shown: Sequence[Table], said: str) -> Found:
    at = registered(shown, "persistence", TAUGHT)
    if isinstance(at, str) or "none" not in at.rows:
        return Found(said, note=at if isinstance(at, str) else "none not run")
    axis, scale, many = at.table.axes[0], at.table.scale, len(at.steering)
    talks = {line.name: dialogues.of(line.run) for line in (at.prompt, *at.steering, at.rows["none"])}
    slopes = {name: dialogues.slopes(own, axis) for name, own in talks.items()}
    gaps = [at.by_unit(line, slopes, many, scale) for line in at.steering]
    falls = estimate(list(slopes[at.plan.prompt].values()))
    prompt = Gap(f"{at.plan.prompt}, its own slope", falls.mean / scale, falls.low / scale, falls.high / scale)
    first = {name: dialogues.by_turn(own, axis)[1] for name, own in talks.items()}
    begins = [at.by_unit(line, first, many, scale, "none") for line in at.steering]
    begun = tuple(replace(one, name=f"{one.name}, first turn less the bare model's") for one in begins)
    note = "; ".join(filter(None, ("slopes a turn", gate(at))))
    return Found(said, (prompt, *gaps, *begun), lasts(gaps, prompt, begins), note)


def _elsewhere(shown: Sequence[Table], said: str) -> Found:
    at = registered(shown, "axbench", TAUGHT)
    if isinstance(at, str):
        return Found(said, note=at)
    moved = {line.name: damage.picked(line.run, "kl") for line in (at.prompt, *at.steering)}
    if not all(moved.values()):
        return Found(said, note="plain answers were not read")
    # KL has no largest value of which a share could be too little to tell.
    gaps = tuple(replace(at.by_unit(line, moved, len(at.steering), 1.0), piled=False) for line in at.steering)
    return Found(said, gaps, all_more(gaps), "KL, nats a token")


def _order(shown: Sequence[Table], said: str) -> Found:
    found = carried(shown)
    if isinstance(found, str):
        return Found(said, note=found)
    gap = Gap(f"ρ over {found.n} methods", found.mean, found.low, found.high)
    return Found(said, (gap,), positive(found))


def carried(shown: Sequence[Table], task: str = "axbench") -> Estimate | str:
    """Spearman's ρ of the means of the methods, controls left out, on the two models; the percentile interval resamples
    the concepts, which are the same on both. Why there is none as a text."""
    sides = [registered(shown, task, model) for model in (TAUGHT, BASE)]
    known = [side for side in sides if not isinstance(side, str)]
    if len(known) < len(sides):
        return next(f"{model}: {side}" for model, side in zip((TAUGHT, BASE), sides, strict=True) if side not in known)
    one, two = known
    names = sorted(name for name in one.rows.keys() & two.rows.keys() if one.rows[name].run.surface != "control")
    if len(names) < FEWEST:
        return f"fewer than {FEWEST} methods ran on both"
    concepts = [c for c in one.table.concepts if c in two.table.concepts]
    a, b = (_scores(side, names, concepts) for side in known)
    rho = scipy.stats.spearmanr(a.mean(1), b.mean(1)).statistic
    drawn = resamples(len(concepts), 4000).T / len(concepts)
    found = [scipy.stats.spearmanr(x, y).statistic for x, y in zip((a @ drawn).T, (b @ drawn).T, strict=True)]
    low, high = np.nanquantile(found, [0.025, 0.975])
    return Estimate(float(rho), float(low), float(high), len(names))


def _scores(side: Registered, names: Sequence[str], concepts: Sequence[str]) -> Array:
    own = [side.rows[name].run.scores("overall") for name in names]
    return np.array([[scores[c] for c in concepts] for scores in own], dtype=float)


# Tables


def answered(shown: Sequence[Table]) -> str:
    """The verdict of each registered comparison."""
    lines = head("task", "model", "prompt", "steering", "steering less prompt", "verdict", "why")
    for one in verdict.answers(shown):
        if one.registered:
            spec, scale = one.table.spec, one.table.scale
            sides = (f"{side.name} {side.estimates['overall'].mean / scale:.2f}" for side in (one.prompt, one.steering))
            ends = str(scaled("", one.difference, scale)).strip()
            where = f"`{spec['task']}`", spec["model"]
            below = BELOW if one.table.may_rank is False else ""
            lines.append(row((*where, *sides, cell(ends), f"**{one.said}**", cell(f"{one.reason}{below}"))))
    return "\n".join(lines)


def across(shown: Sequence[Table]) -> str:
    """Methods by models: shares of the scale on the tasks that ran on both."""
    parts = []
    for one in side_by_side([t for t in shown if of([line.run.data for line in t.rows])]):
        parts += [f"**{cell(one.title)}**", "", *head("method", *one.columns)]
        for method, own in one.rows.items():
            cells = (_share(own.get(name), table.scale) for name, table in one.columns.items())
            parts.append(row((cell(method), *cells)))
        parts.append("")
    return "\n".join(parts[:-1]) or "No task has run on both models yet."


def _share(line: Row | None, scale: float) -> str:
    return "" if line is None else _interval(line.estimates["overall"], scale)


def _interval(e: Estimate, scale: float) -> str:
    return f"{e.mean / scale:.2f} [{e.low / scale:.2f}, {e.high / scale:.2f}]"


def corrected(shown: Sequence[Table]) -> str:
    """What readers' eyes make of the registered methods: means less what the judge favours their surface by."""
    lines = head("task", "model", "method", "by the judge", "corrected by readers")
    for task, model in dict.fromkeys((t.spec["task"], t.spec["model"]) for t in shown):
        table = _answering(shown, task, model)
        if table is None or (plan := of([line.run.data for line in table.rows])) is None:
            continue
        rows = _by_name(table)
        for name in (plan.prompt, *plan.steering, plan.combination):
            if name in rows and (e := rows[name].corrected):
                told = (_interval(one, table.scale) for one in (rows[name].estimates["overall"], e))
                lines.append(row((f"`{task}`", model, cell(name), *told)))
    return "\n".join(lines)


REPEATED = 1
"""Seed of the repeat."""


def again(shown: Sequence[Table]) -> str:
    """The registered comparison of `axbench` on the instruction-tuned model, and the same with another seed."""
    one, others = registered(shown, "axbench", TAUGHT), of_seed(shown, "axbench", TAUGHT, REPEATED)
    if isinstance(one, str) or not others:
        return "Not run yet."
    two = max(others, key=verdict.weight)
    rows = _by_name(two)
    ends = [f"seed {seed}" for seed in (0, REPEATED)]
    lines = head("method", *ends, *(f"less the prompt, {end}" for end in ends), "inside")
    for name in dict.fromkeys((one.plan.prompt, *one.plan.steering, one.plan.combination, *CONTROLS["steering"])):
        if name not in rows or name not in one.rows:
            continue
        sides = (one.table, one.rows[name], one.prompt), (two, rows[name], rows[one.plan.prompt])
        means = [_share(line, table.scale) for table, line, _ in sides]
        gaps = [scaled("", difference(a.run, b.run, units=t.concepts), t.scale) for t, a, b in sides]
        told = ["", "", ""] if name == one.plan.prompt else [*map(str, gaps), _inside(*gaps)]
        lines.append(row((cell(name), *means, *(cell(text.strip()) for text in told))))
    return "\n".join(lines)


def _inside(first: Gap, other: Gap) -> str:
    return "yes" if first.low <= other.mean <= first.high else "no"


def costs(shown: Sequence[Table]) -> str:
    """What the registered prompt and steerings do where nobody asked, task by task."""
    beside = ("KL to the bare model", "basics", "another concept", "under an order")
    lines = head("task", "model", "method", "score", *beside)
    for task, model in dict.fromkeys((t.spec["task"], t.spec["model"]) for t in shown):
        if not isinstance(at := registered(shown, task, model), str):
            both = at.rows.get(at.plan.combination)
            for line in (at.prompt, *at.steering, *([both] if both else [])):
                share = f"{line.estimates['overall'].mean / at.table.scale:.2f}"
                lines.append(row((f"`{task}`", model, cell(line.name), share, *_beside(line, at.table))))
    return "\n".join(lines)


def elsewhere(shown: Sequence[Table]) -> str:
    """The README's sentences on what a steering wins and what it loses: of `refusal`, where each has a column, the
    steering that declines most, and the best prompt; empty where that has not run."""
    table = _answering([t for t in shown if t.reference], "refusal", TAUGHT)
    if table is None or not (known := verdict.steered(table)):
        return ""
    line = max(known, key=lambda one: one.estimates["efficacy"].mean)
    prompt = next(one for one in table.rows if one.name == table.reference)
    declined, answered, right = (
        [f"{100 * one.estimates[axis].mean:.0f}" for one in (line, prompt)]
        for axis in ("efficacy", "compliance", "overall")
    )
    changes = [change for one in (line, prompt) if (change := _basics(one, table))]
    lost = " and ".join(f"{-100 * one.difference:.0f}" for one in changes)
    return (
        f"*What steering wins it can lose elsewhere.* Asked to decline what cheats or hurts, the model declines "
        f"{declined[0]} % of it under `{line.name}` and {declined[1]} % under the best prompt. It answers "
        f"{answered[0]} and {answered[1]} % of harmless look-alikes"
        f"{f', and loses {lost} points on easy questions' if len(changes) > 1 else ''}: {right[0]} and {right[1]} % "
        "of all answers are as they should be. [Results](docs/results.md)."
    )


def _beside(line: Row, table: Table) -> tuple[str, ...]:
    change = _basics(line, table)
    return (
        _mean(damage.picked(line.run, "kl").values(), 1.0),
        f"{change.difference:+.3f}" if change else "–",
        _mean(effects.related(line.run).values(), table.scale),
        _mean(effects.adverse(line.run).values(), table.scale),
    )


def _basics(line: Row, table: Table) -> effects.Change | None:
    """What a method does to the shipped questions, asked as most of its table were."""
    asked = next((one for one in effects.asked([r.run for r in table.rows]) if one.task == BASICS), None)
    return effects.change(line.run, asked) if asked else None


def _mean(values: Iterable[float], scale: float) -> str:
    known = [value / scale for value in values]
    if len(known) < 2:
        return f"{known[0]:.2f}" if known else "–"
    e = estimate(known)
    return cell(f"{e.mean:.2f} [{e.low:.2f}, {e.high:.2f}]")


def published(shown: Sequence[Table], archived: Sequence[Table]) -> str:
    """What each method's authors report, and what the committed runs, those of the archive last, say of it: shares of
    the scale on `axbench`, AUROC where it was run as a detector."""
    rows = {f"axbench here, {model}": _by_name(_answering(shown, "axbench", model)) for model in (TAUGHT, BASE)}
    rows["axbench before"] = _by_name(_answering(archived, "axbench", TAUGHT))
    steered = {said: own for said, own in rows.items() if own}
    lines = head("method", "published", *steered, "detection here, AUROC")
    detectors = _by_name(_answering(shown, "axbench-detect", TAUGHT))
    for name, cls in sorted(registry.table("method").items()):
        said = dict(paragraphs(inspect.getdoc(cls) or "")).get("Reproduction")
        if said and cls.__module__.startswith("methods."):
            ours = [_share(own.get(name), 2.0) or "–" for own in steered.values()]
            auroc = detectors[name].estimates["auroc"].mean if name in detectors else None
            lines.append(row((f"`{name}`", cell(said), *ours, "–" if auroc is None else f"{auroc:.3f}")))
    return "\n".join(lines)


def _answering(shown: Sequence[Table], task: str, model: str) -> Table | None:
    """The table that answers for a task on a model."""
    found = [t for t in shown if (t.spec["task"], t.spec["model"]) == (task, model)]
    return max(found, key=verdict.weight, default=None)


def _by_name(table: Table | None) -> dict[str, Row]:
    return {line.name: line for line in table.rows} if table else {}


def blocks(shown: Sequence[Table]) -> dict[str, str]:
    """The generated blocks of docs/results.md by name."""
    return {
        "expected": expectations(shown),
        "answered": answered(shown),
        "across": across(shown),
        "corrected": corrected(shown),
        "again": again(shown),
        "elsewhere": costs(shown),
    }
