"""`python -m benchmarks.results`: the figures of this folder as one table, `results.md`. `--run` makes them first.

`--run` takes those that end within minutes, one after the other, each in a process of its own; `--whole` also the
default run, and what needs vLLM. Figures are ratios from one process, or seconds of a thread's own time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.core.escape import head, row
from bench.core.store import write_whole

HERE = Path(__file__).parent
PAGE = HERE / "results.md"
INTRODUCTION = """# Measured

`make bench` makes these figures anew on this machine, and this page from them. A ratio is of two ways in one process,
taken in turns; a spread is of their repeats. Speeds of other machines differ, ratios less so.
"""
Found = dict[str, Any]


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def _neighbour(found: Found) -> list[tuple[str, str]]:
    kept = found["quiet_speed_kept_beside_a_neighbour"]
    return [
        ("speed kept beside a program that keeps one core busy: torch's own threads", f"{kept['torch']:.2f}"),
        ("the same, threads as `bench` has them", f"{kept['bench']:.2f}"),
        ("speed on a quiet machine, over torch's own threads", f"{found['quiet_over_torch']['bench']:.2f}"),
    ]


def _writing(found: Found) -> list[tuple[str, str]]:
    before = found["commits"]["before"][:7]
    return [
        (f"`hf`, {part}: tokens a second over those at {before}", "{:.2f} ({:.2f}–{:.2f})".format(*one["ratio"]))
        for part, one in found["parts"].items()
    ]


def _products(found: Found) -> list[tuple[str, str]]:
    lines = []
    for dtype in ("bfloat16", "float32"):
        for rows, each in found[dtype].items():
            for what, one in each.items():
                said = (
                    f"{one['now_over_before']:.2f}; {one['share_of_limit']:.0%} of the limit of its products "
                    f"({one['share_before']:.0%} before)"
                )
                lines.append((f"`hf`, {what} {rows} rows in {dtype}, over torch's own products", said))
    one = found["sharing"]
    said = f"{one['once_over_whole']:.2f} ({one['spread'][0]:.2f}–{one['spread'][1]:.2f})"
    what = f"`hf`, {one['requests']} answers to {one['prompts']} prompts, read once below the edit, over read each time"
    lines.append((what, said))
    for what, one in found["rating"].items():
        if isinstance(one, dict):
            low, high = one["spread"]
            said = f"{one['share_of_plain']:.2f} ({low:.2f}–{high:.2f}); {one['seconds']} s"
            lines.append((f"rating, {what}: tokens read a second, over plain reading", said))
    return lines


def _scoring(found: Found) -> list[tuple[str, str]]:
    return [
        (f"{what}: reading what is shared once, over reading it each time",
         f"{one['shared_over_full']:.2f} ({one['spread'][0]:.2f}–{one['spread'][1]:.2f})")
        for what, one in found.items() if isinstance(one, dict) and "shared_over_full" in one
    ]  # fmt: skip


def _default_run(found: Found) -> list[tuple[str, str]]:
    stages = ", ".join(f"{stage} {minutes:g}" for stage, minutes in found["minutes"].items())
    lines = [("default run, minutes", f"{found['total_minutes']:g} for {found['methods']} methods ({stages})")]
    if first := found.get("first_table"):
        lines.append(("the same, minutes to its first table", f"{first['minutes']:g}"))
    return lines


def _engines(found: Found) -> list[tuple[str, str]]:
    wanted = ("vllm steered / unsteered", "hf steered / unsteered", "vllm steered, cold cache / loop steered")
    return [(name, f"{found['ratios'][name]:.2f}") for name in wanted if name in found["ratios"]]


def _costs(found: Found) -> list[tuple[str, str]]:
    wanted = {"all trained methods": found["total"]["ratio"]} | {
        name: found["methods"][name]["ratio"] for name in ("antipasto", "reps", "dpo") if name in found["methods"]
    }
    before = found["commits"]["before"][:7]
    return [(f"fitting {what}: CPU seconds over those at {before}", f"{ratio:.2f}") for what, ratio in wanted.items()]


def _kinds(found: Found) -> list[tuple[str, str]]:
    ways = [(f"{found['rows']} rows under {name}", one) for name, one in found["kinds"].items()]
    ways += [(f"{count} rows under as many vectors", one) for count, one in found["configurations"].items()]
    return [
        (f"`hf`, {what}: thread seconds a token, over bare rows", f"{one['over_bare']:.2f} ({low:.2f}–{high:.2f})")
        for what, one in ways
        for low, high in [one["spread"]]
    ]


def _cluster(found: Found) -> list[tuple[str, str]]:
    return [
        (f"two workers over one, {stage} of the {engine} engine, best turn", f"{each['wall_ratio']:.2f}")
        for engine in ("fake", "tiny")
        for stage, each in found[engine].items()
    ]


def _scale(found: Found) -> list[tuple[str, str]]:
    last = found["rows"][-1]
    size = f"{last['concepts']} concepts, {len(found['methods'])} methods, preset paper"
    resume, report = last["resume"], last["report"]
    return [
        (f"resume of {size}: CPU seconds for 100,000 answers; memory", f"{resume['per']:g}; {resume['mib']} MiB"),
        ("`bench report` of the same: CPU seconds; memory", f"{report['cpu_seconds']:g}; {report['mib']} MiB"),
    ]


LINES: dict[str, Callable[[Found], list[tuple[str, str]]]] = {
    "neighbour": _neighbour,
    "writing": _writing,
    "products": _products,
    "scoring": _scoring,
    "fitting": lambda found: [("fitting several methods together, over one alone", f"{found['all_to_one']:.2f}")],
    "training": lambda found: [("training concepts apart, over together", f"{found['apart_to_together']:.2f}")],
    "fitting-costs": _costs,
    "scale": _scale,
    "kinds": _kinds,
    "cluster": _cluster,
    "judging": lambda found: [("share of a hosted judge's slots in use", f"{found['busy']:.2f}")],
    "default_run": _default_run,
    "engines": _engines,
}
"""What each file's figures come to: (what, figure)."""
QUICK = ("neighbour", "products", "scoring", "kinds", "fitting", "training", "judging")
WHOLE = (*QUICK, "default_run", "engines")


def page() -> str:
    """The figures as Markdown, with the machine that each was made on."""
    lines = [INTRODUCTION, *head("what", "figure", "made by", "on")]
    for name, told in LINES.items():
        file = HERE / f"{name}.json"
        if not file.is_file():
            continue
        found: Found = json.loads(file.read_text("utf-8"))
        origin = found.get("provenance", found)
        machine, versions = origin.get("hardware", {}), origin.get("versions", {})
        torch = versions.get("torch", "?")
        place = f"{machine.get('processor', '?')}, {machine.get('cores', '?')} cores, torch {torch}"
        lines += [
            row([what, figure, f"`benchmarks/{name.partition('-')[0]}.py`", place]) for what, figure in told(found)
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true", help="make the figures first; half an hour on two cores")
    parser.add_argument("--whole", action="store_true", help="also those that take hours, or vLLM")
    given = parser.parse_args()
    for name in WHOLE if given.whole else QUICK if given.run else ():
        print(f"{name} …", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True, cwd=HERE.parent, stdout=sys.stderr)
    write_whole(PAGE, page().encode())
    print(PAGE)


if __name__ == "__main__":
    main()
