"""What docs/results.md says in numbers: the ten expectations of results/plan.md against the runs, methods from model to
model, and what either side costs elsewhere.

Invariant: the plan was written first. An expectation that the runs do not reach yet is said to be open.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy

from bench.core import registry
from bench.core.content import Array
from bench.core.escape import cell, head, row
from bench.report.catalogue import paragraphs
from bench.results import damage, dialogues, effects, verdict
from bench.results.hypotheses import MARGIN, Registration, of
from bench.results.models import side_by_side
from bench.results.tables import Row, Table
from bench.stats.intervals import Estimate, estimate, intervals, resamples

TAUGHT, BASE = "SmolLM2-135M-Instruct", "gemma-3-270m"
"""The instruction-tuned model of the plan, and the one that is not."""
Outcome = Literal["as expected", "refuted", "undecided", "open"]


@dataclass(frozen=True)
class Gap:
    """A paired difference as a share of the scale, simultaneous with the others of its expectation."""

    name: str
    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.name} {self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


@dataclass(frozen=True)
class Registered:
    """The largest table of a task on a model whose runs were registered, and its rows by name."""

    table: Table
    plan: Registration
    rows: Mapping[str, Row]

    @property
    def steering(self) -> list[Row]:
        return [self.rows[name] for name in self.plan.steering if name in self.rows]


def registered(shown: Sequence[Table], task: str, model: str) -> Registered | None:
    """None where no such table has the registered prompt and every registered steering."""
    found = []
    for table in shown:
        if table.spec["task"] == task and table.spec["model"] == model and not table.silent:
            plan = of([line.run.data for line in table.rows])
            rows = {line.name: line for line in table.rows}
            if plan and {plan.prompt, *plan.steering} <= rows.keys():
                found.append(Registered(table, plan, rows))
    return max(found, key=lambda one: verdict.weight(one.table), default=None)


def gaps(
    found: Registered,
    lines: Sequence[Row],
    of_unit: Callable[[Row], Mapping[str, float | None]],
    scale: float,
) -> list[Gap]:
    """Each of `lines` less the registered prompt, unit by unit; intervals hold for all of them together."""
    prompt = of_unit(found.rows[found.plan.prompt])
    made = []
    for line in lines:
        own = of_unit(line)
        pairs = [(a, b) for n in own if (a := own[n]) is not None and (b := prompt.get(n)) is not None]
        if len(pairs) > 1:
            values = np.array([a - b for a, b in pairs]) / scale
            low, high = intervals(values, 1 - 0.05 / len(lines))
            made.append(Gap(line.name, float(values.mean()), float(low), float(high)))
    return made


def scored(axis: str) -> Callable[[Row], Mapping[str, float | None]]:
    return lambda line: line.run.scores(axis)


def overall(shown: Sequence[Table], task: str, model: str, names: Iterable[str] = ()) -> list[Gap]:
    """The registered steerings (or the methods of these names) less the registered prompt; empty where not run."""
    found = registered(shown, task, model)
    if found is None:
        return []
    lines = [found.rows[name] for name in names if name in found.rows] if names else found.steering
    return gaps(found, lines, scored("overall"), found.table.scale)


def expectations(shown: Sequence[Table]) -> str:
    """The expectations of the plan, what was found, and what that says of each."""
    lines = head("", "expected", "found", "")
    for number, (said, (found, outcome)) in enumerate(_judged(shown), 1):
        lines.append(row((str(number), said, cell("; ".join(found)) or "–", f"**{outcome}**")))
    return "\n".join(lines)


def _judged(shown: Sequence[Table]) -> list[tuple[str, tuple[list[str], Outcome]]]:
    one = overall(shown, "axbench", TAUGHT)
    return [
        ("`axbench`, instruction-tuned: neither registered steering beats the prompt", _none_leads(one)),
        ("`axbench`: steering less prompt is larger on the base model", _interaction(shown)),
        ("`axbench-suppress`: a registered steering beats the prompt", _one_leads(shown, "axbench-suppress")),
        ("`axbench-attack`: a registered steering beats the prompt", _one_leads(shown, "axbench-attack")),
        ("`constraints`: the prompt beats both", _all_behind(overall(shown, "constraints", TAUGHT))),
        ("`refusal`: steering declines more, and answers fewer look-alikes", _refusal(shown)),
        ("`persistence`: the trait falls faster under a prompt given once", _slopes(shown)),
        ("where nobody asked, steering changes answers more than the prompt", _elsewhere(shown)),
        ("`axbench`: `prompt+diffmean` is not behind the prompt", _together(shown)),
        ("methods keep their order from model to model", _order(shown)),
    ]


def _said(found: Sequence[Gap]) -> list[str]:
    return [str(one) for one in found]


def _none_leads(found: list[Gap]) -> tuple[list[str], Outcome]:
    if not found:
        return [], "open"
    if any(one.low > 0 for one in found):
        return _said(found), "refuted"
    return _said(found), "as expected" if all(one.high < MARGIN for one in found) else "undecided"


def _one_leads(shown: Sequence[Table], task: str) -> tuple[list[str], Outcome]:
    found = overall(shown, task, TAUGHT)
    if not found:
        return [], "open"
    if any(one.low > 0 for one in found):
        return _said(found), "as expected"
    behind = all(one.high < 0 for one in found)
    same = all(one.low > -MARGIN and one.high < MARGIN for one in found)
    return _said(found), "refuted" if behind or same else "undecided"


def _all_behind(found: list[Gap]) -> tuple[list[str], Outcome]:
    if not found:
        return [], "open"
    return _said(found), "as expected" if all(one.high < 0 for one in found) else "refuted"


def _interaction(shown: Sequence[Table]) -> tuple[list[str], Outcome]:
    both = [registered(shown, "axbench", model) for model in (BASE, TAUGHT)]
    if None in both:
        return [], "open"
    made = []
    base, taught = (one for one in both if one)
    for name in base.plan.steering:
        values = []
        for concept in base.table.concepts:
            ends = [
                side.rows[one].run.scores("overall").get(concept)
                for side in (base, taught)
                for one in (name, side.plan.prompt)
            ]
            if None not in ends:
                a, b, c, d = (float(end) for end in ends if end is not None)
                values.append(((a - b) - (c - d)) / base.table.scale)
        x = np.array(values)
        low, high = intervals(x, 1 - 0.05 / len(base.plan.steering))
        made.append(Gap(name, float(x.mean()), float(low), float(high)))
    if any(one.low > 0 for one in made):
        return _said(made), "as expected"
    return _said(made), "refuted" if all(one.high < 0 for one in made) else "undecided"


def _refusal(shown: Sequence[Table]) -> tuple[list[str], Outcome]:
    found = registered(shown, "refusal", TAUGHT)
    if found is None:
        return [], "open"
    more = gaps(found, found.steering, scored("efficacy"), found.table.scale)
    fewer = gaps(found, found.steering, scored("compliance"), found.table.scale)
    said = [f"efficacy: {one}" for one in more] + [f"compliance: {one}" for one in fewer]
    if any(one.high < 0 for one in more) or any(one.low > 0 for one in fewer):
        return said, "refuted"
    shown_both = any(a.low > 0 and b.high < 0 for a, b in zip(more, fewer, strict=True))
    return said, "as expected" if shown_both else "undecided"


def _slopes(shown: Sequence[Table]) -> tuple[list[str], Outcome]:
    found = registered(shown, "persistence", TAUGHT)
    if found is None:
        return [], "open"
    axis = found.table.axes[0]
    made = gaps(
        found, found.steering, lambda line: dict(dialogues.slopes(dialogues.of(line.run), axis)), found.table.scale
    )
    if any(one.low > 0 for one in made):
        return [f"slope a turn: {one}" for one in made], "as expected"
    return [f"slope a turn: {one}" for one in made], "refuted" if all(one.high < 0 for one in made) else "undecided"


def _elsewhere(shown: Sequence[Table]) -> tuple[list[str], Outcome]:
    found = registered(shown, "axbench", TAUGHT)
    if found is None:
        return [], "open"
    made = gaps(found, found.steering, lambda line: dict(damage.picked(line.run, "kl")), 1.0)
    if not made:
        return [], "open"
    said = [f"KL in nats a token: {one}" for one in made]
    if all(one.low > 0 for one in made):
        return said, "as expected"
    return said, "refuted" if any(one.high < 0 for one in made) else "undecided"


def _together(shown: Sequence[Table]) -> tuple[list[str], Outcome]:
    found = overall(shown, "axbench", TAUGHT, ["prompt+diffmean"])
    if not found:
        return [], "open"
    (one,) = found
    if one.high < -MARGIN:
        return _said(found), "refuted"
    return _said(found), "as expected" if one.low > -MARGIN else "undecided"


def _order(shown: Sequence[Table]) -> tuple[list[str], Outcome]:
    found = carried(shown)
    if found is None:
        return [], "open"
    said = [f"ρ {found.mean:.2f} [{found.low:.2f}, {found.high:.2f}] over {found.n} methods"]
    return said, "as expected" if found.low > 0 else "refuted" if found.high < 0 else "undecided"


def carried(shown: Sequence[Table], task: str = "axbench") -> Estimate | None:
    """Spearman's ρ of the methods' means on the two models, with the percentile interval over resampled concepts, drawn
    for each model by itself; None where fewer than five methods ran on both."""
    both = [registered(shown, task, model) for model in (TAUGHT, BASE)]
    if None in both:
        return None
    sides = [one for one in both if one]
    names = sorted(set(sides[0].rows) & set(sides[1].rows))
    if len(names) < 5:
        return None
    scores = [_scores(side, names) for side in sides]
    rho = float(scipy.stats.spearmanr(*(own.mean(1) for own in scores)).statistic)
    draws = [resamples(own.shape[1], 4000) / own.shape[1] for own in scores]
    shuffled = np.random.default_rng(0).permutation(len(draws[1]))
    one, two = scores[0] @ draws[0].T, scores[1] @ draws[1][shuffled].T
    found = [scipy.stats.spearmanr(a, b).statistic for a, b in zip(one.T, two.T, strict=True)]
    low, high = np.nanquantile(found, [0.025, 0.975])
    return Estimate(rho, float(low), float(high), len(names))


def _scores(side: Registered, names: Sequence[str]) -> Array:
    own = [side.rows[name].run.scores("overall") for name in names]
    return np.array([[scores[c] for c in side.table.concepts] for scores in own], dtype=float)


def answered(shown: Sequence[Table]) -> str:
    """The verdict of each registered comparison."""
    lines = head("task", "model", "prompt", "steering", "steering less prompt", "verdict", "why")
    for one in verdict.answers(shown):
        if one.registered:
            spec, gap = one.table.spec, one.difference
            sides = (
                f"{side.name} {side.estimates['overall'].mean / one.table.scale:.2f}"
                for side in (one.prompt, one.steering)
            )
            ends = "{:+.2f} [{:+.2f}, {:+.2f}]".format(
                *(end / one.table.scale for end in (gap.mean, gap.low, gap.high))
            )
            where = f"`{spec['task']}`", spec["model"]
            lines.append(row((*where, *sides, cell(ends), f"**{one.said}**", cell(one.reason))))
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
    if line is None:
        return ""
    e = line.estimates["overall"]
    return f"{e.mean / scale:.2f} [{e.low / scale:.2f}, {e.high / scale:.2f}]"


def costs(shown: Sequence[Table]) -> str:
    """What the registered prompt and steerings do where nobody asked, task by task."""
    lines = head(
        "task", "model", "method", "score", "KL to the bare model", "basics", "another concept", "under an order"
    )
    for task, model in dict.fromkeys((t.spec["task"], t.spec["model"]) for t in shown):
        if found := registered(shown, task, model):
            prompt, both = found.rows[found.plan.prompt], found.rows.get(found.plan.combination)
            for line in (prompt, *found.steering, *([both] if both else [])):
                e = line.estimates["overall"]
                share = f"{e.mean / found.table.scale:.2f}"
                lines.append(row((f"`{task}`", model, cell(line.name), share, *_beside(line, found.table))))
    return "\n".join(lines)


def _beside(line: Row, table: Table) -> tuple[str, ...]:
    asked = next((one for one in effects.asked([r.run for r in table.rows]) if one.task.endswith("basics")), None)
    change = effects.change(line.run, asked) if asked else None
    return (
        _mean(damage.picked(line.run, "kl").values()),
        f"{change.difference:+.3f}" if change else "–",
        _mean(effects.related(line.run).values()),
        _mean(effects.adverse(line.run).values()),
    )


def _mean(values: Iterable[float]) -> str:
    known = list(values)
    if len(known) < 2:
        return f"{known[0]:.2f}" if known else "–"
    e = estimate(known)
    return cell(f"{e.mean:.2f} [{e.low:.2f}, {e.high:.2f}]")


def published(shown: Sequence[Table]) -> str:
    """What each method's authors report, and what the committed runs say of it: shares of the scale on `axbench`, AUROC
    where it was run as a detector."""
    models = [model for model in (TAUGHT, BASE) if _largest(shown, "axbench", model)]
    lines = head("method", "published", *(f"axbench here, {model}" for model in models), "detection here, AUROC")
    detectors = _largest(shown, "axbench-detect", TAUGHT)
    for name, cls in sorted(registry.table("method").items()):
        said = dict(paragraphs(inspect.getdoc(cls) or "")).get("Reproduction")
        if said and cls.__module__.startswith("methods."):
            ours = [_share(one.get(name), 2.0) or "–" for model in models if (one := _largest(shown, "axbench", model))]
            auroc = detectors[name].estimates["auroc"].mean if detectors and name in detectors else None
            lines.append(row((f"`{name}`", cell(said), *ours, "–" if auroc is None else f"{auroc:.3f}")))
    return "\n".join(lines)


def _largest(shown: Sequence[Table], task: str, model: str) -> dict[str, Row]:
    """method -> its row in the table that answers for a task on a model."""
    found = [t for t in shown if (t.spec["task"], t.spec["model"]) == (task, model)]
    return {line.run.method: line for line in max(found, key=verdict.weight).rows} if found else {}


def blocks(shown: Sequence[Table]) -> dict[str, str]:
    """The generated blocks of docs/results.md by name."""
    return {
        "expected": expectations(shown),
        "answered": answered(shown),
        "across": across(shown),
        "elsewhere": costs(shown),
    }
