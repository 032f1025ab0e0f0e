"""What is generated in the documentation: docs/methods.md, docs/cli.md, blocks of other pages and the picture of the
README (`bench docs`).

Invariant: each is a function of the code and the committed results, so that a test can say when one is stale.
"""

from __future__ import annotations

import inspect
import json
import re
import runpy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from bench import results
from bench.backends.models import DEFAULT
from bench.core import registry
from bench.core.errors import BenchError
from bench.core.escape import cell, head, row
from bench.core.store import write_whole
from bench.core.surfaces import SURFACES
from bench.measure import rejudge
from bench.report.catalogue import fields, marks, paragraphs
from bench.report.figures import drawing, verdicts
from bench.report.text import leaderboard
from bench.results import second_judge
from bench.results.differences import difference
from bench.results.tables import Table, tables

paper = runpy.run_path(str(Path(__file__).with_name("paper.py")))
"""The numbers of docs/results.md: a script beside this one, as neither is of a package."""
COMMAND = "bench docs"
PARITY = Path(__file__).resolve().parents[1] / "tests" / "parity"
PICTURE = "docs/images/verdicts"
"""The README's picture, without the endings of its files."""
KNOWN = (
    "prompt",
    "prompt-fewshot",
    "prompt-search",
    "diffmean",
    "caa",
    "sae",
    "lora",
    "loreft",
    "reps",
    "none",
    "random",
)
"""Names that most readers look for."""
COLUMNS = ("method", "surface", "paper", "needs", "views", "gives", "fields")
AWAY = {"axbench-suppress": "suppression", "axbench-attack": "attack, mean of five and of none"}
"""Tasks that want a concept gone, with what docs/reproduction.md calls them."""


def renew(root: Path, program: click.Group) -> list[Path]:
    """Write every generated document of the checkout at `root`, the help of `program` among them; returns the files."""
    docs = root / "docs"
    shown = tables(results.load(root / "results"))
    archived = tables(results.load(root / "results" / results.ARCHIVE))
    found = {
        root / "README.md": blocks(shown),
        docs / "training.md": {"crossing": crossing(root), "synergy": synergy(root)},
        docs / "data.md": {"views": made_views(root)},
        docs / "engines.md": {"architectures": architectures(root)},
        docs / "reproduction.md": {
            "depths": depths(archived),
            "suppression": suppression([*shown, *archived]),
            "published": paper["published"](shown, archived),
        },
        docs / "results.md": paper["blocks"](shown),
        docs / "judge.md": {
            "calibration": calibration(archived),
            "agreement": agreement(shown),
            "samples": samples(root / "results"),
        },
    }
    texts = {docs / "methods.md": methods(), docs / "cli.md": commands(program)}
    texts |= {path: filled(path.read_text("utf-8"), own) for path, own in found.items()}
    for path, text in texts.items():
        write_whole(path, text.encode())
    (root / PICTURE).parent.mkdir(exist_ok=True)
    return [*texts, *drawing.emit(picture(shown), root / PICTURE)]


def filled(text: str, found: Mapping[str, str]) -> str:
    """`text` with each block between `<!-- name: … -->` and `<!-- /name -->` replaced."""
    for name, block in found.items():
        mark = re.compile(rf"(<!-- {name}:[^>]*-->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if len(mark.findall(text)) != 1:
            raise BenchError(f"a document needs one block from <!-- {name}: … --> to <!-- /{name} -->")
        text = mark.sub(lambda at, block=block: f"{at[1]}{block}\n{at[2]}", text)  # type: ignore[misc]
    return text


def blocks(shown: Sequence[Table]) -> dict[str, str]:
    """The README's generated blocks by name."""
    image = f"![Steering minus prompt, task by task]({PICTURE}.png)"
    told = "\n\n".join(filter(None, [image, f"*{picture(shown).caption}*", paper["elsewhere"](shown)]))
    return {"verdicts": told, "methods": surfaces()}


def picture(shown: Sequence[Table]) -> drawing.Figure:
    """The README's picture of the verdicts."""
    figure = verdicts.verdicts(shown)
    assert figure is not None  # the checked results have prompts and steering
    return figure


def headline(shown: Sequence[Table]) -> Table:
    """Of concept steering, the table with most methods: documents that quote one table quote this one."""
    return max((t for t in shown if t.spec["task"] == "axbench"), key=lambda t: len(t.rows))


def surfaces() -> str:
    """Shipped methods by surface: how many, and a few of them with a link each."""
    shipped = [cls for cls in registry.table("method").values() if cls.__module__.startswith("methods.")]
    lines = head("surface", "what it is", "methods", "such as")
    for surface, what in SURFACES.items():
        names = sorted(cls.name for cls in shipped if cls.surface == surface)
        few = [name for name in KNOWN if name in names] or names[:3]
        some = ", ".join(f"[{name}](docs/methods.md#{name})" for name in few)
        if surface == "combination":
            some = ", ".join(f"`{name}`" for name in registry.combinations())
        lines.append(row((surface, what, str(len(names)) if names else "any `a+b`", some)))
    return "\n".join(lines)


def crossing(root: Path) -> str:
    """What each parametrisation learnt under each objective, from `benchmarks/crossing.json`."""
    record = json.loads((root / "benchmarks" / "crossing.json").read_text("utf-8"))
    found = {(one["parametrisation"], one["objective"]): one for one in record["rows"]}
    forms, goals = (list(dict.fromkeys(pair[i] for pair in found)) for i in (0, 1))
    made = record["settings"]
    lines = [f"Budget of `{made['preset']}`, {made['concepts']} concepts, {made['held']} unseen pairs of each.", ""]
    for c in made["at"]:
        lines += [f"At c = {c:g}:", "", *head("", *goals)]
        for form in forms:
            cells = [_learnt(found.get((form, goal)), f"{c:g}") for goal in goals]
            lines.append(row([form, *cells]))
        lines.append("")
    return "\n".join(lines[:-1])


def architectures(root: Path) -> str:
    """What runs of each family that was held to transformers alone, from `benchmarks/architectures.json`."""
    record = json.loads((root / "benchmarks" / "architectures.json").read_text("utf-8"))
    alike: dict[str, list[str]] = {}
    for one in record["rows"]:
        parts: dict[str, list[str]] = {}
        for part, line in one["refused"].items():
            # Each names its own class; the families are in the first column.
            said = re.sub(r"^\w+For\w+: |\b[A-Z]\w+(Block|Layer|Attention)\b ", "", line)
            parts.setdefault(said, []).append("everything" if part == "all" else part)
        said = "; ".join(f"{', '.join(names)}: {line}" for line, names in parts.items())
        said += "; wrong: the file says where" if one["wrong"] else ""
        alike.setdefault(said or "nothing", []).append(f"`{one['kind']}`")
    rows = sorted(alike.items(), key=lambda entry: (entry[0] != "nothing", -len(entry[1])))
    lines = [*head("families", "what is refused, and the line that says so")]
    lines += [row([", ".join(kinds), cell(said)]) for said, kinds in rows]
    worst = max(value for one in record["rows"] for value in one["apart"].values())
    made = f"{len(record['rows'])} families of transformers {record['transformers']}, largest difference {worst:.0e}:"
    return "\n".join([made, "", *lines])


def synergy(root: Path) -> str:
    """What two vectors do at once and one does on a tuned model, from `benchmarks/synergy.json`."""
    effects = json.loads((root / "benchmarks" / "synergy.json").read_text("utf-8"))["effects"]
    rows = [row([what, _ends(effect)]) for what, effect in effects.items()]
    return "\n".join([*head("", "Δ margin"), *rows])


def made_views(root: Path) -> str:
    """What made views cost against the data's own, from `benchmarks/derived_views.json`."""
    record = json.loads((root / "benchmarks" / "derived_views.json").read_text("utf-8"))
    lines = head("method", "made of", "cosine of the steerings", "score, own views", "made", "difference")
    for one in record["rows"]:
        near = "–" if one["cosine"] is None else _ends(one["cosine"])
        made = ", ".join(f"{view}: {how}" for view, how in one["views"].items())
        lines.append(
            row([one["method"], made, near, f"{one['own']:.2f}", f"{one['made']:.2f}", _ends(one["difference"])])
        )
    return "\n".join(lines)


def _ends(found: Sequence[float]) -> str:
    """A mean with the ends of its interval."""
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*found)


def calibration(shown: Sequence[Table]) -> str:
    """How well the judge of the headline table told its calibration texts apart, in the run of the prompt reference."""
    table = headline(shown)
    run = next(row.run for row in table.rows if row.name == table.reference)
    lines = head("axis", "where", "AUROC on its calibration texts")
    for place, scale in run.data["calibration"].items():
        lines.append(row((*map(cell, place.split("/", 1)), f"{scale['auroc']:.3f}")))
    return "\n".join(lines)


def agreement(shown: Sequence[Table]) -> str:
    """The two judges of the headline table side by side, on every answer that both have rated."""
    table = headline(shown)
    other = second_judge.second(table)
    assert other is not None  # the headline table has a second opinion
    said = [
        (row.run, next((o for o in second_judge.of(row.run) if o.judge == other.judge), None)) for row in table.rows
    ]
    runs = [run for run, opinion in said if opinion]
    found = rejudge.side_by_side(runs, runs, [opinion for _, opinion in said if opinion])
    lines = head("axis", "answers", "weighted κ", "Spearman ρ", "Krippendorff α", "prompts favoured")
    for axis, one in found["agreement"].items():
        texts = [_interval(one[name]) for name in ("kappa", "spearman", "alpha")]
        lines.append(row((axis, f"{one['n']:,}", *texts, _interval(found["prompt_bias"][axis], "+"))))
    return "\n".join([f"`{found['judges'][0]}` and `{other.judge}` on {len(runs)} methods:", "", *lines])


def samples(root: Path) -> str:
    """Each judge against each sample of answers that two readers rated."""
    lines = head("answers", "of", "judge", "composite: ρ (error)", "readers' own ρ", "broken: AUROC", "may rank")
    for path in sorted((root / "judges").glob("*.csv")):
        for file in sorted((root / "judges").glob(f"*-{path.stem}.json")):
            table = json.loads(file.read_text("utf-8"))
            e, own = table["human"]["overall"], table["readers"]["overall"]["spearman"]
            passed = [task for task, may in table["gate"]["tasks"].items() if may and task != "overall"]
            told = f"{e['spearman']:.2f} ({e['mae']:.2f})", f"{own:.2f}", f"{table['broken']['auroc']:.3f}"
            named = f"`{path.name}`, {e['n']}", ", ".join(table["models"]), f"`{table['judge']}`"
            lines.append(row((*named, *told, ", ".join(f"`{task}`" for task in passed) or "nothing")))
    return "\n".join(lines)


def _interval(one: Mapping[str, Any], sign: str = "") -> str:
    return f"{one['mean']:{sign}.2f} [{one['low']:{sign}.2f}, {one['high']:{sign}.2f}]"


def depths(shown: Sequence[Table]) -> str:
    """Methods that were run at several blocks: a late one against the middle, and choosing against the fixed one."""
    table = headline(shown)
    rows = {one.name: one for one in table.rows}
    lines = head("method", "late minus middle (select)", "p", "best block", "chosen minus fixed block (test)", "p")
    for one in table.rows:
        fixed = rows.get(one.run.method)
        if (found := leaderboard.depth(table, one)) and fixed:
            gain = difference(one.run, fixed.run, units=table.concepts)
            texts = [leaderboard.interval(found.gain), leaderboard.pvalue(found.gain.p), str(found.best)]
            lines.append(row((cell(fixed.name), *texts, leaderboard.interval(gain), leaderboard.pvalue(gain.p))))
    return "\n".join(lines)


def suppression(every: Sequence[Table]) -> str:
    """Keeping a concept out, and a rule out under attack: each method's score and its difference to the prompt."""
    known = [t for t in every if (t.spec["model"], t.spec["protocol"]["preset"]) == (DEFAULT, "standard")]
    shown = [
        max((t for t in known if t.spec["task"] == task), key=lambda t: len(t.rows), default=None) for task in AWAY
    ]
    lines = head("method", *(text for task in AWAY for text in (AWAY[task], "Δ to prompt")))
    by_name = [{one.name: one for one in table.rows} if table else {} for table in shown]
    for name in dict.fromkeys(name for rows in by_name for name in rows):
        cells = [cell(name)]
        for rows in by_name:
            one = rows.get(name)
            gap = leaderboard.interval(one.against) if one and one.against else "reference" if one else "–"
            cells += [f"{one.estimates['overall'].mean:.2f}" if one else "–", gap]
        lines.append(row(cells))
    return "\n".join(lines)


def _learnt(one: Mapping[str, Any] | None, c: str) -> str:
    """Gain and margin of a pair; the margin in bold where its interval lies above 0."""
    if one is None or "refused" in one:
        return "–"
    gain, (margin, low, _) = one["at"][c]["gain"][0], one["at"][c]["margin"]
    return f"{gain:+.2f}, " + (f"**{margin:+.2f}**" if low > 0 else f"{margin:+.2f}")


def commands(program: click.Group) -> str:
    """docs/cli.md: the help text of every command, as `--help` prints it at 100 columns."""
    lines = ["# Commands", "", f"What `--help` prints, of every command. Generated: `{COMMAND}`.", ""]
    for context in _walk(click.Context(program, info_name="bench", terminal_width=100, **program.context_settings)):
        lines += [f"## {context.command_path}", "", "```text", context.get_help().rstrip(), "```", ""]
    return "\n".join(lines)


def _walk(context: click.Context) -> Iterator[click.Context]:
    """The context of a command and of everything below it, by name."""
    yield context
    if isinstance(context.command, click.Group):
        for name in sorted(context.command.list_commands(context)):
            command = context.command.get_command(context, name)
            assert command is not None
            yield from _walk(click.Context(command, parent=context, info_name=name, terminal_width=100))


def methods() -> str:
    """The whole file: one table, then a section a method, by surface and name."""
    classes = [cls for cls in registry.table("method").values() if cls.__module__.startswith("methods.")]
    classes.sort(key=lambda cls: (cls.surface, cls.name))
    head = [
        "# Methods",
        f"Generated from the classes in `methods/`: `{COMMAND}`.",
        "*needs* is what an engine must be able to do, *views* the training data a method reads, *gives* what its "
        "fits hold. A field is set with `-p NAME.FIELD=VALUE`. Any `a+b` runs two methods at once.",
    ]
    rows = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}", *map(_row, classes)]
    sections = [
        part for surface in dict.fromkeys(cls.surface for cls in classes) for part in _surface(surface, classes)
    ]
    return "\n\n".join([*head, "\n".join(rows), *_parity(), *sections]) + "\n"


def _parity() -> list[str]:
    """What each method was held to: the numbers of its peer's own code, as `tests/parity` keeps them."""
    found = [json.loads(path.read_text("utf-8")) for path in sorted((PARITY / "fixtures").glob("*.json"))]
    lines = head("method", "peer", "commit", "compared", "largest difference")
    for one in sorted(found, key=lambda one: ", ".join(one["methods"])):
        commit = "; ".join(part.strip()[:7] if "PyPI" not in part else part for part in one["commit"].split(";"))
        cells = (", ".join(one["methods"]), one["peer"], commit, _shown("", one["compared"]), one["difference"])
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    alone = json.loads((PARITY / "without_peer.json").read_text("utf-8"))
    reasons: dict[str, list[str]] = {}
    for name, why in alone.items():
        reasons.setdefault(why, []).append(name)
    said = "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())
    intro = (
        "Numbers that a peer's own code gave on tiny models and fixed texts, in fp32. `tests/parity` holds this code "
        "to them; a fixture says where in the peer they come from, and what had to be adapted to run it."
    )
    return ["## Held to their peers", intro, "\n".join(lines), f"Without a peer: {said}."]


def _row(cls: type[Any]) -> str:
    sets = [", ".join(sorted(values)) for values in (cls.needs, cls.views, cls.provides)]
    cells = (
        f"[{cls.name}](#{cls.name})",
        cls.surface,
        _paper(cls.paper),
        *sets,
        ", ".join(_set(*pair) for pair in fields(cls)),
    )
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _surface(surface: str, classes: list[type[Any]]) -> list[str]:
    return [f"## {surface.capitalize()}", *(_section(cls) for cls in classes if cls.surface == surface)]


def _section(cls: type[Any]) -> str:
    """Heading, summary, then each labelled paragraph of the docstring with its label set apart."""
    parts = [_shown(label, text) for label, text in paragraphs(inspect.getdoc(cls) or "")]
    contract = "; ".join(marks(cls))
    return "\n\n".join([f"### {cls.name}", *parts, *([_shown("Contract", f"{contract}.")] if contract else [])])


def _shown(label: str, text: str) -> str:
    """A paragraph as Markdown: outside of code, stars, brackets and loose underscores are what they are."""
    pieces = re.split(r"(`[^`]*`)", text)
    special = r"([*<\[\]]|(?<!\w)_|_(?!\w))"
    shown = "".join(p if p.startswith("`") else re.sub(special, r"\\\1", p) for p in pieces)
    return f"*{label}.* {shown}" if label else shown


def _set(name: str, default: str) -> str:
    return f"`{name} = {default}`" if default else f"`{name}`"


def _paper(paper: str) -> str:
    number = paper.removeprefix("arXiv:")
    return f"[{paper}](https://arxiv.org/abs/{number})" if paper.startswith("arXiv:") else paper
