"""`bench compare --html`: two runs side by side on one page that needs nothing but itself.

Invariant: the page holds no script and may load nothing; whatever a model or a data set wrote is text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from bench.report.text.leaderboard import interval, percent, pvalue
from bench.results.comparison import Axis, disagreements
from bench.results.runs import Run

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:78rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b;background:#fff}
table{border-collapse:collapse;width:100%;margin:1rem 0}th,td{border-bottom:1px solid #ddd;padding:.3rem .6rem;
text-align:left;vertical-align:top}th{font-weight:600}td.n{font-variant-numeric:tabular-nums;white-space:nowrap}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:1rem}.pair>div{border-left:4px solid #0072b2;padding-left:.7rem}
.pair>div+div{border-left:4px dashed #d55e00}p.said{white-space:pre-wrap;overflow-wrap:anywhere;margin:.2rem 0}
summary{cursor:pointer;padding:.35rem 0}small{color:#555}
@media(max-width:45rem){.pair{grid-template-columns:1fr}}
@media(prefers-color-scheme:dark){body{background:#161616;color:#e8e8e8}th,td{border-color:#444}small{color:#aaa}}
"""
MOST = 500
"""So many pairs of answers stand on a page; the rest is in the runs."""


def text(value: Any) -> str:
    """`value` as text of a page, without characters that turn reading around."""
    return escape(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\u202a-\u202e\u2066-\u2069]", "\ufffd", str(value)))


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = ["".join(f"<td{' class=n' if i else ''}>{text(c)}</td>" for i, c in enumerate(cells)) for cells in rows]
    top = "".join(f"<th>{text(name)}</th>" for name in head)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(f'<tr>{line}</tr>' for line in lines)}</tbody></table>"


def page(one: Run, two: Run, axes: Mapping[str, Axis]) -> str:
    """The whole page: differences by axis, by concept, and the answers that differ most."""
    spec, names = one.data["spec"], (one.method, two.method)
    title = f"{names[0]} minus {names[1]}"
    about = f"{spec['task']}, {spec['model']} ({spec['dtype']}), preset {spec['protocol']['preset']}"
    by_axis = [
        (
            axis,
            interval(a.difference),
            pvalue(a.difference.p),
            str(a.difference.n),
            *(percent(won) for won in a.wins.values()),
            interval(a.length.equal, signed=True) if a.length else "–",
        )
        for axis, a in axes.items()
    ]
    head = ("axis", "difference", "p", "units", "generations won", "units won", "at equal length")
    pairs = disagreements(one, two)
    shown = f"the first {MOST} of {len(pairs)}" if len(pairs) > MOST else f"all {len(pairs)}"
    parts = [
        f"<h1>{text(title)}</h1><p>{text(about)}; judge {text(spec['judge'] or 'none')}; "
        f"runs {text(one.path.parent.name)} and {text(two.path.parent.name)}</p>",
        _table(head, by_axis),
        f"<h2>By {'concept' if set(one.scores('overall')) <= set(one.data['concepts']) else 'question'}, overall</h2>",
        _table(("", *names, "difference"), _units(one, two)),
        f"<h2>Answers, largest difference first ({shown})</h2>",
        *(_pair(names, a, b) for a, b in pairs[:MOST]),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width"><title>{text(title)}</title><style>{STYLE}</style></head>'
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _units(one: Run, two: Run) -> list[tuple[str, ...]]:
    """A line a unit, largest gain first."""
    a, b = one.scores("overall"), two.scores("overall")
    both = [(name, x, y) for name in a if (x := a[name]) is not None and (y := b.get(name)) is not None]
    both.sort(key=lambda row: (row[2] - row[1], row[0]))
    return [(name, f"{x:.2f}", f"{y:.2f}", f"{x - y:+.2f}") for name, x, y in both[:MOST]]


def _pair(names: tuple[str, str], one: Mapping[str, Any], two: Mapping[str, Any]) -> str:
    asked = one.get("instruction") or one["id"]
    scores = " against ".join(_number(s["ratings"].get("overall")) for s in (one, two))
    sides = "".join(f"<div><b>{text(name)}</b>{_side(s)}</div>" for name, s in zip(names, (one, two), strict=True))
    return (
        f"<details><summary>{text(one['concept'])}: {text(asked)} <small>{scores}</small></summary>"
        f'<div class="pair">{sides}</div></details>'
    )


def _side(sample: Mapping[str, Any]) -> str:
    ratings = ", ".join(f"{axis} {_number(v)}" for axis, v in sample["ratings"].items())
    reasons = [f"{axis}: {why}" for axis, why in (*sample["reasons"].items(), *sample.get("said", {}).items())]
    answer = sample.get("text", sample.get("label", ""))
    said = f"<p class=said>{text(answer)}</p><small>{text(ratings)}</small>"
    return said + "".join(f"<br><small>{text(line)}</small>" for line in reasons)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"
