"""What the page shows of a table at once: what may be claimed, the leaderboard, what stands below it.

Invariant: a claim here rests on the same comparisons as the one in `leaderboard.md`; every number comes with
its interval, and what is not claimed is listed as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from bench.escape import uncelled
from bench.models import DEFAULT
from bench.opinions import second
from bench.overhead import show
from bench.report import costs, leaderboard
from bench.report.opinions import LEVEL, asking
from bench.report.page import methods
from bench.report.page.encoding import key
from bench.results import finite
from bench.stats import Difference, Estimate
from bench.tables import Row, Table

MEASURES = (
    None, "prompt_tokens", "flops_percent", "bytes_percent", "kv_percent", "request_flops_percent", "artefact_bytes",
    "time", "first_token_cold", "first_token_warm", "memory", "fit_in_requests", "judge_tokens",
)  # fmt: skip
"""What each column of `show.HEADINGS` is sorted by."""


def table(one: Table, figures: Sequence[str], below: Sequence[tuple[str, Sequence[str]]]) -> dict[str, Any]:
    """One table, without its answers."""
    spec = one.spec
    described = one.rows[0].run.data["concepts"]
    recorded = costs.records(one)
    return {
        "key": key(one.group),
        "title": leaderboard.title(one),
        "task": spec["task"],
        "data": leaderboard.data_of(spec) or "its own",
        "model": spec["model"],
        "preset": spec["protocol"]["preset"],
        "engine": f"{spec['backend']}, {spec['dtype']}",
        "judge": spec["judge"],
        "axes": ["overall", *one.axes[:-1]],
        "scale": one.scale,
        "reference": one.reference,
        "units": len(one.concepts),
        "concepts": [[name, str(c["text"])] for name, c in described.items()],
        "answers": any("text" in s for row in one.rows for s in row.run.data["samples"][:1]),
        "verdict": verdict(one),
        "notes": [*leaderboard.notes(one), *leaderboard.depths(one)],
        "sections": [[heading, blocks(lines)] for heading, lines in _sections(one, below)],
        "figures": [name for name in figures if re.fullmatch(r"[^/\\:]+\.(png|svg)", name)],
        "costs": list(show.HEADINGS[1:]) if recorded else [],
        "rows": [_row(one, row, recorded) for row in one.rows],
    }


def _sections(one: Table, below: Sequence[tuple[str, Sequence[str]]]) -> list[tuple[str, Sequence[str]]]:
    against = leaderboard.contrasts(one)
    controls = [("Against the controls, paired by concept (p uncorrected):", against)] if against else []
    return [*below, *controls]


def _row(one: Table, row: Row, recorded: Mapping[str, Any]) -> dict[str, Any]:
    counts = row.run.data["counts"]
    cost = recorded.get(row.name)
    return {
        "name": row.name,
        "method": row.run.method,
        "family": row.run.family,
        "remarks": leaderboard.remarks(row.run),
        "rank": row.rank,
        "file": methods.file_of(row.run),
        "scores": [span(row.estimates[axis]) for axis in ("overall", *one.axes[:-1])],
        "delta": span(row.against) if row.against else None,
        "p": None if row.p is None else finite(row.p),
        "coefficient": row.coefficient,
        "missing": row.missing,
        "generations": counts["generations"],
        "tokens": counts["tokens"],
        "cost": _cost(cost) if cost else None,
    }


def span(e: Estimate | Difference) -> list[float | None]:
    """Mean, low and high; None where one is not known."""
    return [finite(e.mean), finite(e.low), finite(e.high)]


def _cost(found: Any) -> list[Any]:
    """Text and sort value of each cost column."""
    numbers = show.summary(found)
    values = [numbers[name] if name else None for name in MEASURES]
    values = [v["median"] if isinstance(v, Mapping) else v for v in values]
    return [list(pair) for pair in zip(show.cells(found)[1:], values[1:], strict=True)]


def verdict(one: Table) -> dict[str, Any]:
    """An answer in a word, a sentence, what is claimed and what is not."""
    caveats = []
    if one.spec["model"] == DEFAULT:
        caveats.append("This model has 135 M parameters: a demonstration, no evidence about larger models.")
    if one.detectable is not None and one.detectable >= one.scale:
        caveats.append(f"{len(one.concepts)} concepts are too few to tell any method from {one.reference}.")
    elif one.detectable:
        caveats.append(
            f"Differences to {one.reference} below {one.detectable:.2f} may go unseen: the widest row would find that "
            "much in 4 of 5 repetitions."
        )
    if unvalidated := [row.name for row in one.rows if row.rank is None]:
        caveats.append(f"Without a positive control yet, and not ranked: {', '.join(unvalidated)}.")
    if one.reference is None:
        word, text = "No claim", "There is no prompt in this table to compare steering with."
        return {"word": word, "text": text, "claimed": [], "open": [], "caveats": caveats}
    return (_judged if one.spec["judge"] else _labelled)(one) | {"caveats": caveats}


def _judged(one: Table) -> dict[str, Any]:
    """Steering against the tuned prompt, where an independent judge has a say."""
    opinion = second(one)
    if opinion is None:
        why = f"Only {one.spec['judge']} has rated these answers; no independent judge has confirmed a difference."
        ask = f"Any difference between prompting and steering: `{asking(one)}` asks another judge."
        return {"word": "No claim yet", "text": why, "claimed": [], "open": [ask]}
    family = {row.name: row.run.family for row in one.rows}
    steering = [c for c in opinion.comparisons if family[c.name] != "control"]
    clear = [c for c in steering if c.state == "agreed" and c.p < LEVEL]
    above = [c.name for c in clear if c.first.mean > 0]
    beaten = [c.name for c in clear if c.first.mean < 0]
    reference = one.reference
    share = f"{reference} beats {len(beaten)} of {len(steering)} steering methods"
    if above and beaten:
        verb = "beats" if len(above) == 1 else "beat"
        word, text = "It depends", f"{', '.join(above)} {verb} the tuned prompt; {share}."
    elif above:
        word, text = "Steer", f"{', '.join(above)}: better than the tuned prompt."
    elif beaten:
        word, text = "Prompt", f"No steering method is shown to beat the tuned prompt; {share}."
    else:
        word, text = "Undecided", "No difference between steering and the tuned prompt is beyond chance."
    controls = [c for c in opinion.comparisons if family[c.name] == "control"]
    lost = [c.name for c in controls if c.state == "agreed" and c.p < LEVEL and c.first.mean < 0]
    agreed = f"{one.spec['judge']} and {opinion.judge} agree in sign, Holm-corrected p < .05"
    claimed = [
        *([f"Better than {reference}: {', '.join(above)} ({agreed})."] if above else []),
        *([f"{reference} is better than {', '.join(beaten)} ({agreed})."] if beaten else []),
        *([f"{reference} is better than the controls {', '.join(lost)}."] if lost else []),
    ]
    unclear = [c.name for c in steering if c.state == "agreed" and c.p >= LEVEL]
    disputed = [c.name for c in steering if c.state == "disputed"]
    alone = [c.name for c in steering if c.state == "no second opinion"]
    left = [
        *([f"Not told apart from {reference}: {', '.join(unclear)}."] if unclear else []),
        *([f"The judges differ in sign: {', '.join(disputed)}."] if disputed else []),
        *([f"No second opinion: {', '.join(alone)}."] if alone else []),
    ]
    return {"word": word, "text": text, "claimed": claimed, "open": left}


def _labelled(one: Table) -> dict[str, Any]:
    """Methods against asking the model, where labels decide and no judge."""
    others = [row for row in one.rows if row.against is not None and row.run.family != "control"]
    clear = [row for row in others if row.p is not None and row.p < LEVEL and row.against]
    above = [row.name for row in clear if row.against and row.against.mean > 0]
    beaten = [row.name for row in clear if row.against and row.against.mean < 0]
    rest = [row.name for row in others if row.name not in (*above, *beaten)]
    word = "It depends" if above and beaten else "Not the prompt" if above else "Prompt" if beaten else "Undecided"
    text = f"{len(above)} of {len(others)} methods score above {one.reference}, {len(beaten)} below; labels decide."
    claimed = [
        *([f"Better than {one.reference}: {', '.join(above)} (Holm-corrected p < .05)."] if above else []),
        *([f"{one.reference} is better than {', '.join(beaten)} (Holm-corrected p < .05)."] if beaten else []),
    ]
    left = [f"Not told apart from {one.reference}: {', '.join(rest)}."] if rest else []
    return {"word": word, "text": text, "claimed": claimed, "open": left}


def blocks(lines: Sequence[str]) -> list[list[Any]]:
    """A section's Markdown as tables, lists and paragraphs of plain text."""
    found: list[list[Any]] = []
    for line in lines:
        if not line.strip() or re.fullmatch(r"[|\-: ]+", line):
            continue
        kind = "table" if line.startswith("|") else "list" if line.startswith("- ") else "text"
        content: Any = cells(line) if kind == "table" else uncelled(line.removeprefix("- "))
        if kind == "text":
            found.append([kind, content])
        elif found and found[-1][0] == kind:
            found[-1][1].append(content)
        else:
            found.append([kind, [content]])
    return found


def cells(line: str) -> list[str]:
    """The cells of one row; a bar behind a backslash is no border."""
    return [uncelled(cell.strip()) for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
