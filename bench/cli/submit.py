"""`bench submit`: runs held to the rules of the results, and the files of a pull request.

Invariant: nothing is written unless every rule is kept; what is written is a copy, laid out as the
repository wants it, that names what its user asked for without where it lies.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import results
from bench.core import registry
from bench.core.content import BenchError, UsageError
from bench.core.escape import cell, head, row
from bench.core.store import write_json
from bench.results import audit, second_judge
from bench.results.audit import Finding
from bench.results.runs import Run
from bench.results.tables import tables

TEXT = "PULL_REQUEST.md"


@dataclass(frozen=True)
class Submission:
    """What stands in the way of a pull request, or else its files below the folder they were written to."""

    findings: tuple[Finding, ...]
    files: tuple[str, ...] = ()
    text: str = TEXT


def prepare(runs: Sequence[Run], out: Path, base: Path) -> Submission:
    """Check `runs` beside the results at `base`, and write their files and a text to `out`."""
    runs = [Run(path, results.published(run.data)) for path, run in {run.path: run for run in runs}.items()]
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty: give another folder with --out")
    known = [run for run in results.load(base) if run.data["id"] not in {own.data["id"] for own in runs}]
    findings = [found for run in runs for found in _alone(run)]
    groups = {run.data["group"] for run in runs}
    beside = [run for run in known if run.data["group"] in groups]
    findings += audit.together([*runs, *beside], base)
    if findings:
        return Submission(tuple(dict.fromkeys(findings)))
    files = [file for run in runs for file in _copied(run, out)]
    (out / TEXT).write_text(text(runs, beside, files), "utf-8")
    return Submission((), tuple(files))


def _alone(run: Run) -> list[Finding]:
    """What is wrong with one run, its second opinion included."""
    root = run.path.parents[3]
    try:
        found = audit.of_run(run, root, audit.graveyard(root))
        return [*found, *([Finding(_place(run), lacking)] if (lacking := _unheard(run)) else [])]
    except BenchError as error:
        return [Finding(_place(run), str(error))]


def _unheard(run: Run) -> str:
    """What a judged run lacks of a second opinion; empty where it has one, or needs none."""
    judge = str(run.data["spec"]["judge"]).partition(":")[0]
    if not judge or getattr(registry.table("judge").get(judge), "independent", False):
        return ""
    if any(opinion.independent for opinion in second_judge.of(run)):
        return ""
    return f"no independent judge has rated it: bench judge {run.data['id']} --judge embedding"


def _place(run: Run) -> str:
    return run.path.relative_to(run.path.parents[3]).as_posix()


def _copied(run: Run, out: Path) -> list[str]:
    """Copies of a run's files under `results/`, by their paths below `out`."""
    made = []
    for path in sorted(p for p in run.path.parent.iterdir() if p.is_file() and not p.name.startswith(".")):
        file = Path("results") / path.relative_to(run.path.parents[3])
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        if path == run.path:
            write_json(out / file, run.data)
        else:
            shutil.copyfile(path, out / file)
        made.append(file.as_posix())
    return made


def text(runs: Sequence[Run], beside: Sequence[Run], files: Sequence[str]) -> str:
    """The pull request's text: what was run, how it did in its table, how to run it again, what was checked."""
    names = ", ".join(dict.fromkeys(run.method for run in runs))
    own = {run.data["id"] for run in runs}
    lines = [f"# Results: {cell(names)}", ""]
    for table in tables([*runs, *beside]):
        lines += head("rank", "method", "task", "model", "overall", f"Δ to {table.reference}")
        from bench.report.text.leaderboard import interval

        for one in (r for r in table.rows if r.run.data["id"] in own):
            change = interval(one.against) if one.against else "reference"
            cells = (str(one.rank or "–"), one.name, table.spec["task"], table.spec["model"])
            lines.append(row((*map(cell, cells), interval(one.estimates["overall"]), change)))
        lines.append("")
    lines += ["To run it again, from the commit named in each file:", "", "```bash"]
    lines += [f"bench run --config '{file}'" for file in files if file.endswith("/run.json")]
    lines += ["```", "", "Checked by `bench submit`:", ""]
    lines += [
        "- complete, unlimited, of a preset that results accept, from a clean tree",
        "- folder, id and group follow from the specification; scores follow from the samples",
        "- no path of a machine in any file",
        "- the table has its controls, and each judged run an independent second opinion",
        "",
        "Files, to be added as they lie (then `bench report` and `bench docs`):",
        "",
        *(f"- `{file}`" for file in files),
        "",
    ]
    return "\n".join(lines)
