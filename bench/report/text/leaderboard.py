"""Leaderboards as text: Markdown for readers, CSV for programs, rows for a terminal.

Invariant: no number without its interval; what one judge alone cannot settle is said beside the table.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.core.escape import cell, csv_text
from bench.judges.english import ALONE, answered
from bench.report.section import Grid, Section, as_json, grid as grid_lines, markdown as section_lines
from bench.results.frames import records
from bench.results.runs import FEW, Run, finite
from bench.results.second_judge import second
from bench.results.tables import Row, Table
from bench.stats.intervals import Estimate
from bench.stats.significance import Difference, paired


def headings(table: Table) -> list[str]:
    return [
        "rank",
        "method",
        "surface",
        "overall",
        *(["corrected"] if _has_corrected(table) else []),
        *table.axes[:-1],
        f"Δ to {table.reference or 'prompt'}",
        "p (Holm)",
        *(["c"] if table.kind == "steering" else []),
        "missing",
    ]


def cells(table: Table, row: Row) -> list[str]:
    """One row of a leaderboard as text, in the order of `headings`."""
    digits = 2 if table.scale > 1 else 3
    return [
        rank(row),
        row.name,
        ", ".join([row.run.surface, *remarks(row)]),
        interval(row.estimates["overall"], digits),
        *([interval(row.corrected, digits) if row.corrected else "–"] if _has_corrected(table) else []),
        *(interval(row.estimates[axis], digits) for axis in table.axes[:-1]),
        interval(row.against, digits) if row.against else "reference" if row.name == table.reference else "–",
        pvalue(row.p),
        *([f"{row.coefficient:g}" if row.coefficient is not None else "–"] if table.kind == "steering" else []),
        str(row.missing),
    ]


def _has_corrected(table: Table) -> bool:
    return any(row.corrected for row in table.rows)


UNRANKED = "unvalidated"


def rank(row: Row) -> str:
    """The ranks a row may have, `1` or `1–14`; a control has none."""
    if row.rank is None:
        return "–" if row.run.data["validated"] else UNRANKED
    low, high = row.rank
    return str(low) if low == high else f"{low}–{high}"


def remarks(row: Row) -> list[str]:
    """What a reader must know of a method to read its row."""
    run = row.run
    found = ["answers as none: nothing changed"] if row.idle else []
    found += ["suppresses only"] if run.data.get("suppresses") else []
    found += [f"best of {run.samples_per_prompt}"] if run.samples_per_prompt > 1 else []
    found += [f"mostly at {end}" for end in (run.grid_end,) if end]
    return [*found, f"{extent(run.settings)} settings"] if run.over_budget else found


def interval(e: Estimate | Difference, digits: int = 2, signed: bool = False) -> str:
    if math.isnan(e.mean):
        return "–"
    form = f"{'+' if signed or isinstance(e, Difference) else ''}.{digits}f"
    if not math.isfinite(e.low):
        return f"{e.mean:{form}}"
    mark = " ≈" if isinstance(e, Difference) and e.piled else ""
    return f"{e.mean:{form}} [{e.low:{form}}, {e.high:{form}}]{mark}"


def percent(e: Estimate) -> str:
    """A share with its interval, in percent."""
    return f"{e.mean:.0%}" + (f" [{100 * e.low:.0f}, {100 * e.high:.0f}]" if math.isfinite(e.low) else "")


def pvalue(p: float | None) -> str:
    if p is None or math.isnan(p):
        return "–"
    return "<.001" if p < 0.001 else f"{p:.3f}".lstrip("0") if p < 1 else "1"


INTERVALS = (
    "Intervals: 95 % bootstrap-t over {over}. A rank runs from 1 plus the {what} surely better to all less those "
    "surely worse (simultaneous sign-flip tests of all pairs, max-t, family-wise 5 %)."
)
NARROW = (
    "Fewer than {few} concepts are no sample of concepts, so questions are what is resampled: intervals, ranks and "
    "tests speak of {scope}, and of no other concept."
)
BARELESS = "The bare model (none) did not run: whether a method does anything at all is not shown."


def notes(table: Table) -> list[str]:
    """What a reader must know to read the table."""
    spec, rules = table.spec, table.spec["protocol"]
    silence = [f"Nothing is ranked or compared here: {table.silent}."] if table.silent else []
    if table.kind == "detector":
        return [*silence, *_detection(table)]
    unit = {"norm": "median residual norms", "max-act": "largest detection scores"}[rules["strength"]]
    alpha = "; α of a prompt" if any(row.run.prompted and row.run.dialled for row in table.rows) else ""
    judge = (
        f"judge {spec['judge']}, scores 0 to {table.scale:g}; overall is the harmonic mean, 0 where an axis is 0"
        if spec["judge"]
        else f"no judge, scores 0 to {table.scale:g} from the answers' probabilities"
    )
    if "plain" in table.axes:
        judge = f"a rule and judge {spec['judge']}, scores 0 to {table.scale:g}; overall is the mean over the attacks"
    if table.told:
        who = f"judge {spec['judge']}" if spec["judge"] else "no judge"
        judge = f"{who}, scores 0 to {table.scale:g}; {table.told}"
    asked = table.rows[0].run.data["concepts"].values()
    tested, of = f"each with {extent(c['test']['n'] for c in asked)} test prompts", ""
    if table.scope:
        few = len({unit.partition(": ")[0] for unit in table.concepts})
        tested = f"of {few} concept{'s' * (few > 1)}"
    elif table.unit != "concept":
        answers = sum(c["test"]["n"] for c in asked)
        tested = f"{answers} answers in all" if table.told else "asked once each"
        of = f" for each of {len(asked)} fits"
    picked = extent(c["select"][0]["n"] for c in asked)
    idle = ", ".join(row.name for row in table.rows if row.idle)
    lines = [
        *silence,
        *([f"Word for word what the bare model wrote, so that nothing was changed: {idle}."] if idle else []),
        *([] if any(row.run.method == "none" for row in table.rows) else [BARELESS]),
        f"{len(table.concepts)} {table.unit}s, {tested}; settings picked on {picked} select prompts{of}; {judge}.",
        *([] if table.silent else [INTERVALS.format(over=f"{table.unit}s", what="methods")]),
        *([NARROW.format(few=FEW, scope=table.scope)] if table.scope and not table.silent else []),
        f"c: median picked coefficient, in {unit}{alpha}. Engine {spec['backend']}, {spec['dtype']}.",
    ]
    if spoken := spoken_to(table.rows[0].run):
        lines.append(spoken)
    if thinking := unfinished(table):
        lines.append(thinking)
    if unread := unreadable(table):
        lines.append(unread)
    if table.detectable is not None:
        lines.append(
            f"Smallest difference to {table.reference} that this table would find in 4 of 5 repetitions "
            f"(widest row, uncorrected 5 % level): {table.detectable:.2f}."
        )
    made = Counter(json.dumps(row.run.data.get("calibration", {}), sort_keys=True) for row in table.rows)
    if spec["judge"] and len(made) > 1:
        counts = ", ".join(str(n) for n in sorted(made.values(), reverse=True))
        lines.append(
            f"{spec['judge']} was calibrated {len(made)} times on the same texts, as the runs were made on different "
            f"machines or days ({counts} methods); what rounding moved between them is in docs/judge.md."
        )
    if spec["judge"] and table.may_rank is None:
        lines.append(
            f"Nobody has held {spec['judge']} with these settings against readers: its order is not validated."
        )
    if _has_corrected(table):
        lines.append(
            "Corrected: overall less what the judge favours the method's surface by on answers that readers rated "
            "(prediction-powered), with both uncertainties."
        )
    if spec["judge"] and (other := second(table)):
        lines.append(f"Rated again by {other.judge}, an independent judge: what both allow to be claimed stands below.")
    elif spec["judge"]:
        lines.append(
            "One judge rated this table. Whether prompting beats steering is not claimed until an independent "
            "judge sees it too."
        )
    return lines


def spoken_to(run: Run) -> str:
    """How chats were said to the model, where not by its template as it is; "" where they were."""
    probe = run.data.get("probe", {})
    chat = probe.get("chat", {})
    told = [
        "it has no chat template: turns are lines" if "template" in chat else "",
        f"system messages stand {chat['system']}" if "system" in chat else "",
        f"the template's date is {chat['day']} on every day" if "day" in chat else "",
        f"the thought that its template opens is {chat['thought']}" if "thought" in chat else "",
        f"the template is given {', '.join(f'{k} = {v}' for k, v in chat.get('arguments', {}).items())}"
        if chat.get("arguments")
        else "",
        f"{probe['unread']} tensors of its files were not read" if probe.get("unread") else "",
    ]
    return f"The model: {'; '.join(filter(None, told))}." if any(told) else ""


def unfinished(table: Table) -> str:
    """How many answers were all thought; "" where none was."""
    counts = {row.name: row.run.data["counts"].get("unfinished", 0) for row in table.rows}
    if not any(counts.values()):
        return ""
    most = max(counts, key=counts.__getitem__)
    tokens = table.spec["protocol"]["sampling"]["max_new_tokens"]
    return (
        f"{sum(counts.values())} test answers spent all of their {tokens} tokens on a thought and are missing (most of "
        f"{most}: {counts[most]}): -p protocol.sampling.max_new_tokens=… gives them more, and -p "
        "chat.enable_thinking=false takes the thought away where the template can."
    )


def unreadable(table: Table) -> str:
    """How many answers are in a language that the judge does not read, and whose; "" where none is."""
    if table.spec["judge"].partition(":")[0] not in ALONE:
        return ""
    texts = {row.name: [sample["text"] for sample in row.run.data["samples"] if "text" in sample] for row in table.rows}
    found = {name: count for name, own in texts.items() if (count := answered(own))}
    if not found:
        return ""
    most = sorted(found, key=lambda name: -found[name])[:3]
    return (
        f"{sum(found.values())} of {sum(map(len, texts.values()))} answers read as another language than English, "
        f"which {table.spec['judge']} does not read: its ratings of those say little. Most are of "
        f"{', '.join(f'{name} ({found[name]})' for name in most)}."
    )


def extent(counts: Iterable[int]) -> str:
    """`6`, or `5 to 6`."""
    found = sorted(counts)
    return str(found[0]) if found[0] == found[-1] else f"{found[0]} to {found[-1]}"


HARDER = (
    "hard_auroc: of positives against hard negatives alone; f1_hard: F1 at the threshold of f1, hard negatives "
    "among the texts."
)
RARE = (
    "f1: the best over thresholds; f1_rare: the same where the concept shows in 1 % of texts, those of other concepts "
    "among them; hard_accuracy: mean accuracy on positives and on hard negatives, at the threshold that best parts "
    "positives from negatives."
)


def _detection(table: Table) -> list[str]:
    runs = [row.run.data for row in table.rows]
    texts = sum(c["test"]["n"] for c in runs[0]["concepts"].values())
    spec = table.spec
    return [
        f"{len(table.concepts)} concepts, {texts} labelled texts; AUROC of positives against negatives. 0.5 is chance.",
        *([HARDER] if "hard_auroc" in table.axes else []),
        *([RARE] if "f1_rare" in table.axes else []),
        *([] if table.silent else [INTERVALS.format(over="concepts", what="detectors")]),
        f"Each detector was fitted on at most {spec['protocol']['budget']['sequences']} training texts per concept, "
        f"none of them evaluated. Engine {spec['backend']}, {spec['dtype']}.",
    ]


def contrasts(table: Table) -> list[Section]:
    """Differences to the controls on the first axis."""
    if table.kind == "detector" or not table.contrasts or not any(table.contrasts.values()):
        return []
    controls = list(next(iter(table.contrasts.values())))
    rows = []
    for row in table.rows:
        if found := table.contrasts.get(row.name):
            rows.append((row.name, *(f"{interval(found[c])}, p {pvalue(found[c].p)}" for c in controls)))
    columns = ("method", *(f"{table.axes[0]}: Δ to {c}" for c in controls))
    return [Section("Against the controls, paired (p uncorrected):", (Grid(columns, tuple(rows)),))]


@dataclass(frozen=True)
class Depth:
    """A method read and steered at a late block against the middle, paired, on the select split."""

    name: str
    late: int
    """Three blocks before the end, or the nearest tried: what the last blocks suppress should still be there."""
    middle: int
    """What most papers take."""
    gain: Difference
    """Overall, late minus middle."""
    best: int


def depth(table: Table, row: Row) -> Depth | None:
    """Where a method is best read, if it was run at several blocks."""
    curve = row.run.depths("overall")
    if len(curve) < 2:
        return None
    count = max(curve) + min(curve)  # of the blocks, to within one: candidates lie evenly over them
    late, middle = (sorted(curve, key=lambda k: abs(k - at))[0] for at in (count - 3, count / 2))
    names = [n for n in table.concepts if n in curve[late] and n in curve[middle]]
    if late == middle or not names:
        return None
    found = paired([curve[late][n] for n in names], [curve[middle][n] for n in names])
    best = max(curve, key=lambda k: sum(curve[k].values()) / len(curve[k]))
    return Depth(row.name, late, middle, found, best)


def depths(table: Table) -> list[str]:
    """What a table's notes say of blocks."""
    return [
        f"{one.name} read and steered at block {one.late} instead of {one.middle}: overall "
        f"{interval(one.gain)}, p {pvalue(one.gain.p)}; best block {one.best}."
        for row in table.rows
        if (one := depth(table, row))
    ]


def grid(table: Table, rows: Sequence[Row]) -> Grid:
    """Rows of a leaderboard."""
    return Grid(tuple(headings(table)), tuple(tuple(cells(table, row)) for row in rows))


def provisional(to_come: int) -> str:
    """What a report says first while `to_come` methods of a run are not finished; "" at its end."""
    if not to_come:
        return ""
    count = "1 method is" if to_come == 1 else f"{to_come} methods are"
    return f"Provisional: {count} still to come, and ranks and intervals may change."


TOP = 10


def best(table: Table) -> list[Row]:
    """The rows to show where there is no room for all: the best, then the reference and the controls."""
    kept = [row for row in table.rows[TOP:] if row.name == table.reference or row.run.surface == "control"]
    return [*table.rows[:TOP], *kept]


def markdown(
    tables: Sequence[Table],
    images: Mapping[str, Sequence[tuple[str, str]]],
    below: Mapping[str, Sequence[Section]],
    top: Sequence[str],
    said: Mapping[str, tuple[str, str, str]],
) -> str:
    """The whole page, `top` first. `images` has (file, caption) by group, "" for those of all tables; `below` has
    further sections of a group, `said` its answer in a word, a sentence and numbers."""
    lines = ["# Leaderboard", "", "Generated by `bench report` from `results/`; do not edit.", "", *top]
    for table in tables:
        word, *words = said[table.group]
        lines += [f"## {cell(table.title)}", "", f"**{cell(word)}.** {cell(' '.join(filter(None, words)))}", ""]
        lines += grid_lines(grid(table, table.rows))
        lines += ["", *(f"- {cell(note)}" for note in (*notes(table), *depths(table))), ""]
        for image, caption in images.get(table.group, ()):
            lines += [f"![{cell(caption)}]({image})", ""]
        for section in (*contrasts(table), *below.get(table.group, ())):
            lines += [*section_lines(section), ""]
    if images.get(""):
        lines += ["## All tasks", ""]
        for image, caption in images[""]:
            lines += [f"![{cell(caption)}]({image})", ""]
    return "\n".join(lines)


def csv_of(tables: Sequence[Table]) -> str:
    return csv_text([row for table in tables for row in records(table)])


def json_of(
    tables: Sequence[Table], below: Mapping[str, Sequence[Section]], figures: Sequence[str], to_come: int = 0
) -> str:
    """The leaderboards for programs: each table with its spec, rows, notes and what stands below; files of figures;
    and of a provisional report how many methods are to come."""
    made = [
        {
            "title": table.title,
            "group": table.group,
            "spec": table.spec,
            "axes": table.axes,
            "scale": table.scale,
            "units": list(table.concepts),
            "unit": table.unit,
            "reference": table.reference,
            "silent": table.silent,
            "detectable": None if table.detectable is None else finite(table.detectable),
            "rows": records(table),
            "notes": notes(table),
            "sections": as_json(below.get(table.group, ())),
        }
        for table in tables
    ]
    whole = {"version": 1, "tables": made, "figures": list(figures)} | ({"to_come": to_come} if to_come else {})
    return json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
