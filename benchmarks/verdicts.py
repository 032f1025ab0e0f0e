"""How often the verdict rule errs, by simulation with the design and the scores of the committed tables.

    python benchmarks/verdicts.py        # prints Markdown; two minutes on two cores

Concepts are drawn anew from a table's own, all methods and both judges together, so that spread, skewness and
dependence are those of real scores. Under "equal" the steering is moved so that its mean is the prompt's, by either
judge, and the controls are moved far below, which leaves the difference alone to decide: where the rule is most easily
wrong. Under "the twin is as good" steering leads the prompt and its twin leads with it.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np

from bench.core.content import Array
from bench.results.runs import load
from bench.results.second_judge import chosen
from bench.results.tables import Table, tables
from bench.results.verdict import Answer, answers, is_twin
from bench.stats.significance import NEAR, holm, paired, sign_flip, significant, union

ROOT = Path(__file__).resolve().parents[1]
DRAWS = 500
LEAD = 0.5
"""By how much the methods are moved apart, in points of the score."""


def scores(one: Answer) -> list[dict[str, Array]]:
    """By each judge: method -> score of each concept, of all that the answer's claims compare."""
    names = dict.fromkeys(name for claim in one.claims[:2] for name in (claim.method, *claim.parts))
    rows = {row.name: row.run for row in one.table.rows}
    concepts = one.table.concepts
    found = [{name: np.array([rows[name].scores("overall")[c] for c in concepts], float) for name in names}]
    if one.second is not None:
        _, said = chosen(one.table) or ("", {})
        units = {name: said[name].units(rows[name], "overall") for name in names}
        found.append({name: np.array([units[name][c] for c in concepts], float) for name in names})
    return found


def claims(judged: list[dict[str, Array]], one: Answer) -> list[float]:
    """p of "steer" and of "prompt", by all judges at once."""
    made = []
    for claim in one.claims[:2]:
        found = [union([paired(own[claim.method], own[n]) for n in claim.parts]) for own in judged]
        made.append(math.nan if any(map(math.isnan, found)) else max(found))
    return made


def twins(one: Answer) -> set[str]:
    return {row.name for row in one.table.rows if is_twin(row.run, one.steering.run)}


def moved(judged: list[dict[str, Array]], one: Answer, case: str) -> list[dict[str, Array]]:
    found = []
    steering, prompt = one.steering.name, one.prompt.name
    for own in judged:
        lead = LEAD if case == "twin" else 0.0
        new = {prompt: own[prompt], steering: own[steering] - own[steering].mean() + own[prompt].mean() + lead}
        for name in own:
            if name not in new:
                twin = case == "twin" and name in twins(one)
                new[name] = own[name] - own[name].mean() + own[prompt].mean() + (lead if twin else -LEAD)
        found.append(new)
    return found


def errors(found: list[Answer], case: str, judges: int = 2) -> tuple[list[float], float]:
    """Share of draws in which each task has a verdict for one of the two, alone; and in which any has, after Holm."""
    rng = np.random.default_rng(0)
    worlds = [(moved(scores(one)[:judges], one, case), one) for one in found]
    alone, family = np.zeros(len(found)), 0
    for _ in range(DRAWS):
        ps = []
        for judged, one in worlds:
            n = len(one.table.concepts)
            at = rng.integers(n, size=n)
            drawn = [{name: values[at] for name, values in own.items()} for own in judged]
            steer, prompt = claims(drawn, one)
            false = [steer] if case == "twin" else [steer, prompt]
            ps.append(min((p for p in false if not math.isnan(p)), default=math.nan))
        alone += [significant(p) for p in ps]
        family += any(significant(p) for p in holm(ps))
    return list(alone / DRAWS), family / DRAWS


def pairs(table: Table) -> dict[str, list[tuple[Array, Array]]]:
    """Pairs of methods, by whether most concepts hardly tell them apart."""
    own = {row.name: np.array([row.run.scores("overall")[c] for c in table.concepts], float) for row in table.rows}
    found: dict[str, list[tuple[Array, Array]]] = {"piled": [], "other": []}
    for a, b in itertools.combinations(own, 2):
        near = (np.abs(own[a] - own[b]) < NEAR * table.scale).mean() > 0.5
        found["piled" if near else "other"].append((own[a], own[b]))
    return found


def pairwise(found: list[Table]) -> dict[str, dict[str, Any]]:
    """Type-I error and coverage of single comparisons whose means were made equal."""
    rng = np.random.default_rng(1)
    made: dict[str, dict[str, Any]] = {}
    for kind in ("other", "piled"):
        chosen = [pair for table in found for pair in pairs(table)[kind]]
        chosen = [chosen[i] for i in rng.permutation(len(chosen))[:60]]
        wrong, flips, covered = [], [], []
        for a, b in chosen:
            d = a - b - (a - b).mean()
            if np.ptp(d) < 1e-9:
                continue
            drawn = d[rng.integers(len(d), size=(200, len(d)))]
            rows = [paired(row, np.zeros(len(d))) for row in drawn]
            wrong.append(np.mean([significant(one.p) for one in rows]))
            covered.append(np.mean([one.low <= 0 <= one.high for one in rows]))
            flips.append(np.mean(sign_flip(drawn) < 0.05))
        figures = {"wrong": wrong, "flips": flips, "covered": covered}
        made[kind] = {"pairs": len(wrong)} | {name: np.mean(values) for name, values in figures.items()}
    return made


def main() -> None:
    every = [t for t in tables(load(ROOT / "results")) if t.kind == "steering" and len(t.concepts) < 60]
    found = answers(every)
    print("| task | nothing differs: a verdict | the same, one judge | twin as good: *steer*, one judge |")
    print("|---|---|---|---|")
    cases = [errors(found, "equal"), errors(found, "equal", 1), errors(found, "twin", 1)]
    for i, one in enumerate(found):
        print(f"| {one.table.spec['task']} |" + "".join(f" {alone[i]:.1%} |" for alone, _ in cases))
    print("| any of them, after Holm |" + "".join(f" {family:.1%} |" for _, family in cases) + "\n")
    print("| pairs of equal mean | pairs | p < .05 | by sign flips alone | 95 % interval holds 0 |")
    print("|---|---|---|---|---|")
    for kind, row in pairwise(every).items():
        words = "most concepts hardly differ" if kind == "piled" else "other"
        print(f"| {words} | {row['pairs']} | {row['wrong']:.1%} | {row['flips']:.1%} | {row['covered']:.1%} |")


if __name__ == "__main__":
    main()
