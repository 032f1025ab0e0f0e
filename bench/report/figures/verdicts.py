"""Steer or prompt, in one picture: on each task a steering minus a prompt, and the verdict in words.

Either both were registered, or each is the best of its kind.

Invariant: it shows the comparisons and the words that `bench.results.verdict` gives, and no other number.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from bench.report.figures import drawing
from bench.report.figures.drawing import Figure
from bench.results.tables import Table
from bench.results.verdict import Answer, answers, listed

ASKED = {
    "axbench": "Write about a concept",
    "axbench-suppress": "Leave a concept out",
    "axbench-attack": "Keep a rule under attack",
    "axbench-two": "Write about two concepts at once",
    "constraints": "Keep a checkable rule",
    "persistence": "Keep to a concept for ten turns",
    "truthfulqa": "Prefer the true answer",
    "truthfulqa-gen": "Answer truthfully",
    "persona": "Show a trait",
    "behaviour": "Show a behaviour",
    "behaviour-open": "Show a behaviour, freely",
    "refusal": "Decline only what is unfair",
    "refusal-judged": "Decline only what is unfair, as judged",
}
"""What a task asks of an answer, in a few words."""
WIDTH = 0.075
"""Inches of a letter at 11 points, mean."""


def verdicts(tables: Sequence[Table]) -> Figure | None:
    """A line for each question that has an answer; none where nothing can be compared."""
    found = answers(tables)
    if not found:
        return None
    tables_of = Counter(place for place, _ in {(_place(one), one.table.group) for one in found})
    models = [one.table.spec["model"] for one in found]
    found.sort(key=lambda one: models.index(one.table.spec["model"]))  # together, in the order that they came in
    rows = [_row(one, tables_of[_place(one)] == 1) for one in found]
    return Figure("verdicts", said(rows), rows, partial(_verdicts, rows))


def said(rows: Sequence[Mapping[str, Any]]) -> str:
    """By model and verdict the questions that have it; the steering is named where another's verdict differs."""
    words: dict[str, dict[str, dict[str, list[str]]]] = {}
    for row in rows:
        questions = words.setdefault(row["model"], {}).setdefault(row["verdict"], {})
        questions.setdefault(row["asked"], []).append(row["steering"])
    told = []
    for model, found in words.items():
        told.append(f"{model}.")
        for verdict, questions in found.items():
            each = []
            for asked, names in questions.items():
                apart = sum(asked in other for other in found.values()) > 1
                each.append(f"{asked[0].lower()}{asked[1:]}{f' ({listed(names)})' if apart else ''}")
            told.append(f"{verdict[0].upper()}{verdict[1:]}: {'; '.join(each)}.")
    return " ".join(told)


def share(value: float, sign: str = "") -> str:
    """A share as percents, with a true minus."""
    return f"{100 * value:{sign}.0f} %".replace("-", "−")


def _place(one: Answer) -> tuple[str, str]:
    return one.table.spec["task"], one.table.spec["model"]


def _row(one: Answer, alone: bool) -> dict[str, Any]:
    """Scores and difference as shares of the task's scale, so that tasks stand on one axis; `alone`: no other table is
    of this task and model."""
    task, scale = one.table.spec["task"], one.table.scale
    best = {"prompt": one.prompt, "steering": one.steering}
    found = {
        "task": task,
        "model": one.table.spec["model"],
        "asked": ASKED.get(task, task) if alone else one.table.title,
        "units": f"{len(one.table.concepts)} {one.table.unit}s",
    }
    for kind, row in best.items():
        found |= {kind: row.name, f"{kind}_score": row.estimates["overall"].mean / scale}
    d = one.difference
    found |= {"surface": one.steering.run.surface, "difference": d.mean / scale}
    return found | {
        "low": d.low / scale,
        "high": d.high / scale,
        "p_holm": one.p,
        "verdict": one.said,
        "reason": one.reason,
    }


def _verdicts(rows: Sequence[Mapping[str, Any]]) -> Any:
    heads, places, end = _placed(rows)
    letters = max(max(len(row["asked"]), 0.8 * len(_pair(row))) for row in rows)
    wide = max(2.3, WIDTH * (letters + 3))
    figure = drawing.canvas(wide + 6.3, 0.66 * (end + 0.5) + 1.0)
    names, panel, words = figure.subplots(1, 3, sharey=True, width_ratios=[wide, 4.2, 1.8])
    figure.get_layout_engine().set(wspace=0, w_pad=0)
    low, high = min(0.0, *(row["low"] for row in rows)), max(0.0, *(row["high"] for row in rows))
    margin = 0.06 * ((high - low) or 1.0)
    panel.set_ylim(end, -0.5)
    panel.set_xlim(low - margin, high + margin)
    panel.axvline(0, color="#222222", lw=1)
    for y, model in heads:
        names.text(0.95, y, model, ha="right", va="center", fontsize=9, weight="bold", color="#444444")
    for i, (y, row) in enumerate(zip(places, rows, strict=True)):
        for part in (names, panel, words):
            part.axhspan(y - 0.5, y + 0.5, color="white" if i % 2 else "#f3f3f3", lw=0, zorder=0)
        _line(names, panel, words, y, row)
    for part in (names, words):
        part.set_axis_off()
        part.set_xlim(0, 1)
    panel.tick_params(axis="y", length=0, labelleft=False)
    panel.spines["left"].set_visible(False)
    panel.grid(axis="x", color=drawing.GRID, lw=0.7)
    panel.xaxis.set_major_formatter(lambda x, _: share(x, "+") if abs(x) > 1e-9 else "0")
    panel.set_xlabel("steering minus prompt, share of the scale, 95 % interval", fontsize=9)
    for text, side, at in (("prompt ahead", "right", -0.2), ("steering ahead", "left", 0.2)):
        panel.text(at * margin, -0.56, text, ha=side, va="bottom", fontsize=9, color="#555555")
    return figure


def _placed(rows: Sequence[Mapping[str, Any]]) -> tuple[list[tuple[float, str]], list[float], float]:
    """Where on the axis models stand as headings (only where there are several), where rows do, and where it ends."""
    heads: list[tuple[float, str]] = []
    places: list[float] = []
    many, end = len({row["model"] for row in rows}) > 1, -0.5
    for row in rows:
        if many and row["model"] not in [model for _, model in heads]:
            heads.append((end + 0.3, row["model"]))
            end += 0.5
        places.append(end + 0.5)
        end += 1
    return heads, places, end


def _pair(row: Mapping[str, Any]) -> str:
    """The two that are compared, with their scores."""
    return f"{row['steering']} {share(row['steering_score'])}, {row['prompt']} {share(row['prompt_score'])}"


def _line(names: Any, panel: Any, words: Any, y: float, row: Mapping[str, Any]) -> None:
    """One task: the question and the two that are compared, the difference, the verdict."""
    colour, marker = drawing.surface(row["surface"])
    decided = row["verdict"] != "undecided"
    panel.plot([row["low"], row["high"]], [y, y], color=colour, lw=2.4, solid_capstyle="butt")
    panel.plot([row["difference"]], [y], marker, color=colour, ms=8, mfc=colour if decided else "white", mew=1.6)
    names.text(0.95, y - 0.15, row["asked"], ha="right", va="center", fontsize=11)
    names.text(0.95, y + 0.22, _pair(row), ha="right", va="center", fontsize=8.5, color="#444444")
    said = textwrap.fill(row["verdict"], 20)
    size = 9 if "\n" in said else 11
    words.text(0.06, y + 0.03, said, va="bottom", fontsize=size, weight="bold" if decided else "normal")
    words.text(0.06, y + 0.22, row["units"], va="center", fontsize=8.5, color="#444444")
