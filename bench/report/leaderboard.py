"""Leaderboards as text: Markdown for readers, CSV for programs, rows for a terminal.

Invariant: no number without its interval; what one judge alone cannot settle is said beside the table.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence

from bench.results import Row, Table
from bench.stats import Difference, Estimate, paired


def headings(table: Table) -> list[str]:
    return [
        "rank",
        "method",
        "family",
        "overall",
        *table.axes[:-1],
        f"Δ to {table.reference or 'prompt'}",
        "p (Holm)",
        *(["c"] if table.spec["judge"] else []),
        "missing",
    ]


def cells(table: Table, row: Row) -> list[str]:
    """One row of a leaderboard as text, in the order of `headings`."""
    digits = 2 if table.scale > 1 else 3
    return [
        str(row.rank) if row.rank else "unvalidated",
        row.name,
        row.run.family + (", suppresses only" if row.run.data.get("suppresses") else ""),
        *(interval(row.estimates[axis], digits) for axis in ("overall", *table.axes[:-1])),
        interval(row.against, digits) if row.against else "reference" if row.name == table.reference else "–",
        pvalue(row.p),
        *([f"{row.coefficient:g}" if row.coefficient is not None else "–"] if table.spec["judge"] else []),
        str(row.missing),
    ]


def interval(e: Estimate | Difference, digits: int = 2, signed: bool = False) -> str:
    form = f"{'+' if signed or isinstance(e, Difference) else ''}.{digits}f"
    if not math.isfinite(e.low):
        return f"{e.mean:{form}}"
    return f"{e.mean:{form}} [{e.low:{form}}, {e.high:{form}}]"


def percent(e: Estimate) -> str:
    """A share with its interval, in percent."""
    return f"{e.mean:.0%}" + (f" [{100 * e.low:.0f}, {100 * e.high:.0f}]" if math.isfinite(e.low) else "")


def pvalue(p: float | None) -> str:
    if p is None or math.isnan(p):
        return "–"
    return "<.001" if p < 0.001 else f"{p:.3f}".lstrip("0") if p < 1 else "1"


def title(table: Table) -> str:
    spec = table.spec
    given = spec["task_params"]
    data = ", ".join([given.get("data", "mini"), *(f"{k} {v}" for k, v in sorted(given.items()) if k != "data")])
    return f"{spec['task']} ({data}) · {spec['model']} · preset {spec['protocol']['preset']}"


def notes(table: Table) -> list[str]:
    """What a reader must know to read the table."""
    spec, rules = table.spec, table.spec["protocol"]
    if not spec["judge"]:
        return _detection(table) if "auroc" in table.axes else _options(table)
    unit = {"norm": "median residual norms", "max-act": "largest detection scores"}[rules["strength"]]
    lines = [
        f"{len(table.concepts)} concepts, each with {rules['test']} test prompts; settings picked on {rules['select']} "
        f"select prompts; judge {spec['judge']}, ratings 0 to 2; overall is the harmonic mean, 0 where an axis is 0.",
        "Intervals: 95 % bootstrap-t over concepts. Methods that simultaneous sign-flip tests of all pairs "
        "cannot tell apart (max-t, family-wise 5 %) share a rank.",
        f"c: median picked coefficient, in {unit}. Engine {spec['backend']}, {spec['dtype']}.",
    ]
    if table.detectable is not None:
        lines.append(
            f"Smallest difference to {table.reference} that this table would find in 4 of 5 repetitions "
            f"(widest row, uncorrected 5 % level): {table.detectable:.2f}."
        )
    lines.append(
        "One judge rated this table. Whether prompting beats steering is not claimed until an independent "
        "judge agrees in sign."
    )
    return lines


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
        f"{len(table.concepts)} concepts, {texts} labelled texts; AUROC of positives against negatives, and "
        "(auroc_hard) against negatives and hard negatives together. 0.5 is chance.",
        *([RARE] if "f1_rare" in table.axes else []),
        "Intervals: 95 % bootstrap-t over concepts. Detectors that simultaneous sign-flip tests of all pairs "
        "cannot tell apart (max-t, family-wise 5 %) share a rank.",
        f"Each detector was fitted on at most {spec['protocol']['budget']['sequences']} training texts per concept, "
        f"none of them evaluated. Engine {spec['backend']}, {spec['dtype']}.",
    ]


def _options(table: Table) -> list[str]:
    spec, runs = table.spec, [row.run.data for row in table.rows]
    tested = sum(c["test"]["n"] for c in runs[0]["concepts"].values())
    return [
        f"{tested} multiple-choice questions, {len(table.concepts)} units that intervals resample; each option is "
        "scored as the model's continuation, and settings are picked on other questions.",
        "Intervals: 95 % bootstrap-t. Methods that simultaneous sign-flip tests of all pairs cannot tell apart (max-t, "
        "family-wise 5 %) share a rank.",
        f"Each method was fitted on at most {spec['protocol']['budget']['sequences'] // 2} training questions of each "
        f"concept or fold. Engine {spec['backend']}, {spec['dtype']}.",
    ]


def contrasts(table: Table) -> list[str]:
    """Differences to the controls on the first axis, as Markdown rows."""
    if not table.spec["judge"] or not table.contrasts or not any(table.contrasts.values()):
        return []
    controls = list(next(iter(table.contrasts.values())))
    lines = [
        f"| method | {' | '.join(f'{table.axes[0]}: Δ to {c}' for c in controls)} |",
        "|---|" + "---|" * len(controls),
    ]
    for row in table.rows:
        if found := table.contrasts.get(row.name):
            texts = [f"{interval(found[c])}, p {pvalue(found[c].p)}" for c in controls]
            lines.append(f"| {row.name} | {' | '.join(texts)} |")
    return lines


def depths(table: Table) -> list[str]:
    """Where a method is best read: a late layer against the middle, paired by concept, on the select split.

    Late is three blocks before the end, where what the last blocks suppress should still be there; the
    middle is what most papers take.
    """
    lines = []
    for row in table.rows:
        curve = row.run.depths("overall")
        if len(curve) < 2:
            continue
        last = max(curve) + min(curve) + 1  # candidates lie evenly over the blocks
        late, middle = (sorted(curve, key=lambda k: abs(k - at))[0] for at in (last - 3, last / 2))
        names = [n for n in table.concepts if n in curve[late] and n in curve[middle]]
        if late == middle or not names:
            continue
        found = paired([curve[late][n] for n in names], [curve[middle][n] for n in names])
        best = max(curve, key=lambda k: sum(curve[k].values()) / len(curve[k]))
        lines.append(
            f"{row.name} read and steered at block {late} instead of {middle} (of {last}): overall "
            f"{interval(found)}, p {pvalue(found.p)}; best block {best}."
        )
    return lines


def markdown(
    tables: Sequence[Table],
    images: Mapping[str, Sequence[str]],
    below: Mapping[str, Sequence[tuple[str, Sequence[str]]]],
) -> str:
    """The whole leaderboard page; `below` has further sections of a group, each a heading and its rows."""
    lines = ["# Leaderboard", "", "Generated by `bench report` from `results/`; do not edit.", ""]
    for table in tables:
        head = headings(table)
        lines += [f"## {title(table)}", "", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
        lines += [f"| {' | '.join(cells(table, row))} |" for row in table.rows]
        lines += ["", *(f"- {note}" for note in (*notes(table), *depths(table))), ""]
        if rows := contrasts(table):
            lines += ["Against the controls, paired by concept (p uncorrected):", "", *rows, ""]
        for heading, below_rows in below.get(table.group, ()):
            lines += [heading, "", *below_rows, ""]
        for image in images.get(table.group, ()):
            lines += [f"![{image.removesuffix('.png').rsplit('-', 1)[1]}]({image})", ""]
    return "\n".join(lines)


def csv_text(tables: Sequence[Table]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = ["task", "data", "model", "preset", "judge", "backend", "dtype", "group", "method", "family", "id", "rank"]
    head += ["axis", "mean", "low", "high", "concepts", "delta", "delta_low", "delta_high", "p", "p_holm", "reference"]
    head += ["coefficient", "generations", "tokens", "missing"]
    writer.writerow(head)
    for table in tables:
        spec = table.spec
        key = [spec["task"], spec["task_params"].get("data", "mini"), spec["model"], spec["protocol"]["preset"]]
        key += [spec["judge"], spec["backend"], spec["dtype"], table.group]
        for row in table.rows:
            for axis in ("overall", *table.axes[:-1]):
                e, d = row.estimates[axis], row.against if axis == "overall" else None
                own = [row.name, row.run.family, row.run.data["id"], row.rank or ""]
                numbers = [axis, *map(_number, (e.mean, e.low, e.high)), e.n]
                change = [*map(_number, (d.mean, d.low, d.high, d.p)), _number(row.p)] if d else [""] * 5
                counts = row.run.data["counts"]
                costs = [
                    row.coefficient if row.coefficient is not None else "",
                    counts["generations"],
                    counts["tokens"],
                    row.missing,
                ]
                writer.writerow([*key, *own, *numbers, *change, table.reference or "", *costs])
    return out.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.4f}"
